"""The multiverse against every specification written out, its test under the null, and the headline that obeys it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from ncpl_cli.analysis import Options, Run, Series, Study, correlate, groups
from ncpl_cli.analysis.headline import headline
from ncpl_cli.analysis.multiverse import Multiverse, judged, multiverse
from ncpl_cli.analysis.specifications import Specification
from ncpl_cli.analysis.survival import survival
from ncpl_cli.errors import InputError
from ncpl_cli.main import call

Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def study(runs: int, columns: Any, n: int = 60, task: Array | None = None) -> Study:
    epoch = np.arange(1.0, n + 1)
    zero = np.zeros(n) if task is None else task
    return Study(tuple(Series.of(Run(f"r{s}", s, "warm-start"), epoch, zero, epoch, columns(s)) for s in range(runs)))


def of(made: Study, x: str = "nc1", y: str = "test_accuracy", **options: Any) -> Multiverse:
    (group,) = groups(made)
    found = multiverse(group, x, y, Options(**{"window": 20} | options))
    assert found is not None
    return found


# every specification, in twenty lines ------------------------------------------------------------------------------


def reference(x: Array, y: Array, z: Array, axis: Array, series: str, controls: str, method: str) -> float:
    def line(v: Array) -> Array:
        return v - np.polyval(np.polyfit(axis, v, 1), axis)

    if series == "detrended":
        x, y, z = line(x), line(y), line(z)
    if series == "differenced":
        x, y, z, axis = np.diff(x), np.diff(y), np.diff(z), axis[1:]
    if method == "spearman":
        x, y, z, axis = (stats.rankdata(v) for v in (x, y, z, axis))
    held = {"none": [], "epoch": [axis], "train_accuracy": [z], "both": [z, axis]}[controls]
    design = np.column_stack([np.ones(len(x)), *held])
    x, y = (v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y))
    return float(stats.pearsonr(x, y).statistic)


def test_all_96_specifications_are_those_written_out() -> None:
    made = study(3, lambda s: dict(zip(("nc1", "test_accuracy", "train_accuracy"),
                                       draw(3, 60, seed=s).cumsum(1), strict=True)))  # fmt: skip
    found = of(made)
    assert len(found.curve) == 96 and found.undefined == 0
    axis = np.arange(60.0)
    pieces = {"whole": [slice(0, 60)], "first 20": [slice(0, 20)], "last 20": [slice(40, 60)],
              "mean of sliding 20": [slice(i, i + 20) for i in range(41)]}  # fmt: skip
    for one in found.curve:
        c = one.choices
        r = np.array([
            np.mean([
                reference(*(s.columns[k][at] for k in ("nc1", "test_accuracy", "train_accuracy")), axis[at],
                          c["series"], c["controls"], c["method"])
                for at in pieces[c["window"]]
            ])
            for s in made.series
        ])  # fmt: skip
        assert one.r == pytest.approx(r.mean(), abs=1e-9), c
        low, high = np.tanh(stats.t.interval(0.95, 2, np.arctanh(r).mean(), stats.sem(np.arctanh(r))))
        assert one.ci95 == (pytest.approx(low, abs=1e-8), pytest.approx(high, abs=1e-8))
    r = [one.r for one in found.curve]
    assert r == sorted(r) and found.r == (r[0], pytest.approx(np.median(r)), r[-1])
    for d in found.decisive:
        name, _, value = d.choice.partition(": ")
        made_, not_made = ([o.r for o in found.curve if (o.choices[name] == value) is w] for w in (True, False))
        assert (d.r_with, d.r_without) == (pytest.approx(np.median(made_)), pytest.approx(np.median(not_made)))
    changes = [d.change for d in found.decisive]
    assert changes == sorted(changes, reverse=True) and len(found.decisive) == 2 + 3 + 4 + 4


def test_every_collapse_metric_split_and_layer_stands_for_x_with_its_sign_turned() -> None:
    def columns(s: int) -> dict[str, Array]:
        x = draw(60, seed=s)
        return {"nc1": x, "nc4": -x, "nc1@test/layer2": x, "cdnv": np.ones(60), "dead_units": draw(60, seed=99),
                "test_accuracy": x + draw(60, seed=50 + s)}  # fmt: skip

    made = study(3, columns)
    found = of(made)
    assert {o.choices["metric"] for o in found.curve} == {"nc1", "nc4", "nc1@test/layer2"}  # a constant is none
    assert found.same_sign == 1.0 and len(found.curve) == 3 * 48  # train_accuracy was not recorded
    assert {o.choices["metric"] for o in of(made, x="dead_units").curve} == {"dead_units"}


def test_runs_at_other_places_are_each_taken_at_their_own() -> None:
    long = study(2, lambda s: {"nc1": draw(60, seed=s), "test_accuracy": draw(60, seed=9 + s)}, 60).series
    short = study(2, lambda s: {"nc1": draw(50, seed=s), "test_accuracy": draw(50, seed=9 + s)}, 50).series
    found = of(Study((long[0], short[1])))
    whole = next(o for o in found.curve if set(o.choices.values()) >= {"raw", "none", "whole", "pearson"})
    r = [stats.pearsonr(s.columns["nc1"], s.columns["test_accuracy"]).statistic for s in (long[0], short[1])]
    assert whole.r == pytest.approx(np.mean(r))


def test_within_tasks_levels_and_differences_do_not_cross_a_border() -> None:
    """x and y step together from task to task and are unrelated within: nothing is left within."""
    task = np.repeat(np.arange(10.0), 6)
    steps = draw(10, seed=5)[task.astype(int)]
    made = study(8, lambda s: {"nc1": steps * 5 + draw(60, seed=s), "test_accuracy": steps * 5 + draw(60, seed=70 + s)},
                 task=task)  # fmt: skip
    found = of(made, across="epochs")
    at = {
        (o.choices["series"], o.choices["controls"], o.choices["window"], o.choices["method"]): o for o in found.curve
    }
    assert at["raw", "none", "whole", "pearson"].r > 0.9
    assert abs(at["within task", "none", "whole", "pearson"].r) < 0.2
    assert abs(at["differenced", "none", "whole", "pearson"].r) < 0.2
    keep = np.diff(task) == 0
    r = [stats.pearsonr(np.diff(s.columns["nc1"])[keep], np.diff(s.columns["test_accuracy"])[keep]).statistic
         for s in made.series]  # fmt: skip
    assert at["differenced", "none", "whole", "pearson"].r == pytest.approx(np.mean(r))
    (result,) = correlate(made, [("nc1", "test_accuracy")], Options(across="epochs", window=20, lags=(-6, 6)))
    assert result.overall.controls["first_difference"].summary.mean_r == pytest.approx(np.mean(r))
    (by_task,) = correlate(made, [("nc1", "test_accuracy")], Options(controls=("task",), window=20))
    assert by_task.across == "epochs" and set(by_task.overall.partial) == {"epoch", "task", "epoch+task"}
    means = [
        stats.pearsonr(*(v - np.repeat(v.reshape(10, 6).mean(1), 6) for v in
                         (s.columns["nc1"], s.columns["test_accuracy"]))).statistic
        for s in made.series
    ]  # fmt: skip
    assert by_task.overall.partial["task"].summary.mean_r == pytest.approx(np.mean(means))
    assert survival(by_task).kind in ("falls", "flips")
    lag = {g.lag: g.mean_r for g in result.lags}
    pairs = [(s.columns["nc1"][:-2], s.columns["test_accuracy"][2:], task[:-2] == task[2:]) for s in made.series]
    assert lag[2] == pytest.approx(np.mean([stats.pearsonr(a[k], b[k]).statistic for a, b, k in pairs]))
    assert lag[6] is None  # six epochs on is another task throughout
    with pytest.raises(InputError, match="leaves the levels within a task"):
        correlate(made, [("nc1", "test_accuracy")], Options(across="tasks", controls=("task",), window=5))


# the permutation test over runs ------------------------------------------------------------------------------------


def test_the_permutation_is_every_flip_of_whole_runs() -> None:
    r = np.random.default_rng(0).uniform(-0.5, 0.9, (7, 9))
    keys = {Specification("nc1", "raw", "none", "whole", f"m{j}"): r[:, j] for j in range(9)}
    found = judged(keys, list(range(7)), Options(), x="nc1", y="test_accuracy")
    assert found is not None
    values = []
    for signs in itertools.product([1, -1], repeat=7):
        means = (np.array(signs)[:, None] * r).mean(0)
        values.append((abs(np.median(means)), max((means > 0).mean(), 1 - (means > 0).mean())))
    observed = values[0]
    assert found.p_median == pytest.approx(np.mean([v[0] >= observed[0] - 1e-12 for v in values]))
    assert found.p_share == pytest.approx(np.mean([v[1] >= observed[1] - 1e-12 for v in values]))


def autoregressive(seed: list[int], shape: tuple[int, ...], phi: float) -> Array:
    noise = np.random.default_rng(seed).standard_normal(shape)
    noise[..., 1:] *= np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise, axis=-1))


@pytest.mark.parametrize("phi", [0.5, 0.99])
def test_size_under_a_true_null_is_nominal(phi: float) -> None:
    """60 studies of 6 unrelated runs: about 2/64 of them reject. benchmarks/verdicts.py has thousands."""
    rejected = 0
    for repetition in range(60):
        values = autoregressive([repetition, round(100 * phi)], (6, 3, 40), phi)
        made = study(
            6, lambda s, v=values: dict(zip(("nc1", "test_accuracy", "train_accuracy"), v[s], strict=True)), 40
        )
        p = of(made).p_median
        assert p is not None and p >= 2 / 64 - 1e-12
        rejected += p < 0.05
    assert rejected <= 6  # 3.1 % attainable: more than 6 of 60 has probability .002


def test_fewer_than_six_runs_have_no_p() -> None:
    found = of(study(5, lambda s: {"nc1": (x := draw(60, seed=s)), "test_accuracy": x + 0.1 * draw(60, seed=s + 50)}))
    assert found.p_median is None and found.to_json()["p_median"] is None and found.kind == "survives"


# verdicts and headlines ---------------------------------------------------------------------------------------------


def trend_only(s: int) -> dict[str, Array]:
    t = np.linspace(0, 12, 60)
    return {"nc1": t + draw(60, seed=s), "test_accuracy": t + draw(60, seed=40 + s)}


def own(s: int) -> dict[str, Array]:
    x = draw(60, seed=s)
    return {"nc1": x, "test_accuracy": x + 0.5 * draw(60, seed=40 + s)}


def turning(s: int) -> dict[str, Array]:
    z, x, rest = draw(3, 60, seed=s)
    return {"nc1": z + 0.3 * x, "test_accuracy": z - 0.3 * x + 0.1 * rest, "train_accuracy": z}


@pytest.mark.parametrize(
    ("columns", "kind", "words"),
    [
        (own, "survives", "it survives every control: at least +"),
        (trend_only, "flips|falls", "of it|the sign turns"),
        (turning, "flips", "the sign turns with"),
        (lambda s: {"nc1": draw(60, seed=s), "test_accuracy": draw(60, seed=40 + s)}, "undecided", "includes 0"),
    ],
)
def test_the_headline_says_in_one_breath_whether_it_survives(columns: Any, kind: str, words: str) -> None:
    (result,) = correlate(study(8, columns), [("nc1", "test_accuracy")], Options(window=20))
    found = survival(result)
    assert found.kind in kind.split("|") and any(w in found.sentence for w in words.split("|"))
    line = headline(result)
    assert found.sentence in line and "mean r = " in line and line.startswith("Undecided: ") == (kind == "undecided")
    if result.overall.p_sign_flip is not None and found.kind in ("falls", "flips"):
        assert line.index("; p = ") < line.index(found.sentence)  # a p never stands alone where a control annuls it
    assert result.to_json()["overall"]["survives"]["kind"] == found.kind


def test_an_interval_that_spans_most_of_its_range_is_undecided() -> None:
    made = study(2, own)
    (result,) = correlate(made, [("nc1", "test_accuracy")], Options(window=20))
    low, high = result.overall.summary.ci95 or (0, 0)
    assert survival(result).kind == ("undecided" if high - low > 1 or low <= 0 <= high else "survives")
    (one,) = correlate(study(1, own), [("nc1", "test_accuracy")], Options(window=20))
    assert survival(one).kind == "undecided" and headline(one).startswith("Undecided: ")


def test_a_sign_that_depends_on_the_control_is_what_decides() -> None:
    found = of(study(8, turning))
    assert found.kind == "depends" and found.decisive[0].choice.startswith("controls: ")
    assert "Depends on choices" in found.verdict and found.decisive[0].choice in found.verdict
    assert of(study(8, own)).kind == "survives"
    nothing = of(study(8, lambda s: {"nc1": draw(60, seed=s), "test_accuracy": draw(60, seed=40 + s)}))
    assert nothing.kind in ("undecided", "depends")


def test_the_command_has_the_keys_of_the_interface(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["run,seed,epoch,nc1,cdnv,test_accuracy,train_accuracy"]
    for s in range(6):
        x, y, z = draw(3, 30, seed=s).tolist()
        rows += [f"r{s},{s},{e + 1},{x[e]},{x[e] + z[e]},{y[e] + x[e]},{z[e]}" for e in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    db = ["--db", str(tmp_path / "a.db")]
    assert call(["import", str(tmp_path / "a.csv"), "--scenario", "warm-start", "--name", "made", *db]) == 0
    capsys.readouterr()
    line = ["correlate", "--y", "test_accuracy", "--window", "10", "--multiverse", *db]
    assert call([*line, "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    found = group["multiverse"]
    assert found["specifications"] == 192 == len(found["curve"]) and 0.5 <= found["same_sign"] <= 1
    assert set(found["r"]) == {"lowest", "median", "highest"} and isinstance(found["verdict"], str)
    assert all(set(d) == {"choice", "r_with", "r_without"} for d in found["decisive"])
    assert call(line) == 0
    out = capsys.readouterr().out
    assert found["verdict"] in out and out.count("mean of sliding 10") >= 48
    assert call(["correlate", "--multiverse", "--pairs", "all", *db]) == 2


def test_the_curve_is_drawn_in_characters_and_as_a_figure() -> None:
    from ncpl_cli.commands._correlation import curve_lines
    from ncpl_cli.report.curve_figure import curve_figure

    found = of(study(8, turning))
    lines = curve_lines(found, 80)
    assert max(map(len, lines)) <= 80 and sum(line.count("•") for line in lines) >= 60
    assert any(("─" in line and line.startswith(" +0.0")) or "-0.0" in line for line in lines)
    figure = curve_figure(found, "what", "id")
    assert [row[1] for row in figure.numbers.rows] == [one.r for one in found.curve] and found.verdict in figure.alt
