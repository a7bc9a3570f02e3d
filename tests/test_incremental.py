"""Classes that arrive a few at a time: masks, numbers of the forgetting matrix, the first task, known ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ncpl_cli.data import Dataset, DatasetSpec
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.metrics.retained import Retained
from ncpl_cli.objectives import MSE, CrossEntropy, Within
from ncpl_cli.records import Address
from ncpl_cli.scenarios.incremental import ClassIncremental, TaskIncremental
from ncpl_cli.settings import asked, specs
from ncpl_cli.spec import OptimizerSpec
from ncpl_cli.store import open_store
from ncpl_cli.trainer import learning_rate


def test_tasks_bring_new_classes_numbered_as_they_come(digits: Dataset) -> None:
    scenario = ClassIncremental.of({"classes_per_task": 3, "per_class": 20}).fitted(digits)
    assert scenario.tasks == 3  # the tenth class is left over
    names: list[int] = []
    for t in range(3):
        task = scenario.task(t, digits, 5)
        shown = task.order(1)
        assert sorted(task.order(2)) == sorted(shown) and len(shown) == 60
        assert sorted(np.bincount(task.train_labels[shown])[3 * t :]) == [20, 20, 20]
        assert task.among == (0, 3 * t + 3) and set(task.parts["test"].labels) == {3 * t, 3 * t + 1, 3 * t + 2}
        of_classes = {int(digits.train.labels[i]): int(task.train_labels[i]) for i in shown}
        names += [label for label, _ in sorted(of_classes.items(), key=lambda item: item[1])]
        own = TaskIncremental.of({"classes_per_task": 3, "per_class": 20}).task(t, digits, 5)
        assert own.among == (3 * t, 3 * t + 3) and np.array_equal(own.order(1), shown)
    assert len(set(names)) == 9 and names != sorted(names)
    ordered = ClassIncremental.of({"grouping": "order"}).task(1, digits, 5)
    assert np.array_equal(ordered.train_labels, digits.train.labels) and set(digits.train.labels[ordered.order(1)]) == {
        2, 3,
    }  # fmt: skip
    seen = ClassIncremental.of({"show": "seen", "per_class": 20}).task(2, digits, 5)
    assert len(seen.order(1)) == 120 and set(seen.parts["train"].labels) == set(range(6))
    assert set(seen.parts["test"].labels) == {4, 5}


@pytest.mark.parametrize("objective", [CrossEntropy(), CrossEntropy(smoothing=0.1), MSE()])
def test_the_loss_is_that_of_a_network_with_those_outputs_alone(objective: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    out = torch.randn(3, 9, 4, dtype=torch.float64, generator=draw)  # the axis in the middle, as engines have it
    labels = torch.randint(2, 6, (3, 4), generator=draw)
    one = Within(objective, 2, 6)
    assert torch.equal(one.losses(out, labels, 1), objective.losses(out[:, 2:6], labels - 2, 1))
    leaf = out.clone().requires_grad_()
    one.losses(leaf, labels, 1).sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None and torch.allclose(one.residual(out, labels, 1), leaf.grad, atol=1e-12)
    assert not leaf.grad[:, [0, 1, 6, 7, 8]].any()
    right = one.right(out, labels, 1)
    assert right is not None and torch.equal(right, out[:, 2:6].argmax(1) + 2 == labels)
    if objective == CrossEntropy():
        assert torch.allclose(one.losses(out, labels, 1), F.cross_entropy(out[:, 2:6], labels - 2, reduction="none"))


def test_numbers_of_the_matrix_written_out() -> None:
    matrix = [[0.9], [0.6, 0.8], [0.7, 0.5, 0.95]]
    kept, found = Retained(ahead=[0.1, -0.3]), []
    for t, row in enumerate(matrix):
        found.append(kept.of_matrix(t, dict(enumerate(row))))
        kept.end(t, dict(enumerate(row)))
        again = Retained()
        again.load(kept.state())
        assert again == kept
    assert found[0] == ({"average_accuracy": 0.9}, dict.fromkeys(("backward_transfer", "forgetting"), "first task"))
    values = found[2][0]
    assert values["average_accuracy"] == pytest.approx((0.7 + 0.5 + 0.95) / 3)
    assert values["backward_transfer"] == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert values["forgetting"] == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)
    assert kept.forward_transfer(2) == ({"forward_transfer": pytest.approx(-0.1)}, {})
    assert "not every task" in kept.forward_transfer(3)[1]["forward_transfer"]
    assert set(kept.of_matrix(3, {0: 1.0, 3: 1.0})[1]) == {"average_accuracy", "backward_transfer", "forgetting"}


def _last(path: str, scenario: str) -> dict[str, float]:
    with open_store(path, readonly=True) as store:
        (run,) = store.runs(scenario=scenario)
        return {str(a): v for a, v in store.values(run.id, store.last_epoch(run.id)).items()}


def test_plain_training_forgets_and_goes_on_to_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digits five times two: near .20 class-incremental, above .9 task-incremental; joint training is the ceiling."""
    path = str(tmp_path / "a.db")
    few = ["--dataset", "digits", "--epochs", "6", "--db", path, "--json"]
    for scenario in ("class-incremental", "task-incremental"):
        assert call(["train", scenario, "--tasks", "3", *few]) == 0
        assert call(["train", scenario, *few]) == 0  # a longer horizon goes on
    classes, tasks = _last(path, "class-incremental"), _last(path, "task-incremental")
    assert classes["average_accuracy"] == pytest.approx(0.2, abs=0.02) and classes["forgetting"] > 0.9
    assert tasks["average_accuracy"] > 0.9 and tasks["backward_transfer"] > -0.1
    assert classes["readout_gap@first"] > 0.5 > tasks["readout_gap@first"]  # forgotten by the head, not the features
    with open_store(path, readonly=True) as store:
        for run in store.runs():  # what its stored rows say is what was recorded while it was trained
            for metric, of in store.matrix_numbers(run.id).items():
                assert of == {e: store.values(run.id, e)[Address(metric)] for e in of} and 30 in of
    assert 0 < tasks["drift_of_means@first"] < 2 and "nc1@first" in tasks and "forward_transfer" in tasks
    whole = str(tmp_path / "b.db")
    assert call(["train", "class-incremental", *few[:-3], "--db", whole]) == 0
    assert _last(whole, "class-incremental") == pytest.approx(classes, rel=1e-9)
    seen = str(tmp_path / "c.db")
    assert call(["train", "class-incremental", "--show", "seen", *few[:-3], "--db", seen]) == 0
    assert _last(seen, "class-incremental")["average_accuracy"] > 0.9
    capsys.readouterr()


