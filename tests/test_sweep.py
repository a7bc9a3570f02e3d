"""`ncpl sweep`: what its user writes, what its workers do, and that nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.storm import compare, storm, sweep_line
from ncpl_cli import estimate, runs, settings
from ncpl_cli.commands import _grid
from ncpl_cli.data import load
from ncpl_cli.errors import InputError, Stopped
from ncpl_cli.main import call
from ncpl_cli.plan import Cohort
from ncpl_cli.records import EpochRecord
from ncpl_cli.runs import batch
from ncpl_cli.scenarios import PermutedDigits, WarmStart
from ncpl_cli.spec import DatasetSpec
from ncpl_cli.store import Owner, Queue, Store, open_store
from ncpl_cli.sweep import Arm, Options, enlist, outcome, places_for
from ncpl_cli.worker import work
from tests.forked import start
from tests.test_train import NCPL, SMALL, contents, ncpl

TINY = {"train_samples": 300, "width": 16, "depth": 2}


class Silent:
    """An observer that only remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def expect(self, runs: int, then: int = 0) -> None: ...

    def begin(self, run: str, seed: int, done: int, total: int, exact: bool) -> None: ...

    def epoch(self, run: str, record: EpochRecord) -> None: ...

    def end(self, run: str, status: str) -> None: ...


def arm(seeds: Sequence[int], label: str | None = None, **given: Any) -> Arm:
    """Runs of permuted digits on a small part of the data."""
    options = {**TINY, "tasks": 2, **given}
    dataset = settings.dataset_spec(PermutedDigits, options)
    return Arm(tuple(settings.specs(PermutedDigits, options, load(dataset), dataset, list(seeds))), label)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    """A store in a file: workers of these tests run in this process."""
    return open_store(tmp_path / "a.db")


