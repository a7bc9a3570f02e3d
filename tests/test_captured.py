"""The captured engine's steps, run on the CPU: the bits of the stacked engine's, and its check of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ncpl_cli import networks, runs
from ncpl_cli import plan as plan_room
from ncpl_cli.data import Dataset
from ncpl_cli.engines import CapturedEngine, StackedEngine, captured
from ncpl_cli.interventions import parse
from ncpl_cli.objectives import MSE
from ncpl_cli.plan import choose_engine
from ncpl_cli.runs import life
from ncpl_cli.spec import MeasureSpec, NetworkSpec, OptimizerSpec
from ncpl_cli.store import open_store
from tests.pseudo_device import DEVICE, pseudo_device
from tests.test_device import specs
from tests.test_online_engine import a_task

RATES = (1 / 128, 1 / 256)
"""Numbers of float32, as which the captured engine keeps its rate."""
OPTIMIZERS = {
    "sgd": OptimizerSpec(batch_size=8, weight_decay=1e-3),
    "momentum": OptimizerSpec(batch_size=8, momentum=0.9),
    "adam": OptimizerSpec(name="adam", batch_size=8),
    "adamw": OptimizerSpec(name="adamw", batch_size=8, weight_decay=0.01),
}


def a_resnet(data: Dataset, device: str = "cpu") -> networks.Network:
    net = networks.build("resnet18", data.shape, 10, 0, width=2, norm="batch", statistics=data.channel_statistics)
    return net.to(device)


def trained(kind: Any, data: Dataset, optimizer: OptimizerSpec, task: Any, samples: int = 81) -> tuple[Any, Any]:
    """Two epochs of 9 steps and a last one of 9 samples (81 = 10 x 8 + 1), the second at another rate."""
    engine = kind([a_resnet(data)], data, optimizer, "cpu")
    order = np.random.default_rng(0).permutation(len(data.train))
    found = [engine.train_epoch([task], [order[i * samples : (i + 1) * samples]], lr)[0] for i, lr in enumerate(RATES)]
    return engine, found


def bits(engine: Any) -> dict[str, Tensor]:
    return {**engine.networks[0].state_dict(), **{f"optimizer {k}": v for k, v in engine.state()[0].items()}}


def assert_same(one: Any, other: Any) -> None:
    mine, theirs = bits(one), bits(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_its_steps_leave_the_stacked_engines_bits(digits: Dataset, name: str) -> None:
    task = a_task(digits, permuted=name == "sgd")
    if name == "momentum":
        task = replace(task, objective=MSE())
    (mine, progress), (theirs, wanted) = (
        trained(kind, digits, OPTIMIZERS[name], task) for kind in (CapturedEngine, StackedEngine)
    )
    assert_same(mine, theirs)
    for own, other in zip(progress, wanted, strict=True):
        assert own.correct == other.correct and own.samples == other.samples and own.finite
        assert own.loss == pytest.approx(other.loss, rel=1e-12)


def replayed(work: Callable[[], None], _: Any) -> Callable[[], None]:
    return work


def forgetful(work: Callable[[], None], _: Any) -> Callable[[], None]:
    """A graph that has one launch less in it than was captured."""
    return lambda: None


def refusing(work: Callable[[], None], _: Any) -> Callable[[], None]:
    work()  # as far as it gets
    raise RuntimeError("operation not permitted when stream is capturing\n  and more")


CHECKS = {"right": (replayed, ""), "forgets": (forgetful, "the same bits"), "refuses": (refusing, "not permitted")}


@pytest.mark.parametrize("case", CHECKS)
def test_it_checks_a_graph_before_it_uses_it(digits: Dataset, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capture, words = CHECKS[case]
    launches = []

    def counted(work: Callable[[], None], stream: Any) -> Callable[[], None]:
        launch = capture(work, stream)
        return lambda: (launches.append(1), launch())[1]

    def capturing(*given: Any) -> CapturedEngine:
        engine = CapturedEngine(*given)
        engine._captures = True
        return engine

    monkeypatch.setattr(captured, "captured", counted)
    task = a_task(digits, permuted=False)
    mine, progress = trained(capturing, digits, OPTIMIZERS["momentum"], task)
    theirs, wanted = trained(StackedEngine, digits, OPTIMIZERS["momentum"], task)
    assert_same(mine, theirs)
    assert [p.correct for p in progress] == [p.correct for p in wanted]
    if not words:
        assert len(launches) == 1 + 2 and not mine.notes  # one to look, then 8 of the 10 steps of each epoch
    else:
        assert len(launches) == (case == "forgets") and len(mine.notes) == 1 and words in mine.notes[0]
        assert "\n" not in mine.notes[0]


def test_it_goes_on_to_the_same_bits(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph knows where the moments lay: after a resume it is made anew."""
    monkeypatch.setattr(captured, "captured", replayed)
    task, order = a_task(digits, permuted=False), np.arange(80)
    engines = []
    for _ in range(2):
        engine = CapturedEngine([a_resnet(digits)], digits, OPTIMIZERS["adam"], "cpu")
        engine._captures = True
        engine.train_epoch([task], [order[:72]], 0.01)
        engines.append(engine)
    one, other = engines
    saved = {name: value.clone() for name, value in bits(one).items()}
    one.train_epoch([task], [order[::-1].copy()], 0.01)
    other.train_epoch([task], [order[:40]], 0.5)  # astray, and back
    with torch.no_grad():
        for name, value in other.networks[0].state_dict().items():
            value.copy_(saved[name])
    moments = {k.removeprefix("optimizer "): v for k, v in saved.items() if k.startswith("optimizer ")}
    other.load_state([moments])
    other.train_epoch([task], [order[::-1].copy()], 0.01)
    assert_same(one, other)


