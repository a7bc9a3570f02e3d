"""What every metric of the registry keeps: finite, order-blind, null with a reason when undefined, and described."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ncpl_cli.data import load
from ncpl_cli.data.dataset import Split
from ncpl_cli.metrics import Measured, Snapshot, measure
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.scenarios import Task
from ncpl_cli.spec import DatasetSpec
from tests.test_online_engine import a_network

FAMILIES_OF_A_RUN = ("history", "probes", "interventions", "forgetting", "incremental", "similarity")
OF_A_RUN = {name for name, m in METRICS.items() if m.family in FAMILIES_OF_A_RUN} | {
    "online_accuracy", "online_loss", "validation_accuracy", "validation_loss",
}  # fmt: skip
"""What a look at one network does not show; tests of the trainer and of warm starts measure these."""

OF_A_LOOK = sorted(METRICS.keys() - OF_A_RUN)


@functools.cache
def look(how: str = "healthy") -> Measured:
    """All that is measured of every layer of a small network on 300 + 100 digits; odd and even are unseen classes.

    The same digits with more and with less ink are further labels, and some images are fresh.
    """
    digits = load(DatasetSpec("digits"))
    train, test = np.arange(300), np.arange(100)
    if how == "reordered":  # class by class, backwards: what is measured on a draw is measured on the same one
        train = np.argsort(digits.train.labels[:300], kind="stable")[::-1]
        test = np.random.default_rng(0).permutation(100)
    data = replace(digits, train=digits.train.take(train), test=digits.test.take(test))
    net = a_network(data, precision="float32", width=12)
    initial = {name: p.detach() * 0.5 for name, p in net.named_parameters()}
    with torch.no_grad():
        if how == "dead":
            net.hidden[2].bias.fill_(-1e3)  # type: ignore[operator, union-attr]
        if how == "infinite":
            for linear in net.hidden:  # type: ignore[union-attr]
                linear.weight.mul_(1e30)  # type: ignore[operator, union-attr]
        if how == "not a number":
            net.hidden[0].weight[3, 4] = torch.nan  # type: ignore[index, union-attr]
    unseen = Split(data.test.images, data.test.labels % 2)
    fresh = digits.train.take(np.arange(400, 600)[:: -1 if how == "reordered" else 1])
    splits = {"train": data.train, "test": data.test, "fresh": fresh}
    fine = {name: 2 * s.labels + (s.images.reshape(len(s), -1).sum(1) > 290) for name, s in splits.items()}
    task = Task(
        0, 1, lambda _: train, data.train.labels, data.test.labels, parts={"unseen": unseen, "fresh": fresh},
        label_sets={"fine": fine},
    )  # fmt: skip
    return measure(Snapshot(net, data, task, initial, learning_rate=0.1), ("all",), layers="all")


@pytest.mark.parametrize("name", OF_A_LOOK)
def test_it_is_measured_and_finite(name: str) -> None:
    values = {a: v for a, v in look().values.items() if a.metric == name}
    reasons = {a: why for a, why in look().undefined.items() if a.metric == name}
    assert values or reasons, "the registry names it and nothing measures it"
    assert all(type(value) is float and math.isfinite(value) for value in values.values())
    assert not values.keys() & reasons.keys() and all(reasons.values())


@pytest.mark.parametrize("name", OF_A_LOOK)
def test_the_order_of_samples_does_not_matter(name: str) -> None:
    one, other = ({a: v for a, v in look(how).values.items() if a.metric == name} for how in ("healthy", "reordered"))
    assert one.keys() == other.keys()
    for address, value in one.items():
        assert other[address] == pytest.approx(value, rel=1e-4, abs=1e-6), address


@pytest.mark.parametrize("how", ["dead", "infinite", "not a number"])
@pytest.mark.parametrize("name", OF_A_LOOK)
def test_what_is_undefined_is_null_with_a_reason(name: str, how: str) -> None:
    found = look(how)
    values = {a: v for a, v in found.values.items() if a.metric == name}
    reasons = {a: why for a, why in found.undefined.items() if a.metric == name}
    if how == "not a number" and METRICS[name].family == "few_shot" and not values and not reasons:
        assert not values  # nobody knows that there are unseen classes without looking at the data
        return
    assert (values or reasons) and not values.keys() & reasons.keys()
    assert all(math.isfinite(value) for value in values.values()) and all(reasons.values())
    if how == "dead" and METRICS[name].family == "collapse":
        collapsed = {a: v for a, v in values.items() if (a.split, a.layer) == ("train", "last")}
        assert name in ALIVE_WHEN_DEAD or not collapsed


ALIVE_WHEN_DEAD = {"nc2", "equinorm_weights", "equiangular_weights", "bias_collapse", "rank_between"}
"""Collapse metrics that look at the classifier alone, and the rank, 0; all others of a dead layer are undefined."""


@pytest.mark.parametrize("name", METRICS)
def test_it_is_described(name: str) -> None:
    metric = METRICS[name]
    assert metric.id == name == name.lower() and " " not in name
    assert all((metric.formula, metric.direction, metric.needs, metric.source, metric.family))
    assert metric.cost in ("cheap", "expensive")
