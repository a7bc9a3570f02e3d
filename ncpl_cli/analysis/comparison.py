"""`compare`: arms against the plain arm, paired by seed, with what the first phase cost beside what was gained later.

The trap (SCIENCE 4): a penalty that ruins the first phase leaves a network nearer its initialisation, which then
learns the second phase well. B24's regularised gain is largely that: matched on phase-1 train accuracy it is
+0.0002 +- 0.012. So phase-1 accuracy stands beside every gain, arms whose first phase failed are flagged, and the
matched comparison takes only networks that had learned equally much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ncpl_cli import html
from ncpl_cli.analysis import plain_arms, resampling
from ncpl_cli.analysis.doses import Dose
from ncpl_cli.analysis.gain import POWER, Gain, over_seeds
from ncpl_cli.analysis.matching import MATCHED_WITHIN, Matched, later, match
from ncpl_cli.analysis.results import number
from ncpl_cli.analysis.statistics import difference
from ncpl_cli.analysis.study import NOT_IDENTITY, Group, Series, Study, groups
from ncpl_cli.analysis.through import Through, through
from ncpl_cli.analysis.words import p_text
from ncpl_cli.errors import InputError, NothingFound

FAILED_BELOW = 0.05
"""A first phase failed when its last train accuracy is more than this below the plain arm's."""

PHASE_1 = ("train_accuracy", "test_accuracy", "nc1")
"""What is shown of the first phase (of the first task), at its last recorded epoch."""

ADDRESSES = (*PHASE_1, "online_accuracy", "task_online_accuracy", "probe_test_accuracy")
"""What a comparison reads where no outcome is named: phase 1, and every metric that `default_y` may choose."""


@dataclass(frozen=True)
class Arm:
    """One arm against the plain arm.

    phase_1       {metric: (arm, plain)}, means over the paired seeds at the first phase's last epoch
    later         (arm, plain) mean of y
    failed_seeds  seeds whose phase-1 train accuracy ended more than .05 below the plain arm's
    matched       None where phase-1 accuracies are not recorded beside y (there is then nothing to match on)
    by, value     the setting that arms are told apart by, where one was asked for, and this arm's value of it
    through       what of the gain goes with the change of a mediator, where one was asked for
    lost          what became of the runs of an arm of which none is left: diverged, failed
    """

    arm: str
    name: str | None
    settings: Mapping[str, object]
    phase_1: Mapping[str, tuple[float | None, float | None]]
    later: tuple[float | None, float | None]
    gain: Gain
    matched: Matched | None
    failed_seeds: tuple[int, ...]
    notes: tuple[str, ...]
    p_by: float | None = None
    by: str | None = None
    value: object = None
    through: Through | None = None
    lost: str = ""

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {
            "arm": self.arm,
            "by": self.by,
            "value": self.value,
            "name": self.name,
            "settings": dict(self.settings),
            "phase_1": {m: {"arm": a, "plain": b} for m, (a, b) in self.phase_1.items()},
            "later": {"arm": self.later[0], "plain": self.later[1]},
            "gain": {**self.gain.to_json(), "p_benjamini_yekutieli": self.p_by},
            "matched": None if self.matched is None else self.matched.to_json(),
            "phase_1_failed": bool(self.failed_seeds),
            "failed_seeds": list(self.failed_seeds),
            "notes": list(self.notes),
            **({} if self.through is None else {"through": self.through.to_json()}),
        }


@dataclass(frozen=True)
class Comparison:
    """All arms of a scenario that have one plain arm. `settings`: what tells this plain arm from other plain arms.

    Where arms are told apart `by` a setting: its plain `value`, the `outcome` of y that is compared, the plain arm's
    `mean` of it over so many `seeds`, the `margin` within which differences are equivalent, and the `dose` effect.
    """

    scenario: str
    settings: Mapping[str, object]
    y: str
    plain: str
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]
    by: str | None = None
    outcome: str | None = None
    value: object = None
    mean: float | None = None
    seeds: int = 0
    margin: float | None = None
    dose: Dose | None = None

    def _repr_html_(self) -> str:
        rows = [
            (one.arm, *one.later, one.gain.mean, *(one.gain.ci95 or (None, None)), one.gain.p, len(one.gain.per_seed))
            for one in self.arms
        ]
        columns = ("arm", self.y, "plain", "gain", "low", "high", "p", "seeds")
        notes = [*self.notes, *(f"{one.arm}: {note}" for one in self.arms for note in one.notes)]
        return html.shown(f"{self.scenario}: arms against {self.plain}", columns, rows, notes)

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {
            "scenario": self.scenario, "settings": dict(self.settings), "y": self.y, "plain": self.plain,
            "by": self.by, "outcome": self.outcome, "value": self.value, "plain_mean": self.mean, "margin": self.margin,
            "arms": [arm.to_json() for arm in self.arms], "notes": list(self.notes),
            **({} if self.dose is None else {"dose": self.dose.to_json()}),
        }  # fmt: skip


