"""The catalogue of metrics: standard library only, so that names can be checked without loading torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ncpl_cli.errors import unknown


@dataclass(frozen=True)
class Metric:
    """What a metric is. `direction`: what a low value means. `family`: what is computed together."""

    id: str
    formula: str
    direction: str
    needs: str
    source: str
    family: str
    cost: str = "cheap"


def _family(family: str, needs: str, *rows: tuple[str, str, str, str]) -> list[Metric]:
    return [Metric(name, formula, direction, needs, source, family) for name, formula, direction, source in rows]


_LOW = "lower = more collapse"

METRICS: dict[str, Metric] = {
    metric.id: metric
    for metric in [
        *_family(
            "collapse", "features, labels",
            ("nc1", "tr(Sigma_W pinv(Sigma_B)) / K", _LOW, "B24, P20, Z21"),
            ("nc1_ratio", "tr(Sigma_W) / tr(Sigma_B)", _LOW, "common"),
            ("nc1_fraction", "tr(Sigma_W) / tr(Sigma_W + Sigma_B), in [0, 1]", _LOW, "ncpl"),
            ("vci", "1 - tr(pinv(Sigma_T) Sigma_B) / rank(Sigma_B)", _LOW, "Xu & Liu 2306.03440"),
            ("cdnv", "mean over pairs of (v_c + v_c') / (2 |mu_c - mu_c'|^2)", _LOW, "G22"),
            ("nc2_means", "|M M^T/|M M^T| - (I - 11^T/K)/sqrt(K-1)|", _LOW, "P20"),
            ("equinorm_means", "coefficient of variation of |mu_c - mu_G|", _LOW, "P20"),
            ("equiangular_means", "mean over pairs of |cos(mu_c, mu_c') + 1/(K-1)|", _LOW, "P20"),
            ("gnc2", "mean over pairs of log(1/|a_i - a_j|), a = unit centred means", _LOW, "Liu et al. 2023"),
            ("ncc_error", "error of the nearest-training-class-mean rule", _LOW, "G22, H22"),
            ("null_nc1", "(K-1) n / PR: the nc1 of labels without meaning", "context of nc1", "ncpl"),
        ),
        *_family(
            "collapse", "features, labels, classifier",
            ("nc2", "|W W^T/|W W^T| - (I - 11^T/K)/sqrt(K-1)|", _LOW, "B24, Z21"),
            ("nc3", "|W M^T/|W M^T| - (I - 11^T/K)/sqrt(K-1)|", _LOW, "B24, Z21"),
            ("nc4", "share whose nearest class mean is the predicted class", "higher = more collapse", "B24, P20"),
            ("equinorm_weights", "coefficient of variation of |w_c|", _LOW, "P20"),
            ("equiangular_weights", "mean over pairs of |cos(w_c, w_c') + 1/(K-1)|", _LOW, "P20"),
            ("self_duality", "|W/|W| - M/|M||", _LOW, "P20"),
            ("bias_collapse", "|W mu_G + b|", _LOW, "Z21"),
        ),
        *_family(
            "collapse", "both splits",
            ("nc1_test_weak", "nc1 of the test split with nearest-train-mean labels", _LOW, "H22"),
            ("nc1_test_train_means", "nc1 of the test split around the training means", _LOW, "H22"),
        ),
        *_family(
            "performance", "the run",
            ("online_accuracy", "share right before the update using the sample", "higher = learns better", "D24, B24"),
            ("online_loss", "mean cross-entropy before the update", "lower = learns better", "ncpl"),
            ("train_accuracy", "after the epoch, eval mode", "higher = fits better", "common"),
            ("train_loss", "after the epoch, eval mode", "lower = fits better", "common"),
            ("test_accuracy", "after the epoch, eval mode", "higher = generalises", "common"),
            ("test_loss", "after the epoch, eval mode", "lower = generalises", "common"),
            ("validation_accuracy", "after the epoch, eval mode", "higher = generalises", "common"),
            ("validation_loss", "after the epoch, eval mode", "lower = generalises", "common"),
        ),
        *_family(
            "history", "earlier epochs",
            ("plasticity_loss", "first-epoch online accuracy, task 0 minus this", "higher = more loss", "ncpl, B24"),
            ("plasticity_loss_b24", "the same with means over all epochs of a task", "higher = more loss", "B24"),
        ),
        Metric(
            "fresh_gap", "first-epoch online accuracy of a fresh network on this task, minus ours",
            "higher = more loss", "a second training run (--fresh-baseline)", "D24", "history", "dear",
        ),
        *_family(
            "probes", "probes of a warm start",
            ("probe_test_accuracy", "test accuracy of a copy trained on all data", "higher = more plastic", "A20, B24"),
            ("probe_epochs_to_fit", "epochs until its running train accuracy > 0.99", "lower = more plastic", "A20"),
            ("probe_cap_hit", "1 where it did not get there within the cap", "0 = it fitted", "B24"),
            ("warm_start_gap", "probe test accuracy after epoch 0 minus after this epoch", "higher = more loss", "A20"),
        ),
        *_family(
            "interventions", "the run",
            ("regulariser_skipped", "share of steps whose minibatch held no two classes", "context", "ncpl"),
            ("regulariser_classes", "mean number of classes that counted in a minibatch", "context", "ncpl"),
            ("recycled_units", "units re-initialised in the epoch", "higher = more units had died", "S23, D24"),
        ),
        *_family(
            "units", "features of 2 000 training samples",
            ("dead_units", "share of ReLU units never active", "higher = less plastic", "common"),
            ("dormant_units", "share with mean |h| <= 0.025 of the layer's mean", "higher = less plastic", "S23"),
            ("effective_rank", "exp(entropy of normalised singular values)", "lower = fewer directions", "Roy 2007"),
            ("srank", "singular values that hold 99 % of their sum", "lower = fewer directions", "Kumar et al. 2021"),
            ("srank_squared", "the same with squares", "lower = fewer directions", "D24"),
            ("stable_rank", "|H|_F^2 / |H|_2^2", "lower = fewer directions", "common"),
            ("participation_ratio", "(sum s^2)^2 / sum s^4", "lower = fewer directions", "common"),
            ("feature_norm", "mean L2 norm of a feature vector", "lower = smaller features", "L24"),
        ),
        *_family(
            "weights", "parameters",
            ("weight_norm", "L2 norm of all weight matrices", "lower = smaller weights", "L24"),
            ("weight_mean_abs", "mean absolute weight", "lower = smaller weights", "D24"),
            ("distance_from_init", "L2 distance from the initialisation", "lower = nearer the start", "L24"),
            ("spectral_norm", "largest singular value of the classifier", "lower = smaller weights", "common"),
        ),
    ]
}  # fmt: skip
"""Every metric by id, in the order in which they are shown. The registry."""


def check_names(names: Iterable[str]) -> None:
    """Raise InputError for a metric that is not in the catalogue (`default` and `all` are names of sets)."""
    for name in names:
        if name not in METRICS and name not in ("default", "all"):
            raise unknown("metric", name, METRICS)


def chosen(names: Iterable[str]) -> set[str]:
    """The ids that a list of names means: `default` = the cheap ones, `all` = every one."""
    ids: set[str] = set()
    for name in names:
        if name in ("default", "all"):
            ids |= {m.id for m in METRICS.values() if name == "all" or m.cost == "cheap"}
        else:
            ids.add(name)
    return ids
