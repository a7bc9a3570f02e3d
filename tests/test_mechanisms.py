"""The report's story of a study of arms: the numbers that are drawn and listed, from claims made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ncpl_cli.analysis import Series
from ncpl_cli.analysis.claims import judge
from ncpl_cli.report.blocks import Figure, Section, Table, Text
from ncpl_cli.report.material import Claims, Material
from ncpl_cli.report.sections import mechanisms
from ncpl_cli.studies import Claim
from tests.test_claims_lyle import arm, run_of
from tests.test_reproduce import claim

OPTIONS = {"metric": "train_accuracy", "last": 2}


def claims_of(part: str, arms: dict[str, list[Series]], *claims: Claim) -> Claims:
    return Claims("s", "p", part, "smoke", tuple(judge(claims, arms)), arms)


def material(*studies: Claims) -> Material:
    return Material((), 0, (), {}, {}, {}, (), {}, {}, claims=studies)


def learned(*by_seed: list[float]) -> list[Series]:
    return arm(*by_seed, metric="train_accuracy")


def remedies() -> Claims:
    arms = {
        "plain": learned([1, 0.2, 0.2], [1, 0.3, 0.3]), "ln": learned([1, 0.5, 0.5], [1, 0.6, 0.6]),
        "l2": learned([0.3, 0.4, 0.4], [0.2, 0.4, 0.4]), "ln-l2": learned([1, 0.6, 0.6], [1, 0.8, 0.8]),
    }  # fmt: skip
    pair = claim(id="pair", measure="interaction", options={"arms": ["ln-l2", "ln", "l2", "plain"], **OPTIONS})
    single = claim(id="one", measure="arm_gap", options={"arm": "ln", "plain": "plain", **OPTIONS}, caveat="one dose",
                   source="control of ncpl")  # fmt: skip
    return claims_of("remedies", arms, single, pair)


def test_a_pair_stands_beside_the_sum_of_its_parts() -> None:
    rows = {(r.remedy, r.way): r for r in mechanisms.remedy_frame(remedies()).itertuples()}
    gains = {key: round(float(row.gain), 9) for key, row in rows.items()}  # type: ignore[arg-type]
    assert gains == {
        ("ln", "alone"): 0.3, ("l2", "alone"): 0.15, ("ln-l2", "both together"): 0.45,
        ("ln-l2", "sum of the two gains"): 0.45,
    }  # fmt: skip
    assert all(row.low < row.gain < row.high for key, row in rows.items() if key != ("ln", "alone"))  # type: ignore[operator]


def test_the_grid_marks_arms_that_never_learned() -> None:
    rows = {row[0]: row for row in mechanisms.grid(remedies()).rows}
    assert rows["l2"][-1] == "never learned task 0" and rows["plain"][-1] == ""
    assert rows["ln"][1:3] == (pytest.approx(1.0), pytest.approx(0.55))


def test_a_dose_is_three_arms_that_differ_in_a_number() -> None:
    arms: dict[str, Any] = {f"offset-{x}": arm([0, 1.0 * i], [0, 3.0 * i]) for i, x in enumerate(("0", "1e-3", "10"))}
    arms |= {"other-1": arm([0, 1.0]), "l2-1e-3": arm([0, 1.0]), "plain": arm([0, 1.0])}
    shown = mechanisms.dose_frame(
        [claims_of("p", arms, claim(measure="arm_value", options={"arm": "plain", "metric": "m"}))]
    )
    assert shown["what"].tolist() == ["offset"] * 3 and shown["dose"].tolist() == ["0", "0.001", "10"]
    assert shown["mean"].tolist() == [0, 2, 4] and shown["seeds"].tolist() == [2, 2, 2]


def test_diagnostics_stand_beside_learning_by_arm() -> None:
    draw = np.random.default_rng(1)
    x = draw.standard_normal((2, 12))
    arms: dict[str, list[Series]] = {"plain": [], "ln": []}
    for name, sign in (("plain", -1), ("ln", 1)):
        for seed in (0, 1):
            y = sign * x[seed] + 0.1 * draw.standard_normal(12)
            arms[name].append(run_of(seed, {"d@start": x[seed].tolist(), "y": y.tolist()}))
    ((name, plain, ln),) = mechanisms.diagnostic_rows(arms, "y")
    assert name == "d" and plain < -0.9 and ln > 0.9


def test_the_section_is_there_where_a_study_is_and_draws_what_it_says() -> None:
    assert (
        mechanisms.draw(material()).blocks
        == Section.empty(
            mechanisms.ID,
            mechanisms.TITLE,
            "No chosen run is of a study of mechanisms and remedies.",
            "ncpl reproduce lyle2024",
        ).blocks
    )
    section = mechanisms.draw(material(remedies()))
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    assert [figure.id for figure in figures] == ["gain-of-remedies-smoke"] and figures[0].draw() is not None
    assert "ln alone: +0.300" in figures[0].alt
    assert any(isinstance(block, Table) and block.id == "mechanisms-remedies-grid" for block in section.blocks)
    (text,) = [block for block in section.blocks if isinstance(block, Text)]
    assert text.kind == "caveat" and text.sentences[0].startswith("one: s: +0.3")
