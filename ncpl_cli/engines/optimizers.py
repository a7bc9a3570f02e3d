"""The optimisers of the stacked engine: torch's own, and Adam with a step count for every element.

Every rule is elementwise, so that R stacked runs are trained each as if alone. A parameter whose gradient is zero but
for rounding is moved like any other: under batch normalisation that is the bias of the layer before it, which Adam
and AdamW walk about by up to lr a step (rounding noise divided by its own size). torch does so, hence so do we; what
the network computes in training does not depend on it, and in evaluation only as far as running means lag behind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ncpl_cli.spec import OptimizerSpec


def optimizer_of(spec: OptimizerSpec, tensors: Sequence[Tensor], *, counted: bool) -> torch.optim.Optimizer:
    """The optimiser that a spec names, on these tensors.

    counted  whether parts of a tensor may begin anew between two steps, and so need step counts of their own
    """
    for tensor in tensors:
        tensor.requires_grad_(True)
    if spec.name == "sgd":
        return torch.optim.SGD(
            tensors, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
        )  # fmt: skip
    settings: dict[str, Any] = {"lr": spec.lr, "betas": (spec.beta1, spec.beta2), "eps": spec.eps}
    settings["weight_decay"] = spec.weight_decay
    if counted:
        return CountedAdam(tensors, **settings, decoupled=spec.name == "adamw")
    kind = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return kind(tensors, **settings, fused=True)


def capturable(optimizer: torch.optim.Optimizer, rate: Tensor) -> torch.optim.Optimizer:
    """The same optimiser with its learning rate on the device and nothing left to be made at its first step.

    Moments of zero give the first step that torch's own beginning gives: m = mu 0 + g.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
        if "capturable" in group:
            group["capturable"] = True
        kinds = ("exp_avg", "exp_avg_sq") if "betas" in group else ("momentum_buffer",) if group["momentum"] else ()
        for theta in group["params"]:
            held = optimizer.state[theta]
            if "betas" in group and "step" not in held:
                held["step"] = torch.zeros((), dtype=torch.float32, device=theta.device)
            for kind in kinds:
                if kind not in held:
                    held[kind] = torch.zeros_like(theta, requires_grad=False)
    return optimizer


class CountedAdam(torch.optim.Optimizer):
    """Adam and AdamW (`decoupled`) whose step count `step` has the shape of the parameter, as D24's has.

    theta <- theta - lr m_hat / (sqrt(v_hat) + eps),  m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t)

    Where moments and t are set to zero the next update is Adam's first: at most lr. With moments of zero and an old
    t the second one is 2.4 to 4.25 times lr (the published codes of S23 keep the count).
    """

    def __init__(
        self, tensors: Sequence[Tensor], *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, decoupled: bool = False,
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "decoupled": decoupled}
        super().__init__(list(tensors), defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every tensor that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for theta in group["params"]:
                if theta.grad is None:
                    continue
                held = self.state[theta]
                for kind in ("step", "exp_avg", "exp_avg_sq"):
                    if kind not in held:
                        held[kind] = torch.zeros_like(theta, requires_grad=False)
                gradient, count, m, v = theta.grad, held["step"], held["exp_avg"], held["exp_avg_sq"]
                if group["decoupled"]:
                    theta.mul_(1 - group["lr"] * group["weight_decay"])
                elif group["weight_decay"]:
                    gradient = gradient.add(theta, alpha=group["weight_decay"])
                count.add_(1)
                m.lerp_(gradient, 1 - beta1)
                v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                size = v.div(_begun(beta2, count)).sqrt_().add_(group["eps"])
                theta.addcdiv_(m.div(_begun(beta1, count)), size, value=-group["lr"])


def _begun(beta: float, count: Tensor) -> Tensor:
    """1 - beta^t, with all its digits in float32 too."""
    if beta == 0:
        return torch.ones_like(count)
    return count.mul(math.log(beta)).expm1_().neg_()
