"""Runs that failed or diverged: always named, with the settings that tell them from the others, and the reason.

A setting at which every run diverges is the worst arm of a study. Where it is only left out, what is left looks better
than it is, and nobody learns that the value was tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ncpl_cli.analysis.differing import LEFT_OUT, differing_names
from ncpl_cli.analysis.words import ranges, said

ALONE = frozenset({"seed", "dataset_digest"})
"""What varies, or follows from what varies, and is said in its own place."""


class Stored(Protocol):
    """What is read of a stored run (store.RunRow)."""

    @property
    def id(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def scenario(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def error(self) -> str | None: ...
    @property
    def attempt(self) -> int: ...
    @property
    def parent(self) -> str | None: ...
    @property
    def branch_epoch(self) -> int | None: ...


@dataclass(frozen=True)
class Casualty:
    """A run that failed or diverged. `settings`: those that vary among the runs it stands among."""

    run: str
    seed: int
    status: str
    settings: Mapping[str, object]
    attempts: int
    error: str

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {"run": self.run, "attempts": self.attempts, "error": self.error, "seed": self.seed,
                "status": self.status, "settings": dict(self.settings)}  # fmt: skip


def varying(rows: Sequence[Stored]) -> dict[str, dict[str, object]]:
    """{run id: the settings that vary among the runs of its scenario}; of a probe those of its parent."""
    by_id = {row.id: row for row in rows}
    found = {}
    names = {
        scenario: differing_names([r.settings for r in rows if r.scenario == scenario], ALONE)
        for scenario in {row.scenario for row in rows}
    }
    for row in rows:
        of = by_id.get(row.parent or "", row)
        settings: dict[str, object] = {k: of.settings[k] for k in of.settings if k in names[of.scenario]}
        if row.parent is not None:
            settings |= {"probe_after_epoch": row.branch_epoch}
        found[row.id] = settings
    return found


def casualties(rows: Sequence[Stored], errors: Iterable[tuple[str, int, str]] = ()) -> list[Casualty]:
    """All runs among `rows` that failed or diverged, and those that `errors` names (run, attempts, last error)."""
    about = varying(rows)
    last = {run: (attempts, error) for run, attempts, error in errors}
    found = []
    for row in rows:
        if row.status in LEFT_OUT or row.id in last:
            attempts, error = last.get(row.id, (row.attempt, ""))
            why = error or row.error or "no reason recorded"
            found.append(Casualty(row.id, row.seed, row.status, about[row.id], attempts, why))
    return found


def in_words(settings: Mapping[str, object]) -> str:
    """`lr=10.0, interventions=none`."""
    return ", ".join(f"{name}={said(value)}" for name, value in settings.items())


def together(found: Sequence[Casualty]) -> list[str]:
    """A sentence for each setting and reason: `lr=10.0: 2 runs diverged (seeds 0-1): the loss became nan`."""
    alike: dict[tuple[str, str, str], list[Casualty]] = {}
    for one in found:
        alike.setdefault((in_words(one.settings), one.status, one.error), []).append(one)
    lines = []
    for (settings, status, error), of in alike.items():
        runs = f"{len(of)} runs" if len(of) > 1 else f"run {of[0].run}"
        seeds = f"seed{'s' * (len({c.seed for c in of}) > 1)} {ranges(sorted({c.seed for c in of}))}"
        lines.append(f"{settings + ': ' if settings else ''}{runs} {status} ({seeds}): {error.rstrip('.')}.")
    return lines
