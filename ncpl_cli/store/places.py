"""What splits and layers can be called: a slip must not become a split of its own."""

from __future__ import annotations

import difflib
import re

SPLITS = ("train", "test", "validation", "unseen", "fine_train", "fine_fresh", "fine_test")

ALIASES = {
    "val": "validation", "valid": "validation", "dev": "validation", "eval": "validation", "holdout": "validation",
    "training": "train", "testing": "test",
}  # fmt: skip

_SPLIT = re.compile(r"[a-z][a-z0-9_]*")
_LAYER = re.compile(r"[A-Za-z0-9_][\w.\-]*")


def doubtful(split: str, layer: str) -> tuple[str, str] | None:
    """What is wrong with a place, and what to write; None where nothing is. Names of one's own are allowed."""
    listed = f"splits are called {', '.join(SPLITS)}, or by a name of your own in small letters"
    if split not in SPLITS:
        low = split.lower()
        near = difflib.get_close_matches(low, SPLITS, n=1, cutoff=0.75)
        if meant := ALIASES.get(low) or (near[0] if near else None):
            return f"{split!r} is no split.", f"did you mean {meant}? {listed}"
        if not _SPLIT.fullmatch(split):
            return f"{split!r} is no split.", listed
    if layer != "last" and (layer.lower() == "last" or not _LAYER.fullmatch(layer)):
        return f"{layer!r} is no layer.", "the last layer is called last, others by letters, digits, _ . and -"
    return None
