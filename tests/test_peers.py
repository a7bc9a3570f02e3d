"""benchmarks/peers.py: a checkout is known by what is in it, and stand-ins for the peers get their lines and values."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ncpl_cli.data.dataset import Dataset, Split

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import peers  # type: ignore[import-not-found]

NETWORK = """
import torch
class DeepFFNN(torch.nn.Module):
    def __init__(self, size, width, outputs, num_hidden_layers):
        super().__init__()
        sizes = [size] + [width] * num_hidden_layers
        parts = [part for a, b in zip(sizes, sizes[1:]) for part in (torch.nn.Linear(a, b), torch.nn.ReLU())]
        self.layers = torch.nn.ModuleList([*parts, torch.nn.Linear(width, outputs)])
    def predict(self, x):
        for layer in self.layers[:-1]:
            x = layer(x)
        return self.layers[-1](x), [x]
    def embed(self, x):
        return self.predict(x)[1][-1]
"""
LEARNER = """
import torch
class {name}:
    def __init__(self, net, step_size, **rest):
        self.net, self.opt = net, torch.optim.SGD(net.parameters(), lr=step_size)
    def learn(self, x, target):
        self.opt.zero_grad()
        out, _ = self.net.predict(x)
        loss = torch.nn.functional.cross_entropy(out, target)
        loss.backward()
        self.opt.step()
        return loss.detach(), out.detach()
"""
ACCURACY = "def nll_accuracy(out, y): return (out.argmax(1) == y).float().mean()"
# the definitions, written out
MEASURES = """
import torch
def scatters(h, y, k):
    means = torch.stack([h[y == c].mean(0) for c in range(k)])
    within = h - means[y]
    return means, within.T @ within / len(h)
def nc1(h, y, k):
    means, within = scatters(h.double(), y, k)
    centred = means - h.double().mean(0)
    return torch.trace(within @ torch.linalg.pinv(centred.T @ centred / k, rtol=1e-9)) / k
def to_frame(product):
    k = len(product)
    frame = (torch.eye(k) - 1 / k) / (k - 1) ** .5
    return float(torch.linalg.norm(product / torch.linalg.norm(product) - frame))
"""
AUTHORS = (
    MEASURES
    + """
def NC1(model, inputs, targets, num_classes): return nc1(model.embed(inputs), targets, num_classes)
def NC2(model): return to_frame(model.layers[-1].weight @ model.layers[-1].weight.T)
def NC3(model, inputs, targets, num_classes):
    h = model.embed(inputs)
    return to_frame(model.layers[-1].weight @ (scatters(h, targets, num_classes)[0] - h.mean(0)).T)
def NC4(model, inputs, targets, num_classes):
    out, (h,) = model.predict(inputs)
    return (torch.cdist(h, scatters(h, targets, num_classes)[0]).argmin(1) == out.argmax(1)).float().mean()
"""
)
ACCUMULATE = (
    MEASURES
    + """
class Kept:
    def __init__(self, k, d, M=None, W=None): self.k, self.parts = k, []
    def accumulate(self, X, Y, M=None, W=None): self.parts.append((X, Y)); self.M, self.W = M, W
    def all(self): return [torch.cat(one) for one in zip(*self.parts)]
class MeanAccumulator(Kept):
    def compute(self): means = scatters(*self.all(), self.k)[0]; return means, means.mean(0)
class CovarAccumulator(Kept):
    def compute(self): return scatters(*self.all(), self.k)[1]
class DecAccumulator(Kept): pass
"""
)
MEASURE = """
import torch
from .accumulate import to_frame
def covariance_pinv(M, within, centre): return float(
    torch.trace(torch.linalg.pinv((M - centre).T @ (M - centre) / M.shape[1], rtol=1e-5) @ within) / len(M))
def self_duality_error(M, W, centre): return to_frame(W @ (M - centre).T)
def clf_ncc_agreement(kept):
    x, _ = kept.all()
    return float((torch.cdist(x, kept.M).argmin(1) == (x @ kept.W.T).argmax(1)).float().mean())
"""


def checkout(folder: Path, files: dict[str, str]) -> Path:
    """A folder with these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_folder_that_is_no_peer_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"is no checkout of a peer: none of lop/algos/cbp\.py, .* is in it"):
        peers.main(["--peer", str(tmp_path)])


def test_each_peer_gets_its_lines_and_right_values_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lop = checkout(tmp_path / "lop-checkout", {
        "lop/nets/deep_ffnn.py": "raise ImportError('the authors have changed it')",
        "lop/algos/bp.py": LEARNER.format(name="Backprop"),
        "lop/algos/cbp.py": LEARNER.format(name="ContinualBackprop"),
        "lop/utils/miscellaneous.py": ACCURACY,
    })  # fmt: skip
    authors = checkout(tmp_path / "authors", {
        f"{peers.AUTHORS}/lop/nets/deep_ffnn.py": NETWORK, f"{peers.AUTHORS}/lop/utils/neural_collapse.py": AUTHORS,
    })  # fmt: skip
    other = checkout(tmp_path / "other", {
        "neural_collapse/accumulate.py": ACCUMULATE, "neural_collapse/measure.py": MEASURE,
    })  # fmt: skip
    monkeypatch.setattr(sys, "path", list(sys.path))
    draw = np.random.default_rng(0)
    split = Split(draw.integers(0, 256, (2_000, 1, 28, 28)).astype(np.uint8), draw.integers(0, 10, 2_000))
    monkeypatch.setattr(peers, "images", lambda _: Dataset("noise", split, split, 10))
    before = torch.get_num_threads()
    try:
        peers.main(
            [*(f"--peer={folder}" for folder in (other, lop, authors)), "--turns=1", "--steps=100", "--samples=1900"]
        )
    finally:
        torch.set_num_threads(before)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("lop", "neural_collapse")]:
            del sys.modules[name]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["lop"] * 2 + ["authors"] * 2 + ["neural-collapse"]
    for line in lines:
        assert float(line.split("ours")[0].split()[-2]) > 0
        assert float(line.split("times")[0].split()[-1]) > 0
    for line, names in ((lines[2], "nc1 nc2 nc3 nc4"), (lines[4], "nc1 nc3 nc4")):
        found = {part.split()[0]: float(part.split()[-1]) for part in line.split("times")[1].split(",")}
        assert list(found) == names.split()
        assert max(found.values()) < 1e-3  # float32 means, and the centre of unbalanced classes
        assert found["nc3"] < 1e-4
