"""A report from its material, and a report into files."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ncpl_cli import __version__
from ncpl_cli.errors import StoreError, unknown
from ncpl_cli.output import opened
from ncpl_cli.report import theme, wording
from ncpl_cli.report.blocks import Commands, Report, Section, Text, table
from ncpl_cli.report.formats import FORMATS, PAGE, TABLES
from ncpl_cli.report.material import Material
from ncpl_cli.report.sections import SECTIONS
from ncpl_cli.streams import printable

Progress = Callable[[str], None]


def build(material: Material, *, store: str = "", progress: Progress = lambda _: None) -> Report:
    """All sections, drawn from one material."""
    sections = []
    for i, draw in enumerate(SECTIONS):
        progress(f"section {i + 1} of {len(SECTIONS)}: {draw.__module__.rpartition('.')[2].replace('_', ' ')}")
        sections.append(wording.in_full(draw(material)))
    sections = _asked_for(sections)
    sections.insert(-1, wording.back_matter(sections))  # the last is where it all comes from
    scenarios = ", ".join(part.scenario for part in material.parts)
    return Report(
        title=f"Neural collapse and plasticity: {scenarios or 'an empty store'}",
        about=(
            ("made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
            ("ncpl", __version__),
            ("store", store),
            ("selection", material.selection or "all runs"),
        ),
        sections=tuple(sections),
    )


def _asked_for(sections: list[Section]) -> list[Section]:
    """The sections that have something to show; what the others would need is one table at their end."""
    empty = [section for section in sections if section.is_empty]
    kept = [section for section in sections if not section.is_empty]
    if not empty or not kept:
        return sections
    rows = [
        (section.title, block.sentences[0], " or ".join(commands.lines))
        for section in empty
        for block, commands in [section.blocks]
        if isinstance(block, Text) and isinstance(commands, Commands)
    ]
    columns = ("section", "what is missing", "a command that fills it")
    blocks = (table("further-sections", "What these runs have nothing for", columns, rows),)
    return [*kept[:-1], Section("further", "What these runs could also show", blocks), kept[-1]]


def write(
    report: Report, path: str, kind: str, *, figures: Path | None = None, look: theme.Look | None = None,
    progress: Progress = lambda _: None,
) -> None:  # fmt: skip
    """Write a report, whole or not at all; `figures`: a directory for every figure as PDF, SVG and PNG in a look,
    with a file of their captions.

    Raises InputError for an unknown format, StoreError where a file cannot be written.
    """
    if kind not in (formats := FORMATS | TABLES):
        raise unknown("report format", kind, formats)
    pictures: dict[str, str] = {}
    everything = list(report.figures()) if figures or kind == PAGE else []
    try:
        with contextlib.ExitStack() as stack:
            drawn = Path(stack.enter_context(_beside(figures))) if figures else None
            for i, figure in enumerate(everything):
                progress(f"figure {i + 1} of {len(everything)}: {figure.id}")
                with theme.drawn(figure.draw()) as picture:
                    if kind == PAGE:
                        pictures[figure.id] = theme.page_svg(picture, figure.id, figure.alt or figure.caption)
                    if drawn and look is None:
                        _save(picture, drawn, figure.id)
                if drawn and look is not None:
                    with theme.drawn(figure.draw(), look) as picture:
                        _save(picture, drawn, figure.id)
            if drawn:
                lines = [f"{figure.id}: {figure.caption}" for figure in everything]
                (drawn / "captions.txt").write_text(printable("\n\n".join(lines) + "\n"), encoding="utf-8")
            if figures and drawn:  # all of them or none
                figures.mkdir(parents=True, exist_ok=True)
                for picture in sorted(drawn.iterdir()):
                    picture.replace(figures / picture.name)
    except OSError as error:
        raise StoreError(f"{figures} cannot be made ({error.strerror}).", "name another place for --figures") from error
    beside = Path(os.path.relpath(figures, Path(path).parent)) if figures else None
    text = printable(formats[kind](report, pictures, beside))
    with opened(path) as file:
        file.write(text.encode())


def _save(picture: Any, folder: Path, name: str) -> None:
    for ending in theme.FILE_FORMATS:
        theme.save(picture, folder / f"{name}.{ending}", ending)


def _beside(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A directory on the same file system, for what will be moved into the folder when all of it is there."""
    at = next(parent for parent in folder.absolute().parents if parent.is_dir())
    return tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=at)
