"""The command line's own grammar: any command with any of its options, written with anything, never ends unexpectedly.

The grammar is read off the live commands, so that a new option is drawn from the day it is there. Training itself is
left out: what a right line would train is refused at its door. `NCPL_DRAWS=2000` draws more than the suite does.
"""

from __future__ import annotations

import contextlib
import io
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ncpl_cli import main
from ncpl_cli.errors import RunFailed

DRAWS = int(os.environ.get("NCPL_DRAWS", "40"))

VALUES = st.sampled_from([
    "", " ", "0", "1", "2", "-1", "1.5", "0.5", "nan", "inf", "1e400", "99999999999999999999", "١", "²", "1_0", "0-2",
    "1,2", "2x3", "a", "all", "last", "auto", "cpu", "nc1", "nc1@test", "nc1:strength=0.1", "l2", "lr=0.1,0.2", "a=l2",
    "lr", "=", ":", ",", "@", "x" * 500, "\x1b[31m", "é", "\ud800", "[/x]", "%", "_", "'", '"', "--", "-", ".", "..",
    "/dev/null", "s.db", "i.csv", "none.csv", "f.toml", "digits", "mlp", "os:path", "json:dumps", "base", "r0", "r1",
    "permuted-digits", "csv", "md", "html", "o.md", "o.csv", "pearson", "runs", "tasks", "epochs", "train", "test",
])  # fmt: skip


def grammar() -> dict[tuple[str, ...], list[Any]]:
    """The parameters of every command, by the words that call it."""
    found: dict[tuple[str, ...], list[Any]] = {}
    root: Any = typer.main.get_command(main.app)

    def walk(words: tuple[str, ...], command: Any, context: Any) -> None:
        if not hasattr(command, "list_commands"):
            found[words] = [one for one in command.params if not getattr(one, "hidden", False)]
            return
        with command.make_context(words[-1] if words else "ncpl", [], parent=context, resilient_parsing=True) as inner:
            for name in command.list_commands(inner):
                walk((*words, name), command.get_command(inner, name), inner)

    walk((), root, None)
    return found


GRAMMAR = grammar()


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    words = draw(st.sampled_from(sorted(GRAMMAR)))
    line = list(words)
    parameters = GRAMMAR[words]
    chosen = draw(st.lists(st.sampled_from(parameters), max_size=5, unique_by=id)) if parameters else []
    for parameter in chosen:
        if parameter.param_type_name == "argument":
            line.append(draw(VALUES))
        elif getattr(parameter, "is_flag", False):
            line.append(draw(st.sampled_from(parameter.opts)))
        else:
            line.append(f"{draw(st.sampled_from(parameter.opts))}={draw(VALUES)}")
    if not any(word.startswith("--db=") for word in line) and words[0] != "catalog":
        line += draw(st.sampled_from([[], ["--db", "s.db"]]))
    return line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def at_the_door(*_: object, **__: object) -> None:
        raise RunFailed("nothing is trained here.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ncpl_cli.runs.run", at_the_door)
    monkeypatch.setattr("ncpl_cli.runs.probe", at_the_door, raising=False)
    monkeypatch.setattr("ncpl_cli.sweep.run_sweep", at_the_door)
    monkeypatch.setattr("ncpl_cli.estimate.dry_run", at_the_door)
    monkeypatch.setattr("ncpl_cli.report.theme.drawn", at_the_door)
    if find_spec("starlette"):
        monkeypatch.setattr("ncpl_cli.serving.run", at_the_door)
    rows = "".join(f"r{r},{r},{e},{e * r + 1}\n" for r in range(2) for e in range(1, 6))
    (tmp_path / "i.csv").write_text("run,seed,epoch,nc1\n" + rows)
    (tmp_path / "f.toml").write_text('scenario = "permuted-digits"\n')
    assert main.call(["import", "i.csv", "--scenario", "warm-start", "--name", "base", "--db", "s.db"]) == 0
    return tmp_path


def test_the_grammar_is_the_whole_of_it() -> None:
    assert len(GRAMMAR) > 25 and sum(map(len, GRAMMAR.values())) > 250


def test_no_line_ends_unexpectedly(here: Path) -> None:
    environment = dict(os.environ)

    @settings(max_examples=DRAWS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(lines())
    def draw(line: list[str]) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.call(line)
        os.environ.clear()
        os.environ.update(environment)
        said = err.getvalue()
        assert "Traceback" not in said and "unexpectedly" not in said, (line, said)
        assert code in (0, 1, 2, 3, 4, 75, 130), (line, code)
        assert code == 0 or "error: " in said, (line, code, said)
        assert code != 2 or not out.getvalue(), (line, out.getvalue()[:200])

    draw()
