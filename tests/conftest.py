"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ncpl_cli.data import Dataset, load
from ncpl_cli.spec import DatasetSpec

torch.set_num_threads(1)  # on small matrices a second thread costs more than it brings
os.environ.update(NO_COLOR="1", TERM="dumb", COLUMNS="120")
for name in ("NCPL_DB", "NCPL_DATA_DIR", "NCPL_DEVICE", "NCPL_QUIET", "NCPL_DEBUG"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The bundled digits."""
    return load(DatasetSpec("digits"))


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """A directory with the real MNIST files, where there is one."""
    folder = Path(os.environ.get("NCPL_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip("real MNIST is not here (NCPL_TEST_DATA names its directory)")
    return folder
