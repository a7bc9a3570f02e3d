"""Runs that failed or diverged are named, with the settings that vary and the reason, wherever runs are listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ncpl_cli.analysis.casualties import casualties, together, varying
from ncpl_cli.main import call
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.report.blocks import Table
from ncpl_cli.report.formats import FORMATS
from ncpl_cli.report.material import gather
from ncpl_cli.report.report import build
from ncpl_cli.store import RunRow, open_store


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A sweep over learning rates of which the largest diverges, and the document it ended with."""
    path = str(tmp_path_factory.mktemp("sweep") / "a.db")
    line = ["sweep", "permuted-digits", "--seeds", "0-1", "--tasks", "2", "--train-samples", "60", "--jobs", "1",
            "--grid", "lr=0.01,10", "--name", "rates", "--db", path, "--json"]  # fmt: skip
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert call(line) == 3
    return path, json.loads(said.getvalue())


def check(entries: list[dict[str, Any]]) -> None:
    assert [(e["seed"], e["status"], e["settings"]) for e in entries] == [
        (0, "diverged", {"lr": 10.0}), (1, "diverged", {"lr": 10.0}),
    ]  # fmt: skip
    assert all("infinite or NaN" in e["error"] and e["attempts"] == 1 and len(e["run"]) == 12 for e in entries)


