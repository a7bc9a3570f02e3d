"""Data health: what is missing, unfinished, undefined or mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ncpl_cli.analysis.casualties import casualties, in_words
from ncpl_cli.report.blocks import Block, Section, Text, table
from ncpl_cli.report.material import Material
from ncpl_cli.values import count

ID, TITLE = "health", "Data health"

MIXABLE = ("ncpl", "commit", "device", "device_name", "engine")
"""Facts of the machine that should be the same for runs that are compared."""


def draw(material: Material) -> Section:
    """Statuses, unequal lengths, undefined values with their reasons, mixed versions and devices."""
    if not material.rows:
        return Section.empty(ID, TITLE, "No run was chosen.", "ncpl runs list")
    rows = material.rows
    good, bad = [], []
    status = Counter(row.status for row in rows)
    if set(status) == {"finished"}:
        good.append(
            f"{f'All {len(rows)} runs are' if len(rows) > 1 else 'The run is'} finished; none failed or diverged."
        )
    else:
        each = ", ".join(f"{n} {'is' if n == 1 else 'are'} {name}" for name, n in status.items())
        bad.append(f"Of {count(len(rows), 'run')} {each}.")
    bad += [
        f"{one.run} (seed {one.seed}) {one.status}{f' at {in_words(one.settings)}' if one.settings else ''}: "
        f"{one.error}. It is left out of every mean and correlation; what survives may differ from what failed."
        for one in casualties(rows)
    ]
    for part in material.parts:
        for label, group in zip(part.labels, part.groups, strict=True):
            lengths = sorted({len(s.epoch) for s in group.series})
            if len(lengths) > 1:
                bad.append(f"{part.scenario}, {label}: runs have {lengths[0]} to {lengths[-1]} recorded epochs; means "
                           "at late points are over fewer runs.")  # fmt: skip
            if len(group.series) == 1:
                bad.append(f"{part.scenario}, {label}: one run only, which says nothing about other seeds.")
        used = [material.provenance[s.run.id] for g in part.groups for s in g.series]
        for key in MIXABLE:
            found = _distinct(p.get(key) for p in used if p)
            if len(found) > 1:
                bad.append(f"{part.scenario}: runs differ in {key.replace('_', ' ')}: {', '.join(found)}.")
    bad += [f"{fault[0].upper()}{fault[1:]}." for fault in material.faults]
    dirty = sum(str(p.get("commit") or "").endswith("+") for p in material.provenance.values() if p)
    if dirty:
        bad.append(
            f"{count(dirty, 'run', 'was', 'were')} trained by a checkout with uncommitted changes (commit ending in +)."
        )
    resumed = [run for run, n in material.attempts.items() if n > 1]
    if resumed:
        good.append(
            f"{count(len(resumed), 'run', 'was', 'were')} interrupted or extended and went on from a checkpoint."
        )
    blocks: list[Block] = []
    if good:
        blocks.append(Text(tuple(good)))
    if bad:
        blocks.append(Text(tuple(bad), "caveat"))
    if material.undefined:
        caption = "Values that are undefined, with the reason; they are left out, never counted as 0"
        columns = ("metric", "reason", "values", "runs")
        blocks.append(table(f"{ID}-undefined", caption, columns, material.undefined))
    else:
        blocks.append(Text(("No recorded value is undefined.",)))
    return Section(ID, TITLE, tuple(blocks))


def _distinct(values: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(str(v) for v in values))
