"""Diagnostics of a network that is losing plasticity: units, ranks, norms."""

from __future__ import annotations

from ncpl_cli.records import Address
from ncpl_cli.report import curves
from ncpl_cli.report.blocks import Block, Section, Text
from ncpl_cli.report.material import Material, Part

ID, TITLE = "diagnostics", "Diagnostics"

DRAWN = (
    "dead_units", "dormant_units", "effective_rank", "stable_rank", "weight_norm", "feature_norm",
    "distance_from_init", "gradient_norm", "linearised_units", "ntk_effective_rank", "hessian_top", "churn",
)  # fmt: skip
"""Drawn where recorded, most telling first; at most eight panels a scenario."""


def draw(material: Material) -> Section:
    """Shares of dead and dormant units, ranks and norms over time."""
    blocks: list[Block] = []
    for part in material.parts:
        numbers = curves.frame(part, curves.panels(part, material, _chosen(part)))
        if not len(numbers):
            continue
        when = "at each task's last epoch" if part.several else "after each epoch"
        caption = f"{part.scenario}: diagnostics of the last hidden layer, {when}."
        alt = curves.ends(numbers, str(numbers["panel"].iloc[0]))
        blocks.append(curves.figure(part.figure_id(f"diagnostics-by-{part.unit}"), caption, numbers, part, alt=alt))
    if not blocks:
        return Section.empty(
            ID, TITLE, "No chosen run has a diagnostic.", "ncpl train permuted-digits --seeds 0-4 --metrics all"
        )
    words = (
        "Shares of units lie in [0, 1] and are taken on the first 2 000 training samples of the task; a share depends "
        "on that number. Ranks are of the features of those samples."
    )
    return Section(ID, TITLE, (Text((words,)), *blocks))


def _chosen(part: Part) -> list[str]:
    layers = {a.layer for a in map(Address.parse, part.study.addresses()) if a.metric in DRAWN and a.layer != "last"}
    everywhere = [*DRAWN, *(f"dead_units@train/{layer}" for layer in sorted(layers))]
    return [a for a in everywhere if part.has(a)][: curves.MOST_PANELS]
