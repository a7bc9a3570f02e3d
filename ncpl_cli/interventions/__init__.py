"""Interventions: what acts on collapse and plasticity. The tuple below is the registry: one file or class, one name.

`parse("nc1:strength=0.05,clip=200")` reads what a command line or a sweep file writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from ncpl_cli import parts
from ncpl_cli.errors import InputError
from ncpl_cli.interventions.collapse import CDNV, NC1, NC2, NC3, NC4
from ncpl_cli.interventions.decay import L2, L2Init, Spectral
from ncpl_cli.interventions.intervention import Batch, Intervention, Run, Treatment
from ncpl_cli.interventions.placebo import Placebo
from ncpl_cli.interventions.recycling import ContinualBackprop, ReDo
from ncpl_cli.interventions.remedies import FeatureNorm, GradientNorm, WeightRescale
from ncpl_cli.interventions.resets import FullReset, HeadReset, OptimizerReset, ShrinkPerturb

INTERVENTIONS: dict[str, type[Intervention]] = {
    one.id: one
    for one in (
        NC1, NC2, NC3, NC4, CDNV, L2, L2Init, Spectral, ShrinkPerturb, ReDo, ContinualBackprop, HeadReset, FullReset,
        OptimizerReset, FeatureNorm, GradientNorm, WeightRescale, Placebo,
    )
}  # fmt: skip


def parse(text: str) -> Intervention:
    """One intervention from `ID` or `ID:KEY=VALUE,...`; raises InputError naming what is allowed."""
    return parts.read("intervention", text, INTERVENTIONS, also=["weight_decay"])


def parse_all(texts: Sequence[str]) -> tuple[Intervention, ...]:
    """Several interventions, each id once, in the registry's order: the order they were written in says nothing."""
    found = [parse(text) for text in texts]
    ids = [one.id for one in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputError(f"--intervention {twice[0]} is given more than once.")
    return tuple(sorted(found, key=lambda one: list(INTERVENTIONS).index(one.id)))


__all__ = ["INTERVENTIONS", "Batch", "Intervention", "Run", "Treatment", "parse", "parse_all"]
