"""Stacked engine: R networks of one shape trained at once by batched matrices, on CPU, CUDA or MPS.

The parameters of all runs lie in stacked tensors (R, ...) of which each network's own parameters are views, and one
copy of the images serves every run and task. An epoch is a list of blocks of a few steps; a block is

    by hand      plain SGD (weight decay allowed) on an MLP without norms: no autograd, no gradient written down, and
                 the wide first layer is read and updated once a block, not once a step (see `by_hand.py`)
    by autograd  everything else: any norm, torch's own optimisers, any `nn.Module` through `vmap`

Nothing in an epoch waits for the device before its end. Batched matrices keep runs apart: one that diverges leaves
the bits of its neighbours alone. The same cohort on the same device and thread count gives the same bits; another
cohort may round differently.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncpl_cli import refusals
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.data.resident import resident
from ncpl_cli.device import arithmetic
from ncpl_cli.engines.by_hand import BY_HAND, Space, steps_by_hand
from ncpl_cli.engines.copies import copied
from ncpl_cli.engines.engine import Progress
from ncpl_cli.engines.forward import StackedForward
from ncpl_cli.engines.moved import Moves, moves_of
from ncpl_cli.engines.optimizers import optimizer_of
from ncpl_cli.engines.stack import Stack, layout
from ncpl_cli.engines.treated import Treated
from ncpl_cli.errors import InputError
from ncpl_cli.interventions import Treatment
from ncpl_cli.networks import MLP
from ncpl_cli.objectives import Objective
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import OptimizerSpec

BLOCK_ROWS = 64
"""Samples a run takes in one block: at batch 1 a block is 64 steps, from batch 64 on it is one step.

