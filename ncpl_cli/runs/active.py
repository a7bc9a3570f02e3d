"""A cohort in training: every epoch is saved, a checkpoint follows at most about once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ncpl_cli import __version__, faults
from ncpl_cli.data import Dataset
from ncpl_cli.engines.copies import on_host
from ncpl_cli.plan import Cohort
from ncpl_cli.runs import branches, checkpoints, numerics
from ncpl_cli.runs.batch import Batch
from ncpl_cli.runs.describe import longest
from ncpl_cli.runs.observer import Observer
from ncpl_cli.runs.replay import weights_of
from ncpl_cli.runs.resume import resume_point, spoiled
from ncpl_cli.store import Store
from ncpl_cli.trainer import Epoch, State, train

CHECKPOINT_SECONDS = 1.0

Cost = dict[str, float]
"""What measuring a family of metrics took: `seconds` in all, over so many `epochs`."""


@dataclass
class Active:
    """A claimed cohort. `costs`: by run and family, since it was begun or gone on with; `counts`: by run."""

    cohort: Cohort
    attempts: dict[str, int]
    store: Store
    batch: Batch
    epochs: Iterator[Epoch]
    done: int
    wanted: Callable[[int], bool]
    last_checkpoint: float = field(default_factory=time.monotonic)
    latest: Epoch | None = None
    checkpointed: int = -1
    costs: dict[str, dict[str, Cost]] = field(default_factory=dict)
    counts: dict[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    diverged: frozenset[int] = frozenset()
    fault: Exception | None = None

    @classmethod
    def start(
        cls, cohort: Cohort, attempts: Mapping[str, int], store: Store, data: Dataset, observer: Observer,
        batch: Batch, *, resume: bool = True, keep: str | None = None,
    ) -> Active:  # fmt: skip
        """Find the newest point all runs of a claimed cohort can go on from, and take back what lies after it."""
        wrong = spoiled(cohort, store)
        if resume and wrong:
            observer.note(
                f"{', '.join(wrong)}: begun by an ncpl before {'.'.join(map(str, faults.MENDED))}, which left out what "
                "the interventions do before a probe; begun anew."
            )
        start = resume_point(cohort, store, observer) if resume and not wrong else None
        for run in cohort.ids if start else ():
            numerics.require_same(store, run, cohort.engine)
        done = start.position.epoch if start else 0
        for run in cohort.ids:
            after = done if start else -1
            store.truncate(run, attempts[run], after)
            checkpoints.forget(store.checkpoints, run, after)
            if run in wrong:
                store.remember(run, attempts[run], store.run(run).recorded | {faults.BEGUN: __version__})
        scenario = cohort.shared.scenario
        for spec in cohort.specs:
            observer.begin(spec.id, spec.seed, done, longest(scenario), scenario.fixed_length)
            if start:
                observer.note(f"{spec.id} (seed {spec.seed}) goes on after epoch {done}.")
        # what probes branch off is kept, whatever is asked for
        wanted = checkpoints.wanted(keep or "last", branches.epochs_of(cohort.specs))
        weights = weights_of(cohort, store, data, observer) if start is None else None
        return cls(
            cohort, dict(attempts), store, batch, train(cohort, data, start, weights), done, wanted, checkpointed=done,
            diverged=start.diverged if start else frozenset(),
        )  # fmt: skip

    def advance(self) -> Epoch | None:
        """Train one epoch; None when there is none left."""
        return next(self.epochs, None)

    def take(self, epoch: Epoch) -> list[State] | None:
        """What a checkpoint of an epoch that has come back holds, None where none is due.

        Taken before the next epoch is asked for, which then trains while this one is stored.
        """
        self.done = epoch.position.epoch
        due = self.wanted(self.done) or time.monotonic() - self.last_checkpoint >= CHECKPOINT_SECONDS
        return epoch.state() if due else None

    def save(self, epoch: Epoch, states: Sequence[State] | None) -> None:
        """Store an epoch of every run, and the checkpoint that was taken of it."""
        rows = [(run, rec) for run, rec in zip(self.cohort.ids, epoch.records, strict=True) if rec is not None]
        self.batch.add([(run, self.attempts[run], record) for run, record in rows], durable=states is not None)
        self.latest = epoch
        if states is not None:
            self.checkpoint(states)
        for run, record in rows:
            for family, seconds in record.costs.items():
                known = self.costs.setdefault(run, {}).setdefault(family, {"seconds": 0.0, "epochs": 0})
                known["seconds"] += seconds
                known["epochs"] += 1
            if record.counts:
                self.counts[run] = record.counts

    def checkpoint(self, states: Sequence[State] | None = None) -> None:
        """Write the state after the latest epoch of every run, then delete older ones: a common one always exists.

        states  as they were taken; else as the runs are now, when none of them trains
        The disk has confirmed the rows before.
        """
        self.batch.flush(durable=True)
        if self.latest is None or self.checkpointed == self.done:
            return
        states = self.latest.state() if states is None else states
        root, engine = self.store.checkpoints, self.cohort.engine
        for r, (spec, state) in enumerate(zip(self.cohort.specs, states, strict=True)):
            over = {"diverged": r in self.latest.diverged, "finished": r in self.latest.finished}
            position = replace(self.latest.position, **over)
            checkpoints.write(root, spec.id, spec.identity, position, on_host(state), engine)
        for run in self.cohort.ids:
            checkpoints.prune(root, run, self.wanted, self.done)
        self.last_checkpoint, self.checkpointed = time.monotonic(), self.done

    def pause(self) -> None:
        """Keep all that is known, so that another process can go on here."""
        self.checkpoint()
        self._remember_measuring()

    def finish(self) -> dict[str, str]:
        """End every run, finished or diverged; the status of each by id."""
        self.pause()
        diverged = self.latest.diverged if self.latest else self.diverged
        statuses = {}
        for r, run in enumerate(self.cohort.ids):
            statuses[run] = "diverged" if r in diverged else "finished"
            error = "the loss or the parameters became infinite or NaN" if r in diverged else None
            self.store.finish(run, self.attempts[run], statuses[run], error)
        return statuses

    def _remember_measuring(self) -> None:
        """Put down what was measured on, and add what it took to what is known of it from earlier attempts."""
        for run, costs in self.costs.items():
            recorded = self.store.run(run).recorded
            known = dict(recorded.get("cost", {}))
            for family, own in costs.items():
                before = known.get(family, {"seconds": 0.0, "epochs": 0})
                known[family] = {key: before[key] + own[key] for key in ("seconds", "epochs")}
            counts = self.counts.get(run, recorded.get("counts", {}))
            self.store.remember(run, self.attempts[run], recorded | {"cost": known, "counts": counts})
        self.costs = {}
