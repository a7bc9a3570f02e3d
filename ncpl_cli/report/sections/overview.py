"""The first page: what was run, what was found, how sure it is, and how to run it again."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np

from ncpl_cli.analysis import Group, headline, plasticity, words
from ncpl_cli.analysis.casualties import casualties, together
from ncpl_cli.analysis.claims import AGREES, DIFFERS, UNDECIDED
from ncpl_cli.analysis.preregistered import changes
from ncpl_cli.analysis.survival import survival
from ncpl_cli.report.blocks import Block, Commands, Section, Text, table
from ncpl_cli.report.claims_figure import claims_figure
from ncpl_cli.report.material import Claims, Material, Part
from ncpl_cli.report.sections import provenance
from ncpl_cli.report.sections._lead import lead
from ncpl_cli.report.wording import DEFINITIONS

ID, TITLE = "overview", "Overview"

SAID = {AGREES: "agree", DIFFERS: "differ", UNDECIDED: "cannot be decided at this scale"}

FEW = 2
"""Groups of a scenario that are said in words; all are in the table."""


def draw(material: Material) -> Section:
    """What a stranger needs within a minute."""
    if not material.rows:
        return Section.empty(
            ID, TITLE, "The store has no run yet.", "ncpl demo", "ncpl train permuted-digits --tasks 20 --seeds 0-4"
        )
    said: list[tuple[bool, str]] = []
    for part in material.parts:  # the only scenario of a report stands in its title
        drop = f"{part.scenario}, " if len(material.parts) == 1 else ""
        said += [(sure, line.replace(drop, "", 1) if drop else line) for sure, line in _found(part)]
    found, undecided = ([line for sure, line in said if sure is wanted] for wanted in (True, False))
    answers = _verdicts(material)
    if not said and not answers:
        undecided = ["Too little was recorded to say: see the sections below."]
    figure = lead(material)
    blocks: list[Block] = [
        *([Text(tuple(answers), "finding", "The answers, part by part")] if answers else []),
        Text(DEFINITIONS),
        *([figure] if figure else []),
        *([Text(tuple(found), "finding", "What was found")] if found else []),
        *(
            [Text(tuple(undecided), "undecided", "What these runs do not decide, or what a control takes away")]
            if undecided
            else []
        ),
        Text(tuple(_sure(material)), "caveat", "How sure this is"),
        Text(tuple(_run(material)), title="What was run"),
        *([Text(tuple(_planned(material)), title="What was planned")] if material.plans else []),
        *_claims(material),
        _groups(material),
    ]
    if again := provenance.commands(material):
        more = f" (the first {FEW} of {len(again)} commands; all are under Provenance)" if len(again) > FEW else ""
        lines = (*again[:FEW], f"ncpl report {material.selection}".strip())
        blocks.append(Commands(f"How to run it again{more}", lines))
    return Section(ID, TITLE, tuple(blocks))


def _verdicts(material: Material) -> list[str]:
    """How many published claims agree, and what each part comes to, decided or not."""
    lines = []
    for study in dict.fromkeys(of.study for of in material.claims):
        counts = Counter(one.verdict for of in material.claims if of.study == study for one in of.judged)
        listed = ", ".join(f"{counts[verdict]} {said}" for verdict, said in SAID.items())
        lines.append(f"Of {counts.total()} published claims ({study}) {listed}: see the table of claims.")
        lines += [_answer(of) for of in material.claims if of.study == study]
    return lines


def _answer(of: Claims) -> str:
    """What a part of a study comes to: its first claim that is no control, with our value, and how the others went."""
    first = next((one for one in of.judged if not one.claim.source.startswith("control")), of.judged[0])
    others = [one for one in of.judged if one is not first]
    value = "no value" if first.finding is None else f"{first.finding.value:+.3g}"
    if first.finding is not None and first.finding.ci95 is not None:
        value += f" (95 % interval {first.finding.ci95[0]:+.3g} to {first.finding.ci95[1]:+.3g})"
    verdict = "not decided" if first.verdict == UNDECIDED else first.verdict
    short = {AGREES: "agree", DIFFERS: "differ", UNDECIDED: "not decided"}
    rest = [f"{n} {said}" for one, said in short.items() if (n := sum(other.verdict == one for other in others))]
    text = f"{of.part} {verdict}: {first.claim.says}: {value}"
    return f"{text}; of the others {', '.join(rest)}." if rest else f"{text}."


def _claims(material: Material) -> list[Block]:
    """Every published claim beside our value, its verdict, and what weakens the claim itself."""
    if not material.claims:
        return []
    rows = []
    caveats = []
    for of in material.claims:
        for one in of.judged:
            f = one.finding
            low, high = f.ci95 if f and f.ci95 else (None, None)
            rows.append((one.claim.says, one.verdict, one.claim.published, f and f.value, low, high, f and f.runs,
                         f"{of.part}, {of.scale}", one.why, one.claim.source))  # fmt: skip
            said = [f"{name} {value:.3g}" for name, value in f.beside.items()] if f else []
            beside = f"beside it {', '.join(said)}" if said else ""
            if more := "; ".join(part for part in (f.survives if f else "", beside, one.claim.caveat) if part):
                caveats.append(f"{one.claim.says}: {more}.")
    columns = ("claim", "verdict", "published", "ours", "low", "high", "runs", "part and scale", "why", "source")
    sources = "; ".join(dict.fromkeys(of.source for of in material.claims))
    caption = f"Published claims against our runs, with 95 % intervals over runs ({sources})"
    figures = [figure for of in material.claims if (figure := claims_figure(of)) is not None]
    return [*figures, table(f"{ID}-claims", caption, columns, rows), Text(tuple(dict.fromkeys(caveats)), "caveat")]


def _run(material: Material) -> list[str]:
    rows = material.rows
    lines = []
    for part in material.parts:
        runs = [s for g in part.groups for s in g.series]
        if not runs:
            continue
        seeds = words.ranges(sorted({s.run.seed for s in runs}))
        data = ", ".join(dict.fromkeys(str(s.run.settings.get("dataset") or "imported series") for s in runs))
        last = max(int(s.epoch[-1]) for s in runs)
        extent = words.count(max(s.tasks for s in runs), "task") if part.several else f"epoch {last}"
        arms = ""
        if len(part.groups) > 1:
            listed = [*part.labels[: 2 * FEW], *(["..."] if len(part.labels) > 2 * FEW else [])]
            arms = f" in {len(part.groups)} groups that differ only in their settings ({'; '.join(listed)})"
        lines.append(
            f"{part.scenario} on {data}: {words.count(len(runs), 'run')}{arms}, seeds {seeds}, up to {extent}."
        )
    days = sorted({time.strftime("%Y-%m-%d", time.gmtime(row.created)) for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    seconds = sum(row.seconds for row in rows)
    trained = f"{seconds / 3600:.1f} hours" if seconds > 7200 else f"{seconds / 60:.1f} minutes"
    probes = f" and {words.count(material.probes, 'probe')}" if material.probes else ""
    return [*lines, f"In all {words.count(len(rows), 'run')}{probes}, made {when}, {trained} of training."]


def _found(part: Part) -> list[tuple[bool, str]]:
    """The results of this scenario in words, the paper's findings in order; each with its number and interval, and
    whether it stands: what includes 0, or does not survive a control, is no finding."""
    lines: list[tuple[bool, str]] = []
    if part.several:
        long = [(label, g) for label, g in part.shown if max(s.tasks for s in g.series) > plasticity.TASKS_AFTER]
        enough = max((s.tasks for g in part.groups for s in g.series), default=0) >= PUBLISHED_TASKS // 2
        lines += [(enough, line) for label, g in long[:FEW] if (line := _fall(part, label, g))]
    for label, result in part.correlations[:FEW]:
        if result.overall.summary.mean_r is not None:
            said = {"planned": "Planned. ", "unplanned": ""}.get(result.more["plan"]["kind"], "Exploratory. ")
            line = f"{said}{part.scenario}, {label}, {result.x} and {result.y}: {headline.headline(result)}"
            lines.append((survival(result).stands, line))
    lines += [
        (survival(r).stands, f"{part.scenario}, across first tasks of different length: {headline.headline(r)}")
        for r in part.over_runs[:1]
    ]
    for comparison in part.comparisons:
        for arm in comparison.arms[:FEW]:
            if arm.gain.mean is not None:
                matched = arm.matched.gain if arm.matched else None
                tail = ""
                if matched is not None and matched.mean is not None:
                    tail = f"; against networks that had learned equally much {matched.mean:+.4f}"
                    tail += _interval(matched.ci95, 4)
                stands = _told_from_0(arm.gain.ci95) and (matched is None or _told_from_0(matched.ci95))
                text = (
                    f"{part.scenario}, {arm.arm} against {comparison.plain}: gain in {comparison.y} "
                    f"{arm.gain.mean:+.4f}{_interval(arm.gain.ci95, 4)}{tail}."
                )
                lines.append((stands, text))
    return lines


def _planned(material: Material) -> list[str]:
    """The plan of the analysis, what was made of it, and what was changed later."""
    plans = list(material.plans)
    runs = sum(len(g.series) + len(g.left_out) for part in material.parts for g in part.groups)
    lines = []
    for plan, n in material.plans.items():
        questions = "; ".join(f"{q.name} ({q.x} and {q.y})" for q in plan.questions)
        lines.append(f"Plan {plan.digest}, fixed before the first epoch of {n} of {runs} runs: {questions}.")
    answered = {r.more["plan"]["question"] for part in material.parts for _, r in part.correlations}
    unanswered = [q.name for q in plans[0].questions if q.name not in answered]
    lines += [f"Planned and not answered here as planned: {name}." for name in unanswered]
    lines += [f"Changed later: {'; '.join(changes(plans[0], later))}." for later in plans[1:]]
    return [*lines, "What is not marked as planned was found by looking."]


def _told_from_0(ci95: tuple[float, float] | None) -> bool:
    return ci95 is not None and ci95[0] * ci95[1] > 0


def _interval(ci95: tuple[float, float] | None, digits: int = 2) -> str:
    return "" if ci95 is None else f" (95 % interval {ci95[0]:+.{digits}f} to {ci95[1]:+.{digits}f})"


PUBLISHED_TASKS = 140
"""B24's number of tasks; a run much shorter says little about its first finding."""


