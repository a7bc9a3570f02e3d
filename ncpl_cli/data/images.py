"""Image files of any kind as arrays of one size and one depth; what could not be kept as it was is said.

Files of 8 bits a channel become uint8. One file deeper than that makes all of them float32 in [0, 1]: 16-bit values
over 65 535, so that nothing is cut off and nothing rounded away.
"""

from __future__ import annotations

import collections
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.errors import DataError
from ncpl_cli.values import count

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
"""Modes of Pillow with one channel beside an alpha."""

SIXTEEN = {"I;16", "I;16B", "I;16L", "I;16N"}

RANGES = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}
"""What values of the 32-bit modes may end at: they have no range of their own, so the files' largest value says."""

ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}

ODD = {"CMYK", "YCbCr", "LAB", "HSV"}


def read_images(
    files: Sequence[Path], image_size: int | None = None
) -> tuple[NDArray[np.uint8] | NDArray[np.float32], float, list[str]]:
    """Images (N, channels, height, width), the scale that brings them to [0, 1], and notes on what was changed.

    image_size  side in pixels; default the median width and height of the files
    Channels are one where every file is grey, else three. Raises DataError naming the file that cannot be read.
    """
    sizes, modes = [], []
    seen: collections.Counter[str] = collections.Counter()
    for file in files:
        with _opened(file) as image:
            sizes.append(image.size)
            modes.append(image.mode)
            seen.update(_oddities(image))
    width, height = (image_size, image_size) if image_size else map(int, np.median(np.array(sizes), axis=0))
    channels = 1 if set(modes) <= GREY else 3
    deep = {mode for mode in modes if mode in SIXTEEN or mode in RANGES}
    shape = (len(files), channels, height, width)
    _check_memory(shape, 4 if deep else 1)
    notes = [f"{count(n, 'image')} {what}." for what, n in seen.items()]
    if not deep:
        images = np.empty(shape, np.uint8)
        for number, file in enumerate(files):
            with _opened(file) as image:
                images[number] = _eight_bits(image, (width, height), channels)
        return images, 255.0, notes
    floats = np.empty(shape, np.float32)
    largest: dict[str, float] = dict.fromkeys(deep, 0.0)
    for number, (file, mode) in enumerate(zip(files, modes, strict=True)):
        with _opened(file) as image:
            if mode in deep:
                values = np.asarray(image).astype(np.float32)
                if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
                    raise DataError(
                        f"{file} (mode {mode}) has values from {values.min():g} to {values.max():g}, not from 0 to "
                        "65535.",
                        "write it with 8 or 16 bits, or give the arrays themselves: --dataset module:callable",
                    )
                largest[mode] = max(largest[mode], float(values.max()))
                floats[number] = _resized(values, (width, height))
            else:
                floats[number] = _eight_bits(image, (width, height), channels) / np.float32(255)
    for mode in sorted(deep):
        scale = next(r for r in RANGES.get(mode, (65535.0,)) if largest[mode] <= r)
        rows = np.array([one == mode for one in modes])
        floats[rows] = np.clip(floats[rows] / np.float32(scale), 0, 1)
        notes.append(
            f"{count(int(rows.sum()), 'image', 'has', 'have')} more than 8 bits (mode {mode}, largest value "
            f"{largest[mode]:g}): 0 to {scale:g} became 0 to 1."
        )
    return floats, 1.0, notes


def rgb(file: Path) -> NDArray[np.uint8]:
    """One image in its own size, (3, height, width); grey ones three times. Raises DataError naming the file."""
    with _opened(file) as image:
        return _eight_bits(image, image.size, 3)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The file as an image of Pillow; whatever is wrong with it is one sentence with its name."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large, or with metadata that Pillow does not like
            with Image.open(file) as image:
                yield image
    except Image.DecompressionBombError as error:
        raise DataError(f"{file} is refused as too large: {error}", "make it smaller or take it away") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        TypeError,
        IndexError,
        KeyError,
        struct.error,
        MemoryError,
    ) as e:
        what = "empty" if not isinstance(e, FileNotFoundError) and _is_empty(file) else str(e) or type(e).__name__
        raise DataError(f"{file} is not a readable image ({what}).", "mend it or take it away") from e


def _is_empty(file: Path) -> bool:
    try:
        return file.stat().st_size == 0
    except OSError:
        return False


def _oddities(image: Image.Image) -> list[str]:
    """What of an image cannot be kept, in words."""
    found = []
    if image.mode in ALPHA or "transparency" in image.info:
        found.append("with transparency: it is left out, the colours below it count")
    if image.mode in ODD:
        found.append(f"in {image.mode}: converted to RGB without a colour profile")
    if getattr(image, "is_animated", False):
        found.append("with several frames or pages: only the first counts")
    if image.mode not in GREY and any("16" in str(tile[-1]) for tile in getattr(image, "tile", ())):
        found.append("in colour with 16 bits a channel: read as 8 bits")
    return found


def _eight_bits(image: Image.Image, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """Channels x height x width."""
    if "transparency" in image.info:
        image = image.convert("RGBA")
    pixels = image.convert("RGB")
    array = np.asarray(pixels if pixels.size == size else pixels.resize(size))
    return array.transpose(2, 0, 1)[:channels]


def _resized(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    if values.shape == (size[1], size[0]):
        return values
    from PIL import Image

    return np.asarray(Image.fromarray(values).resize(size))


def _check_memory(shape: tuple[int, int, int, int], size: int) -> None:
    import psutil

    needed: Any = size * np.prod(np.array(shape, dtype=np.float64))
    if needed > (free := psutil.virtual_memory().available):
        n, channels, height, width = shape
        raise DataError(
            f"{n} images of {channels} x {height} x {width} need {needed / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB "
            "are free.",
            "--image-size 64 brings them to 64 x 64",
        )
