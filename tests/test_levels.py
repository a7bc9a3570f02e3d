"""Two levels, a driver that all runs share, and three published links judged again from data alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from ncpl_cli.analysis import Options, Run, Series, Study, compare, correlate
from ncpl_cli.analysis.headline import headline
from ncpl_cli.analysis.levels import between_settings, over_runs, random_effects
from ncpl_cli.analysis.survival import survival
from ncpl_cli.main import call

Array = NDArray[np.float64]


def noise(*shape: int, seed: Any = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


# two levels --------------------------------------------------------------------------------------------------------


def test_random_effects_are_dersimonian_and_laird_with_hartung_and_knapp() -> None:
    from statsmodels.stats.meta_analysis import combine_effects

    z, v = noise(7, seed=1) * 0.4 + 0.3, np.abs(noise(7, seed=2)) * 0.05 + 0.01
    centre, interval, tau, i2 = random_effects(z, v)
    theirs = combine_effects(z, v, method_re="chi2", use_t=True)
    assert tau**2 == pytest.approx(theirs.tau2) and centre == pytest.approx(theirs.mean_effect_re)
    assert i2 == pytest.approx(theirs.i2)
    assert interval == pytest.approx((theirs.conf_int()[3][0], theirs.conf_int()[3][1]), rel=1e-6)
    assert random_effects(np.zeros(3), np.ones(3))[2:] == (0.0, 0.0)


def group_study(strengths: tuple[float, ...], seeds: int = 8, n: int = 400) -> Study:
    made = []
    for k, strength in enumerate(strengths):
        for s in range(seeds):
            x, e = noise(2, n, seed=[k, s])
            at = np.arange(1.0, n + 1)
            run = Run(f"{k}{s}", s, "warm-start", settings={"lr": 0.1 * (k + 1)})
            y = strength * x + math.sqrt(1 - strength**2) * e
            made.append(Series.of(run, at, 0 * at, at, {"nc1": x, "test_accuracy": y}))
    return Study(tuple(made))


def test_settings_differ_by_more_than_their_seeds_or_do_not() -> None:
    results = correlate(group_study((0.2, 0.5, 0.8)), [("nc1", "test_accuracy")], Options(window=100, flips=99))
    (found,) = between_settings(results)
    z = np.arctanh([0.2, 0.5, 0.8])
    assert found.settings == 3 and found.shared and found.same_sign == 3
    assert found.between_sd == pytest.approx(z.std(ddof=1), rel=0.1) and found.i2 > 0.9
    assert found.within_sd == pytest.approx(1 / math.sqrt(397), rel=0.35)
    assert "between settings beyond that" in found.sentence() and "share seeds" in found.sentence()
    (alike,) = between_settings(correlate(group_study((0.5, 0.5, 0.5)), [("nc1", "test_accuracy")], Options(flips=99)))
    assert alike.between_sd < 0.05
    assert between_settings(results[:1]) == ()


def test_settings_of_as_many_seeds_count_alike_and_their_interval_is_t_over_them() -> None:
    """However their seeds scatter: a setting whose six seeds lie close by chance says no more than another."""
    study = group_study((0.1, 0.3, 0.2, 0.25), seeds=6)
    results = correlate(study, [("nc1", "test_accuracy")], Options(window=100, flips=99))
    (found,) = between_settings(results)
    z = np.array([np.arctanh(one.overall.summary.fisher_mean_r or 0.0) for one in results])
    assert len({round(one.overall.summary.spread_of_z or 0.0, 3) for one in results}) == 4
    wanted = stats.t.interval(0.95, 3, z.mean(), z.std(ddof=1) / 2)
    assert found.r == pytest.approx(np.tanh(z.mean())) and found.ci95 == pytest.approx(tuple(np.tanh(wanted)))


def test_within_and_between_settings_can_have_opposite_signs() -> None:
    setting = np.repeat(np.arange(6), 8)
    base = np.arange(6.0)[setting]
    e = noise(2, 48, seed=3)
    x, y = 3 * base + e[0], 3 * base - e[0] + 0.2 * e[1]
    found = over_runs(x, y, setting, "pearson")
    assert found is not None
    means = [np.array([v[setting == k].mean() for k in range(6)]) for v in (x, y)]
    around = [v - m[setting] for v, m in zip((x, y), means, strict=True)]
    assert found["between"]["r"] == pytest.approx(stats.pearsonr(*means).statistic) and found["between"]["r"] > 0.9
    assert found["within"]["r"] == pytest.approx(stats.pearsonr(*around).statistic) and found["within"]["r"] < -0.9
    assert found["within"]["degrees_of_freedom"] == 42
    total = ((x - x.mean()) ** 2).sum()
    inside = sum(((x[setting == k] - x[setting == k].mean()) ** 2).sum() for k in range(6))
    assert found["variance_between_settings"]["x"] == pytest.approx(1 - inside / total)
    assert over_runs(x, y, np.zeros(48, dtype=int), "pearson") is None


def runs_study(x: Array, y: Array, **settings: Array) -> Study:
    """Two tasks a run: x after the first, y the second's first-epoch accuracy."""
    made = []
    for i in range(len(x)):
        at = np.array([1.0, 2.0])
        run = Run(f"r{i}", i, "permuted-mnist", settings={k: float(v[i]) for k, v in settings.items()})
        made.append(Series.of(run, at, at - 1, np.ones(2), {"nc1": np.array([x[i], np.nan]),
                                                            "online_accuracy": np.array([0.9, y[i]])}))  # fmt: skip
    return Study(tuple(made))


