"""A penalty that costs accuracy and has nothing to do with classes: what a regulariser of collapse is compared with.

Holding collapse back makes the first phase learn less, and what has learned less learns the next phase better (the trap
of SCIENCE 4). A placebo of equal cost, its strength found by matching on phase 1, tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ncpl_cli import rng
from ncpl_cli.interventions.decay import Penalty
from ncpl_cli.interventions.intervention import PHASES, TASKS, Batch, option
from ncpl_cli.later import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


@dataclass(frozen=True)
class Placebo(Penalty):
    """(strength/2) times the mean over the minibatch of sum_k (u_k . h)^2, u_k fixed random directions of the features.

    The directions are orthonormal, the same in every run, step and task: drawn from the number `draw` and the width.
    """

    id: ClassVar[str] = "placebo"
    source: ClassVar[str] = "ncpl"

    strength: float = option(0.1, "weight of the term in the loss", least=0)
    directions: int = option(9, "how many; as many as ten classes' means span", least=1, most=65536)
    draw: int = option(0, "which directions", least=0, most=2**31)
    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)

    def penalty(self, batch: Batch) -> Tensor:
        """(strength/2) mean |U^T h|^2, (R,)."""
        h = batch.features.flatten(2)  # R x B x d
        along: Tensor = h @ self.basis(h.shape[2]).to(h)
        return self.strength / 2 * along.square().sum(2).mean(1)

    def basis(self, width: int) -> Tensor:
        """Orthonormal directions (d, k), at most as many as there are dimensions."""
        known = _BASES.get((self.draw, width, self.directions))
        if known is None:
            gauss = rng.stream(self.draw, "placebo", width).standard_normal((width, min(width, self.directions)))
            known = _BASES[self.draw, width, self.directions] = torch.linalg.qr(torch.from_numpy(gauss))[0]
        return known


_BASES: dict[tuple[int, int, int], Tensor] = {}
