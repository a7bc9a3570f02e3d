"""Correlation over runs: x after the first task, y at each later task, for studies that vary the first task.

One value a run and task. The amount of first-task training moves collapse and plasticity alike, so r is given again
with it held fixed (B24's own 14 runs: r(NC1, A_1) = +.61 turns to -.73 when A_0 is held fixed), and for plasticity
loss both definitions stand side by side, because B24's grows with the length of the first task by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import resampling, sentences, statistics, words
from ncpl_cli.analysis.directions import direction
from ncpl_cli.analysis.results import (
    DEFAULT_CONTROL,
    Control,
    Excluded,
    GroupCorrelation,
    Options,
    Overall,
    Resampling,
    Windows,
    number,
)
from ncpl_cli.analysis.statistics import Summary
from ncpl_cli.analysis.study import Group, Series
from ncpl_cli.errors import InputError

Array = NDArray[np.float64]

AMOUNT = "first_task_epochs"
"""The amount of first-task training: epochs of task 0."""

DEFINITIONS = ("plasticity_loss", "plasticity_loss_b24")


@dataclass(frozen=True, eq=False)
class Table:
    """One row a run: x and the controls after the first task, y at each task (NaN where a run has none)."""

    series: tuple[Series, ...]
    tasks: tuple[int, ...]
    x: Array
    y: Array
    amount: Array
    controls: Mapping[str, Array]

    @property
    def mean_y(self) -> Array:
        """y of each run, averaged over the tasks that all runs have; NaN where there is none."""
        common = np.isfinite(self.y).all(0)
        if not common.any():
            return np.full(len(self.x), np.nan)
        y = self.y[:, common]
        return statistics.without_rounding(y.mean(1), np.abs(y).max(1))  # losses that cancel leave rounding

    @property
    def blocks(self) -> NDArray[np.intp]:
        """A number for each seed: runs of one seed share initialisation and data order."""
        seeds = [s.run.seed for s in self.series]
        order = list(dict.fromkeys(seeds))
        return np.array([order.index(seed) for seed in seeds], dtype=np.intp)


def correlate_over_runs(
    group: Group, x: str, y: str, options: Options, notes: Sequence[str] = ()
) -> GroupCorrelation | None:
    """One pair of metrics over the runs of one group (which differ in seed and in the length of the first task)."""
    asked = tuple(c for c in dict.fromkeys(options.controls) if c != AMOUNT)  # that is held fixed in any case
    candidates = asked or (() if x == DEFAULT_CONTROL else (DEFAULT_CONTROL,))
    table, excluded = _table(group, x, y, candidates)
    if table is None:
        return None
    amount_varies = _varies(table.amount)
    held: dict[str, Array] = {AMOUNT: table.amount} if amount_varies else {}
    for name in candidates:
        if _varies(table.controls[name]):
            held[name] = table.controls[name]
        elif name in asked:
            raise InputError(f"--control {name} is constant over these runs (or missing), so it explains nothing.")

    r = _columns(table.x, table.y, options.method)
    p = resampling.permutation(
        _ranked(table.x, options.method), _ranked_columns(table.y, options.method), table.blocks,
        permutations=options.flips, seed=options.seed,
    )  # fmt: skip
    partial = {name: _columns(table.x, table.y, options.method, controls=[v]) for name, v in held.items()}
    if len(held) > 1:
        partial["+".join(held)] = _columns(table.x, table.y, options.method, controls=list(held.values()))

    overall = _overall(table, r, p, held, x, y, options, excluded)
    windows = Windows(
        runs=(), end=np.array(table.tasks, dtype=np.float64),
        points=np.asarray(np.isfinite(table.y).sum(0), dtype=np.intp),
        fewest=np.asarray(np.isfinite(table.y).sum(0), dtype=np.intp),
        r=np.empty((0, len(table.tasks))), mean=r, std=np.full(len(r), np.nan), p=p.p, p_family=p.p_family,
        undefined=np.asarray(np.isnan(r), dtype=np.intp),
    )  # fmt: skip
    more: dict[str, Any] = {
        "training_amount": {
            "name": AMOUNT,
            "values": sorted({float(v) for v in table.amount}),
            "r_with_x": _one(table.amount, table.x, options.method),
            "r_with_y": _one(table.amount, table.mean_y, options.method),
        },
        "partial_by_task": {
            name: {str(task): number(v) for task, v in zip(table.tasks, values, strict=True)}
            for name, values in partial.items()
        },
        "p_permutation": overall.p_sign_flip,
        "seeds_as_blocks": len(set(table.blocks.tolist())),
    }
    definitions = _definitions(group, x, y, options)
    if definitions:
        more["definitions"] = definitions
    # the permutation p is no sign-flip p: it stands under its own name
    overall = replace(overall, p_sign_flip=None)
    return GroupCorrelation(
        scenario=group.scenario, name=group.name, settings=group.settings, x=x, y=y, method=options.method,
        across="runs", unit="task", window=1, seeds={s.run.id: s.run.seed for s in table.series}, windows=windows,
        overall=overall, lags=(),
        resampling=Resampling(options.seed, 0, False, len(table.tasks), 0, p.permutations),
        estimand=sentences.estimand(options.method, "runs"),
        notes=(*notes, *_notes(table, overall, more, group, amount_varies)), more=more,
    )  # fmt: skip


def _table(group: Group, x: str, y: str, controls: Sequence[str]) -> tuple[Table | None, tuple[Excluded, ...]]:
    several = any(s.tasks > 1 for s in group.series)
    excluded = [Excluded(s.run.id, s.run.seed, s.run.status) for s in group.left_out]
    rows: list[tuple[Series, float, dict[int, float], float, list[float]]] = []
    for series in group.series:
        ends = series.task_ends()
        if not len(ends) or (several and len(ends) < 2):
            excluded.append(Excluded(series.run.id, series.run.seed, "no task after the first one"))
            continue
        first = int(ends[0])
        values = _by_task(series, y, several)
        after = float(series.column(x)[first])
        if not math.isfinite(after) or not values:
            what = f"{x} is undefined after the first task" if values else f"no value of {y}"
            excluded.append(Excluded(series.run.id, series.run.seed, what))
            continue
        held = [_held(series, c, first) for c in controls]
        rows.append((series, after, values, float(series.task_epoch[first]), held))
    if not rows:
        return None, tuple(excluded)
    tasks = sorted({task for _, _, values, _, _ in rows for task in values})
    return Table(
        series=tuple(row[0] for row in rows),
        tasks=tuple(tasks),
        x=np.array([row[1] for row in rows]),
        y=np.array([[row[2].get(task, math.nan) for task in tasks] for row in rows]),
        amount=np.array([row[3] for row in rows]),
        controls={c: np.array([row[4][i] for row in rows]) for i, c in enumerate(controls)},
    ), tuple(excluded)


def _held(series: Series, control: str, row: int) -> float:
    """A control after the first task: a metric, or a setting that is a number."""
    setting = series.run.settings.get(control)
    return float(setting if isinstance(setting, int | float) else series.column(control)[row])


def _by_task(series: Series, y: str, several: bool) -> dict[int, float]:
    """y at each task after the first; where there is one task only, its last defined value."""
    if not several:
        column = series.column(y)
        found = column[np.isfinite(column)]
        return {0: float(found[-1])} if len(found) else {}
    tasks = series.task[series.task_ends()]
    values = series.per_task(y)
    if series.unfinished_task():
        tasks, values = tasks[:-1], values[:-1]
    return {int(t): float(v) for t, v in zip(tasks[1:], values[1:], strict=True) if math.isfinite(v)}


def _overall(
    table: Table, r: Array, p: resampling.Permuted, held: Mapping[str, Array], x: str, y: str, options: Options,
    excluded: tuple[Excluded, ...],
) -> Overall:  # fmt: skip
    mean_y = table.mean_y
    whole = _one(table.x, mean_y, options.method)
    defined = r[np.isfinite(r)]
    mean_r = float(defined.mean()) if len(defined) else None
    n = len(table.x)
    whole_p = resampling.permutation(
        _ranked(table.x, options.method), _ranked_columns(mean_y[:, None], options.method), table.blocks,
        permutations=options.flips, seed=options.seed,
    )  # fmt: skip
    summary = Summary(
        n=n,
        mean_r=mean_r,
        fisher_mean_r=whole,
        ci95=_interval(table, options.method),
        spread_of_z=None,
        same_sign=(int((np.sign(defined) == np.sign(mean_r or 0.0)).sum()), len(defined)),
        leave_one_out=_leave_one_out(table, options.method),
    )
    sets = {name: [values] for name, values in held.items()}
    if len(held) > 1:
        sets["+".join(held)] = list(held.values())
    partial = {name: _control(_one(table.x, mean_y, "pearson", v), n) for name, v in sets.items()}
    ranked = {name: _control(_one(table.x, mean_y, "spearman", v), n) for name, v in sets.items()}
    undefined = _control(None, n)
    for name in (AMOUNT, *table.controls):  # what does not vary cannot be held fixed: undefined, not left out
        partial.setdefault(name, undefined)
        ranked.setdefault(name, undefined)
    return Overall(
        summary=summary,
        std=number(defined.std(ddof=1)) if len(defined) > 1 else None,
        per_run={},
        p_sign_flip=number(whole_p.p[0]),
        p_family=number(np.nanmin(p.p_family)) if np.isfinite(p.p_family).any() else None,
        r_of_means=whole,
        controls={
            "spearman": _control(_one(table.x, mean_y, "spearman"), n),
            "first_difference": undefined,  # runs have no order
            "detrended": undefined,
        },
        partial=partial,
        partial_ranks=ranked,
        seed_swap=resampling.SeedSwap(None, None, None, 0, True),
        best_lag=None,
        points=n,
        effective_n=None,
        direction=sentences.with_doubt(
            None if whole is None else direction(x, y, whole, options.directions), summary, number(whole_p.p[0])
        ),
        excluded=excluded,
    )


def _control(r: float | None, n: int) -> Control:
    return Control(Summary(n, r, r, None, None, (int(r is not None), int(r is not None)), None), None)


def _interval(table: Table, method: str) -> tuple[float, float] | None:
    """95 % interval of r over runs on Fisher's scale.

    Seeds that occur once: z +- 1.96 / sqrt(n - 3). Seeds that occur in several arms: jackknife over seeds, t with
    (seeds - 1) degrees of freedom, since runs of one seed are not independent.
    """
    whole = _one(table.x, table.mean_y, method)
    blocks = table.blocks
    seeds = len(set(blocks.tolist()))
    n = len(blocks)
    if whole is None:
        return None
    z = math.atanh(whole)
    if seeds == n:
        if n <= 3:
            return None
        half = 1.959963984540054 / math.sqrt(n - 3)
        return math.tanh(z - half), math.tanh(z + half)
    if seeds < 3:
        return None
    left = [_one(table.x[blocks != b], table.mean_y[blocks != b], method) for b in range(seeds)]
    if any(v is None for v in left):
        return None
    return statistics.jackknife_interval(whole, [v for v in left if v is not None])


def _leave_one_out(table: Table, method: str) -> tuple[float, float] | None:
    blocks = table.blocks
    left = [
        v
        for b in set(blocks.tolist())
        if (v := _one(table.x[blocks != b], table.mean_y[blocks != b], method)) is not None
    ]
    return (min(left), max(left)) if len(left) > 1 else None


def _definitions(group: Group, x: str, y: str, options: Options) -> dict[str, Any]:
    """Both plasticity losses against x, plain and with the training amount held fixed."""
    if y not in DEFINITIONS:
        return {}
    found: dict[str, Any] = {}
    for name in DEFINITIONS:
        table, _ = _table(group, x, name, ())
        if table is None:
            continue
        found[name] = {
            "r": _one(table.x, table.mean_y, options.method),
            "partial": {AMOUNT: _one(table.x, table.mean_y, options.method, [table.amount])},
            "mean": number(table.mean_y.mean()),
            "by_task": {
                str(task): number(v)
                for task, v in zip(table.tasks, _columns(table.x, table.y, options.method), strict=True)
            },
        }
    return found


def _notes(table: Table, overall: Overall, more: Mapping[str, Any], group: Group, amount_varies: bool) -> list[str]:
    n, seeds = len(table.x), more["seeds_as_blocks"]
    found = []
    if group.pooled > 1:
        found.append(f"Pooled over {group.pooled} groups, as asked.")
    if n < statistics.FEWEST_POINTS:
        found.append(f"{n} runs: a correlation over runs needs at least four.")
    elif n < resampling.FEWEST_RUNS:
        found.append(f"{n} runs: no p-value is printed below six.")
    if seeds < n:
        found.append(
            f"The {n} runs share {seeds} seeds, hence initialisation and data order: seeds are blocks, in which x "
            "changes hands for the permutation p, and over which the interval is a jackknife."
        )
    found += sentences.one_left_out(overall.summary, "seed" if seeds < n else "run")
    whole = overall.r_of_means
    if not amount_varies:
        found.append("All runs trained the first task equally long: the training amount needs no holding fixed.")
    for name, control in overall.partial.items():
        found += sentences.held_fixed(name, control.summary.mean_r, whole)
    if definitions := more.get("definitions"):
        ours, b24 = (definitions[name] for name in DEFINITIONS)
        found += sentences.two_definitions("r", ours["r"], b24["r"])
        if amount_varies:
            found += sentences.two_definitions(
                f"partial r given {AMOUNT}", ours["partial"][AMOUNT], b24["partial"][AMOUNT]
            )
        found.append(
            "plasticity_loss_b24 averages the first task's accuracy over all its epochs and so grows with their "
            "number by itself; plasticity_loss compares first epochs only."
        )
    r_max = overall.p_family
    if r_max is not None:
        found.append(f"Over all {len(table.tasks)} tasks the family-wise permutation p (max |r|) is "
                     f"{words.p_text(r_max)}.")  # fmt: skip
    missing = int(np.isnan(table.y).sum())
    if missing:
        found.append(f"{missing} of {table.y.size} values of y are missing; the average over tasks uses common tasks.")
    if overall.excluded:
        listed = "; ".join(f"{e.run} (seed {e.seed}): {e.reason}" for e in overall.excluded)
        found.append(f"Left out: {listed}.")
    return found


# formulas on columns -------------------------------------------------------------------------------------------


def _columns(x: Array, y: Array, method: str, controls: Sequence[Array] = ()) -> Array:
    """r over runs of x with each column of y, each over the runs that have it."""
    return np.array([np.nan if (r := _one(x, column, method, controls)) is None else r for column in y.T])


def _one(x: Array, y: Array, method: str, controls: Sequence[Array] = ()) -> float | None:
    rows = np.isfinite(x) & np.isfinite(y)
    for control in controls:
        rows &= np.isfinite(control)
    if not controls:
        return number(statistics.METHODS[method](x[rows], y[rows]))
    held = np.array([control[rows] for control in controls])
    if rows.sum() < statistics.FEWEST_POINTS or not all(_varies(h) for h in held):
        return None
    return number(statistics.partial(x[None, rows], y[None, rows], held[None], method=method)[0])


def _ranked(x: Array, method: str) -> Array:
    return statistics.ranks(x) if method == "spearman" else x


def _ranked_columns(y: Array, method: str) -> Array:
    """Columns as ranks where ranks are correlated; columns with missing values stay as they are."""
    if method != "spearman":
        return y
    return np.stack([statistics.ranks(c) if np.isfinite(c).all() else c for c in y.T], axis=1)


def _varies(values: Array) -> bool:
    values = values[np.isfinite(values)]
    return len(values) > 1 and not statistics.constant(values)
