"""A user's own training loop into the store: rows, leases, resumption, and the way into analysis and export."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli.errors import InputError, LeaseLost
from ncpl_cli.main import call
from ncpl_cli.metrics import collapse
from ncpl_cli.records import Address
from ncpl_cli.store import Owner, Store, open_store
from tests.test_collapse import sample


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "own.db")


def test_a_few_lines_record_a_run(store: Store) -> None:
    x, y, w, b = sample()
    with store.run("their-scenario", seed=3, name="theirs", config={"lr": np.float32(0.5), "width": 8}) as run:
        assert run.last_epoch == 0
        run.record(epoch=0, metrics={"test_accuracy": 0.1})
        run.record(
            epoch=1, metrics={"online_accuracy": 0.7, "loss@test": torch.tensor(0.25), "train_loss": float("nan")},
            features=torch.from_numpy(x), labels=torch.from_numpy(y), weight=w, bias=b, samples_seen=300,
        )  # fmt: skip
        run.record(epoch=2, task=1, metrics={"nc1": 0.125}, features=np.zeros_like(x), labels=y)
        run.record(epoch=4, task=1, metrics={"own_metric@test/layer2": 2, "nothing": None})
        assert run.last_epoch == 4
    row = store.run(run.id)
    assert (row.scenario, row.seed, row.status, row.names) == ("their-scenario", 3, "finished", ("theirs",))
    assert row.settings == {"lr": 0.5, "width": 8} and row.seconds > 0 and not row.held
    assert [(r["epoch"], r["task"], r["task_epoch"], r["samples_seen"]) for r in store.rows(run.id)] == [
        (0, 0, 0, 0), (1, 0, 1, 300), (2, 1, 1, 300), (4, 1, 3, 300),
    ]  # fmt: skip
    values, expected = store.values(run.id, 1), collapse(x, y, w, b)
    assert all(values[Address(name)] == value for name, value in expected.values.items())
    assert values[Address("loss", "test")] == 0.25 and Address("effective_rank") in values
    assert store.reasons(run.id, 1)[Address("train_loss")] == "not finite"
    # what is given goes before what is measured, of which a dead layer has no nc1
    assert store.values(run.id, 2)[Address("nc1")] == 0.125
    reasons = store.reasons(run.id, 2)
    assert Address("nc1") not in reasons and reasons[Address("cdnv")] == "no between-class scatter"
    assert store.values(run.id, 4) == {Address("own_metric", "test", "layer2"): 2.0}
    assert store.reasons(run.id, 4) == {Address("nothing"): "not given"}
    assert store.attempts(run.id)[0]["provenance"]["engine"] == "recorder" and store.check() == []


def test_the_same_run_goes_on(store: Store) -> None:
    def loop(until: int, start: int | None = None, **other: Any) -> str:
        with store.run("s", seed=0, config={"a": [1, 2], **other}) as run:
            begin = run.last_epoch + 1 if start is None else start
            for epoch in range(begin, until + 1):
                run.record(epoch=epoch, metrics={"nc1": 1 / epoch, "from": begin})
        return run.id

    first = loop(3)
    assert loop(5) == first and loop(5) == first  # the third time there is nothing to do
    assert [store.values(first, e)[Address("from")] for e in range(1, 6)] == [1, 1, 1, 4, 4]
    # their checkpoint was older: what lies behind it is taken back
    assert loop(4, start=2) == first and store.last_epoch(first) == 4
    assert [store.values(first, e)[Address("from")] for e in range(1, 5)] == [1, 2, 2, 2]
    assert loop(1, b=1) != first
    assert [a["outcome"] for a in store.attempts(first)] == ["finished"] * 4


def test_exceptions_leave_their_mark(store: Store) -> None:
    def stop(error: BaseException) -> str:
        run = store.run("s", seed=len(str(error)))
        with pytest.raises(type(error)), run:
            run.record(epoch=1, metrics={"nc1": 1.0})
            raise error
        return run.id

    failed = store.run(stop(ZeroDivisionError("no")))
    assert (failed.status, failed.error, failed.held) == ("failed", "ZeroDivisionError: no", False)
    interrupted = store.run(stop(KeyboardInterrupt("ctrl c")))
    assert (interrupted.status, interrupted.epochs, interrupted.held) == ("interrupted", 1, False)
    with store.run("s", seed=2) as again:  # and it goes on
        assert again.id == failed.id and again.last_epoch == 1
    assert store.run(failed.id).status == "finished" and store.run(failed.id).error is None


def test_two_processes_do_not_write_one_run(store: Store) -> None:
    with pytest.raises(LeaseLost, match="taken over"), store.run("s", seed=0) as run:
        with pytest.raises(LeaseLost, match="is being trained by process"), store.run("s", seed=0):
            pass
        dead = replace(Owner.current(), pid=2**22 - 1)  # as if this process had died and another had taken over
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE runs SET owner = ?", (str(dead),))
        store.claim([run.id], Owner.current(), {})
        run.record(epoch=1, metrics={"nc1": 1.0})
    assert store.run(run.id).held  # by the other
    assert store.rows(run.id) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epoch": 2}, "epochs count upwards"), ({"epoch": -1}, "epoch must be a number that counts"),
        ({"epoch": 3, "task": 0}, "tasks count upwards"), ({"epoch": 3.5}, "epoch must be"),
        ({"epoch": 3, "metrics": {"epoch": 1}}, "no metric can be called 'epoch'"),
        ({"epoch": 3, "metrics": {"nc1": "low"}}, "metric nc1 must be one number"),
        ({"epoch": 3, "metrics": {"nc1": [1, 2]}}, "metric nc1 must be one number"),
        ({"epoch": 3, "features": np.zeros((2, 2))}, "features and labels belong together"),
        ({"epoch": 3, "features": np.zeros((2, 2)), "labels": np.zeros(3, int)}, "labels must be 2 integers"),
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sense_stores_nothing(store: Store, arguments: dict[str, Any], words: str) -> None:
    with store.run("s", seed=0) as run:
        run.record(epoch=2, task=1)
        with pytest.raises(InputError, match=words):
            run.record(**{"task": 1, **arguments})
    assert len(store.rows(run.id)) == 1
    with pytest.raises(InputError, match="inside its with block"):
        run.record(epoch=9)


def test_settings_must_be_json(store: Store) -> None:
    with pytest.raises(InputError, match="what JSON can"):
        store.run("s", seed=0, config={"net": object()})
    with pytest.raises(InputError, match="needs a seed"):
        store.run("s", config={})  # type: ignore[call-overload]


def test_recorded_runs_are_analysed_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for treated in (0, 1):
        for seed in range(3):
            config = {"interventions": ["nc1"] if treated else [], "lr": 0.1}
            with open_store("ncpl.db").run("mine", seed=seed, name="study", config=config) as run:
                for epoch in range(1, 9):
                    noise = draw.normal()
                    run.record(
                        epoch=epoch, task=epoch - 1,
                        metrics={
                            "online_accuracy": 0.9 - 0.1 * noise + 0.01 * treated, "nc1": noise + 0.01 * draw.normal(),
                        },
                    )  # fmt: skip
    assert call(["correlate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["groups"]
    assert [group["n_runs"] for group in found] == [3, 3]
    # plasticity loss follows from the online accuracies: here all but a straight line of nc1
    assert all(0.99 < group["overall"]["mean_r"] < 1 for group in found)
    assert call(["compare", "--y", "online_accuracy", "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert [len(arm["gain"]["per_seed"]) for arm in comparison["arms"]] == [3]
    assert call(["export"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 6 * 8 and "mine" in lines[1]
    assert call(["db", "check"]) == 0


def test_recording_numbers_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ncpl_cli.store import open_store\n"
        "with open_store('a.db').run('s', seed=0) as run:\n    run.record(epoch=1, metrics={'nc1': 1.0})\n"
        "assert not {'torch', 'numba'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
