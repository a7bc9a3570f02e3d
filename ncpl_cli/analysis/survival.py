"""Does a correlation survive its controls? The published statistic and what is left of it, in one breath.

survives    under every control at least half of r is left, with its sign
falls       a control leaves less than half of it
flips       under a control the sign turns
undecided   the runs do not tell it from 0, or its interval spans most of what r can be
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ncpl_cli.analysis.results import Control, GroupCorrelation
from ncpl_cli.analysis.words import count, p_text, signed

SMALL = 0.1
"""An |r| below this is not worth a sentence about where it comes from."""

HALF = 0.5
"""A control that leaves less than this share of r is said to take most of it away."""

SEED_SWAP = "seed_swap"
"""The control that takes off what x of one run has with y of another: a driver that all runs share."""

SPANS = 1.0
"""An interval wider than this spans most of what r can be: from -1 to 1."""


@dataclass(frozen=True)
class Survival:
    """Whether r survives: `kind` as in the module; what is `left` of it `under` the control that takes most.

    sentence  for people, in the same breath as r
    """

    kind: str
    left: float | None
    under: str | None
    p_left: float | None
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {"kind": self.kind, "left": self.left, "under": self.under, "p_left": self.p_left,
                "sentence": self.sentence}  # fmt: skip

    @property
    def stands(self) -> bool:
        """Whether it is a finding."""
        return self.kind == "survives"


def survival(result: GroupCorrelation) -> Survival:
    """The verdict on one pair in one group, from its interval and from all controls; the multiverse's where it is
    known and says less."""
    overall = result.overall
    over_runs = result.across == "runs"
    raw = overall.r_of_means if over_runs else overall.summary.mean_r
    interval, p = overall.summary.ci95, result.more.get("p_permutation") if over_runs else overall.p_sign_flip
    if raw is None:
        return Survival("undefined", None, None, None, "undefined")
    doubt = _doubt(raw, interval, p, result.n_runs)
    if doubt:
        return Survival("undecided", None, None, None, doubt)
    weakest = _weakest(raw, _left(result))
    of = result.multiverse
    if of is not None and of.kind != "survives":
        low, _, high = of.r
        most = f"; most depends on {of.decisive[0].choice}" if of.decisive else ""
        text = (
            f"over {len(of.curve)} defensible analyses it lies anywhere from {signed(low)} to {signed(high)}, "
            f"{of.same_sign:.0%} with one sign{most}"
        )
        kind = "falls" if of.kind == "depends" else "undecided"
        return Survival(kind, of.r[1], "multiverse", of.p_median, text)
    if weakest is None:
        return Survival("undecided", None, None, None, "no control could be held against it")
    name, (left, p_left) = weakest
    tail = "" if p_left is None else f" (p = {p_text(p_left)})"
    if left * raw < 0 and abs(left) >= SMALL:
        return Survival("flips", left, name, p_left, f"the sign turns {words(name, result)}: {signed(left)}{tail}")
    if abs(left) < HALF * abs(raw) or left * raw < 0:
        text = f"of it {signed(left)} is left {words(name, result)}{tail}"
        return Survival("falls", left, name, p_left, text)
    survived = "every defensible analysis" if of is not None else "every control"
    text = f"it survives {survived}: at least {signed(left)} is left ({words(name, result)})"
    return Survival("survives", left, name, p_left, text)


def _doubt(raw: float, interval: tuple[float, float] | None, p: float | None, runs: int) -> str:
    """Why these runs decide nothing; empty when they do."""
    if interval is None:
        return "" if p is not None and p < 0.05 else f"{count(runs, 'run')} give no interval"
    low, high = interval
    if low <= 0 <= high:
        spans = ", most of what r can be" if high - low > SPANS else ""
        return f"the interval includes 0{spans}"
    if high - low > SPANS:
        return "the interval spans most of what r can be"
    return ""


Left = Mapping[str, tuple[float, float | None]]
"""What each control leaves of r, and its p."""


def _left(result: GroupCorrelation) -> Left:
    """Every control, as the result's method has it (the axis alone is the detrended one), and the seed swap."""
    controls: dict[str, Control] = {} if result.across == "runs" else dict(result.overall.controls)
    controls.pop(result.method, None)
    controls |= {name: c for name, c in result.held_fixed.items() if name != result.unit}
    found = {n: (c.summary.mean_r, c.p) for n, c in controls.items() if c.summary.mean_r is not None}
    swap = result.overall.seed_swap
    if swap.matched_r is not None and swap.swapped_r is not None and swap.matched_r * swap.swapped_r > 0:
        found[SEED_SWAP] = swap.matched_r - swap.swapped_r, swap.p
    return found


def _weakest(raw: float, left: Left) -> tuple[str, tuple[float, float | None]] | None:
    """The control that leaves least of r, its sign counted."""
    sign = 1 if raw > 0 else -1
    return min(left.items(), key=lambda item: sign * item[1][0]) if left else None


def words(name: str, result: GroupCorrelation) -> str:
    """What a control does, as the end of a sentence."""
    known = {
        "spearman": "on ranks",
        SEED_SWAP: "beyond what x of one run has with y of another",
        "first_difference": "between first differences",
        "detrended": f"without a straight line in the {result.unit}",
    }
    return known.get(name) or f"with {name.replace('+', ' and ')} held fixed"
