"""A dry run says how long runs take, from what the store knows or a short run, and loads no more than it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ncpl_cli import estimate, settings, timing, trainer
from ncpl_cli.data import load
from ncpl_cli.main import call
from ncpl_cli.plan import plan
from ncpl_cli.scenarios import PermutedDigits
from ncpl_cli.store import open_store


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("each", [1e-7, 1e-4, 1.0])
def test_the_kernel_is_timed_for_long_enough(batch: int, each: float) -> None:
    shown: list[int] = []

    def train(count: int) -> float:
        shown.append(count)
        return each * count + (len(shown) == 1)

    assert timing.for_long_enough(train, batch, 1437) == pytest.approx(1437 * each)
    assert each * shown[-1] >= timing.TIMED_SECONDS or shown[-1] == 1437


SHAPES: list[dict[str, Any]] = [
    {}, {"depth": 1}, {"width": 7, "depth": 2, "norm": "layer", "batch_size": 32}, {"activation": "crelu"},
    {"norm": "batch", "batch_size": 8}, {"network": "convnet", "width": 4, "batch_size": 8},
]  # fmt: skip


@pytest.mark.parametrize("given", SHAPES)
def test_parameters_are_counted_without_a_network(given: dict[str, Any]) -> None:
    asked = settings.asked(PermutedDigits, given)
    data = load(asked.dataset)
    (spec,) = settings.on(asked, data, [0])
    assert timing.parameters(spec, data) == sum(p.numel() for p in trainer.build(spec, data).parameters())


@pytest.mark.parametrize("given", [{}, {"batch_size": 4, "weight_decay": 1e-3, "precision": "float64", "depth": 1}])
def test_the_kernel_is_timed_as_the_engine_calls_it(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is training: on the scenario's images and labels, a network learns."""
    from ncpl_cli.engines import online_kernel

    asked = settings.asked(PermutedDigits, {"width": 24, **given})
    data = load(asked.dataset)
    (spec,) = settings.on(asked, data, [0])
    right: list[float] = []
    made = online_kernel.kernel

    def watched(*kind: Any) -> Callable[..., Any]:
        def loop(order: NDArray[np.int64], *rest: Any) -> Any:
            found = made(*kind)(order, *rest)
            right.append(found[0] / len(order))
            assert found[2] == len(order) and all(x.ctypes.data % 64 == 0 for x in rest[6:10])
            return found

        return loop

    monkeypatch.setattr(online_kernel, "kernel", watched)
    monkeypatch.setattr(timing, "by_engine", None)
    assert timing.seconds_per_epoch(*plan([spec], "cpu"), data) > 0
    assert len(right) > 1 and right[-1] > 0.5


def test_a_dry_run_knows_what_epochs_took_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs alike in all that takes time, on this machine; short ones say nothing."""
    url = str(tmp_path / "a.db")
    line = ["train", "permuted-digits", "--train-samples", "300", "--width", "16", "--tasks", "12", "--lr", "0.02",
            "--first-task-epochs", "2", "--db", url]  # fmt: skip
    assert call(line) == 0

    def said(*more: tuple[str, Any]) -> float | None:
        with open_store(url, readonly=True) as store:
            asked = settings.asked(PermutedDigits, {"train_samples": 300, "width": 16, **dict(more)})
            data = load(asked.dataset)
            return estimate.known_to(store)(plan(settings.on(asked, data, [3]), "cpu")[0])

    with open_store(url) as store:
        (row,) = store.runs()
        took = [e["seconds"] + e["measure_seconds"] for e in store.rows(row.id) if e["epoch"] > 2]
    assert said() == said(("lr", "0.5"), ("tasks", "500")) == pytest.approx(sum(took) / len(took), rel=1e-12)
    assert len(took) == 11
    assert said(("width", 9)) is None and said(("batch_size", 2)) is None and said(("weight_decay", 1e-4)) is None
    assert said(("metrics", "nc1")) is None and said(("train_samples", 99)) is None
    with monkeypatch.context() as patch:
        patch.setattr(estimate.platform, "node", lambda: "elsewhere")
        assert said() is None
    monkeypatch.setattr(estimate, "FEWEST_EPOCHS", 12)
    assert said() is None


HEAVY = {"torch", "torchvision", "numba", "sklearn", "pandas", "plotnine", "sqlalchemy"}


def loaded(tmp_path: Path, *lines: list[str]) -> set[str]:
    """Which heavy modules are there after these dry runs in a process of their own."""
    code = (
        "import sys\nfrom ncpl_cli.main import call\n"
        f"for line in {[*lines]!r}:\n    assert call([*line, '--dry-run']) == 0, line\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_a_dry_run_loads_no_torch(tmp_path: Path) -> None:
    train = ["train", "permuted-digits", "--seeds", "0-2"]
    sweep = ["sweep", "permuted-digits", "--grid", "lr=0.01,0.1", "--seeds", "0-2", "--name", "s"]
    assert loaded(tmp_path, train) == {"numba"}  # for the kernel: there is no store
    assert loaded(tmp_path, sweep) == {"numba", "sqlalchemy"}
    assert list(tmp_path.iterdir()) == []


def test_where_the_store_knows_a_dry_run_compiles_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["train", "permuted-digits", "--train-samples", "300", "--width", "16", "--tasks", "9"]
    assert call(line) == 0
    assert loaded(tmp_path, line) == {"sqlalchemy"}
    capsys.readouterr()
    assert call([*line, "--dry-run", "--json"]) == 0
    with open_store("ncpl.db") as store:
        epochs = store.rows(store.runs()[0].id)[3:]
    each = sum(e["seconds"] + e["measure_seconds"] for e in epochs) / len(epochs)
    assert json.loads(capsys.readouterr().out)["seconds"] == pytest.approx(9 * each)


def test_a_dry_run_needs_no_store_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "ncpl.db").write_bytes(b"no store" * 200)
    assert "numba" in loaded(tmp_path, ["train", "permuted-digits", "--width", "16", "--train-samples", "300"])
