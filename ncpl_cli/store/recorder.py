"""A run of a user's own training loop, in any framework: the same lease, resumption and rows as ncpl's own runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from ncpl_cli.errors import InputError, NcplError, without_passwords
from ncpl_cli.provenance import surroundings
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store.heartbeat import heartbeat
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.run_row import BY_RECORDER
from ncpl_cli.store.writing import Writing

COLUMNS = (
    "run",
    "seed",
    "scenario",
    "name",
    "task",
    "task_epoch",
    "epoch",
    "samples_seen",
    "seconds",
    "split",
    "layer",
)
"""Columns of every export, by which no metric may be called."""


class Recorder:
    """An open run: `record` an epoch at a time; `last_epoch` says where to go on. Made by `Store.run`.

    Leaving the `with` block finishes the run; an exception fails it with its error, Ctrl-C and SystemExit leave it
    interrupted. The same scenario, seed and config is the same run: opened again, it goes on.
    """

    def __init__(
        self, store: Writing, scenario: str, seed: int, name: str | None, config: Mapping[str, Any] | None
    ) -> None:
        if not scenario:
            raise InputError("a run needs the name of a scenario.")
        seed, settings = _counted("seed", seed), _checked_config(config or {})
        identity = json.dumps(
            {"recorded": {"scenario": scenario, "seed": seed, "config": settings}},
            sort_keys=True,
            separators=(",", ":"),
        )
        self._store, self._name = store, name
        self.id = hashlib.sha256(identity.encode()).hexdigest()[:12]
        self._info = RunInfo(self.id, identity, scenario, seed, settings, {}, None, BY_RECORDER)
        self._attempt = 0
        self._row: dict[str, Any] = {}
        self._begun = False
        self._since = 0.0
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Claim the run; raises LeaseLost while another process records it."""
        self._store.register(self._info, self._name)
        facts = surroundings() | {"engine": "recorder", "command": without_passwords(" ".join(sys.argv))}
        self._attempt = self._store.claim([self.id], Owner.current(), facts)[self.id]
        self._row = self._store.final(self.id)
        self._begun = False
        self._open.enter_context(heartbeat(self._store, {self.id: self._attempt}))
        self._since = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        attempt, self._attempt = self._attempt, 0
        try:
            if kind is None:
                self._store.finish(self.id, attempt, "finished")
                return
            with contextlib.suppress(NcplError):  # the error itself matters more than that it could not be stored
                if issubclass(kind, Exception):
                    self._store.finish(self.id, attempt, "failed", f"{kind.__name__}: {error}")
                else:
                    self._store.release(self.id, attempt)
        finally:
            self._store.close()  # gives back connections; the store opens others when it is used again

    @property
    def last_epoch(self) -> int:
        """The last epoch that is stored, 0 when there is none: a loop goes on with the one after it."""
        return int(self._row.get("epoch", 0))

    def record(
        self,
        *,
        epoch: int,
        task: int = 0,
        metrics: Mapping[str, Any] | None = None,
        features: Any = None,
        labels: Any = None,
        weight: Any = None,
        bias: Any = None,
        test_features: Any = None,
        test_labels: Any = None,
        samples_seen: int | None = None,
    ) -> None:
        """Store an epoch in one transaction.

        epoch     counts 1, 2, ... over the whole run, never anew with a task (0 = untrained); it grows with every
                  call. A run that goes on from an older state may begin before `last_epoch`: what was stored from
                  there on is taken back
        task      counts from 0
        metrics   values by id or address (`test_accuracy`, `nc1@test/layer2`); what is not finite is undefined
        features  (N, d) with labels (N,), and if there are any weight (C, d), bias (C,), test_features, test_labels:
                  arrays or tensors, measured as `ncpl measure` does; a value among `metrics` goes before
        samples_seen   training samples since the run began
        Raises InputError for what makes no sense (nothing is stored), LeaseLost once another process has taken over.
        """
        now = time.perf_counter()
        if self._attempt == 0:
            raise InputError("a run records inside its with block.", "with open_store(url).run(...) as run: ...")
        epoch, task = _counted("epoch", epoch), _counted("task", task)
        before = self._row_before(epoch)
        if task < before.get("task", 0):
            raise InputError(f"task {task} comes after task {before['task']}: tasks count upwards from 0.")
        if samples_seen is None:
            samples_seen = before.get("samples_seen", 0)
        samples_seen = _counted("samples_seen", samples_seen)
        given, undefined = _values(metrics or {})
        values: dict[Address, float] = {}
        if (features is None) != (labels is None):
            raise InputError("features and labels belong together: one of them is missing.")
        if features is not None:
            from ncpl_cli.metrics.features import measure_features  # torch loads with the first features

            found = measure_features(features, labels, weight, bias, test_features, test_labels)
            values, undefined = found.values, found.undefined | undefined
        undefined = {address: why for address, why in undefined.items() if address not in given}
        values = {address: value for address, value in (values | given).items() if address not in undefined}
        record = EpochRecord(
            epoch, task, _task_epoch(epoch, task, before), samples_seen, now - self._since,
            time.perf_counter() - now, values, undefined,
        )  # fmt: skip
        if epoch <= self._row.get("epoch", -1):
            self._store.truncate(self.id, self._attempt, epoch - 1)
        self._store.save([(self.id, self._attempt, record)])
        self._row = {key: getattr(record, key) for key in ("epoch", "task", "task_epoch", "samples_seen")}
        self._begun, self._since = True, time.perf_counter()

    def probe(
        self, kind: str, module: Any, images: Any, labels: Any, *, fresh: Callable[[], Any], batch_size: int = 64
    ) -> dict[str, float]:  # fmt: skip
        """How well a copy of a torch module still learns something new, beside a fresh one: probe_* for `record`.

        kind    full-data, labels, offset or next-task, with options as in `labels:epochs=5,optimizer=adam,lr=0.001`
        images, labels   tensors of what is learned (of labels and offset, how many)
        fresh   makes a freshly initialised module of the same shape
        The module, its mode and the random streams stay as they are.

            run.record(epoch=epoch, metrics=run.probe("labels:epochs=5", model, images, labels, fresh=Model))
        """
        from ncpl_cli.probes.live import probe  # torch loads with the first probe

        return probe(kind, module, fresh, images, labels, seed=self._info.seed, batch_size=batch_size)

    def _row_before(self, epoch: int) -> Mapping[str, Any]:
        """The stored row that an epoch follows on; empty for the first."""
        last = self._row.get("epoch", -1)
        if epoch > last:
            return self._row
        if self._begun:
            raise InputError(
                f"epoch {epoch} comes after epoch {last}: epochs count upwards over the whole run.",
                "what several calls know of an epoch goes into one record(...)",
            )
        return max((row for row in self._store.rows(self.id) if row["epoch"] < epoch), key=_epoch, default={})


