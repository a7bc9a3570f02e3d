"""Where the numbers come from, and the commands that make them again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping

from ncpl_cli.analysis import Group
from ncpl_cli.analysis.words import ranges
from ncpl_cli.report.blocks import Block, Commands, Section, Text, table
from ncpl_cli.report.material import Material
from ncpl_cli.spec import FIXED
from ncpl_cli.values import count

ID, TITLE = "provenance", "Provenance, and how to run it again"

NOT_OPTIONS = frozenset({"dataset_digest", "interventions", "hold_out_classes", "epochs", "imported"})
"""Settings that follow from others, or that are written in a way of their own."""


def draw(material: Material) -> Section:
    """Versions, machines, every run with its settings' id, and a train command for each group."""
    if not material.rows:
        return Section.empty(ID, TITLE, "No run was chosen.", "ncpl demo", "ncpl report")
    blocks: list[Block] = []
    again = commands(material)
    if again:
        blocks.append(Commands("These commands train the runs again, to the same ids (with --db for another store)",
                               tuple(again)))  # fmt: skip
    rows = {row.id: row for row in material.rows}
    others = sum(len(g.series) for part in material.parts for g in part.groups if not material.trained_here(g))
    if others:
        words = "imported, or recorded by another training loop: no command of ncpl trains them again"
        blocks.append(Text((f"{count(others, 'run', 'was', 'were')} {words}.",)))
    blocks.append(Commands("This report", (f"ncpl report {material.selection}".strip(),)))
    facts = Counter(_facts(p) for p in material.provenance.values() if p)
    columns = ("runs", "ncpl", "commit", "python", "torch", "device", "engine", "platform", "threads")
    blocks.append(table(f"{ID}-software", "Software and machines", columns, [(n, *f) for f, n in facts.items()]))
    listed = [
        (row.id, ", ".join(row.names), row.scenario, row.seed, row.status, row.epochs, round(row.seconds, 3))
        for row in rows.values()
    ]
    heads = ("run", "labels", "scenario", "seed", "status", "epochs", "seconds")
    blocks.append(table(f"{ID}-runs", "Every chosen run", heads, listed))
    settings = [
        (part.scenario, label, key, _text(value))
        for part in material.parts
        for label, group in zip(part.labels, part.groups, strict=True)
        for key, value in sorted({**rows[group.series[0].run.id].settings,
                                  **rows[group.series[0].run.id].horizon}.items())
    ]  # fmt: skip
    blocks.append(table(f"{ID}-settings", "Every setting of every group", ("scenario", "group", "setting", "value"),
                        settings))  # fmt: skip
    return Section(ID, TITLE, tuple(blocks))


def commands(material: Material) -> list[str]:
    """A train command for each group that was trained here; every setting is written out, defaults or not."""
    rows = {row.id: row for row in material.rows}
    found = []
    for part in material.parts:
        for group in part.groups:
            run = group.series[0].run
            if material.trained_here(group):
                found.append(command(part.scenario, group, {**rows[run.id].settings, **rows[run.id].horizon}))
    return found


def command(scenario: str, group: Group, settings: Mapping[str, object]) -> str:
    """`ncpl train ...` for a group of runs."""
    words = ["ncpl", "train", scenario, "--seeds", ranges(sorted({s.run.seed for s in group.series})).replace(" ", "")]
    hidden = NOT_OPTIONS | {*FIXED.get(str(settings.get("network")), ("depth", "activation", "width", "norm"))}
    for key, value in settings.items():
        if key not in hidden and value is not None and not (key == "validation_fraction" and not value):
            words += [f"--{key.replace('_', '-')}", str(value)]
    epochs = settings.get("epochs")
    if isinstance(epochs, list | tuple):
        if settings.get("first_task_nc1") is None and len(epochs) > 1:  # a list says how long the first task is, too
            place = words.index("--first-task-epochs")
            epochs = [words[place + 1], *epochs]
            del words[place : place + 2]
        words += ["--epochs", ",".join(map(str, epochs))]
    held_out = settings.get("hold_out_classes")
    if isinstance(held_out, list | tuple) and held_out:
        words += ["--hold-out-classes", ",".join(map(str, held_out))]
    if settings.get("first_task_nc1") is not None and "--first-task-epochs" in words:
        place = words.index("--first-task-epochs")
        del words[place : place + 2]
    treatments = settings.get("interventions")
    for one in treatments if isinstance(treatments, list | tuple) else ():
        words += ["--intervention", str(one)]
    return shlex.join(words)


def _facts(p: Mapping[str, object]) -> tuple[str, ...]:
    libraries = p.get("libraries")
    torch = str(libraries.get("torch")) if isinstance(libraries, Mapping) else ""
    device = f"{p.get('device')} ({p.get('device_name')})"
    return (str(p.get("ncpl")), str(p.get("commit")), str(p.get("python")), torch, device, str(p.get("engine")),
            str(p.get("platform")), str(p.get("threads")))  # fmt: skip


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
