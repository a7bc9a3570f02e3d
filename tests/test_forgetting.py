"""The forgetting matrix: which of its entries are taken, and that each is what testing that task alone gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ncpl_cli import networks
from ncpl_cli.data import Dataset
from ncpl_cli.metrics.forgetting import RECENT, evaluated_tasks, task_accuracy
from ncpl_cli.networks import MLP
from ncpl_cli.scenarios.task import Task


def test_end_takes_the_first_the_last_ten_and_a_grid_that_no_horizon_changes() -> None:
    for index in range(20):
        assert evaluated_tasks("end", index, True) == list(range(index + 1)) == evaluated_tasks("all", index, True)
    # s is 2 from the 21st task on, 4 from the 41st, 8 from the 81st
    assert evaluated_tasks("end", 20, True) == [*range(0, 11, 2), *range(11, 21)]
    assert evaluated_tasks("end", 39, True) == [*range(0, 30, 2), *range(30, 40)]
    assert evaluated_tasks("end", 40, True) == [*range(0, 31, 4), *range(31, 41)]
    assert evaluated_tasks("end", 139, True) == [*range(0, 129, 8), *range(130, 140)]
    for index in (0, 19, 20, 79, 80, 479, 9_999):
        tested = evaluated_tasks("end", index, True)
        assert tested[0] == 0 and tested[-1] == index and len(tested) <= 31
        assert set(range(max(0, index - RECENT + 1), index + 1)) <= set(tested)


def test_what_is_tested_within_a_task() -> None:
    assert (
        evaluated_tasks("end", 3, False)
        == evaluated_tasks("all", 3, False)
        == evaluated_tasks("current", 3, True)
        == []
    )
    assert evaluated_tasks("every", 3, False) == evaluated_tasks("all", 3, True) == [0, 1, 2, 3]
    assert evaluated_tasks("all", 99, True) == list(range(100))


def tasks_of(data: Dataset) -> list[Task]:
    """Tasks that differ in pixel order, in labels only, and in both."""
    draw = np.random.default_rng(0)

    def one(index: int, permuted: bool, relabelled: bool) -> Task:
        labels = draw.permutation(data.test.labels) if relabelled else data.test.labels
        order = draw.permutation(data.pixels) if permuted else None
        return Task(index, 1, lambda _: np.arange(0), data.train.labels, labels, order)

    return [one(0, False, False), one(1, True, False), one(2, False, True), one(5, True, True), one(6, True, False)]


@pytest.mark.parametrize("shape", [{}, {"norm": "batch", "activation": "tanh"}, {"activation": "crelu", "width": 21}])
@pytest.mark.parametrize("samples", [100, 100_000])
def test_every_task_is_tested_as_it_would_be_alone(digits: Dataset, shape: dict[str, object], samples: int) -> None:
    net = networks.build("mlp", digits.shape, digits.classes, 0, precision="float64", **shape)
    assert isinstance(net, MLP)
    found = task_accuracy(net, digits, tasks_of(digits), samples, "cpu")
    rows = digits.test.draw(samples)
    images = torch.from_numpy(digits.test.images[rows]).flatten(1).double() / digits.scale
    net.eval()
    for task in tasks_of(digits):
        x = images if task.pixel_order is None else images[:, torch.from_numpy(task.pixel_order)]
        expected = (net(x).argmax(1).numpy() == task.test_labels[rows]).mean()
        assert found[task.index] == expected
    assert found.keys() == {0, 1, 2, 5, 6} and task_accuracy(net, digits, [], samples, "cpu") == {}


def test_networks_of_other_kinds_are_tested_too(digits: Dataset) -> None:
    tiny = replace(digits, test=digits.test.take(np.arange(40)))
    net = networks.build("resnet18", digits.shape, 10, 0, width=2, norm="batch", statistics=digits.channel_statistics)
    tasks = [task for task in tasks_of(digits) if len(set(task.test_labels[:40])) > 1]
    tasks = [replace(task, test_labels=task.test_labels[:40]) for task in tasks]
    found = task_accuracy(net, tiny, tasks, 40, "cpu")
    net.eval()
    for task in tasks:
        x = torch.from_numpy(tiny.test.images).flatten(1).float() / digits.scale
        x = x if task.pixel_order is None else x[:, torch.from_numpy(task.pixel_order)]
        expected = (net(x.view(-1, *digits.shape)).argmax(1).numpy() == task.test_labels).mean()
        assert found[task.index] == pytest.approx(expected, abs=1 / 40)  # a tie may fall either way
