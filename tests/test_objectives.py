"""Every objective against plain autograd: its residual, training in every engine that carries it, and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ncpl_cli import networks, runs, settings, trainer
from ncpl_cli.data import Dataset
from ncpl_cli.engines import OnlineEngine, StackedEngine
from ncpl_cli.errors import InputError
from ncpl_cli.metrics import curvature, gradients, ntk
from ncpl_cli.metrics.churn import churn
from ncpl_cli.metrics.forward import evaluating
from ncpl_cli.metrics.inputs import training_samples
from ncpl_cli.metrics.snapshot import Snapshot, measure
from ncpl_cli.objectives import OBJECTIVES, CrossEntropy, Objective, TwoHot, parse
from ncpl_cli.plan import choose_engine, plan
from ncpl_cli.records import Address
from ncpl_cli.scenarios import PermutedDigits
from ncpl_cli.scenarios.task import Task
from ncpl_cli.settings import specs
from ncpl_cli.spec import DatasetSpec, NetworkSpec, OptimizerSpec, RunSpec, flat
from ncpl_cli.store import open_store
from tests.test_online_engine import a_task

SEEDS = (0, 1)
Loss = Callable[[Tensor, Tensor], Tensor]


def two_hot(low: float, high: float, bins: int) -> Loss:
    """The mean over samples and targets, written out number by number."""

    def loss(out: Tensor, y: Tensor) -> Tensor:
        total, asked = out.sum() * 0, 0
        for i in range(len(out)):
            own = [t for t in range(y.shape[1]) if not bool(y[i, t].isnan())]
            for t in own:
                log_p = F.log_softmax(out[i, t * bins : (t + 1) * bins], 0)
                place = (min(max(float(y[i, t]), low), high) - low) / (high - low) * (bins - 1)
                left = min(int(place), bins - 2)
                share = place - left
                total = total - ((1 - share) * log_p[left] + share * log_p[left + 1]) / len(own)
            asked += 1
        return total / asked

    return loss


def masked_mse(out: Tensor, y: Tensor) -> Tensor:
    rows = [(out[i] - y[i])[~y[i].isnan()].square() for i in range(len(out))]
    return torch.stack([row.mean() if len(row) else out.sum() * 0 for row in rows]).mean()


CASES: dict[str, tuple[str, int | None, Loss]] = {
    "cross-entropy": ("cross_entropy", None, F.cross_entropy),
    "smoothing": ("cross_entropy:smoothing=0.2", None, lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2)),
    "mse of labels": ("mse", None, lambda z, y: F.mse_loss(z, F.one_hot(y, z.shape[1]).to(z.dtype))),
    "mse": ("mse", 3, masked_mse),
    "two-hot": ("two_hot:low=-2,high=2,bins=7", 2, two_hot(-2, 2, 7)),
}
"""The objective, how many numbers it is asked (None: labels), and its mean loss written out."""


def an_objective(case: str) -> tuple[Objective, int | None, Loss]:
    text, numbers, loss = CASES[case]
    return parse(text), numbers, loss


def a_task_of(data: Dataset, case: str, seed: int) -> Task:
    """Regression targets reach beyond two_hot's bounds, and some are not asked."""
    objective, numbers, _ = an_objective(case)
    task = replace(a_task(data, seed), objective=objective)
    if numbers is None:
        return task
    draw = np.random.default_rng([seed, 5])
    targets = {}
    for name, split in (("trained", data.train), ("train", data.train), ("test", data.test)):
        targets[name] = draw.normal(0, 1.5, (len(split), numbers)).astype(np.float32 if seed else np.float64)
        targets[name][draw.random(targets[name].shape) < 0.2] = np.nan
    targets["train"] = targets["trained"]
    return replace(task, targets=targets, outputs=numbers)


def a_network(data: Dataset, case: str, seed: int, **shape: Any) -> networks.MLP:
    objective, numbers, _ = an_objective(case)
    outputs = objective.outputs(numbers or data.classes)
    net = networks.build("mlp", data.shape, outputs, seed, precision="float64", **{"width": 11, "depth": 2, **shape})
    assert isinstance(net, networks.MLP)
    return net


