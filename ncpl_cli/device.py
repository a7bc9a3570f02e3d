"""Which device: `auto` picks, a named one that is not there is an error, never a silent fall-back; and its switches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ncpl_cli.errors import InputError


def resolve(name: str) -> str:
    """`auto|cpu|cuda|cuda:N|mps` -> the device's name; raises InputError when it is not there. `cpu` loads no torch."""
    if name == "cpu":
        return name
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    present = ["cpu", *(f"cuda:{n}" for n in range(gpus)), *(["mps"] if mps else [])]
    if name == "auto":
        return "cuda:0" if gpus else "mps" if mps else "cpu"
    found = "cuda:0" if name == "cuda" and gpus else name
    if found not in present:
        raise InputError(f"there is no device {name!r} here.", f"present: {', '.join(present)}; or --device auto")
    return found


@contextlib.contextmanager
def arithmetic(device: str, precision: str) -> Iterator[None]:
    """The switches of CUDA as a precision means them, for as long as it lasts; they are torch's, of the whole process.

    Only deterministic convolutions, since what is resumed must end with the same bits: cuDNN's fastest weight
    gradients add up in the order in which blocks happen to finish. float32 means float32 unless TF32 was asked for.
    """
    if not device.startswith("cuda"):
        yield
        return
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()
    short = precision == "tf32"
    try:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, short
        torch.set_float32_matmul_precision("high" if short else "highest")
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before[:3]
        torch.set_float32_matmul_precision(before[3])
