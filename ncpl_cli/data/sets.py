"""Data sets by name: scikit-learn's bundled digits, and MNIST and Fashion-MNIST through torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.sampling import stratified, without
from ncpl_cli.errors import DataError

RAW_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def load_digits(_: Path) -> Dataset:
    """1 797 images of 8x8, values 0 to 16, split 1 437 / 360, stratified and fixed; nothing to download."""
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    images = bunch.images.astype(np.uint8)[:, None]  # N x 1 x 8 x 8
    labels = bunch.target.astype(np.int64)
    test = stratified(labels, 360, "digits split")
    whole = Split(images, labels)
    return Dataset("digits", whole.take(without(len(labels), test)), whole.take(test), 10, scale=16.0)


def load_mnist(data_dir: Path) -> Dataset:
    """60 000 + 10 000 images of 28x28; downloaded when absent."""
    return _torchvision("mnist", "MNIST", data_dir)


def load_fashion_mnist(data_dir: Path) -> Dataset:
    """60 000 + 10 000 images of 28x28; downloaded when absent."""
    return _torchvision("fashion-mnist", "FashionMNIST", data_dir)


def _torchvision(name: str, kind: str, data_dir: Path) -> Dataset:
    raw = data_dir / kind / "raw"
    absent = [file for file in RAW_FILES if not (raw / file).is_file()]
    from torchvision import datasets

    loader = getattr(datasets, kind)
    splits = []
    for train in (True, False):
        try:
            loaded = loader(root=str(data_dir), train=train, download=bool(absent))
            images, labels = loaded.data.numpy(), loaded.targets.numpy().astype(np.int64)
        except Exception as error:  # torchvision raises AssertionError, ValueError, URLError, RuntimeError, ...
            if absent:
                raise DataError(
                    f"{name} is not in {raw} (missing: {', '.join(absent)}) and could not be downloaded ({error}).",
                    "put the four files there (--data-dir names the directory that holds "
                    f"{kind}/raw), or work offline with --dataset digits",
                ) from error
            raise DataError(
                f"the {name} files in {raw} are truncated or damaged ({error or type(error).__name__}).",
                f"delete {raw} so that they are fetched again, or name another --data-dir",
            ) from error
        expected = 60_000 if train else 10_000
        if len(images) != len(labels):
            raise DataError(
                f"the {name} files in {raw} do not belong together: {len(images)} images, {len(labels)} labels.",
                f"delete {raw} so that they are fetched again, or name another --data-dir",
            )
        if len(images) > expected or images.shape[1:] != (28, 28):
            raise DataError(f"the files in {raw} are not {name}: images of shape {images.shape}.")
        splits.append(Split(np.ascontiguousarray(images[:, None]), labels))
    return Dataset(name, splits[0], splits[1], 10)
