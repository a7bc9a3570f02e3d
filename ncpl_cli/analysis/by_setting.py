"""`compare --by SETTING`: each value of anything that varies against the smallest one, paired by seed.

A value at which runs diverged stays in the table: the worst arm is an arm. Beside the difference stands equivalence:
two one-sided t tests at 5 % (Schuirmann 1987), so that "no difference was seen" and "there is none worth speaking of"
are told apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ncpl_cli.analysis import doses, plain_arms, resampling
from ncpl_cli.analysis.aggregate import FEWEST_SCENARIOS, Aggregate, aggregate
from ncpl_cli.analysis.comparison import PHASE_1, Arm, Comparison, default_y, end_of_phase_1
from ncpl_cli.analysis.differing import LEFT_OUT
from ncpl_cli.analysis.gain import Gain, over_seeds
from ncpl_cli.analysis.outcomes import Outcome, common_tasks, outcomes
from ncpl_cli.analysis.results import number
from ncpl_cli.analysis.statistics import difference
from ncpl_cli.analysis.study import NOT_IDENTITY, Group, Study, groups
from ncpl_cli.analysis.through import through
from ncpl_cli.analysis.words import count, said
from ncpl_cli.errors import InputError, NothingFound, unknown


def compare_by(
    study: Study, by: str, ys: Sequence[str] = (), *, plain: str | None = None, margin: float | None = None,
    mediator: str | None = None, dose: str | None = None, flips: int = resampling.FLIPS, seed: int = 0,
) -> tuple[Comparison, ...]:  # fmt: skip
    """One comparison a scenario, combination of the other settings, y and outcome; arms sorted by gain, highest first.

    by      a setting that differs between runs
    plain   the value that the others are compared with; default the smallest that has a finished run
    margin  differences within it are equivalent; default the standard deviation over seeds of the plain value
    mediator  what each gain is split by (see `through`)
    dose    what the values are doses of, where the outcome's slope over them is asked for (see `doses`)
    Raises InputError where the setting is unknown or has one value only.
    """
    if not study.series:
        raise InputError("no run fits this selection.", "ncpl runs list shows all runs and their names")
    every = [g for g in groups(study) if not g.run.imported]
    known = {name for g in every for name in g.run.settings}
    if by not in known:
        raise unknown("setting of these runs", by, sorted(known))
    found: list[Comparison] = []
    for together in _alike(every, by):
        if dose is not None:
            doses.numeric(together, by)
        found += _comparisons(together, by, ys, plain, margin, mediator, dose, flips, seed)
    if not found:
        values = list(dict.fromkeys(said(g.run.settings.get(by)) for g in every))
        varying = [name for name in plain_arms.varying_settings(every) if name != by]
        raise NothingFound(
            f"there is nothing to compare by {by}: all runs{' that are alike otherwise' * (len(values) > 1)} have one "
            f"value ({', '.join(values)}).",
            f"settings that differ: {', '.join(varying) or 'none'}",
        )
    return tuple(_paid_for(found))


def _alike(every: Sequence[Group], by: str) -> Iterable[list[Group]]:
    """Groups that differ in `by` only (and in what is no part of identity), several values each."""
    found: dict[tuple[object, ...], list[Group]] = {}
    for g in every:
        rest = sorted((k, repr(v)) for k, v in g.run.settings.items() if k != by and k not in NOT_IDENTITY)
        found.setdefault((g.scenario, *rest), []).append(g)
    return [of for of in found.values() if len({repr(g.run.settings.get(by)) for g in of}) > 1]


def _order(value: object) -> tuple[int, float, str]:
    """None first, numbers by size, then words."""
    if value is None:
        return 0, 0.0, ""
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, said(value))


def _is(value: object, written: str) -> bool:
    """Whether a value is what was written on the command line."""
    if said(value) == written:
        return True
    try:
        return isinstance(value, int | float) and float(written) == float(value)
    except ValueError:
        return False


def _comparisons(
    together: Sequence[Group], by: str, ys: Sequence[str], plain: str | None, margin: float | None,
    mediator: str | None, dose: str | None, flips: int, seed: int,
) -> list[Comparison]:  # fmt: skip
    together = sorted(together, key=lambda g: _order(g.run.settings.get(by)))
    values = [g.run.settings.get(by) for g in together]
    notes = []
    living = [g for g in together if g.series]
    if not living:
        return []
    base = living[0]
    if plain is not None:
        named = [g for g in together if _is(g.run.settings.get(by), plain)]
        if not named:
            raise unknown(f"value of {by}", plain, map(said, values))
        base = named[0]
        if not base.series:
            raise InputError(f"there is nothing to compare with: {plain_arms.lost(base)}")
    elif base is not together[0]:
        notes.append(f"{by}={said(values[0])} has no run that finished; the others are compared with the next value.")
    runs = [s for g in living for s in g.series]
    if any(s.tasks > 1 for s in runs) and (most := max(s.tasks for s in runs)) > common_tasks(runs):
        notes.append(f"Compared over the first {common_tasks(runs)} of up to {most} tasks: those that all runs have.")
    chosen = list(ys)
    if not chosen:
        y, said_of_y = default_y(runs)
        chosen, notes = [y], [*notes, *said_of_y]
    found = []
    for y in chosen:
        for name, outcome in outcomes(runs, y).items():
            plain_values = {s.run.seed: v for s in base.series if math.isfinite(v := outcome(s))}
            spread = float(np.std(list(plain_values.values()), ddof=1)) if len(plain_values) > 1 else None
            within = spread if margin is None else margin
            arms = [_arm(g, base, by, plain_values, outcome, within, flips, seed) for g in together if g is not base]
            if mediator is not None:
                of = {repr(g.run.settings.get(by)): g.series for g in together}
                arms = [replace(a, through=through(of[repr(a.value)], base.series, y, mediator, flips=flips, seed=seed))
                        for a in arms]  # fmt: skip
            arms.sort(key=lambda a: -math.inf if a.gain.mean is None else a.gain.mean, reverse=True)
            settings = {k: v for k, v in base.settings.items() if k != by}
            found.append(
                Comparison(
                    base.scenario, settings, y, f"{by}={said(base.run.settings.get(by))}", tuple(arms), tuple(notes),
                    by=by, outcome=name, value=base.run.settings.get(by),
                    mean=float(np.mean(list(plain_values.values()))) if plain_values else None,
                    seeds=len(plain_values), margin=within,
                    dose=None if dose is None else doses.dose_of(dose, _by_seed(living, by, outcome), flips, seed),
                )
            )  # fmt: skip
    return found


def _by_seed(living: Sequence[Group], by: str, outcome: Outcome) -> dict[int, dict[float, float]]:
    """{seed: {value of the setting: outcome}}."""
    found: dict[int, dict[float, float]] = {}
    for g in living:
        for s in g.series:
            if math.isfinite(v := outcome(s)):
                found.setdefault(s.run.seed, {})[float(g.run.settings[by])] = v  # type: ignore[arg-type]
    return found


def _arm(
    arm: Group, base: Group, by: str, plain_values: dict[int, float], outcome: object, margin: float | None, flips: int,
    seed: int,
) -> Arm:  # fmt: skip
    assert callable(outcome)
    ours = {s.run.seed: v for s in arm.series if math.isfinite(v := outcome(s))}
    gains = {s: float(difference(np.asarray(ours[s]), np.asarray(plain_values[s]))) for s in ours if s in plain_values}
    gain = equivalence(over_seeds(gains, flips, seed), margin)
    value = arm.run.settings.get(by)
    paired = [[s for s in g.series if s.run.seed in gains] for g in (arm, base)]
    phase_1 = {m: (end_of_phase_1(paired[0], m), end_of_phase_1(paired[1], m)) for m in PHASE_1}
    notes = []
    statuses = " or ".join(sorted({s.run.status for s in arm.left_out}))
    if arm.left_out:
        total = len(arm.series) + len(arm.left_out)
        rest = "what is left may be the luckier ones" if arm.series else "no value is left"
        notes.append(f"{len(arm.left_out)} of {count(total, 'run')} {statuses}: {rest}.")
    unpaired = sorted({s.run.seed for s in arm.series} ^ {s.run.seed for s in base.series})
    if unpaired and gains:
        notes.append(f"Seeds on one side only, not used: {', '.join(map(str, unpaired))}.")
    if not gains and arm.series:
        notes.append("No seed has both values: nothing is paired.")
    return Arm(
        arm=f"{by}={said(value)}", name=arm.name, settings=arm.settings, phase_1=phase_1,
        later=(_mean(ours.values()), _mean(plain_values.values())), gain=gain, matched=None, failed_seeds=(),
        notes=tuple(notes), value=value, by=by,
        lost="" if arm.series else statuses,
    )  # fmt: skip


def over_scenarios(study: Study, found: Sequence[Comparison], *, seed: int = 0) -> tuple[Aggregate, ...]:
    """Each value over three scenarios and more that have it, by y and outcome; see `aggregate`."""
    by = next((of.by for of in found), None)
    kinds = dict.fromkeys((of.y, of.outcome) for of in found)
    aggregates = []
    for y, outcome in kinds:
        here = [of for of in found if (of.y, of.outcome) == (y, outcome)]
        if by is None or outcome is None or len({of.scenario for of in here}) < FEWEST_SCENARIOS:
            continue
        values: dict[str, dict[str, list[float]]] = {}
        meant: dict[str, object] = {}
        for of in here:
            runs = [s for s in study.series if s.run.scenario == of.scenario and s.run.status not in LEFT_OUT
                    and not s.run.imported and _of(s.run.settings, of.settings)]  # fmt: skip
            read = outcomes(runs, y).get(outcome) if runs else None
            if read is None:  # the comparison had further runs, whose tasks are fewer
                continue
            for s in runs:
                value = s.run.settings.get(by)
                if math.isfinite(v := read(s)):
                    meant[said(value)] = value
                    values.setdefault(said(value), {}).setdefault(of.scenario, []).append(v)
        plain = said(here[0].value)
        for name, of_value in values.items():
            one = aggregate(y, outcome, meant[name], of_value, None if name == plain else values[plain], seed=seed)
            if one is not None:
                aggregates.append(one)
    return tuple(sorted(aggregates, key=lambda a: (a.y, a.outcome, -a.iqm)))


def _of(settings: Mapping[str, object], shared: Mapping[str, object]) -> bool:
    """Whether a run is one of those that were compared: others of its scenario differ in more."""
    return all(repr(settings.get(key)) == repr(value) for key, value in shared.items())


def equivalence(gain: Gain, margin: float | None) -> Gain:
    """The gain with whether it lies within the margin: both one-sided t tests at 5 %, that is the 90 % interval."""
    values = np.array(list(gain.per_seed.values()))
    if margin is None or len(values) < 2 or gain.mean is None:
        return gain
    from scipy.special import stdtr

    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0:
        p = 0.0 if abs(gain.mean) < margin else 1.0
    else:
        p = float(max(stdtr(len(values) - 1, (gain.mean - margin) / error),
                      stdtr(len(values) - 1, -(gain.mean + margin) / error)))  # fmt: skip
    return replace(gain, margin=margin, p_equivalence=p)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def _paid_for(found: Sequence[Comparison]) -> list[Comparison]:
    """Benjamini-Yekutieli over all arms and outcomes of a scenario."""
    made = []
    for of in found:
        alike = [arm for other in found if other.scenario == of.scenario for arm in other.arms]
        p = np.array([math.nan if a.gain.p is None else a.gain.p for a in alike])
        adjusted = dict(zip(map(id, alike), resampling.benjamini_yekutieli(p), strict=True))
        several = len(alike) > 1
        arms = [replace(a, p_by=number(adjusted[id(a)])) if several else a for a in of.arms]
        made.append(replace(of, arms=tuple(arms)))
    return made