def samples(data: Dataset, task: Task, order: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
    x = data.train.images.reshape(len(data.train), -1)[order] / data.scale
    asked = torch.from_numpy(task.asked[order])
    return torch.from_numpy(x[:, task.pixel_order]), asked.double() if asked.is_floating_point() else asked


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dim", [1, 2])
def test_losses_and_residuals_are_those_of_autograd(case: str, dim: int) -> None:
    objective, numbers, loss = an_objective(case)
    draw = np.random.default_rng(1)
    outputs = objective.outputs(numbers or 6)
    out = torch.from_numpy(draw.normal(0, 3, (4, 9, outputs))).requires_grad_()  # R x B x C
    y = torch.from_numpy(draw.integers(0, 6, (4, 9)) if numbers is None else draw.normal(0, 2, (4, 9, numbers)))
    if numbers:
        y[0, 0, 0] = y[1, 2, :] = torch.nan
    total = sum((loss(out[r, b : b + 1], y[r, b : b + 1]) for r in range(4) for b in range(9)), torch.zeros(()))
    (slope,) = torch.autograd.grad(total, out)
    shown, asked = (out, y) if dim == 2 else (out.transpose(1, 2), y.transpose(1, 2) if numbers else y)
    residual = objective.residual(shown.detach(), asked, dim)
    assert torch.allclose(residual if dim == 2 else residual.transpose(1, 2), slope, rtol=0, atol=1e-12)
    losses = objective.losses(shown, asked, dim)
    assert losses.shape == (4, 9) and float(losses.detach().sum()) == pytest.approx(float(total.detach()), abs=1e-10)
    again, kept = torch.empty(4, outputs, 9, dtype=torch.float64), torch.empty(4, outputs, 9, dtype=torch.float64)
    if dim == 1:  # as the step by hand asks it
        objective.step(shown.detach().contiguous(), asked, again, kept)
        assert torch.allclose(again, residual, rtol=0, atol=1e-12)
        assert torch.allclose(objective.seen(shown, kept, asked, 1), losses, rtol=0, atol=1e-12)
    right = objective.right(shown, asked, dim)
    assert right is None if numbers else torch.equal(right, out.argmax(2) == y)  # type: ignore[arg-type]


def test_a_residual_keeps_its_digits_where_the_loss_is_nearly_zero() -> None:
    out = torch.tensor([[60.0, 0.0, 0.0]], dtype=torch.float64)
    residual = CrossEntropy().residual(out, torch.tensor([0]))
    assert float(residual[0, 0]) == pytest.approx(-2 * np.exp(-60), rel=1e-12)


OPTIMIZERS = [
    OptimizerSpec(lr=0.05), OptimizerSpec(lr=0.05, weight_decay=0.02), OptimizerSpec(lr=0.02, momentum=0.9),
    OptimizerSpec("adam", lr=1e-3), OptimizerSpec("adamw", lr=1e-3, weight_decay=0.02),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "decay", "momentum", "adam", "adamw"])
@pytest.mark.parametrize(("batch", "autograd"), [(1, False), (5, False), (5, True)])
def test_the_stacked_engine_trains_every_objective_as_autograd_does(
    digits: Dataset, case: str, optimizer: OptimizerSpec, batch: int, autograd: bool
) -> None:
    optimizer = replace(optimizer, batch_size=batch)
    _, numbers, loss_of = an_objective(case)
    nets, solo = ([a_network(digits, case, seed) for seed in SEEDS] for _ in range(2))
    tasks = [a_task_of(digits, case, seed) for seed in SEEDS]
    orders = [np.random.default_rng(seed).permutation(1437)[:52] for seed in SEEDS]
    engine = StackedEngine(nets, digits, optimizer, "cpu", autograd=autograd)
    progress = engine.train_epoch(tasks, orders, optimizer.lr)
    for net, other, task, order, own in zip(nets, solo, tasks, orders, progress, strict=True):
        x, y = samples(digits, task, order)
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        extra: dict[str, Any] = {"momentum": optimizer.momentum} if optimizer.name == "sgd" else {}
        how = kinds[optimizer.name](
            other.parameters(), lr=optimizer.lr, weight_decay=optimizer.weight_decay, **extra
        )  # fmt: skip
        total, correct = 0.0, 0
        for start in range(0, 52, batch):
            rows = slice(start, start + batch)
            out = other(x[rows])
            loss = loss_of(out, y[rows])
            total += float(loss.detach()) * len(out)
            correct += 0 if numbers else int((out.argmax(1) == y[rows]).sum())
            how.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            how.step()
        for a, b in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-9)
        assert own.loss == pytest.approx(total / 52, abs=1e-9)
        assert own.correct is None if numbers else own.correct == correct


