"""The next epoch trains while the last is stored, as on a GPU, here forced on the CPU: order and durability hold."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli import runs
from ncpl_cli.data import Dataset
from ncpl_cli.errors import StoreError
from ncpl_cli.plan import Cohort
from ncpl_cli.records import EpochRecord
from ncpl_cli.runs import batch, checkpoints, life
from ncpl_cli.runs.active import Active
from ncpl_cli.spec import MeasureSpec, NetworkSpec, OptimizerSpec, RunSpec
from ncpl_cli.store import Store, open_store
from ncpl_cli.trainer import train
from tests.forked import go
from tests.test_device import specs
from tests.test_sweep import Silent
from tests.test_train import contents

TASKS = 5
ENGINES = {"online": 2, "stacked": 16}
"""And a batch size of each."""


@pytest.fixture
def few(digits: Dataset) -> Dataset:
    return replace(digits, train=digits.train.take(np.arange(64)), test=digits.test.take(np.arange(40)))


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "AHEAD", ("cpu",))


def wanted(engine: str, count: int) -> list[RunSpec]:
    optimizer = OptimizerSpec(batch_size=ENGINES[engine])
    return [
        replace(spec, optimizer=optimizer, measure=MeasureSpec(metrics=("nc1",)), engine=engine,
                scenario=replace(spec.scenario, tasks=TASKS), network=NetworkSpec(width=8, depth=1))
        for spec in specs(count)
    ]  # fmt: skip


class Heard(Silent):
    """Remembers which epochs it heard of, and that each of them was stored."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store, self.epochs = store, list[tuple[str, int]]()

    def epoch(self, run: str, record: EpochRecord) -> None:
        assert self.store.last_epoch(run) >= record.epoch
        self.epochs.append((run, record.epoch))

    def of(self, run: str) -> list[int]:
        return [epoch for of, epoch in self.epochs if of == run]


def brought(path: Path, specs: list[RunSpec], data: Dataset) -> tuple[Heard, dict[str, str]]:
    """Train into a store; who heard of it, and what its files and rows hold."""
    with open_store(path) as store:
        heard = Heard(store)
        assert set(runs.run(specs, store, data, device="cpu", observer=heard, jobs=2, keep="all").values()) == {
            "finished"
        }
        files = {
            f"{spec.id}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
            for spec in specs
            for file in checkpoints.folder_of(store.checkpoints, spec.id).iterdir()
        }
    return heard, files


