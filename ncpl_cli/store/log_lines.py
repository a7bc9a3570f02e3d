"""The lines of logs as fields of text, whatever wrote them: ncpl's own CSV, Lightning's metrics.csv, lines of JSON.

Each kind is an object that can be gone through more than once: first the names of the columns, then the rows, each
with the number of its line. `path` is the file that the last line came from.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from ncpl_cli.errors import DataError, InputError

Line = tuple[int, list[str]]


class Lines(Protocol):
    """A log's lines; `notes`: what was taken otherwise than it stands there."""

    path: Path
    notes: list[str]

    def __iter__(self) -> Iterator[Line]: ...


class CsvLines:
    """A CSV file with a line of names."""

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() == ".parquet":
            raise InputError(f"{path} is not CSV.", "export it again with ncpl export -o epochs.csv")
        self.path = path
        self.notes: list[str] = []
        # what cannot be read twice (a pipe) is kept
        self._kept = None if path.is_file() else _read(path)

    def __iter__(self) -> Iterator[Line]:
        reader = None
        try:
            with io.StringIO(self._kept) if self._kept is not None else _open(self.path) as file:
                reader = csv.reader(file, strict=True)
                for fields in reader:
                    yield reader.line_num, fields
        except UnicodeDecodeError as error:
            after = reader.line_num if reader else 0
            raise DataError(f"{self.path}, after line {after}: not UTF-8 text.", "save it as UTF-8") from error
        except csv.Error as error:
            raise DataError(f"{self.path}, line {reader.line_num if reader else 0}: not CSV ({error}).") from error


def _open(path: Path) -> io.TextIOWrapper:
    try:
        return path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", "name a file that is there") from error


def _read(path: Path) -> str:
    try:
        with _open(path) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.", "save it as UTF-8") from error


class LightningLines:
    """Lightning's CSVLogger: a metrics.csv, or a folder below which there are some; each is a run.

    A run is called by its folder (version_0); its seed stands in hparams.yaml, else runs are numbered.
    """

    def __init__(self, path: Path) -> None:
        files = sorted(path.rglob("metrics.csv"), key=natural) if path.is_dir() else [path]
        if not files:
            raise InputError(f"there is no metrics.csv below {path}.", "name a folder that CSVLogger has written")
        self.path = path
        self.notes: list[str] = []
        self._files: list[tuple[CsvLines, str, str]] = []
        unseeded = 0
        for number, file in enumerate(files):
            below = str(file.parent.relative_to(path)) if path.is_dir() else "."
            label = file.resolve().parent.name if below == "." else below
            seed = _seed(file.with_name("hparams.yaml"))
            unseeded += seed is None
            self._files.append((CsvLines(file), label, seed or str(number)))
        if unseeded:
            self.notes.append(f"{unseeded} of {len(files)} runs name no seed in hparams.yaml: they are numbered.")

    def __iter__(self) -> Iterator[Line]:
        names: dict[str, None] = {}
        heads = []
        for lines, _, _ in self._files:
            self.path = lines.path
            _, head = next(iter(lines), (0, []))
            if "epoch" not in head:
                raise DataError(f"{lines.path} has no column epoch: it has {', '.join(head) or 'nothing'}.")
            heads.append(head)
            names |= dict.fromkeys(head)
        own = [name for name in names if name not in ("run", "seed")]
        yield 1, ["run", "seed", *own]
        for (lines, label, seed), head in zip(self._files, heads, strict=True):
            self.path = lines.path
            at = {name: i for i, name in enumerate(head)}
            places = [at.get(name) for name in own]
            rows = iter(lines)
            next(rows)
            for line, fields in rows:
                if len(fields) == len(head):
                    yield line, [label, seed, *("" if i is None else fields[i] for i in places)]
                else:
                    yield line, fields


def natural(path: Path) -> list[tuple[int, str]]:
    """version_10 after version_9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(path))]


def _seed(file: Path) -> str | None:
    try:
        found = re.search(r"^\s*(?:seed|seed_everything|random_seed):\s*(\d+)\s*$", file.read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None


class Records:
    """Rows as mappings by column; without a run the file is one, without a seed that is 0; words are left out."""

    def __init__(self, path: Path, rows: list[tuple[int, dict[str, Any]]], notes: list[str] | None = None) -> None:
        self.path, self.notes, self._rows = path, notes or [], rows
        keys = dict.fromkeys(key for _, one in rows for key in one)
        given = {"run": path.stem, "seed": 0}
        self._given = {key: value for key, value in given.items() if key not in keys}
        for key, value in self._given.items():
            self.notes.append(f"no line has a {key}: it is {value!r}.")
        words = [key for key in keys if key not in ("run", "split", "layer", "parent") and self._is_text(key)]
        if words:
            self.notes.append(f"columns of words are left out: {', '.join(words)}.")
        self._names = [*self._given, *(key for key in keys if key not in words)]

    def _is_text(self, key: str) -> bool:
        found = [one[key] for _, one in self._rows if one.get(key) is not None]
        return bool(found) and all(isinstance(value, str | list) for value in found)

    def __iter__(self) -> Iterator[Line]:
        if self._rows:
            yield 1, list(self._names)
        for line, one in self._rows:
            row = {**self._given, **one}
            yield line, [_text(row.get(name)) for name in self._names]


def json_lines(path: Path) -> Records:
    """A JSON object a line; nested ones as a.b."""
    rows = []
    for line, text in enumerate(_read(path).splitlines(), 1):
        if not text.strip():
            continue
        try:
            one = json.loads(text)
            if not isinstance(one, dict):
                raise ValueError(f"a {type(one).__name__}")
        except ValueError as error:
            raise DataError(
                f"{path}, line {line}: no JSON object ({error}).", 'one a line: {"epoch": 1, "nc1": 0.5}'
            ) from None
        rows.append((line, flat(one)))
    return Records(path, rows)


def flat(one: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, with names a.b."""
    found: dict[str, Any] = {}
    for key, value in one.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else value if isinstance(value, str) else repr(value)
