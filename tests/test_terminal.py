"""What a terminal, a pipe, a full disk and a signal do to a command: never half a result, never a stopped training."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ncpl_cli.commands import _common
from ncpl_cli.store import open_store
from ncpl_cli.store.schema import HEAD
from ncpl_cli.streams import printable, visible
from tests.forked import go, listing
from tests.test_reading import FROZEN

SMALL = ["train", "permuted-digits", "--train-samples", "100", "--width", "8", "--depth", "1", "--db", "a.db"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    rows = "".join(f"r{r},{r},{e},{e * r + 1}\n" for r in range(20) for e in range(1, 6))
    (folder / "i.csv").write_text("run,seed,epoch,nc1\n" + rows)
    return folder


def imported(here: Path, label: str = "base") -> None:
    assert go("import", "i.csv", "--scenario", "warm-start", "--name", label, "--db", "s.db", cwd=here).code == 0


# streams -------------------------------------------------------------------------------------------------------------


def test_a_full_stderr_stops_no_training(here: Path) -> None:
    done = go(*SMALL, "--tasks", "2", cwd=here, into={2: "/dev/full"})
    assert done.code == 0 and "finished" in done.out


def no_reader() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    os.dup2(writes, 1)
    os.dup2(writes, 2)


def test_readers_that_are_gone_stop_no_training(here: Path) -> None:
    assert go(*SMALL, "--tasks", "2", cwd=here, before=no_reader).code == 0
    with open_store(here / "a.db") as store:
        assert [row.status for row in store.runs()] == ["finished"]


@pytest.mark.parametrize("line", ["export --db s.db", "runs list --db s.db --json", "catalog", "--help", "--version"])
def test_a_reader_that_has_enough_ends_a_command_silently(line: str, here: Path) -> None:
    imported(here)
    assert go(*line.split(), cwd=here, before=no_reader).code == 0


@pytest.mark.parametrize("line", ["export --db s.db", "runs list --db s.db", "catalog", "--version"])
def test_a_full_device_is_an_error(line: str, here: Path) -> None:
    imported(here)
    done = go(*line.split(), cwd=here, into={1: "/dev/full"})
    assert (done.code, len(done.errors)) in ((1, 2), (4, 2)) and "cannot be written" in done.err


@pytest.mark.parametrize("closed", [(2,), (0,), (0, 2)])
def test_closed_descriptors_change_no_result(closed: tuple[int, ...], here: Path) -> None:
    imported(here)
    done = go("runs", "list", "--json", "--db", "s.db", cwd=here, closed=closed)
    assert done.code == 0 and len(json.loads(done.out)["runs"]) == 20


def test_no_file_takes_the_place_of_a_closed_descriptor(here: Path) -> None:
    assert go(*SMALL, "--tasks", "1", cwd=here, closed=(0, 1, 2)).code == 0
    assert (here / "a.db").read_bytes().startswith(b"SQLite format 3")


# signals -------------------------------------------------------------------------------------------------------------


class LastWords:
    """Sends a signal while it dies: Python forgets exceptions that are raised there."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


