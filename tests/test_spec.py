"""Identity: what decides the numbers decides the id, and nothing else does; ten identities are frozen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ncpl_cli.data import Dataset
from ncpl_cli.errors import InputError
from ncpl_cli.scenarios import scenario_named
from ncpl_cli.settings import dataset_spec, specs
from ncpl_cli.spec import RunSpec, flat


def spec(digits: Dataset, scenario: str = "permuted-digits", seed: int = 0, **given: Any) -> RunSpec:
    kind = scenario_named(scenario)
    return specs(kind, given, digits, dataset_spec(kind, given), [seed])[0]


FROZEN: list[tuple[str, dict[str, Any], int, str]] = [
    ("permuted-digits", {}, 0, "73a88ff0df02"),
    ("permuted-mnist", {}, 1, "6fd4e04d2d90"),
    ("permuted-mnist", {"first_task_epochs": 50}, 2, "d7786d112e8e"),
    ("permuted-mnist", {"first_task_nc1": 0.2}, 3, "e4846ccc0bdc"),
    ("permuted-digits", {"epochs": (50, 1, 10)}, 4, "422fe52453dd"),
    ("permuted-digits", {"permuted_fraction": 0.5, "width": 2000, "lr": 0.003}, 5, "565cffccf39e"),
    ("permuted-digits", {"optimizer": "adam", "batch_size": 32, "lr_schedule": "cosine"}, 6, "587dce329b57"),
    (
        "permuted-digits",
        {"norm": "layer", "activation": "tanh", "depth": 2, "batch_size": 16, "momentum": 0.9, "weight_decay": 1e-4},
        7,
        "30f61670a36d",
    ),
    ("shuffled-labels", {}, 8, "086eee5eee3d"),
    ("shuffled-labels", {"relabel": "classes", "epochs": (3,), "precision": "float64"}, 9, "6e2a54d76f94"),
]
"""Scenario, options, seed, id on data of digest 0123456789abcdef. A change breaks every user's store: only add."""


@pytest.mark.parametrize(("scenario", "given", "seed", "run"), FROZEN, ids=[f[3] for f in FROZEN])
def test_identities_never_change(digits: Dataset, scenario: str, given: dict[str, Any], seed: int, run: str) -> None:
    one = spec(digits, **{"scenario": scenario, "seed": seed, **given})
    assert replace(one, dataset_digest="0123456789abcdef").id == run


@pytest.mark.parametrize(
    "given",
    [
        {"tasks": 7}, {"measure_every": 3}, {"metrics": ("nc1",)}, {"layers": "all"}, {"engine": "stacked"},
        {"lr": 0.01}, {"batch_size": 1}, {"width": 100}, {"epochs": (1, 1)}, {"network": "mlp"},
        {"task_accuracy": "current"}, {"measure_samples": 10}, {"lr_schedule": "constant"}, {"dataset": "digits"},
    ],
    ids=str,
)  # fmt: skip
def test_what_decides_no_number_is_no_part_of_the_identity(digits: Dataset, given: dict[str, Any]) -> None:
    assert spec(digits, **given).id == spec(digits).id


@pytest.mark.parametrize(
    "given",
    [
        {"first_task_epochs": 2}, {"epochs": (1, 2)}, {"permuted_fraction": 0.5}, {"lr": 0.02}, {"batch_size": 2},
        {"width": 50}, {"depth": 2}, {"activation": "tanh"}, {"norm": "layer"}, {"optimizer": "adam"},
        {"momentum": 0.9}, {"weight_decay": 1e-4}, {"lr_schedule": "cosine"}, {"precision": "float64"}, {"seed": 1},
        {"scenario": "permuted-mnist"}, {"first_task_nc1": 0.3}, {"first_task_order": "same"},
    ],
    ids=str,
)  # fmt: skip
def test_what_decides_numbers_is_part_of_the_identity(digits: Dataset, given: dict[str, Any]) -> None:
    assert spec(digits, **given).id != spec(digits).id


def test_other_content_is_another_identity(digits: Dataset) -> None:
    one = spec(digits)
    assert replace(one, dataset_digest="0123456789abcdef").id != one.id


def test_settings_are_flat_and_whole(digits: Dataset) -> None:
    settings = flat(spec(digits, first_task_epochs=3))
    assert settings["first_task_epochs"] == 3 and settings["lr"] == 0.01 and settings["batch_size"] == 1
    assert settings["network"] == "mlp" and settings["width"] == 100 and settings["dataset"] == "digits"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"network": "mpl"}, "Did you mean 'mlp'"), ({"activation": "rel"}, "Did you mean 'relu'"),
        ({"optimizer": "sdg"}, "Did you mean 'sgd'"), ({"norm": "group"}, "unknown --norm"),
        ({"lr": 0.0}, "above 0"), ({"batch_size": 0}, "at least 1"), ({"batch_size": 2000}, "1 to 1437"),
        ({"lr_schedule": "step:0:1"}, "at least 1"), ({"lr_schedule": "linear"}, "unknown"),
        ({"width": 0}, "at least 1"),
        ({"optimizer": "adam", "momentum": 0.5}, "moments of its own"), ({"metrics": ("nc9",)}, "unknown metric"),
        ({"layers": "first"}, "unknown --layers"), ({"measure_every": -1}, "at least 1"),
        ({"first_task_order": "odd"}, "unknown --first-task-order"), ({"precision": "half"}, "unknown --precision"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_settings_are_refused_in_words(digits: Dataset, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        spec(digits, **given)


def test_names_known_without_torch_are_those_of_the_registries() -> None:
    from ncpl_cli import spec as names
    from ncpl_cli.engines import ENGINES
    from ncpl_cli.networks import ACTIVATIONS, NETWORKS
    from ncpl_cli.networks.convolutional import NORMS as CONVOLUTIONAL

    assert tuple(NETWORKS) == names.NETWORKS and tuple(ENGINES) == names.ENGINES
    assert set(names.ACTIVATIONS) == set(ACTIVATIONS) and set(CONVOLUTIONAL) <= set(names.NORMS)
