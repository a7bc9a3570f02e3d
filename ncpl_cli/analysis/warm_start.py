"""What warm starting cost: the probes of each run, and the gap over seeds with what these seeds could have shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.analysis.gain import POWER, Gain, over_seeds
from ncpl_cli.records import Address

if TYPE_CHECKING:
    from ncpl_cli.store import Store


@dataclass(frozen=True)
class Probed:
    """One run's probes.

    cold   test accuracy of the cold start; None while it is not known
    warm   mean test accuracy over the probes that branched off later
    gap    mean warm_start_gap over those probes; None where every one is undefined (`cap`)
    probes, capped   how many are done, and how many of them ended by the cap
    """

    run: str
    seed: int
    cold: float | None
    warm: float | None
    gap: float | None
    probes: int
    capped: int

    def to_json(self) -> dict[str, Any]:
        """Keys as INTERFACE names the metrics, where it does."""
        return {
            "cold_start": self.cold, "warm_start": self.warm, "warm_start_gap": self.gap, "probes": self.probes,
            "probes_capped": self.capped,
        }  # fmt: skip


@dataclass(frozen=True)
class WarmStartGap:
    """The gap over seeds: each seed counts once, with the mean over its probes (the seed is the independent unit)."""

    runs: tuple[Probed, ...]
    over_seeds: Gain

    def sentences(self) -> list[str]:
        """What was found and how sure it is."""
        gain, probes, capped = self.over_seeds, sum(r.probes for r in self.runs), sum(r.capped for r in self.runs)
        found = [f"{capped} of {probes} probes ended by the cap, not by fitting; they give no gap."] if capped else []
        if gain.mean is None:
            return [*found, "No warm-start gap is known yet: it needs a cold start and a probe that both fit."]
        text = f"Warm-start gap (cold start minus warm start, test accuracy): {gain.mean:+.4f}"
        if gain.ci95 is None or gain.detectable is None:
            return [*found, f"{text}, from one seed: an interval needs two."]
        low, high = gain.ci95
        found.append(
            f"{text}, 95 % interval {low:+.4f} to {high:+.4f} (t over {len(gain.per_seed)} seeds); with "
            f"{POWER:.0%} probability these seeds show a gap of {gain.detectable:.4f} or more, a smaller one not."
        )
        return found


def warm_start_gap(store: Store, ids: Sequence[str]) -> WarmStartGap:
    """Read the probes' results from the rows of their parents."""
    accuracy, gap, cap = (Address(m) for m in ("probe_test_accuracy", "warm_start_gap", "probe_cap_hit"))
    columns = store.series([accuracy, gap, cap], ids)
    runs = []
    for run in ids:
        of = columns[run]
        reached, later = of[str(accuracy)], of["epoch"] > 0
        runs.append(
            Probed(
                run, store.run(run).seed, _mean(reached[~later]), _mean(reached[later]), _mean(of[str(gap)]),
                int(np.isfinite(of[str(cap)]).sum()), int(np.nansum(of[str(cap)])),
            )
        )  # fmt: skip
    return WarmStartGap(tuple(runs), over_seeds({r.seed: r.gap for r in runs if r.gap is not None}))


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


__all__ = ["Probed", "WarmStartGap", "warm_start_gap"]
