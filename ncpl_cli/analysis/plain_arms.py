"""Which plain arm an arm is compared with, how arms are called, and what to say where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ncpl_cli.analysis.study import NOT_IDENTITY, Group
from ncpl_cli.analysis.words import said
from ncpl_cli.errors import InputError, NothingFound

TREATMENTS = frozenset({"interventions", "weight_decay", "intervention_plugins"})
"""Settings in which an arm may differ from its plain arm."""

PLAIN_NAMES = ("plain", "baseline", "control", "none")
"""Names by which the plain arm of imported runs is known without being named."""

MOST_NAMED = 4
"""Settings that are said to differ; more are counted."""


def plain_of(arm: Group, everything: Sequence[Group], plain: str | None) -> Group | None:
    """The plain arm that an arm belongs to: the same settings without treatments, and what is no part of identity."""
    here = [g for g in everything if g.scenario == arm.scenario]
    if plain is not None:
        named = [g for g in here if any(plain in s.run.names for s in g.series)]
        if len(named) > 1:
            raise InputError(f"the label {plain!r} is on {len(named)} arms of {arm.scenario}: it must name one.")
        return named[0] if named else None
    if arm.run.imported:
        known = [g for g in here if g.name is not None and g.name.lower() in PLAIN_NAMES]
        return known[0] if len(known) == 1 else None
    same = [g for g in here if not g.run.imported and not differing(arm, g, besides=TREATMENTS | NOT_IDENTITY)]
    alike = [g for g in same if not differing(arm, g, besides=TREATMENTS)]
    for candidates in (alike, same):  # what was measured otherwise is the plain arm only where nothing else is
        bare = [g for g in candidates if not any(g.run.settings.get(name) for name in TREATMENTS)]
        # a study in which every arm has weight decay is compared under it
        decayed = [g for g in candidates if not g.run.settings.get("interventions")
                   and g.run.settings.get("weight_decay") == arm.run.settings.get("weight_decay")]  # fmt: skip
        for found in (bare, decayed):
            if len(found) == 1:
                return found[0]
    return None


def differing(arm: Group, other: Group, besides: frozenset[str] = TREATMENTS) -> dict[str, tuple[object, object]]:
    """{setting: (the arm's value, the other's)} where two groups differ."""
    ours, theirs = (_without_plugins_of_treatments(group.run.settings) for group in (arm, other))
    names = [name for name in {**ours, **theirs} if name not in besides]
    return {
        name: (ours.get(name), theirs.get(name)) for name in names if repr(ours.get(name)) != repr(theirs.get(name))
    }


def _without_plugins_of_treatments(settings: Mapping[str, object]) -> dict[str, object]:
    """Older runs name the files of their interventions among the other plugins."""
    named = settings.get("plugins")
    if not isinstance(named, list | tuple):
        return dict(settings)
    rest = [text for text in named if not str(text).startswith("interventions ")]
    return {k: v for k, v in settings.items() if k != "plugins"} | ({"plugins": rest} if rest else {})


def against(differences: dict[str, tuple[object, object]]) -> str:
    """`probe_every: 10 against 20, lr: 0.1 against 0.01`."""
    listed = [f"{name}: {said(a)} against {said(b)}" for name, (a, b) in differences.items()]
    more = [f"and {len(listed) - MOST_NAMED} more"] if len(listed) > MOST_NAMED else []
    return ", ".join([*listed[:MOST_NAMED], *more])


def label(group: Group, plain: Group | None) -> str:
    """How an arm is called: its treatment, else its name."""
    run = group.run
    if run.imported:
        return group.name or "imported"
    treatments = run.settings.get("interventions") or []
    words = [str(t) for t in treatments] if isinstance(treatments, list | tuple) else [str(treatments)]
    if decay := run.settings.get("weight_decay"):
        words.append(f"weight_decay={decay}")
    if plain is not None and not words:
        words = [f"{k}={said(ours)}" for k, (ours, _) in differing(group, plain).items()]
    return " + ".join(words) or "plain"


def lost(group: Group) -> str:
    """An arm of which no run is left, in a sentence: it is named, since leaving out the worst arm flatters the rest."""
    runs = ", ".join(f"{s.run.id} (seed {s.run.seed})" for s in group.left_out)
    statuses = " or ".join(sorted({s.run.status for s in group.left_out}))
    return f"{label(group, None)} ({group.title}): all its runs {statuses}, so it has no value: {runs}."


def without_plain(arm: Group, everything: Sequence[Group]) -> str:
    """Why an arm has no plain arm: which setting the nearest one differs in."""
    name = label(arm, None)
    candidates = [
        g for g in everything
        if g is not arm and g.scenario == arm.scenario and g.run.imported == arm.run.imported
        and not g.run.settings.get("interventions")
    ]  # fmt: skip
    if arm.run.imported or not candidates:
        return f"{name} has no plain arm beside it"
    nearest = min((differing(arm, g) for g in candidates), key=len)
    if not nearest:
        return f"{name} has several plain arms beside it"
    return f"{name} has no plain arm of its own settings: the nearest differs in {against(nearest)}"


def nothing_to_compare(everything: Sequence[Group], plain: str | None) -> NothingFound:
    """The error for a selection in which no arm has a plain arm: says why, and what to run instead."""
    if plain is not None:
        labels = sorted({name for g in everything for s in g.series for name in s.run.names})
        named = [g for g in everything if any(plain in s.run.names for s in g.series)]
        why = "no run here carries that label" if not named else "there is no other arm beside it"
        return NothingFound(
            f"there is nothing to compare with --plain {plain}: {why}.", f"labels: {', '.join(labels) or 'none'}"
        )
    imported = [g for g in everything if g.run.imported]
    if len(everything) == len(imported):
        names = ", ".join(label(g, None) for g in imported)
        return NothingFound(
            f"there is nothing to compare: no imported arm is called plain (here: {names}).",
            "name the plain arm by its label: ncpl compare --plain LABEL",
        )
    treated = [g for g in everything if not g.run.imported and g.run.settings.get("interventions")]
    if treated:
        reasons = [without_plain(g, everything) for g in treated]
        more = f" (and {len(reasons) - 1} more arms)" if len(reasons) > 1 else ""
        return NothingFound(
            f"there is nothing to compare: {reasons[0]}{more}.",
            "train the plain arm with these settings and no --intervention, or name it: ncpl compare --plain LABEL",
        )
    varying = varying_settings(everything)
    if not varying:
        first = everything[0]
        return NothingFound(
            f"there is nothing to compare: all runs are of one arm ({first.title}), without an intervention.",
            f"train another arm with the same seeds: ncpl train {first.scenario} ... --intervention SPEC "
            "(ncpl catalog lists them)",
        )
    listed = "; ".join(f"{name}: {', '.join(values)}" for name, values in varying.items())
    return NothingFound(
        f"there is nothing to compare: no run has an intervention. The runs differ in {listed}.",
        f"compare them by that: ncpl compare --by {next(iter(varying))}",
    )


def varying_settings(everything: Sequence[Group]) -> dict[str, list[str]]:
    """{setting: its values} of what differs between arms of one scenario, what varies least often last."""
    found: dict[str, list[str]] = {}
    for scenario in dict.fromkeys(g.scenario for g in everything):
        here = [g.run.settings for g in everything if g.scenario == scenario and not g.run.imported]
        for name in dict.fromkeys(name for settings in here for name in settings):
            values = list(dict.fromkeys(said(settings.get(name)) for settings in here))
            if len(values) > 1:
                found.setdefault(name, values)
    return dict(list(found.items())[:MOST_NAMED])
