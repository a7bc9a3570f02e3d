"""Plasticity loss by both definitions, and in warm starts what the probes reached."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ncpl_cli.analysis import plasticity
from ncpl_cli.report import curves
from ncpl_cli.report.blocks import Block, Section, Text, table
from ncpl_cli.report.material import Material, Part

ID, TITLE = "plasticity", "Plasticity loss"

PUBLISHED = "plasticity_loss_b24"
DEFINITIONS = ("plasticity_loss", PUBLISHED, "fresh_gap")
PROBES = ("probe_test_accuracy", "warm_start_gap", "probe_epochs_to_fit")


def draw(material: Material) -> Section:
    """What a network loses of its ability to learn, with what could be mistaken for it."""
    blocks: list[Block] = []
    for i, part in enumerate(material.parts):
        blocks += _over_tasks(part, material, f"{ID}-{i}") if part.several else _probes(part, material, f"{ID}-{i}")
    if not blocks:
        return Section.empty(
            ID, TITLE, "No chosen run has a second task or a probe, so no plasticity loss is defined.",
            "ncpl train permuted-digits --tasks 20 --seeds 0-4", "ncpl train warm-start --dataset digits --seeds 0-4",
        )  # fmt: skip
    return Section(ID, TITLE, tuple(blocks))


def _over_tasks(part: Part, material: Material, id_: str) -> list[Block]:
    drawn = [name for name in DEFINITIONS if name != PUBLISHED or not _are_one(part)]
    numbers = curves.frame(part, curves.panels(part, material, drawn))
    if not len(numbers):
        return []
    one = PUBLISHED not in drawn
    words = [
        "plasticity_loss is the online accuracy of the first task's first epoch minus that of this task's first epoch "
        "(positive = loss). plasticity_loss_b24 is the published definition: the same with means over all epochs of "
        f"either task{', and here equal to it: every task has one epoch' if one else ''}.",
    ]
    trap = (
        "Trap: the published definition grows with the number of first-task epochs by itself, since later epochs of "
        "the first task raise its mean; plasticity_loss does not."
    )
    caveats = [] if one else [trap]
    early = [plasticity.loss(s, "plasticity_loss") for g in part.groups for s in g.series]
    start = plasticity.estimate(early)
    if start is not None and start.mean < 0:
        caveats.append(
            f"Head start: the first task begins from initialisation and later tasks do not, so plasticity_loss of "
            f"tasks 1 to {plasticity.TASKS_AFTER} is negative here ({start.mean:+.3f} on average over all runs). "
            "That is not a gain in plasticity; fresh_gap (--fresh-baseline) is free of it."
        )
    shares = plasticity.averaging(
        [s for g in part.groups for s in g.series if s.run.settings.get("first_task_nc1") is None]
    )
    caveats += [
        f"{one.epochs} first-task epochs: of the published effect of {one.published.mean:+.3f}, "
        f"{one.first_epochs.mean:+.3f} remains between first epochs; {one.share:.0%} of it is averaging."
        for one in shares
        if one.share is not None
    ]
    caption = f"{part.scenario}: plasticity loss (higher = more loss), one point a task."
    first = str(numbers["panel"].iloc[0])
    return [
        Text(tuple(words)),
        Text(tuple(caveats), "caveat"),
        curves.figure(part.figure_id(f"plasticity-loss-by-{part.unit}"), caption, numbers, part,
                      alt=curves.ends(numbers, first), zero=True),
        _losses(part, drawn, f"{id_}-losses"),
    ]  # fmt: skip


def _are_one(part: Part) -> bool:
    """Whether both definitions are the same numbers in all runs."""
    pairs = [(s.column("plasticity_loss"), s.column(PUBLISHED)) for g in part.groups for s in g.series]
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def _losses(part: Part, definitions: Sequence[str], id_: str) -> Block:
    rows = []
    for label, group in zip(part.labels, part.groups, strict=True):
        for metric in definitions:
            for where, last in ((f"first {plasticity.TASKS_AFTER}", False), (f"last {plasticity.TASKS_AFTER}", True)):
                found = plasticity.estimate([plasticity.loss(s, metric, last=last) for s in group.series])
                if found is not None:
                    epochs = sorted({plasticity.first_task_epochs(s) for s in group.series})
                    rows.append((label, ", ".join(map(str, epochs)), metric, where, found.n, found.mean,
                                 *(found.ci95 or (None, None))))  # fmt: skip
    columns = ("group", "first-task epochs", "metric", "tasks after task 0", "runs", "mean", "low", "high")
    return table(id_, f"{part.scenario}: plasticity loss, mean over tasks, then over runs, with the 95 % t interval",
                 columns, rows)  # fmt: skip


def _probes(part: Part, material: Material, id_: str) -> list[Block]:
    numbers = curves.frame(part, curves.panels(part, material, PROBES))
    if not len(numbers):
        return []
    caption = (
        f"{part.scenario}: what a copy of the network, trained on all data from that epoch on, reaches. "
        "warm_start_gap is measured against the cold start."
    )
    first = str(numbers["panel"].iloc[0])
    alt = curves.ends(numbers, first)
    known = [(label, material.gaps.get((part.scenario, label))) for label in part.labels]
    cost = tuple(f"{label}: {sentence}" for label, gap in known if gap is not None for sentence in gap.sentences())
    figure_id, x = part.figure_id("probes-by-epoch"), "epoch of the warm-up"
    blocks: list[Block] = [Text(cost, "finding"), curves.figure(figure_id, caption, numbers, part, alt=alt, x=x)]
    rows = []
    for label, group in zip(part.labels, part.groups, strict=True):
        for metric in PROBES:
            gaps = [s.column(metric)[_finite(s.column(metric))] for s in group.series]
            for where, place in (("first probe", 0), ("last probe", -1)):
                found = plasticity.estimate([float(g[place]) for g in gaps if len(g)])
                if found is not None:
                    rows.append((label, metric, where, found.n, found.mean, *(found.ci95 or (None, None))))
    columns = ("group", "metric", "at", "runs", "mean", "low", "high")
    title = f"{part.scenario}: first and last probe, mean over runs with the 95 % t interval"
    blocks.append(table(f"{id_}-probes", title, columns, rows))
    return blocks


def _finite(values: curves.Array) -> curves.Array:
    return np.isfinite(values)
