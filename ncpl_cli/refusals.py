"""Which engine can carry a run, asked before any of them is loaded: that takes longer than a dry run may.

Each function below is the `refuses` of the engine of its name: why it cannot carry a run, None when it can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ncpl_cli.interventions import Intervention
from ncpl_cli.objectives import CROSS_ENTROPY, MSE, CrossEntropy, Objective
from ncpl_cli.spec import NetworkSpec, OptimizerSpec


def online(
    network: NetworkSpec, optimizer: OptimizerSpec, device: str, precision: str,
    interventions: Sequence[Intervention] = (), objective: Objective = CROSS_ENTROPY,
) -> str | None:  # fmt: skip
    """Per-sample SGD of ReLU MLPs on the CPU."""
    if device != "cpu":
        return f"the online engine runs on the CPU, not on {device}"
    if network.name != "mlp" or network.norm != "none" or network.activation != "relu":
        return "the online engine carries ReLU MLPs without normalisation"
    if optimizer.name != "sgd" or optimizer.momentum:
        return "the online engine carries SGD without momentum"
    if precision not in ("float32", "float64"):
        return f"the online engine computes in float32 or float64, not in {precision}"
    if not isinstance(objective, CrossEntropy | MSE):
        return f"the online engine carries cross-entropy and squared error, not {objective.label}"
    return _acting("online", interventions)


def stacked(
    network: NetworkSpec, optimizer: OptimizerSpec, device: str, precision: str,
    interventions: Sequence[Intervention] = (), objective: Objective = CROSS_ENTROPY,
) -> str | None:  # fmt: skip
    """Batched matrices, with one of three optimisers."""
    if optimizer.name not in ("sgd", "adam", "adamw"):
        return f"the stacked engine carries the optimisers sgd, adam and adamw, not {optimizer.name}"
    if network.norm == "batch" and optimizer.batch_size == 1:
        return "batch normalisation needs batches of at least two samples"
    if precision == "tf32" and not device.startswith("cuda"):
        return f"tf32 is arithmetic of CUDA devices, not of {device}"
    if precision == "bf16" and network.name == "mlp":
        return "the stacked engine trains MLPs in float32, tf32 or float64"
    if precision == "float64" and device == "mps":
        return f"the stacked engine does not compute in {precision} on {device}"
    return _acting("stacked", interventions)


def captured(
    network: NetworkSpec, optimizer: OptimizerSpec, device: str, precision: str,
    interventions: Sequence[Intervention] = (), objective: Objective = CROSS_ENTROPY,
) -> str | None:  # fmt: skip
    """Graphs of a CUDA device, of networks of modules."""
    if not device.startswith("cuda"):
        return f"the captured engine launches graphs of a CUDA device, not of {device}"
    if network.name == "mlp":
        return "the captured engine trains networks of modules, one at a time; MLPs go together"
    if precision == "float64":
        return "the captured engine keeps its learning rate in float32, too coarse for float64"
    within = [one.id for one in interventions if not one.idle and (one.in_loss or one.every or one.renews_units)]
    if within:
        return f"the captured engine does not carry what acts within an epoch: {', '.join(within)}"
    return stacked(network, optimizer, device, precision, interventions, objective)


def _acting(engine: str, interventions: Sequence[Intervention]) -> str | None:
    lacking = [one.id for one in interventions if not one.idle and engine not in one.engines]
    return f"the {engine} engine does not carry {', '.join(lacking)}" if lacking else None


REFUSALS: dict[str, Callable[..., str | None]] = {"online": online, "stacked": stacked, "captured": captured}
"""By engine, in the order of engines.ENGINES."""
