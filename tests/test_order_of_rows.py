"""The order of rows never matters: all rows are measured, or a draw that is the same one in any order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli.data import Dataset, Split
from ncpl_cli.metrics import Measured, Snapshot, forward, measure
from ncpl_cli.metrics.features import measure_features
from ncpl_cli.metrics.inputs import training_samples
from ncpl_cli.networks import MLP
from ncpl_cli.records import Address
from ncpl_cli.rng import content_order
from ncpl_cli.scenarios import Task
from ncpl_cli.store import open_store
from tests.test_online_engine import a_network

Array = np.ndarray[Any, Any]


def of_classes(n: int = 6000, d: int = 40, classes: int = 10, seed: int = 0) -> tuple[Array, Array]:
    """ReLU features saved class by class, each class with units of its own: the first 2 000 rows know 16 of 40."""
    draw = np.random.default_rng(seed)
    y = np.sort(draw.integers(0, classes, n))
    x = np.maximum(draw.normal(size=(n, d)), 0) * (np.arange(d) % classes == y[:, None])
    return (x + (np.arange(d) == d - 1) * draw.random((n, 1))).astype(np.float32), y


def orders(y: Array) -> dict[str, Array]:
    draw = np.random.default_rng(7)
    return {
        "sorted": np.argsort(y, kind="stable"),
        "reversed": np.argsort(-y, kind="stable"),
        "shuffled": draw.permutation(len(y)),
        "alternating": np.argsort(np.arange(len(y)) * 7919 % len(y)),
    }


def by_definition(x: Array) -> dict[str, float]:
    """Units and ranks of all rows, word for word, with the singular values themselves."""
    wide = x.astype(np.float64)
    s = np.linalg.svd(wide, compute_uv=False)
    p = s[s > 0] / s.sum()
    mean = np.abs(wide).mean(0)
    return {
        "dead_units": float(np.mean((wide == 0).all(0))),
        "dormant_units": float(np.mean(mean <= 0.025 * mean.mean())),
        "feature_norm": float(np.sqrt((wide**2).sum(1)).mean()),
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
        "srank": float(1 + np.argmax(np.cumsum(s) >= 0.99 * s.sum())),
        "srank_squared": float(1 + np.argmax(np.cumsum(s**2) >= 0.99 * (s**2).sum())),
        "stable_rank": float((s**2).sum() / s[0] ** 2),
        "participation_ratio": float((s**2).sum() ** 2 / (s**4).sum()),
    }


@pytest.mark.parametrize("how", ["sorted", "reversed", "shuffled", "alternating"])
def test_units_and_ranks_of_a_file_are_those_of_all_its_rows(how: str) -> None:
    x, y = of_classes()
    rows = orders(y)[how]
    found = measure_features(x[rows], y[rows], metrics=("default",))
    for name, value in by_definition(x).items():
        assert found.values[Address(name)] == pytest.approx(value, rel=1e-9), name
    assert found.values[Address("dead_units")] == 0.0
    first = measure_features(x, y, metrics=("default",))
    assert found.values.keys() == first.values.keys() and found.undefined == first.undefined
    for address, value in first.values.items():  # null_nc1 and few-shot errors are drawn: the same draws
        assert found.values[address] == pytest.approx(value, rel=1e-9, abs=1e-12), address


def test_one_zero_at_the_end_tells_that_the_activation_has_them() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.random((5000, 6)).astype(np.float32) + 0.1, np.arange(5000) % 4
    never = measure_features(x, y, metrics=("dead_units",))
    assert never.undefined[Address("dead_units")] == "the activation has no exact zeros"
    x[-1, 0] = 0.0
    for rows in (slice(None), slice(None, None, -1)):
        assert measure_features(x[rows], y[rows], metrics=("dead_units",)).values[Address("dead_units")] == 0.0


def test_a_recorded_epoch_does_not_depend_on_the_order_either(tmp_path: Path) -> None:
    x, y = of_classes(4000)
    with open_store(str(tmp_path / "s.db")) as store:
        found = []
        for seed, rows in enumerate(orders(y).values()):
            with store.run("mine", seed=seed) as run:
                run.record(epoch=1, features=x[rows], labels=y[rows])
            found.append(store.values(run.id, 1))
    assert found[0][Address("dead_units")] == 0.0
    for other in found[1:]:
        assert other == {a: pytest.approx(v, rel=1e-9, abs=1e-12) for a, v in found[0].items()}


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 5)], ids=str)
def test_a_draw_by_content_is_the_same_set_in_any_order(dtype: str, shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    rows = (draw.random((4000, *shape)) * 50).astype(dtype)  # many of them equal
    for order in (draw.permutation(4000), np.arange(4000)[::-1], np.argsort(rows.reshape(4000, -1)[:, 0])):
        assert np.array_equal(rows[content_order(rows)], rows[order][content_order(rows[order])])
    classes = np.arange(4000) // 400
    assert sorted(content_order(rows)) == list(range(4000))
    assert np.bincount(classes[content_order(rows)[:1000]], minlength=10).min() > 60  # 100 expected


def test_equal_rows_do_not_come_in_a_clump() -> None:
    rows = np.repeat(np.eye(10, dtype=np.float32), 300, axis=0)
    counts = np.bincount(np.repeat(np.arange(10), 300)[content_order(rows)[:1000]], minlength=10)
    assert counts.min() > 60 and counts.max() < 140


def of_network(data: Dataset, rows: Array, metrics: tuple[str, ...], samples: int | None = None) -> Measured:
    """A small network on 4 500 noisy digits in some order, with an unseen split of the same."""
    draw = np.random.default_rng(3)
    noise = draw.integers(0, 4, (4500, *data.shape), dtype=np.uint8)
    images = np.minimum(np.resize(data.train.images, (4500, *data.shape)) + noise, 16).astype(np.uint8)
    labels = np.resize(data.train.labels, 4500)
    mixed = replace(data, train=Split(images[rows], labels[rows]), test=Split(images[rows], labels[rows]))
    net = a_network(data, width=12)
    assert isinstance(net, MLP)
    task = Task(0, 1, lambda _: rows, mixed.train.labels, mixed.test.labels, parts={"unseen": mixed.test})
    return measure(Snapshot(net, mixed, task, None, samples=samples, learning_rate=0.1), metrics, layers="all")


CHEAP = ("default", "churn", "ntk_effective_rank", "gradient_interference", "hessian_top")


def test_a_network_on_data_in_order_of_class(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    y = np.resize(digits.train.labels, 4500)
    one, other = (of_network(digits, orders(y)[how], CHEAP) for how in ("sorted", "shuffled"))
    assert one.values.keys() == other.values.keys()
    for address, value in one.values.items():
        if not address.metric.startswith("few_shot"):  # episodes of features that are rounded otherwise are others
            assert other.values[address] == pytest.approx(value, rel=1e-6, abs=1e-9), address
    # of a layer that is not kept whole the same samples are
    monkeypatch.setattr(forward, "MOST_KEPT", 1)
    streamed = of_network(digits, orders(y)["reversed"], ("units", "dead_units", "effective_rank")[1:])
    for address, value in streamed.values.items():
        assert value == pytest.approx(one.values[address], rel=1e-9), address


def test_some_samples_of_a_split_are_a_draw(digits: Dataset) -> None:
    y = np.resize(digits.train.labels, 4500)
    one, other = (of_network(digits, orders(y)[how], ("nc1", "test_accuracy"), 300) for how in ("sorted", "reversed"))
    assert one.counts["train"]["n"] == 300 and one.contexts["train", "last"]["classes"] == 10
    assert other.values == {a: pytest.approx(v, rel=1e-9) for a, v in one.values.items()}


def test_training_samples_of_a_sorted_split_hold_every_class(digits: Dataset) -> None:
    order = np.argsort(digits.train.labels, kind="stable")
    mixed = replace(digits, train=digits.train.take(order))
    task = Task(0, 1, lambda _: order, mixed.train.labels, mixed.test.labels)
    found = training_samples(a_network(mixed), mixed, task, 128)
    again = training_samples(a_network(digits), digits, replace_labels(task, digits), 128)
    assert len(torch.unique(found.labels)) == 10 and torch.equal(found.images, again.images)


def replace_labels(task: Task, data: Dataset) -> Task:
    return Task(0, 1, task.order, data.train.labels, data.test.labels)
