"""`ncpl verify`: the reference values themselves, right functions, and each kind of wrong one with its factor."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli.main import call
from ncpl_cli.metrics import collapse, ntk
from ncpl_cli.metrics.features import measure_features
from ncpl_cli.metrics.readouts import readouts
from ncpl_cli.verification.cases import CASES, Case, bfloat16
from ncpl_cli.verification.definitions import OF_CLASSIFIER, OF_FEATURES, eigen, of_collapse, of_units
from ncpl_cli.verification.judge import judge
from tests.test_collapse_accuracy import mixture, truth

Array = np.ndarray[Any, Any]
UNITS = ("dead_units", "dormant_units", "feature_norm", "feature_top", "effective_rank", "srank",
         "srank_squared", "stable_rank", "participation_ratio")  # fmt: skip


@functools.cache
def cases() -> list[Case]:
    return [make() for make in CASES]


def ours(
    features: Array, labels: Array, weight: Array | None, bias: Array | None, jacobian: Array | None = None,
    test_features: Array | None = None, test_labels: Array | None = None,
) -> dict[str, Any]:  # fmt: skip
    found = collapse(features, labels, weight, bias)
    units = measure_features(features, labels, metrics=UNITS).values
    rank = {"rank_between": found.context.get("rank_between")}
    said = found.values | rank | {address.metric: value for address, value in units.items()}
    if test_features is not None:
        said |= readouts((features, labels), (test_features, test_labels), kinds=("ncc", "fixed"))[0]
    return said if jacobian is None else said | kernel_metrics(jacobian, features @ weight.T + bias, labels)


def kernel_metrics(jacobian: Array, logits: Array, labels: Array) -> dict[str, Any]:
    n, classes, size = jacobian.shape
    rows = torch.from_numpy(jacobian.reshape(n * classes, size))
    full = (rows @ rows.T).reshape(n, classes, n, classes)
    whole, trace = ntk.spectrum(full.reshape(n * classes, -1)), ntk.spectrum(ntk.trace_kernel(full))
    both = ntk.gradient_interference(full, torch.from_numpy(logits), torch.from_numpy(labels)) or (None, None)
    return {
        "ntk_effective_rank": ntk.effective_rank(trace), "ntk_condition": ntk.condition(trace),
        "ntk_full_effective_rank": ntk.effective_rank(whole), "ntk_full_condition": ntk.condition(whole),
        "ntk_trace": float(trace.sum()), "ntk_top_share": float(trace[0] / trace.sum()),
        "ntk_centred_effective_rank": ntk.effective_rank(ntk.spectrum(ntk.centred(ntk.trace_kernel(full)))),
        "gradient_interference": both[0], "gradient_interference_negative": both[1],
    }  # fmt: skip


def nc1(x: Array, y: Array, rcond: float = 1e-9) -> float:
    """P20's, written out with a pseudo-inverse in float64."""
    x, y = x.astype(np.float64), np.unique(y, return_inverse=True)[1]
    k = y.max() + 1
    mu = np.stack([x[y == c].mean(0) for c in range(k)])
    m, z = mu - x.mean(0), x - mu[y]
    if k < 2 or (np.linalg.norm(m, axis=1) < 1e-9).all():
        return np.nan
    return float(np.trace(z.T @ z / len(x) @ np.linalg.pinv(m.T @ m / k, rcond=rcond)) / k)


