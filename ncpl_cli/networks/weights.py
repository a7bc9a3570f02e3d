"""Weights from files, whatever wrapped the network when they were saved: safetensors only, nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ncpl_cli import sealed
from ncpl_cli.errors import DataError, InputError, told
from ncpl_cli.networks.own import OwnNetwork

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
"""Suffixes of files that run code when they are read."""


def read_weights(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a network by name, and the run that the file is a checkpoint of, if it is one of ours."""
    there(path)
    try:
        with safe_open(path, framework="pt") as file:
            ours = (file.metadata() or {}).get("ncpl")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = sealed.facts_of(path.read_bytes()) if ours is not None else {}
    except sealed.Refused as why:
        raise DataError(f"the checkpoint {path} is {why}.", "measure another one, or the run: --run ID") from why
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} is damaged or no safetensors file ({told(error)}).",
            'safetensors.torch.save_file(model.state_dict(), "model.safetensors") writes one',
        ) from error
    if ours is None:
        return tensors, None
    prefix = "network."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, facts.get("run")


def there(path: Path) -> None:
    """Raise InputError where there is no such file, or it is a pickle."""
    if not path.is_file():
        raise InputError(f"there is no file {path}.", "ncpl measure FILE.npz, FILE.safetensors or --run ID")
    if path.suffix in PICKLES:
        raise InputError(
            f"{path} is a pickle, which runs code when it is read: ncpl reads none.",
            'safetensors.torch.save_file(model.state_dict(), "model.safetensors") writes what it reads',
        )


def load(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, name: str) -> list[str]:
    """Put a file's tensors into a network, whatever wrapped it when they were saved; gives what is worth a note.

    Wrappers anywhere in a name, a common prefix (`model.`) and, of a network of the user's own, the lack of our `body.`
    do not matter; what lies outside the prefix is left out.
    """
    wanted, ours = network.state_dict(), "body." if isinstance(network, OwnNetwork) else ""
    names = {key.removeprefix(ours): key for key in wanted}  # in the file: in the network
    optional = {n for n, key in names.items() if key in ("mean", "std") or key.endswith("num_batches_tracked")}
    needed = [n for n in names if n not in optional]
    given = _unwrapped(tensors, wanted, path)
    ends = {key.removesuffix(n) for key in given for n in needed[:1] if key == n or key.endswith(f".{n}")}
    whole = sorted(prefix for prefix in ends if all(prefix + n in given for n in needed))
    if len(whole) > 1:
        raise InputError(
            f"{path} holds the tensors of {name} {len(whole)} times: "
            f"below {', '.join(one or 'no prefix' for one in whole)}.",
            "save the state dict of one of them",
        )
    prefix = whole[0] if whole else ""
    held = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    before = prefix.removesuffix(ours)  # where a network of the user's own has mean and std
    held |= {key: given[before + key] for key in ("mean", "std") if key in names and before + key in given}
    lacking, unknown = [n for n in needed if n not in held], [n for n in held if n not in names]
    if lacking or unknown:
        parts = [
            f"{word} {_some(keys)}" for word, keys in (("lacks", lacking), ("has in their place", unknown)) if keys
        ]
        raise InputError(
            f"{path} does not hold the tensors of {name}: it {' and '.join(parts)}.",
            f"{name} has: {', '.join(f'{n} {tuple(wanted[names[n]].shape)}' for n in needed)}",
        )
    for key, value in held.items():
        if value.shape != wanted[names[key]].shape:
            raise InputError(
                f"{key} of {path} is {tuple(value.shape)}, and here it must be {tuple(wanted[names[key]].shape)}.",
                "--network, --width, --depth, --norm and --dataset must be those it was trained with",
            )
    network.load_state_dict({**wanted, **{names[key]: value for key, value in held.items()}})
    outside = [key for key in given if not key.startswith(prefix) and key not in {before + "mean", before + "std"}]
    return [f"tensors outside {prefix} are left out: {_some(outside)}."] if outside else []


WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What stands in a tensor's name for DataParallel, averaging, torch.compile and FSDP, anywhere in it."""

COUNTERS = ("n_averaged",)
"""Tensors of wrappers that are no part of a network."""


def _unwrapped(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A file's tensors by name without what wrappers have put in between."""
    wrappers = WRAPPERS - {part for key in wanted for part in key.split(".")}
    given: dict[str, Tensor] = {}
    for key, value in tensors.items():
        bare = ".".join(part for part in key.split(".") if part not in wrappers)
        if bare in given:
            raise InputError(f"{path} holds {bare} twice, as {key} too.", "save the state dict of one network")
        if bare.rpartition(".")[2] not in COUNTERS:
            given[bare] = value
    return given


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
