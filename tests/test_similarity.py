"""How alike tasks are: the knob, what is measured of it, and that runs without it are what they were."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncpl_cli.data import Dataset, DatasetSpec
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.metrics.similarity import input_similarity, label_agreement, task_similarity
from ncpl_cli.scenarios.permuted import PermutedDigits
from ncpl_cli.scenarios.similarity import rotated
from ncpl_cli.settings import asked, specs
from ncpl_cli.store import open_store


def tasks(digits: Dataset, knob: str, count: int = 4, seed: int = 3) -> list[Any]:
    return [PermutedDigits.of({"similarity": knob}).task(i, digits, seed) for i in range(count)]


def test_a_turn_moves_each_pixel_to_where_it_belongs() -> None:
    """Against the rotation matrix: no pixel of the inner disc lands two pixels from its place."""
    side = 28
    centre = (side - 1) / 2
    for degrees in (5.0, 15.0, 45.0, 100.0, 270.0, 359.0):
        order = rotated(side, degrees)
        assert sorted(order) == list(range(side * side))  # another order of the same pixels
        row, column = np.divmod(np.arange(side * side), side)
        from_row, from_column = np.divmod(order, side)
        inner = np.hypot(row - centre, column - centre) < 9
        angle = np.radians(degrees)
        x, y = column - centre, centre - row  # counter-clockwise, the y axis upwards
        there = (np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y)  # where it came from
        off = np.hypot(from_column - centre - there[0], centre - from_row - there[1])
        assert off[inner].max() < 2.0
    assert np.array_equal(rotated(8, 0), np.arange(64))
    assert np.array_equal(rotated(8, 90), np.rot90(np.arange(64).reshape(8, 8)).reshape(-1))


def test_each_task_is_so_far_from_the_last_one(digits: Dataset) -> None:
    same = tasks(digits, "interpolate:0.25")
    for one, other in itertools.pairwise(same):
        moved = (one.pixel_order != other.pixel_order).mean()
        assert 0.1 < moved <= 0.25 and sorted(other.pixel_order) == list(range(64))
    renamed = tasks(digits, "disagree:0.2")
    for one, other in itertools.pairwise(renamed):
        differ = {c for c in range(10) if (one.train_labels != other.train_labels)[digits.train.labels == c].all()}
        assert len(differ) == 2 and one.pixel_order is None
        assert label_agreement(one, other) == pytest.approx(1 - np.isin(digits.train.labels, list(differ)).mean())
        assert sorted(np.bincount(other.train_labels)) == sorted(np.bincount(digits.train.labels))
    turned = tasks(digits, "rotation:90", 5)
    assert np.array_equal(turned[0].pixel_order, turned[4].pixel_order)


def test_what_is_measured_of_two_tasks(digits: Dataset) -> None:
    one, two, three = tasks(digits, "interpolate:0.3", 3)
    pixels = digits.train.images.reshape(1437, -1).astype(float)
    a, b = (pixels[:, t.pixel_order] - pixels[:, t.pixel_order].mean(0) for t in (one, two))
    assert input_similarity(digits, one, two) == pytest.approx((a * b).sum() / (a * a).sum(), rel=1e-9)
    gram, other = a @ a.T, b @ b.T
    assert (gram * other).sum() / np.sqrt((gram**2).sum() * (other**2).sum()) == pytest.approx(1)  # CKA is blind to it
    found = {str(k): v for k, v in task_similarity(digits, [one, two, three]).items()}
    assert found["input_similarity@previous"] > found["input_similarity@first"] > 0.1
    assert found["input_similarity@earlier"] == pytest.approx(
        (found["input_similarity@previous"] + found["input_similarity@first"]) / 2
    )
    assert task_similarity(digits, [one]) == {} and input_similarity(digits, one, one) == pytest.approx(1)
    smaller = tasks(digits, "interpolate:0.9", 2)
    assert input_similarity(digits, *smaller) < input_similarity(digits, one, two)


def test_it_is_stored_and_runs_without_it_stay_the_same(tmp_path: Path, digits: Dataset) -> None:
    plain, none = (specs(PermutedDigits, given, digits, DatasetSpec("digits"), [0])[0]
                   for given in ({}, {"similarity": "none"}))  # fmt: skip
    assert plain.id == none.id and plain.measure.metrics == ("default",)
    path = str(tmp_path / "a.db")
    given = ["--tasks", "3", "--train-samples", "100", "--db", path]
    for knob in ("rotation:15", "interpolate:.3", "disagree:.2"):
        assert call(["train", "permuted-digits", "--similarity", knob, *given]) == 0
    with open_store(path, readonly=True) as store:
        runs = store.runs()
        assert {r.settings["similarity"] for r in runs} == {"rotation:15", "interpolate:0.3", "disagree:0.2"}
        for run in runs:
            values = {str(a): v for a, v in store.values(run.id, 3).items()}
            assert {"input_similarity@previous", "label_agreement@first", "input_similarity@earlier"} <= set(values)
            assert (values["label_agreement@previous"] < 1) == (run.settings["similarity"] == "disagree:0.2")


def test_what_cannot_be_is_said(digits: Dataset) -> None:
    for text, why in (("turn:3", "is unknown"), ("rotation:0", "above 0"), ("interpolate:2", "at most 1")):
        with pytest.raises(InputError, match=why):
            asked(PermutedDigits, {"similarity": text})
    with pytest.raises(InputError, match="give one"):
        asked(PermutedDigits, {"similarity": "rotation:5", "permuted_fraction": 0.5})
    with pytest.raises(InputError, match=r"disagree:0.1 is impossible.*two"):
        specs(PermutedDigits, {"similarity": "disagree:0.1"}, digits, DatasetSpec("digits"), [0])