def test_a_numeric_setting_is_held_fixed_over_runs_and_makes_no_groups() -> None:
    lr = np.repeat([0.1, 0.2, 0.3, 0.4], 6)
    x, y = 10 * lr + noise(24, seed=1), 5 * lr + 0.3 * noise(24, seed=2)
    (result,) = correlate(runs_study(x, y, lr=lr), [("nc1", "online_accuracy")],
                          Options(across="runs", controls=("lr",)))  # fmt: skip
    assert result.n_runs == 24 and result.to_json()["levels"]["settings"] == 4
    residual = [v - np.polyval(np.polyfit(lr, v, 1), lr) for v in (x, y)]
    assert result.overall.partial["lr"].summary.mean_r == pytest.approx(stats.pearsonr(*residual).statistic)
    assert any("Two levels: r is" in note for note in result.notes)


# a driver that all runs share ---------------------------------------------------------------------------------------


def autoregressive(seed: Any, shape: tuple[int, ...], phi: float) -> Array:
    e = noise(*shape, seed=seed)
    e[..., 1:] *= np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], e, axis=-1))


def driven(repetition: int, runs: int = 8, n: int = 100) -> Study:
    """x follows one drift and y another, the same in every run; x and y have nothing to do with each other."""
    drifts = autoregressive([repetition, 1], (2, n), 0.97)
    own = noise(2, runs, n, seed=[repetition, 2])
    at = np.arange(1.0, n + 1)
    return Study(tuple(
        Series.of(Run(f"r{i}", i, "warm-start"), at, 0 * at, at,
                  {"nc1": drifts[0] + own[0, i], "test_accuracy": drifts[1] + own[1, i]})
        for i in range(runs)
    ))  # fmt: skip


def test_a_shared_driver_fools_sign_flips_not_the_seed_swap_and_is_said() -> None:
    flips = swaps = said = 0
    for repetition in range(40):
        (result,) = correlate(driven(repetition), [("nc1", "test_accuracy")], Options(window=50, family_flips=999))
        fooled = (result.overall.p_sign_flip or 1) < 0.05
        flips += fooled
        swaps += (result.overall.seed_swap.p or 1) < 0.05
        if fooled and abs(result.overall.summary.mean_r or 0) >= 0.1:
            said += 1
            assert any("A driver that all runs share" in note for note in result.notes)
            assert survival(result).kind != "survives"
            assert (result.overall.to_json()["shared_driver"] or 0) > 0.5
    assert flips >= 15 and swaps <= 6 and said >= 10


# three published links -----------------------------------------------------------------------------------------------


