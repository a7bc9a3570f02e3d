"""Warm starting: halves, probes as runs of their own, what they put on the parent's row, and being killed."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli import networks
from ncpl_cli.data import Dataset
from ncpl_cli.metrics.catalogue import AT_END
from ncpl_cli.runs import checkpoints
from ncpl_cli.scenarios.warm_start import WarmStart
from tests import forked
from tests.test_train import contents, ncpl, unhurried

SMALL = ["warm-start", "--dataset", "digits", "--width", "16", "--depth", "2", "--warm-up-epochs", "6"]
SHORT = [*SMALL, "--probe-every", "3", "--probe-max-epochs", "8", "--probe-accuracy", "0.7"]


def rows_of(db: Path) -> dict[str, dict[str, Any]]:
    with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        return {row["id"]: dict(row) for row in connection.execute("select * from runs")}


def values_of(db: Path, run: str, epoch: int) -> tuple[dict[str, float], dict[str, str]]:
    from ncpl_cli.store import open_store

    with open_store(db) as store:
        values = {str(a): v for a, v in store.values(run, epoch).items()}
        return values, {str(a): why for a, why in store.reasons(run, epoch).items()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds with probes after epochs 0, 3 and 6."""
    folder = tmp_path_factory.mktemp("warm")
    ncpl("train", *SHORT, "--seeds", "0-1", "--name", "w", cwd=folder)
    return folder


def test_a_half_is_random_by_seed_and_nothing_else_is_shown(digits: Dataset) -> None:
    scenario = WarmStart.of({"warm_up_fraction": 0.5})
    one, other = (scenario.task(0, digits, seed) for seed in (0, 1))
    shown = np.sort(one.order(1))
    assert len(shown) == round(0.5 * 1437) and np.array_equal(shown, np.sort(one.order(7)))
    assert np.array_equal(one.parts["train"].images, digits.train.images[shown])
    assert not np.array_equal(shown, np.sort(other.order(1)))
    probe = scenario.probe("p", 3).task(0, digits, 0)
    assert np.array_equal(np.sort(probe.order(1)), np.arange(1437))
    again = scenario.probe("p", 6).task(0, digits, 0)
    assert np.array_equal(probe.order(4), again.order(4))  # probes of one seed compare: they see the same orders


def test_held_out_classes_are_never_trained_on(digits: Dataset) -> None:
    scenario = WarmStart.of({"hold_out_classes": (8, 9)})
    for task in (scenario.task(0, digits, 0), scenario.probe("p", 3).task(0, digits, 0)):
        assert set(task.train_labels[task.order(1)]) == set(range(8))
        assert set(task.parts["test"].labels) == set(range(8)) and set(task.parts["unseen"].labels) == {8, 9}


def test_probes_are_runs_with_a_parent_and_their_results_stand_on_its_rows(study: Path) -> None:
    runs = rows_of(study / "ncpl.db")
    parents = [run for run in runs.values() if run["scenario"] == "warm-start"]
    probes = [run for run in runs.values() if run["scenario"] == "warm-start-probe"]
    assert len(parents) == 2 and len(probes) == 6
    assert all(run["status"] == "finished" for run in runs.values())
    for parent in parents:
        own = {run["branch_epoch"]: run for run in probes if run["parent"] == parent["id"]}
        assert sorted(own) == [0, 3, 6]
        cold = None
        for epoch, run in sorted(own.items()):
            values, reasons = values_of(study / "ncpl.db", parent["id"], epoch)
            with sqlite3.connect(study / "ncpl.db") as connection:
                series = connection.execute(
                    "select online_accuracy, test_accuracy from epochs where run = ? and epoch > 0 order by epoch",
                    (run["pk"],),
                ).fetchall()
            reached = series[-1][0] > 0.7
            assert all(online <= 0.7 for online, _ in series[:-1])
            assert values["probe_test_accuracy"] == series[-1][1]
            assert values["probe_epochs_to_fit"] == len(series) and values["probe_cap_hit"] == float(not reached)
            if epoch == 0:
                cold = values
                assert reasons["warm_start_gap"] == "it is the cold start"
            elif cold is not None and not values["probe_cap_hit"] and not cold["probe_cap_hit"]:
                assert values["warm_start_gap"] == cold["probe_test_accuracy"] - values["probe_test_accuracy"]
            else:
                assert reasons["warm_start_gap"] == "cap"
    for epoch in (1, 2, 4, 5):
        assert "probe_test_accuracy" not in values_of(study / "ncpl.db", parents[0]["id"], epoch)[0]


def test_a_probe_that_hits_the_cap_says_so_and_gives_no_gap(tmp_path: Path) -> None:
    ncpl("train", *SMALL, "--probe-every", "6", "--probe-max-epochs", "1", cwd=tmp_path)
    parent = next(run for run in rows_of(tmp_path / "ncpl.db").values() if run["parent"] is None)
    values, reasons = values_of(tmp_path / "ncpl.db", parent["id"], 6)
    assert values["probe_cap_hit"] == 1.0 and values["probe_epochs_to_fit"] == 1.0
    assert "warm_start_gap" not in values and reasons["warm_start_gap"] == "cap"


