"""Correlation of two metrics within runs: the published statistic first, its controls beside it.

Everything is computed within each run separately and then summarised over runs, because the independent unit is the
run (seed), never the epoch: two series that both drift with training correlate for that reason alone, and a naive p
from the epochs of one run rejects a true zero in 49 to 73 % of cases (SCIENCE 6). `across_runs` has the other
estimand, one r over runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import held_fixed, resampling, sentences, statistics
from ncpl_cli.analysis.directions import direction
from ncpl_cli.analysis.held_fixed import TASK
from ncpl_cli.analysis.results import (
    DEFAULT_CONTROL,
    Control,
    Excluded,
    GroupCorrelation,
    Lag,
    Options,
    Overall,
    Resampling,
    Windows,
    number,
)
from ncpl_cli.analysis.study import Group
from ncpl_cli.analysis.tracks import Track, lagged, per_run, sliding, track
from ncpl_cli.errors import InputError

Array = NDArray[np.float64]


def correlate_within_runs(
    group: Group, x: str, y: str, options: Options, notes: Sequence[str] = ()
) -> GroupCorrelation | None:
    """One pair of metrics in one group; None where no run has a row with both."""
    by_task = TASK in options.controls
    several = any(s.tasks > 1 for s in group.series)
    across = options.across or ("tasks" if several and not by_task else "epochs")
    unit = "task" if across == "tasks" else "epoch"
    asked = tuple(c for c in dict.fromkeys(options.controls) if c != TASK)
    if {x, y} & set(asked):
        raise InputError(f"--control {next(c for c in asked if c in (x, y))} is one of the correlated metrics.")
    candidates = asked or (() if by_task or DEFAULT_CONTROL in (x, y) else (DEFAULT_CONTROL,))
    tracks = [track(s, x, y, across, candidates) for s in group.series]
    excluded = [Excluded(s.run.id, s.run.seed, s.run.status) for s in group.left_out]
    excluded += [
        Excluded(t.series.run.id, t.series.run.seed, f"no {unit} where {x} and {y} are both defined")
        for t in tracks
        if not t.both.any()
    ]
    tracks = [t for t in tracks if t.both.any()]
    if not tracks:
        return None
    blocks: list[object] = [t.series.run.seed if group.pooled > 1 else i for i, t in enumerate(tracks)]

    # the published statistic
    correlation = statistics.METHODS[options.method]
    r = per_run(tracks, lambda x, y, held, place: correlation(x, y))
    ends, r_windows, counts = sliding(tracks, options.window, options.method)
    shifts, r_lags = lagged(tracks, options.lags, options.method) if options.lags else ([], np.empty((len(tracks), 0)))

    # windows and lags are one family of looks
    family = _flips(
        np.concatenate([r_windows, r_lags], axis=1), blocks, options.family_flips or resampling.FLIPS, options.seed
    )
    mean, std = _moments(r_windows)
    n_windows = len(ends)
    windows = Windows(
        runs=tuple(t.series.run.id for t in tracks), end=ends, points=counts.max(0, initial=0),
        fewest=np.where(counts > 0, counts, np.iinfo(np.intp).max).min(0, initial=np.iinfo(np.intp).max),
        r=r_windows, mean=mean, std=std, p=family.p[:n_windows], p_family=family.p_family[:n_windows],
        undefined=np.asarray(np.isnan(r_windows).sum(0), dtype=np.intp),
    )  # fmt: skip
    means = _moments(r_lags)[0]
    lags = tuple(
        Lag(lag, number(means[i]), number(family.p[n_windows + i]), number(family.p_family[n_windows + i]))
        for i, lag in enumerate(shifts)
    )

    # what is left of it under each control
    left: dict[str, Array] = {  # label -> r per run
        "spearman": per_run(tracks, lambda x, y, held, place: statistics.spearman(x, y)),
        "first_difference": per_run(
            tracks, lambda x, y, held, place: correlation(place.differences(x), place.differences(y))
        ),
        "detrended": per_run(
            tracks,
            lambda x, y, held, place: correlation(
                statistics.detrended(x, place.axis), statistics.detrended(y, place.axis)
            ),
        ),
    }
    held = held_fixed.usable(tracks, asked, candidates, unit, group)
    if by_task:
        held_fixed.check_task(tracks, across)
    for one in held_fixed.sets(unit, held, by_task=by_task):
        left[f"partial:{one.label}"] = per_run(tracks, one.correlation("pearson"), one.controls)
        left[f"partial_ranks:{one.label}"] = per_run(tracks, one.correlation("spearman"), one.controls)
    no_control = next((c for c in candidates if c not in held), None)  # the default one: others raised an error
    if no_control:
        left |= {f"{kind}:{no_control}": np.full(len(tracks), np.nan) for kind in ("partial", "partial_ranks")}
    whole = _flips(np.stack([r, *left.values()], axis=1), blocks, options.flips, options.seed)
    controls = {
        name: Control(statistics.summary(values, blocks), number(p))
        for (name, values), p in zip(left.items(), whole.p[1:], strict=True)
    }

    common, x_common, y_common = _common(tracks)
    total = statistics.summary(r, blocks)
    overall = Overall(
        summary=total,
        std=number(_moments(r[:, None])[1][0]),
        per_run={t.series.run.id: number(v) for t, v in zip(tracks, r, strict=True)},
        p_sign_flip=number(whole.p[0]),
        p_family=number(np.nanmin(family.p_family)) if np.isfinite(family.p_family).any() else None,
        r_of_means=number(correlation(x_common.mean(0), y_common.mean(0))) if len(common) else None,
        controls={name: c for name, c in controls.items() if ":" not in name},
        partial=_labelled(controls, "partial:"),
        partial_ranks=_labelled(controls, "partial_ranks:"),
        seed_swap=_seed_swap(x_common, y_common, options),
        best_lag=_best_lag(lags),
        points=max(int(t.both.sum()) for t in tracks),
        effective_n=_median(per_run(tracks, lambda x, y, held, place: statistics.effective_n(x, y))),
        direction=sentences.with_doubt(
            None if total.mean_r is None else direction(x, y, total.mean_r, options.directions), total
        ),
        excluded=tuple(excluded),
    )
    result = GroupCorrelation(
        scenario=group.scenario, name=group.name, settings=group.settings, x=x, y=y, method=options.method,
        across=across, unit=unit, window=options.window,
        seeds={t.series.run.id: t.series.run.seed for t in tracks}, windows=windows, overall=overall, lags=lags,
        resampling=Resampling(options.seed, whole.flips, whole.exact, n_windows + len(lags), family.flips,
                              overall.seed_swap.permutations),
        estimand=sentences.estimand(options.method, across), notes=(),
    )  # fmt: skip
    missing = {
        name: n
        for name, n in ((x, sum(_gaps(t.axis, t.x) for t in tracks)), (y, sum(_gaps(t.axis, t.y) for t in tracks)))
        if n
    }
    undefined = {t.series.run.id: _why(t, x, y) for t, value in zip(tracks, r, strict=True) if not np.isfinite(value)}
    facts = sentences.Facts(
        pooled=group.pooled,
        blocks=len(set(blocks)),
        points={t.series.run.id: int(t.both.sum()) for t in tracks},
        missing=missing,
        undefined=undefined,
        no_control=no_control,
        longest_task=_longest_task(group),
        head_start=_head_start(group) if "plasticity_loss" in (x, y) else None,
        unfinished=tuple(t.series.run.id for t in tracks if t.series.run.status != "finished"),
        dropped_tasks=sum(s.unfinished_task() for s in group.series) if across == "tasks" else 0,
    )
    health = {"points": dict(facts.points), "missing": missing, "undefined_runs": undefined,
              "unfinished": list(facts.unfinished)}  # fmt: skip
    return replace(result, notes=(*notes, *sentences.within_runs(result, facts)), more={"data_health": health})


def _flips(r: Array, blocks: Sequence[object], flips: int, seed: int) -> resampling.SignFlips:
    return resampling.sign_flips(statistics.in_blocks(np.arctanh(r), blocks), flips=flips, seed=seed)


def _moments(r: Array) -> tuple[Array, Array]:
    """Mean and sample standard deviation over runs of each column, without those that are undefined."""
    n = np.isfinite(r).sum(0)
    mean = np.where(n > 0, np.nansum(r, axis=0) / np.maximum(n, 1), np.nan)
    squares = np.nansum((r - mean) ** 2, axis=0)
    return mean, np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)


def _labelled(controls: Mapping[str, Control], prefix: str) -> dict[str, Control]:
    return {name.removeprefix(prefix): c for name, c in controls.items() if name.startswith(prefix)}


def _common(tracks: Sequence[Track]) -> tuple[Array, Array, Array]:
    """The axis, x and y (runs x n) on rows common to all runs."""
    points = [t.points() for t in tracks]
    axes = {axis.tobytes(): axis for axis, *_ in points}
    if len(axes) == 1:  # as is usual
        return points[0][0], np.array([p[1] for p in points]), np.array([p[2] for p in points])
    common = points[0][0]
    for axis in axes.values():
        common = common[np.isin(common, axis)]
    x, y = (np.array([p[part][np.isin(p[0], common)] for p in points]) for part in (1, 2))
    return common, x, y


def _seed_swap(x: Array, y: Array, options: Options) -> resampling.SeedSwap:
    if options.method == "spearman" and x.shape[1]:
        x, y = statistics.ranks(x), statistics.ranks(y)
    permutations = options.family_flips or resampling.FLIPS
    return resampling.seed_swap(statistics.pearson_between(x, y), permutations=permutations, seed=options.seed)


def _best_lag(lags: Sequence[Lag]) -> int | None:
    defined = [g for g in lags if g.mean_r is not None]
    # of equal ones the smallest shift
    return max(defined, key=lambda g: (abs(g.mean_r or 0.0), -abs(g.lag))).lag if defined else None


def _gaps(axis: Array, values: Array) -> int:
    """Rows without a value from the first one on, where its usual step (every epoch, every fifth) lets expect one."""
    at = axis[np.isfinite(values)]
    if len(at) < 2:
        return 0
    expected = int((axis[-1] - at[0]) // np.median(np.diff(at))) + 1
    return max(0, expected - len(at))


def _why(t: Track, x: str, y: str) -> str:
    """Why a run's r is undefined."""
    _, at_x, at_y, _ = t.points()
    if len(at_x) < statistics.FEWEST_POINTS:
        return "fewer than four points"
    constant = [name for name, values in ((x, at_x), (y, at_y)) if statistics.constant(values)]
    return f"constant {' and '.join(constant)}" if constant else "|r| = 1"


def _longest_task(group: Group) -> tuple[int, int] | None:
    """Most epochs of one task and the median over tasks, where they differ."""
    lengths = np.concatenate([np.unique(s.task, return_counts=True)[1] for s in group.series])
    longest, usual = int(lengths.max(initial=0)), int(np.median(lengths)) if len(lengths) else 0
    return (longest, usual) if longest > usual else None


def _head_start(group: Group) -> float | None:
    """Mean plasticity loss over the first ten tasks after the first one."""
    found = [s.per_task("plasticity_loss")[1:11] for s in group.series]
    values = np.concatenate(found) if found else np.array([])
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _median(values: Array) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None