def test_an_epoch_is_stored_while_the_next_one_trains(
    few: Dataset, tmp_path: Path, ahead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of an epoch is stored before the next one has begun; what a checkpoint holds is of its own epoch."""
    (spec,) = wanted("stacked", 1)
    begun = [threading.Event() for _ in range(TASKS + 2)]
    advances = itertools.count()
    advance, save = Active.advance, Active.save

    def advancing(self: Active) -> Any:
        begun[next(advances)].set()
        return advance(self)

    def saving(self: Active, epoch: Any, states: Any) -> None:
        assert begun[epoch.position.epoch + 1].wait(60)
        save(self, epoch, states)

    with monkeypatch.context() as patched:
        patched.setattr(Active, "advance", advancing)
        patched.setattr(Active, "save", saving)
        brought(tmp_path / "a.db", [spec], few)
    with open_store(tmp_path / "a.db") as store:
        assert [row["epoch"] for row in store.rows(spec.id)] == list(range(TASKS + 1))
        kept = [checkpoints.read(store.checkpoints, spec.id, epoch) for epoch in range(1, TASKS + 1)]
    live = [(epoch.position, epoch.state()[0]) for epoch in train(Cohort((spec,), "stacked", "cpu"), few)][1:]
    for (position, state), (at, own) in zip(kept, live, strict=True):
        assert position == at and state.keys() == own.keys()
        assert all(torch.equal(state[name], value) for name, value in own.items())


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_stored_and_heard_is_what_it_is_without(
    engine: str, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = wanted(engine, 3)
    _, files = brought(tmp_path / "calm.db", some, few)
    monkeypatch.setattr(life, "AHEAD", ("cpu",))
    heard, same = brought(tmp_path / "ahead.db", some, few)
    assert same == files and contents(tmp_path / "ahead.db") == contents(tmp_path / "calm.db")
    assert all(heard.of(spec.id) == list(range(TASKS + 1)) for spec in some)


@pytest.mark.parametrize("place", ["rows", "checkpoint"])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_of_the_store_stops_all_and_the_same_command_goes_on(
    engine: str, place: str, few: Dataset, tmp_path: Path, ahead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = wanted(engine, 2)
    brought(tmp_path / "calm.db", some, few)
    monkeypatch.setattr(batch, "SHORT_SECONDS", 0.0)  # each by itself, however short
    where, name = (Store, "save") if place == "rows" else (checkpoints, "write")
    whole, calls = getattr(where, name), itertools.count(1)

    def full(*given: Any, **named: Any) -> Any:
        if next(calls) == 4:
            raise StoreError("the disk is full.", "free some space")
        return whole(*given, **named)

    with monkeypatch.context() as patched, open_store(tmp_path / "a.db") as store:
        patched.setattr(where, name, full)
        heard = Heard(store)
        with pytest.raises(StoreError, match="the disk is full"):
            runs.run(some, store, few, device="cpu", observer=heard, jobs=2, keep="all")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("ncpl")]
        for spec in some:  # what was said to be stored is, and nothing else
            assert heard.of(spec.id) == list(range(store.last_epoch(spec.id) + 1))
            assert store.run(spec.id).status == "interrupted"
    brought(tmp_path / "a.db", some, few)
    assert contents(tmp_path / "a.db") == contents(tmp_path / "calm.db")


STUDY = ["train", "permuted-digits", "--train-samples", "100", "--width", "8", "--depth", "1", "--tasks", "12",
         "--seeds", "0-1", "--quiet", "--db"]  # fmt: skip


class End:
    """Sends a signal to its process at the nth write of some kind, before or after it is done."""

    def __init__(self, number: int, place: str, nth: int, *, after: bool) -> None:
        self.number, self.place, self.nth, self.after = number, place, nth, after

    def __call__(self) -> None:
        life.AHEAD = ("cpu",)
        batch.SHORT_SECONDS = 0.0
        where: Any = {"save": Store, "write": checkpoints, "prune": checkpoints}[self.place]
        whole, calls = getattr(where, self.place), itertools.count(1)

        def ending(*given: Any, **named: Any) -> Any:
            now = next(calls) == self.nth
            if now and not self.after:
                os.kill(os.getpid(), self.number)
            found = whole(*given, **named)
            if now and self.after:
                os.kill(os.getpid(), self.number)
            return found

        setattr(where, self.place, ending)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    here = tmp_path_factory.mktemp("calm")
    assert go(*STUDY, "a.db", cwd=here).code == 0
    return contents(here / "a.db")


@pytest.mark.parametrize(
    ("number", "place", "nth", "after"),
    [
        (signal.SIGKILL, "save", 9, False), (signal.SIGKILL, "save", 9, True), (signal.SIGKILL, "write", 8, True),
        (signal.SIGKILL, "prune", 6, False), (signal.SIGTERM, "save", 7, False), (signal.SIGINT, "save", 7, True),
        (signal.SIGUSR1, "write", 6, False),
    ],
)  # fmt: skip
def test_a_signal_at_any_moment_loses_nothing_that_was_stored(
    number: int, place: str, nth: int, after: bool, calm: dict[str, Any], tmp_path: Path
) -> None:
    line = [*STUDY, "a.db", "--keep-checkpoints", "all"]
    done = go(*line, cwd=tmp_path, before=End(number, place, nth, after=after))
    assert done.code == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}.get(signal.Signals(number), 75)
    if number != signal.SIGKILL:
        assert "everything up to the last epoch is saved" in done.errors[0] and len(done.errors) == 2
    assert go(*line, cwd=tmp_path).code == 0
    assert contents(tmp_path / "a.db") == calm
