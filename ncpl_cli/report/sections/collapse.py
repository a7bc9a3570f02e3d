"""Collapse over time, by split and by layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ncpl_cli.analysis import Study
from ncpl_cli.analysis.layers import layer_orders
from ncpl_cli.records import Address
from ncpl_cli.report import curves, theme
from ncpl_cli.report.blocks import Block, Section, Text, table
from ncpl_cli.report.material import Material, Part

if TYPE_CHECKING:
    import pandas as pd

ID, TITLE = "collapse", "Collapse over time"

MAIN = ("nc1", "nc2", "nc3", "nc4", "cdnv", "ncc_error")
"""What is drawn on the training split at the last layer."""

BY_SPLIT = ("nc1", "nc4")
"""What is drawn for every split and layer that was recorded."""

MOST_GROUPS = 3
"""Groups whose layers are drawn."""

LAYERS = "Which layer first, on the training split?"


def draw(material: Material) -> Section:
    """The collapse metrics on the training split, then nc1 and nc4 for other splits and layers."""
    blocks: list[Block] = []
    for i, part in enumerate(material.parts):
        blocks += _of(part, material, f"{ID}-{i}")
    if not blocks:
        return Section.empty(
            ID, TITLE, "No chosen run has a collapse metric.",
            "ncpl train permuted-digits --seeds 0-4", "ncpl measure --run ID --split both --layers all",
        )  # fmt: skip
    words = (
        "Low nc1, nc2, nc3 and cdnv mean more collapse, high nc4 does: features of a class gather at their mean, and "
        "the means spread evenly. Collapse is measured in eval mode on whole splits at the end of each epoch."
    )
    return Section(ID, TITLE, (Text((words,)), *blocks))


def _of(part: Part, material: Material, id_: str) -> list[Block]:
    blocks: list[Block] = []
    when = "at each task's last epoch" if part.several else "after each epoch"
    numbers = curves.frame(part, curves.panels(part, material, MAIN))
    if not len(numbers):
        return []
    caption = f"{part.scenario}: collapse of the last layer on the training split, {when}."
    first = str(numbers["panel"].iloc[0])
    figure_id = part.figure_id(f"nc1-to-nc4-by-{part.unit}")
    blocks.append(curves.figure(figure_id, caption, numbers, part, alt=curves.ends(numbers, first)))
    recorded = [a for a in map(Address.parse, part.study.addresses()) if a.metric in BY_SPLIT]
    if splits := sorted({str(a) for a in recorded if a.layer == "last" and a.split != "train"}):
        numbers = curves.frame(part, curves.panels(part, material, splits))
        caption = f"{part.scenario}: collapse of the last layer on other splits (metric@split), {when}."
        alt = curves.ends(numbers, str(numbers["panel"].iloc[0]))
        blocks.append(curves.figure(part.figure_id(f"nc1-of-splits-by-{part.unit}"), caption, numbers, part, alt=alt))
    numbers = layer_frame(part, recorded)
    if len(numbers):
        said = [(label, order) for label, group in part.shown for order in layer_orders(Study(group.series))]
        head = f"{{}}: {LAYERS} " if len(part.groups) > 1 else f"{LAYERS} "
        blocks.append(Text(tuple(head.format(label) + order.sentence for label, order in said)))
        caption = (
            f"{part.scenario}: collapse layer by layer, {when}; a panel a metric and split"
            f"{f' of the first {MOST_GROUPS} groups' if len(part.groups) > MOST_GROUPS else ''}."
        )
        alt = curves.ends(numbers, str(numbers["panel"].iloc[0]))
        blocks.append(curves.figure(part.figure_id(f"nc1-by-layer-and-{part.unit}"), caption, numbers, part, alt=alt))
    blocks.append(_ends(part, f"{id_}-ends"))
    return blocks


def layer_frame(part: Part, recorded: Sequence[Address]) -> pd.DataFrame:
    """The lines of every layer of a metric and split in one panel, for each of the first groups."""
    places = dict.fromkeys((a.metric, a.split) for a in sorted(recorded, key=lambda a: (a.metric, a.split != "train")))
    layers = sorted({a.layer for a in recorded}, key=in_depth)
    cells = []
    for metric, split in places:
        mine = [a for a in recorded if (a.metric, a.split) == (metric, split)]
        for label, group in part.shown[:MOST_GROUPS] if len(mine) > 1 else ():
            title = str(Address(metric, split)) + (f", {label}" if len(part.groups) > 1 else "")
            for address in sorted(mine, key=lambda a: in_depth(a.layer)):
                runs = [(s.run.id, *curves.points(s, str(address), several=part.several)) for s in group.series]
                cells.append(curves.Cell(title, address.layer, runs, 0.0, 1.0 if metric == "nc4" else np.inf))
    return curves.frame_of(part, cells, layers[: theme.MOST_LINES])


def in_depth(layer: str) -> tuple[bool, int, str]:
    """Layers from the input to the last: layer2 before layer10."""
    number = re.search(r"\d+", layer)
    return layer == "last", int(number[0]) if number else 0, layer


def _ends(part: Part, id_: str) -> Block:
    """Every recorded collapse metric at its first and last point, in every group."""
    from ncpl_cli.analysis.directions import DIRECTIONS

    metrics = [a for a in part.study.addresses() if "collapse" in DIRECTIONS.get(Address.parse(a).metric, "")]
    rows = []
    for label, group in zip(part.labels, part.groups, strict=True):
        for address in metrics:
            lines = [curves.points(s, address, several=part.several) for s in group.series]
            summary = curves.over_runs([x for x, _ in lines], [y for _, y in lines])
            if len(summary["x"]):
                ends = (float(summary["mean"][0]), *(float(summary[k][-1]) for k in ("mean", "low", "high")))
                rows.append((label, address, DIRECTIONS[Address.parse(address).metric], *ends))
    columns = ("group", "metric", "direction", "first", "last", "last: low", "last: high")
    return table(id_, f"{part.scenario}: every collapse metric, first and last {part.unit}, means over runs with the "
                 "95 % t interval", columns, rows)  # fmt: skip
