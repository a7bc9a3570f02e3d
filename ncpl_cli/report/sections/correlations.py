"""Sliding-window correlations within runs, run by run, with what every control leaves of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ncpl_cli.analysis import GroupCorrelation, headline, words
from ncpl_cli.report import curves, theme, wording
from ncpl_cli.report.blocks import Block, Figure, Section, Table, Text, table
from ncpl_cli.report.correlation_figure import draw_windows, kind_of, window_frames, with_windows
from ncpl_cli.report.curve_figure import curve_figure
from ncpl_cli.report.lines import FEW_RUNS
from ncpl_cli.report.material import WINDOW, Material, Part
from ncpl_cli.report.question_figure import question_figure

if TYPE_CHECKING:
    import pandas as pd

ID, TITLE = "correlations", "Does collapse go with plasticity? Correlations within runs"

MOST_GROUPS = 4
"""Groups whose windows are drawn; the others are in the table."""

MOST_CURVES = 2
"""Groups whose specification curve is drawn."""

MOST_RUNS = 12
"""Runs that are drawn one by one."""


def draw(material: Material) -> Section:
    """Pearson's r in a sliding window as published, beside it the controls; the unit is the run, never the epoch."""
    blocks: list[Block] = []
    for i, part in enumerate(material.parts):
        if part.correlations:
            blocks += _of(part, f"{ID}-{i}")
    if not blocks:
        return Section.empty(
            ID, TITLE, "No chosen group has rows where nc1 and a plasticity metric are both defined and vary.",
            "ncpl train permuted-digits --tasks 20 --seeds 0-4", "ncpl correlate --x nc1 --y test_accuracy",
        )  # fmt: skip
    unit = (
        "Pearson's r is taken within each run separately and then averaged over runs: two series that both drift with "
        "training correlate for that reason alone, so the independent unit is the run, and the controls stand beside "
        "the published statistic. Associated, never caused.",
    )
    return Section(ID, TITLE, (Text(unit), *blocks))


def _of(part: Part, id_: str) -> list[Block]:
    found = part.correlations
    blocks: list[Block] = []
    said = [(label, result) for label, result in found if result.overall.summary.mean_r is not None]
    blocks += _in_words(said, id_)
    windowed = with_windows([result for _, result in said[:MOST_GROUPS]])
    if windowed:
        blocks += [_windows(windowed, part, part.figure_id("r-in-windows"))]
        if any(result.n_runs > FEW_RUNS for result in windowed):  # of fewer the figure before has every run
            blocks.append(_run_by_run(windowed, part, part.figure_id("r-in-windows-by-run")))
    by_label = dict(zip(part.labels, part.groups, strict=True))
    for label, result in said[:MOST_CURVES]:
        what = f"{part.scenario}, {label}"
        blocks.append(
            question_figure(by_label[label], result, what, part.figure_id(f"{_pair(result)}-raw-and-detrended", label))
        )
    for label, result in said[:MOST_CURVES]:
        if result.multiverse is not None:
            what = f"{part.scenario}, {label}, {result.x} and {result.y}"
            blocks.append(
                curve_figure(result.multiverse, what, part.figure_id(f"{_pair(result)}-specifications", label))
            )
    numbers = _controls(found)
    first = found[0][1]
    if len(numbers):
        blocks.append(
            _forest(numbers, f"{part.scenario}: r of {first.x} and {first.y}", part.figure_id("r-under-controls"))
        )
    rows = [
        (label, f"{r.x}, {r.y}", r.n_runs, r.overall.points, name, *values, what)
        for label, r in found
        for name, *values, what in headline.statistics(r)
    ]
    columns = ("group", "pair", "runs", "points", "statistic", "r", "low", "high", "p", "what it is")
    blocks.append(table(f"{id_}-statistics", f"{part.scenario}: all statistics of all groups", columns, rows))
    return blocks


