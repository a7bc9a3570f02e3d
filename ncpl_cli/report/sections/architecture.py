"""Architectures and schedules: when each collapses in the first task, and what it loses in the later ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ncpl_cli.analysis import Group
from ncpl_cli.analysis.claims_next import late_loss, onset
from ncpl_cli.analysis.finding import over_runs
from ncpl_cli.report import theme
from ncpl_cli.report.blocks import Block, Figure, Section, Table, Text
from ncpl_cli.report.material import Material, Part

if TYPE_CHECKING:
    import pandas as pd

ID, TITLE = "architecture", "Architectures and schedules"

SETTINGS = ("width", "depth", "norm", "activation", "lr_schedule")
"""What makes a cell."""

FEWEST_CELLS = 3

MOST_COLOURS = 4


def draw(material: Material) -> Section:
    """One figure a scenario: the onset of nc1 against late plasticity loss, a point a cell."""
    blocks: list[Block] = []
    for part in material.parts:
        frame = cells(part)
        if len(frame) >= FEWEST_CELLS:
            blocks += [Text(tuple(_said(part, frame))), _figure(part, frame, part.figure_id("onset-against-loss"))]
    if not blocks:
        return Section.empty(
            ID, TITLE, "No chosen runs of several tasks differ in three or more architectures or schedules.",
            "ncpl sweep permuted-digits --grid width=50,200 --grid norm=none,layer --seeds 0-4 --tasks 10",
        )  # fmt: skip
    return Section(ID, TITLE, tuple(blocks))


def cells(part: Part) -> pd.DataFrame:
    """A row a cell, of groups that differ in these settings: cell, colour, onset and late loss with intervals, seeds.

    The onset is that of the runs whose nc1 halves for good; how many do is beside it.
    """
    import pandas as pd

    if not part.several:
        return pd.DataFrame()
    varying = [name for name in SETTINGS if len({repr(g.run.settings.get(name)) for g in part.groups}) > 1]
    by = next((name for name in ("norm", "activation", "depth", *varying) if name in varying), "")
    rows = []
    for group in part.groups if varying else ():
        at, loss = (over_runs([read(s) for s in group.series]) for read in (onset, late_loss))
        if loss is None:
            continue
        rows.append((_cell(group, varying), f"{by} {group.run.settings.get(by)}", at and at.value,
                     *((at and at.ci95) or (None, None)), loss.value, *(loss.ci95 or (None, None)),
                     at.runs if at else 0, loss.runs))  # fmt: skip
    columns = ["cell", "colour", "onset", "onset low", "onset high", "loss", "loss low", "loss high", "halved", "runs"]
    frame = pd.DataFrame(rows, columns=columns)
    numbers = [name for name in columns if name not in ("cell", "colour")]
    return frame.astype(dict.fromkeys(numbers, float)).sort_values("loss", ignore_index=True)


def _cell(group: Group, varying: list[str]) -> str:
    return ", ".join(f"{name} {group.run.settings.get(name)}" for name in varying)


def _said(part: Part, frame: pd.DataFrame) -> list[str]:
    least, most = frame.iloc[0], frame.iloc[-1]
    lines = [f"{part.scenario}: of {len(frame)} cells {least['cell']} loses least later ({least['loss']:+.3f}), "
             f"{most['cell']} most ({most['loss']:+.3f})."]  # fmt: skip
    never = frame[frame["halved"] == 0]
    if len(never):
        lines.append(f"In {len(never)} cells nc1 never falls below half of its start for good within the first task.")
    return lines


def _figure(part: Part, frame: pd.DataFrame, id_: str) -> Figure:
    shown = frame.dropna(subset=["onset"])
    return Figure(
        id_,
        f"{part.scenario}: onset of collapse (first epoch of the first task at which nc1 is below half of what it was "
        "after its first epoch, and stays there) against the plasticity loss of the last tasks. A point is a cell of "
        f"{', '.join(name for name in SETTINGS if name in frame['cell'].iloc[0])}; bars are 95 % intervals over seeds.",
        "; ".join(f"{row.cell}: onset {row.onset:.1f}, loss {row.loss:+.3f}" for row in shown.itertuples()),
        Table.of(f"{id_}-numbers", "Numbers drawn: each cell", frame), lambda: draw_cells(frame),
    )  # fmt: skip


def draw_cells(frame: pd.DataFrame) -> Any:
    """Onset against loss, a colour a value of one setting."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    names = list(dict.fromkeys(sorted(frame["colour"])))
    if len(names) > MOST_COLOURS:
        names = names[:MOST_COLOURS]
    data = frame[frame["colour"].isin(names)].dropna(subset=["onset"]).copy()
    data["colour"] = pd.Categorical(data["colour"], categories=names)
    spread = data.dropna(subset=["loss low"])
    along = data.dropna(subset=["onset low"])
    return (
        p9.ggplot(data, p9.aes("onset", "loss", colour="colour", shape="colour"))
        + p9.geom_hline(yintercept=0, colour=theme.FAINT, linetype="dotted", size=0.5)
        + p9.geom_linerange(p9.aes(ymin="loss low", ymax="loss high"), data=spread, size=0.4, alpha=0.5)
        + p9.geom_segment(
            p9.aes(x="onset low", xend="onset high", y="loss", yend="loss"), data=along, size=0.4, alpha=0.5
        )
        + p9.geom_point(size=2.2)
        + p9.scale_colour_manual(values=theme.COLOURS[: len(names)])
        + p9.labs(x="onset of nc1 in the first task (epoch)", y="late plasticity loss", colour="", shape="")
        + theme.theme(7.2, 4.0)
    )
