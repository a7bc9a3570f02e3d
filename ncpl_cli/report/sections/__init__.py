"""The sections of a report, in the order in which they stand. The registry: a new one is a file and a name here."""

from __future__ import annotations

from collections.abc import Callable

from ncpl_cli.report.blocks import Section
from ncpl_cli.report.material import Material
from ncpl_cli.report.sections import (
    architecture,
    collapse,
    correlations,
    diagnostics,
    first_task,
    health,
    interventions,
    learning,
    mechanisms,
    methods,
    overview,
    plasticity,
    provenance,
    transfer,
)

SECTIONS: tuple[Callable[[Material], Section], ...] = (
    overview.draw,
    mechanisms.draw,
    transfer.draw,
    architecture.draw,
    learning.draw,
    collapse.draw,
    plasticity.draw,
    diagnostics.draw,
    correlations.draw,
    first_task.draw,
    interventions.draw,
    health.draw,
    methods.draw,
    provenance.draw,
)
