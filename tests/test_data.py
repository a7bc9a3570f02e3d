"""Data sets: content, splits, and one clear sentence for what is missing or damaged."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncpl_cli.data import Dataset, load
from ncpl_cli.data.sampling import stratified
from ncpl_cli.data.sets import RAW_FILES
from ncpl_cli.errors import DataError, InputError
from ncpl_cli.spec import DatasetSpec


def test_digits_are_split_as_the_interface_says(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    assert (len(digits.train), len(digits.test), digits.shape, digits.classes) == (1437, 360, (1, 8, 8), 10)
    whole = load_digits()
    both = np.concatenate([digits.train.images, digits.test.images]).reshape(-1, 64)
    assert sorted(map(bytes, both)) == sorted(map(bytes, whole.data.astype(np.uint8)))
    shares = np.bincount(digits.test.labels) / np.bincount(whole.target)
    assert np.all(abs(shares - 360 / 1797) < 1 / 170)
    assert digits.train.images.max() / digits.scale == 1.0


def test_the_digest_follows_content_not_name(digits: Dataset) -> None:
    again = load(DatasetSpec("digits"))
    assert again.digest == digits.digest
    assert load(DatasetSpec("digits", train_samples=100)).digest != digits.digest


def test_train_samples_are_class_balanced_and_validation_is_stratified(digits: Dataset) -> None:
    small = load(DatasetSpec("digits", train_samples=105))
    counts = np.bincount(small.train.labels)
    assert counts.sum() == 105 and set(counts) == {10, 11}
    held = load(DatasetSpec("digits", validation_fraction=0.2))
    assert held.validation is not None
    assert len(held.validation) == 287 and len(held.train) == 1150
    images = {bytes(i) for i in held.train.images} & {bytes(i) for i in held.validation.images}
    assert not images


@pytest.mark.parametrize("spec", [DatasetSpec("digits", train_samples=5), DatasetSpec("digits", train_samples=5000),
                                  DatasetSpec("digits", validation_fraction=1.5)])  # fmt: skip
def test_impossible_sizes_are_refused(spec: DatasetSpec) -> None:
    with pytest.raises(InputError, match="impossible"):
        load(spec)


def test_an_unknown_data_set_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="Did you mean 'mnist'") as caught:
        load(DatasetSpec("mnst"))
    assert "digits" in str(caught.value.hint) and "folder:PATH" in str(caught.value.hint)


def test_stratified_takes_what_was_asked_from_unbalanced_classes() -> None:
    labels = np.repeat([0, 1, 2], [3, 50, 47]).astype(np.int64)
    balanced = np.bincount(labels[stratified(labels, 43, "t", balanced=True)])
    assert balanced.tolist() == [3, 20, 20]
    assert np.bincount(labels[stratified(labels, 20, "t")]).sum() == 20


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder without a line per request."""

    def log_message(self, *_: object) -> None:
        pass


def _write_mnist(root: Path, train: int = 50, test: int = 20, kind: str = "MNIST") -> Path:
    raw = root / kind / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, count in zip(RAW_FILES, (train, train, test, test), strict=True):
        if "images" in name:
            data = struct.pack(">IIII", 0x803, count, 28, 28) + draw.bytes(count * 784)
        else:
            data = struct.pack(">II", 0x801, count) + bytes(i % 10 for i in range(count))
        (raw / name).write_bytes(data)
    return raw


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_original_files_are_read_as_torchvision_reads_them(tmp_path: Path, name: str, kind: str) -> None:
    from torchvision import datasets

    raw = _write_mnist(tmp_path, kind=kind)
    data = load(DatasetSpec(name), tmp_path)
    assert len(data.train) == 50 and len(data.test) == 20 and data.shape == (1, 28, 28)
    stored = (raw / RAW_FILES[0]).read_bytes()[16:]
    assert data.train.images.tobytes() == stored
    for train, split in ((True, data.train), (False, data.test)):
        theirs = getattr(datasets, kind)(root=str(tmp_path), train=train)
        assert np.array_equal(split.images[:, 0], theirs.data.numpy())
        assert np.array_equal(split.labels, theirs.targets.numpy()) and split.labels.dtype == np.int64


def test_files_that_are_there_are_read_without_torch(tmp_path: Path) -> None:
    _write_mnist(tmp_path)
    code = (
        "import sys; from pathlib import Path; from ncpl_cli.data import load; from ncpl_cli.spec import DatasetSpec\n"
        f"load(DatasetSpec('mnist'), Path({str(tmp_path)!r})); load(DatasetSpec('digits'))\n"
        "print(sorted({'torch', 'torchvision', 'sklearn', 'numba', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("number", "spoilt", "said"),
    [
        (0, lambda whole: whole[:10], "says nothing of its size"),
        (0, lambda _: b"", "does not begin as a file of bytes in 3 dimensions"),
        (0, lambda whole: b"\x1f\x8b" + whole[2:], "does not begin"),  # compressed still
        (0, lambda whole: whole[:2] + b"\x0d" + whole[3:], "does not begin"),  # floats
        (0, lambda whole: whole + b"\0", "says 50 x 28 x 28 and holds 39201 bytes"),
        (1, lambda whole: whole[:4] + struct.pack(">I", 49) + whole[8:-1], "50 images, 49 labels"),
        (1, lambda whole: whole[:-1] + b"\x0a", "labels from 0 to 10, not from 0 to 9"),
        (3, lambda whole: whole[:-3], "says 20 and holds 17 bytes"),
    ],
)
def test_a_damaged_file_is_one_sentence(
    tmp_path: Path, number: int, spoilt: Callable[[bytes], bytes], said: str
) -> None:
    file = _write_mnist(tmp_path) / RAW_FILES[number]
    file.write_bytes(spoilt(file.read_bytes()))
    with pytest.raises(DataError, match=said) as caught:
        load(DatasetSpec("mnist"), tmp_path)
    assert caught.value.hint and str(tmp_path) in caught.value.hint


