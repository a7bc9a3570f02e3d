"""What is made anew begins anew in the optimiser too: moments, step counts and memory, against loops written out."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ncpl_cli.data import Dataset
from ncpl_cli.engines import OnlineEngine, StackedEngine
from ncpl_cli.engines.optimizers import CountedAdam
from ncpl_cli.interventions import Run, parse
from ncpl_cli.interventions.recycling import ReDo
from ncpl_cli.networks import MLP
from ncpl_cli.spec import OptimizerSpec
from tests.test_interventions import SEEDS, a_run, move, treatment
from tests.test_online_engine import a_network, a_task

SHAPE: dict[str, Any] = {"width": 12, "depth": 2}
BATCH, SAMPLES = 4, 96
OPTIMIZERS = [
    OptimizerSpec(lr=0.1, momentum=0.9, batch_size=BATCH), OptimizerSpec("adam", lr=3e-3, batch_size=BATCH),
    OptimizerSpec("adamw", lr=3e-3, weight_decay=0.1, batch_size=BATCH),
    OptimizerSpec("adam", lr=3e-3, weight_decay=0.1, batch_size=BATCH),
]  # fmt: skip
NAMES = ["momentum", "adam", "adamw", "adam-l2"]


class Literal:
    """One run trained by a loop as the papers write it: every element has moments and a step count of its own."""

    def __init__(self, data: Dataset, seed: int, optimizer: OptimizerSpec) -> None:
        self.network, self.spec = a_network(data, seed, **SHAPE), optimizer
        move(self.network, seed)
        self.fresh = a_network(data, 100 + seed, **SHAPE)
        zeros = {name: torch.zeros_like(p.detach()) for name, p in self.network.named_parameters()}
        self.state = {kind: {n: z.clone() for n, z in zeros.items()} for kind in ("m", "v", "t")}

    def step(self, x: Tensor, y: Tensor) -> list[Tensor]:
        self.network.zero_grad()
        logits, activations, _ = self.network.classify(x)
        F.cross_entropy(logits, y).backward()
        for name, p in self.network.named_parameters():
            assert p.grad is not None
            m, v, t = (self.state[kind][name] for kind in "mvt")
            gradient, lr, decay = p.grad.clone(), self.spec.lr, self.spec.weight_decay
            with torch.no_grad():
                if self.spec.name == "adamw":
                    p *= 1 - lr * decay
                else:
                    gradient += decay * p
                t += 1
                if self.spec.name == "sgd":
                    m.mul_(self.spec.momentum).add_(gradient)
                    p -= lr * m
                else:
                    m.mul_(0.9).add_(0.1 * gradient)
                    v.mul_(0.999).add_(0.001 * gradient**2)
                    p -= lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        return [h.detach() for h in activations]

    def renew(self, name: str, index: Any, value: Any) -> None:
        with torch.no_grad():
            self.network.get_parameter(name)[index] = value
            for kind in "mvt":
                self.state[kind][name][index] = 0

    def recycle(self, units: list[list[int]]) -> None:
        for layer, chosen in enumerate(units):
            for part in ("weight", "bias"):
                name = f"hidden.{layer}.{part}"
                self.renew(name, chosen, self.fresh.get_parameter(name).detach()[chosen])
        for name, chosen in zip(("hidden.1.weight", "classifier.weight"), units, strict=True):
            self.renew(name, (slice(None), chosen), 0.0)


def samples_of(data: Dataset, seed: int, epoch: int) -> tuple[Any, Tensor, Tensor]:
    order = np.random.default_rng([seed, epoch]).permutation(len(data.train))[:SAMPLES]
    task = a_task(data, seed)
    x = torch.from_numpy(data.train.images.reshape(len(data.train), -1)[:, task.pixel_order] / data.scale)[order]
    return order, x, torch.from_numpy(task.train_labels[order])


def assert_equals(ours: MLP, state: dict[str, Tensor], theirs: Literal) -> None:
    for name, value in theirs.network.named_parameters():
        assert torch.allclose(ours.get_parameter(name), value, rtol=0, atol=1e-9), name
    kinds = {"momentum_buffer": "m"} if theirs.spec.name == "sgd" else {"exp_avg": "m", "exp_avg_sq": "v", "step": "t"}
    for kind, own in kinds.items():
        for name, expected in theirs.state[own].items():
            assert torch.allclose(state[f"{kind}.{name}"].double(), expected, rtol=1e-6, atol=1e-12), (kind, name)


def a_machine(data: Dataset, optimizer: OptimizerSpec, text: str) -> tuple[list[MLP], StackedEngine]:
    networks = [a_network(data, seed, **SHAPE) for seed in SEEDS]
    engine = StackedEngine(networks, data, optimizer, "cpu", treatment=treatment(data, text, **SHAPE))
    for seed, network in enumerate(networks):
        move(network, seed)
    return networks, engine


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=NAMES)
@pytest.mark.parametrize("text", ["head_reset", "full_reset", "optimizer_reset"])
def test_a_reset_at_a_change_is_one_of_the_optimiser_too(digits: Dataset, optimizer: OptimizerSpec, text: str) -> None:
    networks, engine = a_machine(digits, optimizer, text)
    tasks = [a_task(digits, seed) for seed in SEEDS]
    for epoch in range(2):
        if epoch:
            engine.change("task 1")
        engine.train_epoch(tasks, [samples_of(digits, seed, epoch)[0] for seed in SEEDS], optimizer.lr)
    for seed, (network, state) in enumerate(zip(networks, engine.state(), strict=True)):
        literal = Literal(digits, seed, optimizer)
        for epoch in range(2):
            for name, p in literal.network.named_parameters():
                if epoch and (text != "head_reset" or name.startswith("classifier")):
                    kept = p.detach() if text == "optimizer_reset" else literal.fresh.get_parameter(name).detach()
                    literal.renew(name, ..., kept.clone())
            _, x, y = samples_of(digits, seed, epoch)
            for start in range(0, SAMPLES, BATCH):
                literal.step(x[start : start + BATCH], y[start : start + BATCH])
        assert_equals(network, state, literal)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=NAMES)
def test_redo_gives_a_unit_moments_and_a_count_of_its_own(digits: Dataset, optimizer: OptimizerSpec) -> None:
    networks, engine = a_machine(digits, optimizer, "redo:tau=0.4,steps=7,samples=60")
    tasks = [a_task(digits, seed) for seed in SEEDS]
    for epoch in range(2):
        engine.train_epoch(tasks, [samples_of(digits, seed, epoch)[0] for seed in SEEDS], optimizer.lr)
    neighbours = 0
    for seed, (network, state) in enumerate(zip(networks, engine.state(), strict=True)):
        literal, shown, steps = Literal(digits, seed, optimizer), torch.zeros(0, 64, dtype=torch.float64), 0
        for epoch in range(2):
            _, x, y = samples_of(digits, seed, epoch)
            for start in range(0, SAMPLES, BATCH):
                literal.step(x[start : start + BATCH], y[start : start + BATCH])
                shown, steps = torch.cat([shown, x[start : start + BATCH]]), steps + 1
                if steps % 7 == 0:
                    scores = [h.abs().mean(0) for h in literal.network.classify(shown[-60:])[1]]
                    units = [torch.nonzero(s <= 0.4 * s.mean())[:, 0].tolist() for s in scores]
                    literal.recycle(units)
                    neighbours += bool(units[0] and units[1])
        assert_equals(network, state, literal)
    assert neighbours


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=NAMES)
def test_continual_backprop_gives_a_unit_moments_and_a_count_of_its_own(
    digits: Dataset, optimizer: OptimizerSpec
) -> None:
    networks, engine = a_machine(digits, optimizer, "continual_backprop:rate=0.0201,maturity=5,decay=0.9")
    tasks = [a_task(digits, seed) for seed in SEEDS]
    engine.train_epoch(tasks, [samples_of(digits, seed, 0)[0] for seed in SEEDS], optimizer.lr)
    neighbours = 0
    for seed, (network, state) in enumerate(zip(networks, engine.state(), strict=True)):
        literal, (_, x, y) = Literal(digits, seed, optimizer), samples_of(digits, seed, 0)
        utility, age, due = np.zeros((2, 12)), np.zeros((2, 12)), np.zeros(2)
        for start in range(0, SAMPLES, BATCH):
            activations = literal.step(x[start : start + BATCH], y[start : start + BATCH])
            after = [literal.network.hidden[1], literal.network.classifier]
            units: list[list[int]] = [[], []]
            leaving = [layer.weight.detach().abs().sum(0).numpy() for layer in after]  # type: ignore[union-attr, operator]
            for layer, h in enumerate(activations):
                utility[layer] = 0.9 * utility[layer] + 0.1 * h.abs().mean(0).numpy() * leaving[layer]
                age[layer] += 1
                mature = np.flatnonzero(age[layer] > 5)
                due[layer] += 0.0201 * len(mature)
                worst = sorted(mature, key=lambda u, at=layer: utility[at, u] / (1 - 0.9 ** age[at, u]))  # type: ignore[misc]
                units[layer] = [int(u) for u in worst[: int(due[layer])]]
                due[layer] -= len(units[layer])
                utility[layer, units[layer]] = age[layer, units[layer]] = 0
            literal.recycle(units)
            neighbours += bool(units[0] and units[1])
        assert_equals(network, state, literal)
    assert neighbours


def test_a_renewed_elements_steps_are_at_most_the_learning_rate() -> None:
    theta = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    adam = CountedAdam([theta], lr=0.1)
    steps = []
    for number in range(60):
        if number == 50:
            for value in adam.state[theta].values():
                value[0] = 0
        theta.grad = torch.ones(3, dtype=torch.float64)
        before = theta.detach().clone()
        adam.step()
        steps.append((before - theta.detach()).tolist())
    assert all(abs(own - 0.1) < 1e-8 for row in steps for own in row)  # a constant gradient: lr, whatever the count


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_where_nothing_is_renewed_it_is_torchs_adam(precision: torch.dtype) -> None:
    for kind, extra in ((torch.optim.Adam, {}), (torch.optim.AdamW, {"decoupled": True})):
        draw = torch.Generator().manual_seed(0)
        start = torch.randn(7, 5, generator=draw, dtype=precision)
        ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
        settings: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
        machines = (CountedAdam([ours], **settings, **extra), kind([theirs], **settings))
        for _ in range(300):
            gradient = torch.randn(7, 5, generator=draw, dtype=precision)
            for parameter, machine in zip((ours, theirs), machines, strict=True):
                parameter.grad = gradient.clone()
                machine.step()
        assert torch.allclose(ours, theirs, rtol=0, atol=300 * 0.01 * 4 * torch.finfo(precision).eps)


def test_a_full_reset_forgets_what_is_remembered_of_the_old_units(digits: Dataset) -> None:
    _, engine = a_machine(digits, OPTIMIZERS[1], "continual_backprop:rate=0.001,maturity=50")
    engine._treated._treatment = treatment(digits, "continual_backprop:rate=0.001", "full_reset", **SHAPE)
    engine.train_epoch(
        [a_task(digits, s) for s in SEEDS], [samples_of(digits, s, 0)[0] for s in SEEDS], OPTIMIZERS[1].lr
    )
    assert float(engine.state()[0]["treated.continual_backprop.age.0"].min()) == 24
    engine.change("task 1")
    assert all(not own[f"treated.continual_backprop.{name}.1"].any() for own in engine.state()
               for name in ("utility", "age", "due"))  # fmt: skip


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_between_recycled_neighbours_the_weight_is_zero_whichever_comes_first(
    digits: Dataset, order: tuple[int, int]
) -> None:
    from ncpl_cli.interventions.recycling import replace as recycle
    from ncpl_cli.networks.hidden_units import unit_layers

    run = a_run(digits, width=6, depth=2)
    network, fresh, units = run.network, run.fresh(), {0: torch.tensor([1, 4]), 1: torch.tensor([0])}
    with torch.no_grad():
        for layer in order:
            recycle(run, fresh, unit_layers(network), layer, units[layer])
    between = network.hidden[1].weight
    assert not between[:, [1, 4]].any() and torch.equal(between[0, [0, 2]], fresh.hidden[1].weight[0, [0, 2]])
    assert torch.equal(network.hidden[0].weight[[1, 4]], fresh.hidden[0].weight[[1, 4]])


@pytest.mark.parametrize("engine", [OnlineEngine, StackedEngine])
def test_redo_is_given_as_many_samples_as_it_asks_for(
    digits: Dataset, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also above 1 024, across epochs, and across tasks with the pixels as they were then."""
    looks: list[Tensor] = []

    def look(self: ReDo, run: Run) -> int:
        assert run.images is not None
        looks.append(run.images.clone())
        return 0

    monkeypatch.setattr(ReDo, "recycle", look)
    tasks = [a_task(digits, 3), a_task(digits, 3), a_task(digits, 4)]
    text = "redo:steps=70,samples=1200"
    machine = engine([a_network(digits, **SHAPE)], digits, OptimizerSpec(lr=0.01, batch_size=8), "cpu",
                     treatment=treatment(digits, text, **SHAPE))  # fmt: skip
    seen: list[Tensor] = []
    expected = []
    for number, task in enumerate(tasks):
        assert task.pixel_order is not None
        order = np.random.default_rng(number).permutation(1437)[:800]
        pixels = digits.train.images[order].reshape(800, -1)[:, task.pixel_order] / digits.scale
        for at in range(0, 800, 8):
            seen.append(torch.from_numpy(pixels[at : at + 8]))
            if len(seen) % 70 == 0:
                expected.append((torch.cat(seen)[-1200:], np.argsort(task.pixel_order)))
        machine.train_epoch([task], [order], 0.01)
    assert len(looks) == len(expected) == 4
    for got, (images, back) in zip(looks, expected, strict=True):
        # during an epoch the stacked engine keeps the first layer in the image's order of pixels
        assert torch.equal(got, images[:, torch.from_numpy(back)] if engine is StackedEngine else images)


