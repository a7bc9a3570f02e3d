"""Image folders: one sub-folder per class, with `train/` and `test/` above them or a fixed 80/20 split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.sampling import stratified, without
from ncpl_cli.errors import DataError

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def load_folder(root: Path, image_size: int | None = None) -> Dataset:
    """Images below `root`, brought to one size (`image_size` pixels square, default the median of the sizes).

    All-grey images have one channel, else three. Raises DataError naming what is missing or unreadable.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}.", "--dataset folder:PATH wants one sub-folder per class")
    if (root / "train").is_dir() and (root / "test").is_dir():
        train, classes = _files(root / "train")
        test, test_classes = _files(root / "test")
        if not set(test_classes) <= set(classes):
            extra = ", ".join(sorted(set(test_classes) - set(classes)))
            raise DataError(f"{root / 'test'} has classes that {root / 'train'} lacks: {extra}.")
        files = train + test
        labels = np.array([classes.index(f.parent.name) for f in files], dtype=np.int64)
        test_index = np.arange(len(train), len(files), dtype=np.int64)
    else:
        files, classes = _files(root)
        labels = np.array([classes.index(f.parent.name) for f in files], dtype=np.int64)
        test_index = stratified(labels, round(0.2 * len(files)), "folder split")
    whole = Split(_read(files, image_size), labels)
    return Dataset(
        f"folder:{root.name}", whole.take(without(len(files), test_index)), whole.take(test_index), len(classes)
    )


def _files(root: Path) -> tuple[list[Path], list[str]]:
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    files = [file for name in classes for file in sorted((root / name).iterdir()) if file.suffix.lower() in EXTENSIONS]
    if len(classes) < 2 or not files:
        raise DataError(
            f"{root} holds {len(classes)} class folders and {len(files)} images; at least two classes with images are "
            "needed.",
            "--dataset folder:PATH wants one sub-folder per class, each with images",
        )
    empty = sorted(set(classes) - {file.parent.name for file in files})
    if empty:
        raise DataError(f"these class folders of {root} hold no images: {', '.join(empty)}.")
    return files, classes


def _read(files: list[Path], image_size: int | None) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    size: tuple[int, int] | None = (image_size, image_size) if image_size else None
    if size is None:
        shapes = []
        for file in files:
            try:
                with Image.open(file) as image:
                    shapes.append(image.size)
            except (UnidentifiedImageError, OSError) as error:
                raise DataError(f"{file} is not a readable image ({error}).") from error
        width, height = np.median(np.array(shapes), axis=0).astype(int)
        size = (int(width), int(height))
    images, grey = [], True
    for file in files:
        try:
            with Image.open(file) as image:
                grey = grey and image.mode in ("1", "L", "I", "I;16")
                pixels = image.convert("RGB")
                images.append(np.asarray(pixels if pixels.size == size else pixels.resize(size)))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise DataError(f"{file} is not a readable image ({error}).") from error
    array = np.stack(images).transpose(0, 3, 1, 2)  # N x 3 x height x width
    return np.ascontiguousarray(array[:, :1] if grey else array)