def test_what_is_impossible_is_said(digits: Dataset) -> None:
    def given(scenario: Any, **options: Any) -> None:
        specs(scenario, {"dataset": "digits", **options}, digits, DatasetSpec("digits"), [0])

    for options, why in (
        ({"classes_per_task": 6}, "two tasks must be possible"), ({"tasks": 6}, "has classes for 5 tasks of 2"),
        ({"per_class": 5000}, "--per-class 5000 is impossible"), ({"lr_schedule": "step:9/3:0.1"}, "is not in order"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            given(ClassIncremental, **options)
    with pytest.raises(InputError, match="one class is no question"):
        given(TaskIncremental, classes_per_task=1)
    with pytest.raises(InputError, match="--show seen belongs to class-incremental"):
        given(TaskIncremental, show="seen")
    given(ClassIncremental, classes_per_task=10, tasks=1)  # joint training in one go


def test_the_protocol_of_class_incremental_cifar100() -> None:
    spec = asked(ClassIncremental, {"dataset": "cifar100"})
    assert (spec.scenario.classes_per_task, spec.scenario.epochs, spec.scenario.show) == (5, 200, "seen")
    assert (spec.network.name, spec.optimizer.batch_size, spec.optimizer.momentum) == ("resnet18", 90, 0.9)
    rates = [learning_rate(spec.optimizer, epoch, 200) for epoch in (1, 60, 61, 120, 121, 160, 161, 200)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008])
    every = [learning_rate(OptimizerSpec(lr=1.0, lr_schedule="step:2:0.5"), epoch, 9) for epoch in (1, 2, 3, 5)]
    assert every == [1, 1, 0.5, 0.25]
    assert asked(ClassIncremental, {"dataset": "cifar100", "network": "mlp"}).network.width == 100


@pytest.mark.realdata
def test_split_mnist_ends_where_it_is_known_to_end(
    tmp_path: Path, mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scenario, low, high in (("class-incremental", 0.17, 0.23), ("task-incremental", 0.9, 1.0)):
        path = str(tmp_path / f"{scenario}.db")
        given = ["--per-class", "600", "--epochs", "3", "--width", "100", "--measure-every", "3"]
        assert call(["train", scenario, *given, "--data-dir", str(mnist_dir), "--db", path, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["runs"][0]["status"] == "finished"
        assert low <= _last(path, scenario)["average_accuracy"] <= high
