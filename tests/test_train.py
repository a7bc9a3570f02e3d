"""`ncpl train` as its user meets it: resume, repeat, extend, refuse; measuring changes nothing."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ncpl_cli import networks, timing, trainer
from ncpl_cli.data import load
from ncpl_cli.interventions import INTERVENTIONS
from ncpl_cli.main import call
from ncpl_cli.records import Address
from ncpl_cli.runs import batch
from ncpl_cli.scenarios import PermutedDigits
from ncpl_cli.spec import DatasetSpec
from ncpl_cli.store import Store, open_store
from tests.forked import go, start, wait_for

NCPL = [sys.executable, "-m", "ncpl_cli"]
SMALL = ["permuted-digits", "--train-samples", "300", "--width", "16", "--depth", "2"]


def ncpl(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = go(*arguments, cwd=cwd, seconds=240)
    assert done.code == code, done
    assert "Traceback" not in done.err
    return subprocess.CompletedProcess(arguments, done.code, done.out, done.err)


def contents(db: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything stored that training decides, by run id, without times and places."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as connection:
        for run, scenario_id in connection.execute("select pk, id from runs").fetchall():
            columns = [row[1] for row in connection.execute("pragma table_info(epochs)")]
            kept = ", ".join(c for c in columns if "seconds" not in c and c not in ("run", "created"))
            rows = connection.execute(f"select {kept} from epochs where run = ? order by epoch", (run,)).fetchall()
            rows += connection.execute(
                "select m.epoch, t.text, s.text, l.text, m.value from measurements m join terms t on t.id = m.metric "
                "join terms s on s.id = m.split join terms l on l.id = m.layer where m.run = ? order by 1, 2, 3, 4",
                (run,),
            ).fetchall()
            rows += connection.execute(
                "select epoch, evaluated_task, accuracy from task_accuracy where run = ? order by 1, 2", (run,)
            ).fetchall()
            found[scenario_id] = rows
    return found


def test_a_study_from_the_command_line(tmp_path: Path) -> None:
    arguments = ["train", *SMALL, "--tasks", "4", "--first-task-epochs", "3", "--seeds", "0-2", "--json", "--name", "x"]
    result = json.loads(ncpl(*arguments, cwd=tmp_path).stdout)
    assert result["db"] == "ncpl.db"
    assert [run["status"] for run in result["runs"]] == ["finished"] * 3
    assert [run["seed"] for run in result["runs"]] == [0, 1, 2]
    for run in result["runs"]:
        assert run["epochs"] == 6 and run["final"]["task"] == 3 and run["final"]["epoch"] == 6
        assert 0 < run["final"]["online_accuracy"] <= 1 and run["final"]["nc1"] > 0
        assert run["final"]["plasticity_loss"] is not None
    again = ncpl(*arguments, cwd=tmp_path)
    assert "nothing to train" in again.stderr
    assert json.loads(again.stdout)["runs"][0]["epochs"] == 6
    rows = contents(tmp_path / "ncpl.db")[result["runs"][0]["id"]]
    assert len(rows) > 100


def test_plasticity_loss_is_null_in_the_first_task_and_follows_its_definition_later(tmp_path: Path) -> None:
    ncpl("train", *SMALL, "--tasks", "3", "--epochs", "2,3", cwd=tmp_path)
    with sqlite3.connect(tmp_path / "ncpl.db") as connection:
        rows = connection.execute(
            "select epoch, task, task_epoch, online_accuracy, plasticity_loss, plasticity_loss_b24 from epochs "
            "where epoch > 0 order by epoch"
        ).fetchall()
        reasons = connection.execute(
            "select distinct r.text from undefined u join terms m on m.id = u.metric join terms r on r.id = u.reason "
            "where m.text = 'plasticity_loss' and u.epoch > 0"
        ).fetchall()
    assert [(r[1], r[2]) for r in rows] == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    first = rows[0][3]
    assert [r[4] for r in rows[:2]] == [None, None]
    for task in (1, 2):
        mine = [r for r in rows if r[1] == task]
        assert {r[4] for r in mine} == {first - mine[0][3]}
        assert [r[5] for r in mine[:-1]] == [None, None]
        mean_first = sum(r[3] for r in rows[:2]) / 2
        assert mine[-1][5] == pytest.approx(mean_first - sum(r[3] for r in mine) / 3, abs=1e-12)
    assert reasons == [("first task",)]


def test_measuring_changes_nothing_and_neither_does_company(tmp_path: Path) -> None:
    common = [*SMALL, "--tasks", "3", "--epochs", "2", "--seeds"]
    ncpl("train", *common, "0", "--db", "every.db", "--layers", "all", cwd=tmp_path)
    ncpl("train", *common, "0-2", "--db", "rare.db", "--measure-every", "99", cwd=tmp_path)
    states = []
    for name in ("every", "rare"):
        run = next(iter((tmp_path / f"{name}.checkpoints").glob("*"))).name
        run = min(contents(tmp_path / f"{name}.db"), key=lambda r: r != run) if name == "every" else states[0][0]
        (checkpoint,) = (tmp_path / f"{name}.checkpoints" / run).glob("*.safetensors")
        states.append((run, checkpoint.read_bytes()))
    assert states[0][1] == states[1][1]


@pytest.mark.parametrize("extra", [[], ["--batch-size", "32"]], ids=["online", "stacked"])
def test_a_further_metric_is_replayed_not_retrained(tmp_path: Path, extra: list[str]) -> None:
    common = ["train", *SMALL, *extra, "--tasks", "3", "--seeds", "0,1"]
    ncpl(*common, "--metrics", "nc2", "--db", "a.db", cwd=tmp_path)
    said = ncpl(*common, "--layers", "all", "--db", "a.db", cwd=tmp_path).stderr
    assert "is finished; its epochs are replayed for" in said and "all layers" in said
    ncpl(*common, "--layers", "all", "--db", "b.db", cwd=tmp_path)
    assert contents(tmp_path / "a.db") == contents(tmp_path / "b.db")
    assert "nothing to train" in ncpl(*common, "--layers", "all", "--db", "a.db", cwd=tmp_path).stderr


@pytest.mark.parametrize("extra", [[], ["--batch-size", "32", "--optimizer", "adam"]], ids=["online", "stacked"])
def test_a_longer_horizon_equals_one_long_run(tmp_path: Path, extra: list[str]) -> None:
    common = ["train", *SMALL, *extra, "--seeds", "0,1", "--first-task-epochs", "2"]
    ncpl(*common, "--tasks", "3", "--db", "two.db", cwd=tmp_path)
    said = ncpl(*common, "--tasks", "6", "--db", "two.db", cwd=tmp_path).stderr
    assert "goes on after epoch 4" in said
    ncpl(*common, "--tasks", "6", "--db", "one.db", cwd=tmp_path)
    assert contents(tmp_path / "two.db") == contents(tmp_path / "one.db")


def unhurried() -> None:
    """Store each epoch by itself, thirty milliseconds apart: whoever watches can act before the end."""
    save = Store.save

    def slowly(*given: Any, **named: Any) -> None:
        time.sleep(0.03)
        save(*given, **named)

    batch.SHORT_SECONDS = 0.0
    Store.save = slowly  # type: ignore[method-assign]


def stored(db: Path) -> int:
    """Epochs in a store, of all runs; none while it is being made."""
    with contextlib.suppress(sqlite3.OperationalError), sqlite3.connect(f"file:{db}?mode=ro", uri=True) as connection:
        return int(connection.execute("select count(*) from epochs").fetchone()[0])
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--batch-size", "32", "--momentum", "0.9"]], ids=["online", "stacked"])
def test_kills_at_random_instants_lose_nothing(tmp_path: Path, extra: list[str]) -> None:
    """A small sibling of benchmarks/kill.py, which does it fifty times: each time some epochs further."""
    arguments = ["train", *SMALL, *extra, "--tasks", "40", "--seeds", "0-1"]
    ncpl(*arguments, "--db", "calm.db", cwd=tmp_path)
    draw = random.Random(0)
    for number in range(4):
        child = start(*arguments, "--db", "storm.db", cwd=tmp_path, before=unhurried)
        enough = 2 * (3 + 8 * number + draw.randrange(6))
        wait_for(lambda: child.poll() is not None or stored(tmp_path / "storm.db") > enough)  # noqa: B023
        time.sleep(0.02 * draw.random())
        assert child.poll() is None, "it ended before it could be killed"
        child.kill()
        assert child.wait().code == -signal.SIGKILL
    ncpl(*arguments, "--db", "storm.db", cwd=tmp_path)
    assert contents(tmp_path / "storm.db") == contents(tmp_path / "calm.db")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_signals_stop_after_a_checkpoint(tmp_path: Path, number: int, code: int) -> None:
    arguments = ["train", "permuted-digits", "--tasks", "2000", "--width", "16", "--depth", "1"]
    child = start(*arguments, cwd=tmp_path)
    wait_for(lambda: bool(list(tmp_path.glob("ncpl.checkpoints/*/*.safetensors"))), 60)
    child.send_signal(number)
    done = child.wait()
    said = done.err
    assert done.code == code, said
    assert "error: stopped by" in said and "hint: the same command goes on" in said and "Traceback" not in said
    with sqlite3.connect(tmp_path / "ncpl.db") as connection:
        status, rows = connection.execute("select status, (select max(epoch) from epochs) from runs").fetchone()
    assert status == "interrupted"
    (checkpoint,) = tmp_path.glob("ncpl.checkpoints/*/*.safetensors")
    assert checkpoint.name == f"epoch-{rows:08d}.safetensors"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "permuted-digit"], 2, "Did you mean 'permuted-digits'"),
        (["train", "permuted-digits", "--network", "mpl"], 2, "Did you mean 'mlp'"),
        (["train", "permuted-digits", "--widht", "3"], 2, "--widht"),
        (["train", "permuted-digits", "--seed", "0", "--seeds", "0-3"], 2, "give one"),
        (["train", "permuted-digits", "--seeds", "4-1"], 2, "not a list of whole numbers"),
        (["train", "permuted-digits", "--device", "cuda:9"], 2, "no device"),
        (["train", "permuted-digits", "--engine", "online", "--momentum", "0.9"], 2, "cannot carry"),
        (["train", "permuted-digits", "--dataset", "folder:nowhere"], 1, "there is no folder"),
        (["train", "permuted-digits", "--db", "no/such/place.db"], 4, "no/such"),
        (["train", "permuted-digits", "--db", "text.db"], 4, "text.db"),
        (["train", "permuted-digits", "--keep-checkpoints", "some"], 2, "every:K"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence_and_a_hint(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    (tmp_path / "text.db").write_text("this is no database\n" * 50)
    said = ncpl(*arguments, cwd=tmp_path, code=code)
    assert said.stderr.startswith("error: ") or "\nerror: " in said.stderr
    assert words in said.stderr and said.stdout == ""


def test_a_run_that_diverges_says_so_and_leaves_the_others_alone(tmp_path: Path) -> None:
    arguments = ["train", "permuted-digits", "--tasks", "3", "--lr", "1e6", "--json"]
    said = ncpl(*arguments, cwd=tmp_path, code=1)
    assert json.loads(said.stdout)["runs"][0]["status"] == "diverged"
    assert "diverged" in said.stderr and "smaller --lr" in said.stderr


def test_a_first_task_until_collapse(tmp_path: Path) -> None:
    arguments = ["train", "permuted-digits", "--tasks", "2", "--first-task-nc1", "0.5", "--seeds", "0,1"]
    ncpl(*arguments, cwd=tmp_path)
    with sqlite3.connect(tmp_path / "ncpl.db") as connection:
        rows = connection.execute(
            "select run, nc1 from epochs where task = 0 and epoch > 0 order by run, epoch"
        ).fetchall()
    for run in {r[0] for r in rows}:
        course = [nc1 for r, nc1 in rows if r == run]
        assert course[-1] < 0.5 and all(nc1 >= 0.5 for nc1 in course[:-1])


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    said = ncpl("train", "permuted-digits", "--seeds", "0-2", "--dry-run", "--json", cwd=tmp_path)
    document = json.loads(said.stdout)
    assert [run["epochs"] for run in document["runs"]] == [140] * 3 and document["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_options_are_taken_before_and_after_the_command(tmp_path: Path) -> None:
    ncpl("--db", "a.db", "--quiet", "train", *SMALL, "--tasks", "1", cwd=tmp_path)
    ncpl("train", *SMALL, "--tasks", "1", "--db", "b.db", "--quiet", cwd=tmp_path)
    assert {"a.db", "b.db"} <= {path.name for path in tmp_path.iterdir()}
    assert go("train", *SMALL, "--tasks", "1", "-q", cwd=tmp_path, env={"NCPL_DB": "c.db"}).code == 0
    assert (tmp_path / "c.db").is_file()


def test_the_fresh_gap_is_a_fresh_networks_head_start(tmp_path: Path) -> None:
    """Against plain loops: each task's fresh network, drawn from a stream of its own, in the same data order."""
    ncpl("train", "permuted-digits", "--tasks", "3", "--train-samples", "200", "--batch-size", "8", "--width", "16",
         "--lr", "0.1", "--seed", "5", "--fresh-baseline", cwd=tmp_path)  # fmt: skip
    data = load(DatasetSpec("digits", train_samples=200))
    with open_store(tmp_path / "ncpl.db", create=False) as store:
        run = store.runs()[0].id
        columns = store.series([Address("fresh_gap"), Address("online_accuracy")], [run])[run]
    for index in range(3):
        task = PermutedDigits.of({"tasks": 3}).task(index, data, 5)
        network = networks.build("mlp", data.shape, 10, 5, stream=f"fresh network task {index}", width=16)
        x = torch.from_numpy(data.train.images).flatten(1).float() / data.scale
        x = x if task.pixel_order is None else x[:, torch.from_numpy(task.pixel_order)]
        y, correct = torch.from_numpy(task.train_labels), 0
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for shown in torch.from_numpy(task.order(1)).split(8):
            logits = network(x[shown])
            correct += int((logits.argmax(1) == y[shown]).sum())
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, y[shown]).backward()
            optimizer.step()
        fresh = columns["fresh_gap"][index + 1] + columns["online_accuracy"][index + 1]
        assert fresh == pytest.approx(correct / 200, abs=1.5 / 200)  # float32: another order of sums
    assert np.unique(columns["fresh_gap"][1:]).size == 3


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    """Trains two short tasks with what is given and returns the feature norm they end with."""
    from typer.testing import CliRunner

    from ncpl_cli.main import app

    def train(*more: str) -> float:
        db = tmp_path_factory.mktemp("short") / "ncpl.db"
        result = CliRunner().invoke(
            app,
            ["train", "permuted-digits", "--tasks", "2", "--train-samples", "100", "--batch-size", "25", "--width", "8",
             "--momentum", "0.5", "--depth", "1", "--lr", "0.3", "--db", str(db), *more],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        with open_store(db) as store:
            run = store.runs()[0]
            assert run.status == "finished"
            assert [t.partition(":")[0] for t in run.settings["interventions"]] == [
                m.partition(":")[0] for m in more[1:] if not m.startswith("weight_decay")
            ]
            return float(store.final(run.id)["feature_norm"])

    return train


STRONG = {
    **{name: f"{name}:strength=0.5" for name in ("nc1", "nc2", "nc3", "nc4", "cdnv", "l2", "l2_init")},
    "spectral": "spectral:strength=0.05",
    "redo": "redo:tau=0.9,steps=2", "continual_backprop": "continual_backprop:rate=0.5,maturity=1",
    "weight_decay": "weight_decay:strength=0.1",
}  # fmt: skip


@pytest.mark.parametrize("name", [*INTERVENTIONS, "weight_decay"])
def test_every_intervention_can_be_asked_for_on_several_tasks_and_acts(short: Callable[..., float], name: str) -> None:
    assert short("--intervention", STRONG.get(name, name)) != short()


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("each", [1e-7, 1e-4, 1.0])
def test_a_dry_run_times_what_is_long_enough_to_be_timed(
    batch: int, each: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine where the first step of all takes a second, and every later sample as long as every other."""
    shown: list[int] = []

    class Steady:
        notes: ClassVar[list[str]] = []

        def train_epoch(self, tasks: object, orders: list[NDArray[np.int64]], lr: float) -> list[SimpleNamespace]:
            shown.append(len(orders[0]))
            return [SimpleNamespace(seconds=each * len(orders[0]) + (len(shown) == 1))]

    whole = trainer.begin
    monkeypatch.setattr(trainer, "begin", lambda cohort, data: (whole(cohort, data)[0], Steady()))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: 0.0))  # measuring takes none
    # of all layers, so that the engine itself is timed, not its kernel alone
    line = ["train", "permuted-digits", "--tasks", "3", "--batch-size", str(batch), "--layers", "all"]
    assert call([*line, "--db", str(tmp_path / "a.db"), "--dry-run", "--json"]) == 0
    samples = 1437  # of the bundled digits
    assert json.loads(capsys.readouterr().out)["seconds"] == pytest.approx(3 * samples * each)
    assert each * shown[-1] >= timing.TIMED_SECONDS or shown[-1] == samples
    assert each * sum(shown[:-1]) < 2 * timing.TIMED_SECONDS + each * batch
