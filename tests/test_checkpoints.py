"""Checkpoints: whole or not at all, kept as asked, damage named."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ncpl_cli import measurement, runs, sealed, settings
from ncpl_cli.data import load
from ncpl_cli.errors import DataError, InputError, StoreError
from ncpl_cli.records import Address, EpochRecord
from ncpl_cli.runs import checkpoints
from ncpl_cli.scenarios import scenario_named
from ncpl_cli.store import open_store
from ncpl_cli.trainer import Position

TENSORS = {"network.w": torch.arange(6.0).reshape(2, 3).t(), "optimizer.step": torch.tensor(3)}


def _write(root: Path, *numbers: int) -> None:
    for epoch in numbers:
        checkpoints.write(root, "44136fa355b3", "{}", Position(epoch, 10 * epoch, 1, 2), TENSORS, "online")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    _write(tmp_path, 7)
    position, tensors = checkpoints.read(tmp_path, "44136fa355b3", 7)
    assert position == Position(7, 70, 1, 2)
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert [path.name for path in (tmp_path / "44136fa355b3").iterdir()] == ["epoch-00000007.safetensors"]


@pytest.mark.parametrize(
    ("keep", "left"), [("last", [9]), ("every:4", [4, 8, 9]), ("all", [1, 4, 5, 8, 9]), ("probes", [5, 9])]
)
def test_retention(tmp_path: Path, keep: str, left: list[int]) -> None:
    _write(tmp_path, 1, 4, 5, 8, 9)
    branches = [0, 5] if keep == "probes" else []
    checkpoints.prune(tmp_path, "44136fa355b3", checkpoints.wanted(keep, branches), 9)
    assert checkpoints.epochs(tmp_path, "44136fa355b3") == left


def test_what_lies_after_an_epoch_can_be_taken_back(tmp_path: Path) -> None:
    _write(tmp_path, 1, 4, 5)
    checkpoints.forget(tmp_path, "44136fa355b3", 4)
    assert checkpoints.epochs(tmp_path, "44136fa355b3") == [1, 4]


@pytest.mark.parametrize("keep", ["first", "every", "every:0", "every:x", "last:3"])
def test_an_unknown_retention_says_what_is_allowed(keep: str) -> None:
    with pytest.raises(InputError) as caught:
        checkpoints.keeper(keep)
    assert "every:K" in str(caught.value.hint)


@pytest.mark.parametrize("cut", [0, 5, 100])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, cut: int) -> None:
    _write(tmp_path, 3)
    path = checkpoints.path_of(tmp_path, "44136fa355b3", 3)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"epoch-00000003\.safetensors is damaged"):
        checkpoints.read(tmp_path, "44136fa355b3", 3)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        _write(tmp_path / "file", 1)


RUN = "44136fa355b3"  # the id of the identity {}


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    """Every byte of the file, one bit of it at a time: the tensors' bits, the header's, the facts'."""
    _write(tmp_path, 3)
    path = checkpoints.path_of(tmp_path, RUN, 3)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        if whole[place : place + 1] == b" ":  # padding of the header says nothing
            continue
        with pytest.raises(DataError, match=r"is damaged|of another run"):
            checkpoints.read(tmp_path, RUN, 3)
        assert sealed.refusal(path) is not None


@pytest.mark.parametrize(
    ("of", "epoch", "words"), [("f" * 12, 3, "of another run"), (RUN, 5, r"damaged \(it is the state after epoch 3\)")]
)
def test_one_that_was_put_in_another_place_is_refused(tmp_path: Path, of: str, epoch: int, words: str) -> None:
    _write(tmp_path, 3)
    path = checkpoints.path_of(tmp_path, of, epoch)
    path.parent.mkdir(exist_ok=True)
    checkpoints.path_of(tmp_path, RUN, 3).rename(path)
    with pytest.raises(DataError, match=words):
        checkpoints.read(tmp_path, of, epoch)
    assert re.search(words, str(sealed.refusal(path)))


def test_one_of_before_digests_is_read_and_its_place_checked(tmp_path: Path) -> None:
    facts = {"run": RUN, "identity": "{}", "position": asdict(Position(3, 30, 1, 2))}
    for epoch in (3, 4):
        path = checkpoints.path_of(tmp_path, RUN, epoch)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(save({"network.w": torch.ones(2)}, {"ncpl": json.dumps(facts)}))
    assert checkpoints.read(tmp_path, RUN, 3)[0] == Position(3, 30, 1, 2)
    with pytest.raises(DataError, match="after epoch 3"):
        checkpoints.read(tmp_path, RUN, 4)


@pytest.mark.parametrize("run", ["../elsewhere", "a/b", "..", "", "/etc"])
def test_an_id_that_leads_elsewhere_is_no_path(tmp_path: Path, run: str) -> None:
    for ask in (checkpoints.epochs, lambda root, of: checkpoints.path_of(root, of, 1)):
        with pytest.raises(StoreError, match="which no run can have"):
            ask(tmp_path, run)


def test_a_damaged_one_is_passed_over_by_all_who_read(tmp_path: Path) -> None:
    """Resume, measure and probe: each goes on from an earlier one, to the same bits, and says so."""
    options = {"warm_up_epochs": 4, "probe_every": 2, "probe_max_epochs": 1, "dataset": "digits", "train_samples": 100}
    options |= {"width": 8, "depth": 1, "metrics": ("nc1", "test_accuracy")}
    scenario = scenario_named("warm-start")
    dataset = settings.dataset_spec(scenario, options)
    data = load(dataset)
    specs = settings.specs(scenario, options, data, dataset, [0])
    told = Told()
    found = []
    for folder, harm in (("plain", False), ("harmed", True)):
        (tmp_path / folder).mkdir()
        with open_store(tmp_path / folder / "a.db") as store:
            runs.run(specs, store, data, device="cpu", observer=told, keep="all", probes=False)
            if harm:
                for epoch in (2, 4):  # what a probe and what a longer warm-up go on from
                    path = checkpoints.path_of(store.checkpoints, specs[0].id, epoch)
                    whole = bytearray(path.read_bytes())
                    whole[-1] ^= 1
                    path.write_bytes(whole)
                told.notes.clear()
                measured = measurement.of_run(
                    store, store.run(specs[0].id), data, 4, ("nc1",), "last", device="cpu", observer=told
                )
                assert measured.found.values[Address("nc1")] == store.values(specs[0].id, 4)[Address("nc1")]
                assert any("damaged" in note for note in told.notes), told.notes
            longer = [replace(spec, scenario=replace(spec.scenario, warm_up_epochs=6)) for spec in specs]
            runs.run(longer, store, data, device="cpu", observer=told, keep="all")
            rows = [(row.id, store.rows(row.id)) for row in store.runs()]
            found.append([(run, [r["test_accuracy"] for r in of], [r["nc1"] for r in of]) for run, of in sorted(rows)])
    assert found[0] == found[1] and len(found[0]) == 5


class Told:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def expect(self, runs: int, then: int = 0) -> None: ...

    def begin(self, run: str, seed: int, done: int, total: int, exact: bool) -> None: ...

    def epoch(self, run: str, record: EpochRecord) -> None: ...

    def end(self, run: str, status: str) -> None: ...
