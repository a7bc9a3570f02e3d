"""Image folders: one sub-folder per class, with `train/` and `test/` above them or a fixed 80/20 split."""

from __future__ import annotations

import collections
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.images import EXTENSIONS, read_images
from ncpl_cli.data.sampling import stratified, without
from ncpl_cli.data.shifts import INNER
from ncpl_cli.errors import DataError

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""What stands beside `train/`: the first of these that holds class folders."""

NO_CLASSES = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"}
"""What archives, file servers and file systems put beside people's folders."""


class Found(NamedTuple):
    """The images below a folder, the class of each, and the classes' names; `other`: files of another ending."""

    files: list[Path]
    labels: list[int]
    classes: list[str]
    other: collections.Counter[str]


class Listing(NamedTuple):
    """The images of a folder, the class of each, which of them are the test split, and what is to be said of that."""

    files: list[Path]
    labels: NDArray[np.int64]
    test: NDArray[np.int64]
    classes: int
    notes: list[str]


def load_folder(root: Path, image_size: int | None = None) -> Dataset:
    """Images below `root`, brought to one size (`image_size` pixels square, default the median of the sizes).

    A class is a folder with all that lies below it. Names that begin with a dot are nobody's. All-grey images have one
    channel, else three. Raises DataError naming what is missing or unreadable.
    """
    found = list_folder(root)
    images, scale, said = read_images(found.files, image_size)
    whole = Split(images, found.labels, _inner(found, root))
    return Dataset(
        f"folder:{root.name}", whole.take(without(len(found.files), found.test)), whole.take(found.test), found.classes,
        scale=scale, notes=(*found.notes, *said),
    )  # fmt: skip


def list_folder(root: Path) -> Listing:
    """The images below `root` and their classes, none of them read."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root}.", "--dataset folder:PATH wants one sub-folder per class")
    notes = []
    parts = {path.name.lower(): path for path in _folders(root)}
    tests = [name for name in TEST_FOLDERS if name in parts and _folders(parts[name])]
    split = "train" in parts and (bool(tests) or set(parts) <= {"train", *TEST_FOLDERS})
    train = _find(parts["train"] if split else root)
    if split and tests:
        test = _find(parts[tests[0]], trains=False)
        if extra := sorted(set(test.classes) - set(train.classes)):
            raise DataError(f"{parts[tests[0]]} has classes that {parts['train']} lacks: {', '.join(extra)}.")
        files = train.files + test.files
        labels = np.array(
            train.labels + [train.classes.index(test.classes[label]) for label in test.labels], dtype=np.int64
        )
        test_index = np.arange(len(train.files), len(files), dtype=np.int64)
        train.other.update(test.other)
        if tests != ["test"]:
            unused = f"; {', '.join(f'{name}/' for name in tests[1:])} is not used" if tests[1:] else ""
            notes.append(f"test images are those of {tests[0]}/{unused}.")
    else:
        files, labels = train.files, np.array(train.labels, dtype=np.int64)
        test_index = stratified(labels, round(0.2 * len(files)), "folder split")
        if split:
            notes.append("no folder beside train/ holds test images in class folders: a fixed fifth of train/ does.")
    if train.other:
        endings = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in sorted(train.other.items()))
        notes.append(f"files that are no images by their ending are left out: {endings}.")
    return Listing(files, labels, test_index, len(train.classes), notes)


def _is_ours(name: str) -> bool:
    """Whether a name is the user's, not that of a hidden file or of what a system has put there."""
    return not name.startswith(".") and name.lower() not in NO_CLASSES


def _folders(root: Path) -> list[Path]:
    """The folders in a folder, in the order of their names."""
    try:
        return sorted(path for path in root.iterdir() if _is_ours(path.name) and path.is_dir())
    except OSError as error:
        raise DataError(f"{root} cannot be read ({error.strerror}).") from error


def _find(root: Path, *, trains: bool = True) -> Found:
    """Every image below the class folders of `root`; a test split need not have every class."""
    folders = _folders(root)
    other: collections.Counter[str] = collections.Counter()
    found = [_below(folder, other) for folder in folders]
    files = [file for of_class in found for file in of_class]
    if (trains and len(folders) < 2) or not files:
        raise DataError(
            f"{root} holds {len(folders)} class folders and {len(files)} images; at least two classes with images are "
            "needed.",
            "--dataset folder:PATH wants one sub-folder per class, each with images",
        )
    if trains and (empty := [folder.name for folder, of_class in zip(folders, found, strict=True) if not of_class]):
        raise DataError(f"these class folders of {root} hold no images: {', '.join(empty)}.")
    labels = [label for label, of_class in enumerate(found) for _ in of_class]
    return Found(files, labels, [folder.name for folder in folders], other)


def _inner(found: Listing, root: Path) -> dict[str, NDArray[np.int64]]:
    """Where every image lies in a folder within its class folder, that one, numbered: what is a class where the outer
    folders are domains. Nothing where the images lie otherwise, or all in folders of one name."""
    depth = len(root.parts)
    inner = [file.parts[depth + 1] if len(file.parts) > depth + 2 else "" for file in found.files]
    pairs = {(file.parts[depth], label) for file, label in zip(found.files, found.labels.tolist(), strict=True)}
    known = sorted(set(inner))
    outer = {name for name, _ in pairs}
    if "" in known or len(known) < 2 or not len(outer) == len(pairs) == found.classes:
        return {}
    return {INNER: np.array([known.index(name) for name in inner], dtype=np.int64)}


def _below(folder: Path, other: collections.Counter[str]) -> list[Path]:
    """The images below a class folder, sorted; links are followed, but none that leads back."""
    files: list[Path] = []
    here = Path(os.path.realpath(folder))
    seen = set(here.parents)

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}).") from error

    for place, below, names in os.walk(folder, followlinks=True, onerror=fail):
        if (real := Path(os.path.realpath(place))) in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = filter(_is_ours, below)
        for name in filter(_is_ours, names):
            path = Path(place, name)
            if path.suffix.lower() in EXTENSIONS:
                files.append(path)
            else:
                other[path.suffix.lower()] += 1
    return sorted(files)
