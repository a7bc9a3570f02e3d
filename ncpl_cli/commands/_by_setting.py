"""`compare --by` for a person: one table, a row a value and outcome, best first; then what must be known of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ncpl_cli.commands import _common

if TYPE_CHECKING:
    from ncpl_cli.analysis import Comparison
    from ncpl_cli.analysis.aggregate import Aggregate

COLUMNS = ("value", "outcome", "mean", "gain", "low", "high", "seeds", "verdict")


def show(found: Sequence[Comparison], together: Sequence[Aggregate]) -> None:
    """The tables of each scenario and combination of other settings, then notes."""
    from ncpl_cli.analysis.study import titled
    from ncpl_cli.analysis.words import rounded

    tables: dict[str, list[Comparison]] = {}
    for comparison in found:
        tables.setdefault(titled(comparison.scenario, None, comparison.settings), []).append(comparison)
    for title, comparisons in tables.items():
        one = len({of.y for of in comparisons}) == 1 and sys.stdout.isatty()  # then the title says it
        rows = [row for of in comparisons for row in _rows(of, one)]
        if sys.stdout.isatty():
            rows = [
                [row[0], *(rounded(c, _error(row)) if isinstance(c, float) else c for c in row[1:])] for row in rows
            ]
        _common.print_table(COLUMNS, rows, title=_title(title, comparisons))
        for line in _notes(comparisons):
            _common.say(line, "- ")
    if together:
        rows = [
            [a.value, f"{a.y}, {a.outcome}", a.iqm, *a.iqm_ci95, a.improvement, *(a.improvement_ci95 or (None, None)),
             a.scenarios, a.runs]
            for a in together
        ]  # fmt: skip
        columns = ("value", "outcome", "interquartile mean", "low", "high", "P(higher than plain)", "low", "high",
                   "scenarios", "runs")  # fmt: skip
        _common.print_table(columns, rows, title="Over all scenarios: stratified bootstrap, 95 % intervals")


def _title(title: str, comparisons: Sequence[Comparison]) -> str:
    ys = ", ".join(dict.fromkeys(of.y for of in comparisons))
    return f"{title}: {ys} at each {comparisons[0].by}, gain over {comparisons[0].plain}, highest first"


def _rows(of: Comparison, short: bool) -> list[list[object]]:
    """The plain value among the others, highest gain first; what has no value left last."""
    outcome = of.outcome if short else f"{of.y}, {of.outcome}"
    rows: list[tuple[float, list[object]]] = [
        (0.0, [of.value, outcome, of.mean, None, None, None, of.seeds, "compared with"])
    ]
    for arm in of.arms:
        gain = arm.gain
        low, high = gain.ci95 or (None, None)
        verdict = gain.verdict if gain.mean is not None else f"all {arm.lost}" if arm.lost else "no value"
        place = float("-inf") if gain.mean is None else gain.mean
        rows.append((place, [arm.value, outcome, arm.later[0], gain.mean, low, high, len(gain.per_seed), verdict]))
    return [row for _, row in sorted(rows, key=lambda item: -item[0])]


def _error(row: Sequence[object]) -> float | None:
    """The standard error that a row is rounded by: a quarter of its interval."""
    low, high = row[4], row[5]
    return (high - low) / 4 if isinstance(low, float) and isinstance(high, float) else None


def _notes(comparisons: Sequence[Comparison]) -> list[str]:
    from ncpl_cli.analysis import doses, through
    from ncpl_cli.analysis.gain import POWER
    from ncpl_cli.analysis.resampling import FEWEST_RUNS
    from ncpl_cli.analysis.words import p_text

    lines = [doses.sentence(of.dose, of.y, str(of.outcome)) for of in comparisons if of.dose is not None]
    lines += [line for of in comparisons for line in of.notes]
    lines += [f"{arm.arm}: {line}" for of in comparisons for arm in of.arms for line in arm.notes]
    split = {(arm.arm, arm.through.y): arm.through for of in comparisons for arm in of.arms if arm.through is not None}
    lines += [f"{arm}: {through.sentence(of)}" for (arm, _), of in split.items()]
    lines += [text for of in split.values() for text in of.assumptions]
    for of in comparisons:
        what = f"{of.y}, {of.outcome}"
        if of.margin is not None:
            lines.append(f"{what}: equivalent means within {of.margin:.3g} of the plain value (two one-sided t tests "
                         "at 5 %); by default that is the standard deviation over its seeds.")  # fmt: skip
        seen = [a.gain.detectable for a in of.arms if a.gain.verdict == "undecided" and a.gain.detectable is not None]
        if seen:
            lines.append(f"{what}: where it is undecided, a gap of {max(seen):.2g} or more would have been seen with "
                         f"{POWER:.0%} probability.")  # fmt: skip
        if told := [a for a in of.arms if a.p_by is not None]:
            listed = ", ".join(f"{a.arm} p = {p_text(a.p_by)}" for a in told if a.p_by is not None)
            lines.append(f"{what}: exact sign flips, paid for all values and outcomes: {listed}. Intervals are t over "
                         "seeds, so that the two may differ at the edge.")  # fmt: skip
    fewest = min((len(a.gain.per_seed) for of in comparisons for a in of.arms if a.gain.per_seed), default=0)
    if 0 < fewest < FEWEST_RUNS:
        lines.append(
            f"{fewest} paired seeds: no p-value is printed below six; intervals and verdicts are t over seeds."
        )
    return list(dict.fromkeys(lines))
