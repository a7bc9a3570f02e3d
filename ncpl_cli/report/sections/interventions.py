"""What an intervention gained, what the first phase paid for it, and what is left of the gain when matched."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ncpl_cli.analysis import Comparison, words
from ncpl_cli.analysis.matching import MATCHED_WITHIN
from ncpl_cli.report import theme, wording
from ncpl_cli.report.blocks import Block, Figure, Section, Table, Text, table
from ncpl_cli.report.material import Material

if TYPE_CHECKING:
    import pandas as pd

ID, TITLE = "interventions", "Interventions against the plain arm"

RAW, MATCHED = "paired by seed", "matched on phase-1 train accuracy"


def draw(material: Material) -> Section:
    """Gains with intervals, raw and matched, beside what phase 1 had learned."""
    blocks: list[Block] = []
    for i, part in enumerate(material.parts):
        for j, comparison in enumerate(part.comparisons):
            blocks += _of(
                comparison,
                f"{ID}-{i}-{j}",
                part.figure_id(f"gain-in-{words.slug(comparison.y)}{f'-{j + 1}' if j else ''}"),
            )
    if not blocks:
        return Section.empty(
            ID, TITLE, "No chosen arm with an intervention has its plain arm beside it.",
            "ncpl train warm-start --dataset digits --seeds 0-4",
            "ncpl train warm-start --dataset digits --seeds 0-4 --intervention nc1:strength=0.05,clip=200",
        )  # fmt: skip
    meant = (
        "A penalty that ruins the first phase leaves a network nearer its initialisation, which then learns the second "
        "phase well: a gain can be lost training. So phase-1 accuracy stands beside every gain, and the matched "
        f"comparison takes only plain networks that had learned equally much (train accuracy within {MATCHED_WITHIN})."
    )
    return Section(ID, TITLE, (Text((meant,)), *blocks))


def _of(comparison: Comparison, id_: str, figure_id: str) -> list[Block]:
    numbers = gain_frame([comparison])
    where = f"{comparison.scenario}, plain arm: {comparison.plain}"
    notes = [*comparison.notes, *(f"{arm.arm}: {note}" for arm in comparison.arms for note in arm.notes)]
    blocks: list[Block] = []
    if len(numbers):
        blocks.append(
            Figure(
                figure_id,
                f"{where}: gain in {comparison.y} over the plain arm, mean over seeds with the 95 % t interval; right "
                "of 0 the arm is better.",
                "; ".join(f"{row.arm}, {row.kind}: {row.gain:+.4f}" for row in numbers.itertuples()),
                Table.of(f"{figure_id}-numbers", "Numbers drawn: gains", numbers),
                lambda: draw_gains(numbers, comparison.y),
            )
        )  # fmt: skip
    rows: list[tuple[object, ...]] = []
    for arm in comparison.arms:
        for metric, (ours, theirs) in arm.phase_1.items():
            rows.append((arm.arm, f"phase-1 {metric}", ours, theirs, None, None, None, None, None))
        gain = arm.gain
        rows.append((arm.arm, comparison.y, *arm.later, gain.mean, *(gain.ci95 or (None, None)), gain.p,
                     gain.detectable))  # fmt: skip
        if arm.matched is not None:
            m = arm.matched.gain
            rows.append((arm.arm, f"{comparison.y}, matched ({arm.matched.unmatched:.0%} unmatched)", None, None,
                         m.mean, *(m.ci95 or (None, None)), m.p, m.detectable))  # fmt: skip
    columns = ("arm", "mean over seeds of", "arm's", "plain", "gain", "low", "high", "p", "smallest gap shown")
    blocks.append(table(f"{id_}-table", f"{where}: what phase 1 cost and what was gained later", columns, rows))
    return [*blocks, Text(tuple(notes), "caveat")]


def gain_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row an arm and kind of comparison: arm, kind, gain, low, high, seeds."""
    import pandas as pd

    rows = []
    for comparison in comparisons:
        for arm in comparison.arms[: 2 * theme.MOST_LINES]:
            kinds = [(RAW, arm.gain), *([(MATCHED, arm.matched.gain)] if arm.matched is not None else [])]
            for kind, gain in kinds:
                if gain.mean is not None:
                    low, high = gain.ci95 or (float("nan"), float("nan"))
                    rows.append((arm.arm, kind, gain.mean, low, high, len(gain.per_seed)))
    return pd.DataFrame(rows, columns=["arm", "kind", "gain", "low", "high", "seeds"])


def draw_gains(numbers: pd.DataFrame, y: str) -> Any:
    """A forest plot: arms as rows, raw and matched gain in two colours and shapes."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    arms = {arm: textwrap.fill(short, 34) for arm, short in wording.shortened(numbers["arm"], 90).items()}
    data = numbers.assign(
        arm=pd.Categorical(numbers["arm"].map(arms), categories=list(arms.values())[::-1]),
        kind=pd.Categorical(numbers["kind"], categories=[RAW, MATCHED]),
    )
    return (
        p9.ggplot(data, p9.aes("arm", "gain", colour="kind", shape="kind"))
        + theme.forest(data)
        + p9.scale_colour_manual(values=theme.COLOURS[:2])
        + p9.coord_flip()
        + p9.labs(x="", y=f"gain in {y} (higher = better than plain)")
        + theme.theme(7.2, 0.55 * len(arms) + 1.4)
    )