class AtStatement:
    """Sends signals to the process when the store executes its nth statement."""

    def __init__(self, number: int, nth: int, *, times: int = 1, lost: bool = False) -> None:
        self.number, self.nth, self.times, self.lost = number, nth, times, lost

    def __call__(self) -> None:
        from sqlalchemy.engine import Connection

        whole: Callable[..., object] = Connection.execute
        count = 0

        def execute(connection: Connection, *given: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count == self.nth:
                if self.lost:
                    LastWords(self.number)
                else:
                    for _ in range(self.times):
                        os.kill(os.getpid(), self.number)
            return whole(connection, *given, **named)

        Connection.execute = execute  # type: ignore[assignment, method-assign]


LINES = {
    "import i.csv --scenario warm-start --name new --db s.db": 3,
    "db merge t.db --db s.db": 4,
    "runs delete r3 --yes --db s.db": 3,
    "sweep permuted-digits --tasks 1 --seeds 0-3 --jobs 1 --db s.db": 3,
    "export --db s.db -o e.csv": 1,
    "correlate --db s.db --x nc1 --y nc1@test": 1,
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    ("how", "number"),
    [("once", signal.SIGINT), ("once", signal.SIGTERM), ("once", signal.SIGUSR1), ("twice", signal.SIGINT),
     ("twice", signal.SIGTERM), ("lost", signal.SIGINT)],
)  # fmt: skip
def test_a_signal_ends_every_command_in_one_sentence(line: str, number: int, how: str, here: Path) -> None:
    imported(here)
    (here / "t.db").write_bytes((here / "s.db").read_bytes())
    stored, files = rows_of(here / "s.db"), set(listing(here))
    strike = AtStatement(number, LINES[line], times=1 + (how == "twice"), lost=how == "lost")
    done = go(*line.split(), cwd=here, before=strike)
    if how == "lost" and done.code == 0:
        return  # the command was done before the signal came again
    assert done.code == CODES[signal.Signals(number)], (done.code, done.err)
    assert len(done.errors) == 2 and f"stopped by {signal.Signals(number).name}" in done.errors[0], done.err
    left = rows_of(here / "s.db")
    registered = {("sweep", 4), ("import", 0), ("runs", -1)}  # all of it or nothing
    assert left == stored or (how == "lost" and (line.split()[0], len(left) - len(stored)) in registered)
    assert set(listing(here)) <= files


@pytest.mark.parametrize("nth", [2, 8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("older", [True, False])
def test_a_store_is_made_or_upgraded_whole_or_not_at_all(older: bool, number: int, nth: int, here: Path) -> None:
    if older:
        with contextlib.closing(sqlite3.connect(here / "s.db")) as file:
            file.executescript(FROZEN.read_text())
    before = set(listing(here))
    line = ["db", "upgrade"] if older else ["import", "i.csv", "--scenario", "warm-start", "--name", "base"]
    done = go(*line, "--db", "s.db", cwd=here, before=AtStatement(number, nth))
    assert done.code == CODES.get(signal.Signals(number), -number), done.err
    if number != signal.SIGKILL:
        assert set(listing(here)) - before <= {"s.db.backup-0001"}
    assert go(*line, "--db", "s.db", cwd=here).code == 0
    with open_store(here / "s.db", readonly=True) as store:
        assert (store.revision, len(store.runs())) == (HEAD, 1 if older else 20)


class WhileItIsSaid:
    """Sends a signal while a command says what was wrong, as one that was lost and comes again may."""

    def __init__(self, place: str, number: int) -> None:
        self.place, self.number = place, number

    def __call__(self) -> None:
        from ncpl_cli import main

        whole: Callable[..., object] = getattr(main, self.place)

        def interrupted(*given: object) -> object:
            os.kill(os.getpid(), self.number)
            return whole(*given)

        setattr(main, self.place, interrupted)


@pytest.mark.parametrize("place", ["_sentence", "_say", "wrapped"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_arrives_while_an_error_is_said_cuts_nothing_off(place: str, number: int, here: Path) -> None:
    imported(here)
    alone = go("runs", "show", "none", "--db", "s.db", cwd=here)
    assert len(alone.errors) == 2 and alone.code == 2
    done = go("runs", "show", "none", "--db", "s.db", cwd=here, before=WhileItIsSaid(place, number))
    assert (done.code, done.err) == (alone.code, alone.err)


def rows_of(db: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(db) as connection:
        found = connection.execute("select id, status from runs order by id").fetchall()
        found += connection.execute("select count(*) from epochs").fetchall()
    connection.close()
    return found


class AtEpoch:
    """Sends signals when the nth epoch is saved; each is saved by itself, however short, so that others are to come."""

    def __init__(self, number: int, nth: int, times: int) -> None:
        self.number, self.nth, self.times = number, nth, times

    def __call__(self) -> None:
        from ncpl_cli.runs import batch
        from ncpl_cli.store import Store

        batch.SHORT_SECONDS = 0.0
        whole: Callable[..., object] = Store.save
        count = 0

        def save(store: Store, *given: object, **named: object) -> object:
            nonlocal count
            found, count = whole(store, *given, **named), count + 1
            if count == self.nth:
                for _ in range(self.times):
                    os.kill(os.getpid(), self.number)
            return found

        Store.save = save  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", CODES, ids=lambda n: signal.Signals(n).name)
def test_training_stops_after_its_epoch_and_goes_on(number: int, times: int, here: Path) -> None:
    done = go(*SMALL, "--tasks", "80", cwd=here, before=AtEpoch(number, 2, times))
    assert done.code == CODES[signal.Signals(number)] and "everything up to the last epoch is saved" in done.errors[0]
    assert not [name for name in listing(here) if name.endswith(".tmp")]
    again = go(*SMALL, "--tasks", "80", cwd=here)
    assert again.code == 0 and "goes on after epoch" in again.err


def test_figures_are_there_when_all_are(here: Path) -> None:
    imported(here)
    before = set(listing(here))
    done = go("report", "--db", "s.db", "-o", "r.html", "--figures", "figures", cwd=here, before=second_figure)
    assert done.code == 75 and set(listing(here)) == before, done.err


def second_figure() -> None:
    from ncpl_cli.report import theme

    whole, count = theme.save, 0

    def save(*given: object) -> None:
        nonlocal count
        whole(*given)  # type: ignore[arg-type]
        count += 1
        if count == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    theme.save = save


# labels --------------------------------------------------------------------------------------------------------------

HOSTILE = "\x1b]0;pwn\x07\x1b[2J[/x][red]\u202e\x9b\r\ta"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_labels_are_shown_and_never_obeyed(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    written = stream()
    monkeypatch.setattr("sys.stdout", written)
    _common.print_table(("name", HOSTILE), [[HOSTILE, 1.0]], title=HOSTILE)
    _common.out(HOSTILE)
    _common.say(HOSTILE)
    _common.print_json({HOSTILE: HOSTILE})
    found = written.getvalue()
    assert not set(re.sub("\x1b\\[[0-9;]*m", "", found)) & set("\x1b\x07\u202e\x9b\r")
    assert "[/x]" in found and json.loads(found.splitlines()[-1]) == {HOSTILE: HOSTILE}


def test_what_is_visible() -> None:
    assert (
        visible("a\tb\n\x1b\u202e\udc80") == r"a\tb\n\x1b\u202e\udc80" and printable("a\tb\n\r\x00") == "a\tb\n\\r\\x00"
    )


def test_a_report_of_hostile_labels(here: Path) -> None:
    (here / "i.csv").write_text(
        "run,seed,epoch,task,nc1,plasticity_loss,\x1b[31mz\n"
        + "".join(f"r{s},{s},{e},{e - 1},{1 / e + s / 10},{e / 10},{e}\n" for s in range(2) for e in range(1, 6))
    )
    scenario = "\x1b[31mred\x07 $x$ <b>"
    assert go("import", "i.csv", "--scenario", scenario, "--name", "[/x]", "--db", "s.db", cwd=here).code == 0
    done = go("report", "--db", "s.db", "-o", "r.html", cwd=here)
    text = (here / "r.html").read_text(encoding="utf-8")
    assert done.code == 0 and not set(text) & set("\x1b\x07") and r"\x1b[31mred" in text


def test_commands_print_by_one_place() -> None:
    for path in Path(_common.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                assert path.name == "_common.py", f"{path.name}:{node.lineno} prints by itself: _common.out"


class AtLeaving:
    """Sends a signal in the moment after the file of turns was made, or when the last connection has ended."""

    def __init__(self, number: int, place: str) -> None:
        self.number, self.place = number, place

    def __call__(self) -> None:
        import sqlalchemy as sa

        whole: Callable[..., object] = os.open if self.place == "turn" else sa.engine.Engine.dispose

        def struck(*given: object, **named: object) -> object:
            result = whole(*given, **named)
            if self.place == "dispose" or str(given[0]).endswith("-turn"):
                os.kill(os.getpid(), self.number)
            return result

        if self.place == "turn":
            os.open = struck  # type: ignore[assignment]
        else:
            sa.engine.Engine.dispose = struck  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["turn", "dispose"])
def test_a_signal_while_a_store_is_left_leaves_no_file(place: str, number: int, here: Path) -> None:
    imported(here)
    files = listing(here)
    done = go("runs", "delete", "r3", "--yes", "--db", "s.db", cwd=here, before=AtLeaving(number, place))
    assert done.code == CODES[signal.Signals(number)] and f"stopped by {signal.Signals(number).name}" in done.err
    assert set(listing(here)) == set(files)  # the deletion may have been done
