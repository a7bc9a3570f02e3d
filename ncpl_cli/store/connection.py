"""Everything that depends on which database it is: how to connect, how to begin, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError

from ncpl_cli.errors import InputError, StoreError, without_passwords
from ncpl_cli.store.sqlite_file import StoreFile, parsed_url, sqlite_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ADVISORY_LOCK = 0x6E63706C
"""`ncpl` in ASCII, so that no other program takes the same lock by chance."""


BUSY_MILLISECONDS = 30_000
"""How long a reader waits for one who has locked the whole store."""


def connect(url: str, file: StoreFile | None = None, *, readonly: bool = False) -> sa.Engine:
    """An engine for an SQLite file or an SQLAlchemy URL; raises InputError for a URL nobody understands."""
    if file is None and url != ":memory:" and not url.startswith("sqlite"):
        return _server(url, readonly=readonly)

    def open_file() -> sqlite3.Connection:
        if file is None:
            return sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        return file.open()

    pool = sa.pool.StaticPool if file is None else sa.pool.QueuePool
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
        raw = cast(sqlite3.Connection, connection.connection.driver_connection)
        waits = 0 if file is not None and not reader else BUSY_MILLISECONDS  # who writes waits as StoreFile.begin does
        if connection.info.get("waits") != waits:
            raw.execute(f"PRAGMA busy_timeout = {waits}")
            connection.info["waits"] = waits
        if waits or file is None:
            connection.exec_driver_sql("BEGIN")
        else:
            file.begin(raw)

    return engine


def _server(url: str, *, readonly: bool) -> sa.Engine:
    try:
        parsed = parsed_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        return sa.create_engine(
            parsed, pool_pre_ping=True, execution_options={"postgresql_readonly": True} if readonly else {}
        )
    except ModuleNotFoundError as error:
        raise InputError(f"{shown(url)} needs {error.name}.", "pip install 'ncpl[postgres]'") from error
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        why = f"{shown(url)!r} is no store: {str(error).rstrip('.')}."
        raise StoreError(why, "--db wants a file or an SQLAlchemy URL") from error


def shown(url: str) -> str:
    """A store's URL without its password."""
    return without_passwords(url)


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


def plain_array(connection: sa.Connection, query: sa.Select[Any]) -> NDArray[np.float64]:
    """A query's numbers (rows, columns), NaN for NULL, as the driver gives them: SQLAlchemy's rows take half the time.

    Read in pieces: as Python's objects, millions of rows take ten times the memory.
    """
    import numpy as np

    width = len(query.selected_columns)
    with contextlib.closing(connection.execute(query)) as result:
        cursor: Any = result.cursor
        pieces = [np.empty((0, width))]
        while rows := cursor.fetchmany(20_000):
            pieces.append(np.array(rows, dtype=np.float64))
    return np.concatenate(pieces)


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
    text = without_passwords(str(original).strip())
    path, url = sqlite_path(url), shown(url)
    if "database is locked" in text:
        return StoreError(f"the store {url} is locked by another program.", "try again when it is done")
    if "disk is full" in text:
        return StoreError(
            f"the disk that holds {url} is full; nothing half-written is left.",
            "free some space; the same command then goes on where it stopped",
        )
    unwritable = path is not None and path.is_file() and not os.access(path.absolute().parent, os.W_OK)
    if "readonly" in text or "read-only" in text or ("unable to open" in text and unwritable):
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
