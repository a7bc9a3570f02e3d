"""What a claim's measure finds: our value, its interval over runs and what should stand beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ncpl_cli.analysis.plasticity import estimate
from ncpl_cli.analysis.study import Series

Arms = Mapping[str, Sequence[Series]]
"""The runs of a part by the arm's name."""


@dataclass(frozen=True)
class Finding:
    """Our value of a claim: with its 95 % interval over runs, the number of runs, and what should stand beside it.

    survives  in the same breath: what is left of a correlation or a gain under its controls
    void      why, in a sentence, it decides nothing whatever its value is
    """

    value: float
    ci95: tuple[float, float] | None
    runs: int
    beside: Mapping[str, float] = field(default_factory=dict)
    survives: str = ""
    void: str = ""


def over_runs(values: Sequence[float], beside: Mapping[str, float] | None = None) -> Finding | None:
    """Mean and interval of one value a run; None without a finite one."""
    found = estimate(values)
    return None if found is None else Finding(found.mean, found.ci95, found.n, beside or {})