@pytest.fixture
def each_epoch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the machine: an epoch is stored, and heard of, before the next one."""
    monkeypatch.setattr(batch, "SHORT_SECONDS", 0.0)


# what is written ---------------------------------------------------------------------------------------------


def study(*grid: str, arms: Sequence[str] = (), seeds: str = "0-1", **fixed: Any) -> _grid.Study:
    return _grid.from_options(PermutedDigits, fixed, seeds, list(grid), list(arms), None)


def test_a_grid_is_every_combination_for_every_arm() -> None:
    found = study("lr=0.01,0.003", "first-task-epochs=1,5", arms=["plain=", "both=l2:strength=0.1+head_reset"], tasks=3)
    points = found.points()
    assert found.seeds == [0, 1] and len(points) == 8
    assert points[0] == ("plain", {"tasks": 3, "lr": 0.01, "first_task_epochs": 1, "intervention": []})
    assert points[-1][1]["intervention"] == ["l2:strength=0.1", "head_reset"] and points[-1][1]["lr"] == 0.003
    assert study("lr=0.01,0.003").name == study("lr=0.1").name == "permuted-digits"
    assert study(width=5).name == study("lr=0.1", width=5, seeds="3").name != study(width=6).name


@pytest.mark.parametrize(
    ("grid", "arms", "fixed", "words"),
    [
        (["widht=1,2"], [], {}, "Did you mean 'width'"),
        (["tasks=1,2"], [], {}, "how far a run goes"),
        (["lr=0.1,fast"], [], {}, "'fast' is impossible: it is a number"),
        (["lr=0.1,0.1"], [], {}, "names a value twice"),
        (["lr=0.1"], [], {"lr": 0.2}, "given twice"),
        (["lr=0.1", "lr=0.2"], [], {}, "each option once"),
        (["lr"], [], {}, "KEY=V1,V2"),
        (["intervention=l2"], [], {}, "arms do"),
        ([], ["a=l2", "a="], {}, "each arm once"),
    ],
)
def test_what_cannot_be_is_said(grid: list[str], arms: list[str], fixed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        study(*grid, arms=arms, **fixed)


def test_a_file_says_the_same_as_a_command_line(tmp_path: Path) -> None:
    path = tmp_path / "first-task.toml"
    path.write_text(
        'scenario = "permuted-digits"\nseeds = [0, 1]\n[settings]\ntasks = 3\nepochs = [2, 1]\n'
        "[grid]\nfirst_task_order = ['new', 'same']\n[[zip]]\nwidth = [16, 32]\nlr = [0.02, 0.01]\n"
        '[arms]\nplain = []\nl2 = ["l2:strength=0.1"]\n'
    )
    found = _grid.from_file(path, None)
    assert (found.name, found.seeds, len(found.points())) == ("first-task", [0, 1], 8)
    assert {(given["width"], given["lr"]) for _, given in found.points()} == {(16, 0.02), (32, 0.01)}
    arms, _ = _grid.arms_of(found, None)
    assert [a.label for a in arms[:2]] == ["plain", "l2"] and arms[0].specs[0].scenario.epochs == (1,)
    assert arms[0].specs[0].scenario.first_task_epochs == 2
    for text, words in {
        "scenario = 'permuted-digits'\n[grid]\nlr = 1": "lr is a list", "x = 1": "unknown entry",
        "seeds = '0'": "names no scenario", "= 3": "cannot be read",
        "scenario = 'permuted-digits'\n[zip]\nlr = [1, 2]\nwidth = [3]": "differ in length",
        "scenario = 'permuted-digits'\n[settings]\nlearning = 3": "unknown setting",
    }.items():  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            _grid.from_file(path, None)
    with pytest.raises(InputError, match="there is no file"):
        _grid.from_file(tmp_path / "none.toml", None)


# what workers do ---------------------------------------------------------------------------------------------


def test_a_worker_trains_what_train_would(local: Store, tmp_path: Path) -> None:
    enlist([arm([0, 1], "online"), arm([0, 1, 2], "stacked", batch_size=32)], local, "s", Options(threads=1))
    assert work("s", local, observer=Silent()) == 3  # two runs, and a cohort of three
    with open_store(tmp_path / "b.db") as other:
        for one in (arm([0, 1]), arm([0, 1, 2], batch_size=32)):
            # as many threads as the worker: how sums are cut into parts decides their last digit
            runs.run(one.specs, other, load(one.specs[0].dataset), device="cpu", observer=Silent(), jobs=1)
    assert contents(tmp_path / "a.db") == contents(tmp_path / "b.db")
    names = {row.names for row in local.runs()}
    assert names == {("online", "s"), ("s", "stacked")}
    assert [len(row.cohort) for row in local.runs()] == [1, 1, 3, 3, 3]


def test_longest_first_and_extended_by_what_is_missing(local: Store) -> None:
    short, long = arm([0], tasks=2), arm([0], tasks=2, first_task_epochs=3)
    ids, before = enlist([short, long], local, "s", Options(threads=1))
    assert [len(ids), before] == [2, set()]
    queue = Queue(local)
    first = queue.take("s", Owner.current(), {"online": {}})
    assert first and first.ids == (long.specs[0].id,)
    local.release(first.ids[0], 1)
    queue.put_back("s", first)
    work("s", local, observer=Silent())
    ids, before = enlist([short, long, arm([1])], local, "s", Options(threads=4))
    assert len(ids) == 3 and before == set(ids[:2]) and queue.settings("s")["threads"] == 4
    work("s", local, observer=Silent())
    found = outcome(queue.overview("s"), ids, before)
    assert (found.total, found.finished, found.skipped, found.pending, found.bad) == (3, 1, 2, 0, 0)
    ids, _ = enlist([arm([1], tasks=4)], local, "s", Options(threads=1))  # a longer horizon goes on
    assert local.run(ids[0]).status == "interrupted"
    work("s", local, observer=Silent())
    assert local.run(ids[0]).status == "finished" and local.last_epoch(ids[0]) == 4


def test_a_stalled_worker_is_refused_and_goes_on_with_other_work(local: Store, each_epoch_at_once: None) -> None:
    class Thief(Silent):
        """Takes the first run over while its worker stands still; gives it back once the worker has noticed."""

        stolen: tuple[str, int] | None = None
        noticed = False

        def epoch(self, run: str, record: EpochRecord) -> None:
            if self.stolen is None:
                local.renew({run: 1}, lease=1e-9)
                self.stolen = run, local.claim([run], replace(Owner.current(), pid=1), {}, lease=60)[run]

        def note(self, text: str) -> None:
            super().note(text)
            if "taken over" in text and self.stolen:
                self.noticed = True
                assert local.last_epoch(self.stolen[0]) == 0
                local.release(*self.stolen)

    enlist([arm([0, 1])], local, "s", Options(threads=1))
    thief = Thief()
    assert work("s", local, observer=thief) == 2 and thief.noticed
    for row in local.runs():
        assert row.status == "finished" and row.epochs == 2
    assert sorted(row.attempt for row in local.runs()) == [1, 3]


def test_runs_that_fail_by_themselves_do_not_stop_the_others(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty.py").write_text("def net(**_):\n    raise RuntimeError('no memory left')\n")
    monkeypatch.chdir(tmp_path)
    arms = [arm([0], network="faulty:net", width=None, depth=None), arm([0], lr=1e6), arm([0])]
    ids, _ = enlist(arms, local, "s", Options(threads=1, max_attempts=2))
    observer = Silent()
    work("s", local, observer=observer)
    assert [local.run(run).status for run in ids] == ["failed", "diverged", "finished"]
    found = outcome(Queue(local).overview("s"), ids, set())
    assert (found.finished, found.failed, found.diverged, found.bad) == (1, 1, 1, 2)
    ((run, tries, why),) = found.errors
    assert (run, tries) == (ids[0], 2) and "RuntimeError: no memory left" in why
    assert [local.run(run).attempt for run in ids] == [2, 1, 1]
    work("s", local, observer=observer)  # nothing is tried again by itself
    assert [local.run(run).attempt for run in ids] == [2, 1, 1]


def test_a_run_that_cannot_be_rebuilt_fails_once(local: Store) -> None:
    ids, _ = enlist([arm([0])], local, "s", Options(threads=1))
    with sqlite3.connect(local.url) as connection:
        connection.execute("update runs set settings = replace(settings, '\"width\":16', '\"width\":17')")
    work("s", local, observer=Silent())
    assert local.run(ids[0]).status == "failed" and local.run(ids[0]).attempt == 1
    assert "cannot be set up again" in (local.run(ids[0]).error or "")


def test_a_worker_that_is_told_to_stop_gives_its_run_back(local: Store, each_epoch_at_once: None) -> None:
    class Killer(Silent):
        seen = 0

        def epoch(self, run: str, record: EpochRecord) -> None:
            self.seen += 1
            if self.seen == 3:
                os.kill(os.getpid(), signal.SIGUSR1)

    ids, _ = enlist([arm([0, 1], tasks=50)], local, "s", Options(threads=1, max_attempts=1))
    for _ in range(2):
        with pytest.raises(Stopped, match="SIGUSR1") as stopped:
            work("s", local, observer=Killer())
        assert stopped.value.exit_code == 75
    row = local.run(ids[0])
    assert row.status == "interrupted" and 3 <= row.epochs < 50
    assert list(local.checkpoints.glob(f"{row.id}/epoch-{row.epochs:08d}.safetensors"))
    assert Queue(local).is_open("s")


def test_a_cancelled_sweep_stops_its_workers(local: Store) -> None:
    class Canceller(Silent):
        def epoch(self, run: str, record: EpochRecord) -> None:
            if record.epoch == 2:
                Queue(local).cancel("s")

    ids, _ = enlist([arm([0], tasks=5000)], local, "s", Options(threads=1, lease=0.6))
    observer = Canceller()
    assert work("s", local, observer=observer) == 0
    assert "was cancelled" in observer.said[-1] and local.run(ids[0]).status == "interrupted"


def test_probes_are_units_and_their_results_stand_on_the_parents_rows(local: Store, tmp_path: Path) -> None:
    given = {"warm_up_epochs": 4, "probe_every": 2, "probe_max_epochs": 3, "width": 16, "depth": 2, "dataset": "digits"}
    dataset = settings.dataset_spec(WarmStart, given)
    digits = load(dataset)
    specs = settings.specs(WarmStart, given, digits, dataset, [0])
    enlist([Arm(tuple(specs))], local, "s", Options(threads=1))
    assert Queue(local).overview("s").probes == {"pending": 3}
    assert work("s", local, observer=Silent()) == 2
    with open_store(tmp_path / "b.db") as other:
        runs.run(specs, other, digits, device="cpu", observer=Silent(), jobs=1)
    assert contents(tmp_path / "a.db") == contents(tmp_path / "b.db")
    assert Queue(local).overview("s").probes == {"finished": 3}


def test_places(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    enlist([arm(range(6))], local, "s", Options(threads=None), jobs=2)
    overview = Queue(local).overview("s")
    assert places_for(overview, jobs=4, gpus=(), per_gpu=1).workers == 4
    assert places_for(overview, jobs=40, gpus=(), per_gpu=1).workers == 6  # no more than there are units
    on = replace(overview, settings=overview.settings | {"device": "cuda"})
    places = places_for(on, jobs=None, gpus=("0", "3"), per_gpu=2)
    assert (places.workers, places.gpus, places.per_gpu) == (4, ("0", "3"), 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    assert places_for(on, jobs=None, gpus=(), per_gpu=1).gpus == ("5", "6")


# the whole ---------------------------------------------------------------------------------------------------

STUDY = ["sweep", *SMALL, "--tasks", "3", "--seeds", "0-1", "--grid", "first_task_epochs=1,3", "--name", "study"]


def here(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What a command that starts no worker prints, run in this process."""
    assert call(list(arguments)) == code
    return capsys.readouterr().out


