"""Everything that depends on which database it is: how to connect, how to begin, and what its errors mean."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError

from ncpl_cli.errors import InputError, StoreError

NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs", "beegfs", "9p", "afs",
                        "ceph", "fuse.ceph", "glusterfs", "fuse.glusterfs", "ocfs2", "gfs2"}  # fmt: skip


ADVISORY_LOCK = 0x6E63706C
"""`ncpl` in ASCII, so that no other program takes the same lock by chance."""


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite store, None for another database or a store in memory."""
    if "://" not in url:
        return None if url == ":memory:" else Path(url)
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


def connect(url: str, *, readonly: bool = False, timeout: float = 30.0) -> sa.Engine:
    """An engine for a path or an SQLAlchemy URL; raises InputError for a URL nobody understands."""
    path = sqlite_path(url)
    if path is None and url != ":memory:" and not url.startswith("sqlite"):
        try:
            parsed = sa.make_url(url)
            if parsed.drivername in ("postgresql", "postgres"):
                parsed = parsed.set(drivername="postgresql+psycopg")
            return sa.create_engine(parsed, pool_pre_ping=True)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
            why = f"{shown(url)!r} is no store: {error}."
            raise InputError(why, "--db wants a file or an SQLAlchemy URL") from error
        except ModuleNotFoundError as error:
            raise InputError(f"{shown(url)} needs {error.name}.", "pip install 'ncpl[postgres]'") from error
    if path is not None:
        refuse_network(path)

    def open_file() -> sqlite3.Connection:
        if path is None:
            return sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None, timeout=timeout)
        mode = "ro" if readonly else "rwc"
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=timeout, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip

    pool = sa.pool.StaticPool if path is None else sa.pool.QueuePool
    engine = sa.create_engine("sqlite://", creator=open_file, poolclass=pool)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        if not readonly:
            connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # a deferred BEGIN that reads and then writes fails at once when another writer came between,
        # whatever the timeout; IMMEDIATE waits its turn
        reader = readonly or connection.get_execution_options().get("ncpl_reader")
        connection.exec_driver_sql("BEGIN" if reader else "BEGIN IMMEDIATE")

    return engine


def shown(url: str) -> str:
    """A store's URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def one_at_a_time(connection: sa.Connection) -> None:
    """Let no other transaction that asks for the same go on until this one ends: SQLite has one writer as it is."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")


def insert_new(
    connection: sa.Connection, table: sa.Table, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows unless they are there: the dialects' own upsert, so that two writers cannot collide."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    if rows:
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def plain_rows(connection: sa.Connection, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
    """A query's rows as the driver gives them: for millions of numbers, where SQLAlchemy's rows take half the time."""
    with contextlib.closing(connection.execute(query)) as result:
        cursor: Any = result.cursor
        return list(cursor.fetchall())


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


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn the database's errors into StoreErrors: the one place where that happens."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        raise translate(url, error) from error


def translate(url: str, error: Exception) -> StoreError:
    """The sentence and the hint for a database's error."""
    original = error.orig if isinstance(error, DBAPIError) else error
    text = str(original).strip()
    path, url = sqlite_path(url), shown(url)
    if "database is locked" in text:
        return StoreError(f"the store {url} is locked by another program.", "try again when it is done")
    if "disk is full" in text:
        return StoreError(
            f"the disk that holds {url} is full; nothing half-written is left.",
            "free some space; the same command then goes on where it stopped",
        )
    if "readonly" in text or "read-only" in text:
        return StoreError(
            f"the store {url} cannot be written (read-only).", "mend its permissions or name another --db"
        )
    if "not a database" in text:
        return StoreError(f"{url} is not an SQLite database.", "name another file with --db")
    if "malformed" in text or "corrupt" in text:
        return StoreError(
            f"the store {url} is corrupt ({text}).", f"ncpl db check --db {url} says where; restore a copy"
        )
    if "unable to open" in text and path is not None:
        if not path.parent.is_dir():
            return StoreError(f"the directory {path.parent} for the store does not exist.", f"mkdir -p {path.parent}")
        return StoreError(f"the store {url} cannot be opened: permission denied.", "mend its permissions")
    if isinstance(error, OperationalError) and path is None:
        return StoreError(f"the database {url.split('@')[-1]} cannot be reached ({text.splitlines()[0]}).")
    return StoreError(f"the store {url} cannot be used ({text}).", f"ncpl db check --db {url}")
