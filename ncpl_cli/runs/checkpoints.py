"""Checkpoints on disk: one safetensors file per run and epoch, beside the store, written whole or not at all.

Each states run, identity, position and a digest (`sealed`); what it states is checked before it is used.

<store>.checkpoints/<run id>/epoch-00000012.safetensors
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from ncpl_cli import sealed
from ncpl_cli.errors import DataError, InputError, StoreError, told
from ncpl_cli.later import later
from ncpl_cli.provenance import numerics_of
from ncpl_cli.store import checked_id

if TYPE_CHECKING:
    from safetensors import torch as tensors_of
    from torch import Tensor

    from ncpl_cli import trainer
    from ncpl_cli.trainer import Position
else:
    # a sweep looks which checkpoints there are, and trains nothing itself
    trainer, tensors_of = later("ncpl_cli.trainer"), later("safetensors.torch")


def path_of(root: Path, run: str, epoch: int) -> Path:
    """Where the checkpoint of a run after an epoch lies; raises StoreError for an id that leads elsewhere."""
    return folder_of(root, run) / f"epoch-{epoch:08d}.safetensors"


def folder_of(root: Path, run: str) -> Path:
    """Where the checkpoints of a run lie; nothing out of a store becomes a path to somewhere else."""
    return root / checked_id(run)


def epochs(root: Path, run: str) -> list[int]:
    """The epochs that a run has a checkpoint of, in order."""
    folder = folder_of(root, run)
    names = [sealed.NAME.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name.group(1)) for name in names if name)


def write(root: Path, run: str, identity: str, position: Position, tensors: Mapping[str, Tensor], engine: str) -> None:
    """Write a checkpoint that proves what it is: temporary file, fsync, rename, fsync of the folder."""
    path = path_of(root, run, position.epoch)
    facts = {
        "run": run, "identity": identity, "position": asdict(position), "engine": engine,
        "numerics": numerics_of(engine),
    }  # fmt: skip
    data = sealed.seal(tensors_of.save({name: value.contiguous() for name, value in tensors.items()}), facts)
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreError(
            f"the checkpoint {path} cannot be written ({error.strerror}).",
            "free some space or mend the permissions; the same command then goes on where it stopped",
        ) from error


def read(root: Path, run: str, epoch: int) -> tuple[Position, dict[str, Tensor]]:
    """The position and tensors of a checkpoint, which is proved to be of this run and epoch and whole.

    Raises DataError, which calls it `damaged` or `of another run`.
    """
    path = path_of(root, run, epoch)
    try:
        data = path.read_bytes()
        facts = sealed.facts_of(data, run, epoch)
        return trainer.Position(**facts["position"]), tensors_of.load(data)
    except sealed.Refused as why:
        raise _refused(path, run, str(why)) from why
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise _refused(path, run, f"damaged ({told(error)})") from error


def _refused(path: Path, run: str, why: str) -> DataError:
    return DataError(f"the checkpoint {path} is {why}.", f"delete it; run {run} then goes on from an earlier one")


def made_by(root: Path, run: str, epoch: int, engine: str) -> tuple[str, int]:
    """The engine a checkpoint comes from and the version of its numerics; of one that does not say, `engine` and 1."""
    path = path_of(root, run, epoch)
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["ncpl"])
            return str(facts.get("engine", engine)), int(facts.get("numerics", 1))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return engine, numerics_of(engine)  # damaged: whoever reads it says so, and goes on from an earlier one


def keeper(keep: str) -> tuple[str, int]:
    """Read `--keep-checkpoints`: ('last'|'probes'|'all', 0) or ('every', K)."""
    kind, _, number = keep.partition(":")
    if kind in ("last", "probes", "all") and not number:
        return kind, 0
    if kind == "every" and number.isdigit() and int(number) > 0:
        return kind, int(number)
    raise InputError(f"--keep-checkpoints {keep!r} is unknown.", "allowed: last, probes, every:K, all")


def wanted(keep: str, branches: Collection[int] = ()) -> Callable[[int], bool]:
    """Whether the checkpoint after an epoch is to be kept; `branches`: epochs that probes branch off."""
    kind, number = keeper(keep)
    return lambda epoch: kind == "all" or (kind == "every" and epoch % number == 0) or epoch in branches


def prune(root: Path, run: str, keeps: Callable[[int], bool], newest: int) -> None:
    """Delete the checkpoints before `newest` that nobody wants; the newest always stays."""
    for epoch in epochs(root, run):
        if epoch < newest and not keeps(epoch):
            path_of(root, run, epoch).unlink(missing_ok=True)


def keep_newest(root: Path, run: str) -> None:
    """Delete all but the newest."""
    prune(root, run, wanted("last"), max(epochs(root, run), default=0))


def forget(root: Path, run: str, after: int) -> None:
    """Delete the checkpoints after an epoch: what they continue from has been taken back."""
    for epoch in epochs(root, run):
        if epoch > after:
            path_of(root, run, epoch).unlink(missing_ok=True)
