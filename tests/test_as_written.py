"""Commands that read a store, as the README and --help write them, where one lies: each gives an answer."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ncpl_cli.main import call
from tests.studies import make_store

HOME = Path(__file__).parents[1]
WRITTEN = "\n".join(page.read_text(encoding="utf-8") for page in (HOME / "README.md", *sorted(HOME.glob("docs/*.md"))))

READING = ("correlate", "compare", "runs list", "export", "db info", "db check")
"""The beginnings of commands that only read: those that train have tests of their own."""

ELSEWHERE = ("--name theirs", "--name study", "--plan plan.toml", "import ", "--by lr", "cdnv", ".svg", "-mnist")
"""Lines about other stores than this one; their options are tested with them."""


def lines() -> list[str]:
    """Every line of the README that begins with $ and only reads, and every example of such a command's --help."""
    written = re.findall(r"^\s+\$ ncpl ([^#\n]+?)\s*(?:#.*)?$", WRITTEN, flags=re.M)
    rows = [line for line in WRITTEN.splitlines() if re.match(r"^\| .*\? \|", line)]  # a table of questions and answers
    written += [found for row in rows for found in re.findall(r"`ncpl ([^`]+)`", row)]
    sources = Path(__file__).parents[1] / "ncpl_cli" / "commands"
    for file in sorted(sources.glob("*.py")):
        written += re.findall(r"^    Example: ncpl ([^{}\n]+)$", file.read_text(encoding="utf-8"), flags=re.M)
    found = [line.strip() for line in written if line.startswith(READING)]
    return [line for line in dict.fromkeys(found) if not any(words in line for words in ELSEWHERE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written")
    make_store(path / "ncpl.db")
    return path


def test_there_are_such_lines() -> None:
    found = lines()
    assert {"compare", "correlate --pairs all", "correlate --across runs", "correlate --multiverse"} <= set(found)
    assert len(found) >= 8


@pytest.mark.parametrize("line", lines())
def test_a_line_as_written_gives_an_answer(
    line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    words = shlex.split(line.split("|")[0].split("&&")[0])
    assert call(words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "nothing is paired" not in out
    if words[0] in ("correlate", "compare") and "--json" not in words:
        assert re.search(r"\d\.\d", out), "an answer has a number in it"


def test_the_commands_alone_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for words in (["correlate"], ["compare"], ["runs", "list"], ["sweep", "status"]):
        assert call(words) == 0, words
        assert capsys.readouterr().out.strip(), words
