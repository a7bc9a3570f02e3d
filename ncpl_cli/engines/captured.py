"""Captured engine: one network of modules on a CUDA device, whose steps are launched some at a time as one graph.

A step of a ResNet-18 is some 170 kernels of a few microseconds each; launched one by one they wait for the host. A
graph of STEPS steps is launched whole. Everything that changes from step to step lies on the device: the order of the
samples, the place in it, the learning rate, the sums of losses and of what was right. What does not fill a graph, and
the smaller batch at the end, are the same function, launched kernel by kernel.

The first graph is checked before it is used: its steps must leave the bits that the uncaptured steps leave. Where they
do not, or where a network cannot be captured, a note says so and the stacked engine's own steps train the run.

Each engine has a stream and a pool of memory of its own, so that several train at once and none feels its company.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncpl_cli import refusals
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.device import arithmetic
from ncpl_cli.engines.engine import Progress
from ncpl_cli.engines.optimizers import capturable
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.interventions import Treatment
from ncpl_cli.objectives import CROSS_ENTROPY, Objective
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import OptimizerSpec

STEPS = 8
"""Steps of a graph: the host then has a millisecond to launch the next."""


class CapturedEngine(StackedEngine):
    """Trains one network of modules on a CUDA device, eight steps a launch (CUDA graphs); checks itself as it starts.

    On a CPU the same steps run one by one, for tests.
    """

    def __init__(
        self, networks: Sequence[nn.Module], data: Dataset, optimizer: OptimizerSpec, device: str,
        *, treatment: Treatment = Treatment(), precision: str = "float32",
    ) -> None:  # fmt: skip
        assert len(networks) == 1
        super().__init__(networks, data, optimizer, device, treatment=treatment, precision=precision, autograd=True)
        self._rate = torch.full((), optimizer.lr, dtype=torch.float32, device=device)
        exact = torch.float32 if device == "mps" else torch.float64
        self._at = torch.zeros((), dtype=torch.int64, device=device)  # samples of this epoch that have been shown
        self._iota = torch.arange(2 * optimizer.batch_size, device=device)  # a last batch may have one sample more
        self._loss = torch.zeros((), dtype=exact, device=device)
        self._correct = torch.zeros((), dtype=exact, device=device)
        self._order = torch.zeros(0, dtype=torch.int64, device=device)  # of the samples of an epoch
        self._wanted = torch.zeros(0, device=device)  # what each of them is asked: (n,) or numbers (n, K)
        self._pixels: Tensor | None = None  # the task's order of pixels
        self._objective: Objective = CROSS_ENTROPY
        self._stream = stream_of(device)
        self._launch: Callable[[], None] | None = None
        self._captures = self._stream is not None
        self._failed = False

    refuses = staticmethod(refusals.captured)

    def train_epoch(
        self, tasks: Sequence[Task], orders: Sequence[NDArray[np.int64]], lr: float, task_epoch: int = 1
    ) -> list[Progress]:
        """One pass over `orders[0]` of `tasks[0]`, as the stacked engine has it."""
        if self._failed or tasks[0].augmentation is not None:
            return super().train_epoch(tasks, orders, lr, task_epoch)
        began, (task,), (order,) = time.perf_counter(), tasks, orders
        blocks = self._blocks(len(order))
        self._treated.begin(tasks, False)
        self._learning_rate(lr)
        with contextlib.ExitStack() as stack:
            stack.enter_context(arithmetic(self._device, self._precision))
            stack.enter_context(self._on_stream())
            self._lay_out(task, order)
            stack.callback(self._first.train, self._first.training)
            self._first.train()
            sizes = [batch for _, steps, batch in blocks for _ in range(steps)]
            full = sum(size == self._spec.batch_size for size in sizes)
            if self._launch is None and self._captures and full >= STEPS:
                with self._forward.counted(0):
                    self._launch = self._checked()
                if self._launch is None:
                    self._failed = True
            if not self._failed:
                with self._forward.counted(len(sizes)):
                    self._train(sizes, full)
                self._treated.end_block(len(sizes), lambda run: torch.empty(0))
                self._treated.shown.add(0, order, task.pixel_order)
                finite = torch.stack([tensor.detach().isfinite().all() for tensor in self._stack.tensors]).all()
                found = torch.stack([self._correct, self._loss, finite.to(self._loss.dtype)])
                correct, loss, ok = found.tolist()  # the only wait
        if self._failed:
            return super().train_epoch(tasks, orders, lr, task_epoch)
        seconds = time.perf_counter() - began
        right = None if task.regression else int(correct)
        return [Progress(right, loss / len(order), len(order), seconds, bool(ok) and math.isfinite(loss))]

    def _train(self, sizes: Sequence[int], full: int) -> None:
        """The epoch's steps: graphs, then what does not fill one."""
        graphs = full // STEPS if self._launch is not None else 0
        for _ in range(graphs):
            assert self._launch is not None
            self._launch()
        for size in sizes[graphs * STEPS :]:
            self._step(size)

    def _step(self, size: int) -> None:
        """One step on the next samples; the host gives nothing and asks nothing."""
        places = self._at + self._iota[:size]
        images = self._images.index_select(0, self._order.index_select(0, places))  # B x D
        x = images.to(self._dtype).div_(self._data.scale)
        x = x if self._pixels is None else x.index_select(1, self._pixels)
        y = self._wanted.index_select(0, places)[None]  # 1 x B, numbers 1 x B x K
        y = y if y.dim() == 2 else y.transpose(1, 2).contiguous()  # 1 x B, numbers 1 x K x B
        out, _ = self._forward(x.view(1, size, *self._data.shape))  # 1 x B x C
        z = out.transpose(1, 2).contiguous()  # 1 x C x B
        own = self._objective.losses(z, y, 1)  # 1 x B
        self._optimizer.zero_grad()
        torch.autograd.backward(own.sum() / size)
        self._optimizer.step()
        with torch.no_grad():
            if (right := self._objective.right(z.detach(), y, 1)) is not None:
                self._correct += right.sum()
            self._loss += own.detach().sum(dtype=self._loss.dtype)
            self._at += size

    # ---- what a graph reads and writes lies where it lay when the graph was made -------------------------------

    def _lay_out(self, task: Task, order: NDArray[np.int64]) -> None:
        """Put an epoch's order and what its samples are asked where the steps look for them."""
        asked = self._asked([task], [order])[0]  # n, numbers n x K
        pixels = self._pixel_orders([task])
        new = len(order) > len(self._order) or asked.shape[1:] != self._wanted.shape[1:]
        if new or asked.dtype != self._wanted.dtype or task.objective != self._objective or (
            (pixels is None) != (self._pixels is None)
        ):  # fmt: skip
            self._order = self._order.new_zeros(len(order))
            self._wanted, self._pixels = torch.zeros_like(asked), None if pixels is None else pixels[0].clone()
            self._objective, self._launch = task.objective, None
        self._order[: len(order)].copy_(torch.from_numpy(order))
        self._wanted[: len(order)].copy_(asked)
        if self._pixels is not None and pixels is not None:
            self._pixels.copy_(pixels[0])
        for counter in (self._at, self._loss, self._correct):
            counter.zero_()

    def _checked(self) -> Callable[[], None] | None:
        """STEPS steps as one launch; None where they do not do what the steps do one by one. Changes nothing."""
        held = [*self._stack.tensors, *self._stack.buffers.values(), self._at, self._loss, self._correct]
        held += [value for own in self._optimizer.state.values() for value in own.values() if isinstance(value, Tensor)]
        before = [tensor.detach().clone() for tensor in held]

        def put_back() -> None:
            with torch.no_grad():
                for tensor, value in zip(held, before, strict=True):
                    tensor.copy_(value)

        def steps() -> None:
            for _ in range(STEPS):
                self._step(self._spec.batch_size)

        try:
            steps()  # which makes what libraries make at first use, too
            wanted = [tensor.detach().clone() for tensor in held]
            put_back()
            launch = captured(steps, self._stream)
            put_back()
            launch()
            same = all(
                torch.equal(tensor.detach().nan_to_num(), value.nan_to_num())
                for tensor, value in zip(held, wanted, strict=True)
            )
            why = "it did not leave the same bits"
        except RuntimeError as error:  # what a network does may not be capturable
            same, why = False, str(error).splitlines()[0]
        put_back()
        if same:
            return launch
        self._optimizer.zero_grad()
        self.notes.append(f"a graph of {STEPS} steps could not be used ({why}); the steps are launched one by one.")
        return None

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """On this engine's stream, which begins when all that was asked for is done, and for which the rest waits."""
        if self._stream is None:
            yield
            return
        around = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(around)
        with torch.cuda.stream(self._stream):
            yield
        around.wait_stream(self._stream)

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        return capturable(super()._optimizer, self._rate)

    def _learning_rate(self, lr: float) -> None:
        _ = self._optimizer
        self._rate.fill_(lr)

    def load_state(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Put back what `state` returned."""
        super().load_state(states)
        capturable(self._optimizer, self._rate)
        self._launch = None  # it knows the moments of before


def stream_of(device: str) -> Any:
    """A new stream of a CUDA device; None elsewhere."""
    return torch.cuda.Stream(device) if device.startswith("cuda") else None  # type: ignore[no-untyped-call]


def captured(work: Callable[[], None], stream: Any) -> Callable[[], None]:
    """What does all of some work by one launch; it has been done before, so that nothing is made for the first time."""
    graph = torch.cuda.CUDAGraph()
    # other threads may go on with theirs meanwhile
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        work()
    launch: Callable[[], None] = graph.replay
    return launch
