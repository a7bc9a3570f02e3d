"""Rows of a CSV file of recorded epochs, each checked: what is wrong is named by file, line and column."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ncpl_cli.errors import DataError, InputError
from ncpl_cli.records import Address

REQUIRED = ("run", "seed", "epoch")
HEAD = (*REQUIRED, "task", "task_epoch", "samples_seen", "seconds", "split", "layer", "parent", "branch_epoch")
"""Columns that say what a row is; `parent`, `branch_epoch`: which run a probe was copied from, after which epoch.

All others are metrics, by id or address (`nc1@test/layer2`)."""

EXPORTED = ("scenario", "name")
"""Columns of an export that --scenario and --name decide here."""

UNDEFINED = frozenset({"", "na", "n/a", "null", "none", "-"})
"""What people write where there is no value, beside nan."""

_LARGEST = 2**63 - 1


class Row(NamedTuple):
    """A row as numbers.

    facts   task, task_epoch, samples_seen, seconds
    values  in the order of the metrics
    branch  (parent's label, epoch) of a probe
    """

    line: int
    run: str
    seed: int
    epoch: int
    facts: tuple[int, int | None, int | None, float | None]
    place: tuple[str, str]
    values: list[float | None]
    branch: tuple[str, int] | None


class Source:
    """A file: its columns once the first line is read, and counts of what was read.

    metrics     (place in a row, column, address) of every column that is a metric
    ignored     columns that are left out
    rows        read so far; not_finite: values among them that were nan or infinite
    """

    def __init__(self, path: Path, skip: tuple[str, ...]) -> None:
        self.path, self.skip = path, skip
        self.rows = self.not_finite = 0
        self.metrics: list[tuple[int, str, Address]] = []
        self.ignored: list[str] = []
        self.says_task_epoch = False

    def opened(self) -> Rows:
        """The rows as a stream, to be closed."""
        return Rows(self)

    def error(self, line: int, what: str, hint: str | None = None, column: str | None = None) -> DataError:
        """A malformed place of the file."""
        at = f", column {column!r}" if column is not None else ""
        return DataError(f"{self.path}, line {line}{at}: {what}", hint)

    def header(self, names: list[str]) -> dict[str, int]:
        """Place of the columns that are no metrics; what the others are is kept in `metrics`."""
        names = [n.strip() for n in names]
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
            raise InputError(f"--skip {absent[0]}: {self.path} has no such column.", f"its columns: {', '.join(names)}")
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
            if address in twice:
                raise self.error(1, f"this is the same metric as column {twice[address]!r}.", column=one)
            twice[address] = one
        at = {n: place[n] for n in HEAD if n in place and (n in REQUIRED or n not in self.skip)}
        self.says_task_epoch = "task_epoch" in at
        return at

    def read(self, reader: Any) -> Iterator[Row]:
        """Every row of a csv.reader as numbers. Raises DataError for the first malformed one."""
        try:
            names = next(reader, None)
            if names is None:
                raise DataError(f"{self.path} is empty.", "its first line names the columns: run,seed,epoch,nc1,...")
            at = self.header(names)
            width = len(names)
            run_at, seed_at, epoch_at = (at[n] for n in REQUIRED)
            task_at, task_epoch_at, samples_at, seconds_at, split_at, layer_at, parent_at, branch_at = (
                at.get(n) for n in HEAD[3:]
            )
            metrics = [(i, n) for i, n, _ in self.metrics]
            for fields in reader:
                line = reader.line_num
                if not fields:
                    continue  # an empty line
                if len(fields) != width:
                    raise self.error(line, f"it has {len(fields)} fields where the first line names {width} columns.")
                run = fields[run_at].strip()
                if not run:
                    raise self.error(line, "a run without a label.", column="run")
                values: list[float | None] = []
                for i, column in metrics:
                    text = fields[i]
                    try:
                        value: float | None = float(text)
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
                    None if task_epoch_at is None else self._count(fields[task_epoch_at], line, "task_epoch"),
                    None if samples_at is None else self._count(fields[samples_at], line, "samples_seen"),
                    None if seconds_at is None else self._seconds(fields[seconds_at], line),
                )
                place = (
                    (fields[split_at].strip() if split_at is not None else "") or "train",
                    (fields[layer_at].strip() if layer_at is not None else "") or "last",
                )
                branch = None
                if parent_at is not None and (parent := fields[parent_at].strip()):
                    branch = parent, 0 if branch_at is None else self._count(fields[branch_at], line, "branch_epoch")
                self.rows += 1
                epoch = self._count(fields[epoch_at], line, "epoch")
                yield Row(line, run, self._count(fields[seed_at], line, "seed"), epoch, facts, place, values, branch)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}, after line {reader.line_num}: not UTF-8 text.", "save it as UTF-8"
            ) from error
        except csv.Error as error:
            raise self.error(reader.line_num, f"not CSV ({error}).") from error

    def _count(self, text: str, line: int, column: str, default: int | None = None) -> int:
        try:
            number = int(text)
        except ValueError:
            if default is not None and not text.strip():
                return default
            try:  # pandas writes whole numbers as 3.0 where the column has gaps
                number = int(float(text))
                if number != float(text):
                    raise ValueError
            except (ValueError, OverflowError):
                raise self.error(line, f"{text!r} is not a whole number.", column=column) from None
        if not 0 <= number <= _LARGEST:
            raise self.error(line, f"{text} is not between 0 and 2^63 - 1.", column=column)
        return number

    def _seconds(self, text: str, line: int) -> float:
        try:
            number = float(text) if text.strip() else 0.0
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.error(line, f"{text!r} is not a number of seconds.", column="seconds")
        return number


class Rows:
    """The open file, as an iterator to be closed."""

    def __init__(self, source: Source) -> None:
        if source.path.suffix.lower() == ".parquet":
            raise InputError(f"{source.path} is not CSV.", "export it again with ncpl export -o epochs.csv")
        try:
            self._file = source.path.open(newline="", encoding="utf-8-sig")
        except OSError as error:
            raise InputError(f"{source.path} cannot be read ({error.strerror}).", "name a CSV file") from error
        self._rows = source.read(csv.reader(self._file, strict=True))

    def __enter__(self) -> Iterator[Row]:
        return self._rows

    def __exit__(self, *_: object) -> None:
        self._file.close()
