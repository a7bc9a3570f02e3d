"""Data sets of the user's own: `module:callable` returns arrays, and we make a Dataset of them.

What can only be meant in one way is taken so, and said; what could be meant in two is refused, with what to write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.callables import call, load_object
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.errors import InputError

Array = np.ndarray[Any, Any]

WANTED = "it returns (train_images, train_labels, test_images, test_labels)"

CHANNELS = (1, 2, 3, 4)
"""What a number of channels is: grey, colour, each with or without an alpha."""

FAR = 10.0
"""Floats beyond this are said to be taken as they are: no network of ours begins with a scale of its own."""


def load_own(path: str) -> Dataset:
    """Call `module:callable`; it returns (train_images, train_labels, test_images, test_labels), or a Dataset.

    images  (N, H, W), (N, C, H, W) or (N, H, W, C) as bytes 0 to 255, whole numbers in that range or floats, which are
            taken as they are; a table (N, d) becomes (N, d, 1, 1): each column a channel of one pixel
    labels  (N,), (N, 1) or one-hot (N, K): whole numbers or words; numbers without gap from 0 on are taken as they are
    """
    return made(path, call(path, load_object(path)))


def made(path: str, result: Any) -> Dataset:
    """The data set of what a function of the user's own, named `path`, has returned."""
    if isinstance(result, Dataset):
        return result
    if not isinstance(result, tuple | list) or len(result) != 4:
        what = f"{len(result)} things" if isinstance(result, tuple | list) else f"a {type(result).__name__}"
        raise InputError(f"{path}() returns {what}, not four arrays.", WANTED)
    names = ("train_images", "train_labels", "test_images", "test_labels")
    parts = {name: _array(path, name, part) for name, part in zip(names, result, strict=True)}
    notes: list[str] = []
    images, scale = _images(path, parts["train_images"], parts["test_images"], notes)
    labels, classes = _labels(path, parts["train_labels"], parts["test_labels"], notes)
    for split, of_split, known in zip(("train", "test"), images, labels, strict=True):
        if len(of_split) != len(known) or not len(known):
            raise InputError(f"{path}() returns {len(of_split)} {split} images and {len(known)} {split} labels.")
    train, test = (Split(*pair) for pair in zip(images, labels, strict=True))
    return Dataset(path, train, test, classes, scale=scale, notes=tuple(notes))


def _array(path: str, name: str, part: Any) -> Array:
    """An array of numbers or words of whatever the user returned (lists, tensors, frames)."""
    if isinstance(part, np.ma.MaskedArray):
        raise InputError(f"{path}(): {name} is a masked array.", "fill or drop what is masked: array.filled(0)")
    try:
        found = np.asarray(part)
    except Exception as error:  # a tensor on a GPU or with gradients, rows of different lengths, ...
        raise InputError(
            f"{path}(): {name} is no array: {error}.", f"a tensor: {name}.detach().cpu().numpy(); {WANTED}"
        ) from error
    if found.dtype == object and all(isinstance(one, str) for one in found.flat):
        found = found.astype(str)
    if found.dtype.kind not in "biufUS":
        raise InputError(
            f"{path}(): {name} is an array of {found.dtype}, shape {found.shape}.", f"np.stack({name}).astype(np.uint8)"
        )
    return found


# images ------------------------------------------------------------------------------------------------------------


def _images(path: str, train: Array, test: Array, notes: list[str]) -> tuple[list[Array], float]:
    """Both splits as (N, C, H, W) of one type, and their scale."""
    both = [train, test]
    if train.ndim != test.ndim or train.ndim not in (2, 3, 4) or train.dtype.kind not in "biuf":
        raise InputError(
            f"{path}() returns images {train.dtype} {train.shape} and {test.dtype} {test.shape}.",
            "images are (N, H, W), (N, C, H, W) or (N, H, W, C), tables (N, d)",
        )
    if train.ndim == 4 and train.shape[3] in CHANNELS and train.shape[1] not in CHANNELS:
        notes.append(f"images {train.shape} are taken as (N, H, W, C): {train.shape[3]} channels.")
        both = [images.transpose(0, 3, 1, 2) for images in both]
    elif train.ndim == 4 and train.shape[1] == train.shape[2] != train.shape[3]:
        _, first, height, width = train.shape
        notes.append(
            f"images {train.shape} are taken as (N, C, H, W): {first} channels of {height} x {width}; if they are "
            "(N, H, W, C), return images.transpose(0, 3, 1, 2)."
        )
    elif train.ndim == 3:
        both = [images[:, None] for images in both]
    elif train.ndim == 2:
        both = [images[:, :, None, None] for images in both]
    if both[0].shape[1:] != both[1].shape[1:]:
        raise InputError(f"{path}() returns images of two sizes: {train.shape[1:]}, {test.shape[1:]}.")
    if not both[0].size:
        raise InputError(f"{path}() returns no images: {train.shape}.", WANTED)
    table = train.ndim == 2
    if all(images.dtype == bool for images in both):
        return [np.ascontiguousarray(images, np.uint8) for images in both], 1.0
    if all(images.dtype == np.uint8 for images in both) and not table:
        return [np.ascontiguousarray(images) for images in both], 255.0
    low, high = (float(f([f(images) for images in both])) for f in (np.min, np.max))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{path}() returns values that are nan or infinite.", "np.nan_to_num, or drop those samples")
    whole = all(np.issubdtype(images.dtype, np.integer) or bool((images == np.rint(images)).all()) for images in both)
    counted = all(np.issubdtype(images.dtype, np.integer) for images in both)
    if not table and whole and low >= 0 and (counted or high > 127) and high <= 255:
        notes.append(f"images of {train.dtype} from {low:g} to {high:g} are taken as bytes: 255 is white.")
        return [np.ascontiguousarray(images.astype(np.uint8)) for images in both], 255.0
    if not table and any(np.issubdtype(images.dtype, np.integer) for images in both):
        most = "65535" if 255 < high <= 65535 and low >= 0 else f"{high:g}"
        raise InputError(
            f"{path}() returns images of {train.dtype} from {low:g} to {high:g}: whole numbers are bytes, 0 to 255.",
            f"scale them to [0, 1] yourself: images.astype(np.float32) / {most}",
        )
    if max(-low, high) > FAR:
        notes.append(f"values from {low:g} to {high:g} are taken as they are: standardise them if that is too far.")
    return [np.ascontiguousarray(images, np.float32) for images in both], 1.0


