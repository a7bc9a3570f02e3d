"""The story of a study of arms: what a dose does, whether remedies add up, what goes with learning, and artefacts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.analysis.claims_lyle import by_seed, signs_within
from ncpl_cli.analysis.finding import Arms, over_runs
from ncpl_cli.report import theme
from ncpl_cli.report.blocks import Block, Figure, Section, Table, Text, table
from ncpl_cli.report.material import Claims, Material

if TYPE_CHECKING:
    import pandas as pd

ID, TITLE = "mechanisms", "Mechanisms and remedies"

DOSE = re.compile(r"(.*?)-([0-9.]+(?:e-?[0-9]+)?)")
"""An arm of a dose: what is given, and how much."""

LEARNED = 0.5
"""An arm whose first task ends below this accuracy never learned it: what it loses later says nothing."""

SINGLE, PAIR, SUM = "alone", "both together", "sum of the two gains"


def draw(material: Material) -> Section:
    """Dose curves, the grid of remedies, diagnostics beside learning, artefacts: each where the study has it."""
    studies = [of for of in material.claims if of.arms]
    blocks = [*_doses(studies), *_remedies(studies), *_diagnostics(studies), *_artefacts(studies)]
    if not any(isinstance(block, Figure) for block in blocks):
        return Section.empty(
            ID, TITLE, "No chosen run is of a study of mechanisms and remedies.", "ncpl reproduce lyle2024"
        )
    return Section(ID, TITLE, tuple(blocks))


# doses -------------------------------------------------------------------------------------------------------------


def dose_frame(studies: list[Claims]) -> pd.DataFrame:
    """A row an arm of a dose of three or more: panel, what, dose, mean, low, high, seeds; of a part's first metric."""
    import pandas as pd

    rows = []
    for of in studies:
        options = of.judged[0].claim.options
        if "metric" not in options:
            continue
        curves: dict[str, dict[float, str]] = {}
        for arm in of.arms:
            if found := DOSE.fullmatch(arm):
                curves.setdefault(found[1], {})[float(found[2])] = arm
        for what, doses in curves.items():
            values = {
                amount: over_runs(list(by_seed(of.arms, arm, options["metric"], options).values()))
                for amount, arm in sorted(doses.items())
            }
            known = {amount: one for amount, one in values.items() if one is not None}
            panel = f"{of.part}: {options['metric']}"
            rows += [
                (panel, what, f"{amount:g}", one.value, *(one.ci95 or (np.nan, np.nan)), one.runs)
                for amount, one in (known.items() if len(known) > 2 else ())
            ]
    return pd.DataFrame(rows, columns=["panel", "what", "dose", "mean", "low", "high", "seeds"])


def _doses(studies: list[Claims]) -> Iterator[Block]:
    numbers = dose_frame(studies)
    if not len(numbers):
        return
    caption = (
        "What a dose does: mean over seeds with the 95 % t interval, arms in the order of the dose (not to scale). "
        "Offsets of earlier targets, shares of the labels a shift, discounts: arms of one colour differ in that alone."
    )
    ends: dict[str, list[str]] = {}
    for panel, what, mean in zip(numbers["panel"], numbers["what"], numbers["mean"], strict=True):
        ends.setdefault(f"{panel}, {what}", []).append(f"{mean:.3g}")
    alt = "; ".join(f"{curve}: {of[0]} to {of[-1]}" for curve, of in ends.items())
    drawn = Table.of("loss-by-dose-numbers", "Numbers drawn: doses", numbers)
    yield Figure("loss-by-dose", caption, alt, drawn, lambda: draw_doses(numbers))


