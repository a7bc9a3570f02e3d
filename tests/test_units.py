"""Linearised and saturated units, preactivations and their drift, gradients, few-shot errors."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ncpl_cli.data import Dataset, load
from ncpl_cli.errors import InputError
from ncpl_cli.metrics import Snapshot, measure, units, weights
from ncpl_cli.metrics.columns import columns
from ncpl_cli.metrics.few_shot import few_shot_error, few_shot_metrics
from ncpl_cli.metrics.gradients import gradient_norm, loss_gradient
from ncpl_cli.metrics.inputs import Batch, at_initialisation, training_samples
from ncpl_cli.networks import ACTIVATIONS
from ncpl_cli.objectives import CROSS_ENTROPY, MSE, Objective
from ncpl_cli.records import Address
from ncpl_cli.spec import DatasetSpec
from tests.test_collapse import sample
from tests.test_online_engine import a_network, a_task


def test_a_relu_that_never_bends_is_linearised() -> None:
    z = torch.tensor([[1.0, -1.0, 1.0, 0.0], [2.0, -2.0, -1.0, 1.0]])  # zombie, dead, alive, alive (0 bends)
    assert units.linearised_units(z, "relu") == 0.25
    assert units.linearised_units(z, "leaky_relu") == units.linearised_units(z, "crelu") == 0.5


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu", "elu", "silu"])
def test_a_smooth_unit_is_linearised_where_a_line_fits(activation: str) -> None:
    draw = np.random.default_rng(0)
    z = torch.from_numpy(draw.normal(size=(500, 6)) * np.array([0.01, 0.3, 1, 3, 10, 0]))
    h = ACTIVATIONS[activation](z).numpy()
    fits = []
    for unit in range(5):
        slope, intercept = np.polyfit(z[:, unit], h[:, unit], 1)
        residual = h[:, unit] - slope * z[:, unit].numpy() - intercept
        fits.append(1 - residual.var() / h[:, unit].var() >= 0.99)
    fits.append(False)  # a constant unit is dead
    assert True in fits[:2]
    assert units.linearised_units(z, activation) == pytest.approx(np.mean(fits))


def test_saturated_units_lie_beyond_their_bound_on_every_sample() -> None:
    h = torch.tensor([[0.995, -0.999, 0.995], [-1.0, -0.992, 0.5]])
    assert units.saturated_units(h, "tanh") == pytest.approx(2 / 3)
    assert units.saturated_units((h + 1) / 2, "sigmoid") == pytest.approx(2 / 3)
    assert units.saturated_units(h, "relu") is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), activation=st.sampled_from(["relu", "tanh", "leaky_relu"]))
def test_shares_lie_in_one_and_do_not_depend_on_order(seed: int, activation: str) -> None:
    draw = np.random.default_rng(seed)
    z = torch.from_numpy(draw.normal(size=(40, 9)) + 2 * draw.normal(size=9))
    other = z[draw.permutation(40)][:, draw.permutation(9)]
    for share in (units.linearised_units, lambda x, a: units.saturated_units(ACTIVATIONS[a](x), a) or 0.0):
        assert 0 <= share(z, activation) == share(other, activation) <= 1
    assert units.preactivation_moments(other) == pytest.approx(units.preactivation_moments(z))
    assert units.preactivation_moments(z) == pytest.approx((z.numpy().mean(), z.numpy().std()))


def plain(data: Dataset, task: Any, n: int) -> torch.Tensor:
    x = torch.from_numpy(data.train.images).flatten(1).double()[:n] / data.scale
    return x if task.pixel_order is None else x[:, torch.from_numpy(task.pixel_order)]


@pytest.mark.parametrize("permuted", [True, False])
def test_samples_are_what_training_shows(digits: Dataset, permuted: bool) -> None:
    net, task = a_network(digits), a_task(digits, permuted=permuted)
    found = training_samples(net, digits, task, slice(0, 50))
    assert torch.equal(found.images.flatten(1), plain(digits, task, 50)) and found.images.shape[1:] == digits.shape
    assert torch.equal(found.labels, torch.from_numpy(task.train_labels[:50]))
    some = training_samples(net, digits, task, np.array([7, 3]))
    assert torch.equal(some.images, found.images[[7, 3]])


@pytest.mark.parametrize("block", [7, 100])
def test_the_gradient_is_autograds(digits: Dataset, block: int) -> None:
    net, task = a_network(digits), a_task(digits)
    batch = training_samples(net, digits, task, slice(0, 100))
    F.cross_entropy(net(plain(digits, task, 100)), batch.labels).backward()
    expected = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    for found, true in zip(loss_gradient(net, batch, block), expected, strict=True):
        assert torch.allclose(found, true, atol=1e-13)
    assert gradient_norm(net, batch, block) == pytest.approx(math.sqrt(sum(float((g**2).sum()) for g in expected)))
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), expected, strict=True) if p.grad is not None)


def test_drift_is_measured_from_the_initialisation(digits: Dataset) -> None:
    net, task = a_network(digits, norm="batch", activation="tanh"), a_task(digits)
    fresh = copy.deepcopy(net)
    initial = {name: p.detach().clone() for name, p in net.named_parameters()}
    with torch.no_grad():
        net.train()
        net(torch.rand(50, 64, dtype=torch.float64))
        for parameter in net.parameters():
            parameter += 0.1
    found = measure(Snapshot(net, digits, task, initial), layers="all")
    again = at_initialisation(net, initial)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), fresh.state_dict().values(), strict=True))
    x = plain(digits, task, 2000)
    with torch.no_grad():
        now, then = net.eval().classify(x)[2], fresh.eval().classify(x)[2]
    for i, layer in enumerate(net.layer_names):
        at = {name: found.values[Address(name, "train", layer)] for name in ("preactivation_mean", "preactivation_std")}
        assert at["preactivation_mean"] == pytest.approx(float(now[i].mean()))
        drift = found.values[Address("preactivation_std_drift", "train", layer)]
        assert drift == pytest.approx(at["preactivation_std"] - float(then[i].std(correction=0)))
        excess = units.linearised_units(now[i], "tanh") - units.linearised_units(then[i], "tanh")
        assert found.values[Address("linearised_units", "train", layer)] == pytest.approx(excess)
    unknown = measure(Snapshot(net, digits, task, None))
    assert unknown.undefined[Address("preactivation_mean_drift")] == "the initialisation is not known"
    assert Address("preactivation_mean") in unknown.values


def test_measuring_leaves_no_trace() -> None:
    digits = load(DatasetSpec("digits", train_samples=200))
    net, task = a_network(digits, norm="batch"), a_task(digits)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    initial = {name: p.detach().clone() for name, p in net.named_parameters()}
    state = torch.get_rng_state()
    measure(Snapshot(net.train(), digits, task, initial), ("all",), layers="all")
    assert net.training and all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and all(p.grad is None for p in net.parameters())


def test_few_shots_suffice_where_classes_are_collapsed() -> None:
    x, y, _, _ = sample(n=300, spread=1e-3)
    values, undefined = few_shot_error(x, y)
    assert values == {1: 0.0, 5: 0.0, 10: 0.0} and not undefined
    noise, _ = few_shot_error(np.random.default_rng(0).normal(size=x.shape), y)
    assert all(noise[k] == pytest.approx(0.8, abs=0.05) for k in noise)  # five classes by chance
    some, _ = few_shot_error(*sample(n=300, spread=1.5)[:2])
    assert some[1] > some[5] > some[10] > 0


def test_few_shot_errors_repeat_and_offsets_do_not_matter() -> None:
    x, y, _, _ = sample(n=300, spread=1.5)
    first = few_shot_error(x, y, ways=3, episodes=20)
    assert first == few_shot_error(x, y, ways=3, episodes=20) != few_shot_error(x, y, ways=3, episodes=20, seed=1)
    far = few_shot_error((np.round(x * 64) / 64 + 2.0**14).astype(np.float32), y)
    near = few_shot_error(np.round(x * 64) / 64, y)  # other episodes, since the samples are others
    assert far[0] == pytest.approx(near[0], abs=0.06)
    assert few_shot_error(x, y * 7 + 3, shots=[5])[0][5] == few_shot_error(x, y)[0][5]
    order = np.random.default_rng(1).permutation(len(x))
    assert few_shot_error(x[order], y[order]) == few_shot_error(x, y)


def test_too_few_samples_are_a_reason() -> None:
    x, y, _, _ = sample(n=300)
    kept = (y == 0) | (np.arange(len(y)) < 30)
    values, undefined = few_shot_error(x[kept], y[kept])
    assert values.keys() == {1} and undefined == {
        k: f"fewer than 5 classes have more than {k} samples" for k in (5, 10)
    }
    assert few_shot_error(x[kept], y[kept], ways=2)[1] == {10: "fewer than 2 classes have more than 10 samples"}
    measured, why = few_shot_metrics(x[kept], y[kept])
    assert {f"few_shot_error_{k}": value for k, value in values.items()}.items() <= measured.items()
    assert " 5 samples" in why["few_shot_error"] and "10 samples" in why["few_shot_error_10"]
    with pytest.raises(InputError, match="at least one shot"):
        few_shot_error(x, y, shots=[0])


def test_a_gradient_needs_no_more_than_a_batch() -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(x), 3)

    batch = Batch(torch.zeros(4, 1, 1, 1), torch.tensor([0, 0, 0, 0]))
    assert gradient_norm(Constant(), batch) == pytest.approx(math.sqrt((2 / 3) ** 2 + 2 * (1 / 3) ** 2))


@pytest.mark.parametrize("activation", ["relu", "tanh", "crelu"])
@pytest.mark.parametrize(("permuted", "objective"), [(True, CROSS_ENTROPY), (False, MSE())])
def test_the_gradient_by_hand_is_autograds(
    digits: Dataset, activation: str, permuted: bool, objective: Objective
) -> None:
    """From the pass that measured the features, on drawn samples of a split that begins with empty images."""
    images = digits.train.images.copy()
    images[:300] = 0
    data = replace(digits, train=replace(digits.train, images=images))
    net, task = a_network(data, activation=activation, width=21), a_task(data, permuted=permuted)
    task = replace(task, objective=objective)
    for samples in (None, 700):
        found = measure(Snapshot(net, data, task, None, samples=samples), ("nc1", "gradient_norm"))
        batch = training_samples(net, data, task, 2000)
        assert found.values[Address("gradient_norm")] == pytest.approx(gradient_norm(net.eval(), batch), rel=1e-12)


def test_one_pass_gives_what_passes_of_their_own_give(digits: Dataset) -> None:
    """Families that look inside share the features' pass where there is one, and have one of their own where not."""
    net, task = a_network(digits), a_task(digits)
    initial = {name: p.detach().clone() + 0.01 for name, p in net.named_parameters()}
    names = ("preactivation_mean", "preactivation_std_drift", "linearised_units", "gradient_norm")
    for samples in (None, 300):
        shared = measure(Snapshot(net, digits, task, initial, samples=samples), ("nc1", *names), "all")
        alone = measure(Snapshot(net, digits, task, initial), names, "all")
        assert alone.values.keys() <= shared.values.keys() and len(alone.values) == 10
        for address, value in alone.values.items():
            assert shared.values[address] == pytest.approx(value, rel=1e-12)


