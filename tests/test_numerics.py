"""A run is neither continued nor replayed by an engine that has come to round differently; it is left as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ncpl_cli import provenance
from ncpl_cli.main import call
from ncpl_cli.runs import numerics
from ncpl_cli.store import open_store
from ncpl_cli.sweep import Options, enlist
from ncpl_cli.worker import work
from tests.test_sweep import Silent, arm
from tests.test_train import SMALL, contents

STACKED = ["--batch-size", "32"]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of two tasks, by version 1 of the online engine; from here on it has version 2."""
    monkeypatch.setitem(provenance.NUMERICS, "online", 1)
    assert train(tmp_path, 2) == 0
    monkeypatch.setitem(provenance.NUMERICS, "online", 2)
    return tmp_path


def train(folder: Path, tasks: int, *more: str) -> int:
    return call(["train", *SMALL, "--tasks", str(tasks), "--db", str(folder / "a.db"), "--metrics", "nc1", *more])


def test_the_other_engine_of_a_cpu_is_refused_and_the_one_that_began_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an earlier ncpl trained with matrices, since its compiled loop could not carry it."""
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    assert train(tmp_path / "one", 2, "--engine", "stacked") == 0
    before = contents(tmp_path / "one" / "a.db")
    capsys.readouterr()
    assert train(tmp_path / "one", 3) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "was trained by the stacked engine" in said and "--engine stacked goes on with it" in said
    assert contents(tmp_path / "one" / "a.db") == before
    assert train(tmp_path / "one", 3, "--engine", "stacked") == 0
    assert train(tmp_path / "other", 3, "--engine", "stacked") == 0  # to the same bits
    with open_store(tmp_path / "one" / "a.db") as one, open_store(tmp_path / "other" / "a.db") as other:
        (run,) = one.runs()
        assert run.id == other.runs()[0].id
        assert one.frame()["nc1"].tolist() == other.frame()["nc1"].tolist()


def test_a_longer_horizon_is_refused_and_changes_nothing(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(trained / "a.db")
    capsys.readouterr()
    assert train(trained, 3) == 2
    said = capsys.readouterr().err
    assert "version 1 of the online engine's numerics" in said and "--no-resume" in said
    assert contents(trained / "a.db") == before
    with open_store(trained / "a.db") as store:
        (row,) = store.runs()
        assert (row.status, row.horizon, row.attempt) == ("finished", {"tasks": 2}, 1)
    assert train(trained, 2) == 0  # there is nothing to do
    assert train(trained, 3, "--no-resume") == 0
    assert train(trained, 4) == 0  # what was begun anew goes on


def test_a_replay_is_refused(trained: Path) -> None:
    before = contents(trained / "a.db")
    assert train(trained, 2, "--layers", "all") == 2
    assert call(["measure", "--run", next(iter(before)), "--epoch", "1", "--db", str(trained / "a.db")]) == 2
    with open_store(trained / "a.db") as store:
        assert [row.status for row in store.runs()] == ["finished"]
        shutil.rmtree(store.checkpoints)
    assert contents(trained / "a.db") == before
    assert train(trained, 2, "--layers", "all") == 2  # without a checkpoint its last attempt knows


def test_other_engines_go_on(trained: Path) -> None:
    assert train(trained, 2, *STACKED) == 0
    assert train(trained, 3, *STACKED) == 0


def test_a_refused_attempt_is_not_taken_for_the_one_that_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is of another version than the command that enlisted: its attempt is claimed first."""
    with open_store(tmp_path / "a.db") as store:
        ids, _ = enlist([arm([0], tasks=2)], store, "s", Options(threads=1))
        monkeypatch.setitem(provenance.NUMERICS, "online", 1)
        assert work("s", store, observer=Silent()) == 1
        enlist([arm([0], tasks=3)], store, "s", Options(threads=1))
        monkeypatch.setitem(provenance.NUMERICS, "online", 2)
        assert work("s", store, observer=Silent()) == 0
        row = store.run(ids[0])
        assert row.status == "failed" and "version 1 of the online engine's numerics" in str(row.error)
        assert store.last_epoch(ids[0]) == 2 and numerics.made_by(store, ids[0]) == ("online", 1)
        facts = store.attempts(ids[0])[-1]["provenance"]
        assert (facts["engine"], facts["numerics"]) == ("online", 2)
