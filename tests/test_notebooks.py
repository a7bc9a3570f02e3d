"""Results as notebooks show them: every number, every reason, and nothing that a label could slip in."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncpl_cli import html
from ncpl_cli.analysis import compare, correlate, load
from ncpl_cli.measurement import of_features
from ncpl_cli.metrics import collapse
from ncpl_cli.metrics.features import measure_features
from ncpl_cli.store import open_store
from ncpl_cli.verification.cases import CASES
from ncpl_cli.verification.judge import judge
from tests.studies import make_store
from tests.test_collapse import sample


class Reader(HTMLParser):
    """Rows of cells, all text, and the tags that are open or unknown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text, self.open = "", list[str]()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        assert tag in ("div", "b", "table", "tr", "th", "td")
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data


def read(result: Any) -> Reader:
    return Reader(result._repr_html_())


def test_collapse_and_what_is_measured_show_each_value_and_reason(tmp_path: Path) -> None:
    x, y, w, b = sample()
    found = collapse(x, y, w, b)
    rows = {row[0]: row for row in read(found).rows}
    assert rows["nc1"][1] == f"{found['nc1']:.4g}" and rows["nc4"][2] == "higher = more collapse"
    assert "classes 5" in read(found).text and rows.keys() == {"metric", *found.values}
    dead = {row[0]: row for row in read(collapse(np.zeros_like(x), y, w, b)).rows}
    assert dead["nc1"][1:] == ["–", "lower = more collapse", "no between-class scatter"]
    measured = read(measure_features(x, y, w, b, x[:50], y[:50]))
    assert ["nc1", "test"] in [row[:2] for row in measured.rows] and "no exact zeros" in measured.text
    np.savez(tmp_path / "<b>.npz", features=x, labels=y, more=x)
    whole = of_features([tmp_path / "<b>.npz"], ["default"])
    assert "&lt;b&gt;.npz" in whole._repr_html_() and "left out: more" in read(whole).text


def test_a_report_of_verify_shows_what_is_wrong() -> None:
    cases = [make() for make in CASES[:2]]
    found = read(judge("<i>", lambda x, y, w, b: {"nc1": 0.5}, cases))
    assert found.rows[1][:4] == ["simplex", "nc1", "0", "0.5"] and "0 of 2 cases right" in found.text


def test_correlations_and_comparisons_show_their_sentence_and_notes(tmp_path: Path) -> None:
    make_store(tmp_path / "s.db")
    with open_store(tmp_path / "s.db") as store:
        study = load(store, ["nc1", "plasticity_loss", "online_accuracy", "probe_test_accuracy", "train_accuracy"])
        groups = correlate(study, [("nc1", "plasticity_loss")])
        for result in groups:
            shown = read(result)
            assert result.title in shown.text and all(" ".join(note.split()) in shown.text for note in result.notes)
            assert shown.rows[0][:2] == ["statistic", "r"] and len(shown.rows) > 2
        for one in compare(study):
            assert [row[0] for row in read(one).rows[1:]] == [arm.arm for arm in one.arms]


@pytest.mark.parametrize("bad", ["<script>alert(1)</script>", "a&b", '"><img src=x>', "\x1b[31m", "s://u:secret@h"])
def test_everything_is_escaped(bad: str) -> None:
    page = html.shown(bad, [bad], [[bad], [1], [True], [None], [float("nan")], [0.123456]], [bad])
    cells = [row[0] for row in Reader(page).rows]
    assert "<script" not in page and "<img" not in page and "\x1b" not in page and "secret" not in page
    assert cells[2:] == ["1", "True", "–", "–", "0.1235"] and len(cells) == 7
