"""Image folders as people have them: what systems leave in them, any depth of pixel, files that are none."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncpl_cli.data import Dataset
from ncpl_cli.data.folder import load_folder
from ncpl_cli.data.sparse import sparse
from ncpl_cli.errors import DataError
from ncpl_cli.main import call
from ncpl_cli.store import open_store

DRAW = np.random.default_rng(3)


def _images(root: Path, names: tuple[str, ...] = ("cat", "dog"), count: int = 10) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = DRAW.integers(0, 100, (8, 8)) + 100 * number
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02d}.png")
    return root


def _both(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Pixel values and labels of all samples."""
    images = np.concatenate([data.train.images, data.test.images]).astype(np.float64) / data.scale
    return images, np.concatenate([data.train.labels, data.test.labels])


def test_what_systems_leave_behind_is_neither_class_nor_image(tmp_path: Path) -> None:
    plain = load_folder(_images(tmp_path / "a"))
    messy = tmp_path / "a"
    for name in (".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (messy / name / "cat").mkdir(parents=True)
        (messy / name / "x.png").write_bytes(b"no image")
    (messy / "cat" / "@eaDir").mkdir()
    (messy / "cat" / "@eaDir" / "thumb.png").write_bytes(b"no image")
    (messy / "cat" / "._00.png").write_bytes(b"\0\5\x16\7")
    (messy / "cat" / ".DS_Store").write_bytes(b"x")
    again = load_folder(messy)
    assert (again.digest, again.classes, again.notes) == (plain.digest, 2, ())


def test_a_class_is_all_that_lies_below_its_folder(tmp_path: Path) -> None:
    _images(tmp_path / "deep" / "cat", ("tabby", "siam/young"))
    _images(tmp_path / "deep" / "dog", (".",), count=7)
    (tmp_path / "deep" / "cat" / "loop").symlink_to(tmp_path / "deep")
    (tmp_path / "deep" / "dog" / "list.txt").write_text("x")
    data = load_folder(tmp_path / "deep")
    assert np.bincount(_both(data)[1]).tolist() == [20, 7]
    assert data.notes == ("files that are no images by their ending are left out: 1 .txt.",)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Test", "VAL"])
def test_any_name_of_the_test_split_will_do(tmp_path: Path, name: str) -> None:
    _images(tmp_path / "train")
    _images(tmp_path / name, ("dog",), count=3)
    data = load_folder(tmp_path)
    assert (len(data.train), len(data.test)) == (20, 3) and set(data.test.labels) == {1}
    assert data.notes == (() if name.lower() == "test" else (f"test images are those of {name.lower()}/.",))


def test_of_two_test_splits_one_is_used_and_the_other_named(tmp_path: Path) -> None:
    _images(tmp_path / "train")
    _images(tmp_path / "val", count=2)
    (tmp_path / "test").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "test" / "unlabelled.png")
    assert load_folder(tmp_path).notes == ("test images are those of val/.",)
    _images(tmp_path / "test")
    data = load_folder(tmp_path)
    assert len(data.test) == 20 and data.notes == ("test images are those of test/; val/ is not used.",)


def test_a_train_folder_alone_is_split(tmp_path: Path) -> None:
    data = load_folder(_images(tmp_path / "train").parent)
    assert (len(data.train), len(data.test), data.classes) == (16, 4, 2) and "a fixed fifth of train/" in data.notes[0]


def test_classes_called_train_and_something_else_are_classes(tmp_path: Path) -> None:
    assert load_folder(_images(tmp_path, ("car", "train"))).classes == 2


DEPTHS = {
    "I;16.png": (lambda v: Image.fromarray(v.astype(np.uint16)), 65535),
    "I;16.tif": (lambda v: Image.fromarray(v.astype("<u2")), 65535),
    "I;16B.tif": (lambda v: Image.fromarray(v.astype(">u2")), 65535),
    "I.tif": (lambda v: Image.fromarray(v.astype(np.int32)), 65535),
    "I.pgm": (lambda v: Image.fromarray(v.astype(np.int32)), 65535),
    "F.tif": (lambda v: Image.fromarray((v / 65535).astype(np.float32)), 65535),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_deep_images_keep_every_value(tmp_path: Path, kind: str) -> None:
    """Converted to 8 bits by Pillow, all above 255 would be white."""
    make, most = DEPTHS[kind]
    values = DRAW.integers(0, most, (12, 6, 6))
    values[0, 0, 0] = most
    for i, one in enumerate(values):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        make(one).save(tmp_path / "ab"[i % 2] / f"{i:02d}.{kind.rpartition('.')[2]}")
    data = load_folder(tmp_path)
    images, labels = _both(data)
    expected = values / most
    for label in (0, 1):
        found = {image.tobytes() for image in images[labels == label].astype(np.float32)}
        assert found == {one[None].tobytes() for one in expected[label::2].astype(np.float32)}
    mean, std = data.channel_statistics
    train = data.train.images.astype(np.float64)
    assert np.allclose(mean, train.mean(), rtol=1e-12) and np.allclose(std, train.std(), rtol=1e-12)
    assert "12 images have more than 8 bits" in data.notes[0] and "0 to 1" in data.notes[0]


def test_deep_and_shallow_images_have_one_scale(tmp_path: Path) -> None:
    """One grey of a half in four depths, one of them in colour and of another size."""
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (6, 6), 51).save(tmp_path / name / "8.png")
        Image.new("RGB", (9, 9), (51, 51, 51)).save(tmp_path / name / "rgb.png")
        Image.fromarray(np.full((6, 6), 13107, np.uint16)).save(tmp_path / name / "16.png")
        Image.fromarray(np.full((9, 9), 0.2, np.float32)).save(tmp_path / name / "f.tif")
    data = load_folder(tmp_path, 6)
    images, _ = _both(data)
    assert data.shape == (3, 6, 6) and np.allclose(images, 0.2, atol=1e-6)


