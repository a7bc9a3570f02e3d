"""Published studies as declarations: what to run, at which scale, and what the paper claims. The registry is STUDIES.

A study is one TOML file beside this one:

    [parts.P]                title, about, analyses (commands that look further)
    [parts.P.SCALE]          scenario, seeds, settings; [parts.P.SCALE.arms] settings by the arm's name (a `scenario` of
                             its own among them), or `grid`: an arm for each combination; `like`: another scale's, but
                             for what is said
    [[parts.P.claims]]       says, measure, options, published, source, accept or tolerance, reason, caveat, needs

A part may take over another's claims: `claims_of = "Q"`, `claims_without = [...]` of them.

Standard library only.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ncpl_cli.errors import InputError, unknown

STUDIES = (
    "bonifazi2024",
    "bonifazi2024-next",
    "galanti2022",
    "hui2022",
    "lyle2024",
)

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
    needs      {dataset, tasks, epochs, runs, network}: below these nothing is decided; elsewhere: what it would take
               that is not here
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
    """One experiment of a study. `data`: the data set that was put in the place of its own; empty = its own."""

    id: str
    title: str
    about: str
    plans: Mapping[str, Plan]
    claims: tuple[Claim, ...]
    analyses: tuple[str, ...] = ()
    data: str = ""

    def on(self, dataset: str) -> Part:
        """The same on another data set, which every claim then says of itself."""

        def put(settings: Mapping[str, Any]) -> dict[str, Any]:
            return {**settings, "dataset": dataset}

        caveat = f"on {dataset} in place of the study's own data set"
        plans = {
            scale: replace(plan, settings=put(plan.settings), arms={a: put(own) for a, own in plan.arms.items()})
            for scale, plan in self.plans.items()
        }
        claims = tuple(replace(c, caveat="; ".join(filter(None, (c.caveat, caveat)))) for c in self.claims)
        return replace(self, plans=plans, claims=claims, data=dataset)

    def among(self, study: str, scale: str, labels: Collection[str], datasets: Iterable[str]) -> list[Part]:
        """The part as runs with these labels, on these data sets, were made: on its own data, or on others."""
        asked = [self, *map(self.on, sorted(set(datasets)))]
        return [part for part in asked if label(study, part, scale) in labels]


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


def label(study: str, part: Part, scale: str) -> str:
    """The label that the runs of a part carry, and the name of its sweep."""
    return f"{study}-{part.id}-{scale}" + (f"-on-{part.data}" if part.data else "")


def arm_label(study: str, part: Part, scale: str, arm: str) -> str:
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
        given = document["parts"]
        parts = tuple(_part(name, one, given[one.get("claims_of", name)]["claims"]) for name, one in given.items())
        return PublishedStudy(document["id"], document["title"], document["source"], parts)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path.name} is no study: {error}.") from error


def _part(name: str, given: Mapping[str, Any], claimed: Iterable[Mapping[str, Any]]) -> Part:
    plans = {scale: _plan(given[scale], given) for scale in SCALES if scale in given}
    left = [one for one in claimed if one["id"] not in given.get("claims_without", ())]
    claims = tuple(claim for one in left for claim in _claims(one))
    return Part(name, given["title"], given["about"], plans, claims, tuple(given.get("analyses", ())))


def _plan(given: Mapping[str, Any], others: Mapping[str, Any]) -> Plan:
    """A plan; `like`: what it does not say itself is as in that scale's, settings and arms one by one."""
    base: Mapping[str, Any] = others[given["like"]] if "like" in given else {}
    settings, arms = ({**base.get(key, {}), **given.get(key, {})} for key in ("settings", "arms"))
    both = {**base, **given}
    grid: Mapping[str, Sequence[Any]] = both.get("grid", {})
    for values in itertools.product(*grid.values()) if grid else ():
        own = dict(zip(grid, values, strict=True))
        arms[", ".join(f"{name}={value}" for name, value in own.items())] = own
    return Plan(both["scenario"], both["seeds"], settings, arms)


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
