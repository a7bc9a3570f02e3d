"""Stacked engine: R networks of one shape trained at once by batched matrices, on CPU, CUDA or MPS."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.engines.engine import Progress
from ncpl_cli.networks import ACTIVATIONS, MLP
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import NetworkSpec, OptimizerSpec

_RESIDENT: weakref.WeakKeyDictionary[Split, dict[tuple[str, torch.dtype], Tensor]] = weakref.WeakKeyDictionary()


def resident(split: Split, scale: float, device: str, dtype: torch.dtype) -> Tensor:
    """The split's images on the device, flattened, in [0, 1]: made once and shared by all runs and tasks."""
    kept = _RESIDENT.setdefault(split, {})
    if (device, dtype) not in kept:
        kept[device, dtype] = torch.from_numpy(split.images).to(device).flatten(1).to(dtype).div_(scale)
    return kept[device, dtype]


class StackedEngine:
    """R MLPs of one shape at once, as batched matrices.

    Weights are stacked as (R, in, out), and the networks' own parameters are views of them. All runs read one copy
    of the images: a task's pixel order is put into the rows of the first layer for the length of an epoch.
    """

    def __init__(self, networks: Sequence[nn.Module], data: Dataset, optimizer: OptimizerSpec, device: str) -> None:
        self.networks = networks
        self._optimizer = optimizer
        self._device = device
        first = cast(MLP, networks[0])
        self._activation = ACTIVATIONS[first.activation]
        self._norm = first.norm
        dtype = next(first.parameters()).dtype
        self._images = resident(data.train, data.scale, device, dtype)  # N x D
        nets = [cast(MLP, net) for net in networks]
        layers = [[*(cast(nn.Linear, h) for h in net.hidden), net.classifier] for net in nets]
        self._weights = [self._stack([net[i] for net in layers], "weight") for i in range(len(layers[0]))]
        self._biases = [self._stack([net[i] for net in layers], "bias") for i in range(len(layers[0]))]
        norms = [list(net.norms) for net in nets] if self._norm != "none" else [[] for _ in nets]
        self._norm_weights = [self._stack([net[i] for net in norms], "weight") for i in range(len(norms[0]))]
        self._norm_biases = [self._stack([net[i] for net in norms], "bias") for i in range(len(norms[0]))]
        self._buffers = [[cast(nn.BatchNorm1d, net[i]) for net in norms] for i in range(len(norms[0]))]
        plain = optimizer.name == "sgd" and not optimizer.momentum and not optimizer.weight_decay
        self._by_hand = plain and self._norm == "none" and first.activation == "relu"
        self._parameters = [*self._weights, *self._biases, *self._norm_weights, *self._norm_biases]
        self._torch = None if self._by_hand else self._make_optimizer()

    @staticmethod
    def refuses(network: NetworkSpec, optimizer: OptimizerSpec, device: str, precision: str) -> str | None:
        """Why this engine cannot carry a run, None when it can."""
        if network.name != "mlp":
            return "the stacked engine carries MLPs"
        if network.norm == "batch" and optimizer.batch_size == 1:
            return "batch normalisation needs batches of at least two samples"
        if precision not in ("float32", "float64") or (precision == "float64" and device == "mps"):
            return f"the stacked engine does not compute in {precision} on {device}"
        return None

    @staticmethod
    def _stack(modules: Sequence[nn.Module], name: str) -> Tensor:
        """One tensor for a parameter of all runs, (R, in, out) or (R, 1, out); each run's parameter becomes a view."""
        parameters = [cast(nn.Parameter, getattr(module, name)) for module in modules]
        if parameters[0].dim() == 2:
            stacked = torch.stack([parameter.detach().t() for parameter in parameters]).contiguous()
            views = [matrix.t() for matrix in stacked]
        else:
            stacked = torch.stack([parameter.detach()[None] for parameter in parameters])
            views = [row[0] for row in stacked]
        for parameter, view in zip(parameters, views, strict=True):
            parameter.data = view
        return stacked

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """torch's own, on stacked tensors: every rule is elementwise, so each run is trained as if alone."""
        settings = self._optimizer
        for tensor in self._parameters:
            tensor.requires_grad_(True)
        if settings.name == "sgd":
            return torch.optim.SGD(
                self._parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
            )
        kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
        return kind(self._parameters, lr=settings.lr, weight_decay=settings.weight_decay)

    def train_epoch(self, tasks: Sequence[Task], orders: Sequence[NDArray[np.int64]], lr: float) -> list[Progress]:
        """One pass over `orders[r]` of `tasks[r]` for every run at once; nothing waits for the device in between."""
        began = time.perf_counter()
        runs, size = len(tasks), len(orders[0])
        order = torch.from_numpy(np.stack(orders)).to(self._device)  # R x n
        labels = torch.from_numpy(np.stack([task.train_labels for task in tasks])).to(self._device).gather(1, order)
        self._permute(tasks, inverse=True)
        correct = torch.zeros(runs, dtype=torch.int64, device=self._device)
        loss = torch.zeros(runs, dtype=torch.float64 if self._device != "mps" else torch.float32, device=self._device)
        if self._torch is not None:
            for group in self._torch.param_groups:
                group["lr"] = lr
        for start in range(0, size, self._optimizer.batch_size):
            index = order[:, start : start + self._optimizer.batch_size]  # R x B
            y = labels[:, start : start + self._optimizer.batch_size]
            if self._norm == "batch" and index.shape[1] == 1:
                continue  # one left-over sample has no batch statistics; torch's own layer refuses it too
            x = self._images.index_select(0, index.reshape(-1)).view(runs, index.shape[1], -1)  # R x B x D
            logits = self._step_by_hand(x, y, lr) if self._by_hand else self._step(x, y)  # R x B x C
            correct += (logits.argmax(2) == y).sum(1)
            loss += F.cross_entropy(logits.flatten(0, 1), y.reshape(-1), reduction="none").view(runs, -1).sum(1)
        self._permute(tasks, inverse=False)
        finite = torch.stack([tensor.detach().flatten(1).isfinite().all(1) for tensor in self._parameters]).all(0)
        seconds = time.perf_counter() - began
        return [
            Progress(int(c), value / size, size, seconds, bool(ok) and math.isfinite(value))
            for c, value, ok in zip(correct.tolist(), loss.tolist(), finite.tolist(), strict=True)
        ]

    def _permute(self, tasks: Sequence[Task], *, inverse: bool) -> None:
        """Put the first layer's rows (and their moments) into image pixel order, or back.

        x[:, p] @ W == x @ V with V[p] = W, and every update rule is elementwise.
        """
        first = self._weights[0]
        moments = list(self._torch.state.get(first, {}).values()) if self._torch is not None else []
        held = [first.detach(), *(m for m in moments if isinstance(m, Tensor) and m.shape == first.shape)]
        for r, task in enumerate(tasks):
            if task.pixel_order is not None:
                rows = np.argsort(task.pixel_order) if inverse else task.pixel_order
                index = torch.from_numpy(rows).to(self._device)
                for tensor in held:
                    tensor[r] = tensor[r][index]

    @torch.no_grad()
    def _step_by_hand(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        """One step of plain SGD on ReLU layers without autograd: no gradient of a weight is ever written down."""
        inputs = [x]  # of each layer, R x B x in
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            inputs.append(torch.baddbmm(bias, inputs[-1], weight).relu_())
        logits = torch.baddbmm(self._biases[-1], inputs[-1], self._weights[-1])
        delta = logits.softmax(2)
        delta.scatter_add_(2, y[..., None], torch.full_like(y[..., None], -1, dtype=delta.dtype))
        delta *= -lr / y.shape[1]  # the step, not the gradient, is what flows back: all later factors are linear
        for layer in range(len(self._weights) - 1, -1, -1):
            weight, h = self._weights[layer], inputs[layer]
            back = torch.bmm(delta, weight.transpose(1, 2)).mul_(h > 0) if layer else delta
            weight.baddbmm_(h.transpose(1, 2), delta)
            self._biases[layer].add_(delta.sum(1, keepdim=True))
            delta = back
        return logits

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step by autograd and torch's optimiser: any activation, any norm, any rule."""
        assert self._torch is not None
        self._torch.zero_grad()
        h = x
        for i, (weight, bias) in enumerate(zip(self._weights[:-1], self._biases[:-1], strict=True)):
            h = self._activation(self._normalised(i, torch.baddbmm(bias, h, weight)))  # R x B x width
        logits = torch.baddbmm(self._biases[-1], h, self._weights[-1])
        # the sum over runs of each run's mean loss: every run's gradient is its own
        total = F.cross_entropy(logits.flatten(0, 1), y.reshape(-1), reduction="sum") / y.shape[1]
        torch.autograd.backward(total)
        self._torch.step()
        return logits.detach()

    def _normalised(self, layer: int, z: Tensor) -> Tensor:
        if self._norm == "none":
            return z
        weight, bias = self._norm_weights[layer], self._norm_biases[layer]
        if self._norm == "layer":
            return F.layer_norm(z, z.shape[-1:]) * weight + bias
        variance, mean = torch.var_mean(z, 1, correction=0, keepdim=True)  # R x 1 x width
        size = z.shape[1]
        with torch.no_grad():
            for r, module in enumerate(self._buffers[layer]):
                assert module.running_mean is not None and module.running_var is not None
                assert module.num_batches_tracked is not None and module.momentum is not None
                module.running_mean.lerp_(mean[r, 0], module.momentum)
                module.running_var.lerp_(variance[r, 0] * (size / (size - 1)), module.momentum)
                module.num_batches_tracked += 1
        return (z - mean) * torch.rsqrt(variance + 1e-5) * weight + bias

    def state(self) -> list[dict[str, Tensor]]:
        """Each run's moments and the step count."""
        found: list[dict[str, Tensor]] = [{} for _ in self.networks]
        if self._torch is None:
            return found
        for number, tensor in enumerate(self._parameters):
            for name, value in self._torch.state.get(tensor, {}).items():
                for r, own in enumerate(found):
                    if isinstance(value, Tensor):
                        own[f"{number}.{name}"] = (value if value.dim() == 0 else value[r]).detach().cpu().clone()
        return found

    def load_state(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Put back what `state` returned, for all runs of the cohort."""
        if self._torch is None or not states[0]:
            return
        for number, tensor in enumerate(self._parameters):
            held: dict[str, Any] = {}
            for key in states[0]:
                owner, _, name = key.partition(".")
                if int(owner) == number:
                    values = [state[key] for state in states]
                    same = values[0].dim() == 0
                    held[name] = values[0].clone() if same else torch.stack(values).to(self._device)
            if held:
                self._torch.state[tensor] = held
