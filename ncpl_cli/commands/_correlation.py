"""A correlation for a person: words and the number first, then what is left of it, then a few windows, then warnings.

On a terminal tables are cut to what can be read at a glance; in a pipe they are tab-separated and complete.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ncpl_cli.commands import _common

if TYPE_CHECKING:
    from ncpl_cli.analysis import GroupCorrelation
    from ncpl_cli.analysis.multiverse import Multiverse

FEW_PAIRS = 3
"""From more pairs in a group on, they are one table, strongest first, instead of a page each."""

SHOWN_PAIRS = 20
SHOWN_WINDOWS = 8
"""On a terminal; all of them in a pipe, and in --json."""

CURVE_ROWS = 10

SIGNED = frozenset({"r", "low", "high", "mean", "detrended", "r with it", "r without"})
"""Columns that hold correlations."""

PROBABILITIES = frozenset({"p", "p_family", "p over pairs"})


def show(results: Sequence[GroupCorrelation]) -> None:
    """Groups one after the other; a group of many pairs as one table."""
    groups: dict[str, list[GroupCorrelation]] = {}
    for result in results:
        groups.setdefault(result.title, []).append(result)
    for title, members in groups.items():
        if len(members) > FEW_PAIRS:
            _show_pairs(title, members)
            continue
        for result in members:
            _show_one(title, result)


def _show_one(title: str, result: GroupCorrelation) -> None:
    from ncpl_cli.analysis import headline

    _common.say(f"{title}: {result.x} and {result.y}")
    _common.say(headline.headline(result))
    _common.say(_estimand(result))
    columns = ("statistic", "r", "low", "high", "p", "what")
    _table(columns, headline.statistics(result), title="What is left of it under each control")
    _show_lags(result)
    _show_windows(result)
    if result.multiverse is not None:
        show_multiverse(result.multiverse)
    for line in result.notes:
        _common.say(line, "- ")
    _common.out()


def show_multiverse(found: Multiverse) -> None:
    """The verdict, the specification curve (a table of all specifications in a pipe), and the decisive choices."""
    _common.say(found.verdict)
    if sys.stdout.isatty():
        for line in curve_lines(found, shutil.get_terminal_size().columns):
            _common.out(line)
    else:
        names = list(found.curve[0].choices)
        rows = [(*one.choices.values(), one.r, *(one.ci95 or (None, None)), one.runs) for one in found.curve]
        _table((*names, "r", "low", "high", "runs"), rows, title="Every specification, weakest first")
    rows = [(d.choice, d.r_with, d.r_without) for d in found.decisive[:SHOWN_WINDOWS]]
    _table(("choice", "r with it", "r without"), rows, title="What the choices change: median r with and without")


def curve_lines(found: Multiverse, width: int) -> list[str]:
    """The specification curve in characters: r of all specifications in order, from low to high, with the line of 0.

    A column is one specification, or the median of neighbours where there are more than fit.
    """
    import numpy as np

    room = max(20, min(width - 9, 100, len(found.curve)))
    values = [float(np.median(part)) for part in np.array_split([one.r for one in found.curve], room)]
    low, high = min(0.0, values[0]), max(0.0, values[-1])
    step = max((high - low) / CURVE_ROWS, 1e-9)
    lines = []
    for level in range(CURVE_ROWS, -1, -1):
        at = low + level * step
        zero = abs(at) <= step / 2
        marks = "".join("•" if abs(v - at) <= step / 2 else "─" if zero else " " for v in values)
        lines.append(f"{at:+6.2f} ┤{marks.rstrip() if not zero else marks}")
    return lines


def _estimand(result: GroupCorrelation) -> str:
    from ncpl_cli.analysis import words

    seeds = words.ranges(sorted(set(result.seeds.values())))
    runs = words.count(result.n_runs, "run")
    about = f"Estimand: {result.estimand}; {runs} (seed{'s' * (len(result.seeds) > 1)} {seeds})"
    if result.across == "runs":
        return f"{about}."
    return f"{about}, {result.overall.points} points in a run, window {result.window} {result.unit}s."


def _show_pairs(title: str, results: Sequence[GroupCorrelation]) -> None:
    """Many pairs of one group, strongest first."""
    from ncpl_cli.analysis.differing import LEFT_OUT
    from ncpl_cli.analysis.resampling import FEWEST_RUNS
    from ncpl_cli.analysis.sentences import no_p

    first = results[0]
    _common.say(f"{title}: {len(results)} pairs, strongest first")
    _common.say(_estimand(first))

    def strength(result: GroupCorrelation) -> float:
        return abs(_r(result) or 0.0)

    ordered = sorted(results, key=strength, reverse=True)
    shown = ordered[:SHOWN_PAIRS] if sys.stdout.isatty() else ordered
    wide = not sys.stdout.isatty()
    rows: list[Sequence[object]] = []
    for result in shown:
        overall = result.overall
        low, high = overall.summary.ci95 or (None, None)
        detrended = overall.controls["detrended"].summary.mean_r
        numbers = (_r(result), low, high, overall.p_by, detrended)
        x, y = result.x, result.y
        rows.append((x, y, *numbers, overall.direction) if wide else (f"{x}, {y}", *numbers))
    columns = ("r", "low", "high", "p over pairs", "detrended")
    _table(("x", "y", *columns, "in words") if wide else ("x, y", *columns), rows)
    if len(shown) < len(ordered):
        _common.say(f"{len(ordered) - len(shown)} weaker pairs are in --json and in a pipe.", "- ")
    if any(result.overall.p_by is not None for result in results):
        _common.say("p is adjusted for all pairs (Benjamini-Yekutieli).", "- ")
    units = max(result.overall.summary.n for result in results)
    if first.across != "runs" and units < FEWEST_RUNS:
        _common.say(no_p(units), "- ")
    lost = dict.fromkeys(e for result in results for e in result.overall.excluded if e.reason in LEFT_OUT)
    if lost:
        _common.say(f"Left out: {'; '.join(f'{e.run} (seed {e.seed}): {e.reason}' for e in lost)}.", "- ")
    _common.say("One pair with its windows, controls and warnings: ncpl correlate --x X --y Y.", "- ")
    _common.out()


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table; on a terminal without columns that say nothing, and r rounded by its interval, else to three digits."""
    rows, all_columns = list(rows), columns
    if sys.stdout.isatty():
        said = [i for i in range(len(columns)) if any(row[i] not in (None, "") for row in rows)]
        columns = [columns[i] for i in said]
        ends = [i for i, name in enumerate(all_columns) if name in ("low", "high")]
        rows = [
            [_rounded(name, row[i], [row[e] for e in ends]) for name, i in zip(columns, said, strict=True)]
            for row in rows
        ]
    _common.print_table(columns, rows, title=title)