def test_a_sweep_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    planned = json.loads(here(capsys, *STUDY, "--dry-run", "--json"))
    assert len(planned["runs"]) == 4 and planned["cohorts"] == 4 and planned["seconds"] > 0
    assert list(tmp_path.iterdir()) == []
    arms = ["--arm", "plain=", "--arm", "broken=l2:strength=1e9"]
    first = ncpl(*STUDY, *arms, "--jobs", "2", "--json", cwd=tmp_path, code=3)
    found = json.loads(first.stdout)
    assert {key: found[key] for key in ("sweep", "total", "finished", "failed", "diverged", "skipped", "pending")} == {
        "sweep": "study", "total": 8, "finished": 4, "failed": 0, "diverged": 4, "skipped": 0, "pending": 0,
    }  # fmt: skip
    assert "4 of the runs of sweep study failed or diverged" in first.stderr
    assert json.loads(here(capsys, *STUDY, "--arm", "plain=", "--json"))["skipped"] == 4
    status = json.loads(here(capsys, "sweep", "status", "study", "--json"))
    assert (status["total"], status["finished"], status["diverged"], status["workers"]) == (8, 4, 4, [])
    assert here(capsys, "sweep", "status").splitlines()[1].startswith("study\t8\t4\t0\t4")
    labelled = json.loads(here(capsys, "runs", "list", "--name", "plain", "--json"))["runs"]
    assert len(labelled) == 4 and {tuple(run["names"]) for run in labelled} == {("plain", "study")}
    assert "0 runs of sweep study will be tried again" in here(capsys, "sweep", "retry", "study")
    assert "is cancelled" in here(capsys, "sweep", "cancel", "study")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    line = [*NCPL, "sweep", *SMALL, "--tasks", "100000", "--seeds", "0", "--jobs", "1", "--quiet"]
    parent = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not list(tmp_path.glob("ncpl.checkpoints/*/*.safetensors")):
        time.sleep(0.1)
    (worker,) = psutil.Process(parent.pid).children()
    parent.send_signal(number)
    _, said = parent.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert parent.returncode == 75 and "the same command goes on" in said
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    with open_store(tmp_path / "ncpl.db") as store:
        (row,) = store.runs()
        assert row.status == "interrupted" and row.epochs > 0  # it was given back, not left to its lease


