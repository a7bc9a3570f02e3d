"""What a statistician would say about a result, in sentences. Numbers come in, text goes out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ncpl_cli.analysis.resampling import FEWEST_RUNS
from ncpl_cli.analysis.results import GroupCorrelation
from ncpl_cli.analysis.statistics import Summary
from ncpl_cli.analysis.survival import HALF, SMALL
from ncpl_cli.analysis.words import count, p_text

CLEAR = 0.3
"""An |r| from here on is said to appear where there was none (below SMALL) without a control."""


@dataclass(frozen=True)
class Facts:
    """What the notes need beyond the result.

    pooled        groups merged into this one; blocks: independent units after merging seeds
    points        rows with both values, per run
    missing       by metric: rows in which its own rhythm lets expect a value and there is none
    undefined     by run: why it has no r
    no_control    the default control, where it could not be held fixed
    longest_task  (most epochs of one task, the usual number) where they differ
    head_start    mean plasticity loss of the first ten tasks after task 0
    unfinished    runs that are not finished; dropped_tasks: their last tasks, half trained, left out
    """

    pooled: int
    blocks: int
    points: Mapping[str, int]
    missing: Mapping[str, int]
    undefined: Mapping[str, str]
    no_control: str | None
    longest_task: tuple[int, int] | None
    head_start: float | None
    unfinished: tuple[str, ...]
    dropped_tasks: int


def estimand(method: str, across: str) -> str:
    """What the number estimates."""
    name = {"pearson": "Pearson's r", "spearman": "Spearman's rho"}[method]
    if across == "tasks":
        return f"mean over runs of {name} within a run, one point a task"
    if across == "epochs":
        return f"mean over runs of {name} within a run, one point a recorded epoch"
    return f"{name} over runs: x after the first task, y at each later task"


def with_doubt(words: str | None, summary: Summary, p: float | None = None) -> str:
    """The direction, with what stands against it: its interval or, where there is none, its p."""
    if words is None:
        return "undefined"
    if summary.ci95 is None:
        return words if p is None or p < 0.05 else f"{words}, but no more than chance would have it (p = {p_text(p)})"
    low, high = summary.ci95
    if low <= 0 <= high:
        return f"{words}, but the 95 % interval includes 0"
    return words


def within_runs(result: GroupCorrelation, facts: Facts) -> list[str]:
    """All notes of a correlation within runs, most important first."""
    found = [*_runs(result, facts), *_trend(result), *_controls(result), *_clock(result)]
    found += [*_means(result), *_definition(result, facts), *_windows(result), *_health(result, facts)]
    return found


def held_fixed(name: str, left: float | None, raw: float | None) -> list[str]:
    """What a control does to r: flips its sign, takes most of it away, or brings to light what it hid."""
    if left is None or raw is None:
        return []
    start = f"With {name.replace('+', ' and ')} held fixed"
    numbers = f"partial r = {left:+.2f} against {raw:+.2f}"
    if abs(raw) < SMALL:
        return [f"{start} a correlation appears that is not seen without: {numbers}."] if abs(left) >= CLEAR else []
    if left * raw < 0 and abs(left) >= SMALL:
        return [f"{start} the sign flips: {numbers}."]
    if abs(left) < HALF * abs(raw):
        return [f"{start} most of it vanishes: {numbers}."]
    return []


def two_definitions(what: str, ours: float | None, b24: float | None) -> list[str]:
    """Whether the sign, or most of the size, depends on how plasticity loss is defined."""
    if ours is None or b24 is None:
        return []
    numbers = f"plasticity_loss gives {what} = {ours:+.2f}, plasticity_loss_b24 {b24:+.2f}"
    if ours * b24 < 0:
        return [f"The sign depends on the definition of plasticity loss: {numbers}."]
    if min(abs(ours), abs(b24)) < HALF * max(abs(ours), abs(b24)):
        return [f"The size depends on the definition of plasticity loss: {numbers}."]
    return [f"Both definitions of plasticity loss agree: {numbers}."]


def pairs(count: int, adjusted: float) -> list[str]:
    """What looking at several pairs costs."""
    if not math.isfinite(adjusted):
        return []
    return [f"{count} pairs were looked at: adjusted for that (Benjamini-Yekutieli), p = {p_text(adjusted)}."]


def one_left_out(summary: Summary, what: str) -> list[str]:
    """Whether the sign rests on a single unit."""
    if summary.leave_one_out is None or summary.leave_one_out[0] * summary.leave_one_out[1] >= 0:
        return []
    low, high = summary.leave_one_out
    return [f"Without one {what} r lies anywhere from {low:+.2f} to {high:+.2f}: the sign rests on single {what}s."]


def two_procedures(summary: Summary, p: float | None, units: int) -> list[str]:
    """Why the interval and p of one line say different things, where they do."""
    if summary.ci95 is None or p is None or (summary.ci95[0] <= 0 <= summary.ci95[1]) == (p >= 0.05):
        return []
    return [
        f"The interval and p come from two procedures and disagree at 5 %: the interval is t over the runs' Fisher z, "
        f"p counts sign flips, which assume no distribution (of {units} runs the smallest is {2 / 2**units:.2g}). "
        "Take it as undecided."
    ]


def no_p(units: int, what: str = "runs") -> str:
    """Why no p-value is printed."""
    smallest = 2 / 2**units
    one = what.removesuffix("s")
    return (
        f"{units} {what if units != 1 else one} cannot reach p < .05 (the smallest two-sided sign-flip p is "
        f"{smallest:.4g}): no p-value is printed; six {what} are the fewest that can."
    )


def _runs(result: GroupCorrelation, facts: Facts) -> list[str]:
    found = []
    units = result.overall.summary.n
    what = "seeds" if facts.pooled > 1 else "runs"
    if facts.pooled > 1:
        found.append(
            f"Pooled over {facts.pooled} groups, as asked: runs of one seed share initialisation and data order, so "
            f"the {result.n_runs} runs count as {facts.blocks} seeds."
        )
    shared = len(result.seeds) - len(set(result.seeds.values()))
    if shared and facts.pooled == 1:
        found.append(
            f"{count(result.n_runs, 'run')} of this group have {count(result.n_runs - shared, 'seed')} between them "
            "and are taken as independent: arms belong under names of their own (ncpl import --name)."
        )
    if units == 0:
        found.append(
            "The correlation is undefined in every run: fewer than four points, a constant series, or |r| = 1."
        )
    elif units < FEWEST_RUNS:
        found.append(no_p(units, what))
    if facts.undefined and units:
        listed = "; ".join(f"{run}: {why}" for run, why in facts.undefined.items())
        found.append(f"r is undefined in {len(facts.undefined)} of {count(result.n_runs, 'run')} ({listed}).")
    found += two_procedures(result.overall.summary, result.overall.p_sign_flip, units)
    found += one_left_out(result.overall.summary, what.removesuffix("s"))
    if units == 1:
        found.append("One run says nothing about other seeds: no interval.")
    return found


def _trend(result: GroupCorrelation) -> list[str]:
    overall = result.overall
    raw, left = overall.summary.mean_r, overall.controls["detrended"].summary.mean_r
    differences = overall.controls["first_difference"].summary.mean_r
    if raw is None or left is None or abs(raw) < SMALL:
        return []
    tail = "" if differences is None else f" and {differences:+.2f} between first differences"
    text = (
        f"r = {raw:+.2f} between the raw series, {left:+.2f} after removing a straight line in the {result.unit} "
        f"from each{tail}"
    )
    share = min(abs(v) for v in (left, differences) if v is not None) / abs(raw)
    if left * raw < 0 and abs(left) >= SMALL:
        return [f"{text}: without the shared trend the sign flips."]
    if abs(left) < HALF * abs(raw):
        return [f"{text}: most of it is the shared trend over {result.unit}s."]
    if share < HALF:
        return [f"{text}: it is in the slow movement of both, not in the change from one {result.unit} to the next."]
    return [f"{text}: it is not the trend alone."]


def _controls(result: GroupCorrelation) -> list[str]:
    overall = result.overall
    raw = overall.summary.mean_r
    found = []
    for name, control in result.held_fixed.items():
        if name != result.unit:  # the axis alone is the detrended r, said above
            found += held_fixed(name, control.summary.mean_r, raw)
    if raw is None or abs(raw) < SMALL:
        return found
    ranked = overall.controls["spearman"].summary.mean_r
    if result.method == "pearson" and ranked is not None and (ranked * raw < 0 or abs(ranked) < HALF * abs(raw)):
        found.append(f"On ranks it is {ranked:+.2f}: a few extreme points carry Pearson's r.")
    return found


def _clock(result: GroupCorrelation) -> list[str]:
    swap = result.overall.seed_swap
    if swap.matched_r is None or swap.swapped_r is None or abs(swap.matched_r) < SMALL:
        return []
    if swap.swapped_r * swap.matched_r <= 0 or abs(swap.swapped_r) < HALF * abs(swap.matched_r):
        return []
    p = "" if swap.p is None else f", seed-swap p = {p_text(swap.p)}"
    tested = result.overall.p_sign_flip
    driven = "" if tested is None else (
        f" A driver that all runs share (a schedule, a common drift) makes them dependent: the sign flips' "
        f"p = {p_text(tested)} is then too small, and the seed swap's is the one to go by."
    )  # fmt: skip
    return [
        f"x of one run goes with y of another run too (r = {swap.swapped_r:+.2f} against {swap.matched_r:+.2f} within "
        f"a run{p}): to that extent both merely follow the training clock.{driven}"
    ]


def _means(result: GroupCorrelation) -> list[str]:
    overall = result.overall
    s = overall.summary
    found = []
    if s.mean_r is not None and s.fisher_mean_r is not None and abs(s.mean_r - s.fisher_mean_r) > 0.02:
        found.append(
            f"The plain mean of r is {s.mean_r:+.3f}; the interval belongs to the back-transformed mean of Fisher's "
            f"z, {s.fisher_mean_r:+.3f}."
        )
    if s.mean_r is not None and overall.r_of_means is not None and abs(overall.r_of_means) > abs(s.mean_r) + 0.05:
        found.append(
            f"Between the series averaged over runs r is {overall.r_of_means:+.2f}: averaging runs raises r by "
            "itself; it is not the correlation within a run."
        )
    if overall.effective_n is not None and overall.effective_n < overall.points / 2:
        found.append(
            f"Points of one run depend on each other: {overall.points} are worth about "
            f"{overall.effective_n:.0f} independent ones, which is why p-values come from runs."
        )
    return found


def _definition(result: GroupCorrelation, facts: Facts) -> list[str]:
    found = []
    if facts.head_start is not None and facts.head_start <= -0.0005:
        found.append(
            f"Plasticity loss of the first ten tasks is negative ({facts.head_start:+.3f}): task 0 starts from "
            "initialisation and later tasks do not (head start); fresh_gap is free of it."
        )
    if "plasticity_loss_b24" in (result.x, result.y) and facts.longest_task is not None:
        found.append(
            "plasticity_loss_b24 averages all epochs of the first task and so grows with its length by itself; "
            "plasticity_loss does not."
        )
    if result.across == "epochs" and facts.longest_task is not None:
        longest, usual = facts.longest_task
        found.append(
            f"One task has {longest} epochs, the others mostly {usual}: pooling its epochs with theirs manufactures "
            "correlation; --across tasks takes one point a task."
        )
    return found


def _windows(result: GroupCorrelation) -> list[str]:
    windows = result.windows
    total = windows.r.size
    if not total:
        most = result.overall.points
        return [f"No full window of {result.window} {result.unit}s exists ({most} points): choose a smaller --window."]
    found = []
    undefined = int(np.isnan(windows.r).sum())
    if undefined:
        found.append(
            f"{undefined} of {total} windows (over all runs) are undefined: constant, fewer than four points, "
            "|r| = 1, or beyond the run's end. They are left out, not counted as 0."
        )
    worth = result.overall.effective_n
    if worth is not None and (inside := worth * float(windows.points.max()) / result.overall.points) < 10:
        found.append(
            f"A window of {int(windows.points.max())} points is worth about {max(inside, 1):.0f} independent ones: the "
            "mean r of windows lies nearer 0 than the truth (at autocorrelation .99 a planted .60 reads .56)."
        )
    first, last = float(windows.mean[0]), float(windows.mean[-1])
    if len(windows.end) > 1 and math.isfinite(first) and math.isfinite(last) and abs(first - last) > 0.3:
        found.append(
            f"The mean r goes from {first:+.2f} in the first window (to {result.unit} {windows.end[0]:g}) to "
            f"{last:+.2f} in the last (to {windows.end[-1]:g})."
        )
    p = result.overall.p_family
    if p is not None:
        lags = f" and {len(result.lags)} lags" if result.lags else ""
        found.append(f"Over all {len(windows.end)} windows{lags} the family-wise p (max |t|) is {p_text(p)}.")
    return found


def _health(result: GroupCorrelation, facts: Facts) -> list[str]:
    found = []
    excluded = result.overall.excluded
    if excluded:
        listed = "; ".join(f"{e.run} (seed {e.seed}): {e.reason}" for e in excluded)
        bias = (
            " What survives may differ from what failed."
            if any(e.reason in ("failed", "diverged") for e in excluded)
            else ""
        )
        found.append(f"Left out: {listed}.{bias}")
    if len(set(facts.points.values())) > 1:
        listed = ", ".join(f"{run} {n}" for run, n in facts.points.items())
        found.append(f"Runs differ in their number of points: {listed}. Each run's r is over its own.")
    if facts.missing:
        listed = ", ".join(f"{metric} in {count(n, 'row')}" for metric, n in facts.missing.items())
        found.append(f"Missing (undefined or not recorded), over all runs: {listed}.")
    if facts.unfinished:
        found.append(f"Not finished, used as far as they are: {', '.join(facts.unfinished)}.")
    if facts.dropped_tasks:
        found.append(f"{count(facts.dropped_tasks, 'half-trained last task')} left out.")
    if facts.no_control:
        found.append(
            f"{facts.no_control} was not recorded or does not vary: nothing but the {result.unit} could be held fixed."
        )
    return found
