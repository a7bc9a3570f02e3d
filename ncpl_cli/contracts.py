"""What every part must keep, ncpl's own and somebody else's alike: `ncpl catalog --check FILE` and our tests ask it.

A check raises AssertionError, or whatever the part raises, where the part does not keep it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ncpl_cli import networks, objectives, probes
from ncpl_cli.callables import said
from ncpl_cli.data import Dataset, default_dir, load
from ncpl_cli.interventions import parse
from ncpl_cli.metrics.of_ones_own import FAMILY
from ncpl_cli.plan import plan
from ncpl_cli.scenarios import scenario_named, shown_by, task_of
from ncpl_cli.settings import specs
from ncpl_cli.spec import NETWORKS, DatasetSpec, RunSpec
from ncpl_cli.trainer import begin, begun

SAMPLES = 200
"""Digits that a part is tried on."""


@dataclass(frozen=True)
class Checked:
    """A check of a part, and what was wrong; None where nothing was."""

    registry: str
    part: str
    check: str
    wrong: str | None


def checked(registry: str, name: str, part: Any, data_dir: Path | None = None) -> list[Checked]:
    """Every check of a part. `data_dir`: where a data set lies."""
    found = []
    for what, check in _CHECKS[registry](name, part, data_dir):
        try:
            check()
            wrong = None
        except Exception as error:
            wrong = (str(error) if isinstance(error, AssertionError) else said(error)) or type(error).__name__
        found.append(Checked(registry, name, what, wrong))
    return found


Checks = Iterator[tuple[str, Callable[[], None]]]


def _data() -> Dataset:
    return load(DatasetSpec("digits", train_samples=SAMPLES))


def _spec(
    data: Dataset, scenario: str = "permuted-digits", seeds: tuple[int, ...] = (0,), **given: Any
) -> list[RunSpec]:
    kind = scenario_named(scenario)
    return specs(kind, {"dataset": "digits", "batch_size": 20, **given}, data, DatasetSpec("digits"), seeds)


def _described(part: Any) -> None:
    assert (part.__doc__ or "").strip(), "it has no docstring, whose first line the catalogue shows"


def _optioned(part: Any) -> None:
    assert is_dataclass(part), "it is no dataclass"
    for option in fields(part):
        assert option.metadata.get("help"), f"option {option.name} has no help: make it with option(default, help)"


def _trained(specs: list[RunSpec], data: Dataset) -> list[dict[str, torch.Tensor]]:
    """The parameters of runs after their first epoch, one cohort."""
    (cohort,) = plan(specs, "cpu")
    nets, engine = begin(cohort, data)
    tasks = begun(specs, nets, data, "cpu")
    if specs[0].interventions:
        engine.change("a check")
    found = engine.train_epoch(tasks, [task.order(1) for task in tasks], specs[0].optimizer.lr)
    assert all(one.finite for one in found), "training with it is not finite"
    return [{name: value.clone() for name, value in net.state_dict().items()} for net in nets]


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    return all(torch.allclose(value, other[name], rtol=tolerance, atol=tolerance) for name, value in one.items())


# kinds -------------------------------------------------------------------------------------------------------------


def _scenario(name: str, part: Any, _: Path | None) -> Checks:
    data = digits = _data()

    def options() -> None:
        _optioned(part)
        horizon = part.horizon_field
        assert horizon in {f.name for f in fields(part)}, f"horizon_field {horizon} is no option"

    def presets() -> None:
        lacking = {"dataset", "network", "lr", "batch_size"} - part.presets("digits").keys()
        assert not lacking, f"presets lack {', '.join(sorted(lacking))}"

    def tasks() -> None:
        scenario = _spec(digits, name)[0].scenario
        data = shown_by(scenario, digits)
        for index in range(min(2, scenario.tasks)):
            task, again = scenario.task(index, data, 0), scenario.task(index, data, 0)
            assert task.epochs == scenario.task_epochs(index) >= 1, "task_epochs and the task's epochs differ"
            for epoch in (1, 2):
                order = task.order(epoch)
                assert np.issubdtype(order.dtype, np.integer) and order.size, "order is no list of indices"
                assert 0 <= order.min() <= order.max() < len(data.train), "order points outside the training split"
                assert np.array_equal(order, again.order(epoch)), "the same seed gives another order"
            for split in ("train", "test"):
                labels, whole = getattr(task, f"{split}_labels"), getattr(data, split)
                assert len(labels) == len(whole), f"{len(labels)} {split} labels for {len(whole)} images"
                assert np.issubdtype(labels.dtype, np.integer), f"{split} labels are {labels.dtype}"
                top = data.classes if task.outputs is None else task.outputs
                assert task.regression or 0 <= labels.min() <= labels.max() < top, f"{split} labels are beyond {top}"
                assert np.array_equal(labels, getattr(again, f"{split}_labels")), "the same seed gives other labels"

    def identity() -> None:
        one, again, other = _spec(data, name)[0], _spec(data, name)[0], _spec(data, name, (1,))[0]
        assert one.id == again.id != other.id, "the identity does not follow the settings"
        horizon = replace(one, scenario=replace(one.scenario, **{part.horizon_field: 3}))
        assert horizon.id == one.id, f"{part.horizon_field} is the horizon: option(..., identity=False)"

    def trains() -> None:
        _trained(_spec(data, name), data)

    yield "is called in small letters and -", lambda: _called(name, r"[a-z][a-z0-9-]*")
    yield "is described", lambda: _described(part)
    yield "options", options
    yield "presets", presets
    yield "tasks", tasks
    yield "identity", identity
    yield "trains", trains


def _called(name: str, pattern: str) -> None:
    assert re.fullmatch(pattern, name), f"{name!r} is not of the form {pattern}"


def _intervention(name: str, part: Any, _: Path | None) -> Checks:
    data = _data()

    def written() -> None:
        one = parse(name)
        assert parse(one.label) == one, f"{one.label!r} does not say what it is"
        assert one.source, "it has no source"

    def alone() -> None:
        """Runs side by side do not see each other."""
        pair = _trained(_spec(data, seeds=(0, 1), intervention=[name], engine="stacked"), data)
        for seed in (0, 1):
            (single,) = _trained(_spec(data, seeds=(seed,), intervention=[name], engine="stacked"), data)
            assert _same(pair[seed], single, 1e-4), "a run side by side with another differs from the same run alone"

    yield "is called in small letters and _", lambda: _called(name, r"[a-z][a-z0-9_]*")
    yield "is described", lambda: _described(part)
    yield "is written as it is read", written
    yield "options", lambda: _optioned(part)
    yield "trains, alone as with others", alone


def _objective(name: str, part: Any, _: Path | None) -> Checks:
    def written() -> None:
        one = objectives.parse(name)
        assert objectives.parse(one.label) == one, f"{one.label!r} does not say what it is"

    def slope() -> None:
        """The residual against differences of the losses, on either axis."""
        one, draw = part(), torch.Generator().manual_seed(0)
        width = one.outputs(5)
        for dim in (1, -1):
            out = torch.randn((4, width, 3) if dim == 1 else (4, 3, width), dtype=torch.float64, generator=draw)
            shape = (4, 3) if one.of_labels else (4, 5, 3) if dim == 1 else (4, 3, 5)
            asked = torch.randint(5, shape, generator=draw) if one.of_labels else torch.rand(shape, generator=draw)
            asked = asked if one.of_labels else asked.double()
            assert one.losses(out, asked, dim).shape == (4, 3), "the losses are not one a sample"
            towards = torch.randn(out.shape, dtype=torch.float64, generator=draw)
            ahead, behind = (one.losses(out + sign * 1e-6 * towards, asked, dim).sum() for sign in (1, -1))
            found = (one.residual(out, asked, dim) * towards).sum()
            assert math.isclose(float(found), float(ahead - behind) / 2e-6, rel_tol=1e-4, abs_tol=1e-6), (
                "the residual is not the slope of the losses"
            )

    def trains() -> None:
        data = _data()
        _trained(_spec(data, objective=name), data)

    yield "is called in small letters and _", lambda: _called(name, r"[a-z][a-z0-9_]*")
    yield "is described", lambda: _described(part)
    yield "is written as it is read", written
    yield "options", lambda: _optioned(part)
    yield "its slope", slope
    if part.of_labels:
        yield "trains", trains


def _network(name: str, part: Any, _: Path | None) -> Checks:
    data = _data()
    small: dict[str, Any] = {"width": 8} if name in NETWORKS else {}

    def built(seed: int) -> Any:
        return networks.build(name, data.shape, data.classes, seed, statistics=data.channel_statistics, **small)

    def seeded() -> None:
        state = [built(seed).state_dict() for seed in (0, 0, 1)]
        assert _same(state[0], state[1]), "the same seed gives other parameters"
        assert not _same(state[0], state[2]), "another seed gives the same parameters"

    def classifies() -> None:
        net = built(0).eval()
        x = torch.from_numpy(data.train.images[:7]).float() / data.scale
        with torch.no_grad():
            logits, activations, _ = net.classify(x)
            assert logits.shape == (7, data.classes), f"logits are {tuple(logits.shape)}"
            again = torch.nn.functional.linear(activations[-1], net.classifier.weight, net.classifier.bias)
            assert torch.allclose(again, logits, atol=1e-4), "the classifier on its features does not give the logits"
            assert torch.allclose(net(x[:3]), logits[:3], atol=1e-4), "a sample's logits depend on the others"

    def trains() -> None:
        _trained(_spec(data, network=name, **small), data)

    yield "is described", lambda: _described(part)
    yield "is made from its seed", seeded
    yield "its classifier is found", classifies
    yield "trains", trains


def _dataset(name: str, part: Any, data_dir: Path | None) -> Checks:
    place = data_dir or default_dir()

    def content() -> None:
        data, again = (load(DatasetSpec(name), place) for _ in "ab")
        assert data.digest == again.digest, "its content is another each time"
        for split in (data.train, data.test):
            assert len(split.labels) and 0 <= split.labels.min() <= split.labels.max() < data.classes, "labels"
            assert split.shape == data.shape, "the splits' images differ in size"
        assert len(np.unique(data.train.labels)) >= 2, "fewer than two classes are trained on"

    yield "is described", lambda: _described(part)
    yield "its content", content


def _metric(name: str, part: Any, _: Path | None) -> Checks:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 120)
    features = draw.normal(size=(120, 6)) + 2 * np.eye(4, 6)[labels]
    weight, bias = draw.normal(size=(4, 6)), draw.normal(size=4)

    def value(order: Any = slice(None), kind: type = np.float64) -> float:
        return float(part.compute(features[order].astype(kind), labels[order], weight.astype(kind), bias.astype(kind)))

    def described() -> None:
        assert all((part.formula, part.direction, part.needs, part.source)), "formula, direction, needs or source lacks"
        assert part.family == FAMILY and callable(part.compute), f"family is {FAMILY!r}, compute a function"

    def order() -> None:
        assert math.isclose(value(), value(draw.permutation(120)), rel_tol=1e-9), "it depends on the order of rows"

    def precision() -> None:
        assert math.isclose(value(), value(kind=np.float32), rel_tol=1e-3), "float32 features give another value"

    def without() -> None:
        found = part.compute(features, labels, None, None)
        assert found is None or isinstance(float(found), float), "no number without a classifier"

    yield "is called in small letters and _", lambda: _called(name, r"[a-z][a-z0-9_]*")
    yield "is described", described
    yield "is a number", lambda: _finite(value())
    yield "order of rows", order
    yield "precision", precision
    yield "hidden layers", without


def _probe(name: str, part: Any, _: Path | None) -> Checks:
    data = _data()

    def spec() -> RunSpec:
        return _spec(data, probe=[f"{name}:epochs=2"])[0]

    def written() -> None:
        one = probes.parse(name)
        assert probes.parse(one.label) == one, f"{one.label!r} does not say what it is"

    def run() -> None:
        assert issubclass(part.run, probes.ProbeRun), "`run` is no ProbeRun"
        assert part.run.id == f"{name}-probe", f"its run is called {part.run.id!r}, not {name}-probe"
        _described(part.run)
        _optioned(part.run)

    def paired() -> None:
        """The copies and the network as initialised learn the same in the same order; all are runs of their own."""
        found = probes.runs_of(spec())
        assert len({one.id for one in found}) == len(found), "probes after different epochs are one run"
        of: dict[Any, list[RunSpec]] = {}
        for one in found:
            of.setdefault(part.run.pair({f.name: getattr(one.scenario, f.name) for f in fields(part.run)}), []).append(
                one
            )
        for together in of.values():
            assert any(one.scenario.branch_epoch == 0 for one in together), "no fresh network stands beside it"
            tasks = [task_of(one, 0, data) for one in together]
            for one, task in zip(together, tasks, strict=True):
                assert task.epochs == one.scenario.epochs == 2, "the budget is not what was asked for"
                assert np.array_equal(task.order(1), tasks[0].order(1)), "copy and fresh network see another order"
                assert np.array_equal(task.train_labels, tasks[0].train_labels), (
                    "copy and fresh network learn other labels"
                )
                for split, numbers in (task.targets or {}).items():
                    assert np.array_equal(numbers, tasks[0].targets[split]), (
                        "copy and fresh network learn other numbers"
                    )

    def trains() -> None:
        _trained([probes.runs_of(spec())[0]], data)

    yield "is called in small letters and -", lambda: _called(name, r"[a-z][a-z0-9-]*")
    yield "is described", lambda: _described(part)
    yield "is written as it is read", written
    yield "options", lambda: _optioned(part)
    yield "its run", run
    yield "a fresh network beside it", paired
    yield "trains", trains


def _finite(value: float) -> None:
    assert math.isfinite(value), f"it is {value} of four plain classes"


_CHECKS: dict[str, Callable[[str, Any, Path | None], Checks]] = {
    "SCENARIOS": _scenario, "INTERVENTIONS": _intervention, "NETWORKS": _network, "DATASETS": _dataset,
    "METRICS": _metric, "OBJECTIVES": _objective, "PROBES": _probe,
}  # fmt: skip
