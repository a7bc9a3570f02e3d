"""What B24 leaves open: the measures of its claims by brute force, the study as declared, and its figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncpl_cli.analysis import Group, Run, Series, Study
from ncpl_cli.analysis.claims import MEASURES, judge
from ncpl_cli.analysis.claims_next import dose_slope, late_loss, onset, onset_r, over_placebo, r_gap, through
from ncpl_cli.commands.reproduce import arms_of
from ncpl_cli.report import wording
from ncpl_cli.report.labels import labels
from ncpl_cli.report.material import Claims, Part
from ncpl_cli.report.sections import overview
from ncpl_cli.report.sections.architecture import cells, draw_cells
from ncpl_cli.studies import SCALES, Plan, study_named
from tests.test_reproduce import claim as a_claim

DRAW = np.random.default_rng(0)


def run(seed: int, first: list[float], later: list[float], nc1: list[float] | None = None, **settings: Any) -> Series:
    """A first task of several epochs with these nc1, later ones of one epoch with these online accuracies."""
    n, tasks = len(first), len(later)
    task = np.r_[np.zeros(n), np.arange(1.0, tasks + 1)]
    epoch = np.r_[np.arange(1.0, n + 1), np.ones(tasks)]
    online = np.r_[np.full(n, 0.5), later]
    columns = {
        "nc1": np.r_[first, nc1 if nc1 is not None else np.full(tasks, 0.1)], "online_accuracy": online,
        "train_accuracy": np.full(n + tasks, settings.pop("learned", 0.9)),
        "plasticity_loss": np.r_[np.full(n, np.nan), 0.5 - np.asarray(later)],
    }  # fmt: skip
    about = Run(f"{seed}{settings}", seed, "permuted-digits", settings=settings)
    return Series.of(about, np.arange(1.0, n + tasks + 1), task, epoch, columns)


@pytest.mark.parametrize(
    ("nc1", "epoch"),
    [
        ([4, 3, 1.9, 1, 1], 3),
        ([4, 1, 3, 1, 1], 4),
        ([4, 3, 1, 1, 2.5], np.nan),
        ([4, 3, 2, 2, 2], np.nan),
        ([4], np.nan),
    ],
)
def test_the_onset_is_below_half_for_good(nc1: list[float], epoch: float) -> None:
    assert onset(run(0, nc1, [0.4, 0.3])) == pytest.approx(epoch, nan_ok=True)


def test_the_onset_over_arms() -> None:
    arms = {f"a{k}": [run(s, [4] * k + [1] * (6 - k), [0.4 - 0.05 * k + 0.01 * DRAW.random()] * 4) for s in range(4)]
            for k in (1, 2, 3, 5)}  # fmt: skip
    found = onset_r(arms, {})
    assert found is not None and found.value > 0.9 and found.runs == 4  # later onset, more loss
    assert found.beside["onset, a5"] == 6 and found.beside["loss, a5"] == pytest.approx(0.35, abs=0.02)
    assert late_loss(arms["a1"][0]) == pytest.approx(np.mean(0.5 - arms["a1"][0].per_task("online_accuracy")[3:]))


def test_a_regulariser_is_held_against_the_placebo_of_equal_cost() -> None:
    def arm(learned: float, later: float) -> list[Series]:
        return [run(s, [1], [later + 0.001 * s] * 3, learned=learned) for s in range(3)]

    arms = {"plain": arm(0.95, 0.40), "weak": arm(0.94, 0.42), "strong": arm(0.80, 0.50), "ruined": arm(0.2, 0.9),
            "p1": arm(0.93, 0.41), "p2": arm(0.81, 0.47)}  # fmt: skip
    options = {"arms": ["weak", "strong", "ruined"], "placebos": ["plain", "p1", "p2"], "plain": "plain"}
    found = over_placebo(arms, options)
    # weak lies as near to plain as to p1: the first named; strong to p2; ruined has no match and is left out
    assert found is not None and found.value == pytest.approx(((0.42 - 0.40) + (0.50 - 0.47)) / 2)
    assert found.beside["phase-1 train accuracy, its match p2"] == pytest.approx(0.81)
    assert found.beside["gain over the plain arm"] == pytest.approx((0.02 + 0.1 + 0.5) / 3)


def test_slope_and_what_goes_with_nc1() -> None:
    doses = {"minus": -0.1, "plain": 0.0, "plus": 0.1}
    arms: dict[str, list[Series]] = {}
    for name, dose in doses.items():
        arms[name] = []
        for seed in range(6):
            draw = np.random.default_rng([seed, 7])
            nc1 = 0.3 + dose + 0.05 * np.random.default_rng([seed, round(10 * dose) + 5]).standard_normal(9)
            later = 0.4 + 0.01 * draw.standard_normal(9) + 0.5 * np.r_[0.3 + dose, nc1[:-1]]
            arms[name].append(run(seed, [0.3 + dose], list(later), list(nc1)))
    slope = dose_slope(arms, {"doses": doses, "of": "nc1"})
    assert slope is not None and slope.value == pytest.approx(0.5, abs=0.05) and slope.runs == 6
    options = {"arm": "plus", "plain": "plain", "y": "online_accuracy", "mediator": "nc1"}
    indirect, share = through(arms, options), through(arms, {**options, "of": "share"})
    assert indirect is not None and indirect.value == pytest.approx(0.05, abs=0.02)
    assert share is not None and share.value == pytest.approx(1) and share.ci95 is not None  # all of it, as planted
    gap = r_gap({"a": arms["plus"], "b": arms["plain"]}, {"arm": "a", "plain": "b", "x": "nc1", "y": "plasticity_loss"})
    own = r_gap({"a": arms["plus"]}, {"arm": "a", "x": "nc1", "y": "plasticity_loss"})
    assert gap is not None and own is not None and abs(own.value) < 1


def test_the_study_is_declared_whole_at_every_scale() -> None:
    study = study_named("bonifazi2024-next")
    assert [p.id for p in study.parts] == [
        "incremental",
        "similarity",
        "architecture",
        "epochs",
        "regularisers",
        "causal",
    ]
    for part in study.parts:
        assert set(part.plans) == set(SCALES)
        for claim in part.claims:
            assert claim.measure in MEASURES and (claim.reason and claim.source), claim.id
            asked = [claim.options.get(key) for key in ("arm", "plain")]
            asked += [
                *claim.options.get("arms", ()),
                *claim.options.get("placebos", ()),
                *claim.options.get("doses", ()),
            ]
            assert {a for a in asked if a} <= set(part.plans["smoke"].arms), claim.id
    grid = study.part("architecture").plans
    assert len(grid["smoke"].arms) == 32 == len(grid["laptop"].arms) and len(grid["full"].arms) == 162
    assert grid["smoke"].arms["width=50, depth=2, norm=layer, activation=tanh, lr_schedule=cosine"]["norm"] == "layer"


def test_arms_may_be_of_another_scenario() -> None:
    part = study_named("bonifazi2024-next").part("incremental")
    found = arms_of("bonifazi2024-next", part, "smoke", "0-1", Path("nowhere"))
    of = {str(arm.label).rpartition("/")[2]: arm.specs[0] for arm in found}
    assert of["task"].scenario.id == "task-incremental" and of["class"].scenario.id == "class-incremental"
    other = replace(
        part, plans={"smoke": Plan("no-such", "0", {"dataset": "digits"}, {"a": {"scenario": "permuted-digits"}})}
    )
    assert arms_of("s", other, "smoke", None, Path("nowhere"))[0].specs[0].scenario.id == "permuted-digits"


def test_one_figure_has_onset_and_loss_of_every_cell() -> None:
    groups = []
    for width, k in ((10, 1), (50, 2), (100, 6)):
        series = [run(s, [4] * k + [1] * (6 - k), [0.4 - 0.05 * k + 0.01 * s] * 4, width=width) for s in range(3)]
        groups.append(Group("permuted-digits", None, {"width": width}, tuple(series)))
    part = Part("permuted-digits", Study(tuple(s for g in groups for s in g.series)), tuple(groups), ("a", "b", "c"))
    frame = cells(part)
    assert frame["cell"].tolist() == ["width 10", "width 50", "width 100"] and frame["halved"].tolist() == [3, 3, 0]
    assert frame["onset"].tolist()[:2] == [2, 3] and np.isnan(frame["onset"][2])
    assert frame["loss"][0] == pytest.approx(0.5 - (0.35 + 0.01))
    draw_cells(frame).draw()


def test_arms_that_differ_in_too_much_have_their_names_and_a_part_answers_with_its_question() -> None:
    def group(arm: str, *more: str, **settings: object) -> Group:
        made = run(0, [1.0] * 6, [0.5] * 6, **settings)
        names = (f"a-study/{arm}", *more)
        return Group("permuted-digits", None, settings, (replace(made, run=replace(made.run, names=names)),))

    long = {"network": "n" * 60, "optimizer": "o" * 40}
    assert labels([group("joint", width=8), group("grown", width=9)]) == ("width=8", "width=9")
    assert labels([group("joint", "a-study", **long, width=8), group("grown", width=9)]) == ("joint", "grown")
    twice = labels([group("joint", **long, width=8), group("joint", width=9)])  # no names that tell them apart
    assert twice[0].startswith("network=n") and twice[1] == "width=9"
    made = {"arm": [run(s, [1.0] * 6, [0.5] * 6) for s in range(3)]}
    about = {"measure": "arm_value", "accept": (0.0, None), "options": {"arm": "arm", "metric": "nc1"}}
    claims = [a_claim(id="knob", says="knob", source="control of ncpl", **about), a_claim(says="sign", **about)]
    answer = overview._answer(Claims("s", "p", "similarity", "smoke", tuple(judge(claims, made)), made))
    assert answer.startswith("similarity agrees: sign: +0.1 (") and answer.endswith("; of the others 1 agree.")


def test_labels_that_begin_alike_are_told_apart_in_a_legend() -> None:
    labels = [f"width 50, {'x' * 90}, {end}" for end in ("relu", "tanh", "relu")] + ["short"]
    found = wording.shortened(labels, 60)
    assert len(found) == 3 == len(set(found.values())) and found["short"] == "short"
    assert found[labels[1]] == found[labels[0]] + " (2)" and len(found[labels[0]]) == 60
