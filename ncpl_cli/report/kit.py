"""What a paper needs of a study, in one directory: figures, tables, methods, references, commands, a checklist.

report.html  figures/  tables.tex  methods.md  references.bib  commands.sh  checklist.md
"""

from __future__ import annotations

from pathlib import Path

from ncpl_cli import __version__
from ncpl_cli.analysis import words
from ncpl_cli.errors import StoreError
from ncpl_cli.output import opened
from ncpl_cli.references import cited, own_bibtex
from ncpl_cli.report import theme, wording
from ncpl_cli.report.blocks import Report
from ncpl_cli.report.formats import FORMATS
from ncpl_cli.report.material import Material
from ncpl_cli.report.report import Progress, write
from ncpl_cli.report.sections import provenance


def write_kit(
    report: Report, material: Material, folder: Path, look: theme.Look | None, progress: Progress = lambda _: None
) -> None:
    """Write all of it; what is there under these names is replaced. Raises StoreError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made ({error.strerror}).", "name another place for --kit") from error
    write(report, str(folder / "report.html"), "html", figures=folder / "figures", look=look, progress=progress)
    write(report, str(folder / "tables.tex"), "tex")
    methods = Report("Methods", (), tuple(s for s in report.sections if s.id == "methods"))
    entries = [own_bibtex(__version__), *(one.bibtex for one in cited(wording.texts_of(list(report.sections))))]
    commands = [*provenance.commands(material), f"ncpl report {material.selection}".strip()]
    for name, text in (
        ("methods.md", FORMATS["md"](methods, {}, None)),
        ("references.bib", "\n\n".join(entries) + "\n"),
        ("commands.sh", "\n".join(["#!/bin/sh", "set -e", *commands]) + "\n"),
        ("checklist.md", checklist(material)),
    ):
        with opened(folder / name) as file:
            file.write(text.encode())


def checklist(material: Material) -> str:
    """Answers to the questions that reproducibility checklists ask, from what is stored; what is not known says so."""
    groups = [group for part in material.parts for group in part.groups]
    sizes = [len(group.series) for group in groups]
    settings = [series.run.settings for group in groups for series in group.series]
    known = [found for found in material.provenance.values() if found]

    def values(key: str) -> str:
        return ", ".join(sorted({str(s[key]) for s in settings if s.get(key) is not None})) or "not recorded"

    def made(key: str) -> str:
        return ", ".join(sorted({str(p[key]) for p in known if p.get(key)})) or "not recorded"

    lost = sum(row.status in ("failed", "diverged") for row in material.rows)
    seconds = sum(row.seconds for row in material.rows)
    answers = [
        (
            "How many runs, and what differs between them?",
            f"{words.count(len(material.rows), 'run')} in "
            f"{words.count(len(groups), 'group')}; a group differs only in its seeds ({min(sizes, default=0)} to "
            f"{max(sizes, default=0)} of them)",
        ),
        ("Which seeds?", words.ranges(sorted({s.run.seed for g in groups for s in g.series})) or "none"),
        ("How many runs failed or diverged, and are they reported?", f"{lost}; they are named in the report"),
        ("Which data, in which version?", f"{values('dataset')} (content digests {values('dataset_digest')})"),
        ("Are all hyperparameters stated?", "yes: methods.md has those shared, the report's provenance all of them"),
        (
            "How are errors reported?",
            "95 % t intervals over runs (seeds), never over epochs; no p-value below six runs",
        ),
        (
            "Was the analysis fixed beforehand?",
            "yes: the plan stands in the report" if material.plans else "no: what was found was found by looking",
        ),
        ("Which hardware?", f"{made('device_name')} ({made('device')}), {made('platform')}"),
        ("How much computing?", f"{seconds / 3600:.2f} hours of training"),
        ("Which software?", f"ncpl {made('ncpl')}, commit {made('commit')}, Python {made('python')}"),
        ("Can it be run again?", "yes: commands.sh; the same command gives the same bits on the same software"),
    ]
    return "# Reproducibility\n\n" + "".join(f"- **{question}** {answer}.\n" for question, answer in answers)
