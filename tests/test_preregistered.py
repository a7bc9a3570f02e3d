"""A plan of the analysis: kept with runs before they begin, told from what was found by looking, changes shown."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ncpl_cli.analysis.preregistered import Plan, Question, changes, read_plan
from ncpl_cli.errors import InputError
from ncpl_cli.main import call
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.report.formats import FORMATS
from ncpl_cli.report.material import gather
from ncpl_cli.report.report import build
from ncpl_cli.store import open_store

PLAN = """
[[question]]
name = "loss"
x = "nc1"
y = "plasticity_loss"
window = 5

[[question]]
name = "test"
x = "nc1@test"
y = "online_accuracy"
window = 5
controls = ["train_accuracy"]
"""
TRAIN = ["train", "permuted-digits", "--tasks", "8", "--train-samples", "60", "--batch-size", "10"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds under a plan, one of them trained further under a changed one; two arms of which one has no plan."""
    path = tmp_path_factory.mktemp("plan")
    (path / "plan.toml").write_text(PLAN)
    (path / "later.toml").write_text(PLAN.replace('"nc1"', '"nc2"', 1).replace("window = 5", "window = 4", 1))
    db = ["--db", str(path / "a.db")]
    assert call([*TRAIN, "--seeds", "0-1", "--plan", str(path / "plan.toml"), *db]) == 0
    assert call([*TRAIN, "--seeds", "0-2", "--plan", str(path / "later.toml"), *db]) == 0
    assert call([*TRAIN, "--seeds", "0", "--lr", "0.02", *db]) == 0
    return path


def test_a_run_keeps_the_plan_it_began_with_and_its_identity(folder: Path, tmp_path: Path) -> None:
    plan, later = (read_plan(folder / f"{name}.toml") for name in ("plan", "later"))
    with open_store(folder / "a.db") as store:
        rows = {(row.seed, row.settings["lr"]): row for row in store.runs()}
    kept = {key: row.recorded.get("plan") for key, row in rows.items()}
    assert kept == {(0, 0.01): plan.text, (1, 0.01): plan.text, (2, 0.01): later.text, (0, 0.02): None}
    assert call([*TRAIN, "--seeds", "0", "--db", str(tmp_path / "b.db")]) == 0
    with open_store(tmp_path / "b.db") as store:
        (row,) = store.runs()
    assert row.id == rows[0, 0.01].id and "plan" not in row.recorded
    assert Plan.of(plan.text) == plan and Plan.of(plan.text).digest == plan.digest != later.digest


def groups(folder: Path, capsys: pytest.CaptureFixture[str], *line: str) -> tuple[list[dict[str, Any]], str]:
    capsys.readouterr()
    assert call(["correlate", *line, "--db", str(folder / "a.db"), "--json"]) == 0
    streams = capsys.readouterr()
    return json.loads(streams.out)["groups"], streams.err


def test_correlate_tells_planned_from_exploratory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = groups(folder, capsys, "--window", "5")
    of = {g["settings"].get("lr"): g["plan"] for g in found}
    assert of[0.01]["kind"] == "planned" and of[0.01]["question"] == "loss" and of[0.02]["kind"] == "unplanned"
    assert (
        "'loss': window: 5 became 4, x: nc1 became nc2" in of[0.01]["sentence"] or "became nc2" in of[0.01]["sentence"]
    )
    otherwise, _ = groups(folder, capsys, "--window", "3")
    of = {g["settings"].get("lr"): g["plan"] for g in otherwise}
    assert of[0.01]["kind"] == "changed" and of[0.01]["differs"] == {"window": {"planned": 5, "made": 3}}
    assert any("was to be answered otherwise (window: 5 planned, 3 here)" in n for n in otherwise[0]["notes"])
    other, _ = groups(folder, capsys, "--window", "5", "--x", "cdnv")
    assert {g["plan"]["kind"] for g in other} == {"exploratory", "unplanned"}


