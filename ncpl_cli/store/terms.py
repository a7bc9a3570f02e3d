"""Names in long rows are numbers: of metrics, splits, layers and reasons, learned once and kept by the connection."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager

import sqlalchemy as sa

from ncpl_cli.records import Address
from ncpl_cli.store.connection import insert_new, one_at_a_time
from ncpl_cli.store.schema import terms
from ncpl_cli.store.views import make_views

_ALL = sa.select(terms.c.kind, terms.c.text, terms.c.id)


class Terms:
    """The numbers that are known so far, by kind (metric, split, layer, reason) and text."""

    def __init__(self, known: Mapping[tuple[str, str], int] | None = None) -> None:
        self._numbers = dict(known or {})
        self._lock = threading.Lock()

    def place(self, address: Address) -> dict[str, int]:
        """The columns of a long row; its names must have been learned."""
        return {
            "metric": self._numbers["metric", address.metric],
            "split": self._numbers["split", address.split],
            "layer": self._numbers["layer", address.layer],
        }

    def reason(self, text: str) -> int:
        """The number of a reason that was learned."""
        return self._numbers["reason", text]

    def __getitem__(self, term: tuple[str, str]) -> int:
        return self._numbers[term]

    def texts(self) -> dict[int, str]:
        """All known names by number."""
        return {number: text for (_, text), number in self._numbers.items()}

    def learn(self, connection: sa.Connection, addresses: Collection[Address], reasons: Iterable[str] = ()) -> None:
        """Give every new name its number. The numbers are remembered only once they are in the database."""
        wanted = {("metric", a.metric) for a in addresses} | {("split", a.split) for a in addresses}
        wanted |= {("layer", a.layer) for a in addresses} | {("reason", text) for text in reasons}
        self.number(connection, wanted)

    def number(self, connection: sa.Connection, wanted: Set[tuple[str, str]]) -> None:
        """Give every new name its number."""
        if wanted <= self._numbers.keys():
            return
        self.read(connection)  # most often another process has given them their numbers
        if not (missing := wanted - self._numbers.keys()):
            return
        one_at_a_time(connection)
        for kind, text in sorted(missing):
            insert_new(connection, terms, {"kind": kind, "text": text})
        self.read(connection)
        if any(kind == "metric" for kind, _ in missing):
            make_views(connection)

    def read(self, connection: sa.Connection) -> None:
        """Learn all that have one."""
        found = connection.execute(_ALL).all()
        with self._lock:
            self._numbers |= {(kind, text): number for kind, text, number in found}

    @contextmanager
    def kept_if_done(self) -> Iterator[None]:
        """Around a transaction: numbers that are rolled back with it are forgotten."""
        before = dict(self._numbers)
        try:
            yield
        except BaseException:
            self._numbers = before
            raise
