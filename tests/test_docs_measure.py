"""docs/measure.md: its commands and its Python run as they are written."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ncpl_cli.main import call
from ncpl_cli.metrics import collapse
from tests.test_readme import blocks, commands

PAGE = (Path(__file__).parents[1] / "docs" / "measure.md").read_text(encoding="utf-8")

DOWNLOADS = ("resnet50", "timm:vit", "hf:gpt2")
"""Published weights, which no test fetches: tests/test_features.py has tiny ones."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(200, 5)), np.arange(200) % 10
    layers = {"features/a": features[:, :3], "test_features/a": features[:, :3]}
    weight = {"weight": draw.normal(size=(10, 5)), "bias": np.zeros(10)}
    np.savez("features.npz", features=features, labels=labels, test_features=features, test_labels=labels, **layers,
             **weight)  # fmt: skip
    Path("shards").mkdir()
    for part in range(3):
        np.savez(f"shards/{part}.npz", features=features[part::3], labels=labels[part::3])
    for name in "ab":
        Path("DIR", name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(draw.integers(0, 256, (9, 9)).astype(np.uint8)).save(f"DIR/{name}/{i}.png")
    Path("mine.py").write_text("from torch import nn\ndef network(num_classes):\n    return nn.Sequential("
                               "nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, num_classes))\n")  # fmt: skip
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    save_file(net.state_dict(), "mine.safetensors")
    return tmp_path


def test_its_commands_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands(PAGE)
    assert len(lines) == 6
    for line in lines:
        if not any(name in line for name in DOWNLOADS):
            assert call(shlex.split(line)[1:]) == 0, line
            assert capsys.readouterr().out.strip()
    with np.load("mine.npz") as found:
        assert found["features"].shape == (1437, 6) and found["test_features"].shape == (360, 6)


@pytest.mark.filterwarnings("ignore")
def test_its_python_runs_and_processes_merge(here: Path) -> None:
    with np.load("features.npz") as file:
        names = {name: file[name] for name in ("features", "labels", "weight", "bias")}
    found = blocks(PAGE)
    assert len(found) == 3
    for block in (one for one in found if "lightning" not in one):  # its import alone takes seconds: test_integrations
        given = {**names, "batches": [(names["features"], names["labels"])]}
        exec(compile(block, "measure.md", "exec"), given)
    program = PAGE[PAGE.index("    # shards.py") :].partition("\n\nProcesses of")[0]
    Path("shards.py").write_text("\n".join(line[4:] for line in program.splitlines()) + "\n")
    done = subprocess.run([sys.executable, "shards.py"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(collapse(names["features"], names["labels"])["nc1"], rel=1e-9)
