"""Scenarios: a contract that every sibling keeps, and what each one promises by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ncpl_cli.data import Dataset
from ncpl_cli.errors import InputError
from ncpl_cli.scenarios import SCENARIOS, scenario_named, shown_by
from ncpl_cli.scenarios.permuted import PermutedDigits, PermutedMNIST
from ncpl_cli.scenarios.shuffled_labels import ShuffledLabels
from ncpl_cli.settings import asked


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.id)
class TestContract:
    def test_it_repeats_under_its_seed_and_differs_under_another(self, scenario: Any, digits: Dataset) -> None:
        def draw(seed: int) -> list[Any]:
            task = scenario.of({}).task(1, digits, seed)
            pixels = task.pixel_order if task.pixel_order is not None else np.arange(64)
            return [task.order(1), task.order(2), pixels, task.train_labels, task.test_labels]

        one, same, other = draw(3), draw(3), draw(4)
        assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
        assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    def test_every_epoch_shows_every_sample_once(self, scenario: Any, digits: Dataset) -> None:
        task, whole = scenario.of({}).task(0, digits, 0), shown_by(scenario.of({}), digits)
        shown = np.sort(task.order(1))
        trained_on = task.parts["train"].images if "train" in task.parts else digits.train.images
        assert np.array_equal(whole.train.images[shown], trained_on) and len(np.unique(shown)) == len(shown)
        assert not np.array_equal(task.order(1), task.order(2))

    def test_tasks_differ(self, scenario: Any, digits: Dataset) -> None:
        if scenario.tasks == 1:
            return
        first, second = (scenario.of({}).task(i, digits, 0) for i in (0, 1))
        same_pixels = first.pixel_order is None or np.array_equal(first.pixel_order, second.pixel_order)
        same_pixels &= not first.parts or np.array_equal(first.parts["train"].images, second.parts["train"].images)
        if first.of_outputs is not None:
            first, second = (task.of_outputs(task, np.zeros((len(digits.train), 10))) for task in (first, second))
            same_pixels &= np.array_equal(*(np.isnan(task.asked_of(np.arange(9))) for task in (first, second)))
        same_numbers = not first.targets or np.array_equal(first.targets["train"], second.targets["train"])
        assert not (same_pixels and same_numbers and np.array_equal(first.train_labels, second.train_labels))

    def test_labels_stay_in_range_and_keep_their_counts(self, scenario: Any, digits: Dataset) -> None:
        task = scenario.of({}).task(2, digits, 0)
        if hasattr(scenario, "outputs") and scenario.id in ("source-classes", "coarse-labels"):
            outputs = scenario.of({}).outputs(digits)  # its labels are others than the data set's
            assert set(task.train_labels) == set(task.test_labels) == set(range(outputs)) and task.outputs == outputs
            return
        shown = task.train_labels[task.order(1)]
        assert sorted(np.bincount(shown)) == sorted(np.bincount(task.measured(digits)["train"].labels))
        assert len(task.parts) or sorted(np.bincount(shown)) == sorted(np.bincount(digits.train.labels))
        assert set(task.test_labels) <= set(range(10))

    def test_its_options_and_its_name_are_known(self, scenario: Any) -> None:
        assert scenario_named(scenario.id) is scenario
        assert scenario.of({}).task_epochs(0) >= 1
        assert scenario.presets("digits").keys() >= {"dataset", "network", "lr", "batch_size"}


def test_a_permuted_task_permutes_all_pixels_once(digits: Dataset) -> None:
    order = PermutedDigits.of({}).task(5, digits, 0).pixel_order
    assert order is not None and np.array_equal(np.sort(order), np.arange(64))


def test_a_fraction_leaves_most_pixels_where_the_base_order_has_them(digits: Dataset) -> None:
    scenario = PermutedDigits.of({"permuted_fraction": 0.25})
    orders = [scenario.task(i, digits, 0).pixel_order for i in range(6)]
    moved = [np.mean(a != b) for i, a in enumerate(orders) for b in orders[:i]]  # type: ignore[operator]
    assert all(np.array_equal(np.sort(o), np.arange(64)) for o in orders if o is not None)
    assert 0.2 < np.mean(moved) < 0.5  # two tasks differ where either moved a pixel: 1 - .75^2 = .44 at most
    assert np.ptp(moved) < 0.25


def test_the_same_order_can_be_repeated_in_the_first_task_only(digits: Dataset) -> None:
    scenario = PermutedMNIST.of({"first_task_order": "same", "first_task_epochs": 3})
    first, second = scenario.task(0, digits, 0), scenario.task(1, digits, 0)
    assert np.array_equal(first.order(1), first.order(3))
    assert not np.array_equal(second.order(1), second.order(2))


def test_one_protocol_has_one_form_however_it_is_written() -> None:
    assert PermutedMNIST.of({"epochs": (50, 1, 1)}) == PermutedMNIST.of({"first_task_epochs": 50})
    assert PermutedMNIST.of({"epochs": (1,)}) == PermutedMNIST.of({})
    assert [PermutedMNIST.of({"epochs": (50, 1, 1, 10)}).task_epochs(i) for i in range(6)] == [50, 1, 1, 10, 10, 10]
    assert [PermutedMNIST.of({"epochs": (2,), "first_task_epochs": 9}).task_epochs(i) for i in range(3)] == [9, 2, 2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"first_task_epochs": 5, "first_task_nc1": 0.2}, "give one"),
        ({"first_task_epochs": 5, "epochs": (5, 1)}, "already says"),
        ({"first_task_max_epochs": 9}, "needs --first-task-nc1"),
    ],
)
def test_impossible_combinations_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        PermutedMNIST.of(given)


@pytest.mark.parametrize("given", [{"first_task_nc1": -1.0}, {"permuted_fraction": 0.0}, {"tasks": 0}], ids=str)
def test_impossible_values_are_refused_where_options_are_read(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="impossible"):
        asked(PermutedMNIST, given)


def test_the_first_task_can_end_at_a_collapse(digits: Dataset) -> None:
    scenario = PermutedDigits.of({"first_task_nc1": 0.2})
    first, second = scenario.task(0, digits, 0), scenario.task(1, digits, 0)
    assert (first.stop_nc1, first.epochs, second.stop_nc1, second.epochs) == (0.2, 50, None, 1)
    assert not scenario.fixed_length


def test_labels_can_be_shuffled_by_class(digits: Dataset) -> None:
    task = ShuffledLabels.of({"relabel": "classes"}).task(1, digits, 0)
    pairs = set(zip(digits.train.labels.tolist(), task.train_labels.tolist(), strict=True))
    assert len(pairs) == 10
    assert set(zip(digits.test.labels.tolist(), task.test_labels.tolist(), strict=True)) <= pairs


def test_an_unknown_scenario_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="Did you mean 'permuted-mnist'"):
        scenario_named("permuted-mist")