def right(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    return {"nc1": nc1(x, y)}


def forgets_k(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    return {"nc1": nc1(x, y) * len(np.unique(y))}


def cancels(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    """The trace of the total minus that between, from sums of squares."""
    x = x.astype(np.float32)
    mu = np.stack([x[y == c].mean(0) for c in np.unique(y)])
    count = np.array([(y == c).sum() for c in np.unique(y)])
    within = (x**2).sum() - (count[:, None] * mu**2).sum()
    between = ((mu - x.mean(0)) ** 2).sum() / len(mu)
    return {"nc1_ratio": float(within / len(x) / between) if between > 0 and len(mu) > 1 else np.nan}


def sorts_wrongly(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    """Takes the samples for sorted by class."""
    return {"nc1": nc1(x, np.sort(y))}


def drops_a_class(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    kept = y < y.max()
    return {"nc1": nc1(x[kept], y[kept]) if len(np.unique(y)) > 2 else nc1(x, y)}


def float32_moments(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    x = x.astype(np.float32)
    classes = np.unique(y)
    mu = np.stack([x[y == c].mean(0) for c in classes])
    count = np.array([(y == c).sum() for c in classes])
    within = (x.T @ x - (mu * count[:, None]).T @ mu) / len(x)
    m = mu - x.mean(0)
    if len(classes) < 2 or not m.any():
        return {"nc1": np.nan}
    return {"nc1": float(np.trace(within @ np.linalg.pinv(m.T @ m / len(classes), rcond=1e-6)) / len(classes))}


def zero_for_dead(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    return {"nc1": float(np.nan_to_num(nc1(x, y)))}


def zero_mean_for_absent(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    k = int(y.max()) + 1
    mu = np.stack([x[y == c].mean(0) if (y == c).any() else np.zeros(x.shape[1]) for c in range(k)])
    m = mu.astype(np.float64) - x.astype(np.float64).mean(0)
    norms = np.linalg.norm(m, axis=1)
    return {"equinorm_means": float(norms.std(ddof=1) / norms.mean()) if k > 1 and norms.any() else np.nan}


def tiny_cut_off(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    return {"nc1": nc1(x, y, rcond=1e-17)}


def last_of_ties(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    if w is None or len(np.unique(y)) < 2 or not x.any():
        return {}
    x = x.astype(np.float64)
    classes = np.unique(y)
    mu = np.stack([x[y == c].mean(0) for c in classes])
    near = classes[((x[:, None] - mu) ** 2).sum(2).argmin(1)]
    logits = x @ w.T + b
    last = logits.shape[1] - 1 - logits[:, ::-1].argmax(1)
    return {"nc4": float(np.mean(near == last))}


def first_rows(x: Array, y: Array, w: Any, b: Any) -> dict[str, float]:
    return {"dead_units": float((x[:2000] == 0).all(0).mean())}


def full_for_trace(x: Array, y: Array, w: Any, b: Any, jacobian: Any = None) -> dict[str, Any]:
    """Takes the kernel of all outputs for the one summed over them."""
    if jacobian is None:
        return {}
    return {"ntk_effective_rank": kernel_metrics(jacobian, x @ w.T + b, y)["ntk_full_effective_rank"]}


def ridge_through_0(
    x: Array, y: Array, w: Any, b: Any, test_features: Any = None, test_labels: Any = None
) -> dict[str, Any]:  # fmt: skip
    """Ridge without an intercept."""
    if test_features is None:
        return {}
    one_hot = np.eye(y.max() + 1)[y]
    found = np.linalg.solve(x.T @ x / len(x) + 0.01 * (x**2).mean() * np.eye(x.shape[1]), x.T @ one_hot / len(x))
    return {"readout_fixed": np.mean((test_features @ found).argmax(1) == test_labels)}


WRONG: dict[Callable[..., Any], tuple[str, str, float | None]] = {
    forgets_k: ("isotropic", "nc1", 3.0),  # times K = 4: three times too much
    cancels: ("deep-collapse-at-100", "nc1_ratio", None),
    sorts_wrongly: ("dead-and-duplicate", "nc1", None),
    drops_a_class: ("isotropic", "nc1", None),
    float32_moments: ("deep-collapse-at-100", "nc1", None),
    zero_for_dead: ("all-dead", "nc1", None),
    zero_mean_for_absent: ("missing-class", "equinorm_means", None),
    tiny_cut_off: ("dead-and-duplicate", "nc1", None),
    last_of_ties: ("ties", "nc4", None),
    first_rows: ("sorted-rows", "dead_units", None),
    full_for_trace: ("orthogonal-jacobian", "ntk_effective_rank", 2.0),  # C = 3 times
    ridge_through_0: ("read-outs", "readout_fixed", None),
}
"""Functions, a case in which each is wrong, and there the relative error where it is known."""


def test_ours_is_right_in_every_case() -> None:
    found = judge("ours", ours, cases())
    assert found.wrong == [] and found.right == found.cases == len(CASES)
    assert {*found.judged} >= {*OF_FEATURES, *OF_CLASSIFIER, *UNITS, *ntk.NTK_METRICS, "readout_ncc", "readout_fixed"}
    assert set(found.conventions.values()) == {"sample"}
    by_class = judge("class", lambda x, y, w, b: collapse(x, y, w, b, global_mean="class"), cases())
    assert by_class.wrong == [] and by_class.conventions["unbalanced"] == "class"


@pytest.mark.parametrize("function", WRONG, ids=lambda f: f.__name__)
def test_a_wrong_function_is_found_with_its_factor(function: Callable[..., Any]) -> None:
    case, metric, factor = WRONG[function]
    found = judge("wrong", function, cases())
    one = next(w for w in found.wrong if w["case"] == case)
    assert one["metric"] == metric and one.keys() >= {"case", "metric", "expected", "got", "relative"}
    if factor is not None:
        assert one["relative"] == pytest.approx(factor)
        assert one["factor"] == pytest.approx(1 + factor if one["expected"] > 0 else 1 - factor)
    elif one["expected"]:
        assert one["relative"] == pytest.approx((one["got"] - one["expected"]) / one["expected"])
        assert abs(one["relative"]) > 1e-3
    assert found.right == found.cases - len({w["case"] for w in found.wrong})


def test_a_pseudo_inverse_with_a_sound_cut_off_is_right_but_where_it_meets_rounding() -> None:
    wrong = {one["case"] for one in judge("right", right, cases()).wrong}
    assert wrong == set()


@pytest.mark.parametrize(("d", "k"), [(9, 5), (3, 8), (12, 2)])
@pytest.mark.parametrize("global_mean", ["sample", "class"])
def test_the_definitions_agree_with_sixty_digits(d: int, k: int, global_mean: str) -> None:
    x, y = mixture(n=160, d=d, k=k)
    if global_mean == "class":  # where classes are equally large both are the same
        kept = np.concatenate([np.flatnonzero(y == c)[:5] for c in range(k)])
        x, y = x[kept], y[kept]
    draw = np.random.default_rng(0)
    w, b = draw.normal(size=(k, d)), draw.normal(size=k)
    found = of_collapse(x, y, w, b, global_mean)
    for name, value in truth(x, y, w, b).items():
        assert found[name] == pytest.approx(value, rel=1e-12, abs=1e-14), name


def test_jacobi_and_ranks_by_definition() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=(9, 9))
    values, vectors = eigen((a @ a.T).astype(np.longdouble))
    assert np.allclose(values.astype(float), np.linalg.eigvalsh(a @ a.T)[::-1], rtol=1e-12)
    assert np.allclose((vectors @ np.diag(values) @ vectors.T).astype(float), a @ a.T, atol=1e-12)
    x = np.outer(np.arange(1, 30), [1.0, 2, 0, 2])
    assert of_units(x)["effective_rank"] == pytest.approx(1) and of_units(x)["dead_units"] == 0.25
    assert np.array_equal(bfloat16(np.array([1.0, 1.00390625, -3.0])), np.float32([1, 1, -3]))


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(text: str, *arguments: str, name: str = "mod") -> tuple[int, str, str]:
        Path(f"{name}.py").write_text(text)
        code = call(["verify", *arguments])
        return (code, *capsys.readouterr())

    return run


def test_the_document(ask: Any) -> None:
    text = "from tests.test_verify import forgets_k as g\ndef f(*a):\n    print('talks')\n    return g(*a)"
    code, out, err = ask(text, "doc_mod:f", "--json", name="doc_mod")
    document = json.loads(out)
    assert code == 1 and document["function"] == "doc_mod:f" and document["cases"] == len(CASES)
    assert document["right"] == len(CASES) - len(document["wrong"]) and "talks" in err
    assert all(one.keys() >= {"case", "metric", "expected", "got", "relative"} for one in document["wrong"])
    code, out, err = ask("from ncpl_cli.metrics import collapse as f", "good_mod:f", name="good_mod")
    assert code == 0 and out == "" and f"{len(CASES)} of {len(CASES)} cases right" in err
    code, out, err = ask("from tests.test_verify import zero_for_dead as f", "zero_mod:f", name="zero_mod")
    assert code == 1 and "all-dead\tnc1\tundefined\t0.0" in out


def test_exceptions_are_wrong_results_and_no_end(ask: Any) -> None:
    text = (
        "import numpy as np\nfrom tests.test_verify import nc1\n"
        "def f(x, y, w, b):\n    x[:] = x[:]\n    np.linalg.inv(np.cov(x.T))\n"
        "    return {'nc1': nc1(x, y), 'mine': 3}\n"
    )
    code, out, _ = ask(text, "raises_mod:f", "--json", name="raises_mod")
    wrong = json.loads(out)["wrong"]
    assert code == 1 and all(one["got"] is None and "Singular" in one["error"] for one in wrong)
    assert {"all-dead"} <= {one["case"] for one in wrong} and len(wrong) < len(CASES)


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("", (), "MODULE:FUNCTION, --export DIR"), ("", ("bad_mod:f",), "has no 'f'"),
        ("f = 3", ("bad_mod:f",), "not callable"),
        ("", ("nowhere_mod:f",), "cannot be imported"), ("def f(*a): return 3.0", ("bad_mod:f",), "returned a float"),
        ("def f(*a): return {'NC1': 3.0}", ("bad_mod:f",), "no metric id that is known (NC1)"),
        ("def f(*a): return {}", ("bad_mod:f",), "nothing at all"), ("f(", ("bad_mod:f",), "cannot be imported"),
        ("", ("--export", "bad_mod.py"), "not an empty directory"), ("", ("--export", ""), "be empty"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_what_cannot_be_judged_is_exit_2(
    ask: Any, text: str, arguments: tuple[str, ...], words: str, request: pytest.FixtureRequest
) -> None:
    name = f"bad_mod_{abs(hash(request.node.name))}"
    given = tuple(a.replace("bad_mod", name) for a in arguments)
    code, out, err = ask(text, *given, name=name)
    assert code == 2 and out == "" and words in err and "Traceback" not in err


def test_the_cases_are_written(ask: Any) -> None:
    code, out, err = ask("", "--export", "cases", "--json")
    assert code == 0 and json.loads(out)["cases"] == len(CASES) and "cases.json" in err
    listed = json.loads(Path("cases/cases.json").read_text())["cases"]
    assert len(listed) == len(CASES) and all(one["derivation"] for one in listed)
    for one in listed:
        arrays = np.load(Path("cases") / one["file"])
        found = ours(**{"weight": None, "bias": None, **arrays})
        for metric, of in one["values"].items():
            assert of["derivation"] and of["relative_tolerance"] > 0
            if of["value"] is not None:
                close = {"rel": of["relative_tolerance"], "abs": of["absolute_tolerance"]}
                assert found[metric] == pytest.approx(of["value"], **close), (one["case"], metric)


def test_errors_that_are_one_are_one_row(ask: Any) -> None:
    code, out, err = ask("def f(x, y, w, b): import nothing_of_the_kind", "lacks_mod:f", name="lacks_mod")
    (row,) = [line for line in out.splitlines() if "ModuleNotFound" in line]
    assert code == 1 and row.startswith("every case\t") and f"0 of {len(CASES)} cases right" in err
