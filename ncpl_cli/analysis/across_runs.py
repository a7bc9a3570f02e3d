"""Correlation over runs: x after the first task, y at each later task, for studies that vary the first task.

One value a run and task. The amount of first-task training moves collapse and plasticity alike, so r is given again
with it held fixed (B24's own 14 runs: r(NC1, A_1) = +.61 turns to -.73 when A_0 is held fixed), and for plasticity
loss both definitions stand side by side, because B24's grows with the length of the first task by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import levels, resampling, sentences, statistics, words
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
from ncpl_cli.analysis.run_table import AMOUNT, Table, columns, one, ranked, ranked_columns, run_table, varies
from ncpl_cli.analysis.statistics import Summary
from ncpl_cli.analysis.study import Group
from ncpl_cli.errors import InputError

Array = NDArray[np.float64]

DEFINITIONS = ("plasticity_loss", "plasticity_loss_b24")


def correlate_over_runs(
    group: Group, x: str, y: str, options: Options, notes: Sequence[str] = ()
) -> GroupCorrelation | None:
    """One pair of metrics over the runs of one group (which differ in seed and in the length of the first task)."""
    asked = tuple(c for c in dict.fromkeys(options.controls) if c != AMOUNT)  # that is held fixed in any case
    candidates = asked or (() if x == DEFAULT_CONTROL else (DEFAULT_CONTROL,))
    table, excluded = run_table(group, x, y, candidates)
    if table is None:
        return None
    amount_varies = varies(table.amount)
    held: dict[str, Array] = {AMOUNT: table.amount} if amount_varies else {}
    for name in candidates:
        if varies(table.controls[name]):
            held[name] = table.controls[name]
        elif name in asked:
            raise InputError(f"--control {name} is constant over these runs (or missing), so it explains nothing.")

    r = columns(table.x, table.y, options.method)
    p = resampling.permutation(
        ranked(table.x, options.method), ranked_columns(table.y, options.method), table.blocks,
        permutations=options.flips, seed=options.seed,
    )  # fmt: skip
    partial = {name: columns(table.x, table.y, options.method, controls=[v]) for name, v in held.items()}
    if len(held) > 1:
        partial["+".join(held)] = columns(table.x, table.y, options.method, controls=list(held.values()))

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
            "r_with_x": one(table.amount, table.x, options.method),
            "r_with_y": one(table.amount, table.mean_y, options.method),
        },
        "partial_by_task": {
            name: {str(task): number(v) for task, v in zip(table.tasks, values, strict=True)}
            for name, values in partial.items()
        },
        "p_permutation": overall.p_sign_flip,
        "seeds_as_blocks": len(set(table.blocks.tolist())),
    }
    by_level = levels.over_runs(table.x, table.mean_y, table.setting, options.method, table.blocks)
    if by_level is not None:
        more["levels"] = by_level
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


def _overall(
    table: Table, r: Array, p: resampling.Permuted, held: Mapping[str, Array], x: str, y: str, options: Options,
    excluded: tuple[Excluded, ...],
) -> Overall:  # fmt: skip
    mean_y = table.mean_y
    whole = one(table.x, mean_y, options.method)
    defined = r[np.isfinite(r)]
    mean_r = float(defined.mean()) if len(defined) else None
    n = len(table.x)
    whole_p = resampling.permutation(
        ranked(table.x, options.method), ranked_columns(mean_y[:, None], options.method), table.blocks,
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
    partial = {name: _control(one(table.x, mean_y, "pearson", v), n) for name, v in sets.items()}
    on_ranks = {name: _control(one(table.x, mean_y, "spearman", v), n) for name, v in sets.items()}
    undefined = _control(None, n)
    for name in (AMOUNT, *table.controls):  # what does not vary cannot be held fixed: undefined, not left out
        partial.setdefault(name, undefined)
        on_ranks.setdefault(name, undefined)
    return Overall(
        summary=summary,
        std=number(defined.std(ddof=1)) if len(defined) > 1 else None,
        per_run={},
        p_sign_flip=number(whole_p.p[0]),
        p_family=number(np.nanmin(p.p_family)) if np.isfinite(p.p_family).any() else None,
        r_of_means=whole,
        controls={
            "spearman": _control(one(table.x, mean_y, "spearman"), n),
            "first_difference": undefined,  # runs have no order
            "detrended": undefined,
        },
        partial=partial,
        partial_ranks=on_ranks,
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
    whole = one(table.x, table.mean_y, method)
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
    left = [one(table.x[blocks != b], table.mean_y[blocks != b], method) for b in range(seeds)]
    if any(v is None for v in left):
        return None
    return statistics.jackknife_interval(whole, [v for v in left if v is not None])


def _leave_one_out(table: Table, method: str) -> tuple[float, float] | None:
    blocks = table.blocks
    left = [
        v
        for b in set(blocks.tolist())
        if (v := one(table.x[blocks != b], table.mean_y[blocks != b], method)) is not None
    ]
    return (min(left), max(left)) if len(left) > 1 else None


def _definitions(group: Group, x: str, y: str, options: Options) -> dict[str, Any]:
    """Both plasticity losses against x, plain and with the training amount held fixed."""
    if y not in DEFINITIONS:
        return {}
    found: dict[str, Any] = {}
    for name in DEFINITIONS:
        table, _ = run_table(group, x, name, ())
        if table is None:
            continue
        found[name] = {
            "r": one(table.x, table.mean_y, options.method),
            "partial": {AMOUNT: one(table.x, table.mean_y, options.method, [table.amount])},
            "mean": number(table.mean_y.mean()),
            "by_task": {
                str(task): number(v)
                for task, v in zip(table.tasks, columns(table.x, table.y, options.method), strict=True)
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
    if "levels" in more:
        found += levels.levels_said(more["levels"])
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
