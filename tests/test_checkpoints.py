"""Checkpoints: whole or not at all, kept as asked, damage named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ncpl_cli.errors import DataError, InputError, StoreError
from ncpl_cli.runs import checkpoints
from ncpl_cli.trainer import Position

TENSORS = {"network.w": torch.arange(6.0).reshape(2, 3).t(), "optimizer.step": torch.tensor(3)}


def _write(root: Path, *numbers: int) -> None:
    for epoch in numbers:
        checkpoints.write(root, "run", "{}", Position(epoch, 10 * epoch, 1, 2), TENSORS, "online")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    _write(tmp_path, 7)
    position, tensors = checkpoints.read(tmp_path, "run", 7)
    assert position == Position(7, 70, 1, 2)
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["epoch-00000007.safetensors"]


@pytest.mark.parametrize(
    ("keep", "left"), [("last", [9]), ("every:4", [4, 8, 9]), ("all", [1, 4, 5, 8, 9]), ("probes", [5, 9])]
)
def test_retention(tmp_path: Path, keep: str, left: list[int]) -> None:
    _write(tmp_path, 1, 4, 5, 8, 9)
    branches = [0, 5] if keep == "probes" else []
    checkpoints.prune(tmp_path, "run", checkpoints.wanted(keep, branches), 9)
    assert checkpoints.epochs(tmp_path, "run") == left


def test_what_lies_after_an_epoch_can_be_taken_back(tmp_path: Path) -> None:
    _write(tmp_path, 1, 4, 5)
    checkpoints.forget(tmp_path, "run", 4)
    assert checkpoints.epochs(tmp_path, "run") == [1, 4]


@pytest.mark.parametrize("keep", ["first", "every", "every:0", "every:x", "last:3"])
def test_an_unknown_retention_says_what_is_allowed(keep: str) -> None:
    with pytest.raises(InputError) as caught:
        checkpoints.keeper(keep)
    assert "every:K" in str(caught.value.hint)


@pytest.mark.parametrize("cut", [0, 5, 100])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, cut: int) -> None:
    _write(tmp_path, 3)
    path = checkpoints.path_of(tmp_path, "run", 3)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"epoch-00000003\.safetensors is damaged"):
        checkpoints.read(tmp_path, "run", 3)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        _write(tmp_path / "file", 1)