@pytest.mark.parametrize("engine", [OnlineEngine, StackedEngine])
def test_what_was_shown_last_survives_a_checkpoint(digits: Dataset, engine: Any) -> None:
    optimizer = OptimizerSpec(lr=0.3, batch_size=BATCH)
    if engine is StackedEngine:
        optimizer = OPTIMIZERS[1]

    def machine() -> tuple[list[MLP], Any]:
        networks = [a_network(digits, seed, **SHAPE) for seed in SEEDS]
        care = treatment(digits, "redo:tau=0.4,steps=7,samples=150", **SHAPE)
        return networks, engine(networks, digits, optimizer, "cpu", treatment=care)

    def train(one: Any, epochs: range) -> None:
        for epoch in epochs:
            tasks = [a_task(digits, seed + 10 * (epoch == 3)) for seed in SEEDS]
            one.train_epoch(tasks, [samples_of(digits, s, epoch)[0] for s in SEEDS], optimizer.lr)

    whole, uncut = machine()
    train(uncut, range(4))
    first, begun = machine()
    train(begun, range(2))
    second, resumed = machine()
    for a, b in zip(first, second, strict=True):
        b.load_state_dict(copy.deepcopy(a.state_dict()))
    resumed.load_state(begun.state())
    train(resumed, range(2, 4))
    for a, b in zip(whole, second, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_counts_stored_by_number_are_read(digits: Dataset) -> None:
    """As checkpoints held them before counts had names: one a stacked tensor."""
    optimizer = replace(OPTIMIZERS[1], batch_size=8)
    found = []
    for text in ("l2:strength=0", "redo:tau=0,steps=1000"):
        _, engine = a_machine(digits, optimizer, text)
        engine.train_epoch([a_task(digits, s) for s in SEEDS], [np.arange(SAMPLES)] * 2, optimizer.lr)
        old = [{k: v for k, v in own.items() if not k.startswith("step")} for own in engine.state()]
        for own in old:
            own |= {f"step.{i}": torch.tensor(12.0) for i in range(3)}
        engine.load_state(old)
        found.append(engine.state()[1])
    assert float(found[0]["step.classifier.bias"]) == 12 and found[0]["step.classifier.bias"].dim() == 0
    assert bool((found[1]["step.hidden.1.weight"] == 12).all()) and found[1]["step.hidden.1.weight"].shape == (12, 12)
    assert parse("redo").renews_units and not parse("full_reset").renews_units
