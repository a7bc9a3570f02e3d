"""Features in files of every kind, in blocks: the same numbers as all at once, and what is refused."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from ncpl_cli import measurement
from ncpl_cli.commands import _rows
from ncpl_cli.data import feature_files
from ncpl_cli.main import call
from ncpl_cli.metrics import CollapseAccumulator, collapse
from ncpl_cli.metrics.features import measure_features
from tests.test_collapse import sample

Array = np.ndarray[Any, Any]


def relu(n: int = 700) -> tuple[Array, Array, Array, Array]:
    x, y, w, b = sample(n=n)
    order = np.argsort(y, kind="stable")  # class by class
    return np.maximum(x[order], 0).astype(np.float32), y[order], w, b


def npz(folder: Path, x: Array, y: Array, w: Array, b: Array) -> list[Path]:
    np.savez(folder / "f.npz", features=x, labels=y, weight=w, bias=b)
    return [folder / "f.npz"]


def compressed(folder: Path, x: Array, y: Array, w: Array, b: Array) -> list[Path]:
    np.savez_compressed(folder / "f.npz", features=x, labels=y, weight=w, bias=b)
    return [folder / "f.npz"]


def several(folder: Path, x: Array, y: Array, w: Array, b: Array) -> list[Path]:
    for i, part in enumerate(np.array_split(np.arange(len(x)), 3)):
        np.savez(folder / f"part-{i}.npz", features=x[part], labels=y[part], weight=w, bias=b)
    return sorted(folder.glob("part-*.npz"))


def arrays(folder: Path, x: Array, y: Array, w: Array, b: Array) -> list[Path]:
    for name, array in (("features", x), ("labels", y), ("weight", w), ("bias", b)):
        np.save(folder / f"{name}.npy", array)
    return [folder]


def shards(folder: Path, x: Array, y: Array, w: Array, b: Array) -> list[Path]:
    for i, part in enumerate(np.array_split(np.arange(len(x)), 3)):
        tensors = {"features": x[part], "labels": y[part]} | ({"weight": w, "bias": b} if i == 0 else {})
        save_file(
            {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}, folder / f"{i}.safetensors"
        )
    return [folder]


def parquet(folder: Path, x: Array, y: Array, w: Array, b: Array) -> list[Path]:
    for i, part in enumerate(np.array_split(np.arange(len(x)), 2)):
        table = pa.table({"features": list(x[part]), "labels": y[part]})
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=90)
    return [folder]


def columns(folder: Path, x: Array, y: Array, w: Array, b: Array) -> list[Path]:
    pq.write_table(pa.table({"label": y} | {f"f{j}": x[:, j] for j in range(x.shape[1])}), folder / "t.parquet")
    return [folder / "t.parquet"]


KINDS: list[Callable[..., list[Path]]] = [npz, compressed, several, arrays, shards, parquet, columns]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("whole", [True, False])
def test_every_kind_of_file_is_measured_as_the_arrays(
    kind: Callable[..., list[Path]], whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    x, y, w, b = relu()
    paths = kind(tmp_path, x, y, w, b)
    monkeypatch.setattr(feature_files, "ROWS", 64)
    if not whole:
        monkeypatch.setattr(measurement, "MOST_IN_MEMORY", 100)
    assert call(["measure", *map(str, paths), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["layers"]["last"]["train"]
    classifier = (None, None) if kind in (parquet, columns) else (w, b)
    right = measure_features(x, y, *classifier)
    unlike = set() if whole else {"null_nc1", *(n for n in found if n.startswith("few_shot"))}
    for address, value in right.values.items():
        if address.metric not in unlike:
            assert found[address.metric] == pytest.approx(value, rel=1e-8, abs=1e-10), address
    if whole:
        assert found["undefined"] == {a.metric: w for a, w in right.undefined.items()}
    else:
        assert "read in blocks" in err and "at once" in found["undefined"]["few_shot_error"]
        assert found["null_nc1"] == pytest.approx(collapse(x, y, metrics=("vci",)).context["null_nc1"], rel=1e-9)


def test_a_test_split_and_names_of_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y, _, _ = relu()
    far = y * 10**9 + 7
    np.savez(tmp_path / "f.npz", features=x, labels=far, test_features=x[::3] + 0.1, test_labels=far[::3])
    monkeypatch.setattr(feature_files, "ROWS", 100)
    monkeypatch.setattr(measurement, "MOST_IN_MEMORY", 100)
    assert call(["measure", str(tmp_path / "f.npz"), "--metrics", "nc1,ncc_error,nc1_test_weak", "--json"]) == 0
    test = json.loads(capsys.readouterr().out)["layers"]["last"]["test"]
    right = measure_features(x, y, None, None, x[::3] + 0.1, y[::3], metrics=("nc1", "ncc_error", "nc1_test_weak"))
    for address, value in right.values.items():
        if address.split == "test":
            assert test[address.metric] == pytest.approx(value, rel=1e-8), address


REFUSED: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "column by column": (lambda f: np.savez(f / "f.npz", features=np.ones((4, 9)).T, labels=np.ones(9, int)),
                         2, "ascontiguousarray"),
    "no labels beside": (lambda f: np.save(f / "features.npy", np.ones((4, 2))), 2, "no labels.npy beside"),
    "nothing": (lambda f: None, 2, "holds no features"),
    "two widths": (lambda f: [np.savez(f / f"{d}.npz", features=np.ones((1, d)), labels=[0]) for d in (2, 3)],
                   2, "different dimensions: 2"),
    "other lengths": (lambda f: np.savez(f / "a.npz", features=np.ones((4, 2)), labels=np.ones(3, int)),
                      2, "4 features and 3 labels"),
    "two classifiers": (lambda f: [np.savez(f / f"{i}.npz", features=np.ones((4, 2)), labels=np.ones(4, int),
                                            weight=np.full((2, 2), i)) for i in (1, 2)], 2, "another weight"),
    "a broken shard": (lambda f: (f / "a.safetensors").write_bytes(b"nonsense"), 1, "damaged"),
    "no label column": (lambda f: pq.write_table(pa.table({"a": [1.0]}), f / "a.parquet"), 2, "no column labels"),
    "words": (lambda f: pq.write_table(pa.table({"a": ["x"], "label": [1]}), f / "a.parquet"), 2, "has no features"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_a_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, code, words = REFUSED[kind]
    write(tmp_path)
    monkeypatch.setattr(measurement, "MOST_IN_MEMORY", 1)
    assert call(["measure", str(tmp_path)]) == code
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


def test_a_truncated_member_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y, w, b = relu()
    (path,) = npz(tmp_path, x, y, w, b)
    path.write_bytes(path.read_bytes()[: len(x) * 20])
    monkeypatch.setattr(measurement, "MOST_IN_MEMORY", 1)
    assert call(["measure", str(tmp_path)]) == 1
    assert "damaged" in capsys.readouterr().err


def test_progress_says_how_long_still(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(_rows.time, "monotonic", lambda: now[0])
    seen = _rows.Rows("rows of both passes")
    for second, done in ((1, 100), (2, 200), (3, 250), (5, 500), (6, 1000)):
        now[0] = float(second)
        seen(done, 1000)
    said = capsys.readouterr().err.splitlines()
    assert said == ["200 of 1,000 rows of both passes, ETA 8s", "500 of 1,000 rows of both passes, ETA 5s"]


def part_of(number: int) -> CollapseAccumulator:
    x, y, _, _ = relu()
    rows = np.array_split(np.arange(len(x)), 3)[number]
    return CollapseAccumulator(5).update(x[rows], y[rows])


def test_accumulators_of_several_processes_merge() -> None:
    x, y, w, b = relu()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        first, *others = pool.map(part_of, range(2))
    for other in (*others, part_of(2)):  # two of another process, one of this
        first.merge(other)
    whole = collapse(x, y, w, b)
    found = first.revisit(x, y, w, b).compute(w, b)
    for name, value in whole.values.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-11), name
