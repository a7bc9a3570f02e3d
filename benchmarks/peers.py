"""The code that the field uses, beside ours, in turn in one process on one core: how much longer it takes, and whether
both say the same.

    python benchmarks/peers.py --peer DIR [--peer DIR ...] [--images DIR_WITH_MNIST] [--turns 5] [--steps 1000]
                               [--samples 60000]

DIR is a checkout, known by what is in it; nothing of it is in here, and it runs as it is:

    shibhansh/loss-of-plasticity   lop: one sample a step by backpropagation and by continual backpropagation
    gianhess/dl_project            the published study's network and NC1 to NC4; with a checkout of lop its whole epoch
    rhubarbwu/neural-collapse      accumulators and measures of NC1 to NC4

Seconds are CPU time of the process; every line is the median over the turns. Values are compared on the same features.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from online_epoch import engine_of, images
from torch.nn.functional import softmax

from ncpl_cli import networks
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.engines.online import OnlineEngine
from ncpl_cli.interventions import Treatment, parse
from ncpl_cli.metrics import collapse
from ncpl_cli.spec import OptimizerSpec

AUTHORS = "experiments/continual_experiments"
KNOWN = {
    "lop": ("lop/algos/cbp.py", "."),
    "authors": (f"{AUTHORS}/lop/utils/neural_collapse.py", AUTHORS),
    "neural_collapse": ("neural_collapse/accumulate.py", "."),
}
"""Of each peer: a file that only it has, and where its packages lie."""
K, WIDTH = 10, 100
NAMES = ["nc1", "nc2", "nc3", "nc4"]


def peers(folders: list[Path]) -> set[str]:
    """Which peers the folders are; their packages can be imported from then on. Exits where one is none."""
    found = {}
    for folder in folders:
        names = [name for name, (file, _) in KNOWN.items() if (folder / file).is_file()]
        if not names:
            files = ", ".join(file for file, _ in KNOWN.values())
            sys.exit(f"{folder} is no checkout of a peer: none of {files} is in it.")
        found[names[0]] = folder / KNOWN[names[0]][1]
    # the authors' changes of lop lie over lop: both are namespace packages, and theirs come first
    sys.path[:0] = [str(found[name].resolve()) for name in ("authors", "lop", "neural_collapse") if name in found]
    return set(found)


def in_turn(turns: int, **works: Callable[[], Any]) -> dict[str, float]:
    """CPU seconds of each work: the median over the turns, after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            if turn:
                taken[name].append(time.process_time() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def say(what: str, theirs: float, ours: float, unit: str, beside: str = "") -> None:
    """One line."""
    print(f"{what:58} {theirs:10.3f} {unit}, ours {ours:9.3f}: {theirs / ours:7.1f} times  {beside}", flush=True)


def lop_network() -> Any:
    """The published network as lop has it: 784-100-100-100-10."""
    return importlib.import_module("lop.nets.deep_ffnn").DeepFFNN(784, WIDTH, K, num_hidden_layers=3)


def lop_steps(learner: Any, data: Dataset, count: int) -> Callable[[], None]:
    """So many steps of lop's loop on one sample each, with the accuracy that it keeps."""
    accuracy = importlib.import_module("lop.utils.miscellaneous").nll_accuracy
    x = torch.from_numpy(data.train.images[:count]).flatten(1).float() / 255
    y = torch.from_numpy(data.train.labels[:count])

    def steps() -> None:
        kept = torch.zeros(count)
        for i in range(count):
            _, output = learner.learn(x=x[i : i + 1], target=y[i : i + 1])
            with torch.no_grad():
                kept[i] = accuracy(softmax(output, dim=1), y[i : i + 1]).cpu()

    return steps


def steps_of_lop(data: Dataset, turns: int, count: int) -> float:
    """Both of lop's learners beside ours; their backpropagation's seconds a step."""
    algos = {name: importlib.import_module(f"lop.algos.{name}") for name in ("bp", "cbp")}
    plain = algos["bp"].Backprop(net=lop_network(), step_size=0.01, opt="sgd", loss="nll")
    engine, task = engine_of(data, 0)
    order = np.random.default_rng(0).permutation(len(data.train))
    found = in_turn(turns, theirs=lop_steps(plain, data, count), ours=lambda: engine.train_epoch([task], [order], 0.01))
    step = found["theirs"] / count
    say("lop, backpropagation, a step", 1e6 * step, 1e6 * found["ours"] / len(order), "us")

    renewing = algos["cbp"].ContinualBackprop(
        net=lop_network(), step_size=0.01, opt="sgd", loss="nll", replacement_rate=1e-4, decay_rate=0.99,
        maturity_threshold=100, util_type="contribution", accumulate=True,
    )  # fmt: skip
    fresh = lambda run, purpose: networks.build("mlp", data.shape, K, 100 + run)  # noqa: E731
    treatment = Treatment((parse("continual_backprop:rate=1e-4,decay=.99,maturity=100"),), fresh)
    ours = OnlineEngine([networks.build("mlp", data.shape, K, 0)], data, OptimizerSpec(), "cpu", treatment=treatment)
    found = in_turn(turns, theirs=lop_steps(renewing, data, count),
                    ours=lambda: ours.train_epoch([task], [order], 0.01))  # fmt: skip
    say("lop, continual backpropagation, a step", 1e6 * found["theirs"] / count, 1e6 * found["ours"] / len(order), "us")
    return step


def features(data: Dataset, network: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of a network of the authors, all training images: (n, width), and their labels."""
    with torch.no_grad():
        x = torch.from_numpy(data.train.images).flatten(1).float() / 255
        return network.embed(x).numpy(), data.train.labels


def authors(data: Dataset, turns: int, count: int, step: float | None) -> None:
    """Their NC1 to NC4 of `count` samples (loops over samples: time grows with them) beside ours of all."""
    theirs = importlib.import_module("lop.utils.neural_collapse")
    torch.manual_seed(0)
    network = lop_network()
    x, y = torch.from_numpy(data.train.images[:count]).flatten(1).float() / 255, torch.from_numpy(data.train.labels)
    classifier = network.layers[-1]
    weight, bias = classifier.weight.detach().numpy(), classifier.bias.detach().numpy()
    h, labels = features(data, network)
    values: dict[str, float] = {}

    def measured() -> None:
        with torch.no_grad():
            given = {"model": network, "inputs": x, "targets": y[:count], "num_classes": K}
            values.update(nc1=float(theirs.NC1(**given)), nc2=float(theirs.NC2(model=network)),
                          nc3=float(theirs.NC3(**given)), nc4=float(theirs.NC4(**given)))  # fmt: skip

    found = in_turn(turns, theirs=measured, ours=lambda: collapse(h, labels, weight, bias, metrics=NAMES, threads=1))
    scale = len(labels) / count
    say(f"authors, NC1 to NC4 of {len(labels)} samples", found["theirs"] * scale, found["ours"], "s",
        agreement(values, collapse(h[:count], labels[:count], weight, bias, metrics=NAMES)))  # fmt: skip
    if step is not None:
        engine, task = engine_of(data, 0)
        order = np.random.default_rng(0).permutation(len(data.train))
        ours = in_turn(turns, trained=lambda: engine.train_epoch([task], [order], 0.01))["trained"] + found["ours"]
        say("authors, an epoch with NC1 to NC4", step * len(labels) + found["theirs"] * scale, ours, "s")


def neural_collapse(data: Dataset, turns: int, batch: int = 128) -> None:
    """Their accumulators, fed in batches as their example has it, and measures, beside our one call."""
    accumulate, measure = (importlib.import_module(f"neural_collapse.{name}") for name in ("accumulate", "measure"))
    within = getattr(accumulate, "CovarAccumulator", None)
    if within is None or not hasattr(measure, "covariance_pinv"):
        sys.exit("neural-collapse: a version with CovarAccumulator and covariance_pinv is needed (2024-09 and later).")
    draw = np.random.default_rng(0)
    labels = data.train.labels
    h = (draw.normal(size=(K, WIDTH))[labels] + draw.normal(size=(len(labels), WIDTH))).astype(np.float32)
    weight = draw.normal(size=(K, WIDTH)).astype(np.float32)
    w, x, y = torch.from_numpy(weight), torch.from_numpy(h), torch.from_numpy(labels).long()
    parts = [slice(i, i + batch) for i in range(0, len(h), batch)]
    values: dict[str, float] = {}

    def measured() -> None:
        means = accumulate.MeanAccumulator(K, WIDTH)
        for part in parts:
            means.accumulate(x[part], y[part])
        m, centre = means.compute()
        spread, agrees = within(K, WIDTH, M=m), accumulate.DecAccumulator(K, WIDTH, M=m, W=w)
        for part in parts:
            spread.accumulate(x[part], y[part], m)
            agrees.accumulate(X=x[part], Y=y[part], M=m, W=w)
        # it divides the scatter of the means by d and the trace by K, the definition the first by K
        values.update(nc1=measure.covariance_pinv(m, spread.compute(), centre) * K / WIDTH,
                      nc3=measure.self_duality_error(m, w, centre), nc4=measure.clf_ncc_agreement(agrees))  # fmt: skip

    ours = lambda: collapse(h, labels, weight, metrics=NAMES, threads=1)  # noqa: E731
    found = in_turn(turns, theirs=measured, ours=ours)
    say(f"neural-collapse, NC1 to NC4 of {len(h)} x {WIDTH}", 1e3 * found["theirs"], 1e3 * found["ours"], "ms",
        agreement(values, ours()))  # fmt: skip


def agreement(theirs: Mapping[str, float], ours: Mapping[str, Any]) -> str:
    """By how much the values differ, relatively."""
    return ", ".join(f"{name} differs by {abs(value / float(ours[name]) - 1):.0e}" for name, value in theirs.items())


def main(given: list[str] | None = None) -> None:
    """Print the lines of the peers that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, action="append", required=True, metavar="DIR")
    parser.add_argument("--images", type=Path, metavar="DIR_WITH_MNIST")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1_000, help="of their loops, which grow with them")
    parser.add_argument("--samples", type=int, default=60_000, help="the first so many images")
    asked = parser.parse_args(given)
    there = peers(asked.peer)
    torch.set_num_threads(1)
    data = images(asked.images)
    split = Split(data.train.images[: asked.samples], data.train.labels[: asked.samples])
    data = Dataset(data.name, split, split, data.classes)
    step = None
    if "lop" in there:
        step = steps_of_lop(data, asked.turns, asked.steps)
    if "authors" in there:
        authors(data, asked.turns, asked.steps, step)
    if "neural_collapse" in there:
        neural_collapse(data, asked.turns)


if __name__ == "__main__":
    main()
