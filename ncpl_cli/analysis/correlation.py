"""`correlate`: pairs of metrics in groups of runs, within runs or across them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ncpl_cli.analysis import resampling, sentences, statistics, words
from ncpl_cli.analysis.across_runs import correlate_over_runs
from ncpl_cli.analysis.preregistered import standing
from ncpl_cli.analysis.results import GroupCorrelation, Options, flips_for, number
from ncpl_cli.analysis.study import FIRST_TASK_SETTINGS, Group, Study, groups
from ncpl_cli.analysis.within_runs import correlate_within_runs
from ncpl_cli.errors import InputError, NothingFound
from ncpl_cli.records import Address


def correlate(
    study: Study,
    pairs: Sequence[tuple[str, str]] = (),
    options: Options | None = None,
    *,
    xs: Sequence[str] = ("nc1",),
) -> tuple[GroupCorrelation, ...]:
    """Correlate pairs of metrics in every group of a study; without pairs, each of `xs` with the group's default y.

    Raises InputError when no group has points for any pair, with what is recorded.
    """
    options = options or Options()
    over_runs = options.across == "runs"
    estimate = correlate_over_runs if over_runs else correlate_within_runs
    pairs = [(str(Address.parse(x)), str(Address.parse(y))) for x, y in pairs]
    xs = [str(Address.parse(x)) for x in xs]
    options = replace(options, controls=tuple(str(Address.parse(c)) for c in options.controls))
    if options.family_flips is None:
        options = replace(options, family_flips=flips_for(max(len(pairs), len(xs))))
    found: list[GroupCorrelation] = []
    without: list[str] = []
    settings = {name for s in study.series for name in s.run.settings}
    # over runs a setting that is held fixed may differ between them: its values are no groups of their own
    ignore = FIRST_TASK_SETTINGS | (settings & set(options.controls)) if over_runs else frozenset()
    for group in groups(study, pool=options.pool, ignore=ignore):
        chosen: list[tuple[str, str, tuple[str, ...]]] = [(x, y, ()) for x, y in pairs]
        if not pairs:
            y, notes = default_y(group)
            chosen = [(x, y, notes) for x in xs]
        results = [estimate(group, x, y, options, notes) for x, y, notes in chosen]
        kept = [with_standing(result, group, options) for result in results if result is not None]
        if not kept:
            without.append(f"{group.title} ({words.count(len(group.series) + len(group.left_out), 'run')})")
        found += paid_for_pairs(kept)
    if not found:
        raise nothing_to_correlate(study, pairs)
    if without:
        line = f"Groups without a point, and so without a result: {'; '.join(without)}."
        found[0] = replace(found[0], notes=(*found[0].notes, line))
    return tuple(found)


def with_standing(result: GroupCorrelation, group: Group, options: Options) -> GroupCorrelation:
    """The result with whether it was planned before the first run; said where there is a plan."""
    found = standing(result, [s.run for s in group.series if s.run.id in result.seeds], options.controls)
    notes = result.notes if found.kind == "unplanned" else (found.sentence, *result.notes)
    return replace(result, notes=notes, more={**result.more, "plan": found.to_json()})


def default_y(group: Group) -> tuple[str, tuple[str, ...]]:
    """Plasticity loss where tasks follow each other, the probes' test accuracy in warm starting; and a note."""
    if any(s.tasks > 1 for s in group.series):
        if group.scenario == "shuffled-labels":
            return "plasticity_loss", (
                "On random labels the first epoch's accuracy is chance for every network, so plasticity_loss is blind: "
                "--y task_online_accuracy takes the task's mean, where it was recorded.",
            )
        return "plasticity_loss", ()
    if any(np.isfinite(s.column("probe_test_accuracy")).any() for s in group.series):
        return "probe_test_accuracy", ()
    return "test_accuracy", ("No probe_test_accuracy was recorded: y is test_accuracy.",)


DEFAULT_ADDRESSES = ("nc1", "plasticity_loss", "plasticity_loss_b24", "probe_test_accuracy", "test_accuracy")
"""What has to be loaded before a default can be chosen, and both plasticity losses be given side by side."""


def all_pairs(study: Study) -> list[tuple[str, str]]:
    """Every pair of different metrics that vary in at least one run; a metric on two splits or layers is no pair."""
    varying = [
        a
        for a in study.addresses()
        if any(not statistics.constant(s.column(a)[np.isfinite(s.column(a))]) for s in study.series)
    ]
    pairs = itertools.combinations(varying, 2)
    return [(x, y) for x, y in pairs if Address.parse(x).metric != Address.parse(y).metric]


def paid_for_pairs(results: Sequence[GroupCorrelation]) -> list[GroupCorrelation]:
    """Benjamini-Yekutieli over the pairs of one group."""
    if len(results) < 2:
        return list(results)
    raw = [g.overall.p_sign_flip if g.across != "runs" else g.more["p_permutation"] for g in results]
    p = np.array([np.nan if one is None else one for one in raw])
    adjusted = resampling.benjamini_yekutieli(p)
    return [
        replace(g, overall=replace(g.overall, p_by=number(q)), notes=(*g.notes, *sentences.pairs(len(results), q)))
        for g, q in zip(results, adjusted, strict=True)
    ]


def nothing_to_correlate(study: Study, pairs: Sequence[tuple[str, str]]) -> InputError:
    """The error for a selection without a single point."""
    if not study.series:
        return InputError("no run fits this selection.", "ncpl runs list shows all runs and their names")
    wanted = " or ".join(f"{x} and {y}" for x, y in pairs) or "nc1 and a plasticity metric (the default pair)"
    return NothingFound(
        f"no chosen run has a row where {wanted} are both defined.",
        f"values were found of: {', '.join(study.addresses()) or 'nothing'}; choose with --x and --y, ncpl export "
        "shows all that is recorded",
    )
