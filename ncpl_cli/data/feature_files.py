"""Features in files, read in blocks of rows: nothing but labels and the classifier is kept.

An .npz (its members are read as streams), an .npy beside its labels (memory-mapped), safetensors, Parquet, several of
them or a directory of them, one after the other.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.errors import DataError, InputError, told

Array = NDArray[Any]
SUFFIXES = (".npz", ".npy", ".safetensors", ".parquet")
LAYER = "features/"
"""What the name of an array begins with that holds a layer other than the last: `features/layer1.0`."""
ROWS = 8192
"""Rows of a block."""


@dataclass(frozen=True)
class Part:
    """One file: how many rows, how wide, of which bytes an entry, its labels, and how its rows are read in blocks."""

    path: Path
    rows: int
    width: int
    itemsize: int
    labels: Array
    blocks: Callable[[], Iterator[Array]]


@dataclass
class FeatureFiles:
    """Parts in order, and beside them what else the files hold: weight, bias, test_features, test_labels."""

    parts: list[Part] = field(default_factory=list)
    others: dict[str, Array] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Samples in all."""
        return sum(part.rows for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all features."""
        return sum(part.rows * part.width * part.itemsize for part in self.parts)

    @property
    def labels(self) -> Array:
        """Of all parts, in order."""
        return np.concatenate([part.labels for part in self.parts])

    def blocks(self) -> Iterator[tuple[Array, slice]]:
        """Features of some thousand rows (n, d), and which rows they are."""
        start = 0
        for part in self.parts:
            for block in part.blocks():
                yield block, slice(start, start + len(block))
                start += len(block)

    def features(self) -> Array:
        """All of them at once."""
        return np.concatenate([block for block, _ in self.blocks()])


def is_layer(name: str) -> bool:
    """Whether an array of an .npz holds a layer other than the last: features/NAME, test_features/NAME."""
    return name.partition("/")[0] in ("features", "test_features") and "/" in name


def layers_of(path: Path) -> list[str]:
    """The layers of an .npz beside the last, by their order in it; none of what is no .npz."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return []
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    return [name.removeprefix(LAYER) for name in names if name.startswith(LAYER)]


def open_files(paths: Sequence[Path], layer: str | None = None) -> FeatureFiles:
    """The features of files and directories, or those of a layer of one .npz and nothing of the classifier.

    Raises InputError for what holds none, DataError for what is damaged.
    """
    found = FeatureFiles()
    for path in [file for given in paths for file in _files(given)]:
        try:
            if layer is None:
                _READERS[path.suffix](path, found)
            else:
                _npz(path, found, layer)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged ({told(error)}).", "write it again") from error
    widths = {part.width: part.path for part in found.parts}
    if len(widths) > 1:
        said = " and ".join(f"{width} ({path})" for width, path in widths.items())
        raise InputError(f"features are of different dimensions: {said}.", "one layer of one network is measured")
    for part in found.parts:
        if len(part.labels) != part.rows:
            raise InputError(f"{part.path} has {part.rows} features and {len(part.labels)} labels.")
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise InputError(
                f"there is no file {path}.", "ncpl measure FILE.npz ..., a directory of such files, --run ID"
            )
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path} is no file of features.", f"known are {', '.join(SUFFIXES)}")
        return [path]
    if (path / "features.npy").is_file():
        return [path / "features.npy"]
    if not (found := sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)):
        raise InputError(
            f"{path} holds no features.", f"it may hold features.npy and labels.npy, or {', '.join(SUFFIXES)}"
        )
    return found


def _add(found: FeatureFiles, part: Part, others: dict[str, Array]) -> None:
    found.parts.append(part)
    for name, array in others.items():
        if name in found.others and not np.array_equal(found.others[name], array):
            raise InputError(f"{part.path} has another {name} than the files before it.", "one classifier is measured")
        found.others[name] = array


OTHERS = ("weight", "bias", "test_features", "test_labels")


def _lacking(path: Path, names: Sequence[str]) -> None:
    if lacking := [name for name in ("features", "labels") if name not in names]:
        raise InputError(f"{path} has no {' and no '.join(lacking)}; it has {', '.join(names) or 'nothing'}.")