def test_a_step_mixes_nothing_and_does_not_wait(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "stream_of", lambda device: None)
    task = a_task(digits)
    with pseudo_device() as seen:
        engine = CapturedEngine([a_resnet(digits, DEVICE)], digits, OPTIMIZERS["sgd"], DEVICE)
        kernels = []
        for steps in (4, 4, 8):
            seen.kernels, seen.waits = 0, []
            engine.train_epoch([task], [np.arange(8 * steps)], 0.01)
            kernels.append(seen.kernels)
    assert seen.mixed == [] and seen.arrays == [] and len(seen.waits) == 1, seen.waits
    assert 5 < (kernels[2] - kernels[1]) / 4 <= 175


def test_it_is_chosen_for_modules_on_cuda_and_says_what_it_does_not_carry() -> None:
    (plain,) = specs()
    resnet = replace(plain, network=NetworkSpec("resnet18", norm="batch"), optimizer=OptimizerSpec(batch_size=128))
    assert choose_engine(resnet, "cuda:0")[0] == "captured" and choose_engine(resnet, "cpu")[0] == "stacked"
    for other in (
        replace(resnet, interventions=(parse("nc1"),)), replace(resnet, precision="float64"),
        replace(plain, optimizer=OptimizerSpec(batch_size=128)),
    ):  # fmt: skip
        assert choose_engine(other, "cuda:0")[0] == "stacked"
    reset = replace(resnet, interventions=(parse("shrink_perturb"),))  # acts between tasks only
    assert choose_engine(reset, "cuda:0")[0] == "captured"


def test_runs_that_train_side_by_side_do_not_feel_their_company(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, here with the stacked engine: three at once, the next one begins where one has ended."""
    monkeypatch.setattr(plan_room, "COHORT_SIZE", {"cpu": 1})
    few = replace(digits, train=digits.train.take(np.arange(64)), test=digits.test.take(np.arange(40)))
    wanted = [
        replace(spec, optimizer=OptimizerSpec(batch_size=32), measure=MeasureSpec(metrics=("nc1",)), engine="stacked",
                scenario=replace(spec.scenario, tasks=3), network=NetworkSpec(width=8, depth=1))
        for spec in specs(5)
    ]  # fmt: skip
    found, most = {}, {}
    for at_once in (1, 3):
        monkeypatch.setattr(life, "AT_ONCE", {"stacked": at_once})
        seen = Watching()
        with open_store(tmp_path / f"{at_once}.db") as store:
            statuses = runs.run(wanted, store, few, device="cpu", observer=seen, jobs=1)
            assert set(statuses.values()) == {"finished"}
            found[at_once] = [
                [(row["task"], row["online_accuracy"], row["nc1"]) for row in store.rows(spec.id)] for spec in wanted
            ]
        most[at_once] = seen.most
    assert found[1] == found[3] and most == {1: 1, 3: 3}


class Watching:
    """How many runs were under way at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def begin(self, *_: Any) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def end(self, *_: Any) -> None:
        self.now -= 1

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None
