"""Where a command finds nothing to say, what became of the runs it was asked about belongs to the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ncpl_cli.commands import _common
from ncpl_cli.errors import NothingFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ncpl_cli.store import RunRow

P = ParamSpec("P")
R = TypeVar("R")

MOST = 3
"""Settings that are named, with what became of their runs; `ncpl runs list` has all."""


def told(command: Callable[P, R]) -> Callable[P, R]:
    """A command that chooses by --db, --runs, --scenario and --name, and says so where the chosen runs have nothing."""

    @wraps(command)
    def telling(*args: P.args, **given: P.kwargs) -> R:
        try:
            return command(*args, **given)
        except NothingFound as error:
            from ncpl_cli.store import open_store

            runs, scenario, names = given.get("runs"), given.get("scenario"), given.get("name")
            ids = [part.strip() for part in str(runs).split(",")] if runs else None
            db = given.get("db")
            with open_store(_common.store_url(db if db is None else str(db)), readonly=True) as store:
                chosen = store.select(
                    ids, scenario=scenario if scenario is None else str(scenario),
                    names=list(names) if isinstance(names, list | tuple) else (),
                )  # fmt: skip
            if not (lines := became([row for row in chosen if row.parent is None])):
                raise
            raise NothingFound(f"{error} {' '.join(lines)}", error.hint) from error

    return telling


def became(rows: Sequence[RunRow]) -> list[str]:
    """Sentences on the runs that failed or diverged, that are not finished, and on scenarios that are kept apart."""
    from ncpl_cli.analysis.casualties import casualties, together
    from ncpl_cli.analysis.differing import LEFT_OUT
    from ncpl_cli.analysis.words import count

    lines = [f"Left out: {line}" for line in together(casualties(rows))]
    if len(lines) > MOST:
        lines = [*lines[:MOST], f"So are runs of {len(lines) - MOST} other settings (ncpl runs list)."]
    open_ = Counter(row.status for row in rows if row.status not in ("finished", *LEFT_OUT))
    lines += [f"Not finished: {count(n, 'run')} ({status})." for status, n in open_.items()]
    if len(of := Counter(row.scenario for row in rows)) > 1:
        listed = ", ".join(f"{scenario} ({count(n, 'run')})" for scenario, n in of.items())
        lines.append(f"Scenarios are not compared with each other: {listed}.")
    return lines
