"""Regression onto random numbers of one scale, then of another (L24): what do large targets leave behind?

pretrain  y = offset + scale N(0, 1) for each image, by squared error
refit     fresh numbers, with a new optimiser
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.errors import InputError
from ncpl_cli.objectives import MSE, Objective
from ncpl_cli.scenarios.task import TRAINED, Task, option, sample_order

FREQUENCY = 1e5
"""Of the sine: neighbouring images have unrelated targets (Lyle et al. 2023)."""

SMALL: dict[str, object] = {
    "network": "mlp", "depth": 2, "optimizer": "adam", "lr": 1e-3, "batch_size": 64, "train_samples": 512,
}  # fmt: skip


def preset(dataset: str, settings: dict[str, object]) -> dict[str, object]:
    """Settings for a data set; of somebody's own all samples are trained on."""
    own = ":" in dataset
    return {key: value for key, value in settings.items() if not (own and key == "train_samples")}


@dataclass(frozen=True)
class TargetScale:
    """Numbers around an offset, then fresh ones, with a new optimiser: what is lost is the ability to fit these.

    Presets: 512 images (of a folder all), MLP 2x100, Adam 1e-3, batch 64.
    """

    id: ClassVar[str] = "target-scale"
    horizon_field: ClassVar[str] = "refit_epochs"
    tasks: ClassVar[int] = 2
    fixed_length: ClassVar[bool] = True
    lockstep: ClassVar[bool] = True
    objective: ClassVar[Objective] = MSE()
    objectives: ClassVar[tuple[str, ...]] = ("mse", "two_hot")
    own_interventions: ClassVar[tuple[str, ...]] = ("optimizer_reset",)

    offset: float = option(0.0, "mean of the first targets", least=-1e6, most=1e6)
    scale: float = option(1.0, "their standard deviation", above=0, most=1e6)
    refit: str = option(
        "zero", "second targets: of mean 0 and deviation 1, as the first ones, or as zero once the output bias has "
        "moved by minus the mean prediction", choices=("zero", "same", "recentred"),
    )  # fmt: skip
    spread: str = option("iid", "drawn for each image, or a fast sine of its pixels", choices=("iid", "sine"))
    pretrain_epochs: int = option(250, "epochs on the first targets")
    refit_epochs: int = option(125, "epochs on the second", identity=False)

    @classmethod
    def of(cls, given: dict[str, Any]) -> TargetScale:
        """The scenario with the options that were given."""
        return cls(**given)

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set."""
        return {"dataset": "digits", **preset(dataset, SMALL)}

    def check_data(self, data: Dataset) -> None:
        """Nothing in these options depends on the data."""

    def check_objective(self, objective: Objective) -> None:
        """Raise InputError where a shift of the bias is no shift of the prediction."""
        if self.refit == "recentred" and objective.id != "mse":
            raise InputError(
                f"--refit recentred moves the output bias, which shifts the prediction of mse, not of {objective.id}.",
                "--refit zero or --refit same",
            )

    def outputs(self, data: Dataset) -> int:
        """One number."""
        return 1

    def task_epochs(self, index: int) -> int:
        """How many epochs a phase has."""
        return self.refit_epochs if index else self.pretrain_epochs

    @property
    def lockstep_key(self) -> TargetScale:
        """What runs that can advance together have in common: the numbers that are asked are each run's own."""
        return replace(self, offset=0.0, scale=1.0)

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """Phase `index` of the run with this seed; one draw for all offsets and scales, so that arms are paired."""
        offset, scale = (self.offset, self.scale) if index == 0 or self.refit == "same" else (0.0, 1.0)
        splits = {"train": data.train, "test": data.test}
        splits |= {} if data.validation is None else {"validation": data.validation}
        targets = {
            name: offset + scale * self._spread(split, data.scale, seed, index, name) for name, split in splits.items()
        }
        return Task(
            index=index, epochs=self.task_epochs(index), order=sample_order(seed, index, len(data.train)),
            train_labels=data.train.labels, test_labels=data.test.labels, phase="refit" if index else "pretrain",
            changes=index > 0, objective=self.objective, outputs=1,
            targets={TRAINED: targets["train"], **targets}, recentre=index > 0 and self.refit == "recentred",
        )  # fmt: skip

    def _spread(self, split: Split, scale: float, seed: int, index: int, name: str) -> NDArray[np.float64]:
        """Numbers (N, 1) of mean 0 and variance 1."""
        if self.spread == "iid":
            return rng.stream(seed, "targets", index, name).standard_normal((len(split), 1))
        pixels = split.images.reshape(len(split), -1).astype(np.float64) / scale
        towards = rng.stream(seed, "target direction", index).standard_normal((pixels.shape[1], 1))
        found: NDArray[np.float64] = np.sqrt(2) * np.sin(FREQUENCY * (pixels @ towards))
        return found
