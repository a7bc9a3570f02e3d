"""Rows of a log of recorded epochs, each checked: what is wrong is named by file, line and column."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ncpl_cli.errors import DataError, InputError
from ncpl_cli.records import Address
from ncpl_cli.store.log_lines import Lines
from ncpl_cli.store.places import doubtful
from ncpl_cli.streams import from_spreadsheets

REQUIRED = ("run", "seed", "epoch")
HEAD = (*REQUIRED, "task", "task_epoch", "samples_seen", "seconds", "split", "layer", "parent", "branch_epoch")
"""Columns that say what a row is; `parent`, `branch_epoch`: which run a probe was copied from, after which epoch.

All others are metrics, by id or address (`nc1@test/layer2`)."""

EXPORTED = ("scenario", "name")
"""Columns of an export that --scenario and --name decide here."""

UNDEFINED = frozenset({"", "na", "n/a", "null", "none", "-"})
"""What people write where there is no value, beside nan."""

STEPS = frozenset({"step", "global_step", "_step", "iteration", "iter", "batch"})
"""Columns that count within an epoch: such a log may have rows between two epochs, and several of one."""

OF_TRAINING = ("online_accuracy", "online_loss")
"""What an untrained network cannot have."""

_LARGEST = 2**63 - 1

MOST_COLUMNS = 10_000
"""A file with more columns is no log of epochs."""


Facts = tuple[int, int | None, int | None, float | None]
"""task, task_epoch, samples_seen, seconds."""


class Row(NamedTuple):
    """A row as numbers.

    values  in the order of the metrics
    branch  (parent's label, epoch) of a probe
    """

    line: int
    run: str
    seed: int
    epoch: int
    facts: Facts
    place: tuple[str, str]
    values: list[float | None]
    branch: tuple[str, int] | None


class Source:
    """A log: its columns once the first line is read, and counts of what was read.

    metrics        (place in a row, column, address) of every column that is a metric
    ignored        columns that are left out
    rows           read so far; not_finite: values among them that were nan or infinite
    epochs_from    0 where the log calls its first trained epoch 0, else 1; None until it is known: see `scan`
    repeats        whether some epoch has several rows of one split and layer
    without_epoch  rows left out because they belong to a step and no epoch
    several        columns that have several values in an epoch, of which the last is kept
    """

    def __init__(self, lines: Lines, skip: Sequence[str], epochs_from: int | None = None) -> None:
        self.lines, self.skip, self.epochs_from = lines, tuple(skip), epochs_from
        self.rows = self.not_finite = self.without_epoch = 0
        self.metrics: list[tuple[int, str, Address]] = []
        self.ignored: list[str] = []
        self.several: set[str] = set()
        self.places: set[tuple[str, str]] = set()
        self.says_task_epoch = self.has_steps = self.repeats = self.has_epoch_0 = False

    def scan(self) -> None:
        """Find out, before anything is stored, what only the whole log can tell; malformed rows are left to `read`.

        Epoch 0 is the untrained network where something says so (it has seen no samples, it is no epoch of a task, or
        it alone has no online accuracy), else the log counts from 0.
        """
        rows = iter(self.lines)
        _, names = next(rows, (0, []))
        at = {name.strip(): i for i, name in enumerate(names)}
        if "run" not in at or "epoch" not in at:
            return
        epoch_at, keys = at["epoch"], [at[n] for n in ("run", "epoch", "split", "layer") if n in at]
        trained = [at[n] for n in OF_TRAINING if n in at]
        seen: set[int] = set()
        online_at_0 = online_later = samples_at_0 = False
        for _, fields in rows:
            if len(fields) != len(names):
                continue
            key = hash(tuple([fields[i] for i in keys]))
            self.repeats = self.repeats or key in seen
            seen.add(key)
            zero = False
            with suppress(ValueError):
                zero = fields[epoch_at].lstrip()[:1] in ("0", "-") and float(fields[epoch_at]) == 0
            online = any(fields[i].strip().lower() not in UNDEFINED for i in trained)
            if zero:
                self.has_epoch_0, online_at_0 = True, online_at_0 or online
                samples_at_0 = samples_at_0 or ("samples_seen" in at and fields[at["samples_seen"]].strip() != "0")
            else:
                online_later = online_later or online
        if self.epochs_from is None:
            ours = "task_epoch" in at or "parent" in at or ("samples_seen" in at and not samples_at_0)
            untrained = ours or (online_later and not online_at_0)
            self.epochs_from = 0 if self.has_epoch_0 and not untrained else 1

    def error(self, line: int, what: str, hint: str | None = None, column: str | None = None) -> DataError:
        """A malformed place of the file."""
        at = f", column {column!r}" if column is not None else ""
        return DataError(f"{self.lines.path}, line {line}{at}: {what}", hint)

    def header(self, names: list[str]) -> dict[str, int]:
        """Place of the columns that are no metrics; what the others are is kept in `metrics`."""
        if len(names) > MOST_COLUMNS:
            raise self.error(
                1, f"it names {len(names)} columns; a log of epochs has at most {MOST_COLUMNS}.",
                "one column a metric, one row an epoch: leave out what are no metrics",
            )  # fmt: skip
        names = [from_spreadsheets(n.strip()) for n in names]
        place = {n: i for i, n in enumerate(names)}
        if len(names) == 1 and any(c in names[0] for c in ";\t"):
            raise self.error(1, "the columns are not separated by commas.", "write it as CSV with commas")
        for i, one in enumerate(names):
            if not one:
                raise self.error(1, f"column {i + 1} has no name.", "name it (pandas: to_csv with index=False)")
            if place[one] != i:
                raise self.error(1, "this column is there twice.", column=one)
        if lacking := [n for n in REQUIRED if n not in place]:
            raise self.error(
                1, f"the columns {', '.join(lacking)} are missing (there are: {', '.join(names)}).",
                "one row per recorded epoch, with columns run, seed, epoch, task (default 0), and metrics",
            )  # fmt: skip
        if absent := [n for n in self.skip if n not in place]:
            raise InputError(
                f"--skip {absent[0]}: {self.lines.path} has no such column.", f"its columns: {', '.join(names)}"
            )
        self.ignored = [n for n in names if n in EXPORTED or n in self.skip]
        self.metrics = [(i, n, Address.parse(n)) for n, i in place.items() if n not in (*HEAD, *self.ignored)]
        addressed = [n for _, n, _ in self.metrics if "@" in n]
        if addressed and ("split" in place or "layer" in place):
            raise self.error(
                1, "a column may name its split and layer (metric@split/layer) only where no columns split and layer "
                "say the same of each row.", column=addressed[0],
            )  # fmt: skip
        twice: dict[Address, str] = {}
        for _, one, address in self.metrics:
            if not all(address):
                raise self.error(1, "this is no metric: write metric, metric@split or metric@split/layer.", column=one)
            if (split_or_layer := address[1:]) and (why := doubtful(*split_or_layer)):
                raise self.error(1, *why, column=one)
            if address in twice:
                raise self.error(1, f"this is the same metric as column {twice[address]!r}.", column=one)
            twice[address] = one
        at = {n: place[n] for n in HEAD if n in place and (n in REQUIRED or n not in self.skip)}
        self.says_task_epoch, self.has_steps = "task_epoch" in at, bool(STEPS & place.keys())
        return at

    def read(self) -> Generator[Row]:
        """Every row as numbers. Raises DataError for the first malformed one."""
        rows = iter(self.lines)
        _, names = next(rows, (0, None))
        if names is None:
            raise DataError(f"{self.lines.path} is empty.", "its first line names the columns: run,seed,epoch,nc1,...")
        at = self.header(names)
        width = len(names)
        run_at, seed_at, epoch_at = (at[n] for n in REQUIRED)
        task_at, task_epoch_at, samples_at, seconds_at, split_at, layer_at, parent_at, branch_at = (
            at.get(n) for n in HEAD[3:]
        )
        metrics = [(i, n) for i, n, _ in self.metrics]
        for line, fields in rows:
            if not fields:
                continue  # an empty line
            if len(fields) != width:
                raise self.error(line, f"it has {len(fields)} fields where the first line names {width} columns.")
            if self.has_steps and not fields[epoch_at].strip():
                self.without_epoch += 1
                continue
            run = from_spreadsheets(fields[run_at].strip())
            if not run:
                raise self.error(line, "a run without a label.", column="run")
            values: list[float | None] = []
            for i, column in metrics:
                text = fields[i]
                try:
                    value: float | None = number(text)
                except ValueError:
                    if text.strip().lower() not in UNDEFINED:
                        raise self.error(
                            line, f"{text!r} is not a number.", f"mend it, or leave it out: --skip {column}", column
                        ) from None
                    value = None
                else:
                    if not math.isfinite(value):  # type: ignore[arg-type]
                        self.not_finite += 1
                        value = None
                values.append(value)
            facts = (
                0 if task_at is None else self._count(fields[task_at], line, "task", 0),
                None if task_epoch_at is None else self._known(fields[task_epoch_at], line, "task_epoch"),
                None if samples_at is None else self._known(fields[samples_at], line, "samples_seen"),
                None if seconds_at is None else self._seconds(fields[seconds_at], line),
            )
            place = (
                (from_spreadsheets(fields[split_at].strip()) if split_at is not None else "") or "train",
                (from_spreadsheets(fields[layer_at].strip()) if layer_at is not None else "") or "last",
            )
            if place not in self.places:
                if why := doubtful(*place):
                    raise self.error(line, *why, column="split" if doubtful(place[0], "last") else "layer")
                self.places.add(place)
            branch = None
            if parent_at is not None and (parent := from_spreadsheets(fields[parent_at].strip())):
                branch = parent, 0 if branch_at is None else self._count(fields[branch_at], line, "branch_epoch")
            self.rows += 1
            epoch = self._count(fields[epoch_at], line, "epoch")
            yield Row(line, run, self._count(fields[seed_at], line, "seed"), epoch, facts, place, values, branch)

    def _known(self, text: str, line: int, column: str) -> int | None:
        return self._count(text, line, column) if text.strip() else None

    def _count(self, text: str, line: int, column: str, default: int | None = None) -> int:
        try:
            found = int(text) if text.isdigit() and text.isascii() else None
            if found is None:
                if default is not None and not text.strip():
                    return default
                found = int(value := number(text))  # pandas writes whole numbers as 3.0 where the column has gaps
                if found != value:
                    raise ValueError
        except (ValueError, OverflowError):
            raise self.error(line, f"{text!r} is not a whole number.", column=column) from None
        if not 0 <= found <= _LARGEST:
            raise self.error(line, f"{text} is not between 0 and 2^63 - 1.", column=column)
        return found

    def _seconds(self, text: str, line: int) -> float | None:
        try:
            found = number(text) if text.strip() else None
        except ValueError:
            found = math.nan
        if found is not None and not math.isfinite(found):
            raise self.error(line, f"{text!r} is not a number of seconds.", column="seconds")
        return found


def number(text: str) -> float:
    """A number as files write it; raises ValueError also for what only Python reads as one: 1_5, digits of others."""
    if "_" in text or not text.isascii():
        raise ValueError
    return float(text)