def compare(
    study: Study, y: str | None = None, *, plain: str | None = None, mediator: str | None = None,
    flips: int = resampling.FLIPS, seed: int = 0,
) -> tuple[Comparison, ...]:  # fmt: skip
    """Every arm against the plain arm of its scenario and settings.

    y      what is gained; default probe_test_accuracy, first-epoch online accuracy where tasks follow each other
    plain  label of the plain arm; default the runs without interventions and weight decay
    mediator  what each gain is split by (see `through`)
    Raises InputError when there is no plain arm, or no arm beside it.
    """
    if not study.series:
        raise InputError("no run fits this selection.", "ncpl runs list shows all runs and their names")
    together: dict[int, tuple[Group, list[Group]]] = {}
    every = groups(study)
    everything = [g for g in every if g.series]
    notes: dict[str, list[str]] = {}
    for g in every:
        if not g.series:
            notes.setdefault(g.scenario, []).append(f"Not compared: {plain_arms.lost(g)}")
    for arm in everything:
        base = plain_arms.plain_of(arm, everything, plain)
        if base is None:
            why = plain_arms.without_plain(arm, everything)
            notes.setdefault(arm.scenario, []).append(f"Not compared: {why}.")
        elif base is not arm:
            together.setdefault(id(base), (base, []))[1].append(arm)
    if not together:
        raise plain_arms.nothing_to_compare(everything or every, plain)
    found = []
    for base, arms in together.values():
        chosen, said = (y, ()) if y else default_y([s for g in (base, *arms) for s in g.series])
        made = [_arm(arm, base, chosen, mediator, flips, seed) for arm in arms]
        if len(made) > 1:
            p = np.array([math.nan if a.gain.p is None else a.gain.p for a in made])
            adjusted = resampling.benjamini_yekutieli(p)
            made = [replace(a, p_by=number(q)) for a, q in zip(made, adjusted, strict=True)]
        settings = {k: v for k, v in base.settings.items() if k not in plain_arms.TREATMENTS}
        found.append(Comparison(base.scenario, settings, chosen, plain_arms.label(base, None), tuple(made),
                                (*said, *notes.pop(base.scenario, ()))))  # fmt: skip
    return tuple(found)


def check_answered(study: Study, found: Sequence[Comparison]) -> None:
    """Raise InputError where not a single arm could be compared: an answer without a number is none."""
    if any(arm.gain.mean is not None for of in found for arm in of.arms):
        return
    outcomes = list(dict.fromkeys(of.y for of in found))
    recorded = study.addresses()
    if absent := [y for y in outcomes if y not in recorded]:
        raise InputError(
            f"{' and '.join(absent)} was not recorded in these runs, so nothing can be compared.",
            f"name what is, with --y: {', '.join(recorded) or 'nothing'}",
        )
    raise NothingFound(
        f"no seed has {' or '.join(outcomes)} at the same places in an arm and in its plain arm.",
        "train both with the same seeds (--seeds 0-4) and as many tasks or probes; ncpl runs list shows them",
    )


def check_mediator(study: Study, mediator: str | None) -> None:
    """Raise InputError where no run has a value of what gains are to be split by."""
    recorded = study.addresses()
    if mediator is not None and mediator not in recorded:
        raise InputError(
            f"--through {mediator}: it was not recorded in these runs.",
            f"train with --metrics default,{mediator}; recorded here: {', '.join(recorded) or 'nothing'}",
        )


def default_y(runs: Sequence[Series]) -> tuple[str, tuple[str, ...]]:
    """What is compared where nothing is named, and a note.

    First-epoch online accuracy where tasks follow each other; on random labels, where that is chance for every network,
    the task's mean; the probes' test accuracy in warm starts, else the test accuracy.
    """
    if any(s.tasks > 1 for s in runs):
        if not any(s.run.scenario == "shuffled-labels" for s in runs):
            return "online_accuracy", ()
        blind = "On random labels the first epoch's accuracy is chance for every network"
        if any(np.isfinite(s.column("task_online_accuracy")).any() for s in runs):
            return "task_online_accuracy", (f"{blind}: y is the task's mean, task_online_accuracy.",)
        return "online_accuracy", (f"{blind}: --metrics task_online_accuracy records the task's mean.",)
    if any(np.isfinite(s.column("probe_test_accuracy")).any() for s in runs):
        return "probe_test_accuracy", ()
    return "test_accuracy", ("No probe_test_accuracy was recorded: y is test_accuracy.",)


