"""The claims of a published study as a forest plot: ours against what each claim accepts, with the verdict.

Claims differ in unit (an r, an accuracy, a share), so every row has a scale of its own; what is the same in all rows is
where the accepted values begin and end:

    two ends   position = (value - middle) / half of the width: accepted is -1 to 1
    one end    position = (value - end) / s, s so that the farthest of the row stands at FARTHEST: accepted is one side

Positions beyond CUT are drawn there as an arrow. The numbers stand at the end of each row.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.analysis import words
from ncpl_cli.analysis.claims import AGREES, DIFFERS, UNDECIDED, Judged
from ncpl_cli.report import theme
from ncpl_cli.report.blocks import Figure, Table
from ncpl_cli.report.formats.text import cell, decimals_of
from ncpl_cli.report.material import Claims

if TYPE_CHECKING:
    import pandas as pd

FARTHEST, CUT = 2.5, 3.0

COLOUR = {AGREES: theme.COLOURS[2], DIFFERS: theme.COLOURS[1], UNDECIDED: theme.FAINT}

NUMBERS = ["claim", "verdict", "published", "accepted from", "accepted to", "ours", "low", "high", "runs"]


def claims_figure(of: Claims) -> Figure | None:
    """The claims of a part that these runs have a value of; None where they have none."""
    numbers = claim_frame(of)
    if not len(numbers):
        return None
    id_ = f"claims-{of.study}-{of.part}-{of.scale}"
    without = len(of.judged) - len(numbers)
    caption = (
        f"{of.study}, {of.part}, {of.scale}: what was published against what these runs have. The bar of each row is "
        "what the claim accepts, the diamond the published value, the point ours with its 95 % interval over runs "
        "(green: agrees, orange: differs, grey: not decided). Every row has a scale of its own; an arrow stands for "
        "what lies farther out."
    )
    if without:
        caption += f" {words.count(without, 'further claim')} without a value: see the table."
    ends = [", ".join(said.split("\n")) for said in numbers["said"]]
    said = "; ".join(f"{claim}: {end}" for claim, end in zip(numbers["claim"], ends, strict=True))
    return Figure(
        id_, caption, said, Table.of(f"{id_}-numbers", f"Numbers drawn: claims of {of.part}", numbers[NUMBERS]),
        lambda: draw_claims(numbers),
    )  # fmt: skip


def claim_frame(of: Claims) -> pd.DataFrame:
    """A row a claim: its numbers, what is said at its end, and positions: at, from, to, theirs, zone0, zone1."""
    import pandas as pd

    rows = []
    for one in of.judged:
        if (f := one.finding) is None:
            continue
        low, high = f.ci95 or (np.nan, np.nan)
        start, end = (np.nan if edge is None else edge for edge in one.claim.accept)
        published = np.nan if one.claim.published is None else one.claim.published
        middle, unit = _scale(start, end, [f.value, low, high, published])
        places = [(value - middle) / unit for value in (f.value, low, high, published)]
        zone = ((start - middle) / unit if start == start else -CUT, (end - middle) / unit if end == end else CUT)
        rows.append((one.claim.says, one.verdict, published, start, end, f.value, low, high, f.runs, _said(one),
                     *places, *zone))  # fmt: skip
    return pd.DataFrame(rows, columns=[*NUMBERS, "said", "at", "from", "to", "theirs", "zone0", "zone1"])


def _scale(start: float, end: float, values: list[float]) -> tuple[float, float]:
    """What stands at position 0, and how much one position is."""
    if start == start and end == end:
        return (start + end) / 2, (end - start) / 2 or 1.0
    known = [value for value in values if value == value]
    middle = next((edge for edge in (start, end) if edge == edge), known[0])
    return middle, max(abs(value - middle) for value in known) / FARTHEST or 1.0


def _said(one: Judged) -> str:
    """The verdict and the numbers of a claim, rounded as far as the interval is known."""
    f = one.finding
    assert f is not None
    decimals = decimals_of(*f.ci95) if f.ci95 else None
    interval = "" if f.ci95 is None else f" ({cell(f.ci95[0], decimals)} to {cell(f.ci95[1], decimals)})"
    published = "" if one.claim.published is None else f"published {cell(float(one.claim.published))}, "
    verdict = one.verdict.partition(" at ")[0]
    return f"{verdict}: {cell(f.value, decimals)}{interval}\n{published}{words.count(f.runs, 'run')}"


def draw_claims(numbers: pd.DataFrame) -> Any:
    """A row a claim, in the order of the study; a text at the end of each."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    rows = {claim: textwrap.fill(claim, 34) for claim in dict.fromkeys(numbers["claim"])}
    data = numbers.assign(
        claim=pd.Categorical(numbers["claim"].map(rows), categories=list(dict.fromkeys(rows.values()))[::-1]),
        verdict=pd.Categorical(numbers["verdict"], categories=list(COLOUR)),
        arrow=np.select([numbers["at"] < -CUT, numbers["at"] > CUT], ["below", "above"], "within"),
        low=numbers["from"].clip(-CUT, CUT), high=numbers["to"].clip(-CUT, CUT),
        at=numbers["at"].clip(-CUT, CUT), theirs=numbers["theirs"].clip(-CUT, CUT),
    )  # fmt: skip
    of_row: dict[str, Any] = {"data": data, "inherit_aes": False}
    lines = sum(max(2, text.count("\n") + 1) for text in rows.values())
    return (
        p9.ggplot(data, p9.aes("claim", "at", colour="verdict", shape="arrow"))
        + p9.geom_linerange(p9.aes("claim"), **of_row, ymin=-CUT, ymax=CUT, colour=theme.RULE, size=0.5)
        + p9.geom_linerange(p9.aes("claim", ymin="zone0", ymax="zone1"), **of_row, colour=theme.RULE, size=6)
        + theme.forest(data, marked=False)
        + p9.geom_point(p9.aes("claim", "theirs"), **of_row, colour=theme.INK, shape="D", fill="none", size=2.2,
                        na_rm=True)
        + p9.geom_text(p9.aes("claim", label="said"), **of_row, y=CUT + 0.35, ha="left", size=7.5, lineheight=1.25,
                       colour=theme.INK)
        + p9.scale_colour_manual(values=COLOUR)
        + p9.scale_shape_manual(values={"within": "o", "below": "<", "above": ">"})
        + p9.scale_y_continuous(breaks=[])
        + p9.coord_flip(ylim=(-CUT - 0.1, CUT + 5.5))
        + p9.labs(x="", y="")
        + theme.theme(7.2, 0.155 * lines + 0.1 * len(rows) + 0.3, legend=False)
        + p9.theme(
            panel_grid_major=p9.element_blank(),
            axis_text_y=p9.element_text(color=theme.INK, size=7.5, ha="right"),
        )
    )  # fmt: skip
