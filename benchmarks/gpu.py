"""The first GPU at hand, in under ten minutes: is it right, does it repeat itself, does it wait, how fast is it?

    python benchmarks/gpu.py [--device cuda:0] [--width 64] [--images 12800]

Each line is one figure with its bar, `ok` or `MISS` where a bar decides; exit code 1 where one is missed. Right comes
before fast. `--device cpu --width 4 --images 512` walks through all of it and judges only what a CPU can show.

Nothing of it has run on a GPU yet; on paper an H100 needs two to three minutes, most of it for captured engines.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from resnet_epoch import BATCH, eager, images, network, ours, tutorial

from ncpl_cli import networks
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.engines import CapturedEngine
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.interventions import Treatment, parse
from ncpl_cli.metrics.snapshot import Snapshot, measure
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import OptimizerSpec

MISSED: list[str] = []
IMAGES_A_SECOND, HOURS, SHARE = 60_000, 9.0, 0.2
PUBLISHED_IMAGES = 5 * (350 * 25e3 + 71 * 100 * 50e3)
"""Of five seeds of the published warm start, at most: warm-up and probes."""


def say(name: str, value: str, bar: str = "", ok: bool | None = None) -> None:
    """One line."""
    print(f"{'    ' if ok is None else 'ok  ' if ok else 'MISS'} {name:62} {value:>14}  {bar}", flush=True)
    if ok is False:
        MISSED.append(name)


def task_of(data: Dataset) -> Task:
    """The whole training split."""
    return Task(0, 1, lambda _: np.arange(0), data.train.labels, data.test.labels)


def trained(data: Dataset, width: int, device: str, precision: str, epochs: int) -> dict[str, torch.Tensor]:
    """Everything a ResNet-18 holds after some epochs, on the CPU."""
    of = "float64" if precision == "float64" else "float32"
    net = networks.build("resnet18", data.shape, 10, 0, width=width, norm="batch", precision=of,
                         statistics=data.channel_statistics).to(device)  # fmt: skip
    engine = StackedEngine([net], data, OptimizerSpec(batch_size=BATCH), device, precision=precision)
    for epoch in range(epochs):
        engine.train_epoch([task_of(data)], [np.random.default_rng(epoch).permutation(len(data.train))], 0.01)
    return {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}


def waits(data: Dataset, width: int, device: str, interventions: tuple[str, ...]) -> int:
    """How often the host waits for the device in an epoch of ten steps, as CUDA itself counts."""
    treatment = Treatment(tuple(map(parse, interventions)), lambda run, purpose: network(data, width, device))
    engine = StackedEngine([network(data, width, device)], data, OptimizerSpec(batch_size=BATCH), device,
                           treatment=treatment)  # fmt: skip
    order = np.arange(10 * BATCH) % len(data.train)
    engine.train_epoch([task_of(data)], [order], 0.001)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            engine.train_epoch([task_of(data)], [order], 0.001)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in seen)


def captured(data: Dataset, width: int, device: str, precision: str) -> CapturedEngine:
    """An engine that has made its graph, or has said why not."""
    engine = CapturedEngine([network(data, width, device)], data, OptimizerSpec(batch_size=BATCH), device,
                            precision=precision)  # fmt: skip
    engine.train_epoch([task_of(data)], [np.arange(8 * BATCH) % len(data.train)], 0.001)
    return engine


def side_by_side(data: Dataset, width: int, device: str, precision: str, count: int) -> tuple[float, float, list[str]]:
    """Images a second of captured engines in as many threads, gigabytes of the device, and what they have to say."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    engines = [captured(data, width, device, precision) for _ in range(count)]
    draw = np.random.default_rng(1)
    orders = [draw.permutation(len(data.train)) for _ in range(3)]

    def epochs(engine: CapturedEngine) -> None:
        for order in orders:
            engine.train_epoch([task_of(data)], [order], 0.001)

    with ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        list(pool.map(epochs, engines))
        took = time.perf_counter() - began
    held = torch.cuda.max_memory_allocated(device) / 2**30 if device.startswith("cuda") else 0.0
    return count * 3 * len(data.train) / took, held, [note for engine in engines for note in engine.notes]


def company(data: Dataset, width: int, device: str, precision: str) -> bool:
    """Whether a captured run has the same bits alone and beside two others."""
    order = np.random.default_rng(1).permutation(len(data.train))

    def trained_by(count: int) -> dict[str, torch.Tensor]:
        engines = [captured(data, width, device, precision) for _ in range(count)]
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda engine: engine.train_epoch([task_of(data)], [order], 0.01), engines))
        return {name: value.detach().cpu().clone() for name, value in engines[0].networks[0].state_dict().items()}

    alone, beside = trained_by(1), trained_by(3)
    return all(torch.equal(value, beside[name]) for name, value in alone.items())