# labels ------------------------------------------------------------------------------------------------------------


def _labels(path: str, train: Array, test: Array, notes: list[str]) -> tuple[list[NDArray[np.int64]], int]:
    """Both splits' labels counted from 0, and how many classes there are."""
    both = [_flat(path, labels, notes) for labels in (train, test)]
    widths = {labels.shape[1] for labels in (train, test) if labels.ndim == 2 and labels.shape[1] > 1}
    if len(widths) == 2 or (widths and train.ndim != test.ndim):
        raise InputError(f"{path}() returns labels {train.shape} and {test.shape}.", WANTED)
    if widths:
        return [labels.astype(np.int64) for labels in both], widths.pop()
    names = np.unique(np.concatenate(both))
    if len(names) < 2:
        raise InputError(f"{path}() returns labels of one class ({names[0]}).", "at least two classes are needed")
    if names.dtype.kind in "US":
        notes.append(f"labels are words: {len(names)} classes in the order of the alphabet.")
    else:
        if len(names) > max(20, len(both[0]) // 2):
            raise InputError(
                f"{path}() returns {len(names)} different labels for {len(both[0])} training samples.",
                "these look like values of a regression, not classes: give the index of the class",
            )
        if names[0] < 0 and names.tolist() != [-1, 1]:
            raise InputError(
                f"{path}() returns labels below 0 ({names[0]}).",
                "drop the samples that are to be ignored: keep = labels >= 0; images[keep], labels[keep]",
            )
        if names.tolist() == list(range(len(names))):
            return [labels.astype(np.int64) for labels in both], len(names)
        if names.tolist() == list(range(1, len(names) + 1)):
            notes.append(f"labels 1 to {names[-1]} are counted from 0.")
        else:
            shown = ", ".join(map(str, names[:8])) + (" ..." if len(names) > 8 else "")
            notes.append(f"labels {shown} became the classes 0 to {len(names) - 1}, in this order.")
    return [np.searchsorted(names, labels).astype(np.int64) for labels in both], len(names)


def _flat(path: str, labels: Array, notes: list[str]) -> Array:
    """Labels (N,) as whole numbers or words."""
    if labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "iuf":
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
            raise InputError(
                f"{path}() returns labels {labels.shape} that are not one-hot.",
                "one class a sample: labels.argmax(1), if that is what is meant",
            )
        _once(notes, f"one-hot labels {labels.shape[1:]} became the index of the one.")
        return np.asarray(labels.argmax(1))
    if labels.ndim != 1:
        raise InputError(f"{path}() returns labels of shape {labels.shape}.", "one label an image: labels.reshape(-1)")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all() or (labels != np.rint(labels)).any():
            odd = labels[~(np.isfinite(labels) & (labels == np.rint(labels)))][0]
            raise InputError(
                f"{path}() returns labels of {labels.dtype} such as {odd:g}, which are no whole numbers.",
                "labels.astype(np.int64), if cutting them off is what is meant",
            )
        _once(notes, f"labels of {labels.dtype} are whole numbers, and taken so.")
        labels = labels.astype(np.int64)
    if labels.dtype.kind == "u":
        if labels.size and labels.max() > np.iinfo(np.int64).max:
            raise InputError(
                f"{path}() returns labels up to {labels.max()}.", "np.unique(labels, return_inverse=True)[1]"
            )
        labels = labels.astype(np.int64)
    return labels


def _once(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)
