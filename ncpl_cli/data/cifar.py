"""CIFAR-10 and CIFAR-100 from their binary files (the python versions are pickles, which we do not read)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.download import clean
from ncpl_cli.errors import DataError, told

PIXELS = 3 * 32 * 32

FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)
RECORD = 1 + PIXELS
"""Bytes of a sample of CIFAR-10: its label, then 32x32 reds, greens, blues."""


@dataclass(frozen=True)
class Files:
    """Where a data set lies. `labels`: how many classes each byte of label before the pixels can name."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    archive: str
    md5: str
    labels: tuple[int, ...]


CIFAR10 = Files(
    FOLDER, TRAIN, TEST, "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530", (10,),
)  # fmt: skip

CIFAR100 = Files(
    "cifar-100-binary", ("train.bin",), ("test.bin",), "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    "03b5dce01913d631647c71ecec9e9cb8", (20, 100),
)  # fmt: skip
"""Its records begin with the super-class, then the class."""


def load_cifar10(data_dir: Path) -> Dataset:
    """50 000 + 10 000 colour images of 32x32; downloaded when absent."""
    (train,), (test,) = _load("cifar10", CIFAR10, data_dir)
    return Dataset("cifar10", train, test, 10)


def load_cifar100(data_dir: Path) -> Dataset:
    """50 000 + 10 000 colour images of 32x32 in 100 classes, `super`: in 20 super-classes; downloaded when absent."""
    coarse, fine = zip(*_load("cifar100", CIFAR100, data_dir), strict=True)
    train, test = (Split(f.images, f.labels, {"super": c.labels}) for f, c in zip(fine, coarse, strict=True))
    return Dataset("cifar100", train, test, 100)


def load_cifar100_super(data_dir: Path) -> Dataset:
    """CIFAR-100 with its 20 super-classes as labels, `fine`: in 100 classes; downloaded when absent."""
    coarse, fine = zip(*_load("cifar100-super", CIFAR100, data_dir), strict=True)
    train, test = (Split(c.images, c.labels, {"fine": f.labels}) for f, c in zip(fine, coarse, strict=True))
    return Dataset("cifar100-super", train, test, 20)


def _load(name: str, files: Files, data_dir: Path) -> tuple[list[Split], list[Split]]:
    """Training and test split, each with every kind of label; downloaded when absent."""
    folder = data_dir / files.folder
    absent = [file for file in (*files.train, *files.test) if not (folder / file).is_file()]
    if absent:
        try:
            from torchvision.datasets.utils import download_and_extract_archive

            with clean(data_dir):
                download_and_extract_archive(files.archive, str(data_dir), md5=files.md5)
        except Exception as error:  # URLError, RuntimeError, OSError, ...
            raise DataError(
                f"{name} is not in {folder} (missing: {', '.join(absent)}) and could not be downloaded "
                f"({told(error)}).",
                f"put the binary version's files there (--data-dir names the directory that holds {files.folder}), "
                "use --dataset folder:DIR for images in class folders, or work offline with --dataset digits",
            ) from error
    return _read(folder, files.train, files.labels), _read(folder, files.test, files.labels)


def _read(folder: Path, names: tuple[str, ...], labels: tuple[int, ...]) -> list[Split]:
    record, parts = len(labels) + PIXELS, []
    for name in names:
        try:
            raw = np.fromfile(folder / name, np.uint8)
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read ({error.strerror}).") from error
        whole = raw.size > 0 and raw.size % record == 0
        if not whole or (raw.reshape(-1, record)[:, : len(labels)].max(0) >= labels).any():
            raise DataError(
                f"{folder / name} is truncated or not a file of the binary version.",
                f"delete {folder} so that it is fetched again, or name another --data-dir",
            )
        parts.append(raw.reshape(-1, record))
    rows = np.concatenate(parts)
    images = np.ascontiguousarray(rows[:, len(labels) :]).reshape(-1, 3, 32, 32)
    return [Split(images, rows[:, i].astype(np.int64)) for i in range(len(labels))]
