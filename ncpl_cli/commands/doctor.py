"""`ncpl doctor`: what is installed, where things lie, what is missing and the command for it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from typing import Annotated, Any

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import DataDir, Db, Json
from ncpl_cli.values import count

EXTRAS = {
    "postgres": ("psycopg", "stores that many machines share"),
    "ray": ("ray", "sweeps on a Ray cluster"),
    "serve": ("starlette", "ncpl serve, a page of the store while it trains"),
    "timm": ("timm", "features of timm's networks"),
    "hf": ("transformers", "features of transformers' networks, their Trainer"),
    "lightning": ("lightning", "measuring while Lightning trains"),
}
"""Extras of this package: the module that shows whether one is there, and what it is for."""

LIBRARIES = ("numpy", "pandas", "scipy", "sqlalchemy", "plotnine", "typer")

TRAINING = ("torch", "torchvision", "numba", "scikit-learn", "safetensors", "threadpoolctl")
"""What only training and measuring need: without it an installation reads stores."""


def doctor(
    torch_too: Annotated[bool, typer.Option("--device-check", help="Also load torch and ask it for devices.")] = False,
    db: Db = None,
    data_dir: DataDir = None,
    json_: Json = False,
) -> None:
    """What is there and what is missing: versions, device, store, data, extras, shell; with the command to run.

    Example: ncpl doctor
    """
    found = [*_installed(), *_device(torch_too), _store(db), *_data(data_dir), *_extras()]
    if json_:
        _common.print_json({"checks": [dict(zip(("what", "state", "do"), row, strict=True)) for row in found]})
        return
    _common.print_table(("what", "state", "to do"), found)


def _installed() -> list[tuple[str, str, str | None]]:
    from ncpl_cli import __version__

    rows: list[tuple[str, str, str | None]] = [
        ("ncpl", f"{__version__}, Python {platform.python_version()} on {platform.system()}", None)
    ]
    for name in (*TRAINING, *LIBRARIES):
        try:
            rows.append((name, importlib.metadata.version(name), None))
        except importlib.metadata.PackageNotFoundError:
            state = "missing: stores are read without it" if name in TRAINING else "missing"
            rows.append((name, state, f"pip install {name}"))
    return rows


def _device(asked: bool) -> list[tuple[str, str, str | None]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows: list[tuple[str, str, str | None]] = [("processor", f"{cores} cores", None)]
    if asked and importlib.util.find_spec("torch") is None:
        rows.append(("GPU", "unknown: torch is missing", "pip install torch"))
    elif asked:
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        rows.append(("GPU", ", ".join(gpus) or "none that torch sees", None))
    else:
        there = shutil.which("nvidia-smi") is not None
        rows.append(("GPU", "a driver is installed" if there else "no driver found", "ncpl doctor --device-check"))
    return rows


def _store(db: str | None) -> tuple[str, str, str | None]:
    from ncpl_cli.errors import NcplError
    from ncpl_cli.store import open_store, shown

    url = _common.store_url(db)
    try:
        with open_store(url, readonly=True) as store:
            info: dict[str, Any] = store.info()
    except NcplError as error:
        return "store", f"{shown(url)}: {error}", error.hint or "ncpl train permuted-digits makes one"
    runs = sum(info["runs"].values())
    bad = sum(n for status, n in info["runs"].items() if status in ("failed", "diverged"))
    text = f"{shown(url)}: {count(runs, 'run')}" + (f", {bad} of them failed or diverged" if bad else "")
    return "store", text, "ncpl runs list --status diverged" if bad else None


def _data(data_dir: str | None) -> list[tuple[str, str, str | None]]:
    from ncpl_cli.data import default_dir

    folder = _common.data_path(data_dir) or default_dir()
    known = {"MNIST": "mnist", "FashionMNIST": "fashion-mnist", "cifar-10-batches-py": "cifar10",
             "cifar-100-python": "cifar100", "EMNIST": "emnist"}  # fmt: skip
    here = [name for place, name in known.items() if (folder / place).is_dir()]
    missing = [name for name in known.values() if name not in here]
    return [
        ("data", f"{folder}: digits (bundled){''.join(f', {name}' for name in here)}",
         f"--data-dir DIR that has them, or the first use downloads: {', '.join(missing)}" if missing else None)
    ]  # fmt: skip


def _extras() -> list[tuple[str, str, str | None]]:
    rows: list[tuple[str, str, str | None]] = []
    for extra, (module, what) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        rows.append((extra, f"{'there' if there else 'not installed'}: {what}",
                     None if there else f"pip install 'ncpl[{extra}]'"))  # fmt: skip
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    rows.append(("terminal", "shows curves as bars" if utf8 else "has no bars for curves",
                 None if utf8 else "a UTF-8 locale"))  # fmt: skip
    return rows