def _in_words(said: Sequence[tuple[str, GroupCorrelation]], id_: str) -> list[Block]:
    """What was found in each group; what holds in all of them is said once, what differs stands in tables."""
    blocks: list[Block] = []
    shown = said[:MOST_GROUPS]
    for kind in ("finding", "undecided"):
        lines = [f"{label}: {headline.headline(result)}" for label, result in shown if kind_of(result) == kind]
        blocks += [Text(tuple(lines), kind)] if lines else []
    everywhere = [note for note in dict.fromkeys(n for _, r in said for n in r.notes)
                  if len(said) > 1 and all(note in r.notes for _, r in said)]  # fmt: skip
    windows = {result.window for _, result in said}
    if windows - {WINDOW}:
        listed = " or ".join(map(str, sorted(windows)))
        everywhere.append(f"Series are shorter than the published window of {WINDOW}: the window is {listed}.")
    own = [(label, note) for label, result in shown for note in result.notes if note not in everywhere]
    if len(said) == 1:
        everywhere, own = [*said[0][1].notes, *everywhere], []
    blocks += [Text(tuple(everywhere), "caveat", "In every group" if len(said) > 1 else "")] if everywhere else []
    whole = [(label, r.multiverse) for label, r in said if r.multiverse is not None]
    if whole:
        rows = [
            (label, len(m.curve), m.same_sign, *m.r, m.decisive[0].choice if m.decisive else None, m.verdict)
            for label, m in whole
        ]
        columns = ("group", "analyses", "same sign", "lowest r", "median r", "highest r", "decides most", "verdict")
        blocks.append(table(f"{id_}-specifications", "All defensible analyses of each group", columns, rows))
    if own:
        blocks.append(table(f"{id_}-notes", "What to keep in mind, by group", ("group", "note"), own))
    return blocks


def _forest(numbers: pd.DataFrame, what: str, id_: str) -> Figure:
    return Figure(
        id_,
        f"{what} and what each control leaves of it. Points are centres over runs (back-transformed mean of Fisher's "
        "z), bars 95 % t intervals over runs.",
        _controls_alt(numbers), Table.of(f"{id_}-numbers", "Numbers drawn: r under each control", numbers),
        lambda: draw_controls(numbers),
    )  # fmt: skip


def _pair(result: GroupCorrelation) -> str:
    return f"{words.slug(result.x)}-and-{words.slug(result.y)}"


