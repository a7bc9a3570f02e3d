"""`ncpl compare`: what did an intervention gain, and what did the first phase cost?"""

from __future__ import annotations

from typing import Annotated

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db, Json


def compare(
    name: Annotated[list[str] | None, typer.Option(help="Only runs with this label; repeatable.")] = None,
    y: Annotated[
        str | None,
        typer.Option("--y", help="What is gained; default probe_test_accuracy, online_accuracy with several tasks."),
    ] = None,
    plain: Annotated[
        str | None, typer.Option(help="Label of the plain arm; default the runs without interventions.")
    ] = None,
    scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
    runs: Annotated[str | None, typer.Option(help="Only these runs: ids or labels with commas.")] = None,
    resampling_seed: Annotated[int, typer.Option(help="Seed of all resampling.")] = 0,
    db: Db = None,
    json_: Json = False,
) -> None:
    """Compare arms with the plain arm, paired by seed; matched on what phase 1 had learned.

    Example: ncpl compare --scenario warm-start
    """
    from ncpl_cli.analysis import compare as comparisons_of
    from ncpl_cli.analysis import load
    from ncpl_cli.records import Address
    from ncpl_cli.store import open_store

    wanted = ["train_accuracy", "test_accuracy", "nc1", "probe_test_accuracy"]
    address = str(Address.parse(y)) if y else None
    with open_store(_common.store_url(db), create=False) as store:
        study = load(
            store, [*wanted, *([address] if address else [])], scenario=scenario, names=name or (),
            ids=[part.strip() for part in runs.split(",")] if runs else None,
        )  # fmt: skip
    found = comparisons_of(study, address, plain=plain, seed=resampling_seed)
    if json_:
        _common.print_json({"comparisons": [c.to_json() for c in found]})
        return
    for comparison in found:
        print(f"{comparison.scenario}: gain in {comparison.y} over {comparison.plain!r}, paired by seed")
        rows = [
            (a.arm, len(a.gain.per_seed), *a.phase_1["train_accuracy"], *a.phase_1["test_accuracy"],
             *a.phase_1["nc1"], *a.later)
            for a in comparison.arms
        ]  # fmt: skip
        _common.print_table(
            ("arm", "seeds", "train acc. phase 1", "plain", "test acc. phase 1", "plain", "nc1 phase 1", "plain",
             comparison.y, "plain"),
            rows, title="Means over the paired seeds",
        )  # fmt: skip
        _common.print_table(
            ("arm", "gain", "low", "high", "p", "detectable", "matched gain", "low", "high", "p", "unmatched"),
            [
                (a.arm, *_gain(a.gain), a.gain.detectable,
                 *(_gain(a.matched.gain) if a.matched else (None,) * 4), a.matched.unmatched if a.matched else None)
                for a in comparison.arms
            ],
            title="Gain with its 95 % interval over seeds; matched: over plain networks that had learned equally much",
        )  # fmt: skip
        for line in comparison.notes:
            print(f"- {line}")
        for arm in comparison.arms:
            for line in arm.notes:
                print(f"- {arm.arm}: {line}")
        print()


def _gain(gain: object) -> tuple[float | None, ...]:
    from ncpl_cli.analysis.comparison import Gain

    assert isinstance(gain, Gain)
    low, high = gain.ci95 or (None, None)
    return gain.mean, low, high, gain.p
