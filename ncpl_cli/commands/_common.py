"""What commands share: options with their environment variables, lists, JSON, tables."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncpl_cli.commands._table import laid_out
from ncpl_cli.errors import StoreError
from ncpl_cli.streams import CONTROL, visible, wrapped

if TYPE_CHECKING:
    from ncpl_cli.data import Dataset
    from ncpl_cli.estimate import Known
    from ncpl_cli.spec import DatasetSpec

Db = Annotated[
    str | None, typer.Option("--db", help="Store: a path or an SQLAlchemy URL; default ncpl.db.", envvar="NCPL_DB")
]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Where data sets lie; default the cache.", envvar="NCPL_DATA_DIR")
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", envvar="NCPL_DEVICE", show_default=True)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, how long, how large.")]
Plan = Annotated[
    str | None, typer.Option(help="TOML of questions, fixed before the first run; reports tell planned from found.")
]
Gap = Annotated[
    float | None, typer.Option(min=1e-9, help="With --dry-run: also how many seeds show a gap of this size.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


STATUSES = ("finished", "failed", "diverged", "running", "interrupted", "pending")
"""What a run can be."""

PROGRESS_SECONDS = 2.0


def store_url(db: str | None) -> str:
    """Where results go: --db, else NCPL_DB, else ncpl.db in the current directory."""
    url = db if db is not None else os.environ.get("NCPL_DB") or "ncpl.db"
    if url in (":memory:", "sqlite://", "sqlite:///", "sqlite:///:memory:"):
        raise StoreError(f"a store in memory ({url}) ends with the command.", "name a file with --db")
    return url


@contextlib.contextmanager
def known_epochs(url: str) -> Iterator[Known | None]:
    """What epochs took before, as the store has it (estimate.Known); None where there is none that can be read."""
    from ncpl_cli import estimate
    from ncpl_cli.errors import NcplError

    if "://" not in url and not Path(url).exists():
        yield None
        return
    from ncpl_cli.store import open_store

    with contextlib.ExitStack() as stack:
        try:
            store = stack.enter_context(open_store(url, readonly=True))
            found: Known | None = estimate.known_to(store)
        except NcplError:  # a dry run needs no store: whoever trains hears of it
            found = None
        yield found


def load_data(dataset: DatasetSpec, data_dir: Path | None) -> Dataset:
    """The data set, with a note for all that was taken otherwise than it was given."""
    from ncpl_cli import data as data_room

    data = data_room.load(dataset, data_dir)
    for text in data.notes:
        note(f"note: {dataset.name}: {text}")
    return data


def data_path(data_dir: str | None) -> Path | None:
    """--data-dir as a path."""
    return Path(data_dir).expanduser() if data_dir else None


def quiet() -> bool:
    """Whether progress and notes are to be kept back."""
    return bool(os.environ.get("NCPL_QUIET"))


def note(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    if not quiet():
        aside(text)


def aside(text: str) -> None:
    """A line on stderr, whatever a label in it would do to a terminal."""
    print(wrapped(visible(text), sys.stderr), file=sys.stderr)


def out(text: str = "") -> None:
    """A line of the result on stdout, whatever a label in it would do to a terminal. Commands print by this alone."""
    print(visible(text))


class NowAndThen:
    """A line on stderr every few seconds, so that long work shows that it goes on; none of work that is short."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last = time.monotonic()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._last >= PROGRESS_SECONDS:
            self._last = time.monotonic()
            note(f"{self._what}: {text}")


def say(text: str, mark: str = "") -> None:
    """A sentence of the result on stdout: wrapped on a terminal, one line in a pipe."""
    for line in wrapped(visible(text), sys.stdout, mark).splitlines():
        out(line)


def print_json(document: Any) -> None:
    """Print one JSON document; undefined numbers are null."""
    text = json.dumps(_plain(document), ensure_ascii=False, allow_nan=False)
    print(CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))  # json escapes of these only C0


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None, *, least: Collection[str] = ()
) -> None:
    """A table for a terminal; tab-separated with full precision where stdout is something else.

    least  columns that a narrow terminal goes without, the last one first
    """
    if not sys.stdout.isatty():
        if title:
            out(f"# {title}")
        lines = ("\t".join("" if cell is None else visible(str(cell)) for cell in row) for row in (columns, *rows))
        print("\n".join(lines))  # at once: a line costs more to write than to make
        return
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR"))  # by itself Rich would leave out colours only, not bold and italics
    console = Console(color_system=None if plain else "auto", markup=False, emoji=False, highlight=False)
    names = [visible(name) for name in columns]
    console.print(laid_out(names, list(rows), title and visible(title), console.width, least))
