"""A run is one thing: what a cohort does to it depends on itself alone, never on who comes first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ncpl_cli import faults
from ncpl_cli.data import Dataset
from ncpl_cli.interventions import INTERVENTIONS, Intervention
from ncpl_cli.plan import Cohort, agreed, lockstep_key, plan
from ncpl_cli.records import RunInfo
from ncpl_cli.scenarios import PermutedDigits, WarmStart
from ncpl_cli.spec import DatasetSpec, MeasureSpec, NetworkSpec, OptimizerSpec, RunSpec
from ncpl_cli.store import Owner, Store, open_store
from ncpl_cli.trainer import Epoch, Start, State, train


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    """A hundred images: three steps an epoch."""
    return replace(digits, train=digits.train.take(np.arange(96)), test=digits.test.take(np.arange(40)))


def _probe(one: tuple[Intervention, ...], seed: int, branch: int, batch: int = 32) -> RunSpec:
    return RunSpec(
        scenario=WarmStart.of({"probe_max_epochs": 2, "probe_accuracy": 1.0}).probe(f"p{seed}", branch),
        dataset=DatasetSpec("digits"), dataset_digest="d", network=NetworkSpec(width=12, depth=2),
        optimizer=OptimizerSpec(lr=0.05, batch_size=batch), interventions=one, precision="float64", seed=seed,
        measure=MeasureSpec(metrics=("nc1",), every=1 << 40),
    )  # fmt: skip


def _last(cohort: Cohort, data: Dataset, weights: list[State]) -> Epoch:
    *_, last = train(cohort, data, weights=weights)
    return last


def _warm(data: Dataset, seed: int) -> State:
    """Weights that are not those of an initialisation."""
    spec = replace(_probe((), seed, 0), seed=seed + 100)
    state = _last(Cohort((spec,), "stacked", "cpu"), data, [{}]).state()[0]
    return {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}


def _intervention(name: str) -> Intervention:
    """One of each, so that it does something within a few steps of a probe."""
    kind = INTERVENTIONS[name]
    known = {f: getattr(kind(), f) for f in kind.__dataclass_fields__}
    given: dict[str, object] = {"phase": "all"} if "phase" in known else {}
    given |= {"steps": 2} if "steps" in known else {}
    return kind(**given)


@pytest.mark.parametrize(
    ("name", "engine"), [(name, engine) for name, kind in INTERVENTIONS.items() for engine in kind.engines]
)
def test_probes_of_a_mixed_cohort_are_those_trained_alone(few: Dataset, name: str, engine: str) -> None:
    """Cold starts and later probes of two seeds, the cold start first and last."""
    one = (_intervention(name),)
    specs = [_probe(one, 0, 0), _probe(one, 0, 3), _probe(one, 1, 6), _probe(one, 1, 0)]
    warm: list[State] = [{}, _warm(few, 0), _warm(few, 1), {}]
    together = _last(Cohort(tuple(specs), engine, "cpu"), few, warm).state()
    for r, spec in enumerate(specs):
        (alone,) = _last(Cohort((spec,), engine, "cpu"), few, [warm[r]]).state()
        assert alone.keys() == together[r].keys()
        for key, value in alone.items():
            if engine == "online":
                assert torch.equal(value, together[r][key]), (name, r, key)
            else:  # batched matrices round by the size of the stack
                assert _far(value, together[r][key]) < 1e-11, (name, r, key)


@pytest.mark.parametrize("name", ["shrink_perturb", "head_reset", "full_reset"])
def test_a_probe_is_treated_wherever_it_stands(few: Dataset, name: str) -> None:
    """The second of the cohort: it begins shrunk or reset, and the cold start beside it does not."""
    warm = _warm(few, 0)
    finals = []
    for one in ((), (_intervention(name),)):
        cohort = Cohort((_probe(one, 0, 0), _probe(one, 0, 3)), "stacked", "cpu")
        finals.append(_last(cohort, few, [{}, warm]).state())
    plain, treated = finals
    assert all(torch.equal(plain[0][key], treated[0][key]) for key in plain[0])
    assert _far(plain[1]["network.classifier.weight"], treated[1]["network.classifier.weight"]) > 1e-2


def _far(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def test_runs_that_differ_in_what_is_asked_once_make_no_cohort() -> None:
    spec = RunSpec(PermutedDigits(), DatasetSpec("digits"), "d", optimizer=OptimizerSpec(batch_size=32))
    others = [
        replace(spec, seed=1), replace(spec, optimizer=OptimizerSpec(batch_size=64), seed=2),
        replace(spec, interventions=(_intervention("full_reset"),), seed=3),
        replace(spec, scenario=PermutedDigits(tasks=7), seed=4), replace(spec, dataset_digest="e", seed=5),
        replace(spec, network=NetworkSpec(width=7), seed=6), replace(spec, precision="float64", seed=7),
    ]  # fmt: skip
    assert [len(cohort.specs) for cohort in plan([spec, *others], "cpu")] == [2, 1, 1, 1, 1, 1, 1]
    assert lockstep_key(spec) == lockstep_key(others[0])
    for other in others[1:]:
        with pytest.raises(ValueError, match="runs of a cohort differ in settings"):
            Cohort((spec, other), "stacked", "cpu")
    assert agreed("it", [1, 1]) == 1


def test_a_run_that_stopped_before_an_interruption_does_not_keep_the_cohort_going(few: Dataset) -> None:
    """Gone on with, a cohort whose last run stops ends there, as it does without the interruption."""
    scenario = WarmStart.of({"probe_max_epochs": 20, "probe_accuracy": 0.4}).probe("p", 0)
    fast = OptimizerSpec(lr=0.5, batch_size=16)
    specs = tuple(replace(_probe((), seed, 0), scenario=scenario, optimizer=fast) for seed in range(4))
    epochs = list(train(Cohort(specs, "stacked", "cpu"), few))
    first = next(i for i, epoch in enumerate(epochs) if epoch.finished)
    assert len(epochs[first].finished) < len(specs), "all stop at once: the test shows nothing"
    seen: list[list[tuple[int, int, float]]] = [[] for _ in specs]
    run = train(Cohort(specs, "stacked", "cpu"), few)
    for _ in range(first + 1):
        now = next(run)
        for history, record in zip(seen, now.records, strict=True):
            if record is not None and record.epoch:
                history.append((0, record.task_epoch, float(record.get("online_accuracy") or 0)))
    start = Start(now.position, now.state(), seen, now.diverged, now.finished)
    rest = list(train(Cohort(specs, "stacked", "cpu"), few, start))
    assert len(rest) == len(epochs) - first - 1
    for one, other in zip(rest[-1].state(), epochs[-1].state(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("labels", "branches", "branch", "versions", "recorded", "expected"),
    [
        (["full_reset"], [0, 3], 3, ["0.1.0"], {}, True),
        (["full_reset"], [0, 3], 0, ["0.1.0"], {}, False),  # a cold start is not treated
        (["full_reset"], [3, 6], 6, ["0.1.0"], {}, False),  # the first was treated, and so were all
        (["full_reset"], [0], 0, ["0.1.0"], {}, False),
        (["full_reset"], [0, 3], 3, ["0.2.0"], {}, False),
        (["full_reset"], [0, 3], 3, ["0.1.0", "0.2.0"], {}, True),  # gone on with
        (["full_reset"], [0, 3], 3, ["0.1.0", "0.2.0"], {"begun_with": "0.2.0"}, False),
        (["full_reset"], [0, 3], 3, ["0.10.0"], {}, False),
        (["shrink_perturb:shrink=0.5"], [0, 3], 3, ["0.1.0"], {}, True),
        (["shrink_perturb:when=step"], [0, 3], 3, ["0.1.0"], {}, False),
        (["optimizer_reset", "l2"], [0, 3], 3, ["0.1.0"], {}, False),
        ([], [0, 3], 3, ["0.1.0"], {}, False),
    ],
)
def test_stored_probes_that_were_not_treated_are_recognised(
    labels: list[str], branches: list[int], branch: int, versions: list[str], recorded: dict[str, object],
    expected: bool,
) -> None:  # fmt: skip
    assert faults.wrongly_treated(labels, branches, branch, versions, recorded) is expected


def test_check_and_report_name_the_runs_whose_probes_were_not_treated(tmp_path: Path) -> None:
    def stored(store: Store, key: str, branch: int | None, version: str, cohort: list[str]) -> None:
        info = RunInfo(
            key, key, "warm-start-probe" if branch is not None else "warm-start", 0,
            {"interventions": ["full_reset"]}, {}, 1, {}, "p" * 12 if branch is not None else None, branch,
        )  # fmt: skip
        store.register(info)
        attempt = store.claim([key], Owner.current(), {"ncpl": version}, cohort=cohort)[key]
        store.finish(key, attempt, "finished")

    with open_store(tmp_path / "a.db") as store:
        stored(store, "p" * 12, None, "0.1.0", ["p" * 12])
        for key, branch in (("a" * 12, 0), ("b" * 12, 3), ("c" * 12, 6)):
            stored(store, key, branch, "0.1.0", ["a" * 12, "b" * 12, "c" * 12])
        for key, branch in (("d" * 12, 0), ("e" * 12, 3)):
            stored(store, key, branch, "0.2.0", ["d" * 12, "e" * 12])
        (found,) = store.check()
        assert found.startswith(f"run {'p' * 12}: 2 of its probes") and found == store.spoiled(["p" * 12])[0]
        assert store.spoiled(["q" * 12]) == []