def _windows(results: Sequence[GroupCorrelation], part: Part, id_: str) -> Block:
    over, _ = window_frames(results)
    banded = any(result.n_runs > FEW_RUNS for result in results)
    ends = [(float(r.windows.mean[0]), float(r.windows.mean[-1])) for r in results]
    alt = " ".join(f"{r.title}: mean r {a:+.2f} in the first window, {b:+.2f} in the last."
                   for r, (a, b) in zip(results, ends, strict=True))  # fmt: skip
    caption = (
        f"{part.scenario}: {results[0].estimand} in sliding windows. Thin lines are single runs, the "
        f"thick line their mean{', the band one standard deviation over runs, as published' if banded else ''}."
    )
    thin = over.iloc[:: max(1, len(over) // (curves.MOST_POINTS * len(results)))]
    numbers = Table.of(f"{id_}-numbers", "Numbers drawn: mean r over runs, mean - sd, mean + sd", thin)
    return Figure(id_, caption, alt, numbers, lambda: draw_windows(results))


def _run_by_run(results: Sequence[GroupCorrelation], part: Part, id_: str) -> Block:
    numbers = run_frame(results)
    caption = (
        f"{part.scenario}: the same windows run by run ({numbers['run'].nunique()} of "
        f"{sum(r.n_runs for r in results)} runs): whether the mean hides runs that go the other way."
    )
    alt = "Small multiples, one panel a run: r in sliding windows on a scale from -1 to 1."
    return Figure(id_, caption, alt, Table.of(f"{id_}-numbers", "Numbers drawn: r by run and window", numbers),
                  lambda: draw_runs(numbers, results[0]))  # fmt: skip


def run_frame(results: Sequence[GroupCorrelation]) -> pd.DataFrame:
    """A row a run and window (run, end, r), thinned evenly; at most MOST_RUNS runs, shared among the groups."""
    import pandas as pd

    made = []
    each = max(1, MOST_RUNS // len(results))
    for result in results:
        w = result.windows
        kept = curves.thinned(len(w.end))
        for run, r in list(zip(w.runs, w.r, strict=True))[:each]:
            name = f"seed {result.seeds[run]} ({run[:6]})"
            made.append(pd.DataFrame({"run": name, "end": w.end[kept], "r": r[kept]}))
    return pd.concat(made, ignore_index=True)


def draw_runs(numbers: pd.DataFrame, result: GroupCorrelation) -> Any:
    """Small multiples: r in sliding windows, a panel a run."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    runs = list(dict.fromkeys(numbers["run"]))
    data = numbers.assign(run=pd.Categorical(numbers["run"], categories=runs)).dropna()
    return (
        p9.ggplot(data, p9.aes("end", "r"))
        + p9.geom_hline(yintercept=0, colour=theme.FAINT, linetype="dotted", size=0.5)
        + p9.geom_line(colour=theme.COLOURS[0], size=0.7)
        + (p9.geom_point(colour=theme.COLOURS[0], size=0.5) if len(data) < 30 * len(runs) else [])
        + p9.facet_wrap("run", ncol=4)
        + p9.coord_cartesian(ylim=(-1, 1))
        + p9.labs(x=f"{result.unit} (end of the window)", y="r")
        + theme.theme(7.2, 1.5 * -(-len(runs) // 4) + 0.6, legend=False)
    )


def _controls(found: Sequence[tuple[str, GroupCorrelation]]) -> pd.DataFrame:
    """A row a group and statistic: group, statistic, r, low, high."""
    import pandas as pd

    rows = []
    for label, result in found[: theme.MOST_LINES]:
        s = result.overall.summary
        controls = {"spearman": "ranks (Spearman)", "first_difference": "first differences", "detrended": "detrended"}
        listed = [("r as published", s)]
        listed += [(name, result.overall.controls[k].summary) for k, name in controls.items()]
        listed += [
            (f"given {name.replace('+', ' and ')}", control.summary)
            for name, control in result.held_fixed.items()
            if name != result.unit
        ]
        for name, summary in listed:
            if summary.fisher_mean_r is not None:
                low, high = summary.ci95 or (float("nan"), float("nan"))
                rows.append((label, name, summary.fisher_mean_r, low, high))
    return pd.DataFrame(rows, columns=["group", "statistic", "r", "low", "high"])


def _controls_alt(numbers: pd.DataFrame) -> str:
    first = numbers[numbers["group"] == numbers["group"].iloc[0]] if len(numbers) else numbers
    return "; ".join(f"{name} {r:+.2f}" for name, r in zip(first["statistic"], first["r"], strict=True))


def draw_controls(numbers: pd.DataFrame) -> Any:
    """A forest plot: each statistic a row, each group a colour and shape."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    statistics = list(dict.fromkeys(numbers["statistic"]))
    groups = {label: textwrap.fill(short, 88) for label, short in wording.shortened(numbers["group"]).items()}
    data = numbers.assign(
        statistic=pd.Categorical(numbers["statistic"], categories=statistics[::-1]),
        group=pd.Categorical(numbers["group"].map(groups), categories=list(groups.values())),
    )
    return (
        p9.ggplot(data, p9.aes("statistic", "r", colour="group", shape="group"))
        + theme.forest(data, 0.6)
        + p9.scale_colour_manual(values=theme.COLOURS[: len(groups)])
        + p9.coord_flip(ylim=(-1, 1))
        + p9.labs(x="", y="r (mean over runs, 95 % interval)")
        + theme.theme(7.2, 0.26 * len(statistics) * max(1.0, len(groups) / 2) + 0.9 + 0.2 * len(groups),
                      legend=len(groups) > 1)
    )  # fmt: skip
