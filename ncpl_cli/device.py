"""Which device: `auto` picks, a named one that is not there is an error, never a silent fall-back."""

from __future__ import annotations

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