def draw_doses(numbers: pd.DataFrame) -> Any:
    """A panel a part, a colour a kind of arm."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    whats, panels = list(dict.fromkeys(numbers["what"]))[: theme.MOST_LINES], list(dict.fromkeys(numbers["panel"]))
    order = sorted(set(numbers["dose"]), key=float)
    data = numbers[numbers["what"].isin(whats)].assign(
        dose=lambda f: pd.Categorical(f["dose"], order), panel=lambda f: pd.Categorical(f["panel"], panels),
        what=lambda f: pd.Categorical(f["what"], whats),
    )  # fmt: skip
    aside = p9.position_dodge(width=0.3)
    return (
        p9.ggplot(data, p9.aes("dose", "mean", colour="what", group="what"))
        + p9.geom_line(position=aside, size=0.7)
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), data=data.dropna(), position=aside, size=0.8)
        + p9.geom_point(position=aside, size=1.8)
        + p9.facet_wrap("panel", ncol=2, scales="free")
        + p9.scale_colour_manual(values=theme.COLOURS[: len(whats)])
        + p9.labs(x="dose", y="")
        + theme.theme(7.2, 2.3 * -(-len(panels) // 2) + 0.2 * len(whats) + 0.4)
    )


# remedies ----------------------------------------------------------------------------------------------------------


def remedy_frame(of: Claims) -> pd.DataFrame:
    """A row a remedy and way: remedy, way (alone, both together, sum of the two gains), gain, low, high, seeds."""
    import pandas as pd

    rows: dict[tuple[str, str], tuple[Any, ...]] = {}

    def put(remedy: str, way: str, values: list[float]) -> None:
        if (one := over_runs(values)) is not None:
            rows[remedy, way] = (remedy, way, one.value, *(one.ci95 or (np.nan, np.nan)), one.runs)

    for claim in (one.claim for one in of.judged):
        options = claim.options
        if options.get("metric") != "train_accuracy":
            continue
        if claim.measure == "arm_gap" and options.get("plain") == "plain":
            mine, plain = (by_seed(of.arms, arm, "train_accuracy", options) for arm in (options["arm"], "plain"))
            put(options["arm"], SINGLE, [mine[s] - plain[s] for s in mine.keys() & plain.keys()])
        if claim.measure == "interaction":
            names = options["arms"]
            both, one, other, none = (by_seed(of.arms, arm, "train_accuracy", options) for arm in names)
            seeds = sorted(both.keys() & one.keys() & other.keys() & none.keys())
            for name, values in ((names[1], one), (names[2], other)):
                put(name, SINGLE, [values[s] - none[s] for s in seeds])
            put(names[0], PAIR, [both[s] - none[s] for s in seeds])
            put(names[0], SUM, [one[s] + other[s] - 2 * none[s] for s in seeds])
    return pd.DataFrame(list(rows.values()), columns=["remedy", "way", "gain", "low", "high", "seeds"])


def _remedies(studies: list[Claims]) -> Iterator[Block]:
    for of in studies:
        numbers = remedy_frame(of)
        if len(numbers):
            caption = (
                f"{of.part}, {of.scale}: gain over the plain net in the accuracy that the last tasks end at, mean over "
                "seeds with the 95 % t interval. A pair stands beside the sum of what its two parts gain alone: where "
                "it gains less, the remedies mend the same thing, or have reached the ceiling."
            )
            alt = "; ".join(f"{row.remedy} {row.way}: {row.gain:+.3f}" for row in numbers.itertuples())
            drawn = Table.of(f"gain-of-{of.part}-{of.scale}-numbers", "Numbers drawn: gains of remedies", numbers)
            id_ = f"gain-of-{of.part}-{of.scale}"
            yield Figure(id_, caption, alt, drawn, lambda numbers=numbers: draw_remedies(numbers))  # type: ignore[misc]
            yield grid(of)


def draw_remedies(numbers: pd.DataFrame) -> Any:
    """A row a remedy; alone, together, and the sum in three colours and shapes."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    order, ways = list(dict.fromkeys(numbers["remedy"])), [SINGLE, PAIR, SUM]
    data = numbers.assign(
        remedy=pd.Categorical(numbers["remedy"], order[::-1]), way=pd.Categorical(numbers["way"], ways)
    )
    return (
        p9.ggplot(data, p9.aes("remedy", "gain", colour="way", shape="way"))
        + theme.forest(data)
        + p9.scale_colour_manual(values=theme.COLOURS[:3])
        + p9.coord_flip()
        + p9.labs(x="", y="gain in late accuracy (right = better than plain)")
        + theme.theme(7.2, 0.3 * len(order) + 1.5)
    )


