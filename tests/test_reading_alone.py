"""Reading stores needs no torch: an installation without what trains and measures lists, correlates and reports."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from ncpl_cli.commands.doctor import TRAINING
from ncpl_cli.main import NOT_FOR_READING
from tests.studies import make_store

ROOT = Path(__file__).parent.parent

READING = (
    ["runs", "list"], ["runs", "show", "a10000000000"], ["correlate"], ["compare", "--by", "first_task_epochs"],
    ["layers"], ["report", "-o", "found.md"], ["export", "-o", "found.csv", "--settings"],
    ["export", "-o", "found.parquet"], ["db", "query", "SELECT count(*) AS n FROM runs"], ["db", "info"],
    ["db", "check"], ["cite"], ["doctor"], ["reproduce", "list"],
)  # fmt: skip
OTHERS = (["train", "permuted-digits"], ["measure", "features.npz"], ["catalog"])

PROGRAM = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])

sys.meta_path.insert(0, Absent())
from ncpl_cli.main import call
codes = [call(["--db", "study.db", "--quiet", *command]) for command in {commands!r}]
from ncpl_cli.serving import application
codes.append(type(application("study.db")).__name__)
print(json.dumps(codes), file=sys.__stdout__)
"""


def test_commands_that_read_work_without_what_trains(tmp_path: Path) -> None:
    make_store(tmp_path / "study.db")
    program = PROGRAM.format(absent=set(NOT_FOR_READING), commands=[*READING, *OTHERS])
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=_environment(), text=True,
                          capture_output=True, timeout=200)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    without = [
        command for command, code in zip(READING, codes, strict=False) if code != (2 if command == ["layers"] else 0)
    ]
    assert without == [], done.stderr
    assert codes[len(READING) : -1] == [1] * len(OTHERS)
    assert done.stderr.count("is not installed here: an installation without it only reads stores") == len(OTHERS)
    assert "Traceback" not in done.stderr and "failed unexpectedly" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"found.md", "found.csv", "found.parquet"}


def test_the_group_read_is_the_dependencies_without_what_trains() -> None:
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())
    whole = set(facts["project"]["dependencies"])
    group = set(facts["dependency-groups"]["read"])
    left = {line.partition(">")[0] for line in whole - group}
    assert left == set(TRAINING)
    assert group - whole == set(facts["project"]["optional-dependencies"]["serve"])


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
