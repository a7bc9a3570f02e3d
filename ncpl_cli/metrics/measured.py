"""What measuring comes to: values and reasons by address, what they must be read with, and what they took."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from ncpl_cli import html
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.records import Address


@dataclass
class Measured:
    """Values and, where there is none, the reason, by address.

    contexts  what collapse must be read with (n, d, classes, ...), by split and layer
    seconds   what each family of metrics took; `features` is the forward pass that several share
    drawn     how many samples units and ranks were measured on
    """

    values: dict[Address, float] = field(default_factory=dict)
    undefined: dict[Address, str] = field(default_factory=dict)
    contexts: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    drawn: int = 0

    @property
    def counts(self) -> dict[str, dict[str, float]]:
        """How many samples and classes collapse was measured on, by split, and how many samples units were."""
        names = ("n", "classes", "min_class_count", "harmonic_class_count")
        return {
            split: {name: context[name] for name in names if name in context}
            for (split, layer), context in self.contexts.items()
            if layer == "last"
        } | ({"units": {"n": self.drawn}} if self.drawn else {})

    @contextlib.contextmanager
    def timed(self, family: str) -> Iterator[None]:
        """Add the time that a block takes to a family's."""
        began = time.perf_counter()
        yield
        self.seconds[family] = self.seconds.get(family, 0.0) + time.perf_counter() - began

    def put(
        self, values: Mapping[str, float], undefined: Mapping[str, str], split: str = "train", layer: str = "last"
    ) -> None:
        """Add metrics by name, at one split and layer; a value that has a reason to be missing is missing."""
        self.values |= {Address(n, split, layer): v for n, v in values.items() if n not in undefined}
        self.undefined |= {Address(n, split, layer): why for n, why in undefined.items()}
        for name in undefined:
            self.values.pop(Address(name, split, layer), None)

    def add(self, other: Measured) -> None:
        """Take over what was measured beside it."""
        self.values |= other.values
        self.undefined |= other.undefined
        self.contexts |= other.contexts
        self.seconds |= other.seconds

    def _repr_html_(self) -> str:
        addresses = sorted({*self.values, *self.undefined}, key=lambda a: ([*METRICS, a.metric].index(a.metric), a))
        rows = [
            (a.metric, a.split, a.layer, self.values.get(a), METRICS[a.metric].direction if a.metric in METRICS else "",
             self.undefined.get(a, "")) for a in addresses
        ]  # fmt: skip
        return html.shown("Measured", ("metric", "split", "layer", "value", "reads", "undefined"), rows)

    def only(self, wanted: Collection[str]) -> Measured:
        """What is among the wanted metrics; what is not finite is undefined."""
        values = {a: v for a, v in self.values.items() if a.metric in wanted and math.isfinite(v)}
        undefined = {a: "not finite" for a in self.values.keys() - values.keys() if a.metric in wanted}
        undefined |= {a: why for a, why in self.undefined.items() if a.metric in wanted}
        return Measured(values, undefined, self.contexts, self.seconds, self.drawn)
