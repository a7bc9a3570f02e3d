"""How a report says things: metrics in words, terms explained once, sources by author and year."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ncpl_cli.references import cited, said
from ncpl_cli.report.blocks import Block, Commands, Section, Text, table

DEFINITIONS = (
    "Neural collapse: late in training the features of each class contract to their mean, and the means spread evenly; "
    "nc1, the spread within classes against that between them, falls towards 0.",
    "Plasticity loss: a trained network learns the next task worse than it learned the first; plasticity_loss is the "
    "first task's first-epoch accuracy minus this task's.",
)
"""The two sentences that a report begins with."""

WORDS = {
    "nc1": "within-class scatter", "nc2": "classifier's distance from a simplex", "nc3": "classifier against means",
    "nc4": "nearest mean agrees", "cdnv": "class-distance variance", "ncc_error": "nearest-mean error",
    "online_accuracy": "accuracy while learning", "test_accuracy": "test accuracy",
    "train_accuracy": "training accuracy", "train_loss": "training loss", "test_loss": "test loss",
    "plasticity_loss": "plasticity loss", "plasticity_loss_b24": "plasticity loss, published definition",
    "fresh_gap": "fresh network minus this one", "probe_test_accuracy": "test accuracy of probes",
    "warm_start_gap": "cold start minus warm start", "dead_units": "dead units", "dormant_units": "dormant units",
    "effective_rank": "effective rank of features", "stable_rank": "stable rank of features",
    "weight_norm": "norm of the weights", "feature_norm": "norm of the features",
    "gradient_norm": "norm of the gradient", "distance_from_init": "distance from the initial weights",
    "validation_accuracy": "validation accuracy",
}  # fmt: skip
"""What stands before a metric's id."""

TERMS = {
    "run": "one network trained under one seed; the independent unit of every interval and p-value",
    "group": "runs that differ only in their seed",
    "arm": "a group that is compared with the plain one",
    "plain": "without an intervention",
    "probe": "a copy of the network, trained on something new to see how well it still learns",
    "online accuracy": "share of samples predicted right before the update that uses them",
    "window": "a stretch of tasks or epochs in which r is computed; it slides by one row",
    "detrended": "after a straight line in time is taken out of both series: what is left is not the shared trend",
    "first differences": "correlation of the changes from one point to the next",
    "specification": "one defensible choice of method, window, controls and metric; all of them make the multiverse",
    "undecided": "the interval includes 0, or a control or another defensible choice takes the result away",
    "matched": "compared with plain networks that had learned equally much before",
    "head start": "the first task alone starts from initialisation, so that plasticity loss can be negative",
    "nc1@test": "a metric on another split; nc1@train/layer2 is of a hidden layer",
}
"""Terms of a report, explained in its glossary where it uses them."""


def titled(panel: str) -> str:
    """A panel's title with the metric in words first: `within-class scatter: nc1 (lower = more collapse)`."""
    metric = panel.partition(" ")[0].partition("@")[0]
    words = WORDS.get(metric)
    return panel if words is None or words == metric.replace("_", " ") else f"{words}: {panel}"


def shortened(labels: Iterable[str], most: int = 170) -> dict[str, str]:
    """Labels that fit a legend, by the whole ones, which tables have; those that begin alike get a number."""
    cut = {label: label if len(label) <= most else f"{label[: most - 1]}…" for label in labels}
    alike: Counter[str] = Counter()
    for label, short in cut.items():
        alike[short] += 1
        cut[label] = short if alike[short] == 1 else f"{short} ({alike[short]})"
    return cut


def in_full(section: Section) -> Section:
    """The section with every source's code as author and year."""
    return replace(section, blocks=tuple(_each(block, said) for block in section.blocks))


def texts_of(sections: list[Section]) -> list[str]:
    """Every text of some sections."""
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    for section in sections:
        for block in section.blocks:
            _each(block, keep)
    return found


def _each(value: Any, change: Callable[[str], str]) -> Any:
    """A block with all its texts changed; ids, columns, commands and what is drawn stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each(one, change) for one in value)
    if is_dataclass(value) and not isinstance(value, type | Commands):
        kept = ("id", "columns", "kind", "draw")
        changed = {f.name: _each(getattr(value, f.name), change) for f in fields(value) if f.name not in kept}
        return replace(value, **changed)
    return value


def back_matter(sections: list[Section]) -> Section:
    """The glossary of terms that the report uses, and the publications that it names."""
    texts = texts_of(sections)
    whole = " ".join(texts).lower()
    terms = [(term, meaning) for term, meaning in TERMS.items() if term in whole]
    references = cited(texts)
    blocks: list[Block] = [table("glossary-terms", "Terms of this report", ("term", "meaning"), terms)] if terms else []
    if references:
        blocks.append(Text(tuple(one.line for one in references), title="References"))
    return Section("glossary", "Glossary and references", tuple(blocks))