def _arm(arm: Group, plain: Group, y: str, mediator: str | None, flips: int, seed: int) -> Arm:
    ours = {s.run.seed: s for s in arm.series}
    theirs = {s.run.seed: s for s in plain.series}
    seeds = [s for s in ours if s in theirs]
    several = any(s.tasks > 1 for s in (*arm.series, *plain.series))
    gains: dict[int, float] = {}
    means: list[tuple[float, float]] = []
    matched: dict[int, float] = {}
    pairs = points = 0
    for s in seeds:
        a, b = later(ours[s], y), later(theirs[s], y)
        common, at_a, at_b = np.intersect1d(a.place, b.place, return_indices=True)
        if len(common):
            gains[s] = float(difference(a.y[at_a], b.y[at_b]).mean())
            means.append((float(a.y[at_a].mean()), float(b.y[at_b].mean())))
        differences = match(a, b)
        points += len(a.place)
        pairs += len(differences)
        if len(differences):
            matched[s] = float(differences.mean())
    phase_1 = {
        m: (end_of_phase_1([ours[s] for s in seeds], m), end_of_phase_1([theirs[s] for s in seeds], m)) for m in PHASE_1
    }
    failed = tuple(
        s for s in seeds if _end(theirs[s], "train_accuracy") - _end(ours[s], "train_accuracy") > FAILED_BELOW
    )
    result = Arm(
        arm=plain_arms.label(arm, plain),
        name=arm.name,
        settings=arm.settings,
        phase_1=phase_1,
        later=(mean([m[0] for m in means]), mean([m[1] for m in means])),
        gain=over_seeds(gains, flips, seed),
        matched=None
        if several
        else Matched(over_seeds(matched, flips, seed), pairs, 1 - pairs / points if points else 1.0),
        failed_seeds=failed,
        notes=(),
        through=None if mediator is None else through(arm.series, plain.series, y, mediator, flips=flips, seed=seed),
    )
    return replace(result, notes=tuple(_notes(result, arm, plain, seeds)))


def _end(series: Series, metric: str) -> float:
    """A metric at the last recorded epoch of the first phase (the first task) that has it; NaN where none has."""
    ends = series.task_ends()
    if not len(ends):
        return math.nan
    column = series.column(metric)[: ends[0] + 1]
    column = column[np.isfinite(column)]
    return float(column[-1]) if len(column) else math.nan


def end_of_phase_1(series: Sequence[Series], metric: str) -> float | None:
    """Mean over runs of a metric at the end of their first phase; None where none has it."""
    return mean([v for s in series if math.isfinite(v := _end(s, metric))])


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return float(np.mean(values)) if len(values) else None


def _notes(result: Arm, arm: Group, plain: Group, seeds: Sequence[int]) -> list[str]:
    found = []
    gain, matched = result.gain, result.matched
    if otherwise := {k: v for k, v in plain_arms.differing(arm, plain).items() if k in NOT_IDENTITY}:
        found.append(
            f"The arm and its plain arm were set up with other {' and '.join(otherwise)} "
            f"({plain_arms.against(otherwise)}): compared is what both have."
        )
    if result.failed_seeds:
        a, b = result.phase_1["train_accuracy"]
        found.append(
            f"Phase 1 failed in {len(result.failed_seeds)} of {len(seeds)} seeds (train accuracy more than "
            f"{FAILED_BELOW} below the plain arm's; means {a:.3f} and {b:.3f}): a gain here may be lost training."
        )
    if None in result.phase_1["train_accuracy"]:
        found.append("Phase-1 train accuracy is not recorded in both arms: whether phase 1 failed is not known.")
    if gain.mean is None:
        found.append("No seed has both arms at the same places: nothing is paired.")
        return found
    if len(gain.per_seed) < resampling.FEWEST_RUNS:
        found.append(f"{len(gain.per_seed)} paired seeds: no p-value is printed below six.")
    if gain.ci95 is not None and gain.ci95[0] <= 0 <= gain.ci95[1] and gain.detectable is not None:
        found.append(
            f"The interval includes 0: these seeds would have shown a gap of {gain.detectable:.3g} or more with "
            f"{POWER:.0%} probability, a smaller one not."
        )
    elif gain.p is not None:
        found.append(f"Paired by seed, sign-flip p = {p_text(gain.p)}.")
    if matched is None:
        found.append("No matched comparison: tasks share one first phase, there are no probes to match.")
    elif matched.gain.mean is None:
        found.append("No probe of the arm has a plain probe that had learned equally much: nothing can be matched.")
    else:
        vanishes = abs(matched.gain.mean) < abs(gain.mean) / 2 or matched.gain.mean * gain.mean < 0
        if all(g.ci95 is not None and g.ci95[0] <= 0 <= g.ci95[1] for g in (gain, matched.gain)):
            what = "neither is told from 0 by these seeds"
        else:
            what = "most of the gain is gone" if vanishes else "the gain stands"
        found.append(
            f"Against plain networks with the same phase-1 train accuracy (within {MATCHED_WITHIN}) the gain is "
            f"{matched.gain.mean:+.4f} instead of {gain.mean:+.4f}: {what}; {matched.unmatched:.0%} of the probes "
            "have no match."
        )
    unpaired = sorted(({s.run.seed for s in arm.series} ^ {s.run.seed for s in plain.series}) - set(seeds))
    if unpaired:
        found.append(f"Seeds in one arm only, not used: {', '.join(map(str, unpaired))}.")
    if len(arm.series) > len({s.run.seed for s in arm.series}):
        found.append("Several runs of one seed in this arm: the last one counts.")
    lost = [*arm.left_out, *plain.left_out]
    if lost:
        listed = ", ".join(f"{s.run.id} (seed {s.run.seed}, {s.run.status})" for s in lost)
        found.append(f"Left out: {listed}. What survives may differ from what failed.")
    return found
