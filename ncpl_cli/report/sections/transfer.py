"""What collapse leaves for what comes after: few-shot errors on new classes, read-outs of finer ones, on one axis.

    gain = accuracy after training minus that of the untrained network, on classes that training was not told of

of few-shot rules on classes never trained on (source-classes, against the number of source classes), and of read-outs
of the finer classes (coarse-labels, against the rule). Above 0 training helped; where the sign turns is said in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.analysis import Group, Series, plasticity
from ncpl_cli.analysis.measures import at
from ncpl_cli.report import curves, theme, wording
from ncpl_cli.report.blocks import Block, Figure, Section, Table, Text, table
from ncpl_cli.report.material import Material, Part

if TYPE_CHECKING:
    import pandas as pd

ID, TITLE = "transfer", "Transfer: what collapse leaves for what comes after"

FEW_SHOT, CDNV = "few_shot_error_5@unseen", "cdnv@unseen"
RULES = {"readout_ncc": "nearest mean", "readout_fixed": "fixed ridge", "readout_tuned": "tuned ridge"}
FINE = "fine_test"

BY_CLASSES = "against the number of source classes: 5-shot accuracy on classes never trained on"
BY_READOUT = "against the read-out: accuracy on the finer classes, fitted on the training images"

COLLAPSE = {
    "nc1": "train", "nc1@test": "test, strong (own labels)",
    "nc1_test_weak@test": "test, weak (labels of the nearest training mean)",
    "nc1_test_train_means@test": "test, around the training means",
}  # fmt: skip


def draw(material: Material) -> Section:
    """The joined picture, where the sign turns, then each study's own: over training, test collapse, the cascade."""
    parts = [part for part in material.parts if part.has(FEW_SHOT) or any(part.has(f"{r}@{FINE}") for r in RULES)]
    if not parts:
        return Section.empty(
            ID, TITLE, "No chosen run measures what is told of classes that training was not told of.",
            "ncpl train source-classes --seeds 0-4", "ncpl train coarse-labels --per-class 69 --seeds 0-4",
        )  # fmt: skip
    numbers = gains([part for part in parts if part.groups])
    blocks: list[Block] = [Text(tuple(sentences(numbers)), "finding")] if len(numbers) else []
    if len(numbers):
        blocks.append(_joined(numbers))
    for i, part in enumerate(parts):
        blocks += _over_training(part, material)
        blocks += _pixels(part, f"{ID}-{i}-beside")
        blocks += _test_collapse(part, f"{ID}-{i}-collapse")
        blocks += _cascade(part, f"{ID}-{i}-cascade")
    return Section(ID, TITLE, tuple(blocks))


# numbers -----------------------------------------------------------------------------------------------------------


def gains(parts: Sequence[Part]) -> pd.DataFrame:
    """A row a run and place: panel, x, arm (what else is set), run, seed, gain."""
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for part in parts:
        for label, group in zip(part.labels, part.groups, strict=True):
            rest = arm(group, label)
            for s in group.series:
                if (classes := s.run.settings.get("source_classes")) is not None:
                    gain = at(s, FEW_SHOT, 0) - at(s, FEW_SHOT, "end")
                    rows.append((BY_CLASSES, str(classes), rest, s.run.id, s.run.seed, gain))
                for rule, words in RULES.items():
                    gain = at(s, f"{rule}@{FINE}", "end") - at(s, f"{rule}@{FINE}", 0)
                    rows.append((BY_READOUT, words, rest, s.run.id, s.run.seed, gain))
    return pd.DataFrame(rows, columns=["panel", "x", "arm", "run", "seed", "gain"]).dropna()


def arm(group: Group, label: str) -> str:
    """What tells a group from the others, but for the number of source classes."""
    if group.series[0].run.settings.get("source_classes") is None:
        return label
    kept = {k: v for k, v in group.settings.items() if k != "source_classes" and v not in (None, 0)}
    return ", ".join(f"{k}={_value(v)}" for k, v in kept.items()) or "source classes"


