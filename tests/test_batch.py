"""Short epochs are stored together, long ones at once, and nothing is lost that was said to be stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from ncpl_cli.errors import LeaseLost
from ncpl_cli.main import call
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.runs import batch as module
from ncpl_cli.runs.batch import Batch
from ncpl_cli.store import Owner, Store, open_store
from tests.test_sweep import Silent
from tests.test_train import SMALL, contents


class Heard(Silent):
    """An observer that remembers which epochs it heard of."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[tuple[str, int]] = []

    def epoch(self, run: str, record: EpochRecord) -> None:
        self.epochs.append((run, record.epoch))


def an_epoch(number: int, seconds: float = 0.001) -> EpochRecord:
    values = {Address("nc1"): 1.0 * number, Address("nc1", "test"): 2.0, Address("srank"): 3.0}
    return EpochRecord(number, 0, number, 10, seconds, 0.0, values, {Address("vci"): "why"}, {0: 0.5, 1: 0.25})


@pytest.fixture
def claimed(tmp_path: Path) -> tuple[Store, dict[str, int]]:
    store = open_store(tmp_path / "a.db")
    for run in ("a" * 12, "b" * 12):
        store.register(RunInfo(run, run, "permuted-digits", 0, {}, {"tasks": 2}, None, {}))
    return store, store.claim(["a" * 12, "b" * 12], Owner.current(), {})


def test_short_epochs_wait_for_each_other_and_long_ones_take_them_along(
    claimed: tuple[Store, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, attempts = claimed
    one, two = attempts
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    heard = Heard()
    batch = Batch(store, heard)
    for number in (0, 1, 2):
        batch.add([(one, attempts[one], an_epoch(number))])
    batch.add([(two, attempts[two], an_epoch(0))])
    assert store.last_epoch(one) == -1 and heard.epochs == []  # nobody hears of what is not stored
    batch.add([(two, attempts[two], an_epoch(1, seconds=0.05))])
    assert (store.last_epoch(one), store.last_epoch(two)) == (2, 1)
    assert heard.epochs == [(one, 0), (one, 1), (one, 2), (two, 0), (two, 1)]
    row = store.run(one)
    assert row.seconds == pytest.approx(0.003)
    assert store.values(one, 2)[Address("nc1", "test")] == 2.0 and store.values(one, 2)[Address("nc1")] == 2.0
    assert store.reasons(one, 1) == {Address("vci"): "why"}
    batch.add([(one, attempts[one], an_epoch(3))])
    batch.flush_old()
    assert store.last_epoch(one) == 2
    clock[0] += module.WAIT_SECONDS
    batch.flush_old()
    assert store.last_epoch(one) == 3
    batch.add([(one, attempts[one], an_epoch(4))], durable=True)
    assert store.last_epoch(one) == 4


def test_one_run_that_was_taken_over_has_nothing_stored(claimed: tuple[Store, dict[str, int]]) -> None:
    store, attempts = claimed
    one, two = attempts
    batch = Batch(store, Heard())
    batch.add([(one, attempts[one], an_epoch(0)), (two, attempts[two], an_epoch(0))])
    store.finish(two, attempts[two], "failed")
    with pytest.raises(LeaseLost):
        batch.flush()
    assert store.last_epoch(one) == store.last_epoch(two) == -1


def test_what_is_stored_together_is_what_is_stored_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["train", *SMALL, "--tasks", "12", "--seeds", "0,1", "--metrics", "nc1,nc1_ratio,plasticity_loss"]
    saved: list[int] = []
    save = Store.save

    def counting(self: Store, batch: list[object], *, durable: bool = False) -> None:
        saved.append(len(batch))
        save(self, batch, durable=durable)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "save", counting)
    monkeypatch.setattr(module, "SHORT_SECONDS", 60.0)
    assert call([*line, "--db", str(tmp_path / "together.db")]) == 0
    together, saved[:] = list(saved), []
    monkeypatch.setattr(module, "SHORT_SECONDS", 0.0)
    assert call([*line, "--db", str(tmp_path / "alone.db")]) == 0
    assert contents(tmp_path / "together.db") == contents(tmp_path / "alone.db")
    assert sum(together) == sum(saved) == 2 * 13 and len(together) < len(saved) == 2 * 13
