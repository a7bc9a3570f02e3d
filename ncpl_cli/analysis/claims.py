"""Published claims against our runs: a measure for each, and a verdict that says when nothing can be decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ncpl_cli.analysis import claims_lyle, claims_next, measures, plasticity, statistics
from ncpl_cli.analysis.comparison import Arm, compare
from ncpl_cli.analysis.correlation import correlate
from ncpl_cli.analysis.differing import LEFT_OUT
from ncpl_cli.analysis.finding import Arms, Finding, over_runs
from ncpl_cli.analysis.plasticity import first_task_epochs
from ncpl_cli.analysis.results import GroupCorrelation, Options, number
from ncpl_cli.analysis.study import Series, Study
from ncpl_cli.analysis.survival import survival
from ncpl_cli.analysis.words import signed
from ncpl_cli.errors import InputError
from ncpl_cli.studies import Claim, Part, arm_label

AGREES, DIFFERS, UNDECIDED = "agrees", "differs", "not decided at this scale"

ADDRESSES = ("nc1", "online_accuracy", "train_accuracy", "test_accuracy", "probe_test_accuracy", "plasticity_loss",
             "plasticity_loss_b24")  # fmt: skip
"""What the measures below read."""


def addresses(claims: Sequence[Claim]) -> list[str]:
    """Every metric that some claims read."""
    return list(dict.fromkeys([*ADDRESSES, *(a for one in claims for a in measures.addresses(one.options))]))


@dataclass(frozen=True)
class Judged:
    """A claim with what we found. `why`: in a sentence, why the verdict is what it is."""

    claim: Claim
    finding: Finding | None
    verdict: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        c, f = self.claim, self.finding
        return {
            "claim": c.id, "says": c.says, "published": c.published, "source": c.source,
            "value": f and f.value, "ci95": f and f.ci95 and list(f.ci95), "runs": f and f.runs,
            "beside": dict(f.beside) if f else {}, "survives": (f and f.survives) or None,
            "verdict": self.verdict, "why": self.why,
            "accepted": list(c.accept), "reason": c.reason, "caveat": c.caveat,
        }  # fmt: skip


def arms_of(study: Study, name: str, part: Part, scale: str) -> dict[str, list[Series]]:
    """The runs of each arm of a part, by the labels that `ncpl reproduce` gives; failed and diverged ones left out."""
    found: dict[str, list[Series]] = {}
    for arm in part.plans[scale].arms:
        wanted = arm_label(name, part, scale, arm)
        found[arm] = [s for s in study.series if wanted in s.run.names and s.run.status not in LEFT_OUT]
    return found


def undecided(claims: Sequence[Claim], why: str) -> list[Judged]:
    """Claims of a part that could not be run."""
    return [Judged(claim, None, UNDECIDED, why) for claim in claims]


def judge(claims: Sequence[Claim], arms: Arms) -> list[Judged]:
    """Every claim with our value and the verdict."""
    judged = []
    for claim in claims:
        finding = None if "elsewhere" in claim.needs else MEASURES[claim.measure](arms, claim.options)
        judged.append(Judged(claim, finding, *verdict(claim, finding, lacking(claim, arms))))
    return judged


def verdict(claim: Claim, finding: Finding | None, missing: str = "") -> tuple[str, str]:
    """The verdict and the reason for it.

    agrees   our value lies in what the claim accepts (all of its interval, where the claim must be certain)
    differs  our interval (without one: our value) lies outside
    else nothing is decided; nor where `missing` says what the claim needs
    """
    if finding is None:
        return UNDECIDED, missing or "these runs have no value of it"
    if missing or finding.void:
        return UNDECIDED, missing or finding.void
    low, high = (-np.inf if claim.accept[0] is None else claim.accept[0],
                 np.inf if claim.accept[1] is None else claim.accept[1])  # fmt: skip
    first, last = finding.ci95 or (finding.value, finding.value)
    accepted = f"accepted: {_range(low, high)}"
    if claim.certain and finding.ci95 is None:
        return UNDECIDED, f"one run has no interval; {accepted}"
    inside = (low <= first and last <= high) if claim.certain else low <= finding.value <= high
    if inside:
        return AGREES, accepted
    if last < low or first > high:
        return DIFFERS, accepted
    return UNDECIDED, f"the interval reaches into what is accepted and beyond it; {accepted}"


def _range(low: float, high: float) -> str:
    if np.isinf(low):
        return f"at most {high:.4g}"
    return f"at least {low:.4g}" if np.isinf(high) else f"{low:.4g} to {high:.4g}"


def lacking(claim: Claim, arms: Arms) -> str:
    """What a claim needs and these runs do not have, in a sentence; empty when nothing."""
    if "elsewhere" in claim.needs:
        return f"it needs {claim.needs['elsewhere']}"
    single = [claim.options[key] for key in ("arm", "plain") if key in claim.options]
    named = [*single, *claim.options.get("arms", ())] or list(arms)
    if absent := [name for name in named if name not in arms]:
        return f"the arm {absent[0]} is not part of this scale"
    runs = [s for name in named for s in arms[name]]
    needs = claim.needs
    said = []
    for key in ("dataset", "network"):
        have = sorted({str(s.run.settings.get(key)) for s in runs})
        if key in needs and have != [needs[key]]:
            said.append(f"{key} {needs[key]} (here: {', '.join(have) or 'none'})")
    have_runs = min((len(arms[name]) for name in named), default=0)
    if have_runs < needs.get("runs", 1):
        said.append(f"{needs.get('runs', 1)} runs an arm (here: {have_runs})")
    tasks = min((s.tasks for s in runs if s.run.settings.get("first_task_nc1") is None), default=0)
    if tasks < needs.get("tasks", 0):
        said.append(f"{needs['tasks']} tasks (here: {tasks})")
    epochs = min((int(s.epoch[-1]) for s in runs if len(s.epoch)), default=0)
    if epochs < needs.get("epochs", 0):
        said.append(f"{needs['epochs']} epochs (here: {epochs})")
    return f"it needs {', '.join(said)}" if said else ""


# measures --------------------------------------------------------------------------------------------------------

QUICK = 99
"""Resampling gives p-values only, which no claim reads."""


def r_of_means(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """Pearson's r between the series averaged over runs, one point a task; a jackknife interval over runs.

    Beside it what averaging hides: the r of single runs, detrended, between first differences.
    """
    runs = list(arms.get(options["arm"], ()))
    result = _correlation(runs, options["x"], options["y"])
    if result is None or result.overall.r_of_means is None:
        return None
    whole = result.overall.r_of_means
    left = [_correlation([s for s in runs if s is not out], options["x"], options["y"]) for out in runs]
    values = [r.overall.r_of_means for r in left if r is not None and r.overall.r_of_means is not None]
    interval = statistics.jackknife_interval(whole, values, corrected=False) if len(values) == len(runs) else None
    single = [r for r in result.overall.per_run.values() if r is not None]
    beside = {"mean r of single runs": result.overall.summary.mean_r, "lowest": min(single, default=None),
              "highest": max(single, default=None)}  # fmt: skip
    names = {"detrended": "detrended", "first_difference": "first differences"}
    beside |= {words: result.overall.controls[name].summary.mean_r for name, words in names.items()}
    known = {k: v for k, v in beside.items() if v is not None}
    survives = f"of single runs' mean r {signed(result.overall.summary.mean_r)}: {survival(result).sentence}"
    return Finding(whole, interval, len(runs), known, survives)


def task_value(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """A metric at one task, mean over runs."""
    values = [s.per_task(options["metric"]) for s in arms.get(options["arm"], ())]
    return over_runs([float(v[options["task"]]) for v in values if len(v) > options["task"]])


def first_task_effect(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """Effect of so many first-task epochs on the loss of the tasks after it, against the shortest, paired by seed."""
    one = _averaging(arms, options["epochs"])
    if one is None:
        return None
    found = one.published if options["metric"] == "plasticity_loss_b24" else one.first_epochs
    return Finding(found.mean, found.ci95, found.n)


def averaging_share(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """Share of that effect, by the published definition, that is averaging over the first task's epochs."""
    one = _averaging(arms, options["epochs"])
    return None if one is None or one.share is None else Finding(one.share, None, one.published.n)