def _value(value: object) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def means(numbers: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % t interval over runs of each panel, arm and x."""
    import pandas as pd

    rows = []
    for (panel, arm_, x), of in numbers.groupby(["panel", "arm", "x"], sort=False):
        found = plasticity.estimate(of["gain"].tolist())
        assert found is not None
        rows.append((panel, arm_, x, found.mean, *(found.ci95 or (np.nan, np.nan)), found.n))
    return pd.DataFrame(rows, columns=["panel", "arm", "x", "gain", "low", "high", "runs"])


def turning_point(classes: Sequence[int], gain: Sequence[float]) -> float | None:
    """Where the gain turns from loss to gain, on a line through the means over log2 of the classes; None: nowhere."""
    order = np.argsort(classes)
    x, y = np.log2(np.asarray(classes, float)[order]), np.asarray(gain, float)[order]
    turns = [i for i in range(len(y) - 1) if y[i] < 0 <= y[i + 1]]
    if not turns:
        return None
    i = turns[-1]
    return float(2 ** (x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])))


def sentences(numbers: pd.DataFrame) -> list[str]:
    """Where the sign turns, in words, for each arm that has several places."""
    said = []
    found = means(numbers)
    for arm_, of in found[found["panel"] == BY_CLASSES].groupby("arm", sort=False):
        classes = [int(x) for x in of["x"]]
        if len(classes) < 2:
            continue
        turn = turning_point(classes, of["gain"].tolist())
        ends = {c: g for c, g in zip(classes, of["gain"], strict=True) if c in (min(classes), max(classes))}
        listed = ", ".join(f"{gain:+.3f} with {c} source classes" for c, gain in sorted(ends.items()))
        if turn is not None:
            where = f"training begins to help between {_between(classes, turn)} source classes (about {turn:.2g})"
        elif _one_sign(of["gain"]):
            where = f"training {'helps' if of['gain'].iloc[0] > 0 else 'hurts'} throughout"
        else:
            where = "the sign does not turn from loss to gain"
        said.append(
            f"Few-shot accuracy on classes never trained on, {arm_}: {listed} against the untrained network; {where}."
        )
    for arm_, of in found[found["panel"] == BY_READOUT].groupby("arm", sort=False):
        listed = ", ".join(f"{row.x} {row.gain:+.3f}" for row in of.itertuples())
        sign = "the read-out decides the sign" if not _one_sign(of["gain"]) else "the sign is that of every read-out"
        said.append(f"Finer classes read off coarse training, {arm_}: {listed} against the untrained network; {sign}.")
    return said


def _between(classes: Sequence[int], turn: float) -> str:
    below, above = max(c for c in classes if c <= turn), min(c for c in classes if c >= turn)
    return f"{below} and {above}"


def _one_sign(gain: Any) -> bool:
    return bool((gain > 0).all() or (gain < 0).all())


# blocks ------------------------------------------------------------------------------------------------------------


def _joined(numbers: pd.DataFrame) -> Figure:
    caption = (
        "What training did to classes that it was not told of: accuracy at the end minus that of the untrained "
        "network. Few-shot rules on new classes go by the number of source classes, read-outs of finer classes by the "
        "rule. Small points are runs, large ones means over runs, bars their 95 % t interval; below the dotted line "
        "training hurt."
    )
    alt = " ".join(sentences(numbers))
    table_ = Table.of("gain-on-new-classes-numbers", "Numbers drawn: the gain of each run", numbers)
    return Figure("gain-on-new-classes", caption, alt, table_, lambda: draw_joined(numbers))


def draw_joined(numbers: pd.DataFrame) -> Any:
    """Gain against the number of source classes, and against the read-out: two panels, one vertical axis."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    arms = list(dict.fromkeys(numbers["arm"]))[: theme.MOST_LINES]
    panels = list(dict.fromkeys(numbers["panel"]))
    places = [str(c) for c in sorted({int(x) for x in numbers["x"] if x.isdigit()})] + list(RULES.values())
    names = wording.shortened(arms, 80)
    titles = {one: one.replace(": ", ":\n") for one in panels}

    def shaped(frame: pd.DataFrame) -> pd.DataFrame:
        kept = frame[frame["arm"].isin(arms)]
        return kept.assign(
            x=pd.Categorical(kept["x"], [p for p in places if p in set(numbers["x"])]),
            arm=pd.Categorical(kept["arm"].map(names), list(names.values())),
            panel=pd.Categorical(kept["panel"].map(titles), list(titles.values())),
        )

    data, centres = shaped(numbers), shaped(means(numbers))
    aside = p9.position_dodge(width=0.5)
    plot = (
        p9.ggplot(centres, p9.aes("x", "gain", colour="arm", shape="arm", group="arm"))
        + p9.geom_hline(yintercept=0, colour=theme.FAINT, linetype="dotted", size=0.6)
        + p9.geom_point(data=data, position=aside, size=0.9, alpha=0.45)
        + p9.geom_line(position=aside, size=0.6, alpha=0.6)
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), data=centres.dropna(), position=aside, size=0.7)
        + p9.geom_point(position=aside, size=2.2)
        + p9.scale_colour_manual(values=theme.COLOURS[: len(arms)])
        + p9.labs(x="", y="gain in accuracy over the untrained network\n(above 0: training helped)")
    )
    if len(panels) > 1:
        plot += p9.facet_wrap("panel", ncol=2, scales="free_x")
    return plot + theme.theme(7.6, 3.4 + 0.2 * len(arms))


