"""How long an epoch takes, from a short run on this machine: of the online engine's kernel alone, or of the engine.

Torch takes longer to import than a dry run may last. What the online engine trains plainly is therefore timed without
it: the same kernel on the same images, and in place of a look at the default metrics the arithmetic that makes most of
one, in NumPy (benchmarks/dry_run.py holds both against what epochs then take).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.metrics.catalogue import at_start, chosen
from ncpl_cli.objectives import CrossEntropy
from ncpl_cli.plan import Cohort
from ncpl_cli.scenarios import Task, outputs_of, shown_by, task_of
from ncpl_cli.spec import RunSpec

if TYPE_CHECKING:
    from ncpl_cli.data.sparse import SparseImages

TIMED_SECONDS = 0.2
"""Training is timed over one batch, and over four times as many until it has taken that long."""

NEVER = 1 << 40
"""`measure.every` from which on nothing is measured but the end."""

ROWS, BLOCK = 8192, 1024
"""Training images that are looked at without torch, and how many of them at a time."""

FORWARD, SAMPLES, SPECTRA, LOOK_SECONDS = 0.64, 7.7, 22.4, 0.0026
"""What a look costs in multiples of three pieces of arithmetic (`look_at`), and besides.

Fitted to ten networks of 20 to 256 units on digits and MNIST: of their looks of 5 to 720 ms it says .75 to 1.17.
"""


def for_long_enough(train: Callable[[int], float], batch: int, samples: int) -> float:
    """Seconds of an epoch of so many samples; `train(n)` trains n of them and says how long that took."""
    train(min(batch, samples))
    timed, seconds = batch // 4, 0.0
    while seconds < TIMED_SECONDS and timed < samples:
        timed = min(max(4 * timed, batch), samples)
        seconds = train(timed)
    return seconds * samples / timed


def parameters(spec: RunSpec, data: Dataset) -> int:
    """How many parameters a run has."""
    shape = spec.network
    if shape.name != "mlp":
        from ncpl_cli.trainer import build

        return sum(parameter.numel() for parameter in build(spec, data).parameters())
    shown = 2 * shape.width if shape.activation == "crelu" else shape.width
    inputs = [data.pixels, *[shown] * (shape.depth - 1)]
    normed = 2 * shape.width if shape.norm in ("layer", "batch") else 0
    return sum((n + 1) * shape.width + normed for n in inputs) + (shown + 1) * outputs_of(spec, data)


def seconds_per_epoch(cohort: Cohort, data: Dataset) -> float:
    """What an epoch of a cohort takes, with measuring."""
    spec, shown = cohort.specs[0], shown_by(cohort.specs[0].scenario, data)
    if cohort.engine == "online" and plain(spec):
        task = task_of(spec, 0, shown)
        if isinstance(task.objective, CrossEntropy) and not (task.parts or task.of_outputs or task.soft is not None):
            return by_kernel(spec, shown, task)
    return by_engine(cohort, data)


def plain(spec: RunSpec) -> bool:
    """Whether nothing but the loop itself trains, and the default metrics of the last layer are measured."""
    asked = spec.measure
    default = chosen(asked.metrics) == chosen(("default",)) and not at_start(asked.metrics) and asked.layers == "last"
    own = getattr(spec.scenario, "own_interventions", ()) or getattr(spec.scenario, "measures", ())
    return all(one.idle for one in spec.interventions) and not own and (default or asked.every >= NEVER)


def by_kernel(spec: RunSpec, data: Dataset, task: Task) -> float:
    """The online engine's kernel on some of the images, and what a look computes."""
    from ncpl_cli.data.rows import aligned
    from ncpl_cli.data.sparse import padded, sparse
    from ncpl_cli.engines.online_kernel import CLASSES, SMOOTHED, kernel

    assert isinstance(task.objective, CrossEntropy)
    draw, dtype = rng.stream(0, "timing"), np.dtype(spec.precision)
    order, batch = task.order(1), spec.optimizer.batch_size
    rows = order[:ROWS] if len(order) > ROWS else np.arange(len(data.train))
    split, labels = data.train.take(rows), task.train_labels[rows]
    width, depth, outputs = spec.network.width, spec.network.depth, outputs_of(spec, data)

    first, out = aligned((data.pixels, padded(width)), dtype), aligned((padded(width), padded(outputs)), dtype)
    hidden = aligned((max(1, depth - 1), padded(width), padded(width)), dtype)
    for matrix, inputs, units in ((first, data.pixels, width), *((one, width, width) for one in hidden),
                                  (out, width, outputs)):  # fmt: skip
        bound = math.sqrt((3 if matrix is out else 6) / inputs)  # as networks begin
        matrix[:inputs, :units] = draw.uniform(-bound, bound, (inputs, units))
    biases, b_out = aligned((depth, padded(width)), dtype), aligned((padded(outputs),), dtype)
    images, decay = sparse(split, data.scale, dtype), spec.optimizer.weight_decay
    none = [np.zeros((1,) * dimensions, dtype) for dimensions in (2, 3, 2, 2, 1)]
    smoothing = task.objective.smoothing
    loop = kernel(*out.shape, int(decay > 0), batch == 1, SMOOTHED if smoothing else CLASSES)
    shown = draw.permutation(len(rows))

    def train(count: int) -> float:
        began = time.perf_counter()
        loop(
            np.resize(shown, count), images.starts, images.pixels, images.values, labels, none[0],
            dtype.type(smoothing), first, hidden, out, biases, b_out, dtype.type(spec.optimizer.lr), batch, outputs,
            dtype.type(decay), *none, none[3], none[3], none[4], np.zeros(1, np.float32), dtype.type(0), dtype.type(0),
        )  # fmt: skip
        return time.perf_counter() - began

    training = for_long_enough(train, batch, len(order))
    if spec.measure.every >= NEVER:
        return training
    most = spec.measure.samples or len(data.train)
    samples = min(most, len(data.train)) + min(most, len(data.test))
    layers = [first, *hidden[: depth - 1]]
    return training + look_at(images, len(rows), layers, samples) / spec.measure.every


