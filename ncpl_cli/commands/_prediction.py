"""`correlate --predict` for a person: all diagnostics in one table, strongest first, after what they say."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ncpl_cli.commands import _common

SHOWN = 25
"""Diagnostics on a terminal; all of them in a pipe, and in --json."""

COLUMNS = ("diagnostic", "tau", "low", "high", "p", "p paid for all", "detrended", "held out", "runs")


def run(
    metric: str, runs: str | None, scenario: str | None, names: Sequence[str], seed: int, url: str, as_json: bool
) -> None:
    """Load, rank and print."""
    from ncpl_cli.analysis import load
    from ncpl_cli.analysis.prediction import predict
    from ncpl_cli.store import open_store

    with open_store(url, readonly=True) as store:
        ids = [part.strip() for part in runs.split(",")] if runs else None
        found = predict(load(store, None, ids=ids, scenario=scenario, names=names), metric, seed=seed)
    if as_json:
        _common.print_json({"groups": [one.to_json() for one in found]})
        return
    for one in found:
        _common.out(f"{one.group.title}: what ranks {one.y} beforehand")
        for line in one.notes:
            _common.say(line)
        rows = [
            [p.metric, p.tau, *(p.ci95 or (None, None)), p.p, p.p_by, p.detrended, p.held_out, p.runs]
            for p in one.predictors
        ]
        shown = rows[:SHOWN] if sys.stdout.isatty() else rows
        if sys.stdout.isatty():
            shown = [[f"{c:+.2f}" if isinstance(c, float) and i not in (4, 5) else c for i, c in enumerate(row)]
                     for row in shown]  # fmt: skip
        _common.print_table(COLUMNS, shown)
        if len(shown) < len(rows):
            _common.say(f"{len(rows) - len(shown)} weaker diagnostics are in --json and in a pipe.", "- ")
        _common.out()