@pytest.mark.parametrize("case", ["smoothing", "mse of labels", "mse"])  # every further kernel costs seconds
@pytest.mark.parametrize(("batch", "decay"), [(1, 0.02), (5, 0.0)])
def test_the_online_engine_trains_what_it_carries_as_the_stacked_one_does(
    digits: Dataset, case: str, decay: float, batch: int
) -> None:
    optimizer = OptimizerSpec(lr=0.05, weight_decay=decay, batch_size=batch)
    assert OnlineEngine.refuses(NetworkSpec(), optimizer, "cpu", "float64", (), an_objective(case)[0]) is None
    found = []
    for engine in (OnlineEngine, StackedEngine):
        nets = [a_network(digits, case, seed) for seed in SEEDS]
        orders = [np.random.default_rng(seed).permutation(1437)[:103] for seed in SEEDS]
        tasks = [a_task_of(digits, case, seed) for seed in SEEDS]
        found.append((nets, engine(nets, digits, optimizer, "cpu").train_epoch(tasks, orders, optimizer.lr)))
    (ours, progress), (theirs, expected) = found
    for a, b in zip(progress, expected, strict=True):
        assert a.correct == b.correct and a.loss == pytest.approx(b.loss, abs=1e-10)
    for net, other in zip(ours, theirs, strict=True):
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=0, atol=1e-10)


def test_the_online_engine_refuses_two_hot() -> None:
    said = OnlineEngine.refuses(NetworkSpec(), OptimizerSpec(), "cpu", "float32", (), TwoHot())
    assert said is not None and "two_hot" in said


@pytest.mark.parametrize("case", CASES)
def test_metrics_of_the_loss_work_under_every_objective(digits: Dataset, case: str) -> None:
    objective, _, loss_of = an_objective(case)
    net, task = a_network(digits, case, 3), a_task_of(digits, case, 0)
    batch = training_samples(net, digits, task, np.arange(40))
    parameters = list(net.parameters())

    def gradient(rows: slice) -> Tensor:
        found = torch.autograd.grad(loss_of(net(batch.images[rows]), batch.labels[rows]), parameters)
        return torch.cat([g.flatten() for g in found])

    whole = gradient(slice(0, 40))
    assert gradients.gradient_norm(net, batch, block=17) == pytest.approx(float(whole.norm()), rel=1e-10)
    # interference
    single = torch.stack([gradient(slice(i, i + 1)) for i in range(40)])
    single = single[single.norm(dim=1) > 0]
    cosine = F.normalize(single) @ F.normalize(single).T
    apart = cosine[~torch.eye(len(single), dtype=torch.bool)]
    values, _ = ntk.ntk_metrics(net, batch)
    assert values["gradient_interference"] == pytest.approx(float(apart.mean()), abs=1e-10)
    assert values["ntk_effective_rank"] > 1
    # curvature
    product, count = curvature.hessian_product(net, batch, 17)
    v = torch.from_numpy(np.random.default_rng(0).normal(size=count))
    step = 1e-5
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(
                torch.nn.utils.parameters_to_vector(parameters) + (1 if sign > 0 else -2) * step * v, parameters
            )
        slopes.append(gradient(slice(0, 40)))
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(parameters) + step * v, parameters)
    assert torch.allclose(product(v), (slopes[0] - slopes[1]) / (2 * step), rtol=0, atol=1e-4 * float(v.norm()))
    # churn
    other = training_samples(net, digits, task, np.arange(40, 60))
    with evaluating(net):
        before = net(other.images)
        moved = churn(net, batch, other, 0.1)
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(parameters) - 0.1 * whole, parameters)
    assert moved == pytest.approx(float((net(other.images) - before).norm(dim=1).mean().detach()), rel=1e-9)
    assert objective.label == CASES[case][0]


@pytest.mark.parametrize("case", CASES)
def test_what_needs_classes_says_regression_and_losses_carry_on(digits: Dataset, case: str) -> None:
    _, numbers, loss_of = an_objective(case)
    net, task = a_network(digits, case, 3), a_task_of(digits, case, 0)
    found = measure(Snapshot(net, digits, task, None, samples=None), ("default",))
    values = {str(a): v for a, v in found.values.items()}
    undefined = {str(a): why for a, why in found.undefined.items()}
    x, y = samples(digits, task, np.arange(1437))
    assert values["train_loss"] == pytest.approx(float(loss_of(net(x), y).detach()), rel=1e-9)
    assert values["effective_rank"] > 1 and values["gradient_norm"] > 0 and values["weight_norm"] > 0
    if numbers:
        assert undefined["nc1"] == undefined["nc4"] == undefined["train_accuracy"] == "regression"
        assert undefined["nc1_test_weak@test"] == "regression" and "nc1" not in values
    else:
        assert values["nc1"] > 0 and 0 <= values["test_accuracy"] <= 1


