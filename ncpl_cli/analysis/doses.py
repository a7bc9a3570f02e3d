"""`compare --dose`: outcome against dose, one slope a seed.

The dose is the strength of the one intervention in which arms differ (positive holds collapse back, `direction=promote`
is negative, the plain arm is 0), or any setting of numbers that is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import resampling, statistics
from ncpl_cli.analysis.gain import Gain, over_seeds
from ncpl_cli.analysis.study import Group, Run, Study
from ncpl_cli.analysis.words import count, said
from ncpl_cli.errors import InputError, NothingFound

Array = NDArray[np.float64]

DOSE = "dose"
"""The setting that stands for a strength with its sign."""

FEWEST_DOSES = 3
"""Two doses are a difference, which `compare` gives; a line wants one more to bend at."""


@dataclass(frozen=True)
class Dose:
    """How an outcome goes with a dose: least squares within each seed over its doses, then over seeds.

    doses   the values; `slope`: change of the outcome per unit of dose
    bend    the quadratic coefficient: both directions that hurt have slope 0 and a bend
    ranks   Spearman's rho of dose and outcome
    """

    of: str
    doses: tuple[float, ...]
    slope: Gain
    bend: Gain
    ranks: Gain

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {"of": self.of, "doses": list(self.doses), "slope": self.slope.to_json(), "bend": self.bend.to_json(),
                "spearman": self.ranks.to_json()}  # fmt: skip


def dose_of(of: str, values: Mapping[int, Mapping[float, float]], flips: int = resampling.FLIPS, seed: int = 0) -> Dose:
    """The dose effect of {seed: {dose: outcome}}; seeds that have fewer than three doses are left out."""
    kept = {s: v for s, v in values.items() if len(v) >= FEWEST_DOSES}
    tables = {s: (np.array(list(v), dtype=np.float64), np.array(list(v.values()))) for s, v in kept.items()}
    slopes, bends, ranks = {}, {}, {}
    for s, (dose, outcome) in tables.items():
        slopes[s], bends[s] = line(dose, outcome)
        ranks[s] = _rank(dose, outcome)
    doses = sorted({d for v in kept.values() for d in v})

    def over(found: Mapping[int, float]) -> Gain:
        return over_seeds({s: v for s, v in found.items() if math.isfinite(v)}, flips, seed)

    return Dose(of, tuple(doses), over(slopes), over(bends), over(ranks))


def line(dose: Array, outcome: Array) -> tuple[float, float]:
    """(slope of the least-squares line, quadratic coefficient of the least-squares parabola)."""
    scale = float(np.abs(dose).max()) or 1.0
    x = dose / scale
    slope = float(np.polyfit(x, outcome, 1)[0])
    left = statistics.residuals(np.stack([outcome, x * x]), x[None, :])  # Frisch-Waugh: what a line leaves of both
    scatter = float(left[1] @ left[1])
    return slope / scale, float(left[0] @ left[1]) / scatter / scale**2 if scatter > 1e-12 else math.nan


def _rank(dose: Array, outcome: Array) -> float:
    """Spearman's rho, with ties as mean ranks; 0 where the outcome does not vary, 1 where it follows the dose."""
    x, y = statistics.ranks(dose), statistics.ranks(outcome)
    x, y = x - x.mean(), y - y.mean()
    scatter = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scatter if scatter > 0 else 0.0


# strengths as a setting ------------------------------------------------------------------------------------------