def test_correlate_answers_a_plan_as_it_stands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, err = groups(folder, capsys, "--plan", str(folder / "plan.toml"))
    mine = [g for g in found if g["settings"].get("lr") == 0.01]
    assert [(g["x"], g["y"], g["window"], g["plan"]["kind"]) for g in mine] == [
        ("nc1", "plasticity_loss", 5, "planned"), ("nc1@test", "online_accuracy", 5, "planned"),
    ]  # fmt: skip
    assert "has become" in err  # the third run was made under a later plan
    assert "train_accuracy" in mine[1]["overall"]["partial"]
    assert call(["correlate", "--plan", str(folder / "plan.toml"), "--x", "nc2", "--db", str(folder / "a.db")]) == 2


def test_the_report_tells_them_apart_and_shows_later_changes(folder: Path) -> None:
    formulas = {m.id: (m.formula, m.direction, m.source) for m in METRICS.values()}
    with open_store(folder / "a.db") as store:
        text = FORMATS["md"](build(gather(store, formulas)), {}, None)
    overview = text[: text.index("## Learning")].replace("\\", "")
    plan = read_plan(folder / "plan.toml")
    assert (
        f"Plan {plan.digest}, fixed before the first epoch of 2 of 4 runs: loss (nc1 and plasticity_loss)" in overview
    )
    assert "Changed later: 'loss'" in overview and "became nc2" in overview
    assert "Planned. " in overview and "found by looking" in overview


def test_a_sweep_keeps_it_too(folder: Path, tmp_path: Path) -> None:
    line = ["sweep", "permuted-digits", "--tasks", "2", "--train-samples", "60", "--batch-size", "10", "--seeds", "0",
            "--grid", "lr=0.01,0.02", "--plan", str(folder / "plan.toml"), "--db", str(tmp_path / "a.db")]  # fmt: skip
    assert call(line) == 0
    with sqlite3.connect(tmp_path / "a.db") as connection:
        kept = {json.loads(text)["plan"] for (text,) in connection.execute("SELECT recorded FROM runs")}
    assert kept == {read_plan(folder / "plan.toml").text}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "asks no question"),
        ("question = 3", "asks no question"),
        ("[[question]]\nname = 'a'\nx = 'nc1'", "a question has no y"),
        ("[[question]]\nname = 'a'\nx = 'nc1'\ny = 'b'\nwindows = 3", "unknown entry of a question"),
        ("[[question]]\nname = 'a'\nx = 'nc1'\ny = 'b'\nwindow = 1", "window = 1 is impossible"),
        ("[[question]]\nname = 'a'\nx = 'nc1'\ny = 'b'\nwindow = 'x'", "is not what it takes"),
        ("[[question]]\nname = 'a'\nx = 'nc1'\ny = 'b'\nmethod = 'kendall'", "unknown method"),
        ("[[question]]\nname = 'a'\nx = 'nc1'\ny = 'b'\nacross = 'seeds'", "unknown across"),
        ("[[question]]\nname = 'a'\nx = 'nc1'\ny = 'b'\n[[question]]\nname = 'a'\nx = 'nc2'\ny = 'b'", "twice"),
        ("[other]\na = 1", "unknown entry"),
        ("[[question", "cannot be read"),
    ],
)
def test_a_plan_that_is_wrong_is_said(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_plan(tmp_path / "p.toml")
    with pytest.raises(InputError, match="there is no plan"):
        read_plan(tmp_path / "absent.toml")


def test_changes_in_words() -> None:
    a = Plan((Question("p", "nc1", "y", window=100), Question("q", "nc1", "z")))
    b = Plan((Question("p", "nc1", "y", window=50, controls=("train_accuracy",)), Question("r", "nc2", "z")))
    assert changes(a, b) == ["'q' was dropped", "'r' was added",
                             "'p': window: 100 became 50, controls: none became train_accuracy"]  # fmt: skip
    assert changes(a, a) == []
