"""Whether a run can go on, or be trained again, to the same numbers: an engine may round differently than it did.

The version of an engine's numerics stands in the provenance of an attempt and in every checkpoint. A trajectory of SGD
takes a rounding apart within a few thousand steps, so one that was begun with another version is not continued.
"""

from __future__ import annotations

from collections.abc import Sequence

from ncpl_cli.errors import InputError
from ncpl_cli.plan import choose_engine
from ncpl_cli.provenance import numerics_of
from ncpl_cli.refusals import REFUSALS
from ncpl_cli.runs import checkpoints
from ncpl_cli.spec import RunSpec
from ncpl_cli.store import Store


def made_by(store: Store, run: str) -> tuple[str, int] | None:
    """The engine that a run's latest state came from and the version of its numerics; None before its first attempt."""
    tried = [facts for one in store.attempts(run) if (facts := one["provenance"]).get("engine") in REFUSALS]
    if not tried:
        return None
    kept = checkpoints.epochs(store.checkpoints, run)
    # an attempt may have been refused: where there is a checkpoint, it knows better
    return checkpoints.made_by(store.checkpoints, run, kept[-1], tried[-1]["engine"]) if kept else (
        tried[-1]["engine"], int(tried[-1].get("numerics", 1))
    )  # fmt: skip


def require_same(store: Store, run: str, engine: str) -> None:
    """Raise InputError where what a run has so far was made by another version of this engine's numerics, or by the
    other engine of a CPU: one that a later ncpl can carry in the compiled loop was begun with matrices."""
    known = made_by(store, run)
    if known is not None and {known[0], engine} == {"online", "stacked"}:
        raise InputError(
            f"run {run} was trained by the {known[0]} engine and would now go on in the {engine} engine, which rounds "
            "differently: the run can neither go on nor be trained again to the same numbers.",
            f"--engine {known[0]} goes on with it; ncpl train ... --no-resume begins it anew",
        )
    if known is not None and known[0] == engine and known[1] != numerics_of(engine):
        raise InputError(
            f"run {run} was trained with version {known[1]} of the {engine} engine's numerics, this ncpl has version "
            f"{numerics_of(engine)}, which rounds differently: the run can neither go on nor be trained again to the "
            "same numbers.",
            "ncpl train ... --no-resume begins it anew; the ncpl it was trained with (ncpl runs show) goes on with it",
        )


def require_all_same(specs: Sequence[RunSpec], store: Store, device: str) -> None:
    """The same of all that would go on from a checkpoint, to be asked before anything is registered or claimed."""
    standing = store.standing([spec.id for spec in specs])
    for spec in specs:
        if (stands := standing.get(spec.id)) is None or not checkpoints.epochs(store.checkpoints, spec.id):
            continue
        key = spec.scenario.horizon_field
        longer = getattr(spec.scenario, key) > stands["horizon"].get(key, 0)
        if longer or stands["status"] not in ("finished", "diverged"):
            require_same(store, spec.id, choose_engine(spec, device)[0])


__all__ = ["made_by", "require_all_same", "require_same"]
