"""Does a longer first task, and the collapse it brings, cost accuracy later? Correlations across runs."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.analysis import Series, headline, plasticity
from ncpl_cli.report import theme, wording
from ncpl_cli.report.blocks import Block, Figure, Section, Table, Text, table
from ncpl_cli.report.correlation_figure import kind_of
from ncpl_cli.report.material import Material, Part

if TYPE_CHECKING:
    import pandas as pd

ID, TITLE = "first-task", "First-task studies: comparisons across runs"


def draw(material: Material) -> Section:
    """Loss after the first task against its length, by both definitions; collapse after it against what came next."""
    blocks: list[Block] = []
    for i, part in enumerate(material.parts):
        if part.over_runs:
            blocks += _of(part, f"{ID}-{i}")
    if not blocks:
        return Section.empty(
            ID, TITLE, "No chosen runs differ in the length of their first task alone.",
            *(f"ncpl train permuted-digits --first-task-epochs {n} --seeds 0-4" for n in (1, 5, 10)),
        )  # fmt: skip
    return Section(ID, TITLE, tuple(blocks))


def _of(part: Part, id_: str) -> list[Block]:
    used = set(part.over_runs[0].seeds)
    runs = [s for g in part.groups for s in g.series if s.run.id in used]
    # runs stopped at a threshold differ in length by chance: they are no arms of a length
    fixed = [s for s in runs if s.run.settings.get("first_task_nc1") is None]
    losses, after = loss_frame(fixed), run_frame(part, used)
    shares = plasticity.averaging(fixed)
    first = f"tasks 1 to {plasticity.TASKS_AFTER}"
    blocks: list[Block] = []
    for result in part.over_runs:
        words = f"{result.x} after the first task and {result.y} later: {headline.headline(result)}"
        blocks += [Text((words,), kind_of(result)), Text(result.notes, "caveat")]
    if len(losses):
        blocks.append(_losses(losses, part, first, part.figure_id("loss-by-first-task-epochs")))
    blocks.append(
        Figure(
            after_id := part.figure_id("nc1-of-first-task-against-next"),
            f"{part.scenario}: collapse at the end of the first task against the online accuracy of the task right "
            "after it. Each point is a run.",
            "Scatter of runs: nc1 after the first task against accuracy on task 1.",
            Table.of(f"{after_id}-numbers", "Numbers drawn: each run", after), lambda: draw_after(after),
        )
    )  # fmt: skip
    if shares:
        rows = [(a.epochs, a.published.mean, *(a.published.ci95 or (None, None)), a.first_epochs.mean,
                 *(a.first_epochs.ci95 or (None, None)), a.share, a.published.n) for a in shares]  # fmt: skip
        columns = ("first-task epochs", "effect as published", "low", "high", "effect between first epochs",
                   "low (first epochs)", "high (first epochs)", "share that is averaging", "paired seeds")  # fmt: skip
        blocks.append(table(f"{id_}-share", f"{part.scenario}: effect of a longer first task on the loss of {first}, "
                            "against the shortest one, paired by seed, 95 % t interval", columns, rows))  # fmt: skip
    statistics = [(f"{r.x}, {r.y}", *row) for r in part.over_runs for row in headline.statistics(r)]
    heads = ("pair", "statistic", "r", "low", "high", "p", "what it is")
    blocks.append(table(f"{id_}-statistics", f"{part.scenario}: correlations over {len(runs)} runs", heads, statistics))
    return blocks


def _losses(losses: pd.DataFrame, part: Part, first: str, id_: str) -> Figure:
    return Figure(
        id_,
        f"{part.scenario}: plasticity loss of {first} against the number of first-task epochs, by both definitions. "
        "Points are runs, lines means over runs, bars their 95 % t interval. The distance between the lines is "
        "averaging over the first task's epochs, not lost plasticity.",
        _alt(losses), Table.of(f"{id_}-numbers", "Numbers drawn: loss of each run", losses),
        lambda: draw_losses(losses),
    )  # fmt: skip


def loss_frame(runs: Sequence[Series]) -> pd.DataFrame:
    """A row a run and definition: definition, epochs of the first task, run, seed, loss."""
    import pandas as pd

    rows = [
        (metric, plasticity.first_task_epochs(s), s.run.id, s.run.seed, plasticity.loss(s, metric))
        for metric in ("plasticity_loss", "plasticity_loss_b24")
        for s in runs
    ]
    return pd.DataFrame(rows, columns=["definition", "epochs", "run", "seed", "loss"]).dropna()


def run_frame(part: Part, used: Set[str]) -> pd.DataFrame:
    """A row a run: group, epochs of the first task, nc1 at its end, first-epoch online accuracy of tasks 0 and 1."""
    import pandas as pd

    rows = []
    for label, group in part.shown:
        for s in group.series:
            nc1, accuracy = s.per_task("nc1"), s.per_task("online_accuracy")
            if s.run.id in used and len(accuracy) > 1:
                epochs = plasticity.first_task_epochs(s)
                rows.append((label, epochs, s.run.id, s.run.seed, nc1[0], accuracy[0], accuracy[1]))
    columns = ["group", "epochs", "run", "seed", "nc1 after task 0", "accuracy on task 0", "accuracy on task 1"]
    return pd.DataFrame(rows, columns=columns)


def draw_losses(losses: pd.DataFrame) -> Any:
    """Loss against first-task epochs: runs as points, means with intervals as lines, a colour a definition."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    lengths = [str(n) for n in sorted(losses["epochs"].unique())]
    names = {"plasticity_loss": "between first epochs (plasticity_loss)",
             "plasticity_loss_b24": "as published (plasticity_loss_b24)"}  # fmt: skip
    data = losses.assign(epochs=pd.Categorical(losses["epochs"].astype(str), categories=lengths),
                         definition=losses["definition"].map(names))  # fmt: skip
    rows = []
    for (definition, epochs), part in data.groupby(["definition", "epochs"], observed=True):
        found = plasticity.estimate(part["loss"].tolist())
        assert found is not None
        rows.append((definition, epochs, found.mean, *(found.ci95 or (np.nan, np.nan))))
    means = pd.DataFrame(rows, columns=["definition", "epochs", "loss", "low", "high"])
    means["epochs"] = pd.Categorical(means["epochs"], categories=lengths)
    aside = p9.position_dodge(width=0.35)
    plot = (
        p9.ggplot(means, p9.aes("epochs", "loss", colour="definition", shape="definition", group="definition"))
        + p9.geom_hline(yintercept=0, colour=theme.FAINT, linetype="dotted", size=0.5)
        + p9.geom_point(data=data, position=aside, size=1, alpha=0.45)
        + p9.geom_line(position=aside, size=0.7)
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), data=means.dropna(), position=aside, size=0.7)
        + p9.geom_point(position=aside, size=2.2)
        + p9.labs(x="epochs on the first task", y="plasticity loss (higher = more loss)")
        + p9.scale_colour_manual(values=theme.COLOURS[:2])
    )
    return plot + theme.theme(7.2, 3.6)


def draw_after(after: pd.DataFrame) -> Any:
    """nc1 after the first task against accuracy on the next one, a colour and shape a group."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    groups = wording.shortened(after["group"], 80)
    data = after.assign(group=pd.Categorical(after["group"].map(groups), categories=list(groups.values()))).dropna()
    return (
        p9.ggplot(data, p9.aes("nc1 after task 0", "accuracy on task 1", colour="group", shape="group"))
        + p9.geom_point(size=2)
        + p9.scale_colour_manual(values=theme.COLOURS[: len(groups)])
        + p9.labs(x="nc1 after the first task (lower = more collapse)", y="online accuracy on task 1")
        + theme.theme(7.2, 3.2 + 0.2 * len(groups))
    )


def _alt(losses: pd.DataFrame) -> str:
    means = losses.groupby(["definition", "epochs"])["loss"].mean()
    listed = means.reset_index().itertuples(index=False)
    return "; ".join(f"{row.definition} {row.epochs} epochs: {row.loss:+.3f}" for row in listed)
