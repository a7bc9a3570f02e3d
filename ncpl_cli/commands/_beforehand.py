"""Before running: `--dry-run --gap`, how many seeds it takes, with hours; `--plan`, what will be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ncpl_cli.commands import _common
from ncpl_cli.errors import InputError, StoreError


def plan_text(path: str | None) -> str | None:
    """The plan of the analysis in a file, as runs keep it."""
    if path is None:
        return None
    from ncpl_cli.analysis.preregistered import read_plan

    plan = read_plan(Path(path))
    _common.note(f"plan {plan.digest}: {len(plan.questions)} questions, kept with every run that has not begun.")
    return plan.text


def check(gap: float | None, dry_run: bool) -> None:
    """Raise InputError where a gap is named and nothing is planned."""
    if gap is not None and not dry_run:
        raise InputError("--gap says what a --dry-run shall be enough for.", "add --dry-run")


def seeds_for(
    gap: float, url: str, scenario: str, settings: Mapping[str, Any], asked: int, arms: int, seconds: float | None,
    workers: int,
) -> dict[str, Any]:  # fmt: skip
    """The document: seeds and hours, and a sentence; where nothing is known of the spread, the pilot to run.

    seconds  of one run; workers: runs at the same time
    """
    from ncpl_cli.analysis import Study, load
    from ncpl_cli.analysis.comparison import ADDRESSES
    from ncpl_cli.analysis.pilot import needed
    from ncpl_cli.store import open_store

    study = Study(())
    if "://" in url or Path(url).exists():
        try:
            with open_store(url, readonly=True) as store:
                study = load(store, ADDRESSES, scenario=scenario)
        except StoreError as error:
            _common.note(f"the store says nothing of the spread over seeds: {error}")
    found = needed(study, settings, gap, asked)
    if found is None:
        text = (
            f"Nothing in {url} shows, from three seeds or more, how runs of {scenario} on {settings.get('dataset')} "
            "differ over seeds: train a pilot of four seeds (the same command with --seeds 0-3, without --dry-run), "
            "then ask again."
        )
        return {"gap": gap, "seeds": None, "hours": None, "sentence": text}
    hours = None
    text = found.sentence()
    if seconds is not None and found.seeds is not None:
        hours = found.seeds * arms * seconds / max(1, workers) / 3600
        said = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
        text += f" That is about {said} for {arms} arm{'s' * (arms > 1)}."
    return {**found.to_json(), "arms": arms, "hours": hours, "sentence": text}