def _rounded(column: str, cell: object, ends: Sequence[object]) -> object:
    import math

    from ncpl_cli.analysis.words import p_text

    if not isinstance(cell, float):
        return cell
    if column in SIGNED:
        low, high = ends if len(ends) == 2 else (None, None)
        digits = 3
        if isinstance(low, float) and isinstance(high, float) and high > low:  # a quarter is the standard error
            digits = min(max(1 - math.floor(math.log10((high - low) / 4)), 1), 3)
        return f"{cell:+.{digits}f}"
    return p_text(cell) if column in PROBABILITIES else cell


def _r(result: GroupCorrelation) -> float | None:
    return result.overall.r_of_means if result.across == "runs" else result.overall.summary.mean_r


def _show_lags(result: GroupCorrelation) -> None:
    if not result.lags:
        return
    best = result.overall.best_lag
    shown = [g for g in result.lags if not sys.stdout.isatty() or g.lag in (best, 0)]
    rows = [(g.lag, g.mean_r, g.p, g.p_family, "best" if g.lag == best else "") for g in shown]
    title = "Lags in rows; positive: x leads"
    _table(("lag", "r", "p", "p_family", ""), rows, title=title)


def _show_windows(result: GroupCorrelation) -> None:
    windows = result.windows.to_json()
    if not windows:
        return
    marked = _marked([w["mean"] for w in windows])
    shown: Iterable[int] = range(len(windows))
    if sys.stdout.isatty() and len(windows) > SHOWN_WINDOWS:
        shown = sorted(marked)
    over_runs = result.across == "runs"
    keys: tuple[str, ...] = ("end", "points", "mean", "std", "p", "p_family", "undefined")
    if over_runs:
        keys = ("end", "points", "mean", "p", "p_family")
    heads = {"end": "task" if over_runs else "end", "points": "runs" if over_runs else "points",
             "mean": "r" if over_runs else "mean"}  # fmt: skip
    what = "r over runs, task by task" if over_runs else f"r in windows of {result.window} {result.unit}s"
    if sys.stdout.isatty() and not any(w["undefined"] for w in windows):
        keys = tuple(key for key in keys if key != "undefined")
    rows = [[*(windows[i][key] for key in keys), marked.get(i, "")] for i in shown]
    title = f"{what}: {len(rows)} of {len(windows)}" if len(rows) < len(windows) else what
    _table([*(heads.get(key, key) for key in keys), ""], rows, title=title)


def _marked(means: Sequence[float | None]) -> dict[int, str]:
    """Which windows say most: first, middle, last, lowest and highest."""
    last = len(means) - 1
    found: dict[int, list[str]] = {}
    for place, word in ((0, "first"), (last // 2, "middle"), (last, "last")):
        found.setdefault(place, []).append(word)
    defined = [(value, i) for i, value in enumerate(means) if value is not None]
    if len(defined) > 1:
        found.setdefault(min(defined)[1], []).append("lowest")
        found.setdefault(max(defined)[1], []).append("highest")
    return {place: ", ".join(words) for place, words in found.items()}
