"""What experiment trackers keep: TensorBoard's event files and Trackio's database, read without either library.

Both count steps. Where epochs are logged too (a scalar `epoch`) a step belongs to the epoch that was last logged, and
the last value of an epoch counts; else the steps are the epochs, which is said.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ncpl_cli.errors import DataError, InputError, unknown
from ncpl_cli.store.log_lines import CsvLines, LightningLines, Lines, Records, flat, json_lines, natural

Logged = dict[str, dict[int, dict[str, Any]]]
"""Values by run, step and tag."""


def _records(path: Path, logged: Logged, notes: list[str]) -> Records:
    """Rows of what was logged: one a run and step."""
    rows: list[tuple[int, dict[str, Any]]] = []
    by_epoch = any("epoch" in values for steps in logged.values() for values in steps.values())
    unseeded = 0
    for number, (run, steps) in enumerate(logged.items()):
        epoch: Any = None
        seeds = [values.pop("seed") for values in steps.values() if "seed" in values]
        unseeded += not seeds
        for step, values in sorted(steps.items()):
            epoch = values.pop("epoch", epoch) if by_epoch else step
            place = {"run": run, "seed": seeds[0] if seeds else number, "epoch": epoch}
            rows.append((len(rows) + 1, place | ({"step": step} if by_epoch else {}) | values))
    if not by_epoch:
        notes.append("no epoch was logged: the steps are taken as epochs.")
    if unseeded:
        notes.append(f"{unseeded} of {len(logged)} runs have logged no seed: they are numbered.")
    return Records(path, rows, notes)


def tensorboard(path: Path) -> Records:
    """An event file, or a folder below which there are some: every folder that holds some is a run."""
    files = sorted(path.rglob("*tfevents*"), key=natural) if path.is_dir() else [path]
    if not files:
        raise InputError(f"there is no event file below {path}.", "name a folder that SummaryWriter has written")
    logged: Logged = {}
    notes: list[str] = []
    for file in files:
        below = file.parent.relative_to(path) if path.is_dir() else Path()
        run = file.resolve().parent.name if below == Path() else str(below)
        steps = logged.setdefault(run, {})
        try:
            data = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror}).", "name an event file or a folder") from error
        for record in _events(data, file, notes):
            step, scalars = _scalars(record)
            if scalars:
                steps.setdefault(step, {}).update(scalars)
    return _records(path, {run: steps for run, steps in logged.items() if steps}, notes)


def _events(data: bytes, file: Path, notes: list[str]) -> Iterator[bytes]:
    """The records of an event file: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            break
        yield data[at + 12 : at + 12 + length]
        at += 16 + length
    if at == 0:
        raise DataError(f"{file} is no event file of TensorBoard.")
    if at < len(data):
        notes.append(f"{file.name} breaks off in its last record, which is left out.")


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: number, and an integer or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(kind)
        length = varint() if length is None else length
        yield key >> 3, message[at : at + length]
        at += length


def _scalars(event: bytes) -> tuple[int, dict[str, float]]:
    """The step of an Event (field 2), the scalars of its Summary (field 5: values with tag 1, number 2, tensor 8)."""
    step, found = 0, {}
    try:
        for number, value in _fields(event):
            if number == 2:
                step = value - (1 << 64) if value >> 63 else value
            elif number == 5:
                for of, one in _fields(value):
                    parts = dict(_fields(one)) if of == 1 else {}
                    if (scalar := _scalar(parts)) is not None:
                        found[parts[1].decode()] = scalar
    except (IndexError, struct.error, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        return step, {}
    return step, found


def _scalar(parts: dict[int, Any]) -> float | None:
    """A summary's value: a float, or a tensor of one (type 1 float, 2 double; 4 content, 5 floats, 6 doubles)."""
    if 2 in parts:
        return float(struct.unpack("<f", parts[2])[0])
    tensor = dict(_fields(parts[8])) if 8 in parts else {}
    kind, size = {1: ("<f", 4), 2: ("<d", 8)}.get(tensor.get(1, 0), ("", 0))
    content = tensor.get(4) or tensor.get({1: 5, 2: 6}.get(tensor.get(1, 0), 0))
    return float(struct.unpack(kind, content)[0]) if size and content and len(content) == size else None


def trackio(path: Path) -> Records:
    """Trackio's database of a project (PROJECT.db in its folder): every run's metrics."""
    logged: Logged = {}
    if not path.is_file():
        raise InputError(f"there is no file {path}.", "name the project's .db in Trackio's folder")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
            configs: list[tuple[str, str]] = []
            with contextlib.suppress(sqlite3.Error):  # an older Trackio keeps none
                configs = connection.execute("SELECT run_name, config FROM configs").fetchall()
    except sqlite3.Error as error:
        raise DataError(f"{path} is no database of Trackio ({error}).", "name the project's .db") from error
    seeds = {run: seed for run, text in configs if isinstance(seed := json.loads(text).get("seed"), int)}
    for run, step, metrics in rows:
        values = {key: value for key, value in flat(json.loads(metrics)).items() if not isinstance(value, list)}
        values |= {"seed": seeds[run]} if run in seeds else {}
        logged.setdefault(str(run), {}).setdefault(int(step), {}).update(values)
    return _records(path, logged, [])


KINDS: dict[str, Callable[[Path], Lines]] = {
    "csv": CsvLines, "lightning": LightningLines, "tensorboard": tensorboard, "trackio": trackio, "jsonl": json_lines,
}  # fmt: skip
"""What `--from` can name. Lightning counts epochs from 0; of the others the log itself tells."""


def lines_of(kind: str, path: Path) -> Lines:
    """The lines of a log of this kind; raises InputError for an unknown kind."""
    if kind not in KINDS:
        raise unknown("kind of log", kind, KINDS)
    return KINDS[kind](path)
