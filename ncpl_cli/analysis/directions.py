"""What a low or a high value means, so that a correlation can be said in words."""

from __future__ import annotations

from collections.abc import Mapping

from ncpl_cli.records import Address

DIRECTIONS: dict[str, str] = {
    **dict.fromkeys(
        ("nc1", "nc2", "nc3", "nc2_means", "equinorm_means", "equinorm_weights", "equiangular_means",
         "equiangular_weights", "self_duality", "nc1_ratio", "nc1_fraction", "vci", "gnc2", "bias_collapse", "cdnv",
         "ncc_error", "nc1_test_weak", "nc1_test_train_means"),
        "lower = more collapse",
    ),
    "nc4": "higher = more collapse",
    "plasticity_loss": "higher = more plasticity loss",
    "plasticity_loss_b24": "higher = more plasticity loss",
    "fresh_gap": "higher = more plasticity loss",
    "warm_start_gap": "higher = more plasticity loss",
}  # fmt: skip
"""By metric, as in the catalogue: `lower = more ...`. What is not here goes by its name (`higher test accuracy`)."""

AMOUNTS = frozenset({"more collapse", "more plasticity loss"})
"""What can be had more or less of. The catalogue's other words are no nouns ("higher = more plastic")."""

_OPPOSITE = {"more": "less", "higher": "lower"}


def is_collapse(metric: str) -> bool:
    """Whether a metric says how collapsed features are."""
    return "collapse" in DIRECTIONS.get(metric, "")


def direction(x: str, y: str, r: float, more: Mapping[str, str] | None = None) -> str:
    """A correlation in words: `more collapse goes with more plasticity loss`. `more`: the catalogue's directions."""
    sign_x, words_x = _words(x, more)
    sign_y, words_y = _words(y, more)
    if words_x.removesuffix(f" ({x})") == words_y.removesuffix(f" ({y})"):  # then each needs its address
        words_x, words_y = (f"{words.removesuffix(f' ({a})')} ({a})" for a, words in ((x, words_x), (y, words_y)))
    if r == 0:
        return f"{words_x} goes with neither more nor less of {y}"
    if r * sign_x * sign_y < 0:
        first, _, rest = words_y.partition(" ")
        words_y = f"{_OPPOSITE[first]} {rest}"
    return f"{words_x} goes with {words_y}"


def _words(address: str, more: Mapping[str, str] | None) -> tuple[int, str]:
    metric, split, layer = Address.parse(address)
    side, _, words = (DIRECTIONS.get(metric) or (more or {}).get(metric, "")).partition(" = ")
    place = "" if split == "train" and layer == "last" else f" ({address})"
    if words not in AMOUNTS:
        return 1, f"higher {metric.replace('_', ' ')}{place}"
    return (-1 if side == "lower" else 1), words + place