def test_a_prediction_of_two_hot_is_the_mean_of_its_centres() -> None:
    objective = TwoHot(low=-1, high=3, bins=5)
    y = torch.tensor([[0.25, 2.0], [-7.0, 9.0]], dtype=torch.float64)
    q, _ = objective._shares(torch.zeros(2, 10, dtype=torch.float64), y, 1)
    assert torch.allclose(objective.value(q.flatten(1).log()), y.clamp(-1, 3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hinge", "known: cross_entropy, mse, two_hot"), ("cross_entropy:smoothing=2", "at most 1"),
        ("two_hot:low=3,high=1", "below"), ("two_hot:bins=1", "at least 2"), ("mse:x=1", "unknown parameter"),
        ("two_hot:low=nan", "impossible"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_objective_is_said(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse(text)
    assert words in f"{error.value} {error.value.hint}"


def test_an_objective_is_read_as_it_is_written() -> None:
    for name, kind in OBJECTIVES.items():
        assert kind().label == name and parse(name) == kind() and (kind.of_labels or kind.of_numbers) and kind.__doc__
    for text in ("two_hot:low=0.1234567890123,high=3,bins=9", "cross_entropy:smoothing=0.1"):
        assert parse(parse(text).label) == parse(text)


# as runs ask it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers(PermutedDigits):
    """A scenario that asks for two numbers an image."""

    id: ClassVar[str] = "numbers"
    objective: ClassVar[Objective] = parse("mse")
    objectives: ClassVar[tuple[str, ...]] = ("mse", "two_hot")

    def outputs(self, data: Dataset) -> int:
        return 2

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        draw = np.random.default_rng([seed, index])
        train, test = (draw.normal(index, 1, (len(split), 2)) for split in (data.train, data.test))
        targets = {"trained": train, "train": train, "test": test}
        return replace(super().task(index, data, seed), objective=self.objective, outputs=2, targets=targets)


def a_spec(data: Dataset, **given: Any) -> RunSpec:
    given = {"tasks": 2, "width": 8, "depth": 1, "batch_size": 16, **given}
    return specs(Numbers, given, data, DatasetSpec("digits", train_samples=200), [3])[0]


@pytest.mark.parametrize("text", [None, "two_hot:low=-3,high=4,bins=8"])
def test_a_run_may_ask_for_numbers_and_goes_on_where_it_stopped(digits: Dataset, text: str | None) -> None:
    spec = a_spec(digits, objective=text, metrics=("default", "plasticity_loss"))
    assert spec.scenario == Numbers(tasks=2) and trainer.build(spec, digits).classifier.out_features == 2 * (
        8 if text else 1
    )
    (cohort,) = plan([spec], "cpu")
    assert cohort.engine == ("stacked" if text else "online")
    epochs = []
    for epoch in trainer.train(cohort, digits):
        epochs.append(epoch)
        if epoch.position.epoch == 1:
            first = trainer.Start(epoch.position, epoch.state(), [[(0, 1, math.nan)]])
    (again,) = trainer.train(cohort, digits, first)
    for record in (epochs[-1].records[0], again.records[0]):
        assert record is not None and record.get("test_loss") is not None and not record.task_accuracy
        for name in ("online_accuracy", "plasticity_loss", "nc1", "test_accuracy"):
            assert record.get(name) is None and record.undefined[Address(name)] == "regression", name
    assert again.records[0].get("online_loss") == epochs[-1].records[0].get("online_loss")  # type: ignore[union-attr]


def test_an_objective_is_part_of_the_identity_only_where_it_differs(digits: Dataset) -> None:
    kind = PermutedDigits

    def one(**given: Any) -> RunSpec:
        return specs(kind, given, digits, DatasetSpec("digits"), [0])[0]

    assert one(objective="cross_entropy").id == one().id == one(objective="cross_entropy:smoothing=0").id
    assert len({one().id, one(objective="mse").id, one(objective="cross_entropy:smoothing=0.1").id}) == 3
    assert "objective" not in flat(one()) and flat(one(objective="mse"))["objective"] == "mse"
    assert choose_engine(one(objective="cross_entropy"), "cpu")[0] == "online"
    with pytest.raises(InputError, match="cannot be asked in permuted-digits"):
        one(objective="two_hot")
    with pytest.raises(InputError, match="asks for numbers"):
        specs(Numbers, {"batch_size": 64, "intervention": ["nc1"]}, digits, DatasetSpec("digits"), [0])


def test_a_stored_run_is_set_up_again_with_its_objective(digits: Dataset, tmp_path: Path) -> None:
    (spec,) = specs(
        PermutedDigits, {"tasks": 1, "width": 8, "objective": "cross_entropy:smoothing=0.123456789"}, digits,
        DatasetSpec("digits"), [0],
    )  # fmt: skip
    with open_store(str(tmp_path / "s.db")) as store:
        store.register(runs.describe(spec))
        assert settings.from_row(store.run(spec.id), digits) == spec
