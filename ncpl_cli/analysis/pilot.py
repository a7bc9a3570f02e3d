"""How many seeds a gap takes: from what the runs in a store, or a pilot, have shown of the spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ncpl_cli.analysis.comparison import compare, default_y
from ncpl_cli.analysis.differing import LEFT_OUT
from ncpl_cli.analysis.gain import POWER, power, seeds_needed
from ncpl_cli.analysis.outcomes import outcomes
from ncpl_cli.analysis.study import Study, groups
from ncpl_cli.analysis.words import count
from ncpl_cli.errors import InputError

FEWEST = 3
"""Seeds from which a spread is taken; of two it may be anything."""


@dataclass(frozen=True)
class Spread:
    """The standard deviation of a seed's paired difference in y, how it is known, and from how many degrees of freedom.

    paired  whether it is of paired differences; else it is of single runs times the root of two, which is at least as
            much, since pairs share their seed's luck
    """

    y: str
    value: float
    freedom: int
    paired: bool
    source: str


@dataclass(frozen=True)
class Needed:
    """What a gap takes.

    seeds    for 80 % power (None: more than 10 000); `power`: of the seeds that were asked for
    between  the same at both ends of the spread's 80 % interval (chi squared): few pilot runs know it badly
    """

    gap: float
    spread: Spread
    seeds: int | None
    asked: int
    power: float
    between: tuple[int | None, int | None] = (None, None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "gap": self.gap, "y": self.spread.y, "spread": self.spread.value, "paired": self.spread.paired,
            "degrees_of_freedom": self.spread.freedom, "source": self.spread.source, "seeds": self.seeds,
            "seeds_between": list(self.between), "seeds_asked": self.asked, "power": self.power, "wanted_power": POWER,
        }  # fmt: skip

    def _range(self) -> str:
        low, high = self.between
        many = "more than 10 000" if high is None else str(high)
        return "" if low == high else f"{low} to {many}, as far as {self.spread.freedom} degrees of freedom know; "

    def sentence(self) -> str:
        """For people."""
        seeds = "more than 10 000 seeds" if self.seeds is None else count(self.seeds, "seed")
        return (
            f"To show a gap of {self.gap:g} in {self.spread.y} with {POWER:.0%} probability takes {seeds} an arm "
            f"({self._range()}spread {self.spread.value:.3g}, {self.spread.source}); {count(self.asked, 'seed')} would "
            f"show it with {self.power:.0%}."
        )


def spread(study: Study, settings: Mapping[str, object]) -> Spread | None:
    """The spread of paired differences among runs like these (dataset, network); None where nothing is known.

    Of arms that are compared in the store, pooled; else of single runs over seeds, times the root of two.
    """
    like = tuple(
        s for s in study.series
        if s.run.status not in LEFT_OUT and not s.run.imported
        and all(s.run.settings.get(key) == settings.get(key) for key in ("dataset", "network"))
    )  # fmt: skip
    if not like:
        return None
    y, _ = default_y(like)
    differences = []
    try:
        for of in compare(Study(like), y):
            differences += [list(a.gain.per_seed.values()) for a in of.arms if len(a.gain.per_seed) >= FEWEST]
    except InputError:  # no arm has a plain arm
        pass
    if found := _pooled(differences):
        value, freedom = found
        return Spread(y, value, freedom, True, f"from paired differences of {count(len(differences), 'stored arm')}")
    values = []
    for group in groups(Study(like)):
        read = next(iter(outcomes(group.series, y).values()))
        defined = [v for s in group.series if math.isfinite(v := read(s))]
        if len(defined) >= FEWEST:
            values.append(defined)
    if found := _pooled(values):
        value, freedom = found
        runs = sum(map(len, values))
        source = f"at most, from {count(runs, 'stored run')} over seeds, as pairs share their seed's luck"
        return Spread(y, math.sqrt(2) * value, freedom, False, source)
    return None


def needed(study: Study, settings: Mapping[str, object], gap: float, asked: int) -> Needed | None:
    """What a gap takes with runs like these; None where their spread is not known."""
    found = spread(study, settings)
    if found is None:
        return None
    from scipy.special import chdtri

    # 80 % interval of the spread: s sqrt(df / chi2), chdtri takes the upper tail
    ends = [found.value * math.sqrt(found.freedom / float(chdtri(found.freedom, tail))) for tail in (0.1, 0.9)]
    low, high = (seeds_needed(end, gap) for end in ends)
    return Needed(gap, found, seeds_needed(found.value, gap), asked, power(found.value, gap, asked), (low, high))


def _pooled(samples: list[list[float]]) -> tuple[float, int] | None:
    """Pooled standard deviation and its degrees of freedom."""
    freedom = sum(len(sample) - 1 for sample in samples)
    if not freedom:
        return None
    squares = sum(float(np.var(sample, ddof=1)) * (len(sample) - 1) for sample in samples)
    return math.sqrt(squares / freedom), freedom
