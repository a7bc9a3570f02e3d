"""Interventions: what acts on collapse and plasticity. The tuple below is the registry: one file or class, one name.

`parse("nc1:strength=0.05,clip=200")` reads what a command line or a sweep file writes.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ncpl_cli.errors import InputError, unknown
from ncpl_cli.interventions.collapse import CDNV, NC1, NC2, NC3, NC4
from ncpl_cli.interventions.decay import L2, L2Init, Spectral
from ncpl_cli.interventions.intervention import Batch, Intervention, Run, Treatment
from ncpl_cli.interventions.recycling import ContinualBackprop, ReDo
from ncpl_cli.interventions.resets import FullReset, HeadReset, OptimizerReset, ShrinkPerturb

INTERVENTIONS: dict[str, type[Intervention]] = {
    one.id: one
    for one in (
        NC1, NC2, NC3, NC4, CDNV, L2, L2Init, Spectral, ShrinkPerturb, ReDo, ContinualBackprop, HeadReset, FullReset,
        OptimizerReset,
    )
}  # fmt: skip


def parse(text: str) -> Intervention:
    """One intervention from `ID` or `ID:KEY=VALUE,...`; raises InputError naming what is allowed."""
    name, _, rest = text.partition(":")
    if name not in INTERVENTIONS:
        raise unknown("intervention", name, [*INTERVENTIONS, "weight_decay"])
    kind = INTERVENTIONS[name]
    types = typing.get_type_hints(kind)
    options = {f.name: f for f in fields(kind)}
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if key not in options:
            raise unknown(f"parameter of {name}", key, options)
        if not equals or key in given:
            raise InputError(f"--intervention {text!r}: {key} is to be given once, as {key}=VALUE.")
        given[key] = _value(name, key, value, types[key], options[key].metadata)
    return kind(**given)


def _value(name: str, key: str, text: str, kind: type, allowed: Any) -> Any:
    if choices := allowed["choices"]:
        if text not in choices:
            raise InputError(f"{name}: {key}={text} is unknown.", f"allowed: {', '.join(choices)}")
        return text
    try:
        value = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{name}: {key}={text} is not {what}.") from None
    if not allowed["least"] <= value <= allowed["most"]:  # also NaN
        most = f" and at most {allowed['most']:g}" if allowed["most"] < float("inf") else ""
        raise InputError(f"{name}: {key}={text} is impossible: it is at least {allowed['least']:g}{most}.")
    return value


def parse_all(texts: Sequence[str]) -> tuple[Intervention, ...]:
    """Several interventions, each id once, in the registry's order: the order they were written in says nothing."""
    found = [parse(text) for text in texts]
    ids = [one.id for one in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputError(f"--intervention {twice[0]} is given more than once.")
    return tuple(sorted(found, key=lambda one: list(INTERVENTIONS).index(one.id)))


__all__ = ["INTERVENTIONS", "Batch", "Intervention", "Run", "Treatment", "parse", "parse_all"]