def test_emnist_stands_upright_and_its_letters_count_from_one(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    lying = np.random.default_rng(0).integers(0, 256, (26, 28, 28), np.uint8)
    for part in ("train", "test"):
        images = struct.pack(">IIII", 0x803, 26, 28, 28) + lying.tobytes()
        (raw / f"emnist-letters-{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"emnist-letters-{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, 26) + bytes(range(1, 27))
        )
    data = load(DatasetSpec("emnist-letters"), tmp_path)
    assert np.array_equal(data.train.images[:, 0], lying.transpose(0, 2, 1))
    assert data.test.labels.tolist() == list(range(26))


def test_a_truncated_file_is_one_sentence(tmp_path: Path) -> None:
    raw = _write_mnist(tmp_path)
    images = raw / RAW_FILES[0]
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or damaged") as caught:
        load(DatasetSpec("mnist"), tmp_path)
    assert str(raw) in str(caught.value)


def test_an_absent_data_set_names_directory_files_and_the_offline_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    def refuse(self: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        load(DatasetSpec("mnist"), tmp_path)
    text = f"{caught.value} {caught.value.hint}"
    assert str(tmp_path / "MNIST" / "raw") in text and all(f in text for f in RAW_FILES) and "digits" in text


def test_what_torchvision_downloads_is_what_we_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real download code, fed from local files instead of the network."""
    from torchvision import datasets

    source = _write_mnist(tmp_path / "source")
    archives = tmp_path / "archives"
    archives.mkdir()
    for name in RAW_FILES:
        (archives / f"{name}.gz").write_bytes(gzip.compress((source / name).read_bytes()))
    monkeypatch.setattr(datasets.MNIST, "resources", [(f"{name}.gz", None) for name in RAW_FILES])
    handler = partial(QuietHandler, directory=str(archives))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        data = load(DatasetSpec("mnist"), tmp_path / "target")
        server.shutdown()
    assert len(data.train) == 50
    assert data.train.images.tobytes() == (source / RAW_FILES[0]).read_bytes()[16:]


def _folder(root: Path, sizes: tuple[int, ...] = (10, 10), mode: str = "L") -> Path:
    draw = np.random.default_rng(1)
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i, size in enumerate(sizes * 5):
            shape = (size, size) if mode == "L" else (size, size, 3)
            pixels = draw.integers(0, 128, shape).astype(np.uint8) + 100 * number
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02d}.png")
    return root


def test_folders_are_split_and_brought_to_one_size(tmp_path: Path) -> None:
    data = load(DatasetSpec(f"folder:{_folder(tmp_path / 'a', (8, 8, 12))}"))
    assert data.shape == (1, 8, 8) and data.classes == 2
    assert (len(data.train), len(data.test)) == (24, 6)
    assert np.bincount(data.test.labels).tolist() == [3, 3]
    assert load(DatasetSpec(f"folder:{tmp_path / 'a'}", image_size=5)).shape == (1, 5, 5)
    colour = load(DatasetSpec(f"folder:{_folder(tmp_path / 'b', mode='RGB')}"))
    assert colour.shape == (3, 10, 10)


def test_train_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
    _folder(tmp_path / "train")
    _folder(tmp_path / "test", (10,))
    data = load(DatasetSpec(f"folder:{tmp_path}"))
    assert (len(data.train), len(data.test)) == (20, 10)


def test_the_first_images_of_a_folder_stand_for_all_of_them(tmp_path: Path) -> None:
    """Files come in order of class; what is measured on the first n samples must not see one class only."""
    name = f"folder:{_folder(tmp_path / 'a', (30,))}"
    data = load(DatasetSpec(name))
    assert set(data.train.labels[:12]) == set(data.test.labels[:8]) == {0, 1}
    assert data.digest == load(DatasetSpec(name)).digest


def test_folders_without_images_or_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load(DatasetSpec(f"folder:{tmp_path / 'none'}"))
    with pytest.raises(DataError, match="at least two classes"):
        load(DatasetSpec(f"folder:{tmp_path}"))
    _folder(tmp_path / "x")
    (tmp_path / "x" / "cat" / "00.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"00\.png is not a readable image"):
        load(DatasetSpec(f"folder:{tmp_path / 'x'}"))


def test_a_callable_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_ncpl.py").write_text(
        "import numpy as np\n"
        "def blobs():\n"
        "    x = np.arange(40 * 9, dtype=np.uint8).reshape(40, 3, 3)\n"
        "    return x, np.arange(40) % 4, x[:8], np.arange(8) % 4\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = load(DatasetSpec("mine_for_ncpl:blobs"))
    assert data.shape == (1, 3, 3) and data.classes == 4
    with pytest.raises(InputError, match="cannot be imported"):
        load(DatasetSpec("mine_for_ncpl:absent"))


@pytest.mark.realdata
def test_real_mnist_reads(mnist_dir: Path) -> None:
    data = load(DatasetSpec("mnist"), mnist_dir)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert abs((data.train.images > 0).mean() - 0.191) < 0.001