def test_graded_linearised_units_the_top_of_the_features_and_norms_by_layer(digits: Dataset) -> None:
    z = torch.ones(100, 3)
    z[:5, 1], z[:4, 2] = -1, 0  # on for all, for 95, and for 96 samples of a hundred
    assert units.active_units(z, "relu") == units.active_units(z, "leaky_relu") == pytest.approx(2 / 3)
    assert units.active_units(z, "crelu") is units.active_units(z, "tanh") is None
    features = torch.randn(40, 6, dtype=torch.float64)
    found, _ = units.unit_metrics(features, True, ["feature_top"])
    assert found == {"feature_top": pytest.approx(float(np.linalg.svd(features.numpy())[1][0]))}
    assert units.unit_metrics(torch.zeros(4, 2), True, ["feature_top"])[0] == {"feature_top": 0.0}
    net = a_network(digits, depth=2)
    norms = weights.layer_norms(net)
    named = {"layer1": net.hidden[0], "last": net.hidden[1], "classifier": net.classifier}  # type: ignore[index]
    assert norms == {name: pytest.approx(float(m.weight.detach().norm())) for name, m in named.items()}  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (40, 13), (1, 9), (0, 3)])
def test_one_read_gives_what_each_formula_says(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    n, width = shape
    padded = torch.from_numpy(np.random.default_rng(n).normal(3, 2, (n, width + 3))).to(dtype)
    padded[: n // 3] = 0
    for x in (padded[:, :width], padded.T.contiguous().T[:, :width], padded[:, :width].clone()):
        wide = x.double()
        seen = columns(x)
        assert torch.allclose(seen.absolute, wide.abs().sum(0), rtol=1e-13)
        assert torch.equal(seen.positive.long(), (wide > 0).sum(0)) and seen.n == n
        assert torch.equal(seen.negative.long(), (wide < 0).sum(0))
        assert seen.norms == pytest.approx(float(wide.norm(dim=1).sum()), rel=1e-13)
        if n:
            assert seen.mean == pytest.approx(float(wide.mean()), rel=1e-13)
            assert seen.square == pytest.approx(float(((wide - wide.mean()) ** 2).sum()), rel=1e-12)


def test_a_value_that_is_no_number_leaves_its_unit_on_neither_side() -> None:
    z = torch.ones(4, 3)
    z[1, 0], z[2, 1] = math.nan, math.inf
    assert columns(z).positive.tolist() == [3, 4, 4] and math.isnan(columns(z).mean)
    assert units.linearised_units(z, "leaky_relu") == pytest.approx(2 / 3)
    assert units.unit_metrics(z, True)[1]["feature_norm"] == "features are not finite"


def test_ranks_are_the_same_beside_collapse_and_without_it(digits: Dataset) -> None:
    net = a_network(digits, depth=2)
    last: Any = net.hidden[-1]
    with torch.no_grad():  # a unit that is dead, and one that only its bias moves
        last.weight[:2] = 0
        last.bias[:2] = torch.tensor([-1.0, 1.0])
    both = measure(Snapshot(net, digits, a_task(digits), None)).values
    alone = measure(Snapshot(net, digits, a_task(digits), None), units.UNIT_METRICS).values
    assert {*alone} <= {*both} and any(a.metric == "effective_rank" for a in alone)
    for address, value in alone.items():
        assert both[address] == pytest.approx(value, rel=1e-11)