def _over_training(part: Part, material: Material) -> list[Block]:
    addresses = [FEW_SHOT, CDNV, *(f"{rule}@{FINE}" for rule in RULES), *(f"{rule}_fresh@{FINE}" for rule in RULES)]
    numbers = curves.frame(part, curves.panels(part, material, addresses))
    if not len(numbers):
        return []
    caption = f"{part.scenario}: transfer over training, at the epochs where it was measured."
    return [
        curves.figure(
            part.figure_id("transfer-by-epoch"),
            caption,
            numbers,
            part,
            alt=curves.ends(numbers, str(numbers["panel"].iloc[0])),
        )
    ]


def _pixels(part: Part, id_: str) -> list[Block]:
    """Every few-shot error and read-out beside raw pixels and the untrained network."""
    names = [FEW_SHOT, "few_shot_ridge_error_5@unseen", *(f"{rule}@{FINE}" for rule in RULES)]
    rows = []
    for label, group in zip(part.labels, part.groups, strict=True):
        for name in names:
            looks = ((f"{name}/input", 0), (name, 0), (name, "end"))
            values = [_mean(group.series, address, when) for address, when in looks]
            if values[-1] is not None:
                rows.append((label, name, *values))
    if not rows:
        return []
    columns = ("group", "metric", "raw pixels", "untrained network", "at the end")
    return [
        table(
            id_,
            f"{part.scenario}: means over runs beside what raw pixels and the untrained network give",
            columns,
            rows,
        )
    ]


def _test_collapse(part: Part, id_: str) -> list[Block]:
    """H22's kinds of test collapse beside the training split's, before training and at the end."""
    if not part.has("nc1_test_weak@test"):
        return []
    rows = []
    for label, group in zip(part.labels, part.groups, strict=True):
        for address, words in COLLAPSE.items():
            values = (_mean(group.series, address, 0), _mean(group.series, address, "end"))
            if values[1] is not None:
                rows.append((label, words, *values))
    caption = (
        f"{part.scenario}: nc1 of the trained classes on the training split and in H22's three ways on the test split. "
        "Weak collapse takes the nearest mean for the label, which makes any features look collapsed: compare with the "
        "untrained network"
    )
    return [table(id_, caption, ("group", "nc1", "untrained network", "at the end"), rows)]


def _cascade(part: Part, id_: str) -> list[Block]:
    """nc1 of every layer, on training and test images."""
    layers = [name for name in (*(f"layer{i}" for i in range(1, 30)), "last") if part.has(_at("nc1", "test", name))]
    if len(layers) < 2:
        return []
    rows = []
    for label, group in zip(part.labels, part.groups, strict=True):
        for layer in layers:
            places = [_at("nc1", split, layer) for split in ("train", "test")]
            rows.append((label, layer, *(_mean(group.series, a, when) for a in places for when in (0, "end"))))
    columns = ("group", "layer", "train, untrained", "train, end", "test, untrained", "test, end")
    return [
        table(id_, f"{part.scenario}: the cascade, nc1 of each layer from the input on, means over runs", columns, rows)
    ]


def _at(metric: str, split: str, layer: str) -> str:
    from ncpl_cli.records import Address

    return str(Address(metric, split, layer))


def _mean(series: Sequence[Series], address: str, when: int | str) -> float | None:
    found = plasticity.estimate([at(s, address, when) for s in series])
    return None if found is None else found.mean
