"""Collapse over time, by split and by layer."""

from __future__ import annotations

from ncpl_cli.records import Address
from ncpl_cli.report import curves
from ncpl_cli.report.blocks import Block, Section, Text, table
from ncpl_cli.report.material import Material, Part

ID, TITLE = "collapse", "Collapse over time"

MAIN = ("nc1", "nc2", "nc3", "nc4", "cdnv", "ncc_error")
"""What is drawn on the training split at the last layer."""

BY_SPLIT = ("nc1", "nc4")
"""What is drawn for every split and layer that was recorded."""


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
    caption = f"{part.scenario}: collapse of the last layer on the training split, {when}. {curves.UNCERTAINTY}"
    first = str(numbers["panel"].iloc[0])
    blocks.append(curves.figure(id_, caption, numbers, part, alt=curves.ends(numbers, first)))
    places = sorted(
        {str(a) for a in map(Address.parse, part.study.addresses()) if a.metric in BY_SPLIT and str(a) != a.metric}
    )
    if places:
        numbers = curves.frame(part, curves.panels(part, material, [*BY_SPLIT, *places]))
        caption = f"{part.scenario}: collapse by split and layer (metric@split/layer), {when}. {curves.UNCERTAINTY}"
        alt = curves.ends(numbers, str(numbers["panel"].iloc[0]))
        blocks.append(curves.figure(f"{id_}-places", caption, numbers, part, alt=alt))
    blocks.append(_ends(part, f"{id_}-ends"))
    return blocks


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
