"""Online engine: compiled per-sample or small-batch SGD for ReLU MLPs on the CPU, one core a run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.data.sparse import padded, sparse
from ncpl_cli.engines.engine import Progress
from ncpl_cli.engines.online_kernel import kernel
from ncpl_cli.networks import MLP
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import NetworkSpec, OptimizerSpec


class OnlineEngine:
    """Compiled per-sample SGD for ReLU MLPs on the CPU.

    Skips zero pixels and inactive units exactly. Releases the GIL, so runs on several threads use several cores;
    a run's bits depend on nothing but itself.
    """

    def __init__(self, networks: Sequence[nn.Module], data: Dataset, optimizer: OptimizerSpec, device: str) -> None:
        assert device == "cpu"
        self.networks = networks
        self._optimizer = optimizer
        self._dtype = next(networks[0].parameters()).detach().numpy().dtype
        self._images = sparse(data.train, data.scale, self._dtype)
        self._classes = data.classes

    @staticmethod
    def refuses(network: NetworkSpec, optimizer: OptimizerSpec, device: str, precision: str) -> str | None:
        """Why this engine cannot carry a run, None when it can."""
        if device != "cpu":
            return f"the online engine runs on the CPU, not on {device}"
        if network.name != "mlp" or network.norm != "none" or network.activation != "relu":
            return "the online engine carries ReLU MLPs without normalisation"
        if optimizer.name != "sgd" or optimizer.momentum or optimizer.weight_decay:
            return "the online engine carries SGD without momentum and weight decay"
        if precision not in ("float32", "float64"):
            return f"the online engine computes in float32 or float64, not in {precision}"
        return None

    def train_epoch(self, tasks: Sequence[Task], orders: Sequence[NDArray[np.int64]], lr: float) -> list[Progress]:
        """One pass over `orders[r]` of `tasks[r]` for each run, one after another."""
        return [self._train(cast(MLP, n), t, o, lr) for n, t, o in zip(self.networks, tasks, orders, strict=True)]

    def _train(self, network: MLP, task: Task, order: NDArray[np.int64], lr: float) -> Progress:
        began = time.perf_counter()
        buffers = self._gather(network, task.pixel_order)
        width, outputs = buffers["w_out"].shape
        correct, loss = kernel(width, outputs)(
            order, self._images.starts, self._images.pixels, self._images.values, task.train_labels,
            buffers["w1"], buffers["hidden"], buffers["w_out"], buffers["biases"], buffers["b_out"],
            self._dtype.type(lr), self._optimizer.batch_size, self._classes,
        )  # fmt: skip
        # a sparse loop never multiplies by the zeros that would turn an infinity into NaN: look for both
        finite = math.isfinite(loss) and all(bool(np.isfinite(buffer).all()) for buffer in buffers.values())
        self._scatter(network, task.pixel_order, buffers)
        return Progress(int(correct), loss / len(order), len(order), time.perf_counter() - began, finite)

    def _gather(self, network: MLP, pixel_order: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
        """The parameters as the kernel reads them: rows are inputs, padded; first-layer rows in image pixel order.

        The network sees x[:, pixel_order], and x[:, pixel_order] @ W == x @ V with V[pixel_order] = W: the task's
        permutation is put into the weights, so all tasks and runs share one copy of the images.
        """
        linears = [layer for layer in network.hidden if isinstance(layer, nn.Linear)]
        width, outputs = padded(linears[0].out_features), padded(network.classifier.out_features)
        w1 = np.zeros((linears[0].in_features, width), self._dtype)
        w1[slice(None) if pixel_order is None else pixel_order, : linears[0].out_features] = _numpy(linears[0].weight).T
        hidden = np.zeros((max(1, len(linears) - 1), width, width), self._dtype)
        for matrix, layer in zip(hidden, linears[1:], strict=False):
            matrix[: layer.in_features, : layer.out_features] = _numpy(layer.weight).T
        biases = np.zeros((len(linears), width), self._dtype)
        for row, layer in zip(biases, linears, strict=True):
            row[: layer.out_features] = _numpy(layer.bias)
        w_out, b_out = np.zeros((width, outputs), self._dtype), np.zeros(outputs, self._dtype)
        classifier = network.classifier
        w_out[: classifier.in_features, : classifier.out_features] = _numpy(classifier.weight).T
        b_out[: classifier.out_features] = _numpy(classifier.bias)
        return {"w1": w1, "hidden": hidden, "w_out": w_out, "biases": biases, "b_out": b_out}

    def _scatter(
        self, network: MLP, pixel_order: NDArray[np.int64] | None, buffers: Mapping[str, NDArray[Any]]
    ) -> None:
        """Write the kernel's parameters back into the network, in place."""
        linears = [layer for layer in network.hidden if isinstance(layer, nn.Linear)]
        w1 = buffers["w1"] if pixel_order is None else buffers["w1"][pixel_order]
        _numpy(linears[0].weight)[...] = w1[:, : linears[0].out_features].T
        for matrix, layer in zip(buffers["hidden"], linears[1:], strict=False):
            _numpy(layer.weight)[...] = matrix[: layer.in_features, : layer.out_features].T
        for row, layer in zip(buffers["biases"], linears, strict=True):
            _numpy(layer.bias)[...] = row[: layer.out_features]
        classifier = network.classifier
        _numpy(classifier.weight)[...] = buffers["w_out"][: classifier.in_features, : classifier.out_features].T
        _numpy(classifier.bias)[...] = buffers["b_out"][: classifier.out_features]

    def state(self) -> list[dict[str, Tensor]]:
        """Plain SGD remembers nothing."""
        return [{} for _ in self.networks]

    def load_state(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Nothing to put back."""


def _numpy(parameter: torch.Tensor) -> NDArray[Any]:
    return parameter.detach().numpy()
