"""Faults of earlier versions whose numbers still stand in stores, each recognised by one pure function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

MENDED = (0, 2, 0)
"""The first version that asks every run of a cohort whether it changes."""

AT_CHANGE = ("shrink_perturb", "head_reset", "full_reset")
"""Interventions that a probe begins with; `optimizer_reset` has nothing to forget there, so nothing was lost."""

BEGUN = "begun_with"
"""In what is recorded of a run: the version that trained its first epoch, where an older one had begun it."""


def treats_probes(interventions: Iterable[str]) -> bool:
    """Whether something among a run's interventions is done to a probe before it is trained."""
    idle = ("when=step", "shrink=1,perturb=0")
    parts = (text.partition(":") for text in interventions)
    return any(name in AT_CHANGE and not any(mark in rest for mark in idle) for name, _, rest in parts)


def wrongly_treated(
    interventions: Iterable[str], branches: Sequence[int], branch: int, versions: Iterable[str],
    recorded: Mapping[str, object] | None = None,
) -> bool:  # fmt: skip
    """Whether a warm start's probe was trained without what its interventions do before it, or with it for no reason.

    branches  after which epochs the probes of its cohort branch off, in the cohort's order; `branch`: its own
    versions  of ncpl that have trained it

    Before 0.2.0 the first probe of a cohort, as a rule a cold start, decided for all of them.
    """
    if not branches or (branches[0] > 0) == (branch > 0) or not treats_probes(interventions):
        return False
    return BEGUN not in (recorded or {}) and any(is_older(version) for version in versions)


def is_older(version: str, than: tuple[int, ...] = MENDED) -> bool:
    """Whether a version (`0.1.0`) came before another."""
    numbers = tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
    return numbers < than


def sentence(parent: str, probes: int) -> str:
    """What to say of a run with such probes, and what to do."""
    return (
        f"run {parent}: {probes} of its probes were trained by an ncpl before 0.2.0 without its interventions at the "
        f"change; delete them (ncpl runs delete) and run ncpl probe {parent}"
    )


__all__ = ["AT_CHANGE", "BEGUN", "MENDED", "is_older", "sentence", "treats_probes", "wrongly_treated"]