def look_at(images: SparseImages, rows: int, layers: Sequence[NDArray[Any]], samples: int) -> float:
    """Seconds of a look at so many samples, on one core: from the forward pass of some of the images, what is done
    with each of their features in float64, and eigenvalues of a matrix as wide as the features."""
    from threadpoolctl import threadpool_limits

    from ncpl_cli.data.sparse import rows_times_matrix

    first, *later = layers
    width = first.shape[1]
    product, bias = rows_times_matrix(width), np.zeros(width, first.dtype)
    product(images.starts, images.pixels, images.values, 0, first, bias, np.empty((1, width), first.dtype))  # loaded

    def pieces() -> tuple[float, float, float]:
        forward = each = 0.0
        for start in range(0, rows, BLOCK):
            began = time.perf_counter()
            x = np.empty((min(BLOCK, rows - start), width), first.dtype)
            product(images.starts, images.pixels, images.values, start, first, bias, x)
            for matrix in later:
                x = np.maximum(x, 0) @ matrix
            x = np.maximum(x, 0)
            seen = time.perf_counter()
            exact = x.astype(np.float64)
            exact -= exact[0]
            (exact * exact).sum(1)
            forward, each = forward + seen - began, each + time.perf_counter() - seen
        moments = np.eye(width) + exact.T @ exact
        began = time.perf_counter()
        np.linalg.eigvalsh(moments)
        return forward, each, time.perf_counter() - began

    with threadpool_limits(1):
        forward, each, spectrum = map(min, zip(pieces(), pieces(), strict=True))
    return (FORWARD * forward + SAMPLES * each) * samples / rows + SPECTRA * spectrum + LOOK_SECONDS


def by_engine(cohort: Cohort, data: Dataset) -> float:
    """The engine itself for a moment, and a look that is not the first."""
    from ncpl_cli.metrics import measure
    from ncpl_cli.metrics.snapshot import Snapshot
    from ncpl_cli.trainer import begin, begun

    spec = cohort.specs[0]
    networks, engine = begin(cohort, data)
    data = shown_by(spec.scenario, data)
    tasks = begun(cohort.specs, networks, data, cohort.device)
    whole = [task.order(1) for task in tasks]

    def train(count: int) -> float:
        return engine.train_epoch(tasks, [order[:count] for order in whole], spec.optimizer.lr)[0].seconds

    training, measuring = for_long_enough(train, spec.optimizer.batch_size, len(whole[0])), 0.0
    for _ in range(2 if spec.measure.every < NEVER else 0):  # the first look makes what later ones find ready
        began = time.perf_counter()
        measure(
            Snapshot(networks[0], data, tasks[0], None, cohort.device, spec.measure.samples), spec.measure.metrics,
            spec.measure.layers,
        )  # fmt: skip
        measuring = (time.perf_counter() - began) * len(cohort.specs) / spec.measure.every
    return training + measuring