def test_a_small_storm(tmp_path: Path, local: Store) -> None:
    shape = {"tasks": 60, "task_accuracy": "current"}
    enlist([arm([0, 1], **shape), arm([0, 1], batch_size=32, **shape)], local, "storm", Options(threads=1))
    work("storm", local, observer=Silent())
    line = sweep_line(2, 60, "storm.db", 2)[len(NCPL) :]
    hit = storm(tmp_path, line, kills=2, stalls=1, start=lambda given, folder: start(*given, cwd=folder))
    assert hit["workers killed"] == 2 and hit["stalls"] == 1
    assert compare(tmp_path / "a.db", tmp_path / "storm.db") == []


def test_a_dry_run_times_what_differs_in_numbers_alone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def seconds(cohort: Cohort, *_: object) -> float:
        asked.append(cohort.specs[0].id)
        return 2.0

    monkeypatch.setattr(estimate, "_seconds_per_epoch", seconds)
    data, timings = load(DatasetSpec("digits")), estimate.Timings()
    for lr in (0.1, 0.2, 0.3):
        spec = arm([0]).specs[0]
        spec = replace(spec, optimizer=replace(spec.optimizer, lr=lr))
        found = estimate.dry_run([spec], data, "cpu", timings=timings)
        assert found["seconds_one_by_one"] == 2.0 * found["runs"][0]["epochs"]
    assert len(asked) == 1
    estimate.dry_run([replace(spec, network=replace(spec.network, width=7))], data, "cpu", timings=timings)
    assert len(asked) == 2
