"""Data sets by name: scikit-learn's bundled digits, and the MNIST family, which torchvision fetches."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.download import clean
from ncpl_cli.data.idx import read_idx
from ncpl_cli.data.sampling import stratified, without
from ncpl_cli.data.turned import turned
from ncpl_cli.errors import DataError, told

RAW_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def load_digits(_: Path) -> Dataset:
    """1 797 images of 8x8, values 0 to 16, split 1 437 / 360, stratified and fixed; nothing to download."""
    # the file itself: importing scikit-learn takes longer than everything that a short command does with it
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.origin is not None  # a dependency of ours
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # N x 65, the label last
    images, labels = table[:, :-1].reshape(-1, 1, 8, 8).copy(), table[:, -1].astype(np.int64)
    test = stratified(labels, 360, "digits split")
    whole = Split(images, labels)
    return Dataset("digits", whole.take(without(len(labels), test)), whole.take(test), 10, scale=16.0)


def load_mnist(data_dir: Path) -> Dataset:
    """60 000 + 10 000 images of 28x28; downloaded when absent."""
    return _mnist_family("mnist", "MNIST", data_dir, RAW_FILES, 10, 60_000)


def load_fashion_mnist(data_dir: Path) -> Dataset:
    """60 000 + 10 000 images of 28x28; downloaded when absent."""
    return _mnist_family("fashion-mnist", "FashionMNIST", data_dir, RAW_FILES, 10, 60_000)


def load_mnist44(data_dir: Path) -> Dataset:
    """MNIST's 2 to 7 turned by quarters and mirrored: 44 classes, made from the same images when they are needed."""
    return turned(load_mnist(data_dir))


def load_emnist(data_dir: Path) -> Dataset:
    """EMNIST balanced: 47 classes of digits and letters, 112 800 + 18 800 images of 28x28; downloaded when absent."""
    return _emnist("emnist", "balanced", data_dir, 47, 112_800)


def load_emnist_letters(data_dir: Path) -> Dataset:
    """EMNIST letters: 26 classes, 124 800 + 20 800 images of 28x28; downloaded when absent."""
    return _emnist("emnist-letters", "letters", data_dir, 26, 124_800)


def _emnist(name: str, split: str, data_dir: Path, classes: int, most: int) -> Dataset:
    files = tuple(
        f"emnist-{split}-{part}-{what}"
        for part in ("train", "test")
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    first = int(split == "letters")  # its files hold images on their side; letters count from 1
    data = _mnist_family(name, "EMNIST", data_dir, files, classes, most, first, split=split)
    upright = [Split(np.ascontiguousarray(part.images.swapaxes(2, 3)), part.labels) for part in (data.train, data.test)]
    return replace(data, train=upright[0], test=upright[1])


def _mnist_family(
    name: str, kind: str, data_dir: Path, files: tuple[str, ...], classes: int, most: int, first: int = 0,
    **options: str,
) -> Dataset:  # fmt: skip
    """A data set of torchvision's MNIST family from its `files`, which torchvision fetches where they are absent.

    most     images there are of a split at most
    first    the label that the files call the first class by
    options  of torchvision's class
    """
    raw = data_dir / kind / "raw"
    if absent := [file for file in files if not (raw / file).is_file()]:
        try:
            from torchvision import datasets

            with clean(raw):
                getattr(datasets, kind)(root=str(data_dir), download=True, **options)
        except Exception as error:  # torchvision raises AssertionError, ValueError, URLError, RuntimeError, ...
            raise DataError(
                f"{name} is not in {raw} (missing: {', '.join(absent)}) and could not be downloaded ({told(error)}).",
                "put the four files there (--data-dir names the directory that holds "
                f"{kind}/raw), or work offline with --dataset digits",
            ) from error
    again = f"delete {raw} so that they are fetched again, or name another --data-dir"
    splits = []
    for images_file, labels_file in (files[:2], files[2:]):
        try:
            images, labels = read_idx(raw / images_file, 3), read_idx(raw / labels_file, 1).astype(np.int64) - first
        except (OSError, ValueError) as error:
            raise DataError(f"the {name} files in {raw} are truncated or damaged ({told(error)}).", again) from error
        if len(images) != len(labels):
            raise DataError(
                f"the {name} files in {raw} do not belong together: {len(images)} images, {len(labels)} labels.", again
            )
        if not 0 < len(images) <= most or images.shape[1:] != (28, 28):
            raise DataError(f"the files in {raw} are not {name}: images of shape {images.shape}.")
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"the {name} files in {raw} have labels from {labels.min() + first} to {labels.max() + first}, not "
                f"from {first} to {classes - 1 + first}.",
                again,
            )
        splits.append(Split(images[:, None], labels))
    return Dataset(name, splits[0], splits[1], classes)
