"""What an intervention is: options, and what it does to live parameters, at four places of the training loop.

    change(run)     before a task after the first, and before a probe                one run, any engine
    penalty(batch)  a term of the loss, every step                                   R runs at once, stacked engine
    after_step      every step, after the optimiser                                  R runs at once, stacked engine
    recycle(run)    every `every` steps                                              one run, any engine

A sibling overrides what it needs. Which engines carry it is its `engines`; the online engine knows the gradient of
the penalties it lists itself (`pull`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ncpl_cli import parts
from ncpl_cli.later import later
from ncpl_cli.parts import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ncpl_cli.metrics import differentiable
else:  # options are read, and refused, before torch is there
    torch, differentiable = later("torch"), later("ncpl_cli.metrics.differentiable")

_Hook = TypeVar("_Hook", bound=Callable[..., Any])

PHASES = ("warm-up", "probe", "all")
TASKS = ("0", "all")

INITIALISATION = "initialisation"
"""The purpose under which a run's own initialisation is made once more."""

__all__ = ["PHASES", "TASKS", "Batch", "Intervention", "Run", "Treatment", "option", "without_gradients"]


def without_gradients(function: _Hook) -> _Hook:
    """torch.no_grad as a decorator that loads torch when the function is called."""

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        with torch.no_grad():
            return function(*given, **named)

    return call  # type: ignore[return-value]


@dataclass(frozen=True)
class Batch:
    """A minibatch of R runs after the forward pass, for a loss term.

    features (R, B, d), logits (R, B, C), labels (R, B)
    parameters, initial  every parameter by name with a leading R: as it is, and as the run was initialised
    classifier           the name of the classifier's weight
    present              the classes the task trains on, (K,)
    norms                the names of gains and shifts of normalisation
    loss                 the sum over runs of their mean losses, without any penalty
    leaves               the stacked tensors (R, ...) that hold all parameters, by which it can be differentiated
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    parameters: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    classifier: str
    present: Tensor
    norms: frozenset[str] = frozenset()
    loss: Tensor | None = None
    leaves: Sequence[Tensor] = ()

    @cached_property
    def moments(self) -> differentiable.ClassMoments:
        """Class means and deviations, once for all regularisers."""
        return differentiable.class_moments(self.features, self.labels, self.logits.shape[2])

    @property
    def weight(self) -> Tensor:
        """The classifier's weight (R, C, d)."""
        return self.parameters[self.classifier]


@dataclass(frozen=True)
class Run:
    """One run between two steps, for what is done to it in place.

    network     its live parameters
    fresh       makes a freshly initialised network of the same shape from a stream of its own
    moments     the optimiser's state as live tensors, by `kind.parameter`
    images      the samples trained on last, as the network takes them
    memory      what interventions remember of the units, live, by `name.layer`, (units,) or (1,) each
    initial_norms  gives the norm of every parameter as the run was initialised, by name
    recycled    the units of each hidden layer that have begun anew so far, in this one look
    """

    network: Any
    fresh: Callable[[], Any]
    moments: Mapping[str, Tensor]
    images: Tensor | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    initial_norms: Callable[[], Mapping[str, Tensor]] = dict
    recycled: dict[int, Tensor] = field(default_factory=dict)

    def forget(self, parameter: str, index: Any = ...) -> None:
        """Set the optimiser's state, moments and step count, of (a part of) a parameter to zero: it belongs to
        weights that are gone. S23's code keeps the count, so that Adam then takes steps of 2.4 to 4.25 times lr."""
        for name, value in self.moments.items():
            if name.partition(".")[2] == parameter:
                value[index] = 0

    def forget_everything(self) -> None:
        """The same for all parameters."""
        for value in self.moments.values():
            value.zero_()

    def put(self, fresh: nn.Module, prefix: str = "") -> None:
        """Take over the parameters and buffers (of those beginning with `prefix`) of a fresh network."""
        theirs = fresh.state_dict()
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if name.startswith(prefix):
                    value.copy_(theirs[name])


