"""Metrics that take seconds or more, measured only where they are asked for: kernel, curvature, churn."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.metrics import curvature, ntk
from ncpl_cli.metrics.churn import churn
from ncpl_cli.metrics.forward import evaluating
from ncpl_cli.metrics.inputs import training_samples
from ncpl_cli.networks import MLP, Network
from ncpl_cli.scenarios.task import Task

CURVATURE_SAMPLES = 2000
CHURN_BATCH = 128
CHURN_REFERENCE = 512
GRAPH_BLOCK = 64
"""Samples whose graph of gradients is kept, of networks that are not an MLP: bounds the memory."""

Found = tuple[dict[str, float], dict[str, str]]


def expensive_metrics(
    network: Network, data: Dataset, task: Task, wanted: Collection[str], *, device: str = "cpu",
    learning_rate: float | None = None,
) -> Found:  # fmt: skip
    """The expensive metrics among `wanted`, in eval mode on training samples of the task, and why one is undefined."""
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    with evaluating(network):
        for found in (
            _ntk(network, data, task, wanted, device),
            _curvature(network, data, task, wanted, device),
            _churn(network, data, task, wanted, device, learning_rate),
        ):
            values |= found[0]
            undefined |= found[1]
    return {n: v for n, v in values.items() if n in wanted}, {n: w for n, w in undefined.items() if n in wanted}


def what_it_takes(network: Callable[[], Network], classes: int, wanted: Collection[str]) -> str | None:
    """In words, the memory that the expensive metrics among `wanted` will take; None where it is not worth a line.

    The network is made only where it is needed to say so.
    """
    asked = {*ntk.NTK_METRICS} & {*wanted}
    return f"{ntk.cost(network(), ntk.SAMPLES, classes)}." if asked else None


def _ntk(network: Network, data: Dataset, task: Task, wanted: Collection[str], device: str) -> Found:
    names = [name for name in ntk.NTK_METRICS if name in wanted]
    return ntk.ntk_metrics(network, training_samples(network, data, task, ntk.SAMPLES, device), names)


def _curvature(network: Network, data: Dataset, task: Task, wanted: Collection[str], device: str) -> Found:
    names = {"hessian_top", "hessian_eps_rank"} & {*wanted}
    if not names:
        return {}, {}
    batch = training_samples(network, data, task, CURVATURE_SAMPLES, device)
    product, count = curvature.hessian_product(network, batch, None if isinstance(network, MLP) else GRAPH_BLOCK)
    like = torch.zeros(count, dtype=next(network.parameters()).dtype, device=device)
    top = curvature.hessian_top(product, like)
    if top is None or math.isnan(top):
        return {}, dict.fromkeys(names, "Lanczos has not settled" if top is None else "the curvature is not finite")
    if top <= 0:
        return {"hessian_top": top}, {"hessian_eps_rank": "the loss does not bend upwards"}
    values = {"hessian_top": top}
    if "hessian_eps_rank" in names:
        values["hessian_eps_rank"] = curvature.hessian_eps_rank(product, like, top)
    return values, {}


def _churn(
    network: Network, data: Dataset, task: Task, wanted: Collection[str], device: str, learning_rate: float | None
) -> Found:
    if "churn" not in wanted:
        return {}, {}
    if learning_rate is None:
        return {}, {"churn": "the learning rate is not known"}
    rows = task.parts.get("train", data.train).mixed
    if len(rows) <= CHURN_BATCH:
        return {}, {"churn": f"needs more than {CHURN_BATCH} training samples"}
    batch = training_samples(network, data, task, rows[:CHURN_BATCH], device)
    reference = training_samples(network, data, task, rows[CHURN_BATCH : CHURN_BATCH + CHURN_REFERENCE], device)
    return {"churn": churn(network, batch, reference, learning_rate)}, {}
