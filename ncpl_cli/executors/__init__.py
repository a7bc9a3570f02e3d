"""Executors: where the workers of a sweep run. The dictionary below is the registry: one file, one name.

They start `ncpl sweep worker` processes and know nothing else: the store is the queue.
"""

from __future__ import annotations

from ncpl_cli.errors import unknown
from ncpl_cli.executors.executor import Executor, Places
from ncpl_cli.executors.local import Local
from ncpl_cli.executors.ray import Ray
from ncpl_cli.executors.slurm import Slurm

EXECUTORS: dict[str, type[Executor]] = {one.id: one for one in (Local, Ray, Slurm)}


def executor_named(name: str) -> type[Executor]:
    """The executor with this id; raises InputError that lists the known ones."""
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    return EXECUTORS[name]


__all__ = ["EXECUTORS", "Executor", "Local", "Places", "Ray", "Slurm", "executor_named"]
