"""Measures of claims about mechanisms and remedies, on small studies whose answers are known by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ncpl_cli.analysis import Run, Series
from ncpl_cli.analysis.claims import UNDECIDED, judge
from ncpl_cli.analysis.claims_lyle import MEASURES, value_of
from ncpl_cli.commands.reproduce import arms_of
from ncpl_cli.studies import study_named
from tests.test_reproduce import claim


def near(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-12)


def run_of(seed: int, values: Mapping[str, Sequence[float]], epochs: int = 2, **settings: Any) -> Series:
    """A run of tasks of some epochs each; one value a task: at its last epoch, `@start` at its first, `online_loss`
    epoch by epoch."""
    tasks = max(len(v) // (epochs if name == "online_loss" else 1) for name, v in values.items())
    columns = {}
    for name, given in values.items():
        column = np.full(tasks * epochs, np.nan)
        column[slice(None) if name == "online_loss" else slice(0 if "@start" in name else epochs - 1, None, epochs)] = (
            given
        )
        columns[name] = column
    run = Run(f"{seed}{settings}", seed, "shuffled-labels", settings=settings)
    count = np.arange(tasks * epochs)
    return Series.of(run, count + 1, count // epochs, count % epochs + 1, columns)


def arm(*by_seed: Sequence[float], metric: str = "m", first_seed: int = 0, **settings: Any) -> list[Series]:
    return [run_of(seed, {metric: values}, **settings) for seed, values in enumerate(by_seed, first_seed)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return float(low), float(high)


def test_a_value_is_read_where_the_claim_says() -> None:
    series = run_of(0, {"m": [1.0, 2.0, 4.0], "d@start": [5.0, 6.0, 7.0]})
    assert value_of(series, "m", {}) == 4 and value_of(series, "m", {"task": 1}) == 2
    assert value_of(series, "m", {"task": -1}) == 4 and value_of(series, "m", {"last": 2}) == 3
    assert value_of(series, "d@start", {"task": 0}) == 5 and value_of(series, "d@start", {"last": 2}) == 6.5
    assert np.isnan(value_of(series, "m", {"task": 3})) and np.isnan(value_of(series, "absent", {}))


def test_the_clipped_loss_counts_what_was_not_learned_in_time_of_the_last_task() -> None:
    series = run_of(0, {"online_loss": [9.0, 9.0, 5.0, 0.5]})
    assert value_of(series, "clipped mean loss", {}) == near((1 + 0.5) / 2)
    of_scale = run_of(0, {"online_loss": [9.0, 9.0, 50.0, 5.0]}, refit="same", scale=10.0)
    assert value_of(of_scale, "clipped mean loss", {}) == near((0.5 + 0.05) / 2)


def test_a_gap_is_paired_by_seed_whatever_the_order_of_runs() -> None:
    arms = {"a": arm([0, 3.0], [0, 5.0], [0, 9.0]), "b": arm([0, 2.0], [0, 3.0], [0, 4.0])[::-1]}
    found = MEASURES["arm_gap"](arms, {"arm": "a", "plain": "b", "metric": "m"})
    assert found is not None and (found.value, found.runs) == (near(8 / 3), 3)
    assert found.ci95 == pytest.approx(interval([1, 2, 5])) and found.beside == {"a": near(17 / 3), "b": near(3)}
    arms["b"] = arm([0, 2.0], [0, 3.0], first_seed=1)  # seeds 1 and 2 alone have both
    found = MEASURES["arm_gap"](arms, {"arm": "a", "plain": "b", "metric": "m"})
    assert found is not None and (found.value, found.runs) == (near((3 + 6) / 2), 2)
    assert MEASURES["arm_gap"](arms, {"arm": "a", "plain": "absent", "metric": "m"}) is None


def test_the_smallest_gap_carries_its_own_interval_and_all_stand_beside_it() -> None:
    arms = {"a": arm([4.0], [6.0]), "b": arm([1.0], [2.0]), "c": arm([0.5], [0.5])}
    found = MEASURES["smallest_gap"](arms, {"pairs": [["a", "b"], ["b", "c"], ["a", "c"]], "metric": "m"})
    assert found is not None and found.value == near(1.0) and found.ci95 == pytest.approx(interval([0.5, 1.5]))
    assert found.beside["a minus b"] == near(3.5) and found.beside["a minus c"] == near(4.5)
    assert "b minus c" in found.survives
    rising = MEASURES["rising"](arms, {"arms": ["c", "b", "a"], "metric": "m"})
    assert rising is not None and (rising.value, rising.ci95) == (found.value, found.ci95)
    falling = MEASURES["rising"](arms, {"arms": ["a", "b", "c"], "metric": "m"})
    assert falling is not None and falling.value == near(-3.5)


def test_a_dose_is_a_rank_correlation_with_the_setting_one_a_seed() -> None:
    doses = {
        "none": (0.0, [1.0], [1.0]),
        "little": (1.0, [2.0], [5.0]),
        "some": (10.0, [3.0], [3.0]),
        "much": (100.0, [9.0], [4.0]),
    }
    arms = {name: arm(*values, offset=offset) for name, (offset, *values) in doses.items()}
    found = MEASURES["dose"](arms, {"arms": ["much", "none", "little", "some"], "setting": "offset", "metric": "m"})
    assert found is not None and found.value == near((1.0 + 0.4) / 2) and found.runs == 2 and found.ci95 == (-1.0, 1.0)
    assert MEASURES["dose"](arms, {"arms": ["much", "absent"], "setting": "offset", "metric": "m"}) is None


def test_an_interaction_is_what_a_pair_gives_beyond_its_parts() -> None:
    arms = {"both": arm([0.9], [0.8]), "one": arm([0.6], [0.5]), "other": arm([0.7], [0.4]), "none": arm([0.2], [0.3])}
    options = {"arms": ["both", "one", "other", "none"], "metric": "m"}
    found = MEASURES["interaction"](arms, options)
    assert found is not None and found.value == near((-0.2 + 0.2) / 2)
    assert found.ci95 == pytest.approx(interval([-0.2, 0.2]))
    assert found.beside["the sum of the single effects"] == near((0.9 + 0.3) / 2)
    assert found.beside["both minus none"] == near((0.7 + 0.5) / 2) and found.beside["one minus none"] == near(0.3)


def test_a_change_over_tasks_is_of_the_same_run() -> None:
    arms = {"a": [run_of(s, {"d@start": [0.0, 0.1 * s, 0.5, 0.4 + s]}) for s in range(3)]}
    found = MEASURES["task_change"](arms, {"arm": "a", "metric": "d@start", "since": 1})
    assert found is not None and found.value == near(np.mean([0.4, 1.3, 2.2]))
    assert found.beside == {"task 1": near(0.1), "last task": near(1.4)}


def test_signs_within_runs_count_as_the_claim_has_them() -> None:
    draw = np.random.default_rng(0)

    def runs(sign: int, noise: float) -> list[Series]:
        found = []
        for seed in range(4):
            x = draw.standard_normal(12)
            y = sign * x + noise * draw.standard_normal(12)
            x[0], y[0] = 50.0, -50.0  # the first task begins from an initialisation, and is left out
            found.append(run_of(seed, {"x@start": x.tolist(), "y": y.tolist()}))
        return found

    arms = {"plain": runs(-1, 0.3), "l2": runs(1, 1.0), "other": runs(1, 5.0)}
    options = {"signs": {"plain": -1, "l2": 1}, "also": ["other"], "x": "x@start", "y": "y"}
    found = MEASURES["signs_within"](arms, options)
    assert found is not None
    z = [np.arctanh(np.corrcoef(s.per_task("x@start")[1:], s.per_task("y")[1:])[0, 1]) for s in arms["l2"]]
    assert found.value == near(float(np.tanh(np.mean(z)))) == near(found.beside["r in l2"])
    assert found.ci95 == pytest.approx(np.tanh(interval(z)))
    assert found.beside["r in plain"] < -0.8 and "r in other" in found.beside
    wrong = MEASURES["signs_within"](arms, {**options, "signs": {"plain": 1, "l2": 1}})
    assert wrong is not None and wrong.value < -0.8 and wrong.ci95 is not None and wrong.ci95[1] < 0
    assert MEASURES["signs_within"]({"plain": arms["plain"]}, options) is None


def test_one_arm_has_its_last_tasks_beside_it() -> None:
    found = MEASURES["arm_value"]({"a": arm([1, 2.0, 3.0], [3, 4.0, 5.0])}, {"arm": "a", "metric": "m", "last": 2})
    assert found is not None and found.value == near(3.5)
    assert found.beside == {"task -2 from the end": near(3.0), "task -1 from the end": near(4.0)}


def test_what_needs_something_elsewhere_is_undecided_with_its_reason_and_no_value() -> None:
    one = claim(measure="arm_value", options={"arm": "a", "metric": "m"}, needs={"elsewhere": "a simulator"})
    (found,) = judge([one], {"a": arm([1.0], [2.0])})
    assert (found.verdict, found.why, found.finding) == (UNDECIDED, "it needs a simulator", None)


def test_every_claim_of_the_study_names_arms_and_metrics_that_its_plans_have() -> None:
    study = study_named("lyle2024")
    wanted = {
        "target-dose", "target-largest-singular", "target-layer-norm", "target-recentred-layer-norm", "target-two-hot",
        "target-mean-not-scale", "smooth-equal-change", "standing-still", "ln-l2-best", "additive", "l2-costs-speed",
        "optimizer-reset", *(f"k23-task-{i}" for i in range(5)), "k23-l2", "norm-not-monotone", "ntk-predicts",
        "zombies-grow", "preactivations-shift", "gamma-costs", "gamma-layer-norm", "gamma-two-hot", "shift-ln-l2",
    }  # fmt: skip
    assert wanted <= {one.id for part in study.parts for one in part.claims}
    for part in study.parts:
        for one in part.claims:
            options = one.options
            named = [options[key] for key in ("arm", "plain") if key in options]
            named += [*options.get("arms", ()), *options.get("also", ()), *options.get("signs", ())]
            named += [name for pair in options.get("pairs", ()) for name in pair]
            assert named and set(named) <= set(part.plans["laptop"].arms), one.id
            recorded = {*part.plans["laptop"].settings["metrics"], "clipped mean loss"}
            read = [options[key] for key in ("metric", "x", "y") if key in options] + list(options.get("beside", ()))
            assert all(name in recorded or name.startswith("probe_") for name in read), one.id


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_a_run_that_two_parts_share_is_measured_for_both(scale: str) -> None:
    """A finished run is not trained again: what one part wants of it, the other must have asked for as well."""
    study = study_named("lyle2024")
    known: dict[str, Any] = {}
    for part in study.parts:
        if part.plans[scale].settings["dataset"] != "digits":
            continue
        for one in arms_of(study.id, part, scale, "0", None):
            (spec,) = one.specs
            asked = (set(spec.measure.metrics), spec.probes, spec.scenario.tasks)
            assert known.setdefault(spec.id, asked) == asked, f"{part.id}: {one.label}"
