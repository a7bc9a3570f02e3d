"""The verdict over every defensible analysis: how many agree, how far they reach, and which choice decides the sign.

After Simonsohn, Simmons & Nelson, *Specification curve analysis*, Nature Human Behaviour 2020, the run as unit: r of
each run through each specification is one value, the sign of all values of a run is flipped together, and what is
tested are the median over specifications and the share with one sign. Under no association a run's values are as
likely negative as positive, however they depend on each other, so the test is exact from six runs on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import resampling, statistics
from ncpl_cli.analysis.directions import DIRECTIONS, direction, is_collapse
from ncpl_cli.analysis.results import DEFAULT_CONTROL, Options
from ncpl_cli.analysis.specifications import Specification, r_of_runs
from ncpl_cli.analysis.study import Group
from ncpl_cli.analysis.tracks import track
from ncpl_cli.analysis.words import count, p_text
from ncpl_cli.records import Address

Array = NDArray[np.float64]

AGREE = 0.95
"""From this share of specifications with one sign on they are said to agree."""

SPLIT = 0.75
"""Below this share the sign is said to depend on the choices."""

_TIE = 1e-12


@dataclass(frozen=True)
class One:
    """One specification over runs: mean r, its 95 % interval (t over the runs' Fisher z), number of runs."""

    choices: Mapping[str, str]
    r: float
    ci95: tuple[float, float] | None
    runs: int

    def to_json(self) -> dict[str, Any]:
        """The choices, r, interval and runs."""
        return {**self.choices, "r": self.r, "ci95": self.ci95 and list(self.ci95), "n_runs": self.runs}


@dataclass(frozen=True)
class Decisive:
    """A choice, with the median r of the specifications that make it and of those that do not."""

    choice: str
    r_with: float
    r_without: float

    @property
    def change(self) -> float:
        """How far the choice moves the median."""
        return abs(self.r_with - self.r_without)

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {"choice": self.choice, "r_with": self.r_with, "r_without": self.r_without}


@dataclass(frozen=True)
class Multiverse:
    """All specifications, weakest first.

    same_sign           share of specifications with the majority's sign
    p_median, p_share   permutation tests over runs (see the module); None below six runs
    undefined           specifications without a value in any run
    decisive            every choice that some specifications make and others do not, the most decisive first
    """

    curve: tuple[One, ...]
    same_sign: float
    p_median: float | None
    p_share: float | None
    undefined: int
    decisive: tuple[Decisive, ...]
    runs: int
    verdict: str
    kind: str

    @property
    def r(self) -> tuple[float, float, float]:
        """Lowest, median, highest."""
        values = [one.r for one in self.curve]
        return values[0], float(np.median(values)), values[-1]

    def to_json(self) -> dict[str, Any]:
        """INTERFACE's `multiverse`, and more."""
        low, middle, high = self.r
        return {
            "specifications": len(self.curve),
            "same_sign": self.same_sign,
            "r": {"lowest": low, "median": middle, "highest": high},
            "decisive": [one.to_json() for one in self.decisive],
            "verdict": self.verdict,
            "kind": self.kind,
            "p_median": self.p_median,
            "p_same_sign": self.p_share,
            "n_runs": self.runs,
            "undefined": self.undefined,
            "curve": [one.to_json() for one in self.curve],
        }


def collapse_addresses(group: Group, x: str) -> list[str]:
    """What may stand for x: every recorded collapse metric, split and layer; x alone where it is no such metric."""
    if not is_collapse(Address.parse(x).metric):
        return [x]
    columns = [(a, column) for s in group.series for a, column in s.columns.items()]
    recorded = {a for a, column in columns if is_collapse(Address.parse(a).metric) and _varies(column)}
    return [x, *sorted(recorded - {x})]


def multiverse(
    group: Group, x: str, y: str, options: Options, *, metrics: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Multiverse | None:  # fmt: skip
    """Every specification of x with y in one group; None where not one is defined.

    metrics  what may stand for x; default every recorded collapse metric, split and layer
    """
    several = any(s.tasks > 1 for s in group.series)
    across = options.across or ("tasks" if several else "epochs")
    control = DEFAULT_CONTROL if any(_varies(s.column(DEFAULT_CONTROL)) for s in group.series) else None
    control = None if DEFAULT_CONTROL in (x, y) else control
    specifications: dict[Specification, Array] = {}
    metrics = [a for a in metrics or collapse_addresses(group, x) if a != y]
    for i, metric in enumerate(metrics):
        progress(f"{metric} ({i + 1} of {len(metrics)} collapse metrics)")
        tracks = [track(s, metric, y, across, [control] if control else []) for s in group.series]
        sign = _sign(metric) * _sign(x)
        for key, r in r_of_runs(tracks, metric, options.window, control=control).items():
            specifications[key] = sign * r
    blocks: list[object] = [s.run.seed if group.pooled > 1 else i for i, s in enumerate(group.series)]
    return judged(specifications, blocks, options, x=x, y=y)


def judged(
    specifications: Mapping[Specification, Array], blocks: Sequence[object], options: Options, *, x: str, y: str
) -> Multiverse | None:
    """The verdict over r of every run (rows of `blocks`) through every specification."""
    curve: list[tuple[float, Specification, One]] = []
    kept: list[Array] = []
    for key, r in specifications.items():
        s = statistics.summary(r, blocks)
        if s.mean_r is not None:
            curve.append((s.mean_r, key, One(key.choices, s.mean_r, s.ci95, s.same_sign[1])))
            kept.append(r)
    if not curve:
        return None
    means = np.array([mean for mean, *_ in curve])
    positive = int((means > 0).sum())
    share = max(positive, len(means) - positive) / len(means)
    # a specification is part of the test where every unit has it: flips then act on the same units throughout
    units = statistics.in_blocks(np.stack(kept, axis=1), blocks)
    p_median, p_share = _flipped(units, options)
    decisive = _decisive([key for _, key, _ in curve], means)
    order = np.argsort(means, kind="stable")
    found = Multiverse(
        curve=tuple(curve[i][2] for i in order), same_sign=share, p_median=p_median, p_share=p_share,
        undefined=len(specifications) - len(curve), decisive=decisive, runs=len(units), verdict="", kind="",
    )  # fmt: skip
    kind = _kind(found)
    return Multiverse(**{**found.__dict__, "kind": kind, "verdict": _verdict(found, kind, x, y, options)})


def _flipped(r: Array, options: Options) -> tuple[float | None, float | None]:
    """p of |median over specifications| and of the share with one sign, r (units x specifications) flipped by unit."""
    r = r[np.isfinite(r).any(1)]
    r = r[:, np.isfinite(r).all(0)]
    units = len(r)
    if units < resampling.FEWEST_RUNS or not r.shape[1]:
        return None, None
    exact = units <= math.log2(resampling.EXACT)
    flips = options.family_flips or 9_999
    signs = resampling.signs(units, None if exact else min(flips, 9_999), options.seed)
    observed = _statistics(r.mean(0)[None])
    beaten = np.zeros(2, dtype=int)
    for first in range(0, len(signs), 2048):
        beaten += (_statistics(signs[first : first + 2048] @ r / units) >= observed - _TIE).sum(0)
    extra = 0 if exact else 1
    p = (beaten + extra) / (len(signs) + extra)
    return float(p[0]), float(p[1])


def _statistics(means: Array) -> Array:
    """|median| and share of the majority's sign over specifications (flips x specifications) -> flips x 2."""
    positive = (means > 0).mean(1)
    return np.stack([np.abs(np.median(means, axis=1)), np.maximum(positive, 1 - positive)], axis=1)


def _decisive(keys: Sequence[Specification], means: Array) -> tuple[Decisive, ...]:
    found = []
    for axis in keys[0].choices:
        values = [key.choices[axis] for key in keys]
        for value in dict.fromkeys(values):
            made = np.array([v == value for v in values])
            if not made.all():
                choice = f"{axis}: {value}"
                found.append(Decisive(choice, float(np.median(means[made])), float(np.median(means[~made]))))
    return tuple(sorted(found, key=lambda d: -d.change))


def _kind(m: Multiverse) -> str:
    """survives | depends | undecided: by agreement of the specifications, and by what the runs can tell."""
    if m.same_sign < SPLIT:
        return "depends"
    told = m.p_median is not None and m.p_median < 0.05
    if m.p_median is None and m.runs > 1:  # too few runs for a p: then the interval of the middle specification
        middle = m.curve[len(m.curve) // 2]
        told = middle.ci95 is not None and middle.ci95[0] * middle.ci95[1] > 0
    if not told:
        return "undecided"
    return "survives" if m.same_sign >= AGREE else "depends"


def _verdict(m: Multiverse, kind: str, x: str, y: str, options: Options) -> str:
    low, middle, high = m.r
    agree = round(m.same_sign * len(m.curve))
    words = direction(x, y, middle, options.directions)
    numbers = (
        f"{agree} of {count(len(m.curve), 'specification')} have the same sign, r from {low:+.2f} to {high:+.2f}, "
        f"median {middle:+.2f}"
    )
    if m.p_median is not None:
        numbers += f", permutation p over runs = {p_text(m.p_median)}"
    most = m.decisive[0] if m.decisive else None
    decides = ""
    if most is not None:
        decides = (
            f" What changes most is {most.choice}: median {most.r_with:+.2f} with it, {most.r_without:+.2f} without."
        )
    if kind == "survives":
        return f"Survives: {words} whatever is chosen ({numbers}).{decides}"
    if kind == "depends":
        return f"Depends on choices: {numbers}.{decides}"
    few = "" if m.p_median is not None else f"; {count(m.runs, 'run')} give no p"
    return f"Undecided: these runs do not tell it from no association ({numbers}{few}).{decides}"


def _sign(address: str) -> int:
    """-1 where a high value means more collapse, so that all specifications speak of the same thing."""
    return -1 if DIRECTIONS.get(Address.parse(address).metric, "").startswith("higher") else 1


def _varies(column: Array) -> bool:
    return not statistics.constant(column[np.isfinite(column)])
