"""Studies in, results out: correlations and comparisons as frozen values, apart from any drawing.

A name loads what it stands for at its first use: lists of runs need words of this room, and no NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncpl_cli.analysis.comparison import Comparison, compare
    from ncpl_cli.analysis.correlation import all_pairs, correlate
    from ncpl_cli.analysis.results import GroupCorrelation, Options
    from ncpl_cli.analysis.study import Group, Run, Series, Study, groups, load

__all__ = [
    "Comparison", "Group", "GroupCorrelation", "Options", "Run", "Series", "Study", "all_pairs", "compare",
    "correlate", "groups", "load",
]  # fmt: skip

_HOME = {
    "comparison": ("Comparison", "compare"),
    "correlation": ("all_pairs", "correlate"),
    "results": ("GroupCorrelation", "Options"),
    "study": ("Group", "Run", "Series", "Study", "groups", "load"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