def dosed(study: Study) -> list[tuple[str, Study]]:
    """[(what is dosed, its runs with a setting `dose`)]: one entry for each intervention that comes in three doses.

    Arms of one entry differ in the strength and the direction of that intervention alone; the plain arm has the same
    settings and the other interventions.
    """
    found: dict[tuple[str, str], list[tuple[Any, float]]] = {}
    for series in study.series:
        for of, rest, dose in _doses(series.run):
            found.setdefault((of, rest), []).append((series, dose))
    made = []
    for (of, rest), members in found.items():
        plain = [(s, 0.0) for s in study.series if _rest(s.run) == rest]
        doses = {dose for _, dose in (*plain, *members)}
        if len(doses) >= FEWEST_DOSES:
            others = members[0][0].run.settings.get("interventions", ())
            kept = [t for t in others if not str(t).startswith(of.partition(":")[0])]
            made.append((of, Study(tuple(
                replace(s, run=replace(s.run, settings={**s.run.settings, "interventions": kept, DOSE: dose}))
                for s, dose in (*plain, *members)
            ))))  # fmt: skip
    if not made:
        known = sorted({of for of, _ in found})
        raise NothingFound(
            "there is no dose to compare: no intervention comes in three strengths (the plain arm counts as 0)"
            f"{'; here: ' + ', '.join(known) if known else ''}.",
            "train more strengths (--intervention nc1:strength=0.02, direction=promote), or name a setting of numbers: "
            "ncpl compare --dose --by lr",
        )
    return made


def no_dose(study: Study) -> str | None:
    """How the plain arm's dose is written; None without a plain arm: the smallest dose is compared with then."""
    return "0.0" if any(s.run.settings[DOSE] == 0 for s in study.series) else None


def _doses(run: Run) -> list[tuple[str, str, float]]:
    """(what is dosed, all other settings, the dose) for each intervention of a run that has a strength."""
    from ncpl_cli.interventions import parse  # options only: no torch

    texts = [str(text) for text in run.settings.get("interventions") or ()]  # type: ignore[attr-defined]
    found = []
    for text in texts:
        try:
            one = parse(text)
        except InputError:  # a part of somebody's own that is not here
            continue
        names = [f.name for f in fields(one)]
        if "strength" not in names:
            continue
        strength = float(one.strength)  # type: ignore[attr-defined]
        sign = -1.0 if getattr(one, "direction", "") == "promote" else 1.0
        default = {f.name: f.default for f in fields(one)}
        options = {name: default[name] for name in ("strength", "direction") if name in names}
        bare = replace(one, **options)
        others = [other for other in texts if other != text]
        found.append((bare.label, _rest(run, others), sign * strength))
    return found


def _rest(run: Run, others: Sequence[str] | None = None) -> str:
    """All settings beside one intervention, as a key."""
    settings = dict(run.settings)
    settings.pop("intervention_plugins", None)
    settings["interventions"] = list(settings.get("interventions") or ()) if others is None else list(others)  # type: ignore[call-overload]
    return repr((run.scenario, sorted((k, repr(v)) for k, v in settings.items())))


def numeric(together: Sequence[Group], by: str) -> None:
    """Raise InputError where a setting is no dose: no numbers, or two values only."""
    values = list(dict.fromkeys(said(g.run.settings.get(by)) for g in together))
    numbers = [g.run.settings.get(by) for g in together]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers):
        raise InputError(f"{by} is no dose: its values are no numbers ({', '.join(values)}).")
    if len(values) < FEWEST_DOSES:
        raise InputError(
            f"{by} has {count(len(values), 'value')} ({', '.join(values)}): a dose needs {FEWEST_DOSES}.",
            f"ncpl compare --by {by} compares two",
        )


def sentence(of: Dose, y: str, outcome: str) -> str:
    """What a person is told of a slope: how steep, how sure, and whether it bends."""
    from ncpl_cli.analysis.words import rounded

    def told(gain: Gain) -> str:
        low, high = gain.ci95 or (None, None)
        error = None if low is None or high is None else (high - low) / 4
        text = rounded(gain.mean, error)
        return text if low is None else f"{text} (95 % interval {rounded(low, error)} to {rounded(high, error)})"

    seeds = count(len(of.slope.per_seed), "seed")
    if of.slope.mean is None:
        return f"{y}, {outcome}: no seed has three doses of {of.of}."
    clear = of.slope.ci95 is not None and of.slope.ci95[0] * of.slope.ci95[1] > 0
    text = f"{y}, {outcome}: {told(of.slope)} per unit of {of.of}, over {seeds}"
    text += ", told from 0" if clear else ", not told from 0"
    bends = of.bend.ci95 is not None and of.bend.ci95[0] * of.bend.ci95[1] > 0
    return f"{text}; it bends: {told(of.bend)} per unit squared." if bends else f"{text}; no bend is told from 0."