def _fall(part: Part, label: str, group: Group) -> str:
    """Finding 1: what happens to accuracy and collapse from the first task to the last ones."""
    pairs = []
    for name in ("online_accuracy", "nc1"):
        first = plasticity.estimate([float(s.per_task(name)[0]) for s in group.series])
        last = plasticity.estimate([plasticity.loss(s, name, last=True) for s in group.series])
        if first is None or last is None:
            return ""
        pairs.append((first.mean, last.mean))
    (a, b), (c, d) = pairs
    tasks = max(s.tasks for s in group.series)
    if tasks < PUBLISHED_TASKS // 2:
        verdict = f"{tasks} tasks are too few to say whether accuracy falls while nc1 rises, as B24 reports of 140"
    elif b < a and d > c:
        verdict = "as B24 reports: accuracy falls while nc1 rises"
    else:
        verdict = "unlike B24, where accuracy falls while nc1 rises"
    return (
        f"{part.scenario}, {label}: from task 0 to the last {plasticity.TASKS_AFTER} tasks first-epoch accuracy goes "
        f"from {a:.3f} to {b:.3f} and nc1 from {c:.3f} to {d:.3f} ({'less' if d > c else 'more'} collapse); {verdict}."
    )


def _sure(material: Material) -> list[str]:
    fewest = min((len(g.series) for p in material.parts for g in p.groups), default=0)
    lines = ["Intervals are over runs (seeds), never over epochs; an association is not a cause."]
    if fewest < 6:
        lines.append(f"The smallest group has {words.count(fewest, 'run')}: below six runs no p-value is printed, "
                     "as none could reach .05.")  # fmt: skip
    lines += [f"Left out of every mean and correlation: {line}" for line in together(casualties(material.rows))]
    if any(p.several and _negative_start(p) for p in material.parts):
        lines.append("Plasticity loss is negative here, because only the first task starts from initialisation "
                     "(head start): see Plasticity loss.")  # fmt: skip
    return lines


