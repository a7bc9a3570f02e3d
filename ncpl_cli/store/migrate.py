"""The only birth of a schema: Alembic's migrations, inside one transaction, with a backup before an upgrade."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import StoreError
from ncpl_cli.store.checkpoint_folder import birth_mark, keep_apart
from ncpl_cli.store.connection import one_at_a_time, shown
from ncpl_cli.store.schema import APPLICATION_ID, HEAD, VERSION_TABLE
from ncpl_cli.store.sqlite_file import StoreFile
from ncpl_cli.store.views import make_views


def folder() -> Path:
    """Where the migrations lie: inside the wheel, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "_migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def revision(connection: sa.Connection) -> str | None:
    """The revision a database is at; None for an empty one. Raises StoreError when it is not ncpl's."""
    names = set(sa.inspect(connection).get_table_names())
    if VERSION_TABLE in names:
        found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
        return str(found) if found else None
    if names:
        raise StoreError(
            f"the database is not an ncpl store: it has other tables ({', '.join(sorted(names)[:3])}).",
            "name another file with --db",
        )
    return None


def known_revisions() -> list[str]:
    """Every revision this ncpl knows, oldest first, without importing Alembic."""
    return sorted(path.name[:4] for path in (folder() / "versions").glob("[0-9]*.py"))


def older(url: str, revision: str) -> StoreError:
    """The error for a store whose schema lacks what is asked for."""
    return StoreError(f"the store {shown(url)} has the older schema {revision}.", f"ncpl db upgrade --db {shown(url)}")


def ensure_readable(engine: sa.Engine, url: str) -> str:
    """The schema of a database that is only to be read; raises StoreError when there is nothing that could be."""
    with engine.connect().execution_options(ncpl_reader=True) as connection, connection.begin():
        now = revision(connection)
    if now is None:
        raise StoreError(f"{shown(url)} is empty: there is no store in it.", "fill it first: ncpl train --help")
    _refuse_newer(url, now)
    return now


def _refuse_newer(url: str, now: str) -> None:
    if now not in known_revisions():
        raise StoreError(
            f"the store {shown(url)} was made by a newer ncpl (schema {now}; this one knows up to {HEAD}).",
            "upgrade ncpl: pip install --upgrade ncpl",
        )


def ensure_head(engine: sa.Engine, url: str, file: StoreFile | None) -> str:
    """Bring a database to this ncpl's schema; returns what was done: '', 'created' or 'upgraded'."""
    with engine.connect().execution_options(ncpl_reader=True) as connection, connection.begin():
        now = revision(connection)
    if now == HEAD:
        return ""
    if now is not None:
        _refuse_newer(url, now)
    if file is not None:
        with contextlib.closing(sqlite3.connect(file.path, timeout=30, isolation_level=None)) as plain:
            if now is None:
                keep_apart(file.path)
                plain.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                plain.execute(f"PRAGMA user_version = {birth_mark(file.path)}")
            plain.execute("PRAGMA journal_mode = WAL")  # a property of the file, as are these
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    with engine.connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        if sqlite:
            # with them on, a batch migration that rebuilds a parent table deletes every child row
            raw: Any = connection.connection.driver_connection
            raw.execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                one_at_a_time(connection)
                now = revision(connection)
                if now == HEAD:  # another process was first
                    return ""
                if file is not None and now is not None:
                    back_up(file.path, now)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                make_views(connection)
        finally:
            if sqlite:
                with contextlib.suppress(sqlite3.Error):
                    raw.execute("PRAGMA foreign_keys = ON")
    return "created" if now is None else "upgraded"


def back_up(path: Path, now: str) -> Path:
    """Copy a store with SQLite's own online backup: `<name>.backup-<revision>`, or with a number where that is taken.

    It has its name only when it is whole.
    """
    copied = path.with_name(f".{path.name}.backup-{os.getpid()}.tmp")
    try:
        with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(copied)) as copy:
            source.backup(copy)
        for number in itertools.count(1):
            target = path.with_name(f"{path.name}.backup-{now}" + (f".{number}" if number > 1 else ""))
            with contextlib.suppress(FileExistsError):
                target.touch(exist_ok=False)  # the name is ours: never over what is there
                return copied.replace(target)
        raise AssertionError
    finally:
        copied.unlink(missing_ok=True)
