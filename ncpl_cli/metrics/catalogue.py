"""The catalogue of metrics: standard library only, so that names can be checked without loading torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from ncpl_cli.errors import InputError, unknown


@dataclass(frozen=True)
class Metric:
    """What a metric is. `direction`: what a low value means. `family`: what is computed together.

    compute  of one's own metrics (family `own`): f(features, labels, weight, bias) -> number, of every split and
             layer; arrays (N, d), (N,), and of the last layer (C, d) and (C,), else None
    """

    id: str
    formula: str
    direction: str
    needs: str
    source: str
    family: str
    cost: str = "cheap"
    compute: Callable[..., float] | None = None


def _family(family: str, needs: str, *rows: tuple[str, str, str, str], cost: str = "cheap") -> list[Metric]:
    return [Metric(name, formula, direction, needs, source, family, cost) for name, formula, direction, source in rows]


_LOW = "lower = more collapse"

_READOUTS = {
    "ncc": "accuracy of the nearest training class mean",
    "fixed": "accuracy of ridge on centred features, lambda .01 x their mean square",
    "tuned": "accuracy of ridge on standardised features, lambda of 1e-9 to 1e2 by a held-out fifth",
}
_WITHIN = ", among classes of the own group"
_FRESH = ", fitted on images not trained on"

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
            ("null_nc1", "nc1 of labels permuted once (measure FILE), elsewhere its estimate (K-1) n / PR",
             "context of nc1", "ncpl"),
            ("rank_between", "rank r of Sigma_B, at most K-1", "context of nc1: lower = fewer directions", "ncpl"),
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
            ("unexplained_variance", "of numbers: mean squared error over the variance of the targets",
             "lower = fits better", "common"),
        ),
        *_family(
            "history", "earlier epochs",
            ("plasticity_loss", "first-epoch online accuracy, task 0 minus this", "higher = more loss", "ncpl, B24"),
            ("plasticity_loss_b24", "the same with means over all epochs of a task", "higher = more loss", "B24"),
        ),
        Metric(
            "task_online_accuracy", "mean of online_accuracy over a task's epochs, at its last",
            "higher = learns faster", "earlier epochs", "K23", "history",
        ),
        Metric(
            "fresh_gap", "first-epoch online accuracy of a fresh network on this task, minus ours",
            "higher = more loss", "a second training run (--fresh-baseline)", "D24", "history", "expensive",
        ),
        *_family(
            "forgetting", "every seen task evaluated (--task-accuracy all)",
            ("average_accuracy", "mean over seen tasks of the test accuracy now", "higher = retains and learns",
             "Lopez-Paz & Ranzato 2017"),
            ("backward_transfer", "mean over earlier tasks of the accuracy now minus at the task's own end",
             "negative = forgets", "Lopez-Paz & Ranzato 2017"),
            ("forgetting", "mean over earlier tasks of the best accuracy so far minus now", "higher = forgets more",
             "Chaudhry et al. 2018"),
        ),
        *_family(
            "similarity", "the run's tasks; splits previous, first, earlier (the mean)",
            ("input_similarity", "sum_d Cov(x_p(d), x_q(d)) / sum_d Var(x_d), p and q two tasks' pixel orders",
             "1 = the same pixels, 0 = unrelated", "ncpl"),
            ("label_agreement", "share of images that two tasks give the same label", "1 = the same labels", "ncpl"),
            cost="expensive",
        ),
        *_family(
            "incremental", "the run's tasks; split first: 2 000 images of the first task",
            ("forward_transfer", "mean over tasks of the accuracy before their first step minus an untrained network's",
             "higher = earlier tasks help", "Lopez-Paz & Ranzato 2017"),
            ("drift_of_means", "|M_now - M_0| / |M_0|, M the first task's centred class means",
             "higher = moved further", "ncpl"),
            ("readout_gap", "nearest class mean's accuracy on the first task minus the head's",
             "higher = forgotten by the head alone", "ncpl"),
            cost="expensive",
        ),
        *_family(
            "probes", "probes (--probe; a warm start's own)",
            ("probe_online_accuracy", "mean over a probe's epochs", "higher = more plastic", "L24"),
            ("probe_online_loss", "mean over a probe's epochs", "lower = more plastic", "L24"),
            ("probe_train_accuracy", "after a probe's last epoch", "higher = more plastic", "L24"),
            ("probe_train_loss", "after a probe's last epoch", "lower = more plastic", "L24"),
            ("probe_unexplained_variance", "of numbers: unexplained_variance after a probe's last epoch",
             "lower = more plastic", "L24"),
            ("probe_gap", "train accuracy of a fresh network's probe minus ours; of numbers our loss minus its",
             "higher = more loss", "L24"),
            ("probe_test_accuracy", "test accuracy after a probe (warm start: of a copy trained on all data)",
             "higher = more plastic", "A20, B24"),
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
            "units", "features of 2 000 training samples (of a file: of all)",
            ("dead_units", "share of ReLU units never active", "higher = less plastic", "common"),
            ("dormant_units", "share with mean |h| <= 0.025 of the layer's mean", "higher = less plastic", "S23"),
            ("effective_rank", "exp(entropy of normalised singular values)", "lower = fewer directions", "Roy 2007"),
            ("srank", "singular values that hold 99 % of their sum", "lower = fewer directions", "Kumar et al. 2021"),
            ("srank_squared", "the same with squares", "lower = fewer directions", "D24"),
            ("stable_rank", "|H|_F^2 / |H|_2^2", "lower = fewer directions", "common"),
            ("participation_ratio", "(sum s^2)^2 / sum s^4", "lower = fewer directions", "common"),
            ("feature_norm", "mean L2 norm of a feature vector", "lower = smaller features", "L24"),
            ("feature_top", "largest singular value of the features", "lower = smaller features", "L24"),
        ),
        *_family(
            "preactivations", "preactivations of 2 000 training samples",
            ("linearised_units", "share affine on the data and not dead; smooth: above initialisation",
             "higher = less plastic", "L24"),
            ("active_units_95", "share of (leaky) ReLU units with preactivations above 0 on more than 95 % of samples",
             "higher = less plastic", "L24"),
            ("saturated_units", "share with |tanh| > .99, sigmoid beyond .01 or .99, on every sample",
             "higher = less plastic", "common"),
            ("preactivation_mean", "mean over samples and units", "shifts as plasticity goes", "L24"),
            ("preactivation_std", "standard deviation over samples and units", "grows as plasticity goes", "L24"),
            ("preactivation_mean_drift", "preactivation_mean minus the same at initialisation", "0 = no shift", "L24"),
            ("preactivation_std_drift", "preactivation_std minus the same at initialisation", "0 = no shift", "L24"),
        ),
        *_family(
            "gradients", "the loss on 2 000 training samples",
            ("gradient_norm", "L2 norm of the gradient of the mean loss", "lower = flat or dead", "L24"),
        ),
        *_family(
            "few_shot", "features of classes not trained on (100 episodes)",
            ("few_shot_error_1", "nearest mean of 1 sample a class, min(5, classes) ways", _LOW, "G22"),
            ("few_shot_error_5", "nearest mean of 5 samples a class, min(5, classes) ways", _LOW, "G22"),
            ("few_shot_error_10", "nearest mean of 10 samples a class, min(5, classes) ways", _LOW, "G22"),
            ("few_shot_error", "mean of the three", _LOW, "G22"),
            ("few_shot_error_1_se", "its standard error over episodes", "context of the error", "ncpl"),
            ("few_shot_error_5_se", "its standard error over episodes", "context of the error", "ncpl"),
            ("few_shot_error_10_se", "its standard error over episodes", "context of the error", "ncpl"),
            ("few_shot_ridge_error_1", "the same episodes by ridge (readout_fixed)", _LOW, "ncpl, after G22"),
            ("few_shot_ridge_error_1_se", "its standard error over episodes", "context of the error", "ncpl"),
            ("few_shot_ridge_error_5", "the same episodes by ridge (readout_fixed)", _LOW, "ncpl, after G22"),
            ("few_shot_ridge_error_5_se", "its standard error over episodes", "context of the error", "ncpl"),
            ("few_shot_ridge_error_10", "the same episodes by ridge (readout_fixed)", _LOW, "ncpl, after G22"),
            ("few_shot_ridge_error_10_se", "its standard error over episodes", "context of the error", "ncpl"),
            ("few_shot_bound_1", "16 (ways - 1) (1 + 2/1) cdnv; from 1 on vacuous", "lower = few suffice", "G22"),
            ("few_shot_bound_5", "16 (ways - 1) (1 + 2/5) cdnv; from 1 on vacuous", "lower = few suffice", "G22"),
            ("few_shot_bound_10", "16 (ways - 1) (1 + 2/10) cdnv; from 1 on vacuous", "lower = few suffice", "G22"),
            ("few_shot_ways", "classes of an episode, min(5, classes)", "context of few-shot errors", "ncpl"),
        ),
        Metric(
            "cdnv_directional", "mean over ordered pairs of u' Sigma_i u / d^2, u the unit vector between the means",
            _LOW, "features, labels", "ncpl, after G22", "few_shot", "expensive",
        ),
        *_family(
            "readouts", "features of a training and a test split",
            *(
                (f"readout_{kind}{within}{fresh}", f"{what}{_WITHIN if within else ''}{_FRESH if fresh else ''}",
                 "higher = more can be read off", "H22, Y23")
                for kind, what in _READOUTS.items() for within in ("", "_within") for fresh in ("", "_fresh")
            ),
            *(
                (f"readout_lambda{edge}{fresh}", what + (_FRESH if fresh else ""), "context of readout_tuned", "ncpl")
                for edge, what in (("", "lambda that was chosen"), ("_edge", "1 where it lies at an end of its grid"))
                for fresh in ("", "_fresh")
            ),
            cost="expensive",
        ),
        *_family(
            "weights", "parameters",
            ("weight_norm", "L2 norm of all weight matrices", "lower = smaller weights", "L24"),
            ("layer_weight_norm", "L2 norm of the weight matrix of one layer", "lower = smaller weights", "L24"),
            ("weight_mean_abs", "mean absolute weight", "lower = smaller weights", "D24"),
            ("distance_from_init", "L2 distance from the initialisation", "lower = nearer the start", "L24"),
            ("spectral_norm", "largest singular value of the classifier", "lower = smaller weights", "common"),
            ("spectral_norm_max", "largest singular value of any weight matrix; convolutions as matrices",
             "lower = smaller weights", "common"),
        ),
        *_family(
            "ntk", "128 training samples",
            ("ntk_effective_rank", "effective rank of K_ij = sum over c <J_ic, J_jc>", "lower = less plastic", "L24"),
            ("ntk_condition", "largest over smallest eigenvalue of K", "higher = harder to learn", "L24"),
            ("ntk_trace", "sum of the diagonal of K", "lower = outputs move less", "L24"),
            ("ntk_top_share", "largest eigenvalue of K over its trace", "higher = fewer directions", "L24"),
            ("ntk_centred_effective_rank", "effective rank of H K H, H = I - 11^T/N", "lower = less plastic", "ncpl"),
            ("ntk_full_effective_rank", "effective rank of the NC x NC kernel", "lower = less plastic", "L24"),
            ("ntk_full_condition", "largest over smallest eigenvalue of the NC x NC kernel",
             "higher = harder to learn", "L24"),
            ("gradient_interference", "mean cosine of two samples' loss gradients", "negative = they undo each other",
             "L24"),
            ("gradient_interference_negative", "share of pairs whose cosine is negative", "higher = more interference",
             "L24"),
            cost="expensive",
        ),
        *_family(
            "curvature", "2 000 training samples; in a run: of a task, at its start",
            ("hessian_top", "largest eigenvalue of the loss's Hessian (Lanczos)", "higher = sharper", "2509.22335"),
            ("hessian_eps_rank", "eigenvalues above 1 % of the top (quadrature, 80 steps, probes 0-3)",
             "lower = less plastic", "2509.22335"),
            cost="expensive",
        ),
        *_family(
            "churn", "128 + 512 training samples, the learning rate",
            ("churn", "mean |change of the logits| on others by one step on 128 samples", "higher = less local",
             "Tang & Berseth 2024"),
            cost="expensive",
        ),
    ]
}  # fmt: skip
"""Every metric by id, in the order in which they are shown. The registry."""


def check_names(names: Iterable[str]) -> None:
    """Raise InputError for a metric that is not in the catalogue (`default` and `all` are names of sets)."""
    for name in names:
        base = name.removesuffix(START)
        if base not in METRICS and base not in ("default", "all"):
            raise unknown("metric", base, METRICS)
        if base != name and base in METRICS and METRICS[base].family not in START_FAMILIES:
            raise InputError(
                f"{base} is not measured before a task's first step.",
                f"of these families: {', '.join(START_FAMILIES)}; curvature always is, under its own name",
            )


def chosen(names: Iterable[str]) -> set[str]:
    """The ids that a list of names means: `default` = the cheap ones, `all` = every one."""
    ids: set[str] = set()
    for name in names:
        if name.endswith(START):
            continue
        if name in ("default", "all"):
            ids |= {m.id for m in METRICS.values() if name == "all" or m.cost == "cheap"}
        else:
            ids.add(name)
    return ids


START = "@start"
"""What follows a name that is also measured before a task's first step, on that task: `gradient_norm@start`."""

START_FAMILIES = ("collapse", "units", "preactivations", "gradients", "weights", "ntk", "churn")


def at_start(names: Iterable[str]) -> set[str]:
    """The ids that `ID@start`, `default@start` and `all@start` in a list of names mean."""
    asked = chosen(name.removesuffix(START) for name in names if name.endswith(START))
    return {name for name in asked if METRICS[name].family in START_FAMILIES}


AT_START = frozenset(name for name, metric in METRICS.items() if metric.family == "curvature")
"""Metrics that a run measures before a task's first epoch, on that task; they stand in that epoch's row."""

AT_END = frozenset(name for name, m in METRICS.items() if m.family in ("gradients", "preactivations", "weights"))
"""Metrics that `default` measures at the last epoch of a task; named by id, or by `all`, at every epoch."""


def every_epoch(names: Collection[str]) -> set[str]:
    """Of the ids that a list of names means, those that are measured at every epoch that is measured."""
    named = [name for name in names if name != "default"]
    return (chosen(names) - AT_END) | chosen(named)