@pytest.mark.parametrize("bad", [-1.0, 70000.0, np.nan, np.inf])
def test_values_without_a_range_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    _images(tmp_path)
    pixels = np.full((8, 8), 0.5, np.float32)
    pixels[3, 3] = bad
    Image.fromarray(pixels).save(tmp_path / "cat" / "depth.tiff")
    with pytest.raises(DataError, match=r"depth\.tiff \(mode F\) has values from"):
        load_folder(tmp_path)


def test_palette_cmyk_and_transparency_are_read_and_said(tmp_path: Path) -> None:
    colour = (200, 100, 0)
    solid = Image.new("RGB", (6, 6), colour)
    for name in "ab":
        (tmp_path / name).mkdir()
        solid.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / name / "p.png")
        solid.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / name / "t.png", transparency=b"\x10\x20")
        Image.new("RGBA", (6, 6), (*colour, 128)).save(tmp_path / name / "rgba.png")
        Image.new("CMYK", (6, 6), (55, 155, 255, 0)).save(tmp_path / name / "cmyk.tif")
        solid.save(tmp_path / name / "two.gif", save_all=True, append_images=[Image.new("RGB", (6, 6))])
    data = load_folder(tmp_path)
    images, _ = _both(data)
    assert np.allclose(images * 255, np.array(colour)[:, None, None], atol=1)
    said = " ".join(data.notes)
    assert (
        "4 images with transparency" in said and "2 images in CMYK" in said and "2 images with several frames" in said
    )


def test_grey_with_transparency_stays_grey(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("LA", (5, 5), (40 + i, 9)).save(tmp_path / name / f"{i}.png")
    data = load_folder(tmp_path)
    assert data.shape == (1, 5, 5) and set(np.unique(_both(data)[0] * 255)) == {40, 41, 42}


def test_sixteen_bit_colour_is_said_to_lose_its_low_byte(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 0x1234, 0x8000, 0xFFFF) * 4 for _ in range(4))
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(_png(4, 4, 16, 2, zlib.compress(rows)))
    data = load_folder(tmp_path)
    assert _both(data)[0][0, :, 0, 0].tolist() == [0x12 / 255, 0x80 / 255, 1] and "16 bits a channel" in data.notes[0]


def _png(width: int, height: int, bits: int, colour: int, compressed: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


def _broken(kind: str, path: Path) -> None:
    good = Path(path.parent / "00.png").read_bytes()
    if kind == "bomb":
        path.write_bytes(_png(60000, 60000, 1, 0, zlib.compress(b"")))
    elif kind == "bomb in a text":
        text = b"zTXtk\0\0" + zlib.compress(bytes(70_000_000), 9)
        body = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        path.write_bytes(good[:33] + body + good[33:])
    elif kind == "truncated":
        path.write_bytes(good[: len(good) - 30])
    elif kind == "header only":
        path.write_bytes(good[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a folder":
        path.symlink_to("nowhere.png")
    elif kind == "text":
        path.write_text("<html>not found</html>")


@pytest.mark.parametrize(
    "kind", ["bomb", "bomb in a text", "truncated", "header only", "empty", "a folder", "text"],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_sentence_with_its_name(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _images(tmp_path)
    _broken(kind, tmp_path / "dog" / "broken.png")
    code = call(["train", "warm-start", "--dataset", f"folder:{tmp_path}", "--network", "mlp", "--db", "none.db"])
    said = capsys.readouterr().err
    assert code == 1 and said.startswith("error: ") and "dog/broken.png" in said and "unexpectedly" not in said


def test_a_folder_too_large_for_memory_says_how_large(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"20 images of 1 x \d+ x \d+ need .* GB") as caught:
        load_folder(_images(tmp_path), 1_000_000)
    assert "--image-size" in str(caught.value.hint)


def test_a_network_trains_on_deep_images(tmp_path: Path) -> None:
    """The engine of batches through the command line, the online one by the sparse rows that it reads."""
    for number, name in enumerate("ab"):
        (tmp_path / "i" / name).mkdir(parents=True)
        for i in range(20):
            pixels = DRAW.integers(0, 20000, (6, 6)) + 40000 * number
            Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "i" / name / f"{i}.png")
    name = f"folder:{tmp_path / 'i'}"
    options = ["--tasks", "2", "--epochs", "20", "--batch-size", "32", "--db", str(tmp_path / "s.db"), "--lr", "0.1"]
    assert call(["train", "permuted-mnist", "--dataset", name, *options]) == 0
    with open_store(tmp_path / "s.db") as store:
        assert store.frame()["online_accuracy"].max() == 1.0
    data = load_folder(tmp_path / "i")
    rows = sparse(data.train, data.scale, np.float32)
    assert np.array_equal(rows.values, data.train.images[data.train.images > 0])
