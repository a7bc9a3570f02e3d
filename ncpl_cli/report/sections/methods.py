"""Methods text, generated from the settings that were actually used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ncpl_cli.analysis.differing import frozen
from ncpl_cli.analysis.words import ranges
from ncpl_cli.records import Address
from ncpl_cli.report.blocks import Block, Section, Text, table
from ncpl_cli.report.material import Material, Part
from ncpl_cli.values import count

ID, TITLE = "methods", "Methods"


def draw(material: Material) -> Section:
    """What was trained and measured and how it was analysed, in words; and the formula of every metric shown."""
    if not material.parts:
        return Section.empty(ID, TITLE, "No run was chosen.", "ncpl runs list")
    blocks: list[Block] = [Text(tuple(_training(part, material)), "prose") for part in material.parts]
    blocks.append(Text(tuple(_analysis(material)), "prose"))
    used = {Address.parse(a).metric for part in material.parts for a in part.study.addresses()}
    rows = [(metric, *material.formulas[metric]) for metric in material.formulas if metric in used]
    if rows:
        blocks.append(table(f"{ID}-metrics", "Metrics of these runs (source as in ncpl catalog)",
                            ("metric", "formula", "direction", "source"), rows))  # fmt: skip
    return Section(ID, TITLE, tuple(blocks))


def _training(part: Part, material: Material) -> list[str]:
    """The protocol of a scenario's runs: what they share, and what their arms differ in."""
    trained = [g for g in part.groups if material.trained_here(g)]
    if not trained:
        seeds = ranges(sorted({s.run.seed for g in part.groups for s in g.series}))
        return [f"{part.scenario}: the series come from another training loop (seeds {seeds}); how they were trained "
                "is not known to ncpl beyond their settings under Provenance."]  # fmt: skip
    rows = {row.id: row for row in material.rows}
    settings = together([{**s.run.settings, **rows[s.run.id].horizon} for g in trained for s in g.series])
    seeds = ranges(sorted({s.run.seed for g in trained for s in g.series}))
    number = sum(len(g.series) for g in trained)
    lines = [f"{part.scenario}: {count(number, 'run', 'was', 'were')} trained (seeds {seeds})."]
    lines.append(f"The data set was {_data(settings)}. The network was {_network(settings)}.")
    lines.append(f"The optimiser was {_optimizer(settings)}.")
    tasks = sorted({s.tasks for g in trained for s in g.series})
    some = f"{tasks[0]} to {tasks[-1]}" if len(tasks) > 1 else str(tasks[0])  # groups may differ in how far they went
    lines.append(_protocol(part.scenario, settings | {"tasks": some}))
    if len(trained) > 1:
        arms = "; ".join(label for label, g in zip(part.labels, part.groups, strict=True) if g in trained)
        lines.append(f"Arms differed in nothing but: {arms}.")
    every = {rows[s.run.id].recorded.get("every", 1) for g in trained for s in g.series}
    how_often = "after every epoch" if every == {1} else f"every {', '.join(map(str, sorted(every)))} epochs"
    lines.append(
        f"Metrics were computed {how_often} in eval mode without gradients, apart from the random streams of training."
    )
    return lines


def together(every: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Settings of all runs; one that varies has its values in words, `0.01 or 0.003`: no arm speaks for the others.

    A setting that some runs leave out is at its default in those.
    """
    found: dict[str, object] = {}
    for name in dict.fromkeys(name for settings in every for name in settings):
        values = {frozen(s[name]) if name in s else "": s.get(name, "the default") for s in every}
        (found[name],) = [" or ".join(map(str, values.values()))] if len(values) > 1 else values.values()
    return found


def _share(value: object) -> str:
    """A share as a percentage; several in words as they are."""
    return value if isinstance(value, str) else f"{float(str(value)):.0%}"


def _data(s: Mapping[str, object]) -> str:
    some = f", {s['train_samples']} training samples, class-balanced" if s.get("train_samples") else ""
    return f"{s.get('dataset')} (content digest {s.get('dataset_digest')}{some})"


def _network(s: Mapping[str, object]) -> str:
    if s.get("network") == "mlp":
        norm = "" if s.get("norm", "none") == "none" else f", {s['norm']} norm"
        shape = f"{s.get('depth')} hidden layers of {s.get('width')} units"
        return f"a multilayer perceptron of {shape} ({s.get('activation')}{norm}){_initialised(s)}"
    return f"{s.get('network')} (width {s.get('width')}, {s.get('norm')} norm){_initialised(s)}"


def _initialised(s: Mapping[str, object]) -> str:
    return " initialised as torch does" if s.get("init") == "torch" else ""


def _optimizer(s: Mapping[str, object]) -> str:
    rate = f"learning rate {s.get('lr')} ({s.get('lr_schedule')})"
    parts = [f"{s.get('optimizer')}, {rate}, batch size {s.get('batch_size')}"]
    parts.append(f"momentum {s['momentum']}" if s.get("momentum") else "no momentum")
    parts.append(f"weight decay {s['weight_decay']}" if s.get("weight_decay") else "no weight decay")
    parts += [f"{name} {s[name]}" for name in ("beta1", "beta2", "eps") if name in s]
    parts += [f"objective {s['objective']}"] if s.get("objective") else []
    return f"{', '.join(parts)}, precision {s.get('precision')}"


def _protocol(scenario: str, s: Mapping[str, object]) -> str:
    if scenario.startswith("permuted"):
        return (
            f"Each run learned {s.get('tasks')} tasks one after the other; every task shows the same images with "
            f"another random order of {_share(s.get('permuted_fraction', 1))} of the pixels and a new order "
            "of the samples. Online accuracy is whether each sample was predicted right before the update that used it."
        )
    if scenario == "warm-start":
        return (
            f"Networks were warmed up on a random {_share(s.get('warm_up_fraction', 0.5))} of the training "
            f"data for {s.get('warm_up_epochs')} epochs. Every {s.get('probe_every')} epochs a copy was trained on all "
            f"data with a new optimiser until its running train accuracy exceeded {s.get('probe_accuracy')} or "
            f"{s.get('probe_max_epochs')} epochs had passed; its test accuracy is probe_test_accuracy. The copy from "
            "epoch 0 is the cold start."
        )
    own = ", ".join(f"{k} {v}" for k, v in s.items() if k == "tasks" or k.startswith("epochs"))
    return f"The protocol was {scenario}{f' ({own})' if own else ''}; all settings are in the provenance section."


def _analysis(material: Material) -> list[str]:
    lines = [
        "Correlations are Pearson's r within each run, averaged over runs; intervals are from the t distribution of "
        "the runs' Fisher z, p-values from exact two-sided sign flips over runs (none below six runs), those over "
        "windows family-wise (max |t|). Controls: Spearman, first differences, detrending by a straight line, partial "
        "correlation given train accuracy and training amount, and swapping seeds.",
        "Means over runs carry 95 % t intervals over runs (seeds). Nothing is pooled over epochs.",
    ]
    if any(part.several for part in material.parts):
        lines.append("Series over tasks have one point a task: collapse at its last epoch, accuracy at its first.")
    if any(part.comparisons for part in material.parts):
        lines.append("Arms are compared with the plain arm paired by seed, and again with plain networks matched on "
                     "phase-1 train accuracy.")  # fmt: skip
    return lines
