"""An SQLite file: where it may lie, how it is opened for writing, and how without changing anything.

A reader finds the store in one of four states:

-wal with contents, -shm there    somebody writes, or was killed doing so: read beside them, and leave both files
-wal with contents, no -shm       a copy of the two: read a private copy of them, since reading would make a -shm
no -wal, a medium that is written  SQLite's own locks, whose files the last reader takes away again
no -wal, a read-only medium       immutable: no locks, no files
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import StoreError
from ncpl_cli.store.schema import VERSION_TABLE
from ncpl_cli.store.turns import Turns

NOTE_AFTER = 5.0
"""Seconds of waiting after which it is said."""

NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs", "beegfs", "9p", "afs",
                        "ceph", "fuse.ceph", "glusterfs", "fuse.glusterfs", "ocfs2", "gfs2"}  # fmt: skip


def parsed_url(url: str) -> sa.URL:
    """An SQLAlchemy URL; raises StoreError for one that cannot be read, without showing it: a password may be in it."""
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError, TypeError):
        raise StoreError(
            f"the store's URL ({url.partition('://')[0]}://...) cannot be read.",
            "write a file's path, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        ) from None


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite store, None for another database or a store in memory."""
    if "://" not in url:
        return None if url == ":memory:" else Path(url)
    parsed = parsed_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


class StoreFile:
    """The file behind a store, and connections to it."""

    def __init__(self, path: Path, *, readonly: bool, timeout: float = 30.0) -> None:
        refuse_network(path)
        self.path, self.readonly, self.timeout = path.absolute(), readonly, timeout
        self.made = not readonly and not path.exists()
        self.turns = Turns(self.path)
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._identity: tuple[int, int] | None = None
        self._frozen: tuple[int, ...] | None = None

    def open(self) -> sqlite3.Connection:
        """A further connection."""
        if not self.readonly:
            return self._open_to_write()
        wal, shm = (self.path.with_name(self.path.name + end) for end in ("-wal", "-shm"))
        if self._copy is not None or (_size(wal) and not shm.exists()):
            return self._connect(self._copied(wal), "mode=rw", query_only=True)
        if _size(wal):
            return self._connect(self.path, "mode=ro")
        if os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK):
            return self._connect(self.path, "mode=rw", query_only=True)
        self._frozen = self._frozen or self._state()
        return self._connect(self.path, "mode=ro&immutable=1")

    def _open_to_write(self) -> sqlite3.Connection:
        if self._identity is not None:
            self.still_there()
        connection = self._connect(self.path, "mode=rwc" if self._identity is None else "mode=rw")
        connection.execute("PRAGMA schema_version")  # so that the file is made now, if it is made
        self._identity = self._identity or _identity(self.path)
        return connection

    def begin(self, connection: sqlite3.Connection) -> None:
        """Begin to write. However long another program holds the store, wait, say so on stderr, and go on."""
        waiting = None
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                waiting = waiting or Waiting(f"the store {self.path}")
                waiting.on()

    def still_there(self) -> None:
        """Raise StoreError where the file is no longer the one that was opened: it was deleted or replaced."""
        if self._identity is not None and _identity(self.path) != self._identity:
            raise StoreError(
                f"the store {self.path} was deleted or replaced while it was in use.",
                "nothing was written to what lies there now; put the store back, then the same command goes on",
            )

    def logs_still_there(self, seen: dict[str, Any]) -> None:
        """Raise StoreError where -wal or -shm is no longer the one that a connection has open (`seen`: its memory).

        SQLite takes them away with the last connection only. A process that comes after somebody else did makes new
        ones, and the two would write past each other's locks.
        """
        now = tuple(_identity(self.path.with_name(self.path.name + end)) for end in ("-wal", "-shm"))
        if (before := seen.get("ncpl_logs")) is None:
            seen |= {} if None in now else {"ncpl_logs": now}
        elif now != before:
            gone = " and ".join(end for end, a, b in zip(("-wal", "-shm"), before, now, strict=True) if a != b)
            raise StoreError(
                f"{gone} of the store {self.path} was deleted or replaced while it was in use.",
                "what was saved before is written to the store as this ends; then the same command goes on, "
                "and ncpl db check looks at the store",
            )

    def take_back(self) -> None:
        """Remove a file that this process made, where it holds no row and no other process has it open."""
        if not self.made:
            return
        with contextlib.suppress(sqlite3.Error, OSError):
            self.still_there()
            with contextlib.closing(self._connect(self.path, "mode=rw")) as connection:
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("PRAGMA journal_mode = DELETE")  # refused while another has it open
                connection.execute("BEGIN EXCLUSIVE")
                tables = connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND name != ?", (VERSION_TABLE,)
                )
                if not any(
                    connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone() for (name,) in tables.fetchall()
                ):
                    self.path.unlink()
                    with contextlib.suppress(OSError):
                        self.path.with_name(f"{self.path.name}.checkpoints").rmdir()  # made with it, where it is empty
                else:
                    connection.execute("ROLLBACK")
                    connection.execute("PRAGMA journal_mode = WAL")

    def close(self) -> None:
        """Leave nothing behind; it can be opened again."""
        self.turns.close()
        if self._copy is not None:
            self._copy.cleanup()
        self._copy = None

    def still_the_same(self) -> None:
        """Raise StoreError where a file that was read without locks has changed meanwhile."""
        if self._frozen is not None and self._frozen != self._state():
            raise StoreError(f"the store {self.path} was changed while it was read.", "run the same command again")

    def _state(self) -> tuple[int, ...]:
        found = self.path.stat()
        wal = self.path.with_name(self.path.name + "-wal")
        return found.st_ino, found.st_size, found.st_mtime_ns, _size(wal)

    def _connect(self, path: Path, options: str, *, query_only: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{path.as_uri()}?{options}", uri=True, timeout=self.timeout, isolation_level=None, check_same_thread=False
        )
        if query_only:
            connection.execute("PRAGMA query_only = ON")
        return connection

    def _copied(self, wal: Path) -> Path:
        if self._copy is None:
            self._copy = tempfile.TemporaryDirectory(prefix="ncpl-")
            for path in (self.path, wal):
                shutil.copyfile(path, Path(self._copy.name) / path.name)
        return Path(self._copy.name) / self.path.name


class Waiting:
    """Waiting for what others hold: short naps first, a note after a while and every minute from then on."""

    def __init__(self, what: str) -> None:
        self._what, self._since, self._nap = what, time.monotonic(), 0.0005
        self._next_note = NOTE_AFTER

    def on(self) -> None:
        """Wait a little longer."""
        time.sleep(self._nap)
        self._nap = min(0.05, 1.5 * self._nap)
        waited = time.monotonic() - self._since
        if waited > self._next_note:
            self._next_note += 60
            with contextlib.suppress(OSError, ValueError):  # a closed stderr stops nothing
                print(f"waiting for {self._what}, which another program has locked ({waited:.0f} s).", file=sys.stderr)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def refuse_network(path: Path) -> None:
    """SQLite's locks do not hold on network file systems: refuse them."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    place = path.absolute().parent
    best, kind = "", ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        mount = left.split()[4].encode().decode("unicode_escape")
        if place.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"{path} lies on a network file system ({kind}), where SQLite cannot lock.",
            "put the store on a local disk, or use PostgreSQL (--db postgresql://...)",
        )