def _npz(path: Path, found: FeatureFiles, layer: str | None = None) -> None:
    name = "features" if layer is None else LAYER + layer
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        _lacking(path, file.files)
        meant = ("features", "labels", *OTHERS)
        found.unused += [name for name in file.files if name not in meant and not is_layer(name)]
        labels, others = file["labels"], {name: file[name] for name in OTHERS if name in file.files}
        if layer is not None:
            own = {"test_features": f"test_{name}", "test_labels": "test_labels"}
            others = {name: file[of] for name, of in own.items() if own["test_features"] in file.files}
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        shape, fortran, dtype = _header(member)
    if dtype.hasobject or len(shape) != 2:
        raise InputError(f"features of {path} must be a matrix of numbers, not {dtype} {shape}.")
    if fortran:
        raise InputError(
            f"features of {path} lie column by column, which cannot be read row by row.",
            "np.savez(path, features=np.ascontiguousarray(features), ...)",
        )

    def blocks() -> Iterator[Array]:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            _header(member)
            for start in range(0, shape[0], ROWS):
                count = min(ROWS, shape[0] - start)
                data = member.read(count * shape[1] * dtype.itemsize)
                if len(data) < count * shape[1] * dtype.itemsize:
                    raise DataError(
                        f"{path} is damaged: it ends before its features do.", "write it again with np.savez"
                    )
                yield np.frombuffer(data, dtype).reshape(count, shape[1])

    _add(found, Part(path, shape[0], shape[1], dtype.itemsize, labels, blocks), others)


def _header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(member)
    return found


def _npy(path: Path, found: FeatureFiles) -> None:
    """`features.npy` beside `labels.npy`, `weight.npy`, `bias.npy`; `x-features-3.npy` beside `x-labels-3.npy`."""
    if "features" not in path.stem:
        return  # labels, weights: read with their features
    beside = {name: path.with_name(path.name.replace("features", name)) for name in ("labels", *OTHERS)}
    if not beside["labels"].is_file():
        raise InputError(f"{path} has no labels: there is no {beside['labels'].name} beside it.")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 2:
        raise InputError(f"features of {path} must be a matrix (N, d), not {array.shape}.")
    others = {name: np.load(file, allow_pickle=False) for name, file in beside.items() if file.is_file()}
    labels = others.pop("labels")

    def blocks() -> Iterator[Array]:
        shown = np.load(path, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(shown), ROWS):
            yield np.array(shown[start : start + ROWS])

    _add(found, Part(path, len(array), array.shape[1], array.itemsize, labels, blocks), others)


def _safetensors(path: Path, found: FeatureFiles) -> None:
    from safetensors import SafetensorError, safe_open

    def plain(tensor: Any) -> Array:
        array: Array = (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
        return array

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            _lacking(path, names)
            rows, width = file.get_slice("features").get_shape()
            itemsize = file.get_slice("features")[:1].itemsize
            labels = plain(file.get_tensor("labels"))
            others = {name: plain(file.get_tensor(name)) for name in OTHERS if name in names}
    except SafetensorError as error:
        raise DataError(f"{path} is damaged or no safetensors file ({told(error)}).", "write it again") from error

    def blocks() -> Iterator[Array]:
        with safe_open(path, framework="pt") as file:
            shown = file.get_slice("features")
            for start in range(0, rows, ROWS):
                yield plain(shown[start : min(rows, start + ROWS)])

    _add(found, Part(path, rows, width, itemsize, labels, blocks), others)


def _parquet(path: Path, found: FeatureFiles) -> None:
    """A column `labels` (or `label`), and `features` as lists, or every other column of numbers as one feature."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    label = next((name for name in ("labels", "label") if name in names), None)
    if label is None:
        raise InputError(f"{path} has no column labels; it has {', '.join(names)}.")
    lists = "features" in names
    columns = ["features"] if lists else [name for name in names if name != label]
    labels = file.read([label])[label].to_numpy()

    def matrix(batch: Any) -> Array:
        if not lists:
            return np.stack([batch[name].to_numpy(zero_copy_only=False) for name in columns], axis=1)
        column = batch["features"]
        flat = column.flatten().to_numpy(zero_copy_only=False)
        if len(batch) and len(flat) % len(batch):
            raise InputError(f"features of {path} are lists of different lengths.")
        return flat.reshape(len(batch), -1)  # type: ignore[no-any-return]

    def blocks() -> Iterator[Array]:
        for batch in pq.ParquetFile(path).iter_batches(ROWS, columns=columns):
            yield matrix(batch)

    first = next(iter(pq.ParquetFile(path).iter_batches(1, columns=columns)), None)
    if first is None or any(pa.types.is_string(first.schema.field(name).type) for name in columns):
        raise InputError(f"{path} has no features: columns of numbers, or lists of them.")
    shown = matrix(first)
    _add(found, Part(path, file.metadata.num_rows, shown.shape[1], shown.itemsize, labels, blocks), {})


_READERS: dict[str, Callable[[Path, FeatureFiles], None]] = {
    ".npz": _npz, ".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet,
}  # fmt: skip


def holds_features(path: Path) -> bool:
    """Whether a safetensors file holds features with labels, and is no state dict."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {"features", "labels"} <= {*file.keys()}
    except (OSError, SafetensorError):
        return False
