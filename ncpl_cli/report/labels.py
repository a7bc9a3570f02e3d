"""What groups of runs are called in a report."""

from __future__ import annotations

from collections.abc import Sequence

from ncpl_cli.analysis import Group

LONGEST_LABEL = 90
"""Settings in more characters than this tell nobody anything beside a bar."""


def _arm(group: Group) -> str:
    """The arm of a study that all runs of a group were made as, by its own name; empty where there is none."""
    shared = set(group.run.names).intersection(*(s.run.names for s in group.series))
    return next((name.partition("/")[2] for name in sorted(shared) if "/" in name), "")


def labels(found: Sequence[Group]) -> tuple[str, ...]:
    """`first_task_epochs=5`, for imported runs their name, else `all runs`; numbered where they would be the same.

    Arms of a study that differ in too much to be told by settings have their names.
    """
    made: list[str] = []
    every = [group.settings for group in found]
    alike = {key for key in (every[0] if every else ()) if all(s.get(key) == every[0][key] for s in every)}
    for group in found:
        telling = {key: value for key, value in group.settings.items() if value is not None and key not in alike}
        settings = ", ".join(said(key, value) for key, value in telling.items())
        label = settings or ("all runs" if len(found) == 1 else "plain")
        if group.series[0].run.imported:
            label = group.name or "imported"
        made.append(f"{label} ({made.count(label) + 1})" if label in made else label)
    arms = [_arm(group) for group in found]
    return tuple(arms if max(map(len, made), default=0) > LONGEST_LABEL and len({*arms} - {""}) == len(made) else made)


def said(key: str, value: object) -> str:
    """A setting in words."""
    text = " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if key == "interventions":
        return text or "plain"
    return f"{key}={text or 'none'}"
