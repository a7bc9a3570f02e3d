"""Whose directory of checkpoints is whose: two stores never share one.

<stem>.checkpoints        of the store that had the stem first; a store and it may be copied together to another stem
<file name>.checkpoints   of any further store with that stem, and of a copy that lies beside its original
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from pathlib import Path

from ncpl_cli.errors import StoreError
from ncpl_cli.store.schema import APPLICATION_ID

_COMPANIONS = ("-wal", "-shm", "-journal", "-turn")


def birth_mark(path: Path) -> int:
    """What a store keeps as SQLite's user_version: the suffix it was made with, by which a copy beside it is told."""
    return zlib.crc32(path.suffix.encode()) & 0x7FFFFFFF


def folder_of(path: Path) -> Path:
    """The directory of a store's checkpoints."""
    own, shared = _folders(path)
    if path.is_symlink() and not own.is_dir() and not shared.is_dir():  # another name of a store that has a folder
        return folder_of(path.resolve())
    if own == shared or own.is_dir():
        return own
    first = min([path, *_rivals(path)], key=lambda store: _rank(store, shared))
    return shared if first == path else own


def keep_apart(path: Path) -> None:
    """Give a store that is made anew a folder of its own where another store has the stem already."""
    own, shared = _folders(path)
    if not (rivals := _rivals(path)):
        return
    if own == shared:
        raise StoreError(
            f"{path} would share its checkpoints with {rivals[0].name}.", f"give it a suffix: {path.name}.db"
        )
    own.mkdir(exist_ok=True)


def _folders(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.checkpoints"), path.with_name(f"{path.stem}.checkpoints")


def _rivals(path: Path) -> list[Path]:
    """Other stores to which the folder of the stem could belong."""
    shared = _folders(path)[1]
    beside = [other for other in path.parent.iterdir() if other.name != path.name and shared in _folders(other)]
    beside = [other for other in beside if not other.name.endswith(_COMPANIONS)]
    return [other for other in beside if not _has_own(other, shared) and _header(other) is not None]


def _has_own(path: Path, shared: Path) -> bool:
    own = _folders(path)[0]
    return own != shared and own.is_dir()


def _rank(path: Path, shared: Path) -> tuple[bool, bool, bool, str]:
    """Which store of a stem comes first: one called just so, one that is no copy, a .db, the first by name."""
    return _folders(path)[0] != shared, _header(path) != birth_mark(path), path.suffix != ".db", path.name


def _header(path: Path) -> int | None:
    """The birth mark that a store's file bears; None for what is no store.

    SQLite reads it, not we: a process that closes a file loses all its locks on it, also those that SQLite has on a
    store which is open here.
    """
    if not path.is_file():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as file:
            (application,) = file.execute("PRAGMA application_id").fetchone()
            (mark,) = file.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error:
        return None
    return int(mark) if application == APPLICATION_ID else None