def test_the_sweep_and_its_status_name_them(
    swept: tuple[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, ended = swept
    assert ended["diverged"] == 2
    check(ended["errors"])
    assert call(["sweep", "status", "rates", "--db", path, "--json"]) == 0
    check(json.loads(capsys.readouterr().out)["errors"])
    assert call(["sweep", "status", "--db", path, "--json"]) == 0
    check(json.loads(capsys.readouterr().out)["sweeps"][0]["errors"])
    for line in (["sweep", "status", "rates"], ["sweep", "status"]):
        assert call([*line, "--db", path]) == 0
        out = capsys.readouterr().out
        assert "lr=10.0" in out and "infinite or NaN" in out, line


def test_the_list_of_runs_names_them(swept: tuple[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = swept
    for more in ([], ["--status", "diverged"]):  # also where only they are listed
        assert call(["runs", "list", "--db", path, *more]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "diverged" in line]
        assert len(lines) == 2 and all("lr=10.0" in line and "infinite or NaN" in line for line in lines)
        assert call(["runs", "list", "--db", path, *more, "--json"]) == 0
        rows = [r for r in json.loads(capsys.readouterr().out)["runs"] if r["status"] == "diverged"]
        assert [r["settings"] for r in rows] == [{"lr": 10.0}] * 2 and all("NaN" in r["error"] for r in rows)


def test_the_report_names_them(swept: tuple[str, dict[str, Any]]) -> None:
    formulas = {m.id: (m.formula, m.direction, m.source) for m in METRICS.values()}
    with open_store(swept[0]) as store:
        made = build(gather(store, formulas))
    text = FORMATS["md"](made, {}, None)
    overview = text[: text.index("## Learning")]
    assert "lr=10.0: 2 runs diverged (seeds 0-1): the loss or the parameters became infinite or NaN." in overview
    assert "diverged at lr=10.0" in text[text.index("## Data health") :]
    tables = {b.id: b for section in made.sections for b in section.blocks if isinstance(b, Table)}
    groups = [dict(zip(tables["overview-groups"].columns, row, strict=True)) for row in tables["overview-groups"].rows]
    assert ("lr=10.0: all diverged", 0) in [(g["group"], g["runs"]) for g in groups]


def test_the_error_of_a_sweep_names_them(swept: tuple[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    line = ["sweep", "permuted-digits", "--seeds", "0-1", "--tasks", "2", "--train-samples", "60", "--grid",
            "lr=0.01,10", "--name", "rates", "--db", swept[0]]  # fmt: skip
    assert call(line) == 3
    assert "lr=10.0: 2 runs diverged (seeds 0-1)" in capsys.readouterr().err


def row(i: int, status: str, settings: dict[str, Any], **more: Any) -> RunRow:
    about: dict[str, Any] = {"parent": None, "branch_epoch": None, "error": "why.", "scenario": "warm-start", **more}
    return RunRow(
        i, f"r{i}", seed=i % 2, status=status, settings=settings, horizon={}, recorded={}, total_epochs=3, attempt=2,
        owner=None, lease_expires=None, cohort=[], created=0, updated=0, finished=None, seconds=0.0, **about,
    )  # fmt: skip


def test_a_probe_is_told_by_its_parent_and_epoch() -> None:
    rows = [row(0, "finished", {"lr": 0.1}), row(1, "finished", {"lr": 5.0}),
            row(2, "failed", {"accuracy": 0.9}, parent="r1", branch_epoch=5, scenario="warm-start-probe")]  # fmt: skip
    (one,) = casualties(rows)
    assert one.settings == {"lr": 5.0, "probe_after_epoch": 5} and one.attempts == 2
    assert together([one]) == ["lr=5.0, probe_after_epoch=5: run r2 failed (seed 0): why."]


def test_scenarios_are_told_apart_and_errors_of_the_queue_come_first() -> None:
    rows = [row(0, "pending", {"a": 1}), row(1, "finished", {"a": 2}), row(2, "failed", {"b": 1}, scenario="other")]
    assert varying(rows) == {"r0": {"a": 1}, "r1": {"a": 2}, "r2": {}}
    found = casualties(rows, [("r0", 3, "lost")])
    assert [(c.run, c.attempts, c.error) for c in found] == [("r0", 3, "lost"), ("r2", 2, "why.")]


def test_a_command_that_finds_nothing_says_what_became_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kind: compare, correlate and layers refuse where runs are missing, and name the settings that lost them."""
    from tests.studies import PERMUTED, add_run, permuted

    url = str(tmp_path / "lost.db")
    settings = PERMUTED | {"first_task_epochs": 1}
    with open_store(url) as store:
        for seed in range(2):
            add_run(store, f"a{seed:011x}", seed, "permuted-digits", settings, {"tasks": 3}, permuted(seed, 1, 3))
            add_run(store, f"b{seed:011x}", seed, "permuted-digits", settings | {"lr": 10.0}, {"tasks": 3}, [],
                    status="diverged")  # fmt: skip
    refusals = (["compare", "--by", "lr"], ["compare"], ["compare", "--dose"], ["layers"],
                ["correlate", "--predict", "online_accuracy"])  # fmt: skip
    for command in refusals:
        assert call([*command, "--db", url]) == 2
        said = capsys.readouterr().err
        assert "Left out: lr=10.0: 2 runs diverged (seeds 0-1): the loss became infinite." in said, (command, said)
        assert said.count("error:") == 1 and "hint:" in said
    assert call(["correlate", "--runs", f"b{0:011x},b{1:011x}", "--db", url]) == 2
    assert "Left out: 2 runs diverged (seeds 0-1)" in capsys.readouterr().err
    assert call(["compare", "--by", "lr", "--name", "nobody", "--db", url]) == 2
    assert "Left out" not in capsys.readouterr().err


def test_layers_are_ordered_beside_a_setting_that_lost_all_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ncpl_cli.records import Address, EpochRecord
    from tests.studies import add_run

    url = str(tmp_path / "layers.db")
    records = [EpochRecord(e, 0, e, e, 1.0, 0.1, {Address.parse("nc1"): 1 / e, Address.parse("nc1@train/layer1"): 2.0},
                           {}, {}) for e in range(1, 5)]  # fmt: skip
    with open_store(url) as store:
        add_run(store, "a" * 12, 0, "permuted-digits", {"interventions": []}, {"tasks": 1}, records)
        lost = {"interventions": [], "lr": 10.0}
        add_run(store, "b" * 12, 0, "permuted-digits", lost, {"tasks": 1}, [], status="diverged")
    assert call(["layers", "--db", url]) == 0
    assert "last collapses first" in capsys.readouterr().out


def test_a_setting_is_never_rounded_away() -> None:
    from ncpl_cli.commands._table import _column

    assert _column("value", [0.003, 0.01, 1000.0]) == ["0.003", "0.01", "1000"]
    assert _column("gain", [0.003, None, 1000.0]) == ["0.003", "–", "1000"]
    assert _column("gain", [0.25, 1000.0]) == ["0.25", "1000.00"]
