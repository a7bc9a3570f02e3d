"""Data sets. The dictionary below is the registry: a new data set is one loader and one name here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ncpl_cli import plugins
from ncpl_cli.callables import call
from ncpl_cli.data.cifar import load_cifar10, load_cifar100, load_cifar100_super
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.folder import load_folder
from ncpl_cli.data.normalisation import published
from ncpl_cli.data.own import load_own, made
from ncpl_cli.data.sampling import hold_out, limit_train
from ncpl_cli.data.sets import (
    load_digits,
    load_emnist,
    load_emnist_letters,
    load_fashion_mnist,
    load_mnist,
    load_mnist44,
)
from ncpl_cli.errors import unknown
from ncpl_cli.spec import DatasetSpec

DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "mnist44": load_mnist44,
    "emnist": load_emnist,
    "emnist-letters": load_emnist_letters,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "cifar100-super": load_cifar100_super,
}


def load(spec: DatasetSpec, data_dir: Path | None = None) -> Dataset:
    """The data set a run names, cut to the asked size.

    Raises InputError for an unknown name, DataError when files are missing or malformed.
    """
    if spec.name.startswith("folder:"):
        data = load_folder(Path(spec.name.removeprefix("folder:")), spec.image_size).shuffled()
    elif spec.name in DATASETS:
        loader = DATASETS[spec.name]
        if plugins.origin("DATASETS", spec.name):
            data = made(spec.name, call(spec.name, loader, data_dir or default_dir())).shuffled()
        else:
            data = loader(data_dir or default_dir())
    elif ":" in spec.name:
        data = load_own(spec.name).shuffled()
    else:
        raise unknown("data set", spec.name, [*DATASETS, "folder:PATH", "module:callable"])
    if spec.normalisation != "own":
        data = published(data, spec.normalisation)
    if spec.train_samples is not None:
        data = limit_train(data, spec.train_samples)
    if spec.validation_fraction > 0:
        data = hold_out(data, spec.validation_fraction)
    return data


def default_dir() -> Path:
    """`NCPL_DATA_DIR`, else the user's cache directory."""
    if path := os.environ.get("NCPL_DATA_DIR"):
        return Path(path)
    import platformdirs

    return Path(platformdirs.user_cache_dir("ncpl"))


__all__ = ["DATASETS", "Dataset", "Split", "default_dir", "load"]
