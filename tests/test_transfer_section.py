"""The report's section on transfer: gains, where their sign turns, what stands beside them, on runs made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ncpl_cli.analysis import Run, Series, Study, groups
from ncpl_cli.report import theme
from ncpl_cli.report.material import Part
from ncpl_cli.report.sections import transfer


def a_run(scenario: str, seed: int, ends: dict[str, tuple[float, float]], **settings: Any) -> Series:
    """Measured untrained and after epoch 3."""
    axis = np.array([0.0, 3.0])
    name = f"{scenario}{seed}{settings}"
    return Series.of(Run(name, seed, scenario, settings=settings), axis, 0 * axis, axis,
                     {address: np.array(pair) for address, pair in ends.items()})  # fmt: skip


def part_of(scenario: str, series: list[Series]) -> Part:
    study = Study(tuple(series))
    found = groups(study)
    return Part(scenario, study, tuple(found), tuple(Part.label_of(group) for group in found))


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    """Few-shot accuracy gains -.2, 0 and .3 with 2, 4 and 16 classes, +-.01 over two seeds; read-outs fall and rise."""
    few = [
        a_run("source-classes", seed, {
            "few_shot_error_5@unseen": (0.5, 0.5 - gain + 0.01 * (2 * seed - 1)),
            "few_shot_error_5@unseen/input": (0.25, np.nan),
        }, source_classes=classes, per_class=m, weight_decay=0.0)
        for seed in range(2) for classes, gain, m in ((2, -0.2, 50), (4, -0.1, 50), (16, 0.3, 50), (4, -0.05, 5))
    ]  # fmt: skip
    coarse = [
        a_run("coarse-labels", seed, {
            "readout_ncc@fine_test": (0.6, 0.2), "readout_fixed@fine_test": (0.7, 0.65),
            "readout_tuned@fine_test": (0.7, 0.9),
            "nc1": (9.0, 0.1), "nc1@test": (8.0, 0.5), "nc1_test_weak@test": (1.0, 0.2), "nc1@test/layer1": (9.0, 2.0),
            "nc1@train/layer1": (9.0, 1.0),
        }, weight_decay=0.002)
        for seed in range(2)
    ]  # fmt: skip
    return [part_of("source-classes", few), part_of("coarse-labels", coarse)]


def test_gains_are_against_the_untrained_network(parts: list[Part]) -> None:
    means = transfer.means(transfer.gains(parts)).set_index(["panel", "arm", "x"])
    of_classes = {x: means.loc[(transfer.BY_CLASSES, "per_class=50", x), "gain"] for x in ("2", "4", "16")}
    assert of_classes == {"2": pytest.approx(-0.2), "4": pytest.approx(-0.1), "16": pytest.approx(0.3)}
    row = means.loc[(transfer.BY_CLASSES, "per_class=50", "2")]
    assert row["high"] - row["low"] == pytest.approx(2 * 12.7062 * 0.01, rel=1e-4) and row["runs"] == 2
    rules = {x: means.loc[(transfer.BY_READOUT, "all runs", x), "gain"] for x in transfer.RULES.values()}
    assert rules == {
        "nearest mean": pytest.approx(-0.4),
        "fixed ridge": pytest.approx(-0.05),
        "tuned ridge": pytest.approx(0.2),
    }


@pytest.mark.parametrize(
    ("classes", "gain", "expected"),
    [
        ((2, 4, 16), (-0.2, -0.1, 0.3), 2 ** (2 + 2 * 0.1 / 0.4)),
        ((16, 2, 4), (0.3, -0.2, -0.1), 2 ** (2 + 2 * 0.1 / 0.4)),  # in any order
        ((2, 4), (0.1, 0.2), None),
        ((2, 4), (0.1, -0.2), None),
        ((2, 4, 8, 16), (-1, 1, -1, 1), 2**3.5),  # the last turn, from which on it helps
    ],
)
def test_the_sign_turns_on_a_line_over_the_logarithm(classes: Any, gain: Any, expected: float | None) -> None:
    found = transfer.turning_point(classes, gain)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_where_the_sign_turns_is_said(parts: list[Part]) -> None:
    said = transfer.sentences(transfer.gains(parts))
    assert len(said) == 2  # an arm with one number of classes has nothing to turn
    assert "-0.200 with 2 source classes, +0.300 with 16 source classes" in said[0]
    assert "begins to help between 4 and 16 source classes (about 5.7)" in said[0]
    assert "nearest mean -0.400, fixed ridge -0.050, tuned ridge +0.200" in said[1]
    assert "the read-out decides the sign" in said[1]


def test_pixels_test_collapse_and_cascade_stand_beside_it(parts: list[Part]) -> None:
    (pixels,) = transfer._pixels(parts[0], "p")
    assert {row[2:4] for row in pixels.rows} == {(0.25, 0.5)}
    (kinds,) = transfer._test_collapse(parts[1], "k")
    assert [row[2:] for row in kinds.rows] == [(9.0, 0.1), (8.0, 0.5), (1.0, 0.2)]
    (cascade,) = transfer._cascade(parts[1], "c")
    assert [row[1:] for row in cascade.rows] == [("layer1", 9.0, 1.0, 9.0, 2.0), ("last", 9.0, 0.1, 8.0, 0.5)]
    assert not transfer._test_collapse(parts[0], "k") and not transfer._cascade(parts[0], "c")


def test_the_joined_picture_has_a_panel_for_each_question(parts: list[Part]) -> None:
    for chosen, panels in ((parts, 2), (parts[:1], 1)):
        with theme.drawn(transfer.draw_joined(transfer.gains(chosen))) as figure:
            assert len(figure.axes) == panels
            texts = [t.get_text() for ax in figure.axes for t in ax.get_xticklabels()]
            assert texts == ["2", "4", "16", "nearest mean", "fixed ridge", "tuned ridge"][: 6 if panels == 2 else 3]
