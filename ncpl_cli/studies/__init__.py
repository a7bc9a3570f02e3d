"""Published studies as declarations: what to run, at which scale, and what the paper claims. The registry is STUDIES.

A study is one TOML file beside this one:

    [parts.P]                title, about, analyses (commands that look further)
    [parts.P.SCALE]          scenario, seeds, settings; [parts.P.SCALE.arms] settings by the arm's name
    [[parts.P.claims]]       says, measure, options, published, source, accept or tolerance, reason, caveat, needs

Standard library only.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ncpl_cli.errors import InputError, unknown

STUDIES = ("bonifazi2024",)

SCALES = ("smoke", "laptop", "full")


@dataclass(frozen=True)
class Claim:
    """A published statement that a measure of ours can bear out or not.

    measure    name of a function in analysis/claims, called with `options`
    published  the paper's value, None where it gives none
    accept     (low, high): values of ours that agree with the claim, None for an open end
    certain    the whole interval of ours must lie in `accept`, not its centre alone
    reason     why this range
    caveat     what weakens the claim itself; empty where nothing is known
    needs      {dataset, tasks, epochs, runs, network}: below these nothing is decided
    """

    id: str
    says: str
    measure: str
    options: Mapping[str, Any]
    published: float | None
    source: str
    accept: tuple[float | None, float | None]
    reason: str
    certain: bool = False
    caveat: str = ""
    needs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a part runs at one scale. `arms`: settings by name, on top of `settings`; options of `ncpl train`."""

    scenario: str
    seeds: str
    settings: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Part:
    """One experiment of a study."""

    id: str
    title: str
    about: str
    plans: Mapping[str, Plan]
    claims: tuple[Claim, ...]
    analyses: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedStudy:
    """A paper's experiments and claims."""

    id: str
    title: str
    source: str
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        """A part by its id; raises InputError that lists the known ones."""
        for part in self.parts:
            if part.id == name:
                return part
        raise unknown("part", name, [part.id for part in self.parts])


def label(study: str, part: str, scale: str) -> str:
    """The label that the runs of a part carry, and the name of its sweep."""
    return f"{study}-{part}-{scale}"


def arm_label(study: str, part: str, scale: str, arm: str) -> str:
    """The label that the runs of one arm carry."""
    return f"{label(study, part, scale)}/{arm}"


def study_named(name: str) -> PublishedStudy:
    """A study by its id; raises InputError that lists the known ones."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return read(Path(__file__).with_name(f"{name}.toml"))


def read(path: Path) -> PublishedStudy:
    """Read a study's file. Raises InputError that names what is wrong."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        parts = tuple(_part(name, given) for name, given in document["parts"].items())
        return PublishedStudy(document["id"], document["title"], document["source"], parts)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path.name} is no study: {error}.") from error


def _part(name: str, given: Mapping[str, Any]) -> Part:
    plans = {scale: _plan(given[scale]) for scale in SCALES if scale in given}
    claims = tuple(claim for one in given["claims"] for claim in _claims(one))
    return Part(name, given["title"], given["about"], plans, claims, tuple(given.get("analyses", ())))


def _plan(given: Mapping[str, Any]) -> Plan:
    return Plan(given["scenario"], given["seeds"], given.get("settings", {}), given["arms"])


def _claims(given: Mapping[str, Any]) -> list[Claim]:
    """One claim, or one for each entry of `each` (a list of tables whose values fill the claim)."""
    given = dict(given)
    found = []
    for one in given.pop("each", [{}]):
        table = {**given, **{k: v for k, v in one.items() if k in ("published", "accept")}}
        rest = {k: v for k, v in one.items() if k not in table}
        tolerance = table.pop("tolerance", None)
        published = table.get("published")
        accept = (published - tolerance, published + tolerance) if tolerance is not None else _range(table["accept"])
        table |= {
            "id": table["id"].format(**rest), "says": table["says"].format(**rest), "accept": accept,
            "options": {**table.get("options", {}), **rest}, "published": published,
        }  # fmt: skip
        found.append(Claim(**table))
    return found


def _range(given: Mapping[str, float]) -> tuple[float | None, float | None]:
    return given.get("low"), given.get("high")
