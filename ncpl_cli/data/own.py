"""Data sets of the user's own: `module:callable` returns arrays, and we make a Dataset of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ncpl_cli.callables import load_object
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.errors import DataError


def load_own(path: str) -> Dataset:
    """Call `module:callable`; it returns (train_images, train_labels, test_images, test_labels).

    Images are uint8, (N, height, width) or (N, channels, height, width); labels are integers from 0 on.
    """
    result = load_object(path)()
    if isinstance(result, Dataset):
        return result
    try:
        train_images, train_labels, test_images, test_labels = (np.asarray(part) for part in result)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}() must return (train_images, train_labels, test_images, test_labels): {error}."
        ) from error
    train, test = _split(path, train_images, train_labels), _split(path, test_images, test_labels)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(f"{path}() returns images of two sizes: {train.images.shape[1:]}, {test.images.shape[1:]}.")
    return Dataset(path, train, test, int(max(train.labels.max(), test.labels.max())) + 1)


def _split(path: str, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Split:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{path}() must return uint8 images, (N, H, W) or (N, C, H, W), not {images.dtype} {images.shape}."
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise DataError(f"{path}() must return one integer label from 0 on for each image.")
    return Split(np.ascontiguousarray(images if images.ndim == 4 else images[:, None]), labels.astype(np.int64))
