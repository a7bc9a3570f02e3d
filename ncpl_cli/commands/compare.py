"""`ncpl compare`: what did an intervention gain, and what did the first phase cost?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ncpl_cli.commands import _became, _by_setting, _common
from ncpl_cli.commands._common import Db, Json
from ncpl_cli.errors import InputError

if TYPE_CHECKING:
    from ncpl_cli.analysis import Comparison
    from ncpl_cli.analysis.comparison import Arm
    from ncpl_cli.analysis.gain import Gain


@_became.told
def compare(
    name: Annotated[list[str] | None, typer.Option(help="Only runs with this label; repeatable.")] = None,
    y: Annotated[
        str | None,
        typer.Option(
            "--y", help="What is gained, with commas; default probe_test_accuracy, online_accuracy with several tasks."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Compare the values of this setting (lr, first_task_epochs, width) instead of interventions."
        ),
    ] = None,
    plain: Annotated[
        str | None,
        typer.Option(help="Label of the plain arm, default the runs without interventions; with --by a value of it."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(min=0, help="With --by: differences within it are equivalent; default the plain value's seed sd."),
    ] = None,
    dose: Annotated[
        bool,
        typer.Option(
            "--dose", help="Slope over the strengths of an intervention (holding back +, promoting -), or over --by."
        ),
    ] = False,
    through: Annotated[
        str | None, typer.Option(help="Split each gain by this metric: what goes with its change, as nc1.")
    ] = None,
    scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
    runs: Annotated[str | None, typer.Option(help="Only these runs: ids or labels with commas.")] = None,
    resampling_seed: Annotated[int, typer.Option(help="Seed of all resampling.")] = 0,
    db: Db = None,
    json_: Json = False,
) -> None:
    """Compare arms with the plain arm, paired by seed; matched on what phase 1 had learned.

    Example: ncpl compare --by lr --y online_accuracy
    """
    from ncpl_cli.analysis import compare as comparisons_of
    from ncpl_cli.analysis import load
    from ncpl_cli.analysis.by_setting import compare_by, over_scenarios
    from ncpl_cli.analysis.comparison import ADDRESSES, check_answered, check_mediator
    from ncpl_cli.analysis.doses import DOSE, dosed, no_dose
    from ncpl_cli.records import Address
    from ncpl_cli.store import open_store

    if margin is not None and not (by or dose):
        raise InputError(
            "--margin belongs to --by and --dose: it says which differences between values are equivalent."
        )
    ys = [str(Address.parse(part)) for part in y.split(",")] if y else []
    mediator = None if through is None else str(Address.parse(through))
    with open_store(_common.store_url(db), readonly=True) as store:
        study = load(
            store, [*ADDRESSES, *ys, *([mediator] if mediator else [])], scenario=scenario, names=name or (),
            ids=[part.strip() for part in runs.split(",")] if runs else None,
        )  # fmt: skip
    check_mediator(study, mediator)
    if by:
        setting = by.replace("-", "_")
        found = compare_by(study, setting, ys, plain=plain, margin=margin, mediator=mediator,
                           dose=setting if dose else None, seed=resampling_seed)  # fmt: skip
    elif dose:
        found = tuple(
            of for what, part in dosed(study)
            for of in compare_by(part, DOSE, ys, plain=plain or no_dose(part), margin=margin, mediator=mediator,
                                 dose=what, seed=resampling_seed)
        )  # fmt: skip
    else:
        chosen: list[str | None] = [*ys] or [None]
        found = tuple(
            of for one in chosen
            for of in comparisons_of(study, one, plain=plain, mediator=mediator, seed=resampling_seed)
        )  # fmt: skip
    check_answered(study, found)
    together = over_scenarios(study, found, seed=resampling_seed) if by else ()
    if json_:
        document = {"comparisons": [c.to_json() for c in found]}
        more = {"across_scenarios": [a.to_json() for a in together]} if together else {}
        _common.print_json(document | more)
        return
    if by or dose:
        _by_setting.show(found, together)
        return
    for comparison in found:
        _show(comparison)


def _show(comparison: Comparison) -> None:
    """One plain arm and its arms, for a person: what phase 1 cost, what was gained, and the warnings.

    On a terminal each arm is a table of its own, since the settings that name it are long.
    """
    from ncpl_cli.analysis.study import titled

    plain = titled(comparison.plain, None, comparison.settings)
    _common.say(f"{comparison.scenario}: gain in {comparison.y} over {plain}, paired by seed")
    for arm in comparison.arms:
        _common.say(_sentence(arm, comparison))
    columns = ("mean over seeds of", "arm's", "plain", "gain", "low", "high", "p")
    if sys.stdout.isatty():
        for arm in comparison.arms:
            rows = [_rounded(row) for row in _rows(arm, comparison.y)]
            _common.print_table(columns, rows, title=arm.arm)
    else:
        every = [(arm.arm, *row) for arm in comparison.arms for row in _rows(arm, comparison.y)]
        _common.print_table(("arm", *columns), every)
    for line in comparison.notes:
        _common.say(line, "- ")
    for line in through_notes(comparison):
        _common.say(line, "- ")
    for arm in comparison.arms:
        for line in arm.notes:
            _common.say(f"{arm.arm}: {line}", "- ")
    _common.out()


def through_notes(comparison: Comparison) -> list[str]:
    """What of each gain goes with the change of a mediator, where one was asked for, and what must hold for it."""
    from ncpl_cli.analysis.through import sentence

    found = [(arm.arm, arm.through) for arm in comparison.arms if arm.through is not None]
    said = [f"{arm}: {sentence(of)}" for arm, of in found]
    return [*said, *(found[0][1].assumptions if found else ())]


def _sentence(arm: Arm, comparison: Comparison) -> str:
    """What the arm gained, for a person: rounded by its standard error, and whether it is told from 0."""
    from ncpl_cli.analysis.words import count, rounded

    gain = arm.gain
    if gain.mean is None:
        return f"{arm.arm}: nothing is paired."
    low, high = gain.ci95 or (None, None)
    error = None if low is None or high is None else (high - low) / 4
    what = "higher" if gain.mean > 0 else "lower" if gain.mean < 0 else "no different"
    text = f"{arm.arm}: {comparison.y} is {rounded(abs(gain.mean), error)} {what} than {comparison.plain}'s"
    if low is None or high is None:
        return f"{text}, over {count(len(gain.per_seed), 'seed')}: no interval."
    text += f" (95 % interval {rounded(low, error)} to {rounded(high, error)}, {count(len(gain.per_seed), 'seed')})"
    if low <= 0 <= high:
        return f"Undecided: {text}: not told from 0."
    matched = arm.matched.gain if arm.matched else None
    if matched is not None and matched.mean is not None:
        least, most = matched.ci95 or (0.0, 0.0)
        held = "which is not told from 0" if least <= 0 <= most else "which is told from 0"
        text += f"; against networks that had learned equally much {rounded(matched.mean, error)} is left, {held}"
    return f"{text}."


def _rows(arm: Arm, y: str) -> list[tuple[object, ...]]:
    """What phase 1 had reached, and what came later."""
    rows: list[tuple[object, ...]] = [
        (f"phase-1 {metric}", ours, theirs, None, None, None, None) for metric, (ours, theirs) in arm.phase_1.items()
    ]
    rows.append((y, *arm.later, *_gain(arm.gain)))
    if arm.matched:
        rows.append(("... matched on phase 1", None, None, *_gain(arm.matched.gain)))
    return rows


def _rounded(row: tuple[object, ...]) -> list[object]:
    """A row's numbers to two digits of its standard error, a quarter of its interval; four decimals without one."""
    from ncpl_cli.analysis.words import p_text, rounded

    *numbers, p = row
    low, high = numbers[-2:]
    error = (high - low) / 4 if isinstance(low, float) and isinstance(high, float) else None
    cells = [rounded(n, error) if error and isinstance(n, float) else f"{n:.4f}" if isinstance(n, float) else n
             for n in numbers]  # fmt: skip
    return [*cells, p_text(p) if isinstance(p, float) else p]


def _gain(gain: Gain) -> tuple[float | None, ...]:
    low, high = gain.ci95 or (None, None)
    return gain.mean, low, high, gain.p
