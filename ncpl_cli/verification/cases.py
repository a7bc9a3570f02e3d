"""The reference cases: inputs on which codes go wrong, each with its right values and where they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.rng import stream
from ncpl_cli.verification.definitions import Values, of_collapse, of_kernel, of_readouts, of_units

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """What a function is given, and what it must say.

    values      right values by metric id; None = undefined
    further     arrays for functions that have a parameter of that name: jacobian (N, C, P), test_features, test_labels
    by_class    the same with the mean of class means as global mean, where that is another: both conventions are right
    derivation  where the values come from; `closed` by metric where it is a closed form
    relative    how far off a value may be, as a share of it; `absolute`: or by itself, for those that are 0
    """

    name: str
    features: Array
    labels: Array
    weight: Array | None
    bias: Array | None
    derivation: str
    values: Values
    by_class: Values = field(default_factory=dict)
    closed: Mapping[str, str] = field(default_factory=dict)
    relative: float = 1e-5
    absolute: float = 1e-9
    further: Mapping[str, Array] = field(default_factory=dict)

    def tolerance(self, metric: str) -> tuple[float, float]:
        """Relative and absolute: a distance that is a root of squares has half their digits at 0."""
        return self.relative, max(self.absolute, 1e-6) if metric in ROOTS else self.absolute


ROOTS = ("nc2", "nc3", "nc2_means", "self_duality", "equinorm_means", "equinorm_weights", "equiangular_means",
         "equiangular_weights", "bias_collapse", "gnc2")  # fmt: skip

BY_DEFINITION = "the definitions in extended precision (long doubles, Jacobi rotations), from the numbers as given"


def mixture(name: str, n: int = 240, d: int = 9, k: int = 5, noise: float = 0.5) -> tuple[Array, Array, Array, Array]:
    """Gaussian classes in no order, a classifier that is not aligned."""
    draw = stream(0, "reference case", name)
    y = draw.permutation(np.concatenate([np.arange(k), draw.integers(0, k, n - k)]))
    x = 2 * draw.standard_normal((k, d))[y] + noise * draw.standard_normal((n, d))
    return x, y, draw.standard_normal((k, d)), draw.standard_normal(k)


def by_definition(name: str, x: Array, y: Array, w: Array | None, b: Array | None, why: str, **more: Any) -> Case:
    """A case whose values are those of the definitions."""
    values = of_collapse(x, y, w, b) | of_units(x)
    other = of_collapse(x, y, w, b, "class") | of_units(x)
    if values["nc1"] is None:  # who is nearest where all means are one, or there is one, is a matter of taste
        values, other = ({n: v for n, v in of.items() if n not in ("nc4", "ncc_error")} for of in (values, other))
    same = all(v is None or o is None or math.isclose(v, o, rel_tol=1e-9, abs_tol=1e-12)
               for v, o in zip(values.values(), other.values(), strict=True))  # fmt: skip
    return Case(name, x, y, w, b, f"{why} Values: {BY_DEFINITION}.", values, {} if same else other, **more)


def simplex() -> Case:
    k, d = 6, 9
    q = np.linalg.qr(stream(0, "reference case", "simplex").standard_normal((d, d)))[0][:, :k]
    etf = (math.sqrt(k / (k - 1)) * q @ (np.eye(k) - 1 / k)).T  # K x d
    y = np.arange(42) * 5 % k
    zero = ("nc1", "nc1_ratio", "nc1_fraction", "vci", "cdnv", "nc2_means", "nc2", "nc3", "equinorm_means",
            "equinorm_weights", "equiangular_means", "equiangular_weights", "self_duality", "bias_collapse",
            "ncc_error")  # fmt: skip
    values: Values = dict.fromkeys(zero, 0.0)
    values |= {"nc4": 1.0, "gnc2": -0.5 * math.log(2 * k / (k - 1)), "rank_between": float(k - 1)}
    values |= dict.fromkeys(("stable_rank", "effective_rank", "participation_ratio"), float(k - 1))
    return Case(
        "simplex", etf[y], y, etf, np.zeros(k),
        "Every sample is its class's corner of a simplex equiangular tight frame, and the classifier is the frame: "
        "complete collapse.",
        values, closed={"gnc2": "unit corners are sqrt(2K/(K-1)) apart", "effective_rank": "K-1 equal singular values"},
    )  # fmt: skip


def isotropic() -> Case:
    k, s, t = 4, 3.0, 0.5
    y = np.repeat(np.arange(k), 2 * k)
    x = s * np.eye(k)[y] + np.tile(np.concatenate([np.eye(k), -np.eye(k)]), (k, 1)) * t
    order = stream(0, "reference case", "isotropic").permutation(len(y))
    closed = {
        "nc1": "(K-1) (t^2/K) / (s^2/K) / K: Sigma_W = t^2/K I, the K-1 eigenvalues of Sigma_B are s^2/K",
        "cdnv": "t^2 / (2 s^2): v_c = t^2, means are sqrt(2) s apart",
        "nc1_ratio": "t^2 / (s^2 (K-1)/K)", "vci": "1 - s^2/(s^2 + t^2) along each of K-1 directions",
        "gnc2": "-log(2K/(K-1))/2", "nc1_fraction": "t^2 / (t^2 + s^2 (K-1)/K)",
    }  # fmt: skip
    values: Values = {
        "nc1": (k - 1) * t**2 / s**2 / k, "cdnv": t**2 / (2 * s**2), "nc1_ratio": t**2 / (s**2 * (k - 1) / k),
        "nc1_fraction": t**2 / (t**2 + s**2 * (k - 1) / k), "vci": t**2 / (s**2 + t**2), "nc2_means": 0.0,
        "gnc2": -0.5 * math.log(2 * k / (k - 1)), "equinorm_means": 0.0, "equiangular_means": 0.0, "ncc_error": 0.0,
        "rank_between": float(k - 1), "nc2": math.sqrt(2 - 2 * math.sqrt((k - 1) / k)), "equinorm_weights": 0.0,
        "nc4": 1.0, "equiangular_weights": 1 / (k - 1),
    }  # fmt: skip
    return Case(
        "isotropic", x[order], y[order], np.eye(k), np.zeros(k),
        "Means s e_c (s = 3), noise +-t along each of K = 4 axes (t = 1/2): Sigma_W is a multiple of the identity.",
        values, closed=closed,
    )  # fmt: skip


def unbalanced() -> Case:
    x, y, w, b = mixture("unbalanced", n=500)
    kept = (y == 0) | (np.arange(len(y)) % 9 == 0)
    return by_definition(
        "unbalanced", x[kept], y[kept], w, b,
        "One class has most of the samples. The global mean may be that of all samples or of the class means.",
    )  # fmt: skip


def missing() -> Case:
    x, y, w, b = mixture("missing", k=6)
    kept = (y != 2) & (y != 5)
    return by_definition(
        "missing-class", x[kept], y[kept], w, b,
        "Two classes that the classifier knows have no samples: K = 4, W restricted to their rows but in nc4 and "
        "bias_collapse. A mean of zero in their place is no mean.",
    )  # fmt: skip


def few_dimensions() -> Case:
    x, y, w, b = mixture("d < C", d=3, k=8, n=400)
    return by_definition("fewer-dimensions", x, y, w, b, "Three dimensions, eight classes: Sigma_B has rank 3.")


def useless() -> Case:
    x, y, w, b = mixture("useless", d=6)
    wide = np.concatenate([np.maximum(x, 0), np.zeros((len(x), 2)), np.maximum(x[:, 1:3], 0)], axis=1)
    w = np.concatenate([w, w[:, :4]], axis=1)
    return by_definition(
        "dead-and-duplicate", wide, y, w, b,
        "Two features are always zero and two are copies: a pseudo-inverse must see that; two of ten units are dead.",
    )  # fmt: skip


def equal_means() -> Case:
    x = np.concatenate([np.eye(4), -np.eye(4)])
    y = np.tile(np.arange(4) % 2, 2)
    w = np.array([[1.0, 0, 0, 0.5], [0, 1, 0, 0]])
    return by_definition(
        "no-between-scatter", np.tile(x, (4, 1)), np.tile(y, 4), w, np.zeros(2),
        "All class means are the same point: what is divided by their scatter is undefined, not 0.",
    )  # fmt: skip


def dead() -> Case:
    _, y, w, b = mixture("dead", n=60)
    return by_definition(
        "all-dead", np.zeros((60, 9)), y, w, b, "Every unit is dead. That is no collapse: nc1 is undefined, not 0."
    )


def one_class() -> Case:
    x, y, w, b = mixture("one class", n=50)
    return by_definition("one-class", x, 0 * y, w, b, "One class has nothing to collapse from: undefined.")


def deep(offset: float) -> Case:
    draw = stream(0, "reference case", "deep")
    y = draw.permutation(np.arange(300) % 5)
    means = (3 * draw.standard_normal((5, 9)) + offset).astype(np.float32)
    unit = max(float(np.spacing(np.abs(means)).max()), 1e-6)
    x = (means[y] + np.round(2 * draw.standard_normal((300, 9))) * unit).astype(np.float32)
    w = draw.standard_normal((5, 9))
    return by_definition(
        f"deep-collapse-at-{offset:g}", x, y, w, draw.standard_normal(5),
        f"float32, noise in units of the last place around means at {offset:g}: sums of squares minus squares of sums "
        "have no digits left here, and neither have means in float32.",
        relative=1e-4, absolute=1e-20,
    )  # fmt: skip


def ties() -> Case:
    draw = stream(0, "reference case", "ties")
    y = np.arange(64) % 4
    x = np.maximum(draw.integers(-4, 5, (64, 6)), 0) * 1.0
    x[::3] = 0
    w = draw.integers(-2, 3, (4, 6)) * 1.0
    w[3] = w[1]
    return by_definition(
        "ties", x, y, w, np.zeros(4),
        "Samples without activity and two equal rows of the classifier: of equal logits the first class is predicted.",
    )  # fmt: skip


def sorted_rows() -> Case:
    draw = stream(0, "reference case", "sorted")
    y = np.sort(np.arange(4000) % 8)
    x = np.maximum(draw.standard_normal((4000, 12)), 0) * (np.arange(12) % 8 == y[:, None])
    x[:, 11] = draw.random(4000)
    return by_definition(
        "sorted-rows", x.astype(np.float32), y, draw.standard_normal((8, 12)), draw.standard_normal(8),
        "Saved class by class, each class with units of its own: the first rows say nothing of the whole.",
        relative=1e-5,
    )  # fmt: skip


def many() -> Case:
    x, y, w, b = mixture("many", n=1500, d=12, k=300)
    return by_definition("many-classes", x, y, w, b, "300 classes in 12 dimensions, five samples each on average.")


def rounded(name: str, to: Callable[[Array], Array], what: str) -> Case:
    x, y, w, b = mixture(name)
    return by_definition(name, to(x), y, w, b, f"{what}; the values are those of the rounded numbers.", relative=1e-5)


def bfloat16(x: Array) -> Array:
    """The float32 values of bfloat16: the upper half of their bits."""
    found: Array = (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return found


def bare() -> Case:
    x, y, _, _ = mixture("bare")
    return by_definition("no-classifier", x, y, None, None, "Features alone.")


FURTHER = ("jacobian", "test_features", "test_labels")
"""Parameters that a function may have beside the four, None in the cases that have nothing for them."""


def even_kernel() -> Case:
    n, c = 5, 3
    j = np.einsum("n,nck->nck", np.array([2.0, 1, 1, 1, 1]), np.eye(n * c).reshape(n, c, n * c))
    p = np.array([4.0, 1, 1, 1, 1]) / 8
    rank = float(np.exp(-(p * np.log(p)).sum()))
    values: Values = {
        "ntk_effective_rank": rank, "ntk_condition": 4.0, "ntk_full_effective_rank": c * rank,
        "ntk_full_condition": 4.0, "gradient_interference": 0.0, "gradient_interference_negative": 0.0,
        "ntk_trace": 24.0, "ntk_top_share": 0.5,
    }  # fmt: skip
    draw = stream(0, "reference case", "even kernel")
    return Case(
        "orthogonal-jacobian", draw.standard_normal((n, 4)), np.arange(n) % c,
        draw.standard_normal((c, 4)), np.zeros(c),
        "Rows of the Jacobian are orthogonal, of length 2 for the first sample and 1 for others: no sample pulls at "
        "what another does.",
        values, further={"jacobian": j},
        closed={"ntk_effective_rank": "eigenvalues of K are 3 x (4, 1, 1, 1, 1)",
                "ntk_full_effective_rank": "each eigenvalue three times: C times the rank", "ntk_condition": "4 / 1"},
    )  # fmt: skip


def kernel(size: int) -> Case:
    n, c = 6, 4
    draw = stream(0, "reference case", "kernel", size)
    j = draw.standard_normal((n, c, size)) * np.exp(draw.standard_normal((n, 1, 1)))
    x, y, w, b = draw.standard_normal((n, 5)), draw.integers(0, c, n), draw.standard_normal((c, 5)), np.zeros(c)
    j[1] = j[0] if size < n * c else j[1]
    singular = ", two samples alike: the kernels are singular, and have no condition" if size < n * c else ""
    return Case(
        f"jacobian-of-{size}", x, y, w, b,
        f"{n} samples, {c} outputs, {size} parameters{singular}. Values: {BY_DEFINITION}.",
        of_kernel(j, x, y, w, b), further={"jacobian": j},
    )  # fmt: skip


def read_out() -> Case:
    x, y, w, b = mixture("read-out", n=90, d=7, k=6, noise=3.0)
    t, u, _, _ = mixture("read-out test", n=70, d=7, k=6, noise=3.0)
    kept = (y != 4) & ((y != 0) | (np.arange(90) % 3 == 0))
    x, t = np.exp(x / 4) + 20, np.exp(t / 4) + 20
    t = t[u < 5] + (x[y == 1].mean(0) - x.mean(0)) * (u[u < 5] == 1)[:, None]
    return Case(
        "read-outs", x[kept], y[kept], w, b,
        f"Unbalanced, far from 0, and with a label among the tests that was not trained on. Values: {BY_DEFINITION}.",
        of_readouts(x[kept], y[kept], t, u[u < 5]), further={"test_features": t, "test_labels": u[u < 5]},
    )  # fmt: skip


CASES: tuple[Callable[[], Case], ...] = (
    simplex, isotropic, unbalanced, missing, few_dimensions, useless, equal_means, dead, one_class,
    lambda: deep(0.0), lambda: deep(100.0), ties, sorted_rows, many,
    lambda: rounded("float16", lambda x: x.astype(np.float16), "Features are float16"),
    lambda: rounded("bfloat16", bfloat16, "Features are the float32 values of bfloat16"), bare,
    even_kernel, lambda: kernel(60), lambda: kernel(8), read_out,
)  # fmt: skip
"""Every reference case, in the order in which they run. The registry."""
