"""What tells runs apart by their settings, and which are left out. Plain Python: lists of runs load no NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LEFT_OUT = ("failed", "diverged")
"""Statuses of runs that are not analysed; they are always listed, since what survives is a biased sample."""


def frozen(value: object) -> str:
    """A setting's value as it is compared: a list is what it holds, and 1 is not 1.0."""
    return repr(list(value)) if isinstance(value, list | tuple) else repr(value)


def differing_names(settings: Sequence[Mapping[str, object]], ignore: frozenset[str] = frozenset()) -> set[str]:
    """Names of settings that do not have one value in all of these."""
    names = {name for s in settings for name in s} - ignore
    return {name for name in names if _differs(name, settings)}


def _differs(name: str, settings: Sequence[Mapping[str, object]]) -> bool:
    first = settings[0].get(name)
    said = frozen(first)
    # most names have the same text or number everywhere: comparing it costs a tenth of writing it out
    plain = isinstance(first, str | int)
    return any(
        frozen(value) != said
        for value in (s.get(name) for s in settings)
        if not (plain and type(value) is type(first) and value == first)
    )
