"""CIFAR-10 from its binary files (the python version is pickles, which we do not read)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.errors import DataError

FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)
ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
RECORD = 1 + 3 * 32 * 32
"""Bytes of a sample: its label, then 32x32 reds, greens, blues."""


def load_cifar10(data_dir: Path) -> Dataset:
    """50 000 + 10 000 colour images of 32x32; downloaded when absent."""
    folder = data_dir / FOLDER
    absent = [name for name in (*TRAIN, *TEST) if not (folder / name).is_file()]
    if absent:
        try:
            from torchvision.datasets.utils import download_and_extract_archive

            download_and_extract_archive(ARCHIVE, str(data_dir), md5=MD5)
        except Exception as error:  # URLError, RuntimeError, OSError, ...
            raise DataError(
                f"cifar10 is not in {folder} (missing: {', '.join(absent)}) and could not be downloaded ({error}).",
                f"put the binary version's six files there (--data-dir names the directory that holds {FOLDER}), "
                "use --dataset folder:DIR for images in class folders, or work offline with --dataset digits",
            ) from error
    return Dataset("cifar10", _read(folder, TRAIN), _read(folder, TEST), 10)


def _read(folder: Path, names: tuple[str, ...]) -> Split:
    parts = []
    for name in names:
        try:
            raw = np.fromfile(folder / name, np.uint8)
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read ({error.strerror}).") from error
        if raw.size == 0 or raw.size % RECORD or raw.reshape(-1, RECORD)[:, 0].max() > 9:
            raise DataError(
                f"{folder / name} is truncated or not a file of CIFAR-10's binary version.",
                f"delete {folder} so that it is fetched again, or name another --data-dir",
            )
        parts.append(raw.reshape(-1, RECORD))
    rows = np.concatenate(parts)
    return Split(np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64))