def test_a_probe_is_solo_training_from_the_checkpoint(study: Path, digits: Dataset) -> None:
    """Against a plain loop: the weights of epoch 3, SGD, all data, until the running accuracy passes 0.7."""
    runs = rows_of(study / "ncpl.db")
    probe = next(r for r in runs.values() if r["branch_epoch"] == 3 and r["seed"] == 0)
    network = networks.build("mlp", digits.shape, 10, 0, width=16, depth=2)
    _, saved = checkpoints.read(study / "ncpl.checkpoints", probe["parent"], 3)
    network.load_state_dict({k.removeprefix("network."): v for k, v in saved.items() if k.startswith("network.")})
    settings = json.loads(probe["settings"])
    task = WarmStart.of({}).probe("p", 3).task(0, digits, 0)
    x = torch.from_numpy(digits.train.images).flatten(1).float() / 16
    y = torch.from_numpy(digits.train.labels)
    accuracies = []
    for epoch in range(1, 9):
        order, correct = task.order(epoch), 0
        for start in range(0, len(order), settings["batch_size"]):
            index = torch.from_numpy(order[start : start + settings["batch_size"]])
            network.zero_grad()
            logits = network(x[index])
            torch.nn.functional.cross_entropy(logits, y[index]).backward()
            correct += int((logits.argmax(1) == y[index]).sum())
            with torch.no_grad():
                for p in network.parameters():
                    p -= settings["lr"] * p.grad  # type: ignore[operator]
        accuracies.append(correct / len(order))
        if accuracies[-1] > 0.7:
            break
    with sqlite3.connect(study / "ncpl.db") as connection:
        stored = connection.execute(
            "select online_accuracy from epochs where run = ? and epoch > 0 order by epoch", (probe["pk"],)
        ).fetchall()
    assert len(stored) == len(accuracies)
    assert np.abs(np.array(stored)[:, 0] - accuracies).max() < 3 / 1437  # float32, another order of sums


def test_probes_later_are_run_by_ncpl_probe_to_the_same_bits(study: Path, tmp_path: Path) -> None:
    ncpl("train", *SHORT, "--seeds", "0-1", "--probes", "later", cwd=tmp_path)
    assert {run["scenario"] for run in rows_of(tmp_path / "ncpl.db").values()} == {"warm-start"}
    result = json.loads(ncpl("probe", "--json", cwd=tmp_path).stdout)
    assert result["probes"] == {"finished": 6}
    assert contents(tmp_path / "ncpl.db") == contents(study / "ncpl.db")
    again = ncpl("probe", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["probes"] == {"finished": 6}


def test_a_longer_warm_up_goes_on_from_the_last_checkpoint(study: Path, tmp_path: Path) -> None:
    short = [*SHORT, "--seeds", "0-1"]
    short[short.index("--warm-up-epochs") + 1] = "3"
    ncpl("train", *short, cwd=tmp_path)
    ncpl("train", *SHORT, "--seeds", "0-1", cwd=tmp_path)
    parents = {r["id"] for r in rows_of(study / "ncpl.db").values() if r["parent"] is None}
    ours, theirs = contents(tmp_path / "ncpl.db"), contents(study / "ncpl.db")
    for run in parents:  # probes were in other cohorts: equal in kind, not to the bit
        was_last = {
            3: AT_END | {"task_online_accuracy"}
        }  # its warm-up once ended there, so that what is due at the end was measured there too
        kept = [
            [row for row in of[run] if not isinstance(row[1], str)
             or ("probe" not in row[1] and "gap" not in row[1] and row[1] not in was_last.get(row[0], ()))]
            for of in (ours, theirs)
        ]  # fmt: skip
        wide, other = ([row for row in of if not isinstance(row[1], str)] for of in kept)
        for row, same in zip(wide, other, strict=True):
            assert all(a == b or (row[0] == 3 and b is None) for a, b in zip(row, same, strict=True))
        assert [row for row in kept[0] if row not in wide] == [row for row in kept[1] if row not in other]


@pytest.mark.parametrize("part", ["warm-up", "probe"])
def test_killed_in_either_phase_it_ends_with_the_same_bits(study: Path, tmp_path: Path, part: str) -> None:
    command = ["train", *SHORT, "--seeds", "0-1"]
    query = "select count(*) from epochs join runs on runs.pk = epochs.run where scenario = ? and epoch > 1"
    scenario = "warm-start" if part == "warm-up" else "warm-start-probe"
    for _ in range(2):
        process = forked.start(*command, cwd=tmp_path, before=unhurried)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with sqlite3.connect(f"file:{tmp_path / 'ncpl.db'}?mode=ro", uri=True) as connection:
                    if connection.execute(query, (scenario,)).fetchone()[0]:
                        break
            except sqlite3.OperationalError:
                pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    ncpl("train", *SHORT, "--seeds", "0-1", cwd=tmp_path)
    assert contents(tmp_path / "ncpl.db") == contents(study / "ncpl.db")


def test_measuring_all_layers_and_unseen_classes(tmp_path: Path) -> None:
    ncpl("train", *SMALL, "--hold-out-classes", "7-9", "--layers", "all", "--probes", "later", cwd=tmp_path)
    parent = next(iter(rows_of(tmp_path / "ncpl.db")))
    values, _ = values_of(tmp_path / "ncpl.db", parent, 6)
    assert {"nc1", "nc1@test", "nc1@unseen", "nc1@unseen/layer1"} <= values.keys()
    assert values["test_accuracy"] > 0.5  # of the classes that were trained on


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    for extra, words in (
        (["--hold-out-classes", "1-9"], "two of them must remain"),
        (["--probes", "never"], "known: later, now"),
        (["--intervention", "nc1", "--batch-size", "8"], "at least 20"),
        (["--network", "resnet18", "--depth", "3", "--intervention", "redo"], "cannot be chosen"),
        (["--weight-decay", "0.1", "--intervention", "weight_decay:strength=0.2"], "give one"),
    ):
        arguments = [a for a in SMALL if not (a in ("--depth", "2") and "--network" in extra)]
        done = ncpl("train", *arguments, *extra, cwd=tmp_path, code=2)
        assert words in done.stderr, done.stderr
    assert not (tmp_path / "ncpl.db").exists()