Measured with 32 runs of 784-100-100-100-10, time a step against 64 rows: 16 rows 1.21 and 1.53 (batch 1 and 16),
32 rows 1.02 to 1.10, 128 rows 0.98 to 1.02. More rows would only cost memory: the first layer has become cheap.
"""


class StackedEngine:
    """Trains R networks of one shape in lockstep; between epochs `networks[r]` holds run r's parameters.

    autograd  take the general path even where the step by hand applies (tests, benchmarks)
    """

    def __init__(
        self, networks: Sequence[nn.Module], data: Dataset, optimizer: OptimizerSpec, device: str,
        *, treatment: Treatment = Treatment(), precision: str = "float32", autograd: bool = False,
    ) -> None:  # fmt: skip
        self.networks = networks
        self.notes: list[str] = []
        self._first = networks[0]
        self._spec = optimizer
        self._data = data
        self._device = device
        self._dtype = next(self._first.parameters()).dtype
        self._images = resident(data.train, device)  # N x D
        self._precision = precision
        self._stack = Stack(networks, layout(device, precision))
        self._forward = StackedForward(self._stack, networks, device, precision)
        self._treated = Treated(self._stack, networks, treatment, self._live_moments)
        self._spaces: dict[tuple[int, int, bool], Space] = {}
        self._batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self._first.modules())
        self._by_hand = self._can_by_hand = (
            not autograd and isinstance(self._first, MLP) and len(self._first.hidden) > 0
            and self._first.norm == "none" and self._first.activation in BY_HAND
            and optimizer.name == "sgd" and not optimizer.momentum
        )  # fmt: skip

    refuses = staticmethod(refusals.stacked)

    def train_epoch(
        self, tasks: Sequence[Task], orders: Sequence[NDArray[np.int64]], lr: float, task_epoch: int = 1
    ) -> list[Progress]:
        """One pass over `orders[r]` of `tasks[r]` for every run at once; `seconds` is the whole cohort's time.

        What looks at the images trained on last (ReDo) sees them as they are stored, not as they were moved.
        A last batch that is smaller counts by its own mean. Under batch normalisation a last batch of a single
        sample, which has no statistics and which torch refuses, joins the batch before it.
        """
        began = time.perf_counter()
        runs, samples = len(orders), len(orders[0])
        exact = torch.float32 if self._device == "mps" else torch.float64
        order = torch.from_numpy(np.stack(orders)).to(self._device)  # R x n
        objective = tasks[0].objective
        assert all(task.objective == objective and task.regression == tasks[0].regression for task in tasks)
        asked = self._asked(tasks, orders)  # R x n, numbers R x n x K
        correct = torch.zeros(runs, dtype=exact, device=self._device)
        loss = torch.zeros(runs, dtype=exact, device=self._device)
        gather = None if isinstance(self._first, MLP) else self._pixel_orders(tasks)  # R x D
        moves = moves_of(tasks, task_epoch, samples, self._data, self._images)
        self._treated.begin(tasks, self._can_by_hand)
        self._forward.watched = () if isinstance(self._first, MLP) else self._treated.unit_layers
        # a penalty that only pulls towards zero is weight decay, which the step by hand knows
        self._by_hand = self._can_by_hand and not self._treated.needs_autograd
        self._learning_rate(lr)
        self._rearrange(tasks, to_image=True)
        training = self._first.training
        self._first.train()
        blocks = self._blocks(samples)
        with contextlib.ExitStack() as stack:
            stack.callback(self._rearrange, tasks, to_image=False)
            stack.callback(self._first.train, training)
            stack.enter_context(arithmetic(self._device, self._precision))
            stack.enter_context(self._forward.counted(sum(steps for _, steps, _ in blocks)))
            for start, steps, batch in blocks:
                rows = slice(start, start + steps * batch)
                space = self._space(steps, batch)
                x = self._shown(space, order[:, rows], gather, moves and moves.of(rows))  # R x kB x ...
                y = (
                    asked[:, rows].reshape(runs, steps, batch, *asked.shape[2:]).transpose(0, 1)
                )  # k x R x B, numbers k x R x B x K
                y = (y if y.dim() == 3 else y.transpose(2, 3)).contiguous()  # k x R x B, numbers k x R x K x B
                if self._by_hand:
                    out, kept = steps_by_hand(
                        self._stack, cast(MLP, self._first).activation, objective, space, x, y, lr,
                        self._spec.weight_decay + self._treated.decay,
                    )  # fmt: skip
                    losses = objective.seen(out, kept, y, 2)  # k x R x B
                else:
                    out, losses = self._steps_by_autograd(objective, x, y)  # k x R x C x B, k x R x B
                if (right := objective.right(out, y, 2)) is not None:
                    correct += right.sum((0, 2))
                loss += losses[:, :, None].sum((0, 2, 3), dtype=exact)
                self._treated.end_block(steps, partial(self._images_before, tasks, orders, rows.stop))
            for run, (task, shown) in enumerate(zip(tasks, orders, strict=True)):
                self._treated.shown.add(run, shown, task.pixel_order)
        held = [tensor.detach().flatten(1).isfinite().all(1) for tensor in self._stack.tensors]  # R each
        found = torch.stack([correct, loss, torch.stack(held).all(0).to(exact), *self._treated.seen.to(exact)], 1)
        results = found.tolist()  # the only wait
        extras = self._treated.extra([row[3:] for row in results])
        seconds = time.perf_counter() - began
        return [
            Progress(
                None if tasks[0].regression else int(c),
                total / samples,
                samples,
                seconds,
                bool(finite) and math.isfinite(total),
                extra,
            )
            for (c, total, finite, *_), extra in zip(results, extras, strict=True)
        ]

    def _asked(self, tasks: Sequence[Task], orders: Sequence[NDArray[np.int64]]) -> Tensor:
        """What each run's samples are asked, in the order they are shown: labels (R, n) or numbers (R, n, K)."""
        shown = np.stack([task.asked_of(order) for task, order in zip(tasks, orders, strict=True)])
        asked = torch.from_numpy(shown).to(self._device)
        return asked.to(self._dtype) if asked.is_floating_point() else asked

    def _images_before(
        self, tasks: Sequence[Task], orders: Sequence[NDArray[np.int64]], end: int, run: int
    ) -> Tensor:  # fmt: skip
        """The images (n, ...) that a run has been shown last, as its first layer now takes them."""
        now = tasks[run].pixel_order
        # during an epoch an MLP's first layer stands in the order of the image's pixels
        back = np.argsort(now) if now is not None and isinstance(self._first, MLP) else None
        found = []
        for part in self._treated.shown.last(run, orders[run][:end], now):
            index = torch.from_numpy(part.index).to(self._device)
            pixels = self._images[index].to(self._dtype) / self._data.scale  # n x D
            columns = np.arange(pixels.shape[1]) if part.pixel_order is None else part.pixel_order
            columns = columns if back is None else columns[back]
            found.append(pixels[:, torch.from_numpy(columns).to(self._device)])
        images = torch.cat(found)
        return images if isinstance(self._first, MLP) else images.view(-1, *self._data.shape)

    def _blocks(self, samples: int) -> list[tuple[int, int, int]]:
        """(first sample, steps, batch size) of each block of an epoch."""
        batch = self._spec.batch_size
        full, rest = divmod(samples, batch)
        if self._batch_norm and rest == 1:
            if not full:
                raise InputError("batch normalisation needs at least two samples an epoch.")
            full, rest = full - 1, batch + 1
        most = max(1, BLOCK_ROWS // batch)
        blocks = []
        at = 0
        while at < full:  # a block ends where something is done between two steps
            steps = min(most, full - at, self._treated.steps_to_next(at))
            blocks.append((at * batch, steps, batch))
            at += steps
        return blocks + ([(full * batch, 1, rest)] if rest else [])

    def _space(self, steps: int, batch: int) -> Space:
        key = (steps, batch, self._by_hand)
        if key not in self._spaces:
            runs, rows, pixels = len(self.networks), steps * batch, self._images.shape[1]

            def new(*shape: int) -> Tensor:
                return torch.ones(shape, dtype=self._dtype, device=self._device)

            def by_hand(*shape: int) -> Tensor:
                return new(*shape) if self._by_hand else new(0)

            mlp = isinstance(self._first, MLP)
            hidden = self._stack.tensors[: len(self._stack.linears) - 1] if self._by_hand else []
            width = hidden[0].shape[2] if hidden else 0
            outputs = self._stack.tensors[len(hidden)].shape[2] if hidden else 0
            self._spaces[key] = Space(
                pixels=torch.empty(runs * rows, pixels, dtype=self._images.dtype, device=self._device),
                x=new(runs, rows, pixels + mlp),
                projected=by_hand(runs, rows, width),
                gram=by_hand(runs, rows, rows),
                deltas=by_hand(runs, rows, width),
                z=[new(runs, batch, width) for _ in hidden],
                h=[new(runs, batch, width + 1) for _ in hidden],
                back=by_hand(runs, batch, width),
                out=by_hand(steps, runs, outputs, batch),
                kept=by_hand(steps, runs, outputs, batch),
                error=by_hand(runs, outputs, batch),
            )
        return self._spaces[key]

    def _shown(self, space: Space, index: Tensor, gather: Tensor | None, moves: Moves | None = None) -> Tensor:
        """The images at `index` (R x kB), moved, in [0, 1]: R x kB x (D + 1) for an MLP, else R x kB x C x H x W."""
        runs, rows = index.shape
        pixels = torch.index_select(self._images, 0, index.reshape(-1), out=space.pixels)
        pixels = pixels if moves is None else moves(pixels)
        if isinstance(self._first, MLP):
            space.x[..., :-1].copy_(pixels.view(runs, rows, -1)).div_(self._data.scale)
            return space.x
        x = space.x.copy_(pixels.view(runs, rows, -1)).div_(self._data.scale)
        if gather is not None:
            x = x.gather(2, gather[:, None].expand_as(x))
        return x.view(runs, rows, *self._data.shape)

    # ---- the task's pixel order -------------------------------------------------------------------------------

    def _pixel_orders(self, tasks: Sequence[Task]) -> Tensor | None:
        """Each task's order of pixels (R, D), None where no task has one."""
        if all(task.pixel_order is None for task in tasks):
            return None
        same = np.arange(self._images.shape[1])
        orders = [same if task.pixel_order is None else task.pixel_order for task in tasks]
        return torch.from_numpy(np.stack(orders)).to(self._device)

    @torch.no_grad()
    def _rearrange(self, tasks: Sequence[Task], *, to_image: bool) -> None:
        """Put an MLP's first-layer rows, and their moments, into the order of the image's pixels, or back.

        x[:, p] @ W == x @ V with V[p] = W, and every update rule is elementwise: so a permuted task costs nothing
        a step.
        """
        if not isinstance(self._first, MLP):
            return
        first = self._stack.tensors[0]
        moments = list(self._optimizer.state.get(first, {}).values())
        held = [first, *(m for m in moments if isinstance(m, Tensor) and m.shape == first.shape)]
        held += self._treated.initial[:1]
        for run, task in enumerate(tasks):
            if task.pixel_order is not None:
                rows = np.argsort(task.pixel_order) if to_image else task.pixel_order
                index = torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)
                for tensor in held:
                    tensor[run, :-1] = tensor[run, index]

    # ---- anything else by autograd ----------------------------------------------------------------------------

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        return optimizer_of(self._spec, self._stack.tensors, counted=self._treated.renews_units)

    def _learning_rate(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def _steps_by_autograd(self, objective: Objective, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """k steps on x (R, kB, ...) and what is asked, y (k, R, B) or (k, R, K, B); outputs (k, R, C, B) and losses
        (k, R, B) before each update."""
        steps, batch = len(y), y.shape[-1]
        outs, losses = [], []
        for step in range(steps):
            shown = x[:, step * batch : (step + 1) * batch]
            out, activations = self._forward(shown)  # R x B x C; R x B x width of each hidden layer
            z = out.transpose(1, 2).contiguous()  # R x C x B
            own = objective.losses(z, y[step], 1)
            self._optimizer.zero_grad()
            # the sum over runs of each run's mean loss: every run's gradient is its own
            loss = own.sum() / batch
            labels = y[step].argmax(1) if y.is_floating_point() else y[step]
            torch.autograd.backward(self._treated.penalised(loss, activations, out, labels))
            self._optimizer.step()
            self._treated.end_step(activations, self._forward.seen)
            outs.append(z.detach())
            losses.append(own.detach())
        return torch.stack(outs), torch.stack(losses)

    # ---- the optimiser's state --------------------------------------------------------------------------------

    def state(self) -> list[dict[str, Tensor]]:
        """Each run's moments as `kind.parameter`, shaped as in its network, and the step count: copies."""
        return [copied(self._live_moments(run) | self._treated.state(run)) for run in range(len(self.networks))]

    def _live_moments(self, run: int) -> dict[str, Tensor]:
        """One run's moments as `kind.parameter`, views of the optimiser's own.

        torch counts the steps of a whole tensor at once, of all runs: such a count stands under every name it serves.
        """
        found: dict[str, Tensor] = {}
        held = self._optimizer.state.get(self._stack.tensors[0], {})
        for kind in (kind for kind, value in held.items() if isinstance(value, Tensor)):
            stacked = [self._optimizer.state[tensor][kind] for tensor in self._stack.tensors]
            if stacked[0].dim() == 0:
                found |= {f"{kind}.{name}": stacked[i] for i, name in self._stack.places()}
            else:
                found |= {f"{kind}.{name}": value for name, value in self._stack.views(stacked, run).items()}
        return found

    def change(self, purpose: str, which: Collection[int] | None = None) -> None:
        """Let the interventions do what they do at a change of task or phase, to some runs (default: all)."""
        self._treated.change(purpose, which)

    def load_state(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Put back what `state` returned, for all runs of the cohort."""
        self._treated.load_state(states)
        self._optimizer.state.clear()
        kinds = {key.partition(".")[0] for key in states[0] if not key.startswith("treated")}
        for kind in sorted(kinds):
            whole = kind == "step" and not self._treated.renews_units
            if whole:
                stacked = [torch.zeros((), dtype=torch.float32, device=self._device) for _ in self._stack.tensors]
            else:
                stacked = [torch.zeros_like(tensor, requires_grad=False) for tensor in self._stack.tensors]
            for run, own in enumerate(states):
                views = self._stack.views(stacked, run) if not whole else {}
                for i, name in self._stack.places():
                    (stacked[i] if whole else views[name]).copy_(
                        own[f"{kind}.{name}"] if f"{kind}.{name}" in own else own[f"{kind}.{i}"]  # as once stored
                    )
            for tensor, value in zip(self._stack.tensors, stacked, strict=True):
                self._optimizer.state[tensor][kind] = value
