"""Measuring when it matters: named epochs, a task's start, a task's whole, a fresh network over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli import settings
from ncpl_cli.data import Dataset
from ncpl_cli.errors import InputError
from ncpl_cli.metrics import measure
from ncpl_cli.metrics.snapshot import Snapshot
from ncpl_cli.plan import Cohort
from ncpl_cli.records import Address, EpochRecord
from ncpl_cli.scenarios import scenario_named, task_of
from ncpl_cli.spec import RunSpec
from ncpl_cli.trainer import Epoch, Start, begin, build, part, train


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    return replace(digits, train=digits.train.take(np.arange(200)), test=digits.test.take(np.arange(40)))


def spec_of(data: Dataset, **more: Any) -> RunSpec:
    given = {"tasks": 2, "epochs": (3,), "width": 8, "depth": 2, "batch_size": 32, "precision": "float64"} | more
    kind = scenario_named("permuted-digits")
    return settings.specs(kind, given, data, settings.dataset_spec(kind, given), [3])[0]


def trained(spec: RunSpec, data: Dataset) -> tuple[list[EpochRecord], list[Epoch]]:
    epochs = list(train(Cohort((spec,), "stacked", "cpu"), data))
    return [epoch.records[0] for epoch in epochs if epoch.records[0] is not None], epochs


def test_the_task_s_mean_stands_at_its_last_epoch(few: Dataset) -> None:
    records, _ = trained(spec_of(few, metrics=("nc1",)), few)
    online = [float(record.get("online_accuracy") or 0) for record in records[1:]]
    for number, record in enumerate(records[1:]):
        found = record.get("task_online_accuracy")
        if record.task_epoch < 3:
            assert found is None and record.undefined[Address("task_online_accuracy")] == "not the task's last epoch"
        else:
            assert found == pytest.approx(np.mean(online[number - 2 : number + 1]), abs=1e-15)


def test_named_epochs_get_everything_and_others_nothing_expensive(few: Dataset) -> None:
    names = ("default", "ntk_effective_rank")
    often, _ = trained(spec_of(few, metrics=names), few)
    named, _ = trained(spec_of(few, metrics=names, measure_at="0,2,4"), few)
    rare, _ = trained(spec_of(few, metrics=names, measure_at="2", measure_every=100), few)
    assert [record.get("ntk_effective_rank") is not None for record in often] == [True] * 7
    assert [record.get("ntk_effective_rank") is not None for record in named] == [e in (0, 2, 4) for e in range(7)]
    assert all(record.get("nc1") is not None for record in named)
    assert [record.get("gradient_norm") is not None for record in named] == [e in (0, 2, 3, 4, 6) for e in range(7)]
    assert [record.get("nc1") is not None for record in rare] == [e in (0, 2, 3, 6) for e in range(7)]
    for one, other in zip(often, named, strict=True):
        assert all(other.values[a] == one.values[a] for a in other.values if a in one.values)


def test_before_a_task_s_first_step_its_data_are_measured(few: Dataset) -> None:
    """Against a look at the network that the task before left behind, on the new task's pixels."""
    names = ("nc1", "default@start", "ntk_effective_rank@start", "hessian_top")
    spec = spec_of(few, metrics=names, layers="all")
    records, epochs = trained(spec, few)
    assert all(any(a.split == "start" for a in record.values) == (record.task_epoch == 1) for record in records)
    network = build(spec, few)
    initial = {name: value.detach().clone() for name, value in network.named_parameters()}
    epochs = []
    for epoch in train(Cohort((spec,), "stacked", "cpu"), few):
        epochs.append(part(epoch.state()[0], "network."))
        if len(epochs) == 4:  # task 0 is over
            break
    network.load_state_dict(epochs[-1])
    task = task_of(spec, 1, few)
    wanted = {a.metric for a in records[4].values if a.split == "start"}
    assert {"gradient_norm", "dead_units", "preactivation_mean", "weight_norm", "ntk_effective_rank", "nc1"} <= wanted
    found = measure(Snapshot(network, few, task, initial, "cpu", None, spec.optimizer.lr), tuple(wanted), "all")
    for address, value in records[4].values.items():
        if address.split == "start":
            assert value == pytest.approx(found.values[Address(address.metric, "train", address.layer)], rel=1e-9)
    assert records[4].values[Address("hessian_top")]  # curvature keeps its own name
    assert records[4].values[Address("nc1")] != records[4].values[Address("nc1", "start")]


@pytest.mark.parametrize("over", ["first", "task"])
@pytest.mark.parametrize("cut", [None, 2])
def test_a_fresh_network_over_a_task_or_its_first_epoch(few: Dataset, over: str, cut: int | None) -> None:
    """Against the engine itself, trained on the task alone; also when the run goes on in the middle of one."""
    spec = spec_of(few, metrics=("nc1",), fresh_baseline=True, fresh_baseline_over=over)
    cohort = Cohort((spec,), "stacked", "cpu")
    records, _ = trained(spec, few)
    if cut is not None:
        run = train(cohort, few)
        for _ in range(cut + 1):
            now = next(run)
        history = [(r.task, r.task_epoch, float(r.get("online_accuracy") or 0)) for r in records[1 : cut + 1]]
        rest = list(train(cohort, few, Start(now.position, now.state(), [history])))
        records = [*records[: cut + 1], *(epoch.records[0] for epoch in rest if epoch.records[0] is not None)]
    for index in range(2):
        _, engine = begin(cohort, few, f"fresh network task {index}")
        task = task_of(spec, index, few)
        fresh = [engine.train_epoch([task], [task.order(e)], spec.optimizer.lr)[0].accuracy for e in (1, 2, 3)]
        own = [r for r in records if r.epoch and r.task == index]
        mine = [float(r.get("online_accuracy") or 0) for r in own]
        if over == "first":
            assert [r.get("fresh_gap") for r in own] == [fresh[0] - mine[0]] * 3
        else:
            assert [r.get("fresh_gap") for r in own[:2]] == [None, None]
            assert own[2].get("fresh_gap") == pytest.approx(np.mean(fresh) - np.mean(mine), abs=1e-12)


def test_measuring_more_changes_no_bit_of_training(few: Dataset) -> None:
    plain = trained(spec_of(few, metrics=("nc1",)), few)[1][-1].state()[0]
    more = {"metrics": ("all", "all@start"), "measure_at": "1,2", "fresh_baseline": True, "fresh_baseline_over": "task"}
    spec = spec_of(few, **more)
    assert spec.id == spec_of(few).id
    other = trained(spec, few)[1][-1].state()[0]
    assert {key for key in other.keys() - plain.keys() if not key.startswith("task.retained.")} == set()
    assert all(torch.equal(plain[key], other[key]) for key in plain)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"measure_at": "1,x"}, "list of whole numbers"),
        ({"metrics": "nc7@start"}, "nc7"),
        ({"metrics": "test_accuracy@start"}, "before a task's first step"),
        ({"fresh_baseline_over": "task"}, "--fresh-baseline"),
        ({"fresh_baseline_over": "epoch", "fresh_baseline": True}, "task"),
    ],
)
def test_what_cannot_be_is_said(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        settings.asked(scenario_named("permuted-digits"), given)
    assert words in f"{caught.value} {caught.value.hint}"