def _negative_start(part: Part) -> bool:
    found = plasticity.estimate([plasticity.loss(s, "plasticity_loss") for g in part.groups for s in g.series])
    return found is not None and found.mean < 0


FINAL = ("online_accuracy", "test_accuracy", "nc1", "plasticity_loss", "probe_test_accuracy")


def _groups(material: Material) -> Block:
    rows = []
    for part in material.parts:
        for label, group in zip(part.labels, part.groups, strict=True):
            seeds = words.ranges(sorted({s.run.seed for s in group.series}))
            final = [plasticity.estimate([_last(s.column(name)) for s in group.series]) for name in FINAL]
            extent = max(s.tasks if part.several else int(s.epoch[-1]) for s in group.series)
            rows.append((part.scenario, label, len(group.series), seeds, f"{extent} {part.unit}s",
                         *(None if f is None else f.mean for f in final)))  # fmt: skip
        for group in part.lost:  # the worst arm is an arm
            status = " or ".join(sorted({s.run.status for s in group.left_out}))
            seeds = words.ranges(sorted({s.run.seed for s in group.left_out}))
            rows.append((part.scenario, f"{part.label_of(group)}: all {status}", 0, seeds, "",
                         *(None for _ in FINAL)))  # fmt: skip
    columns = ("scenario", "group", "runs", "seeds", "extent", *(f"last {name}" for name in FINAL))
    return table(f"{ID}-groups", "Groups of runs that differ only in seed, with means over runs of the last recorded "
                 "values", columns, rows)  # fmt: skip


def _last(column: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    found = column[np.isfinite(column)]
    return float(found[-1]) if len(found) else float("nan")
