"""Studies in, results out: correlations and comparisons as frozen values, apart from any drawing."""

from __future__ import annotations

from ncpl_cli.analysis.comparison import Comparison, compare
from ncpl_cli.analysis.correlation import all_pairs, correlate
from ncpl_cli.analysis.results import GroupCorrelation, Options
from ncpl_cli.analysis.study import Group, Run, Series, Study, groups, load

__all__ = [
    "Comparison", "Group", "GroupCorrelation", "Options", "Run", "Series", "Study", "all_pairs", "compare",
    "correlate", "groups", "load",
]  # fmt: skip