def test_the_sign_of_the_fourteen_rows_depends_on_the_amount_of_training() -> None:
    """B24's threshold study: r(NC1, A_1) = +.6 over 14 runs, which turns when the training amount is held fixed."""
    epochs = np.array([1, 1, 1, 2, 3, 4, 6, 8, 10, 14, 18, 24, 32, 45], dtype=float)
    left = noise(14, seed=6)
    nc1 = 0.217 - 0.0009 * epochs + 0.004 * left
    later = 0.925 - 0.00075 * epochs - 0.0022 * left + 0.0004 * noise(14, seed=7)
    made = []
    for i, n in enumerate(epochs.astype(int)):
        task, within = np.r_[np.zeros(n), 1], np.r_[np.arange(1.0, n + 1), 1]
        columns = {
            "nc1": np.r_[np.full(n, nc1[i]), 0.3],
            "online_accuracy": np.r_[np.linspace(0.924, 0.98, n), later[i]],
        }
        run = Run(f"r{i}", i, "permuted-mnist", settings={"first_task_epochs": int(n)})
        made.append(Series.of(run, np.arange(1.0, n + 2), task, within, columns))
    (result,) = correlate(Study(tuple(made)), [("nc1", "online_accuracy")], Options(across="runs"))
    assert (result.overall.r_of_means or 0) > 0.5 and survival(result).kind == "flips"
    assert "the sign turns with first_task_epochs held fixed" in headline(result)


def test_a_regularisers_gain_vanishes_against_networks_that_had_learned_equally_much() -> None:
    """What is gained later falls with what phase 1 learned; the arm has only learned less."""
    places = np.arange(5.0, 105.0, 5.0)
    made = []
    for seed in range(8):
        for arm, lag in (([], 0.0), (["nc1:strength=0.05"], 0.2)):
            learned = 0.5 + 0.004 * places - lag
            y = 0.6 - 0.05 * learned + 0.01 * noise(1, seed=seed)[0] + 1e-3 * noise(20, seed=[seed, len(arm)])
            run = Run(f"{seed}{arm}", seed, "warm-start", settings={"interventions": arm})
            made.append(
                Series.of(run, places, 0 * places, places, {"probe_test_accuracy": y, "train_accuracy": learned})
            )
    (found,) = compare(Study(tuple(made)))
    (arm_,) = found.arms
    assert arm_.gain.mean == pytest.approx(0.01, abs=2e-3) and arm_.gain.ci95 is not None and arm_.gain.ci95[0] > 0
    assert arm_.matched is not None and abs(arm_.matched.gain.mean or 1) < 1e-3
    low, high = arm_.matched.gain.ci95 or (1, 1)
    assert low < 0 < high and any("most of the gain is gone" in note for note in arm_.notes)


def test_a_link_over_230_models_falls_given_their_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of one row a model, as anyone has it: r(cdnv, loss) with the size held fixed is less."""
    size = 2.0 * noise(230, seed=1)
    cdnv = -0.35 * size + noise(230, seed=2)
    loss = -0.35 * size + 0.55 * cdnv + noise(230, seed=3)
    rows = ["run,seed,epoch,cdnv,loss,log_size"]
    rows += [f"m{i},{i},1,{c},{lo},{s}" for i, (c, lo, s) in enumerate(zip(*(v.tolist() for v in (cdnv, loss, size)),
                                                                         strict=True))]  # fmt: skip
    (tmp_path / "models.csv").write_text("\n".join(rows) + "\n")
    db = ["--db", str(tmp_path / "a.db")]
    assert call(["import", str(tmp_path / "models.csv"), "--scenario", "language-models", "--name", "models", *db]) == 0
    capsys.readouterr()
    line = ["correlate", "--across", "runs", "--x", "cdnv", "--y", "loss", "--control", "log_size", *db]
    assert call([*line, "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    overall = group["overall"]
    residual = [v - np.polyval(np.polyfit(size, v, 1), size) for v in (cdnv, loss)]
    raw, given = stats.pearsonr(cdnv, loss).statistic, stats.pearsonr(*residual).statistic
    assert group["n_runs"] == 230 and overall["r_of_means"] == pytest.approx(raw)
    assert overall["partial"]["log_size"] == pytest.approx(given) and given < raw - 0.04
    assert overall["survives"]["left"] == pytest.approx(given) and overall["survives"]["under"] == "log_size"
    assert call(line) == 0
    assert "with log_size held fixed" in capsys.readouterr().out