@dataclass(frozen=True)
class Intervention:
    """What all have; every hook does nothing until a sibling overrides it."""

    id: ClassVar[str]
    source: ClassVar[str]
    engines: ClassVar[tuple[str, ...]] = ("stacked",)
    networks: ClassVar[str | None] = None
    """The only network that it knows how to treat; None = any."""
    needs_classes: ClassVar[bool] = False
    """Whether it compares classes within a minibatch, which then must hold several of each."""
    in_loss: ClassVar[bool] = False
    each_step: ClassVar[bool] = False
    renews_units: ClassVar[bool] = False
    """Whether it makes single units anew, whose optimiser state, with its step count, then is their own."""

    @property
    def idle(self) -> bool:
        """Whether these options make it do nothing at all."""
        return False

    @property
    def label(self) -> str:
        """As it is written: `nc1:strength=0.05,clip=200`, parameters at their default left out."""
        return parts.written(self)

    def acts(self, phase: str, task: int) -> bool:
        """Whether it acts in a task; `phase` is one of PHASES in a warm start, elsewhere it says nothing here."""
        of_phase = getattr(self, "phase", "all")
        of_tasks = getattr(self, "tasks", "all")
        return (phase not in PHASES or of_phase in ("all", phase)) and (of_tasks == "all" or task == 0)

    @property
    def every(self) -> int | None:
        """Steps between two calls of `recycle`; None = it is never called."""
        return None

    @property
    def looks_at(self) -> int:
        """How many of the samples trained on last `recycle` is to be given."""
        return 0

    def pull(self) -> tuple[float, bool] | None:
        """(lambda, whether towards the initialisation) of a term lambda/2 |theta - target|^2; None = it is none."""
        return None

    def penalty(self, batch: Batch) -> Tensor:
        """What it adds to the loss of each run, (R,)."""
        raise NotImplementedError

    def change(self, run: Run) -> None:
        """What it does to a run before a new task or a probe."""

    def recycle(self, run: Run) -> int:
        """What it does to a run every `every` steps; returns how many units it has re-initialised."""
        return 0


@dataclass(frozen=True)
class Treatment:
    """The interventions of a cohort, as an engine needs them.

    fresh(run, purpose)  a freshly initialised network of run number `run`, from the stream named by the purpose; for
                         `INITIALISATION` the run's own
    """

    interventions: tuple[Intervention, ...] = ()
    fresh: Callable[[int, str], Any] | None = None
    _norms: dict[int, Mapping[str, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def acting(self, phase: str, task: int) -> list[Intervention]:
        """Those that do something in a task."""
        return [one for one in self.interventions if not one.idle and one.acts(phase, task)]

    def run(self, number: int, network: Any, moments: Mapping[str, Tensor], purpose: str,
            images: Tensor | None = None, memory: Mapping[str, Tensor] | None = None) -> Run:  # fmt: skip
        """A run of the cohort, to be changed in place."""
        assert self.fresh is not None
        fresh = self.fresh
        return Run(
            network, lambda: fresh(number, purpose), moments, images, memory or {}, lambda: self._initial_norms(number)
        )  # fmt: skip

    def _initial_norms(self, number: int) -> Mapping[str, Tensor]:
        """The norm of every parameter of a run as it was initialised, worked out once."""
        if number not in self._norms:
            assert self.fresh is not None
            named = self.fresh(number, INITIALISATION).named_parameters()
            self._norms[number] = {name: torch.linalg.vector_norm(p.detach()) for name, p in named}
        return self._norms[number]

    def change(
        self, networks: Sequence[Any], moments: Callable[[int], Mapping[str, Tensor]], purpose: str,
        which: Collection[int] | None = None, memory: Callable[[int], Mapping[str, Tensor]] = lambda run: {},
    ) -> None:  # fmt: skip
        """Do what is to be done at a change of task or phase, to some runs (default: all)."""
        for one in self.interventions:
            if not one.idle:
                for number in range(len(networks)) if which is None else which:
                    own = f"{one.id} {purpose}"
                    one.change(self.run(number, networks[number], moments(number), own, memory=memory(number)))
