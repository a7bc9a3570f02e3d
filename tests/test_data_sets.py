"""EMNIST, CIFAR-100 and the turned MNIST, from small files of the real formats."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from ncpl_cli.data import DATASETS, Dataset, load
from ncpl_cli.data.cifar import CIFAR100
from ncpl_cli.data.dataset import Split
from ncpl_cli.data.sets import RAW_FILES
from ncpl_cli.data.turned import BLOCK, TurnedSplit, turned
from ncpl_cli.errors import DataError
from ncpl_cli.main import call
from ncpl_cli.spec import DatasetSpec

DRAW = np.random.default_rng(11)


def _idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def _mnist(root: Path, train: int = 60, test: int = 30) -> tuple[np.ndarray, np.ndarray]:
    images = DRAW.integers(0, 256, (train + test, 28, 28))
    labels = DRAW.permutation(np.arange(train + test) % 10)
    for name, part in zip(RAW_FILES, (images[:train], labels[:train], images[train:], labels[train:]), strict=True):
        _idx(root / "MNIST" / "raw" / name, part)
    return images.astype(np.uint8), labels


@pytest.mark.parametrize(
    ("name", "split", "classes", "first"), [("emnist", "balanced", 47, 0), ("emnist-letters", "letters", 26, 1)]
)
def test_emnist_is_upright_and_counted_from_0(tmp_path: Path, name: str, split: str, classes: int, first: int) -> None:
    images = {part: DRAW.integers(0, 256, (classes * 2, 28, 28)) for part in ("train", "test")}
    labels = np.arange(classes * 2) % classes + first
    for part in ("train", "test"):
        _idx(tmp_path / "EMNIST" / "raw" / f"emnist-{split}-{part}-images-idx3-ubyte", images[part])
        _idx(tmp_path / "EMNIST" / "raw" / f"emnist-{split}-{part}-labels-idx1-ubyte", labels)
    data = load(DatasetSpec(name), tmp_path)
    assert data.classes == classes and data.shape == (1, 28, 28)
    assert np.array_equal(data.test.images[3, 0], images["test"][3].T)
    assert data.train.labels.tolist() == (labels - first).tolist() and data.train.labels.max() == classes - 1
    (tmp_path / "EMNIST" / "raw" / f"emnist-{split}-test-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(DataError, match="damaged"):
        load(DatasetSpec(name), tmp_path)


def test_cifar100_has_classes_and_super_classes(tmp_path: Path) -> None:
    folder = tmp_path / CIFAR100.folder
    folder.mkdir()
    rows = {name: DRAW.integers(0, 256, (200, 2 + 3072), dtype=np.uint8) for name in ("train.bin", "test.bin")}
    for name, values in rows.items():
        values[:, 1] = np.arange(200) % 100
        values[:, 0] = values[:, 1] // 5
        values.tofile(folder / name)
    data, coarse = (load(DatasetSpec(name), tmp_path) for name in ("cifar100", "cifar100-super"))
    assert (data.classes, coarse.classes, data.shape) == (100, 20, (3, 32, 32))
    assert data.train.labels.tolist() == rows["train.bin"][:, 1].tolist()
    assert data.train.further["super"].tolist() == coarse.train.labels.tolist() == rows["train.bin"][:, 0].tolist()
    assert data.test.images[5, 2, 7, 3] == rows["test.bin"][5, 2 + 2 * 1024 + 7 * 32 + 3]
    assert data.digest != coarse.digest
    some = load(DatasetSpec("cifar100", train_samples=100), tmp_path).train
    assert np.array_equal(some.further["super"], some.labels // 5)
    rows["train.bin"][7, 1] = 100
    rows["train.bin"].tofile(folder / "train.bin")
    with pytest.raises(DataError, match=r"train\.bin is truncated or not a file of the binary version"):
        load(DatasetSpec("cifar100"), tmp_path)


def test_mnist_turned_has_44_classes_of_the_right_orientations(tmp_path: Path) -> None:
    """Against loops over digits, mirrors and quarter turns."""
    images, labels = _mnist(tmp_path)
    data = load(DatasetSpec("mnist44"), tmp_path)
    assert data.classes == 44 and data.shape == (1, 28, 28)
    expected: dict[bytes, int] = {}
    number = 0
    for digit in (2, 4, 5, 6, 7, 3):
        for mirrored in (False, True) if digit != 3 else (False,):
            for turns in range(4):
                for image in images[:60][labels[:60] == digit]:
                    made = np.rot90(np.fliplr(image) if mirrored else image, turns)
                    expected[made.tobytes()] = number
                number += 1
    assert number == 44
    found = {
        image.tobytes(): int(label) for image, label in zip(data.train.images[:, 0], data.train.labels, strict=True)
    }
    assert found == expected and len(data.train) == len(expected)
    counts = np.bincount(labels[60:], minlength=10)
    assert np.bincount(data.test.labels, minlength=44).tolist() == [
        *np.repeat(counts[[2, 4, 5, 6, 7]], 8),
        *[counts[3]] * 4,
    ]


def test_turned_images_are_made_only_when_they_are_looked_at(tmp_path: Path) -> None:
    _mnist(tmp_path)
    spec = DatasetSpec("mnist44", train_samples=88)
    data = load(spec, tmp_path)
    assert isinstance(data.train, TurnedSplit) and "images" not in vars(data.train)
    assert data.digest == load(spec, tmp_path).digest and data.channel_statistics[0].shape == (1,)
    assert "images" not in vars(data.train) and data.train.base is data.train.take(np.arange(3)).base  # type: ignore[attr-defined]
    assert data.train.images.shape == (88, 1, 28, 28) and "images" in vars(data.train)
    assert np.array_equal(data.train.take(np.array([5, 2])).images, data.train.images[[5, 2]])


def test_a_lazy_split_has_the_digest_and_statistics_of_its_images() -> None:
    """More than a block of them: cut anywhere, the content is the same."""
    base = Split(DRAW.integers(0, 256, (3000, 1, 4, 4), dtype=np.uint8), DRAW.integers(2, 8, 3000))
    lazy = turned(Dataset("mnist", base, base, 10))
    made = Split(lazy.train.images.copy(), lazy.train.labels)
    assert len(made) > BLOCK
    plain = Dataset("other", made, made, 44)
    lazy = turned(Dataset("mnist", base, base, 10))
    assert plain.digest == lazy.digest
    for ours, theirs in zip(lazy.channel_statistics, plain.channel_statistics, strict=True):
        assert np.array_equal(ours, theirs)
    assert np.allclose(plain.channel_statistics[0], (made.images / 255).mean(), rtol=1e-12)


def test_every_data_set_is_in_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"mnist44", "emnist", "cifar100"} <= set(DATASETS)
    assert call(["catalog"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in DATASETS)


def test_a_network_learns_the_turned_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _mnist(tmp_path)
    places = ["--data-dir", str(tmp_path), "--db", str(tmp_path / "a.db")]
    training = ["--tasks", "1", "--epochs", "40", "--batch-size", "44", "--lr", "0.1", "--train-samples", "88"]
    assert call(["train", "permuted-mnist", "--dataset", "mnist44", *training, *places]) == 0
    assert float(capsys.readouterr().out.splitlines()[1].split("\t")[6]) > 0.2  # chance is 0.02
