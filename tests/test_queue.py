"""The store as a queue, on every database: units are taken whole, once, by the living, and given up in the end."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import psutil
import pytest

from ncpl_cli.errors import InputError, LeaseLost
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, Queue, Store
from tests.test_store import info, record

FACTS = {"online": {"ncpl": "test"}}
ME = Owner.current()


def probe_of(parent: str, epoch: int) -> RunInfo:
    return RunInfo(f"{epoch:012x}", "{}", "warm-start-probe", 0, {}, {"max_epochs": 9}, None, {}, parent, epoch)


def made(store: Store, *cohorts: int, name: str = "s", **settings: object) -> tuple[Queue, list[list[str]]]:
    """A sweep with a cohort of each size."""
    seeds = iter(range(100))
    ids = [[store.register(info(name[0], next(seeds))).id for _ in range(size)] for size in cohorts]
    queue = Queue(store)
    queue.add(name, {"max_attempts": 3, **settings}, [("online", cohort) for cohort in ids])
    return queue, ids


def lapse(store: Store, attempts: dict[str, int]) -> None:
    """The worker that holds these runs has fallen silent."""
    store.renew(attempts, lease=1e-9)


def test_units_are_taken_whole_in_order_and_once(store: Store) -> None:
    queue, ids = made(store, 2, 1)
    first, second = queue.take("s", ME, FACTS), queue.take("s", ME, FACTS)
    assert first and second
    assert (first.number, list(first.ids), first.attempts) == (0, ids[0], dict.fromkeys(ids[0], 1))
    assert (second.number, list(second.ids), second.engine) == (1, ids[1], "online")
    assert queue.take("s", ME, FACTS) is None and queue.is_open("s")
    assert [store.run(run).cohort for run in ids[0]] == [ids[0]] * 2
    for unit in (first, second):
        for run, attempt in unit.attempts.items():
            store.finish(run, attempt, "finished")
    assert queue.take("s", ME, FACTS) is None and not queue.is_open("s")


def test_many_workers_never_take_the_same_unit(store: Store) -> None:
    queue, _ = made(store, *[1] * 24)
    taken: list[int] = []

    def work() -> None:
        while unit := queue.take("s", ME, FACTS):
            taken.append(unit.number)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == list(range(24))
    assert {row.attempt for row in store.runs()} == {1}


def test_a_silent_worker_is_replaced_and_then_refused(store: Store) -> None:
    queue, ids = made(store, 2)
    first = queue.take("s", ME, FACTS)
    assert first
    lapse(store, first.attempts)
    second = queue.take("s", replace(ME, pid=1), FACTS)
    assert second and second.attempts == dict.fromkeys(ids[0], 2)
    with pytest.raises(LeaseLost, match="taken over"):
        store.save([(run, attempt, record(0)) for run, attempt in first.attempts.items()])
    assert [store.last_epoch(run) for run in ids[0]] == [-1, -1]


def test_a_dead_workers_unit_is_free_at_once(store: Store) -> None:
    queue, _ = made(store, 1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    owner = replace(ME, pid=child.pid, started=psutil.Process(child.pid).create_time())
    assert queue.take("s", owner, FACTS) and queue.take("s", ME, FACTS) is None
    child.kill()
    child.wait()
    assert queue.overview("s").runs == {"interrupted": 1}
    unit = queue.take("s", ME, FACTS)
    assert unit and unit.tries == 2


def test_attempts_that_get_no_further_are_counted_and_those_that_do_are_not(store: Store) -> None:
    queue, ((run,),) = made(store, 1)
    for epoch in range(5):  # each worker is lost after one more epoch
        unit = queue.take("s", ME, FACTS)
        assert unit and unit.tries == 1
        store.save([(run, unit.attempts[run], record(epoch))])
        lapse(store, unit.attempts)
    for tries in (1, 2, 3):  # the first of these began further than the one before it
        unit = queue.take("s", ME, FACTS)
        assert unit and unit.tries == tries
        store.truncate(run, unit.attempts[run], 1)
        lapse(store, unit.attempts)
    assert queue.take("s", ME, FACTS) is None and not queue.is_open("s")
    assert store.run(run).status == "failed"
    assert queue.overview("s").errors == ((run, 3, "its worker was lost 3 times in a row without getting further"),)


def test_what_loses_its_workers_waits_until_the_others_are_done(store: Store) -> None:
    queue, _ = made(store, 1, 1)
    order = []
    for _ in range(6):
        unit = queue.take("s", ME, FACTS)
        assert unit
        order.append((unit.number, unit.tries))
        lapse(store, unit.attempts)
    assert order == [(0, 1), (0, 2), (1, 1), (1, 2), (0, 3), (1, 3)]


def test_a_run_that_fails_is_tried_again_so_often_and_its_last_error_is_kept(store: Store) -> None:
    queue, ((run,),) = made(store, 1)
    for attempt in (1, 2, 3):
        unit = queue.take("s", ME, FACTS)
        assert unit and unit.ids == (run,) and unit.tries == attempt
        store.finish(run, unit.attempts[run], "failed", f"error {attempt}")
        queue.fail("s", unit, f"error {attempt}", final=False)
        assert queue.overview("s").errors == ((run, attempt, f"error {attempt}"),)
        assert queue.overview("s").runs == ({"pending": 1} if attempt < 3 else {"failed": 1})
    other = store.register(info("o", 9)).id
    queue.add("s", {"max_attempts": 3}, [("online", [other])])
    unit = queue.take("s", ME, FACTS)
    assert unit and unit.ids == (other,)
    store.finish(other, 1, "failed", "bad settings")
    queue.fail("s", unit, "bad settings", final=True)  # would end like this every time
    assert queue.take("s", ME, FACTS) is None and not queue.is_open("s")
    assert queue.retry("s") == 2
    again = queue.take("s", ME, FACTS)
    assert again and again.attempts == {run: 4} and again.tries == 1


def test_an_attempt_that_was_stopped_on_purpose_does_not_count(store: Store) -> None:
    queue, ((run,),) = made(store, 1)
    for _ in range(5):
        unit = queue.take("s", ME, FACTS)
        assert unit and unit.tries == 1
        store.release(run, unit.attempts[run])
        queue.put_back("s", unit)


def test_a_cohort_of_which_some_are_finished_goes_on_with_the_others(store: Store) -> None:
    queue, (ids,) = made(store, 3)
    unit = queue.take("s", ME, FACTS)
    assert unit
    store.finish(ids[0], 1, "finished")
    store.finish(ids[1], 1, "diverged")
    lapse(store, {ids[2]: 1})
    again = queue.take("s", ME, FACTS)
    assert again and again.ids == tuple(ids) and again.attempts == {ids[2]: 2}


def test_a_sweep_is_extended_and_what_is_in_it_keeps_its_unit(store: Store) -> None:
    queue, ids = made(store, 2, 1)
    more = [store.register(info("m", seed)).id for seed in (0, 1)]
    queue.add("s", {"max_attempts": 3}, [("online", [*ids[0], more[0]]), ("online", ids[1]), ("online", [more[1]])])
    units = []
    while unit := queue.take("s", ME, FACTS):
        units.append(list(unit.ids))
    assert units == [ids[0], ids[1], [more[0]], [more[1]]]
    assert queue.members("s") == {*ids[0], *ids[1], *more} and queue.members("none") == set()


def test_what_another_command_trains_is_not_taken(store: Store) -> None:
    queue, ((run,), (other,)) = made(store, 1, 1)
    held = store.claim([run], ME, {})
    unit = queue.take("s", ME, FACTS)
    assert unit and unit.ids == (other,)
    assert queue.take("s", ME, FACTS) is None
    store.release(run, held[run])
    assert queue.take("s", ME, FACTS)


def test_probes_wait_for_their_parent(store: Store) -> None:
    queue, ((parent,), (diverging,)) = made(store, 1, 1)
    for number, of in enumerate((parent, diverging)):
        store.register_all([(probe_of(of, 10 * number + epoch), []) for epoch in (0, 2)])
        queue.add("s", {}, [("online", [f"{10 * number + epoch:012x}" for epoch in (0, 2)])])
    one, other = queue.take("s", ME, FACTS), queue.take("s", ME, FACTS)
    assert one and other and queue.take("s", ME, FACTS) is None
    store.finish(diverging, other.attempts[diverging], "diverged")
    assert queue.take("s", ME, FACTS) is None
    for epoch in range(3):
        store.save([(parent, one.attempts[parent], record(epoch))])
    store.finish(parent, one.attempts[parent], "finished")
    probes = queue.take("s", ME, FACTS)
    assert probes and probes.ids == (f"{0:012x}", f"{2:012x}")
    for run, attempt in probes.attempts.items():
        store.save([(run, attempt, EpochRecord(0, 0, 0, 0, 0.0, 0.0, {Address("online_accuracy"): 1.0}))])
        assert queue.unharvested("s") == []  # one is not over yet
        store.finish(run, attempt, "finished")
    assert not queue.is_open("s")  # the probes of what diverged can never run
    assert queue.unharvested("s") == [parent]
    store.annotate(parent, {0: {"probe_test_accuracy": 0.5}, 2: {"probe_test_accuracy": 0.5}}, {})
    assert queue.unharvested("s") == []
    shown = queue.overview("s")
    assert shown.runs == {"finished": 1, "diverged": 1} and shown.probes == {"finished": 2, "pending": 2}


def test_a_cancelled_sweep_gives_out_nothing_until_it_is_run_again(store: Store) -> None:
    queue, ids = made(store, 1, 1)
    assert queue.take("s", ME, FACTS)
    queue.cancel("s")
    assert queue.take("s", ME, FACTS) is None and not queue.is_open("s") and queue.is_cancelled("s")
    queue.add("s", {}, [("online", ids[0])])
    assert queue.take("s", ME, FACTS)
    with pytest.raises(InputError, match="unknown sweep 't'") as error:
        queue.cancel("t")
    assert error.value.hint == "known: s"


def test_the_overview_says_who_works_on_what(store: Store) -> None:
    queue, ids = made(store, 2, 1, 1)
    unit = queue.take("s", ME, FACTS)
    assert unit
    for epoch in range(3):
        store.save([(run, unit.attempts[run], record(epoch)) for run in ids[0]])
    shown = queue.overview("s")
    assert shown.runs == {"running": 2, "pending": 2} and shown.units_left == 3
    (one,) = shown.working
    assert (one.owner, one.runs, one.seeds, one.epoch, one.total_epochs) == (ME, tuple(ids[0]), (0, 1), 2, 3)
    assert (shown.epochs, shown.total_epochs) == (4, 12)
    assert one.seconds == 2 * 3 * 0.75  # every record says 0.5 s of training and 0.25 s of measuring
    assert shown.seconds_left == pytest.approx(8 * (4.5 / 4)) and shown.pace == pytest.approx(4 / 4.5)


def test_a_deleted_run_leaves_the_sweep(store: Store) -> None:
    queue, ids = made(store, 1, 1)
    store.delete(ids[0][0])
    assert queue.members("s") == {ids[1][0]} and sum(queue.overview("s").runs.values()) == 1