def threshold_r(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """r over runs stopped at an NC1 threshold, of x with the accuracy on task 1; a jackknife interval over seeds.

    x      first_task_epochs, or nc1 after the first task
    given  `accuracy on task 0`: its mean over all first-task epochs is held fixed
    """
    runs = [s for of in arms.values() for s in of if s.run.settings.get("first_task_nc1") is not None and s.tasks > 1]
    rows = np.array([_threshold_row(s) for s in runs], dtype=np.float64).reshape(-1, 4)
    rows, seeds = rows[np.isfinite(rows).all(1)], np.array([s.run.seed for s in runs])[np.isfinite(rows).all(1)]
    x = 0 if options["x"] == "first_task_epochs" else 1
    held = "given" in options

    def r(kept: Any, held: bool = held) -> float | None:
        part = rows[kept]
        if len(part) < statistics.FEWEST_POINTS + held:
            return None
        if held:
            return number(statistics.partial(part[None, :, x], part[None, :, 3], part[None, None, :, 2])[0])
        return number(statistics.pearson(part[:, x], part[:, 3]))

    whole = r(np.full(len(rows), True))
    if whole is None:
        return None
    without = [r(seeds != seed) for seed in dict.fromkeys(seeds)]
    values = [v for v in without if v is not None]
    interval = statistics.jackknife_interval(whole, values, corrected=False) if len(values) == len(without) else None
    left = None if held else r(np.full(len(rows), True), True)
    survives = "" if left is None else f"with the accuracy on task 0 held fixed {signed(left)} is left"
    return Finding(whole, interval, len(rows), survives=survives)


def _threshold_row(series: Series) -> tuple[float, float, float, float]:
    """Epochs of the first task, nc1 at its end, its mean online accuracy over all epochs, accuracy on task 1."""
    end = int(series.task_ends()[0])
    accuracy = series.column("online_accuracy")
    first = float(np.nanmean(accuracy[: end + 1])) if np.isfinite(accuracy[: end + 1]).any() else np.nan
    return first_task_epochs(series), float(series.per_task("nc1")[0]), first, float(accuracy[end + 1])


def probe_change(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """Test accuracy of the last probe minus that of the first one after some warm-up, mean over runs."""
    changes, ends = [], []
    for series in arms.get(options["arm"], ()):
        values = series.column("probe_test_accuracy")
        values = values[np.isfinite(values)]
        if len(values) > 1:
            changes.append(float(values[-1] - values[0]))
            ends.append((float(values[0]), float(values[-1])))
    beside = dict(zip(("first probe", "last probe"), np.mean(ends, axis=0).tolist(), strict=True)) if ends else {}
    return over_runs(changes, beside)


def window_r(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """Mean over runs of r(nc1, probe accuracy) in the first or last sliding window."""
    result = _correlation(arms.get(options["arm"], ()), "nc1", "probe_test_accuracy", window=options["window"])
    if result is None or not len(result.windows.end):
        return None
    found = statistics.summary(result.windows.r[:, 0 if options["which"] == "first" else -1])
    if found.mean_r is None:
        return None
    left = result.overall.controls["first_difference"].summary.mean_r
    beside = {} if left is None else {"first differences, whole series": left}
    return Finding(found.mean_r, found.ci95, found.same_sign[1], beside, f"whole series: {survival(result).sentence}")


def gain(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """Gain in probe accuracy over the plain arm, paired by seed."""
    arm = _compared(arms, options)
    if arm is None or arm.gain.mean is None:
        return None
    learned = zip(("arm", "plain"), arm.phase_1["train_accuracy"], strict=True)
    phase_1 = {f"phase-1 train accuracy, {who}": value for who, value in learned if value is not None}
    matched = arm.matched.gain if arm.matched else None
    survives = "" if matched is None or matched.mean is None else (
        f"against networks that had learned equally much {matched.mean:+.4f} is left")  # fmt: skip
    return Finding(arm.gain.mean, arm.gain.ci95, len(arm.gain.per_seed), phase_1, survives)


def matched_gain(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """The same against plain networks that had learned equally much in phase 1."""
    arm = _compared(arms, options)
    if arm is None or arm.matched is None or arm.matched.gain.mean is None:
        return None
    found = arm.matched.gain
    return Finding(arm.matched.gain.mean, found.ci95, len(found.per_seed), {"unmatched share": arm.matched.unmatched})


def failed_share(arms: Arms, options: Mapping[str, Any]) -> Finding | None:
    """Share of seeds whose phase-1 train accuracy ended more than .05 below the plain arm's."""
    arm = _compared(arms, options)
    if arm is None or not arm.gain.per_seed or None in arm.phase_1["train_accuracy"]:
        return None
    return Finding(len(arm.failed_seeds) / len(arm.gain.per_seed), None, len(arm.gain.per_seed))


def _correlation(runs: Sequence[Series], x: str, y: str, window: int = 100) -> GroupCorrelation | None:
    options = Options(window=window, flips=QUICK, family_flips=QUICK)
    try:
        return correlate(Study(tuple(runs)), [(x, y)], options)[0]
    except InputError:  # nothing to correlate
        return None


def _averaging(arms: Arms, epochs: int) -> plasticity.Averaging | None:
    runs = [s for of in arms.values() for s in of if s.run.settings.get("first_task_nc1") is None]
    return next((one for one in plasticity.averaging(runs) if one.epochs == epochs), None)


def _compared(arms: Arms, options: Mapping[str, Any]) -> Arm | None:
    both = [*arms.get(options["plain"], ()), *arms.get(options["arm"], ())]
    try:
        return compare(Study(tuple(both)), "probe_test_accuracy")[0].arms[0]
    except InputError:  # one of them is missing
        return None


_OTHERS = measures.MEASURES | claims_lyle.MEASURES | claims_next.MEASURES

MEASURES: dict[str, Callable[[Arms, Mapping[str, Any]], Finding | None]] = _OTHERS | {
    f.__name__: f
    for f in (r_of_means, task_value, first_task_effect, averaging_share, threshold_r, probe_change, window_r, gain,
              matched_gain, failed_share)
}  # fmt: skip
"""What a claim's `measure` may name. The registry."""
