"""The one connection behind both doors: transactions that read, transactions that write, and what they share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from ncpl_cli.errors import StoreError
from ncpl_cli.signals import held
from ncpl_cli.store.checkpoint_folder import folder_of
from ncpl_cli.store.connection import shown, translated
from ncpl_cli.store.leases import LEASE_SECONDS
from ncpl_cli.store.migrate import older
from ncpl_cli.store.schema import HEAD
from ncpl_cli.store.sqlite_file import StoreFile, parsed_url
from ncpl_cli.store.terms import Terms


class Database:
    """An open database. Its methods may be called from several threads; each is one transaction.

    lease     seconds for which a claim, and each write after it, holds a run
    file      the file of an SQLite store
    revision  the schema it has; a store that is only read may have an older one
    """

    def __init__(self, url: str, engine: sa.Engine, file: StoreFile | None, revision: str = HEAD) -> None:
        self.url, self.file, self.revision = url, file, revision
        self.lease = LEASE_SECONDS
        self.engine = engine
        self.terms = Terms()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with held():
            self.close()
            if kind is not None and self.file is not None:
                self.file.take_back()  # an error leaves nothing behind, no empty store either

    def close(self) -> None:
        """Give back all connections."""
        with held():
            self.engine.dispose()
            if self.file is not None:
                self.file.close()

    @functools.cached_property
    def checkpoints(self) -> Path:
        """The directory of checkpoints: beside an SQLite file, else in the current directory."""
        if self.file is not None:
            return folder_of(self.file.path)
        named = Path(f"{parsed_url(self.url).database or 'ncpl'}.db") if "://" in self.url else Path("ncpl.db")
        return named.absolute().with_name(f"{named.stem}.checkpoints")

    @contextlib.contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        """A transaction that writes; `durable`: the disk has confirmed it when it ends."""
        if self.file is not None and self.file.readonly:
            raise StoreError(
                f"the store {shown(self.url)} is open for reading only.", "open_store(url) opens it for both"
            )
        turn = self.file.turns.taken() if self.file is not None else contextlib.nullcontext()
        with translated(self.url), turn, self.engine.connect() as connection:
            sqlite = durable and connection.dialect.name == "sqlite"
            raw: Any = connection.connection.driver_connection
            if sqlite:
                raw.execute("PRAGMA synchronous = FULL")
            try:
                with connection.begin():
                    if self.file is not None:
                        self.file.still_there()
                        self.file.logs_still_there(connection.connection.info)
                    yield connection
            finally:
                if sqlite:
                    raw.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads: one state of the store throughout."""
        with translated(self.url), self.engine.connect() as connection:
            connection = connection.execution_options(ncpl_reader=True)
            try:
                with connection.begin():
                    yield connection
            except sa.exc.OperationalError as error:
                if self.revision != HEAD and "no such" in str(error.orig):
                    raise older(self.url, self.revision) from error
                raise
            finally:
                if self.file is not None:
                    self.file.still_the_same()