def _epoch(row: Mapping[str, Any]) -> int:
    return int(row["epoch"])


def _task_epoch(epoch: int, task: int, before: Mapping[str, Any]) -> int:
    """Epochs within the task, where some may not have been recorded."""
    past = epoch - before.get("epoch", 0)
    return int(past + (before.get("task_epoch", 0) if before.get("task", task) == task else 0))


def _counted(what: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or (number := value.__index__()) < 0:
        raise InputError(f"{what} must be a number that counts, from 0 on, not {value!r}.")
    return int(number)


def _values(metrics: Mapping[str, Any]) -> tuple[dict[Address, float], dict[Address, str]]:
    """Given metrics as finite numbers by address, and why others are undefined."""
    values: dict[Address, float] = {}
    undefined: dict[Address, str] = {}
    for name, value in metrics.items():
        address = Address.parse(name)
        if not address.metric or address.metric in COLUMNS:
            raise InputError(f"no metric can be called {name!r}.", "ncpl catalog --metrics lists the known ones")
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"metric {name} must be one number, not {value!r}.") from error
        if math.isfinite(number):
            values[address] = number
        else:
            undefined[address] = "not given" if value is None else "not finite"
    return values, undefined


def _checked_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON keeps them; a scalar of NumPy or torch becomes a plain number."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(config), default=lambda value: value.item()))
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"config must hold what JSON can: numbers, texts, lists ({error}).") from error
    return found