def rates(arms: dict[str, Callable[[], float]], count: int, turns: int = 4) -> dict[str, float]:
    """Images a second of each arm, which take turns; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(turns):
        for name, epoch in arms.items():
            seconds[name].append(epoch())
    return {name: count / statistics.median(taken[1:]) for name, taken in seconds.items()}


def single_samples(device: str, runs: int, samples: int = 4096) -> float:
    """Seconds a step of MLPs at batch size 1."""
    draw = np.random.default_rng(0)
    split = Split(draw.integers(0, 256, (samples, 1, 28, 28), dtype=np.uint8), draw.integers(0, 10, samples))
    data = Dataset("synthetic", split, split, 10)
    nets = [networks.build("mlp", data.shape, 10, seed).to(device) for seed in range(runs)]
    engine = StackedEngine(nets, data, OptimizerSpec(), device)
    taken = [engine.train_epoch([task_of(data)] * runs, [np.arange(samples)] * runs, 0.01)[0].seconds for _ in range(3)]
    return statistics.median(taken) / samples


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--images", type=int, default=12_800)
    given = parser.parse_args()
    device, width, gpu = given.device, given.width, given.device.startswith("cuda")
    if gpu and not torch.cuda.is_available():
        print("no GPU here: nothing was measured. --device cpu --width 4 --images 512 walks through the steps.")
        return
    print(torch.cuda.get_device_name(device) if gpu else "cpu", torch.__version__)
    began, data, few = time.perf_counter(), images(given.images), images(4 * BATCH)

    there, here = (trained(few, 8, where, "float64", 1) for where in (device, "cpu"))
    worst = max(float((there[name] - value).abs().max()) for name, value in here.items())
    say("float64 epoch against the CPU: largest difference", f"{worst:.1e}", "< 1e-9", worst < 1e-9)
    precisions = ("float32", "tf32", "bf16") if gpu else ("float32",)
    for precision in precisions:
        one, other = (trained(few, width, device, precision, 2) for _ in range(2))
        same = all(torch.equal(one[name], other[name]) for name in one)
        say(f"same bits twice, {precision}", str(same), "True", same)
    if gpu:
        for names in ((), ("nc1",), ("spectral",), ("continual_backprop",)):
            count = waits(few, width, device, names)
            say(f"waits in an epoch of ten steps, {' '.join(names) or 'plain'}", str(count), "<= 6", count <= 6)

    best = 0.0
    for precision in precisions:
        arms = {"ours": ours(data, width, device, precision)}
        if precision == "float32":
            arms |= {loop.__name__: loop(data, width, device, precision) for loop in (eager, tutorial)}
        found = rates(arms, len(data.train))
        best = max(best, found["ours"])
        others = {"eager": "an eager loop on images in memory", "tutorial": "a tutorial's with a DataLoader"}
        beside = ", ".join(f"{said} {found[name]:.0f}" for name, said in others.items() if name in found)
        say(f"images/s, {precision}", f"{found['ours']:.0f}", beside)
    for precision in precisions:
        for count in (1, 2, 4) if gpu else (1,):
            found_rate, held, notes = side_by_side(data, width, device, precision, count)
            best = max(best, found_rate)
            say(f"images/s, captured, {precision}, {count} at once", f"{found_rate:.0f}", f"{held:.1f} GiB")
            if gpu and count == 1:
                say(f"its graph leaves the uncaptured steps' bits, {precision}", str(not notes), "; ".join(notes),
                    not notes)  # fmt: skip
        same = company(few, width, device, precision)
        say(f"captured, the same bits alone and beside two others, {precision}", str(same), "True", same)
    say("images/s, the best", f"{best:.0f}", f">= {IMAGES_A_SECOND}", best >= IMAGES_A_SECOND if gpu else None)
    hours = PUBLISHED_IMAGES / best / 3600
    say("five seeds of the published warm start, hours at most", f"{hours:.1f}", f"<= {HOURS}",
        hours <= HOURS if gpu else None)  # fmt: skip

    net = network(data, width, device)
    initial = {name: value.detach().clone() for name, value in net.named_parameters()}
    look = Snapshot(net, data, task_of(data), initial, device, None, 0.001)
    measure(look)
    started = time.perf_counter()
    found_ = measure(look)
    took = time.perf_counter() - started
    families = ", ".join(f"{k} {v:.2f}" for k, v in sorted(found_.seconds.items(), key=lambda one: -one[1])[:4])
    share = took / (len(data.train) / best)
    say("measuring, of the time the images take to train", f"{share:.0%}", f"<= {SHARE:.0%}: {families} s",
        share <= SHARE if gpu else None)  # fmt: skip
    for runs in (1, 32, 128) if gpu else (1,):
        step = single_samples(device, runs) / runs * 1e6
        say(f"MLPs at batch size 1, {runs} at once: us a step and run", f"{step:.1f}", "a CPU core: 3.3")
    print(f"{time.perf_counter() - began:.0f} s; missed: {', '.join(MISSED) or 'nothing'}")
    sys.exit(bool(MISSED))


if __name__ == "__main__":
    main()
