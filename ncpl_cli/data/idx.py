"""Files of the IDX format, in which the MNIST family comes: a header that says type and shape, then the numbers.

Two zero bytes, a byte for the type (8: uint8), a byte for the number of dimensions, each dimension as four bytes with
the highest first (yann.lecun.com/exdb/mnist). torchvision reads them too, but to import it takes longer than a short
command.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UINT8 = 8


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The bytes of a file of so many dimensions; raises ValueError saying what is wrong with it, OSError."""
    with path.open("rb") as file:
        header = np.frombuffer(file.read(4 + 4 * dimensions), np.uint8)
        values = np.fromfile(file, np.uint8)
    if header[:4].tolist() != [0, 0, UINT8, dimensions]:
        raise ValueError(f"{path.name} does not begin as a file of bytes in {dimensions} dimensions does")
    shape = header[4:].copy().view(">u4").tolist() if len(header) == 4 + 4 * dimensions else []
    if not shape or len(values) != math.prod(shape):
        says = " x ".join(map(str, shape)) or "nothing of its size"
        raise ValueError(f"{path.name} says {says} and holds {len(values)} bytes")
    return values.reshape(shape)
