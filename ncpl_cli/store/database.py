"""The one connection behind both doors: transactions that read, transactions that write, and what they share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from ncpl_cli.store.connection import sqlite_path, translated
from ncpl_cli.store.leases import LEASE_SECONDS
from ncpl_cli.store.terms import Terms


class Database:
    """An open database. Its methods may be called from several threads; each is one transaction.

    lease  seconds for which a claim, and each write after it, holds a run
    """

    def __init__(self, url: str, engine: sa.Engine) -> None:
        self.url = url
        self.lease = LEASE_SECONDS
        self.engine = engine
        self.terms = Terms()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()

    @property
    def checkpoints(self) -> Path:
        """The directory of checkpoints: beside an SQLite file, else in the current directory."""
        path = sqlite_path(self.url)
        base = path if path is not None else Path(f"{(sa.make_url(self.url).database or 'ncpl')}.db").absolute()
        return base.with_name(f"{base.stem}.checkpoints")

    @contextlib.contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        """A transaction that writes; `durable`: the disk has confirmed it when it ends."""
        with translated(self.url), self.engine.connect() as connection:
            sqlite = durable and connection.dialect.name == "sqlite"
            raw: Any = connection.connection.driver_connection
            if sqlite:
                raw.execute("PRAGMA synchronous = FULL")
            try:
                with connection.begin():
                    yield connection
            finally:
                if sqlite:
                    raw.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads: one state of the store throughout."""
        with translated(self.url), self.engine.connect() as connection:
            connection = connection.execution_options(ncpl_reader=True)
            with connection.begin():
                yield connection
