"""Curves drawn: means, bands and single runs, with the names at the lines where these are few."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.report import theme, wording

if TYPE_CHECKING:
    import pandas as pd

FEW_RUNS = 5
"""Up to so many runs are drawn one by one; of more the interval says more."""

MOST_NAMED, LONGEST_NAME = 4, 22
"""So many lines, with names of so many characters, are named where they end; of others a legend tells."""

WIDE = 7.2
"""Inches of a figure in a page."""

CHANCE = ("accuracy",)
"""Metrics for which guessing has a value: one class in so many."""


def draw(numbers: pd.DataFrame, *, x: str, y: str = "", columns: int = 2, zero: bool = False) -> Any:
    """Lines with bands, a colour and dash a group, a panel a metric with its own scale.

    `numbers` as `curves.frame` makes it; its attrs: thin (single runs), chance, groups (all, in the order of colours).
    """
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    titles, groups = (list(dict.fromkeys(numbers[key])) for key in ("panel", "group"))
    wide = 50 if len(titles) > 1 else 90
    wrapped = {title: textwrap.fill(wording.titled(title), wide) for title in titles}
    named = {label: textwrap.fill(short, 88) for label, short in wording.shortened(groups).items()}

    def shaped(frame: pd.DataFrame) -> pd.DataFrame:
        kept = frame.assign(panel=pd.Categorical(frame["panel"].map(wrapped), categories=list(wrapped.values())))
        if "group" not in kept:
            return kept
        return kept.assign(group=pd.Categorical(kept["group"].map(named), categories=list(named.values())))

    columns = min(columns, len(titles))
    ends = line_ends(numbers) if 1 < len(groups) <= MOST_NAMED and max(map(len, groups)) <= LONGEST_NAME else None
    plot = p9.ggplot(shaped(numbers), p9.aes("x", "mean", colour="group", fill="group", linetype="group"))
    if zero:
        plot += p9.geom_hline(yintercept=0, colour=theme.FAINT, linetype="dotted", size=0.5)
    thin = numbers.attrs.get("thin")
    banded = (numbers[numbers["runs"] > FEW_RUNS] if thin else numbers).dropna()
    if len(banded):
        plot += p9.geom_ribbon(p9.aes(ymin="low", ymax="high"), data=shaped(banded), alpha=0.18, colour="none", size=0)
    if thin:
        each = pd.concat([
            pd.DataFrame({"panel": panel, "group": group, "run": f"{run} {group}", "x": xs, "mean": ys})
            for panel, group, run, xs, ys in thin
        ])  # fmt: skip
        plot += p9.geom_line(p9.aes(group="run"), data=shaped(each.dropna()), size=0.3, alpha=0.35, linetype="solid")
    if guess := numbers.attrs.get("chance"):
        where = [title for title in titles if title.partition(" ")[0].partition("@")[0].endswith(CHANCE)
                 and _near(guess, numbers.loc[numbers["panel"] == title, "mean"])]  # fmt: skip
        if where:
            lines = shaped(pd.DataFrame({"panel": where, "chance": guess}))
            plot += p9.geom_hline(p9.aes(yintercept="chance"), data=lines, colour=theme.FAINT, linetype="dotted",
                                  size=0.5)  # fmt: skip
    plot += p9.geom_line(size=0.8)
    if numbers.groupby(["panel", "group"]).size().max() <= 30:
        plot += p9.geom_point(size=1.1)
    if len(titles) > 1:
        plot += p9.facet_wrap("panel", ncol=columns, scales="free_y")
    if ends is not None:
        plot += at_lines(shaped(ends), columns)
    title = y or (titles[0] if len(titles) == 1 else "")
    listed = len(groups) if len(groups) > 1 and ends is None else 0
    height = (2.1 if len(titles) > 1 else 3.0) * -(-len(titles) // columns) + 0.55 + 0.2 * listed
    plot += p9.labs(x=x, y=textwrap.fill(wording.titled(title), 48))
    plot += theme.theme(WIDE, height, legend=bool(listed))
    order = numbers.attrs.get("groups") or groups
    for scale in theme.scales({named[group]: order.index(group) for group in groups}):
        plot += scale
    return plot


def _near(guess: float, values: pd.Series[float]) -> bool:
    """Whether a line at chance leaves the curves more than half of their panel."""
    return bool(values.min() - guess <= values.max() - values.min())


# names at the lines ------------------------------------------------------------------------------------------------


def line_ends(numbers: pd.DataFrame) -> pd.DataFrame:
    """A row a panel and group: panel, group, name, x, mean: where its line ends, moved apart from the other names."""
    import pandas as pd

    thin = numbers.attrs.get("thin") or ()
    rows: list[tuple[object, ...]] = []
    for panel, of in numbers.groupby("panel", sort=False):
        last = of.groupby("group", sort=False).last()
        drawn = [of["mean"].to_numpy(), of[["low", "high"]].to_numpy().ravel()]
        drawn += [ys for title, *_, ys in thin if title == panel]
        values = np.concatenate(drawn)
        values = values[np.isfinite(values)]
        gap = 0.1 * float(np.ptp(values)) if len(values) else 0.0
        places = apart(last["mean"].tolist(), gap)
        rows += [(panel, group, group, x, place) for group, x, place in zip(last.index, last["x"], places, strict=True)]
    return pd.DataFrame(rows, columns=["panel", "group", "name", "x", "mean"])


def apart(places: Sequence[float], gap: float) -> list[float]:
    """The places moved as little as can be (least squares) until neighbours lie at least `gap` apart, in their order.

    Isotonic regression of place_i - i gap: what is out of order is pooled to its mean.
    """
    order = np.argsort(places, kind="stable")
    blocks: list[tuple[float, int]] = []  # mean, number
    for i, place in enumerate(np.asarray(places, dtype=float)[order]):
        blocks.append((place - i * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((a * m + b * n) / (m + n), m + n)]
    moved = np.empty(len(places))
    moved[order] = np.repeat([mean for mean, _ in blocks], [n for _, n in blocks]) + gap * np.arange(len(places))
    return [float(place) for place in moved]


def at_lines(ends: pd.DataFrame, columns: int) -> list[Any]:
    """The layers that write each name to the right of where its line ends, and the room for them."""
    import plotnine
    from mizani.breaks import breaks_extended

    p9: Any = plotnine
    share = 0.065 * max(map(len, ends["name"])) / ((WIDE - 0.6) / columns - 0.4)
    share = share / (1 - share)  # of what the lines take, as an axis is widened
    last = float(ends["x"].max())
    aside = ends.assign(x=ends["x"] + 0.02 * last)
    marks = breaks_extended(Q=[1, 5, 2, 4, 3])  # no half epochs
    return [
        p9.geom_text(p9.aes(label="name"), data=aside, ha="left", size=7.5, show_legend=False),
        p9.scale_x_continuous(
            expand=(0.04, 0, share + 0.03, 0), breaks=lambda limits: [at for at in marks(limits) if at <= last]
        ),
    ]


def drawn_how(runs: Mapping[str, int], thin: bool) -> str:
    """What thick lines, thin lines and bands are, of those that a figure has; `runs`: the most of each group."""
    if max(runs.values(), default=0) < 2:
        return "Lines are single runs."
    few = [n for n in runs.values() if n <= FEW_RUNS] if thin else []
    if len(few) == len(runs):
        return "Thick lines are means over runs, thin lines single runs."
    bands = "bands 95 % t intervals over runs, cut where the metric ends"
    return f"Thick lines are means over runs, {'thin lines single runs (up to five), ' if few else ''}{bands}."
