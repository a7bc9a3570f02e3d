"""The first line of a correlation, and the table of the published statistic and its controls."""

from __future__ import annotations

from ncpl_cli.analysis.results import GroupCorrelation
from ncpl_cli.analysis.survival import survival
from ncpl_cli.analysis.words import count, p_text, signed


def headline(result: GroupCorrelation) -> str:
    """Direction in words, the published number with its interval and p, and in the same breath whether it survives."""
    overall, s = result.overall, result.overall.summary
    found = survival(result)
    words = f"{overall.direction[0].upper()}{overall.direction[1:]}"
    runs = count(result.n_runs, "run")
    if result.across == "runs":
        r, p, tested_by = overall.r_of_means, result.more.get("p_permutation"), "permutation"
        about = f"r = {signed(r)} over {runs}, y averaged over tasks"
    else:
        r, p, tested_by = s.mean_r, overall.p_sign_flip, "sign flips"
        about = f"mean r = {signed(r)} over {runs}, same sign in {s.same_sign[0]} of {s.same_sign[1]}"
    if r is None:
        return f"{words}: see below."
    interval = f"; 95 % interval {signed(s.ci95[0])} to {signed(s.ci95[1])}" if s.ci95 else ""
    tested = f"; p = {p_text(p)} ({tested_by})" if p is not None else ""
    start = "Undecided: " if found.kind == "undecided" else ""
    words = f"{overall.direction}" if start else words
    return f"{start}{words}: {about}{interval}{tested}; {found.sentence} (associated, not caused)."


Row = tuple[str, float | None, float | None, float | None, float | None, str]
"""Statistic, r, low, high, p, what it is."""


def statistics(result: GroupCorrelation) -> list[Row]:
    """The published statistic and its controls; rows that do not apply are left out."""
    overall, s = result.overall, result.overall.summary
    over_runs = result.across == "runs"
    low, high = s.ci95 or (None, None)
    spread = "–" if overall.std is None else f"{overall.std:.4g}"
    rows: list[Row]
    if over_runs:
        rows = [
            ("r over runs", overall.r_of_means, low, high, result.more.get("p_permutation"),
             "y averaged over tasks; p by permutation within seeds"),
            ("mean over tasks", s.mean_r, None, None, overall.p_family, "p of the strongest task, paid for all tasks"),
        ]  # fmt: skip
    elif result.n_runs == 1:
        rows = [("r", s.mean_r, None, None, None, "of the one run")]
    else:
        rows = [
            ("mean of r", s.mean_r, None, None, overall.p_sign_flip,
             f"sd over runs {spread}{'; p by sign flips' if overall.p_sign_flip is not None else ''}"),
            ("mean of Fisher's z", s.fisher_mean_r, low, high, None, "the interval's centre, as an r; t over runs"),
            ("strongest look", None, None, None, overall.p_family, "p paid for all windows and lags (max |t|)"),
            ("series averaged over runs", overall.r_of_means, None, None, None, "averaging raises r by itself"),
        ]  # fmt: skip
    rows.append(("over all pairs", None, None, None, overall.p_by, "p adjusted by Benjamini-Yekutieli"))
    first, last = s.leave_one_out or (None, None)
    rows.append(("leaving one out", None, first, last, None, "smallest and largest r without one of them"))
    names = {
        "spearman": ("Spearman", "on ranks"),
        "first_difference": ("first differences", f"of the change from one {result.unit} to the next"),
        "detrended": ("detrended", f"without a straight line in the {result.unit}"),
    }
    controls = [(*names[key], control) for key, control in overall.controls.items() if key != result.method]
    controls += [
        (f"given {key.replace('+', ' and ')}", "partial r", control)
        for key, control in result.held_fixed.items()
        if key != result.unit  # that is the detrended one
    ]
    for label, what, control in controls:
        low, high = control.summary.ci95 or (None, None)
        rows.append((label, control.summary.mean_r, low, high, control.p, what))
    swap = overall.seed_swap
    rows.append(("x with y of another run", swap.swapped_r, None, None, swap.p, "do both merely follow the clock?"))
    for name, definition in result.more.get("definitions", {}).items():
        rows.append((name, definition["r"], None, None, None, "by this definition"))
        held = definition["partial"]["first_task_epochs"]
        rows.append((name, held, None, None, None, "likewise, given first_task_epochs"))
    return [row for row in rows if any(cell is not None for cell in row[1:5])]
