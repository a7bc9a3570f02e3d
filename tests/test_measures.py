"""Measures of claims on runs made by hand: every value is computed beside it from the numbers put in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from ncpl_cli.analysis import Run, Series
from ncpl_cli.analysis.claims import AGREES, UNDECIDED, verdict
from ncpl_cli.analysis.measures import MEASURES, addresses, at, best_epoch
from ncpl_cli.studies import Claim

EPOCHS = (0, 1, 5, 20)


def run(seed: int, columns: dict[str, list[float]], epochs: tuple[int, ...] = EPOCHS) -> Series:
    """Recorded at some epochs, given backwards; NaN where nothing was measured."""
    epoch = np.array(epochs, dtype=float)[::-1]
    values = {name: np.array(v, dtype=float)[::-1] for name, v in columns.items()}
    return Series.of(Run(str(seed), seed, "coarse-labels"), epoch, 0 * epoch, epoch, values)


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-12)


def measured(name: str, arms: dict[str, list[Series]], /, **options: Any) -> Any:
    return MEASURES[name](arms, options)


def test_epoch_0_stands_beside_a_series_and_never_in_it() -> None:
    one = run(3, {"a": [9, 1, 2, np.nan], "a/input": [7, np.nan, np.nan, np.nan]})
    assert one.epoch.tolist() == [1, 5, 20] and one.untrained == {"a": 9, "a/input": 7}
    assert [at(one, "a", when) for when in (0, 1, 5, "end")] == [9, 1, 2, 2]  # the last that was recorded
    assert np.isnan(at(one, "a", 20)) and np.isnan(at(one, "b", 0)) and np.isnan(at(one, "b", "end"))
    assert not run(3, {"a": [1, 2]}, (1, 2)).untrained


def test_a_change_is_of_each_seed_and_of_several_metrics_the_highest() -> None:
    draw = np.random.default_rng(0)
    table = draw.normal(size=(4, 2, 4))
    runs = [run(seed, {"a": table[seed, 0].tolist(), "b": table[seed, 1].tolist()}) for seed in range(4)]
    one = measured("change", {"x": runs}, arm="x", metric="a", since=1)
    values = table[:, 0, 3] - table[:, 0, 1]
    assert one.value == near(values.mean()) and one.runs == 4
    assert one.ci95 == pytest.approx(stats.t.interval(0.95, 3, values.mean(), stats.sem(values)), rel=1e-9)
    assert one.beside["a before"] == near(table[:, 0, 1].mean())
    both = measured("change", {"x": runs}, arm="x", metrics=["a", "b"])
    assert both.value == near((table[:, :, 3] - table[:, :, 0]).mean(0).max())
    lowest = measured("change", {"x": runs}, arm="x", metrics=["a", "b"], extreme="lowest")
    assert lowest.value == near((table[:, :, 3] - table[:, :, 0]).mean(0).min())
    assert measured("change", {"x": runs}, arm="x", metrics=["a", "c"]) is None
    assert measured("change", {}, arm="x", metric="a") is None


def test_a_best_epoch_is_chosen_on_the_other_seeds() -> None:
    """Of pure noise around a constant the change from the best epoch is no fall: a seed does not choose its own."""
    draw, epochs = np.random.default_rng(1), tuple(range(9))
    found, naive = [], []
    for _ in range(300):
        table = draw.normal(size=(5, 9))
        runs = [run(seed, {"a": row.tolist()}, epochs) for seed, row in enumerate(table)]
        assert best_epoch(runs[1:], "a") == 1 + int(table[1:, 1:].mean(0).argmax())
        found.append(measured("change", {"x": runs}, arm="x", metric="a", since="best").value)
        naive.append((table[:, -1] - table[:, 1:].max(1)).mean())
    assert abs(np.mean(found)) < 4 * stats.sem(found) and np.mean(naive) < -1
    assert measured("change", {"x": runs[:1]}, arm="x", metric="a", since="best") is None  # nobody else to choose


def test_a_difference_is_paired_by_seed() -> None:
    base = {0: 1.0, 1: 5.0, 2: 9.0}
    name = "few_shot_error_5@unseen"
    plain = [run(seed, {name: [0.9, 0, 0, v]}) for seed, v in base.items()]
    arm = [
        run(seed, {name: [0.8, 0, 0, base[seed] + 0.1 * seed + 1], f"{name}/input": [0.3, 0, 0, 0]}) for seed in (2, 0)
    ]
    found = measured("difference", {"a": arm, "p": plain}, arm="a", plain="p", metric="few_shot_error_5@unseen")
    assert found.value == near((1.2 + 1.0) / 2) and found.runs == 2
    assert found.beside["few_shot_error_5@unseen, raw pixels"] == near(0.3)
    assert found.beside["few_shot_error_5@unseen, untrained network"] == near(0.8)
    assert found.beside["few_shot_error_5@unseen, p"] == near(5.0)


def test_an_arm_that_was_not_trained_decides_nothing() -> None:
    for learned, void in ((0.97, False), (0.9, True)):
        plain, arm = (
            [run(i, {"a": [0, 0, 0, i], "train_accuracy": [0, 0, 0, v]}) for i in range(3)] for v in (1, learned)
        )
        found = measured("difference", {"a": arm, "p": plain}, arm="a", plain="p", metric="a")
        assert found.value == 0 and bool(found.void) is void
        assert verdict(Claim("c", "s", "difference", {}, None, "p", (0, None), "r"), found)[0] == (
            UNDECIDED if void else AGREES
        )


@pytest.mark.parametrize(("way", "moved", "void"), [("lower", -1, False), ("lower", 1, True), ("higher", 1, False),
                                                   ("higher", -1, True), ("higher", np.nan, False)])  # fmt: skip
def test_an_arm_that_was_not_treated_as_meant_decides_nothing(way: str, moved: float, void: bool) -> None:
    plain, arm = ([run(i, {"a": [0, 0, 0, i], "nc1": [5 + by + 0.1 * i] * 4}) for i in range(3)] for by in (0, moved))
    asked = {"arm": "a", "plain": "p", "metric": "a", "treated": {"metric": "nc1", "way": way}}
    found = MEASURES["difference"]({"a": arm, "p": plain}, asked)
    assert found is not None and bool(found.void) is void and "nc1" in addresses(asked)


def test_features_are_held_against_raw_pixels() -> None:
    name, rows = "few_shot_error_5@unseen", [(0.4, 0.3), (0.6, 0.2), (0.5, 0.6)]
    runs = [run(i, {name: [0.9, 0, 0, own], f"{name}/input": [p, 0, 0, 0]}) for i, (p, own) in enumerate(rows)]
    found = measured("over_pixels", {"x": runs}, arm="x", metric=name)
    assert found.value == near((0.1 + 0.4 - 0.1) / 3) and found.beside[name] == near(1.1 / 3)


def test_an_order_is_as_sure_as_its_smallest_step() -> None:
    draw = np.random.default_rng(2)
    table = draw.normal(size=(5, 3)) + np.array([0, 3, 4])
    runs = [run(i, {n: [0, 0, 0, v] for n, v in zip("abc", row.tolist(), strict=True)}) for i, row in enumerate(table)]
    found = measured("ordering", {"x": runs}, arm="x", metrics=["a", "b", "layer of another network", "c"])
    assert found.value == near(min((table[:, 1] - table[:, 0]).mean(), (table[:, 2] - table[:, 1]).mean()))
    step = table[:, 2] - table[:, 1]
    assert found.ci95 == pytest.approx(stats.t.interval(0.95, 4, step.mean(), stats.sem(step)), rel=1e-9)
    assert measured("ordering", {"x": runs}, arm="x", metrics=["a", "none"]) is None


def test_a_ratio_is_a_geometric_mean() -> None:
    runs = [run(i, {"t": [1, 0, 0, 8.0 * (i + 1)], "n": [1, 0, 0, 2.0]}) for i in range(3)]
    found = measured("ratio", {"x": runs}, arm="x", metric="t", over="n", beside_at=[0])
    assert found.value == near(4 * 6 ** (1 / 3)) and found.beside == {"epoch 0": near(1)}
    fold = measured("change", {"x": runs}, arm="x", metric="t", since=0, scale="ratio")
    assert fold.value == near(8 * 6 ** (1 / 3))
    logs = np.log([4, 8, 12])
    assert found.ci95 == pytest.approx(np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))), rel=1e-9)


def test_r_over_arms_is_one_value_a_seed() -> None:
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(2, 4, 5))
    arms = {f"a{j}": [run(i, {"x": [0, 0, 0, x[i, j]], "y": [0, 0, 0, y[i, j]]}) for i in range(4)] for j in range(5)}
    arms["a3"] = arms["a3"][1:]  # a seed that lacks an arm is left out
    found = measured("r_over_arms", arms, arms=list(arms), x="x", y="y")
    z = np.arctanh([np.corrcoef(x[i], y[i])[0, 1] for i in range(1, 4)])
    assert found.value == near(np.tanh(z.mean())) and found.runs == 3
    assert found.ci95 == pytest.approx(np.tanh(stats.t.interval(0.95, 2, z.mean(), stats.sem(z))), rel=1e-9)
    assert found.beside["mean r"] == near(np.tanh(z).mean())


def test_the_metrics_of_a_claim_are_read_with_the_pixels_beside_them() -> None:
    asked = {"arm": "a", "metric": "few_shot_error_5@unseen", "beside": ["cdnv"], "since": 0}
    assert addresses(asked) == ["few_shot_error_5@unseen", "cdnv", "few_shot_error_5@unseen/input"]
    assert addresses({"metrics": ["nc1/layer1", "nc1"]}) == ["nc1/layer1", "nc1"]
