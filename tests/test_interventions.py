"""Interventions against straightforward implementations, and against the faults known from other codebases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ncpl_cli.data import Dataset
from ncpl_cli.engines import OnlineEngine, StackedEngine
from ncpl_cli.errors import InputError
from ncpl_cli.interventions import INTERVENTIONS, Batch, Run, Treatment, parse, parse_all
from ncpl_cli.networks import MLP
from ncpl_cli.spec import OptimizerSpec
from tests.test_online_engine import a_network, a_task

SEEDS = (0, 1)
Engine = type[OnlineEngine] | type[StackedEngine]


def treatment(data: Dataset, *texts: str, **shape: Any) -> Treatment:
    return Treatment(parse_all(texts), lambda run, purpose: a_network(data, 100 + run, **shape))


def trained(
    data: Dataset,
    engine: Engine,
    optimizer: OptimizerSpec,
    *texts: str,
    epochs: int = 2,
    samples: int = 96,
    task: dict[str, Any] | None = None,
    warmed: bool = True,
    **shape: Any,
) -> tuple[list[MLP], list[Any]]:
    """Two runs after some epochs, with the interventions named; they begin away from their initialisation."""
    networks = [a_network(data, seed, **shape) for seed in SEEDS]
    machine = engine(networks, data, optimizer, "cpu", treatment=treatment(data, *texts, **shape))
    if warmed:
        for seed, network in enumerate(networks):
            move(network, seed)
    tasks = [replace(a_task(data, seed), **(task or {})) for seed in SEEDS]
    progress: list[Any] = []
    for epoch in range(epochs):
        orders = [np.random.default_rng([seed, epoch]).permutation(1437)[:samples] for seed in SEEDS]
        progress = machine.train_epoch(tasks, orders, optimizer.lr)
    return networks, progress


def move(network: nn.Module, seed: int) -> None:
    draw = np.random.default_rng([seed, 99])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.from_numpy(draw.normal(0, 0.05, tuple(parameter.shape))))


def by_autograd(
    data: Dataset, optimizer: OptimizerSpec, penalty: Callable[[MLP, MLP, Tensor, Tensor, Tensor], Tensor],
    *, epochs: int = 2, samples: int = 96, **shape: Any,
) -> list[MLP]:  # fmt: skip
    """The same training as `trained`, one run after another, with the penalty written out."""
    found = []
    for seed in SEEDS:
        network, initial = a_network(data, seed, **shape), a_network(data, seed, **shape)
        move(network, seed)
        task = a_task(data, seed)
        kinds: dict[str, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        descent = kinds[optimizer.name](network.parameters(), lr=optimizer.lr)
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(1437)[:samples]
            for start in range(0, samples, optimizer.batch_size):
                index = order[start : start + optimizer.batch_size]
                images = data.train.images[index].reshape(len(index), -1) / data.scale
                if task.pixel_order is not None:
                    images = images[:, task.pixel_order]
                x, y = torch.from_numpy(images), torch.from_numpy(task.train_labels[index])
                logits, activations, _ = network.classify(x)
                descent.zero_grad()
                loss = F.cross_entropy(logits, y) + penalty(network, initial, activations[-1], logits, y)
                loss.backward()
                descent.step()
        found.append(network)
    return found


def assert_same(ours: Sequence[nn.Module], theirs: Sequence[nn.Module], tolerance: float = 1e-11) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for name, value in b.state_dict().items():
            assert torch.allclose(a.state_dict()[name], value, rtol=0, atol=tolerance), name


def literal_nc1(h: Tensor, y: Tensor) -> Tensor:
    """tr(Sigma_W pinv(Sigma_B)) / K as it is written down, over classes with two samples or more."""
    kept = [c for c in y.unique().tolist() if int((y == c).sum()) >= 2]
    inside = torch.cat([h[y == c] for c in kept])
    centre = inside.mean(0)
    within = sum((((z := h[y == c] - h[y == c].mean(0)).T @ z) for c in kept), torch.zeros(()))
    between = sum((torch.outer(m := h[y == c].mean(0) - centre, m) for c in kept), torch.zeros(()))
    return torch.trace(within / len(inside) @ torch.linalg.pinv(between / len(kept), hermitian=True)) / len(kept)


PENALTIES: dict[str, Callable[[MLP, MLP, Tensor, Tensor, Tensor], Tensor]] = {
    "nc1:strength=0.001,clip=1e9": lambda net, init, h, z, y: -0.001 * literal_nc1(h, y),
    "nc1:strength=0.001,clip=1e9,direction=promote": lambda net, init, h, z, y: 0.001 * literal_nc1(h, y),
    "l2:strength=0.05": lambda net, init, h, z, y: (
        0.025 * sum((p.square().sum() for p in net.parameters()), h.sum() * 0)
    ),
    "l2_init:strength=0.05": lambda net, init, h, z, y: (
        0.025
        * sum(((p - q).square().sum() for p, q in zip(net.parameters(), init.parameters(), strict=True)), 0 * z.sum())
    ),
    "spectral:strength=0.05,k=3": lambda net, init, h, z, y: (
        0.05
        * sum(((torch.linalg.matrix_norm(p, 2) ** 3 - 1) ** 2 for p in net.parameters() if p.dim() > 1), 0 * z.sum())
    ),
}


@pytest.mark.parametrize("text", PENALTIES)
@pytest.mark.parametrize("optimizer", [OptimizerSpec(lr=0.02), OptimizerSpec("adam", lr=1e-3)], ids=["sgd", "adam"])
def test_a_penalty_trains_as_if_written_out(digits: Dataset, text: str, optimizer: OptimizerSpec) -> None:
    optimizer = replace(optimizer, batch_size=32)
    ours, _ = trained(digits, StackedEngine, optimizer, text, width=40, depth=2)
    assert_same(ours, by_autograd(digits, optimizer, PENALTIES[text], width=40, depth=2), 1e-9)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(
    "texts", [["l2:strength=0.05"], ["l2_init:strength=0.05"], ["l2:strength=0.03", "l2_init:strength=0.05"]]
)
def test_the_compiled_engine_carries_pulls_exactly(digits: Dataset, batch: int, texts: list[str]) -> None:
    optimizer = OptimizerSpec(lr=0.03, batch_size=batch)

    def penalty(*given: Any) -> Tensor:
        strengths = {"l2:strength=0.05": 1.0, "l2:strength=0.03": 0.6, "l2_init:strength=0.05": 1.0}
        keys = {"l2": "l2:strength=0.05", "l2_init": "l2_init:strength=0.05"}
        return cast(Tensor, sum(strengths[t] * PENALTIES[keys[t.partition(":")[0]]](*given) for t in texts))

    ours, _ = trained(digits, OnlineEngine, optimizer, *texts, width=12, depth=3)
    assert_same(ours, by_autograd(digits, optimizer, penalty, width=12, depth=3))


def test_a_long_pull_is_folded_before_digits_are_lost(digits: Dataset) -> None:
    optimizer = OptimizerSpec(lr=0.05)
    strong = "l2_init:strength=2"  # the scale passes 1e-3 twice in 200 steps
    ours, _ = trained(digits, OnlineEngine, optimizer, strong, width=8, depth=2, samples=200, epochs=1)
    theirs, _ = trained(digits, StackedEngine, optimizer, strong, width=8, depth=2, samples=200, epochs=1)
    assert_same(ours, theirs)


def test_weight_decay_is_carried_by_the_compiled_engine(digits: Dataset) -> None:
    decay = OptimizerSpec(lr=0.03, weight_decay=0.05)
    ours, _ = trained(digits, OnlineEngine, decay, width=12, depth=2)
    theirs = by_autograd(digits, replace(decay, weight_decay=0), PENALTIES["l2:strength=0.05"], width=12, depth=2)
    assert_same(ours, theirs)


IDLE = [
    *(f"{name}:strength=0" for name in ("nc1", "nc2", "nc3", "nc4", "cdnv", "l2", "l2_init", "spectral", "feature_norm",
                                "gradient_norm", "placebo")),
    "shrink_perturb:shrink=1,perturb=0", "continual_backprop:rate=0",
]  # fmt: skip


@pytest.mark.parametrize("text", IDLE)
@pytest.mark.parametrize("engine", [OnlineEngine, StackedEngine])
def test_at_strength_zero_it_is_the_identity_bit_for_bit(digits: Dataset, engine: Engine, text: str) -> None:
    optimizer = OptimizerSpec(lr=0.03, batch_size=32)
    assert engine.refuses(_mlp(), optimizer, "cpu", "float32", parse_all([text])) is None
    ours, _ = trained(digits, engine, optimizer, text, width=12, depth=2)
    theirs, _ = trained(digits, engine, optimizer, width=12, depth=2)
    assert_same(ours, theirs, 0)


@pytest.mark.parametrize("name", [n for n, kind in INTERVENTIONS.items() if kind.in_loss])
def test_phase_and_tasks_say_where_a_penalty_acts(digits: Dataset, name: str) -> None:
    optimizer = OptimizerSpec(lr=0.03, batch_size=32)
    plain, _ = trained(digits, StackedEngine, optimizer, epochs=1, width=12, depth=2)

    def acts(text: str, **task: Any) -> bool:
        ours, _ = trained(digits, StackedEngine, optimizer, text, epochs=1, task=task, width=12, depth=2)
        return any(not torch.allclose(a, b, rtol=0, atol=1e-9)
                   for a, b in zip(ours[0].parameters(), plain[0].parameters(), strict=True))  # fmt: skip

    assert (
        acts(name)
        and acts(f"{name}:tasks=0")
        and acts(name, phase="warm-up")
        and acts(f"{name}:phase=all", phase="probe")
    )
    assert not acts(f"{name}:tasks=0", index=1) and not acts(name, phase="probe")
    assert not acts(f"{name}:phase=probe", phase="warm-up")


def _mlp() -> Any:
    from ncpl_cli.spec import NetworkSpec

    return NetworkSpec()


def a_batch(
    seed: int, *, classes: int = 5, size: int = 24, width: int = 9, labels: NDArray[np.int64] | None = None
) -> Batch:
    draw = np.random.default_rng(seed)
    y = draw.integers(0, classes, size) if labels is None else labels
    parameters = {"classifier.weight": torch.from_numpy(draw.normal(size=(1, classes, width)))}
    return Batch(
        torch.from_numpy(draw.normal(size=(1, len(y), width)) + draw.normal(size=(classes, width))[y]),
        torch.from_numpy(draw.normal(size=(1, len(y), classes))), torch.from_numpy(y)[None], parameters, {},
        "classifier.weight", torch.arange(classes),
    )  # fmt: skip


def test_a_placebo_is_the_square_along_fixed_directions_that_know_no_class() -> None:
    batch, one = a_batch(0), parse("placebo:strength=0.4,directions=3")
    basis = one.basis(9).numpy()  # type: ignore[attr-defined]
    assert np.allclose(basis.T @ basis, np.eye(3)) and parse("placebo:directions=99").basis(9).shape == (9, 9)  # type: ignore[attr-defined]
    h = batch.features[0].numpy()
    assert float(one.penalty(batch)[0]) == pytest.approx(0.2 * np.mean([sum((row @ basis) ** 2) for row in h]))
    renamed = replace(batch, labels=torch.zeros_like(batch.labels))
    assert torch.equal(one.penalty(batch), one.penalty(renamed))
    other = parse("placebo:strength=0.4,directions=3,draw=1")
    assert not torch.equal(one.penalty(batch), other.penalty(batch))


REGULARISERS = ["nc1", "nc2", "nc3", "nc4", "cdnv"]


@pytest.mark.parametrize("name", REGULARISERS)
@pytest.mark.parametrize("width", [3, 9])  # 3: fewer dimensions than classes
@pytest.mark.parametrize("labels", [None, [0, 0, 0, 1, 1, 2, 2, 2, 4, 4, 3]], ids=["all", "a single and few"])
def test_the_gradients_of_collapse_regularisers(name: str, width: int, labels: list[int] | None) -> None:
    batch = a_batch(0, width=width, labels=None if labels is None else np.array(labels))
    one = parse(f"{name}:strength=1,clip=1e6,direction=promote")

    def value(h: Tensor, z: Tensor, w: Tensor) -> Tensor:
        return one.penalty(replace(batch, features=h, logits=z, parameters={"classifier.weight": w}))

    if name == "nc4":  # sigma is held constant by definition, so that only the logits' gradient is the whole one
        inputs = (batch.features, batch.logits.clone().requires_grad_(), batch.weight)
    else:
        inputs = tuple(t.clone().requires_grad_() for t in (batch.features, batch.logits, batch.weight))  # type: ignore[assignment]
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_regulariser_is_the_metric_that_is_measured(name: str) -> None:
    from ncpl_cli.metrics import collapse

    batch = a_batch(3, labels=np.array([0] * 9 + [1] * 5 + [2] * 4 + [4] * 6))
    measured = collapse(
        batch.features[0], batch.labels[0], batch.weight[0], torch.zeros(5, dtype=torch.float64), classes=5
    ).values
    batch = replace(batch, present=torch.tensor([0, 1, 2, 4]))
    if name == "nc4":  # sure and right, or sure and wrong: the surrogate's two ends
        far = replace(
            batch,
            features=1000 * torch.eye(9, dtype=torch.float64)[batch.labels],
            logits=1e4 * F.one_hot(batch.labels, 5).double(),
        )
        wrong = replace(far, logits=1e4 * F.one_hot((batch.labels + 1) % 5, 5).double())
        noise = torch.from_numpy(np.random.default_rng(0).normal(size=batch.features.shape))
        far, wrong = replace(far, features=far.features + noise), replace(wrong, features=far.features + noise)
        one = parse("nc4:strength=1,direction=promote")
        assert float(one.penalty(far)) < 1e-9 and float(one.penalty(wrong)) > 1 - 1e-9
    else:
        value = float(parse(f"{name}:strength=1,clip=1e6,direction=promote").penalty(batch))
        assert value == pytest.approx(measured[name], rel=1e-10)


@pytest.mark.parametrize("name", ["nc1", "nc3", "nc4", "cdnv"])
def test_a_batch_that_holds_no_two_classes_adds_nothing(name: str) -> None:
    one = parse(f"{name}:strength=1")
    for labels in ([0, 0, 0, 1], [0, 1, 2, 3, 4]):
        batch = a_batch(0, labels=np.array(labels))
        h = batch.features.clone().requires_grad_()
        value = one.penalty(replace(batch, features=h))
        assert value.tolist() == [0.0]
        if value.requires_grad:
            value.sum().backward()  # type: ignore[no-untyped-call]
            assert h.grad is None or bool((h.grad == 0).all())


@pytest.mark.parametrize("name", ["nc1", "nc3", "cdnv"])
def test_dead_features_give_no_gradient_and_no_nan(name: str) -> None:
    batch = replace(a_batch(0), features=torch.zeros(1, 24, 9, dtype=torch.float64, requires_grad=True))
    value = parse(f"{name}:strength=1").penalty(batch)
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert bool(batch.features.grad.isfinite().all()) and bool(value.isfinite().all())  # type: ignore[union-attr]


def test_above_the_clip_the_gradient_is_zero() -> None:
    batch = a_batch(0)
    h = batch.features.clone().requires_grad_()
    parse("nc1:strength=1,clip=1e-6").penalty(replace(batch, features=h)).sum().backward()  # type: ignore[no-untyped-call]
    assert h.grad is not None and bool((h.grad == 0).all())


def test_the_epoch_tells_how_often_the_term_was_skipped_and_how_many_classes_counted(digits: Dataset) -> None:
    one_class = np.zeros(1437, dtype=np.int64)
    _, progress = trained(digits, StackedEngine, OptimizerSpec(batch_size=32), "nc1", task={"train_labels": one_class})
    assert progress[0].extra["regulariser_skipped"] == 1.0 and progress[0].extra["regulariser_classes"] == 1.0
    _, progress = trained(digits, StackedEngine, OptimizerSpec(batch_size=32), "nc1")
    assert progress[0].extra["regulariser_skipped"] == 0.0 and 8 < progress[0].extra["regulariser_classes"] <= 10


# recycling ---------------------------------------------------------------------------------------------------


def a_run(data: Dataset, **shape: Any) -> Run:
    network = a_network(data, 0, **shape)
    move(network, 0)
    moments = {f"exp_avg.{n}": torch.ones_like(p) for n, p in network.named_parameters()}
    images = torch.from_numpy(data.train.images[:200].reshape(200, -1) / data.scale)
    return Run(network, lambda: a_network(data, 5, **shape), moments, images)


@pytest.mark.parametrize("activation", ["relu", "crelu"])
def test_recycling_a_dead_unit_leaves_the_function_as_it_is(digits: Dataset, activation: str) -> None:
    run = a_run(digits, width=10, depth=2, activation=activation)
    network = cast(MLP, run.network)
    with torch.no_grad():
        for unit in (2, 7):  # dead, with outgoing weights and bias that must not matter any more afterwards
            network.hidden[0].weight[unit] = 0
            network.hidden[0].bias[unit] = -1.0 if activation == "relu" else 0.0
        for layer, h in enumerate(network.classify(run.images)[1]):  # and nobody else
            network.hidden[layer].bias[
                [u for u in range(10) if bool((h[:, u] == 0).all()) and (layer or u not in (2, 7))]
            ] = 1.0
    before = network(run.images).clone()
    old = {n: p.clone() for n, p in network.named_parameters()}
    assert parse("redo:tau=0").recycle(run) == 2
    assert torch.allclose(network(run.images), before, atol=1e-12)
    fresh = run.fresh()
    units = [2, 7]
    shown = units + [u + 10 for u in units] if activation == "crelu" else units
    assert torch.equal(network.hidden[0].weight[units], fresh.hidden[0].weight[units])
    assert bool((network.hidden[0].bias[units] == 0).all()) and bool((network.hidden[1].weight[:, shown] == 0).all())
    others = [u for u in range(10) if u not in units]
    assert torch.equal(network.hidden[0].weight[others], old["hidden.0.weight"][others])
    # optimiser state of the unit and of nobody else
    assert bool((run.moments["exp_avg.hidden.0.weight"][units] == 0).all())
    assert bool((run.moments["exp_avg.hidden.0.weight"][others] == 1).all())
    assert bool((run.moments["exp_avg.hidden.1.weight"][:, shown] == 0).all())
    assert int((run.moments["exp_avg.hidden.1.weight"] == 0).sum()) == 10 * len(shown)


def test_redo_judges_by_the_share_of_the_layers_mean(digits: Dataset) -> None:
    run = a_run(digits, width=10, depth=1)
    network = cast(MLP, run.network)
    h = network.classify(run.images)[1][0].detach()
    score = h.abs().mean(0) / h.abs().mean()
    tau = float(score.sort().values[3] + score.sort().values[4]) / 2
    before = network.hidden[0].weight.detach().clone()
    assert parse(f"redo:tau={tau}").recycle(run) == 4
    changed = (network.hidden[0].weight.detach() != before).any(1)
    assert changed.tolist() == (score <= tau).tolist()


@pytest.mark.parametrize("engine", [OnlineEngine, StackedEngine])
def test_redo_acts_after_the_same_steps_in_every_engine(digits: Dataset, engine: Engine) -> None:
    """Against the loop written out: train 10 steps, look, train 10 steps, ... across epochs of 96 samples."""
    optimizer = OptimizerSpec(lr=0.3, batch_size=4)
    texts = ("redo:tau=0.5,steps=10,samples=50",)
    ours, progress = trained(digits, engine, optimizer, *texts, width=12, depth=2)
    care = treatment(digits, *texts, width=12, depth=2)
    theirs, recycled = [], [0, 0]
    for seed in SEEDS:
        network = a_network(digits, seed, width=12, depth=2)
        move(network, seed)
        task, step = a_task(digits, seed), 0
        before = torch.zeros(0, 64, dtype=torch.float64)
        for epoch in range(2):
            order = np.random.default_rng([seed, epoch]).permutation(1437)[:96]
            x = torch.from_numpy(digits.train.images.reshape(1437, -1)[:, task.pixel_order] / digits.scale)[order]
            y = torch.from_numpy(task.train_labels[order])
            for start in range(0, 96, 4):
                network.zero_grad()
                F.cross_entropy(network(x[start : start + 4]), y[start : start + 4]).backward()
                with torch.no_grad():
                    for p in network.parameters():
                        p -= optimizer.lr * cast(Tensor, p.grad)
                step += 1
                if step % 10 == 0:
                    shown = torch.cat([before, x[: start + 4]])
                    count = care.interventions[0].recycle(care.run(seed, network, {}, f"redo step {step}", shown))
                    recycled[seed] += count if epoch == 1 else 0
            before = torch.cat([before, x])
        theirs.append(network)
    assert_same(ours, theirs, 1e-9)
    assert [p.extra["recycled_units"] for p in progress] == recycled and sum(recycled) > 0


@pytest.mark.parametrize(
    ("texts", "batch", "decay"),
    [
        (("continual_backprop:rate=0.002,maturity=20,decay=0.9",), 1, 0.0),
        (("continual_backprop:rate=0.02,maturity=5,decay=0.9",), 5, 0.001),  # 96 samples leave one over
        (("continual_backprop:rate=0.01,maturity=9,decay=0.9", "l2_init:strength=0.01"), 1, 0.0),
        (("continual_backprop:rate=0.01,maturity=9,decay=0.9", "redo:steps=10,tau=0.3,samples=20"), 2, 0.0),
        (("continual_backprop:rate=0.7,maturity=2",), 1, 0.0),  # more is due than there is
    ],
)
@pytest.mark.parametrize("depth", [1, 3])
def test_continual_backprop_in_the_compiled_loop_is_the_one_of_matrices(
    digits: Dataset, texts: tuple[str, ...], batch: int, decay: float, depth: int
) -> None:
    """Of runs that differ, with weights pulled in the lazy way too, and with a stream of fresh networks a block."""
    optimizer = OptimizerSpec(lr=0.05, batch_size=batch, weight_decay=decay)
    shape = {"width": 13, "depth": depth}

    def drawn(run: int, purpose: str) -> MLP:
        return a_network(digits, 100 + run + sum(purpose.encode()), **shape)

    found: dict[Engine, tuple[list[MLP], list[dict[str, Tensor]], list[Any]]] = {}
    for kind in (OnlineEngine, StackedEngine):
        networks = [a_network(digits, seed, **shape) for seed in SEEDS]
        machine = kind(networks, digits, optimizer, "cpu", treatment=Treatment(parse_all(texts), drawn))
        orders = [[np.random.default_rng([seed, e]).permutation(1437)[:96] for seed in SEEDS] for e in range(2)]
        for order in orders:
            progress = machine.train_epoch([a_task(digits, seed) for seed in SEEDS], order, optimizer.lr)
        found[kind] = networks, machine.state(), progress
    (ours, states, progress), (theirs, wanted, also) = found.values()
    assert_same(ours, theirs, 1e-9)
    assert [p.extra["recycled_units"] for p in progress] == [p.extra["recycled_units"] for p in also]
    assert all(p.extra["recycled_units"] for p in progress)
    for own, other in zip(states, wanted, strict=True):
        assert set(own) == set(other) and any("utility" in name for name in own)
        for name, value in own.items():
            assert torch.allclose(value.double(), other[name].double(), atol=1e-8), name


@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [(StackedEngine, OptimizerSpec("adam", lr=1e-3, batch_size=4)), (OnlineEngine, OptimizerSpec(lr=0.05))],
)
def test_what_continual_backprop_remembers_survives_a_checkpoint(
    digits: Dataset, engine: Engine, optimizer: OptimizerSpec
) -> None:
    text = "continual_backprop:rate=0.05,maturity=5,decay=0.9"
    tasks = [a_task(digits, seed) for seed in SEEDS]
    orders = [[np.random.default_rng([s, e]).permutation(1437)[:96] for s in SEEDS] for e in range(3)]

    def machine() -> tuple[list[MLP], OnlineEngine | StackedEngine]:
        networks = [a_network(digits, seed, width=12, depth=2) for seed in SEEDS]
        return networks, engine(
            networks, digits, optimizer, "cpu", treatment=treatment(digits, text, width=12, depth=2)
        )

    whole, first_to_last = machine()
    for order in orders:
        first_to_last.train_epoch(tasks, order, optimizer.lr)
    first, then = machine()
    then.train_epoch(tasks, orders[0], optimizer.lr)
    saved = then.state()
    then.train_epoch(tasks, orders[1], optimizer.lr)  # what was taken is no view of what goes on
    first, then = machine()
    then.train_epoch(tasks, orders[0], optimizer.lr)
    second, again = machine()
    for a, b in zip(first, second, strict=True):
        b.load_state_dict(copy.deepcopy(a.state_dict()))
    again.load_state(saved)
    for order in orders[1:]:
        again.train_epoch(tasks, order, optimizer.lr)
    assert_same(second, whole, 0)


# changes -----------------------------------------------------------------------------------------------------


def test_shrink_and_perturb_takes_the_statistics_of_batch_norm_along(digits: Dataset) -> None:
    run = a_run(digits, width=10, depth=2, norm="batch")
    network = run.network
    network.train()
    network(run.images)
    old = copy.deepcopy(network.state_dict())
    parse("shrink_perturb:shrink=0.5,perturb=0.1").change(run)
    fresh = dict(run.fresh().named_parameters())
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter, 0.5 * old[name] + 0.1 * fresh[name])
    assert bool((network.norms[0].running_mean == 0).all()) and bool((network.norms[0].running_var == 1).all())
    assert bool((old["norms.0.running_mean"] != 0).any())


@pytest.mark.parametrize("text", ["head_reset", "full_reset", "optimizer_reset"])
def test_resets_reset_what_they_name_and_its_optimiser_state(digits: Dataset, text: str) -> None:
    networks = [a_network(digits, seed, width=12, depth=2) for seed in SEEDS]
    optimizer = OptimizerSpec("adam", lr=1e-3, batch_size=8)
    engine = StackedEngine(networks, digits, optimizer, "cpu", treatment=treatment(digits, text, width=12, depth=2))
    tasks = [a_task(digits, seed) for seed in SEEDS]
    engine.train_epoch(tasks, [np.arange(96)] * 2, optimizer.lr)
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    engine.change("task 1")
    for run, (network, old, state) in enumerate(zip(networks, before, engine.state(), strict=True)):
        fresh = a_network(digits, 100 + run, width=12, depth=2).state_dict()
        for name, value in network.state_dict().items():
            reset = text == "full_reset" or (text == "head_reset" and name.startswith("classifier"))
            assert torch.equal(value, fresh[name] if reset else old[name]), name
            forgotten = text != "head_reset" or name.startswith("classifier")
            assert bool((state[f"exp_avg.{name}"] == 0).all()) == forgotten
            assert float(state[f"step.{name}"]) == (0 if forgotten else 12)


# what is written ---------------------------------------------------------------------------------------------


def test_an_intervention_is_read_as_it_is_labelled() -> None:
    for kind in INTERVENTIONS.values():
        assert parse(kind().label) == kind() and kind().label == kind.id
    one = parse("nc1:strength=0.1,direction=promote")
    assert one.label == "nc1:strength=0.1,direction=promote" and parse(one.label) == one
    assert [i.id for i in parse_all(["redo", "nc1"])] == [i.id for i in parse_all(["nc1", "redo"])]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nc9", "unknown intervention 'nc9'"), ("nc1:strenght=1", "Did you mean 'strength'"),
        ("nc1:strength", "strength=VALUE"), ("nc1:strength=x", "it is a number"), ("nc1:strength=-1", "at least 0"),
        ("nc1:strength=nan", "it is a number"), ("redo:steps=1.5", "it is a whole number"),
        ("nc1:phase=later", "known: all, probe, warm-up"),
        ("shrink_perturb:shrink=2", "at most 1"), ("l2:strength=1,strength=2", "once"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_intervention_is_said(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse(text)
    assert words in f"{error.value} {error.value.hint}"


def test_every_intervention_says_where_it_is_from_and_who_carries_it() -> None:
    for name, kind in INTERVENTIONS.items():
        assert kind.id == name and kind.source and set(kind.engines) <= {"online", "stacked"} and kind.__doc__


@pytest.mark.parametrize("text", ["spectral:strength=0.01", "nc1:strength=0.01", "nc4:strength=0.01"])
def test_a_run_that_diverges_leaves_its_neighbours_alone(digits: Dataset, text: str) -> None:
    found = []
    for broken in (False, True):
        nets = [a_network(digits, seed) for seed in SEEDS]
        engine = StackedEngine(nets, digits, OptimizerSpec(batch_size=20), "cpu", treatment=treatment(digits, text))
        if broken:
            with torch.no_grad():
                for parameter in nets[1].parameters():
                    parameter.fill_(1e30)
        progress = engine.train_epoch([a_task(digits, seed) for seed in SEEDS], [np.arange(80)] * 2, 0.05)
        assert [p.finite for p in progress] == [True, not broken]
        found.append(nets[0].state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
