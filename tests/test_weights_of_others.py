"""State dicts as wrappers write them: whatever stands before and between the names, and what is ambiguous."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ncpl_cli import networks
from ncpl_cli.main import call

OPTIONS = ("--network", "mlp", "--width", "12", "--depth", "2", "--dataset", "digits", "--metrics", "nc1", "--json")
Ask = Callable[..., tuple[int, float, str]]


def state() -> dict[str, Tensor]:
    return {k: v.clone() for k, v in networks.build("mlp", (1, 8, 8), 10, 0, width=12, depth=2).state_dict().items()}


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def measured(tensors: dict[str, Tensor], *options: str) -> tuple[int, float, str]:
        save_file(tensors, "m.safetensors")
        code = call(["measure", "m.safetensors", *(options or OPTIONS)])
        out, err = capsys.readouterr()
        return code, json.loads(out)["layers"]["last"]["train"]["nc1"] if code == 0 else 0.0, err

    return measured


PREFIXES = (
    "module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod.", "model._orig_mod.",
    "net.model.module.", "a.b.c.",
)  # fmt: skip


def test_any_prefix_and_wrappers_in_between(ask: Ask) -> None:
    plain = state()
    right = ask(plain)[1]
    for prefix in PREFIXES:
        assert ask({prefix + k: v for k, v in plain.items()})[:2] == (0, right), prefix
    for middle in ("module", "_orig_mod", "_fsdp_wrapped_module"):  # a part of the network wrapped by itself
        between = {k.replace("hidden.1.", f"hidden.1.{middle}."): v for k, v in plain.items()}
        assert ask(between)[:2] == (0, right), middle
        assert ask({f"model.{k}": v for k, v in between.items()})[:2] == (0, right), middle
    averaged = {f"module.{k}": v for k, v in plain.items()} | {"n_averaged": torch.tensor(3)}
    assert ask(averaged) == (0, right, "")
    code, value, said = ask({f"model.{k}": v for k, v in plain.items()} | {"criterion.weight": torch.ones(3)})
    assert (code, value) == (0, right) and "outside model. are left out: criterion.weight" in said


def test_what_is_there_twice_is_refused(ask: Ask) -> None:
    plain = state()
    both = {f"{p}{k}": v + i for i, p in enumerate(("model.", "ema_model.")) for k, v in plain.items()}
    code, _, said = ask(both)
    assert code == 2 and "2 times: below ema_model., model." in said
    code, _, said = ask(plain | {f"module.{k}": v + 1 for k, v in plain.items()})
    assert code == 2 and "twice" in said and "Traceback" not in said
    code, _, said = ask({f"model.{k}": v for k, v in plain.items() if k != "hidden.1.bias"})
    assert code == 2 and "lacks" in said


def test_a_network_of_ones_own_likewise(ask: Ask) -> None:
    Path("their_nets.py").write_text(
        "from torch import nn\n"
        "def make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, classes))\n"
        "def coloured(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).state_dict()
    options = ("--network", "their_nets:make", "--dataset", "digits", "--metrics", "nc1", "--json")
    right = ask(dict(body), *options)[1]
    for prefix in ("body.", "module.", "model._orig_mod.", "module.body."):
        assert ask({prefix + k: v for k, v in body.items()}, *options)[:2] == (0, right), prefix
    moved = {f"body.{k}": v for k, v in body.items()} | {"mean": torch.zeros(1, 1, 1, 1), "std": torch.ones(1, 1, 1, 1)}
    code, other, _ = ask(moved, *options)
    assert code == 0 and other != right  # a checkpoint of ours brings its standardisation along
    code, _, said = ask(dict(body), "--network", "their_nets:coloured", "--dataset", "digits", "--metrics", "nc1")
    assert code == 2 and "takes 3 channels, and the images have 1" in said and "Traceback" not in said
