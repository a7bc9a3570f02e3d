"""A features file that grows by blocks of rows: a block is in memory at a time, and it is whole or not there."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import output


class Arrays:
    """Arrays by name. Rows are added to files beside the target, which become the members of one .npz at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, tuple[IO[bytes], np.dtype[Any], int]] = {}
        self.rows: dict[str, int] = {}
        self.whole: dict[str, NDArray[Any]] = {}

    def add(self, name: str, rows: NDArray[Any]) -> None:
        """Add rows (n, d) to an array."""
        if name not in self._files:
            path = self._directory / str(len(self._files))
            self._files[name] = (path.open("w+b"), rows.dtype, rows.shape[1])
            self.rows[name] = 0
        file, dtype, width = self._files[name]
        assert rows.shape[1:] == (width,), name
        file.write(np.ascontiguousarray(rows, dtype).data)
        self.rows[name] += len(rows)

    @property
    def widths(self) -> dict[str, int]:
        """Dimensions by name, of what has grown."""
        return {name: width for name, (_, _, width) in self._files.items()}

    def close(self) -> None:
        """Forget them."""
        for file, _, _ in self._files.values():
            file.close()

    def write(self, target: IO[bytes]) -> None:
        """All of them as an .npz, the same bytes for the same numbers; each file goes as soon as it is copied."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, (file, dtype, width) in self._files.items():
                header = {"descr": dtype.str, "fortran_order": False, "shape": (self.rows[name], width)}
                file.seek(0)
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(file, member, 1 << 20)
                file.truncate(0)
            for name, array in self.whole.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


@contextmanager
def features_file(path: str) -> Iterator[Arrays]:
    """Arrays to add to; when the block ends well they are in the file, all of them, else nothing is left behind."""
    beside = None if output.special(path) else Path(path).resolve().parent
    with output.opened(path) as target, tempfile.TemporaryDirectory(prefix=".ncpl-", dir=beside) as directory:
        arrays = Arrays(Path(directory))
        try:
            yield arrays
            arrays.write(target)
        finally:
            arrays.close()


def summary(labels: NDArray[np.int64]) -> Mapping[str, int]:
    """How many samples, classes, and of them at least, at the median and at most a class."""
    _, counts = np.unique(labels, return_counts=True)
    least, middle, most = (int(f(counts)) if len(counts) else 0 for f in (np.min, np.median, np.max))
    return {
        "n": len(labels), "classes": len(counts), "min_class_count": least, "median_class_count": middle,
        "max_class_count": most,
    }  # fmt: skip
