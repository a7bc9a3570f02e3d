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
from numpy.typing import NDArray

from ncpl_cli.analysis import resampling, statistics
from ncpl_cli.analysis.results import number
from ncpl_cli.analysis.sentences import p_text
from ncpl_cli.analysis.study import Group, Series, Study, groups
from ncpl_cli.errors import InputError

Array = NDArray[np.float64]

FAILED_BELOW = 0.05
"""A first phase failed when its last train accuracy is more than this below the plain arm's."""

MATCHED_WITHIN = 0.02
"""Two networks had learned equally much when their phase-1 train accuracies differ by no more than this."""

POWER = 0.8
"""The smallest detectable gap is found with this probability at p < .05, two-sided."""

PHASE_1 = ("train_accuracy", "test_accuracy", "nc1")
"""What is shown of the first phase (of the first task), at its last recorded epoch."""

TREATMENTS = frozenset({"interventions", "weight_decay"})
"""Settings in which an arm may differ from its plain arm."""

PLAIN_NAMES = ("plain", "baseline", "control", "none")
"""Names by which the plain arm of imported runs is known without being named."""


@dataclass(frozen=True)
class Gain:
    """A paired difference, arm minus plain, over seeds.

    mean, ci95   over seeds (t interval)
    p            exact two-sided sign-flip p, from six seeds on
    detectable   smallest true gap that these seeds show with 80 % power: (t(.975) + t(.80)) s / sqrt(n)
    per_seed     the difference of each seed
    """

    mean: float | None
    ci95: tuple[float, float] | None
    p: float | None
    detectable: float | None
    per_seed: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {
            "mean": self.mean, "ci95": self.ci95 and list(self.ci95), "p_sign_flip": self.p,
            "smallest_detectable": self.detectable, "n_seeds": len(self.per_seed),
            "per_seed": {str(seed): value for seed, value in self.per_seed.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class Matched:
    """The gain over plain networks that had learned equally much in phase 1; `unmatched`: share without such a one."""

    gain: Gain
    pairs: int
    unmatched: float

    def to_json(self) -> dict[str, Any]:
        """The gain's keys, and how much of the arm could be matched."""
        return {**self.gain.to_json(), "pairs": self.pairs, "unmatched_share": self.unmatched}


@dataclass(frozen=True)
class Arm:
    """One arm against the plain arm.

    phase_1       {metric: (arm, plain)}, means over the paired seeds at the first phase's last epoch
    later         (arm, plain) mean of y
    failed_seeds  seeds whose phase-1 train accuracy ended more than .05 below the plain arm's
    matched       None where phase-1 accuracies are not recorded beside y (there is then nothing to match on)
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

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {
            "arm": self.arm,
            "name": self.name,
            "settings": dict(self.settings),
            "phase_1": {m: {"arm": a, "plain": b} for m, (a, b) in self.phase_1.items()},
            "later": {"arm": self.later[0], "plain": self.later[1]},
            "gain": {**self.gain.to_json(), "p_benjamini_yekutieli": self.p_by},
            "matched": None if self.matched is None else self.matched.to_json(),
            "phase_1_failed": bool(self.failed_seeds),
            "failed_seeds": list(self.failed_seeds),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Comparison:
    """All arms of a scenario that have one plain arm. `settings`: what tells this plain arm from other plain arms."""

    scenario: str
    settings: Mapping[str, object]
    y: str
    plain: str
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {
            "scenario": self.scenario, "settings": dict(self.settings), "y": self.y, "plain": self.plain,
            "arms": [arm.to_json() for arm in self.arms], "notes": list(self.notes),
        }  # fmt: skip


def compare(
    study: Study, y: str | None = None, *, plain: str | None = None, flips: int = resampling.FLIPS, seed: int = 0
) -> tuple[Comparison, ...]:
    """Every arm against the plain arm of its scenario and settings.

    y      what is gained; default probe_test_accuracy, first-epoch online accuracy where tasks follow each other
    plain  label of the plain arm; default the runs without interventions and weight decay
    Raises InputError when there is no plain arm, or no arm beside it.
    """
    if not study.series:
        raise InputError("no run fits this selection.", "ncpl runs list shows all runs and their names")
    together: dict[int, tuple[Group, list[Group]]] = {}
    everything = [g for g in groups(study) if g.series]
    for arm in everything:
        base = _plain_of(arm, everything, plain)
        if base is not None and base is not arm:
            together.setdefault(id(base), (base, []))[1].append(arm)
    if not together:
        listed = " | ".join(f"{g.title}: {_label(g, None)}" for g in everything)
        raise InputError(
            f"there is nothing to compare: no arm has a plain arm (without interventions) beside it among: {listed}.",
            "name the plain arm by its label: ncpl compare --plain LABEL",
        )
    found = []
    for base, arms in together.values():
        chosen, notes = (y, ()) if y else _default_y([base, *arms])
        made = [_arm(arm, base, chosen, flips, seed) for arm in arms]
        if len(made) > 1:
            p = np.array([math.nan if a.gain.p is None else a.gain.p for a in made])
            adjusted = resampling.benjamini_yekutieli(p)
            made = [replace(a, p_by=number(q)) for a, q in zip(made, adjusted, strict=True)]
        settings = {k: v for k, v in base.settings.items() if k not in TREATMENTS}
        found.append(Comparison(base.scenario, settings, chosen, _label(base, None), tuple(made), notes))
    return tuple(found)


def _plain_of(arm: Group, everything: Sequence[Group], plain: str | None) -> Group | None:
    """The plain arm that an arm belongs to: the same settings without treatments."""
    here = [g for g in everything if g.scenario == arm.scenario]
    if plain is not None:
        named = [g for g in here if any(plain in s.run.names for s in g.series)]
        if len(named) > 1:
            raise InputError(f"the label {plain!r} is on {len(named)} arms of {arm.scenario}: it must name one.")
        return named[0] if named else None
    if arm.series[0].run.imported:
        known = [g for g in here if g.name is not None and g.name.lower() in PLAIN_NAMES]
        return known[0] if len(known) == 1 else None
    rest = _untreated(arm)
    same = [g for g in here if _untreated(g) == rest and not g.series[0].run.imported]
    bare = [g for g in same if not any(_setting(g, name) for name in TREATMENTS)]
    # a study in which every arm has weight decay is compared under it
    alike = [g for g in same if not _setting(g, "interventions")
             and _setting(g, "weight_decay") == _setting(arm, "weight_decay")]  # fmt: skip
    return bare[0] if len(bare) == 1 else alike[0] if len(alike) == 1 else None


def _setting(group: Group, name: str) -> object:
    return group.series[0].run.settings.get(name)


def _untreated(group: Group) -> dict[str, str]:
    settings = group.series[0].run.settings
    return {name: repr(value) for name, value in settings.items() if name not in TREATMENTS}


def _label(group: Group, plain: Group | None) -> str:
    """How an arm is called: its treatment, else its name."""
    run = group.series[0].run
    if run.imported:
        return group.name or "imported"
    treatments = run.settings.get("interventions") or []
    words = [str(t) for t in treatments] if isinstance(treatments, list | tuple) else [str(treatments)]
    if decay := run.settings.get("weight_decay"):
        words.append(f"weight_decay={decay}")
    if plain is not None and not words:
        words = [f"{k}={v}" for k, v in run.settings.items() if plain.series[0].run.settings.get(k) != v]
    return " + ".join(words) or "plain"


def _default_y(arms: Sequence[Group]) -> tuple[str, tuple[str, ...]]:
    series = [s for arm in arms for s in arm.series]
    if any(s.tasks > 1 for s in series):
        return "online_accuracy", ()
    if any(np.isfinite(s.column("probe_test_accuracy")).any() for s in series):
        return "probe_test_accuracy", ()
    return "test_accuracy", ("No probe_test_accuracy was recorded: y is test_accuracy.",)


@dataclass(frozen=True, eq=False)
class _Later:
    """What came later in one run: the place (probe's epoch or task), y, and how much phase 1 had taught by then."""

    place: Array
    y: Array
    learned: Array


def _later(series: Series, y: str) -> _Later:
    if series.tasks > 1:  # one point a task after the first; phase 1 is the first task, the same for all points
        stop = -1 if series.unfinished_task() else None
        places, values = series.task[series.task_ends()][1:stop], series.per_task(y)[1:stop]
        learned = np.full(len(values), np.nan)
    else:
        places, values, learned = series.epoch, series.column(y), series.column("train_accuracy")
    rows = np.isfinite(values)
    return _Later(places[rows], values[rows], learned[rows])


def _arm(arm: Group, plain: Group, y: str, flips: int, seed: int) -> Arm:
    ours = {s.run.seed: s for s in arm.series}
    theirs = {s.run.seed: s for s in plain.series}
    seeds = [s for s in ours if s in theirs]
    several = any(s.tasks > 1 for s in (*arm.series, *plain.series))
    gains, means = {}, []
    matched: dict[int, float] = {}
    pairs = points = 0
    for s in seeds:
        a, b = _later(ours[s], y), _later(theirs[s], y)
        common, at_a, at_b = np.intersect1d(a.place, b.place, return_indices=True)
        if len(common):
            gains[s] = float((a.y[at_a] - b.y[at_b]).mean())
            means.append((float(a.y[at_a].mean()), float(b.y[at_b].mean())))
        differences = _match(a, b)
        points += len(a.place)
        pairs += len(differences)
        if len(differences):
            matched[s] = float(differences.mean())
    phase_1 = {m: (_phase_1([ours[s] for s in seeds], m), _phase_1([theirs[s] for s in seeds], m)) for m in PHASE_1}
    failed = tuple(
        s for s in seeds if _end(theirs[s], "train_accuracy") - _end(ours[s], "train_accuracy") > FAILED_BELOW
    )
    result = Arm(
        arm=_label(arm, plain),
        name=arm.name,
        settings=arm.settings,
        phase_1=phase_1,
        later=(_mean([m[0] for m in means]), _mean([m[1] for m in means])),
        gain=over_seeds(gains, flips, seed),
        matched=None
        if several
        else Matched(over_seeds(matched, flips, seed), pairs, 1 - pairs / points if points else 1.0),
        failed_seeds=failed,
        notes=(),
    )
    return replace(result, notes=tuple(_notes(result, arm, plain, seeds)))


def _match(arm: _Later, plain: _Later) -> Array:
    """y of each point of the arm minus y of the plain point with the nearest phase-1 train accuracy, where near."""
    known = np.isfinite(plain.learned)
    learned, values = plain.learned[known], plain.y[known]
    if not len(learned):
        return np.array([])
    found = []
    for value, accuracy in zip(arm.y, arm.learned, strict=True):
        if math.isfinite(accuracy):
            nearest = int(np.argmin(np.abs(learned - accuracy)))
            if abs(learned[nearest] - accuracy) <= MATCHED_WITHIN + 1e-12:
                found.append(value - values[nearest])
    return np.array(found)


def _end(series: Series, metric: str) -> float:
    """A metric at the last recorded epoch of the first phase (the first task) that has it; NaN where none has."""
    ends = series.task_ends()
    if not len(ends):
        return math.nan
    column = series.column(metric)[: ends[0] + 1]
    column = column[np.isfinite(column)]
    return float(column[-1]) if len(column) else math.nan


def _phase_1(series: Sequence[Series], metric: str) -> float | None:
    return _mean([v for s in series if math.isfinite(v := _end(s, metric))])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def over_seeds(per_seed: Mapping[int, float], flips: int = resampling.FLIPS, seed: int = 0) -> Gain:
    """A difference over seeds: mean, t interval, sign-flip p, and the smallest gap they could have shown."""
    values = np.array(list(per_seed.values()))
    n = len(values)
    detectable = None
    if n > 1:
        from scipy.special import stdtrit

        quantiles = float(stdtrit(n - 1, 0.975)) + float(stdtrit(n - 1, POWER))
        detectable = quantiles * float(values.std(ddof=1)) / math.sqrt(n)
    p = number(resampling.sign_flips(values[:, None], flips=flips, seed=seed).p[0]) if n else None
    return Gain(_mean(list(values)), statistics.t_interval(values), p, detectable, dict(per_seed))


def _notes(result: Arm, arm: Group, plain: Group, seeds: Sequence[int]) -> list[str]:
    found = []
    gain, matched = result.gain, result.matched
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