def grid(of: Claims) -> Table:
    """Every arm: how the first task ended, how the last ones did, and whether it ever learned."""
    last = next((o["last"] for o in (one.claim.options for one in of.judged) if "last" in o), 5)
    rows = []
    for arm in of.arms:
        first, late = (
            over_runs(list(by_seed(of.arms, arm, "train_accuracy", {key: n}).values()))
            for key, n in (("task", 0), ("last", last))
        )
        if first is not None and late is not None:
            rows.append((arm, first.value, late.value, *(late.ci95 or (None, None)), late.runs,
                         "" if first.value >= LEARNED else "never learned task 0"))  # fmt: skip
    columns = ("arm", "task 0 ends at", f"last {last} tasks end at", "low", "high", "seeds", "note")
    return table(f"{ID}-{of.part}-grid", f"{of.part}: train accuracy at the end of tasks, by arm", columns, rows)


# diagnostics -------------------------------------------------------------------------------------------------------


def _diagnostics(studies: list[Claims]) -> Iterator[Block]:
    for of in studies:
        asked = next((one.claim.options for one in of.judged if one.claim.measure == "signs_within"), None)
        if asked is None:
            continue
        rows = diagnostic_rows(of.arms, asked["y"])
        if rows:
            caption = (
                f"{of.part}: r of what is measured before a task's first step with that task's {asked['y']}, over the "
                "tasks after the first, within each run, mean over runs. A sign that differs between arms is no law; "
                "within an arm both may only follow the training clock."
            )
            yield table(f"{ID}-{of.part}-r", caption, ("diagnostic", *of.arms), rows)


def diagnostic_rows(arms: Arms, y: str) -> list[tuple[Any, ...]]:
    """A row a diagnostic: its name, and the mean r within runs of each arm, None where it is undefined."""
    known = [a for of in arms.values() for s in of for a in s.columns if "@start" in a]
    rows: list[tuple[Any, ...]] = []
    for address in dict.fromkeys(known):
        found = [signs_within({arm: of}, {"signs": {arm: 1}, "x": address, "y": y}) for arm, of in arms.items()]
        if any(found):
            rows.append((address.partition("@")[0], *(one and one.beside[f"r in {arm}"]
                                                      for arm, one in zip(arms, found, strict=True))))  # fmt: skip
    return rows


# artefacts ---------------------------------------------------------------------------------------------------------


def _artefacts(studies: list[Claims]) -> Iterator[Block]:
    controls: dict[str, None] = {}
    caveats: dict[str, list[str]] = {}
    for of in studies:
        for one in of.judged:
            if "control" in one.claim.source and one.finding is not None:
                value = f"{one.finding.value:+.3g}{_interval(one.finding.ci95)}"
                controls[f"{one.claim.id}: {one.claim.says}: {value}, {one.verdict}."] = None
            elif one.claim.caveat and one.claim.measure in MEASURED:
                ids = caveats.setdefault(one.claim.caveat, [])
                ids += [one.claim.id] if one.claim.id not in ids else []
    lines = [*controls, *(f"{', '.join(ids)}: {caveat}." for caveat, ids in caveats.items())]
    if lines:
        yield Text(tuple(lines), "caveat", "What is an artefact, and what the controls say")


MEASURED = ("rising", "arm_gap", "smallest_gap", "interaction", "signs_within")


def _interval(ci95: tuple[float, float] | None) -> str:
    return "" if ci95 is None else f" (95 % interval {ci95[0]:+.3g} to {ci95[1]:+.3g})"
