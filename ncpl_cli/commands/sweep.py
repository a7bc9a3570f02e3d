"""`ncpl sweep`: many runs, many workers, nothing lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ncpl_cli import values
from ncpl_cli.app import App, told
from ncpl_cli.commands import _beforehand, _common
from ncpl_cli.commands._common import STATUSES, DataDir, Db, Device, DryRun, Gap, Json, Plan
from ncpl_cli.commands._progress import CURVES
from ncpl_cli.commands.train import Scenarios, command, common_options, parameters_of, planned, scenario_parameters
from ncpl_cli.values import Allowed


class Sweeps(Scenarios):
    """A sub-command for each scenario and for any TOML file, beside those that look after sweeps."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The scenarios' ids, then the others."""
        return [*super().list_commands(ctx), *TyperGroup.list_commands(self, ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The sub-command; raises InputError that lists the known scenarios."""
        if (known := TyperGroup.get_command(self, ctx, cmd_name)) is not None:
            return told(known)
        from ncpl_cli.scenarios import scenario_named

        if cmd_name.endswith(".toml"):
            text = f"The sweep that a file describes.\n\nExample: ncpl sweep {cmd_name} --jobs auto"
            return command(
                cmd_name, text, parameters_of(_options, without=OF_THE_FILE), lambda given: _file(cmd_name, given)
            )
        scenario = scenario_named(cmd_name)
        text = f"{scenario.__doc__}\n\nExample: ncpl sweep {cmd_name} --seeds 0-4 --grid lr=0.01,0.003 --jobs auto"
        own = scenario_parameters(scenario)
        training = parameters_of(common_options, without=[*OF_ONE_COMMAND, *(p.name for p in own)])
        parameters = [*own, *training, *parameters_of(_options)]
        return command(cmd_name, text, parameters, lambda given: _options_given(scenario, given))


app = App(cls=Sweeps, help="Train many runs with many workers; the same again does what is missing.")

WORKERS = Allowed(form=values.count_or_auto)

OF_ONE_COMMAND = ("seed", "seeds", "jobs", "name", "resume", "dry_run", "gap", "plan", "db", "data_dir", "device",
                  "json_", "keep_checkpoints")  # fmt: skip
"""Options of `ncpl train` that a sweep has not, or has its own of."""

OF_THE_FILE = ("seeds", "grid", "arm")
"""What a TOML file says itself."""


def _options(
    seeds: Annotated[str | None, typer.Option(help="Several seeds: 0-4 or 1,3,7; default 0.")] = None,
    grid: Annotated[
        list[str] | None, typer.Option(help="KEY=V1,V2: a run for each value; may be repeated: every combination.")
    ] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="NAME=SPEC+SPEC: an arm with these interventions (NAME= none); repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name and label; default follows its settings.")] = None,
    jobs: Annotated[
        str, typer.Option(parser=WORKERS, help="Workers: auto (one a core, or as --per-gpu says) or a number.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(max=4096, help="Threads of each worker; default the cores divided among them.")
    ] = None,
    executor: Annotated[str, typer.Option(help="Where workers run: local, ray or slurm.")] = "local",
    gpus: Annotated[str | None, typer.Option(help="GPUs to share: 0,1; default those that are visible.")] = None,
    per_gpu: Annotated[int, typer.Option(max=64, help="Workers on each GPU.")] = 1,
    address: Annotated[str | None, typer.Option(help="ray: the cluster; default one on this machine.")] = None,
    partition: Annotated[str | None, typer.Option(help="slurm: the partition.")] = None,
    gres: Annotated[str | None, typer.Option(help="slurm: generic resources of a task, e.g. gpu:1.")] = None,
    time: Annotated[str | None, typer.Option(help="slurm: time limit of a task; it goes on after it.")] = None,
    directive: Annotated[
        list[str] | None, typer.Option(help="slurm: a further #SBATCH line, e.g. --account=x; repeatable.")
    ] = None,
    stop_before: Annotated[
        int | None, typer.Option(help="slurm: seconds before the limit at which a task stops; default 120.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="slurm: stay until all is done.")] = False,
    max_attempts: Annotated[int, typer.Option(help="Attempts in a row that get no further before a run fails.")] = 5,
    lease: Annotated[
        float, typer.Option(min=1, max=86400, help="Seconds after which a silent worker is replaced.")
    ] = 30.0,
    keep_checkpoints: Annotated[
        str | None, typer.Option(help="last, probes, every:K or all; default last, warm-start: probes.")
    ] = None,
    dry_run: DryRun = False,
    plan: Plan = None,
    gap: Gap = None,
    db: Db = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    json_: Json = False,
) -> None: ...


def _file(path: str, given: dict[str, Any]) -> None:
    from ncpl_cli.commands import _grid

    _sweep(_grid.from_file(Path(path), given["name"]), given)


def _options_given(scenario: Any, given: dict[str, Any]) -> None:
    from ncpl_cli.commands import _grid

    own = scenario_parameters(scenario)
    training = parameters_of(common_options, without=[*OF_ONE_COMMAND, *(p.name for p in own)])
    settings = {p.name: given[p.name] for p in (*own, *training)}
    _sweep(
        _grid.from_options(
            scenario, settings, given["seeds"], given["grid"] or (), given["arm"] or (), given["name"]
        ),
        given,
    )  # fmt: skip


def _sweep(study: Any, given: dict[str, Any]) -> None:
    """Run a sweep with the options of its command line."""
    from ncpl_cli import device as device_of
    from ncpl_cli import settings
    from ncpl_cli.analysis.casualties import together
    from ncpl_cli.commands import _grid
    from ncpl_cli.commands._workers import Workers
    from ncpl_cli.errors import InputError, Stopped, SweepFailed
    from ncpl_cli.store import open_store, shown

    _beforehand.check(given["gap"], given["dry_run"])
    plan = _beforehand.plan_text(given["plan"])
    jobs = given["jobs"]
    probes = study.settings.pop("probes", None)
    executor = _executor(given)
    gpus = () if given["gpus"] is None else tuple(values.names(given["gpus"], "--gpus"))
    if gpus and given["device"] not in ("auto", "cuda"):
        raise InputError(f"--gpus {given['gpus']} does not go with --device {given['device']}.")

    from ncpl_cli.plan import best_device
    from ncpl_cli.sweep import Options, run_sweep, visible_gpus

    device = given["device"]
    auto = device == "auto" and not given["gpus"] and not given["gres"]
    if device == "auto" and (gpus or "gpu" in (given["gres"] or "")):
        device = "cuda"
    if executor.on_this_machine and not auto:
        device = device_of.resolve(device)
    data_dir = _common.data_path(given["data_dir"])
    arms, loaded = _grid.arms_of(study, data_dir)
    if plan is not None:
        arms = [replace(arm, specs=tuple(planned(spec, plan) for spec in arm.specs)) for arm in arms]
    if auto:
        here = executor.on_this_machine
        specs = [spec for arm in arms for spec in arm.specs]
        device = best_device(specs, lambda: device_of.resolve("auto") if here else "cpu")
    device, _, number = device.replace("auto", "cpu").partition(":")
    if device == "cuda" and not gpus:
        gpus = (number,) if given["device"] not in ("auto", "cuda") else visible_gpus()
    for data in loaded:
        settings.ready([spec for arm in arms for spec in arm.specs if spec.dataset == data], loaded[data], device)
    if given["dry_run"]:
        return _show_plan(study, arms, loaded, device, given, executor, gpus)
    options = Options(
        device, given["threads"], given["keep_checkpoints"], probes != "later", given["max_attempts"], given["lease"]
    )  # fmt: skip
    url = _common.store_url(given["db"])
    with open_store(url) as store, Workers() as workers:
        found = run_sweep(
            arms, store, name=study.name, options=options, jobs=None if jobs == "auto" else int(jobs), gpus=gpus,
            per_gpu=given["per_gpu"], data_dir=data_dir, executor=executor, watcher=workers,
            wait=given["wait"],
        )  # fmt: skip
    if given["json_"]:
        _common.print_json(found.to_json() | {"db": shown(url)})
    else:
        columns = ("sweep", "total", "finished", "failed", "diverged", "skipped", "pending")
        _common.print_table(columns, [[getattr(found, column) for column in columns]])
        then = f"ncpl sweep status {found.sweep}, ncpl correlate --name {found.sweep}"
        _common.note(f"store: {shown(url)}   next: {then}")
    if found.bad:
        which = "; ".join(line.rstrip(".") for line in together(found.casualties)[:3])
        raise SweepFailed(
            f"{found.bad} of the runs of sweep {found.sweep} failed or diverged, the others are done: {which}.",
            f"ncpl sweep status {found.sweep} shows why; ncpl sweep retry {found.sweep} has failed ones tried again",
        )
    if found.pending and (executor.stays or given["wait"]):
        raise Stopped(
            f"{found.pending} runs of sweep {found.sweep} are not done: it was cancelled, or others are at them.",
            "the same command goes on",
        )


def _executor(given: dict[str, Any]) -> Any:
    """The executor with the options that were given for it."""
    from ncpl_cli.errors import InputError
    from ncpl_cli.executors import EXECUTORS, executor_named

    kind = executor_named(given["executor"])
    known = {option: one.id for one in EXECUTORS.values() for option in one.options}
    wanted = {option: given[option] for option in known if given[option] not in (None, False, [], ())}
    if alien := [option for option in wanted if option not in kind.options]:
        named = " and ".join("--" + option.replace("_", "-") for option in alien)
        raise InputError(f"{named} belongs to --executor {known[alien[0]]}, not to {kind.id}.")
    return kind(**wanted)


def _show_plan(
    study: Any, arms: list[Any], loaded: dict[Any, Any], device: str, given: dict[str, Any], executor: Any,
    gpus: tuple[str, ...],
) -> None:  # fmt: skip
    """What a sweep would do, from a short measurement of each kind of run; for SLURM also the script."""
    from ncpl_cli import estimate
    from ncpl_cli.analysis.words import count
    from ncpl_cli.commands._table import duration
    from ncpl_cli.executors import Places, Slurm
    from ncpl_cli.spec import flat
    from ncpl_cli.sweep import cores, worker_command

    jobs = executor.most if given["jobs"] == "auto" else int(given["jobs"])
    runs: dict[str, dict[str, Any]] = {}
    seconds: float | None = 0.0
    size, cohorts, why = 0.0, 0, ""
    timings: estimate.Timings = {}
    here = executor.on_this_machine or device == "cpu"
    with _common.known_epochs(_common.store_url(given["db"])) as known:
        for arm in arms:
            specs = [spec for spec in arm.specs if spec.id not in runs]
            if not specs:
                continue
            data = loaded[specs[0].dataset]
            found = estimate.dry_run(specs, data, device, here=here, timings=timings, known=known)
            for run in found["runs"]:
                runs[run["id"]] = {**run, "arm": arm.label, "cohort": cohorts + run["cohort"]}
            cohorts += 1 + max(run["cohort"] for run in found["runs"])
            one_by_one = found["seconds_one_by_one"]
            seconds = None if seconds is None or one_by_one is None else seconds + one_by_one
            size, why = size + found["bytes"], found["engine_why"]
    workers = min(jobs or (len(gpus) * given["per_gpu"] if gpus else cores()), cohorts)
    document = {
        "sweep": study.name, "runs": list(runs.values()), "cohorts": cohorts, "workers": workers, "engine_why": why,
        "seconds": None if seconds is None else seconds / workers, "bytes": size,
    }  # fmt: skip
    if given["gap"] is not None:
        seeds = len({run["seed"] for run in runs.values()})
        each = None if seconds is None else seconds / len(runs)
        first = arms[0].specs[0]
        document["power"] = _beforehand.seeds_for(
            given["gap"],
            _common.store_url(given["db"]),
            first.scenario.id,
            flat(first),
            seeds,
            len(arms),
            each,
            workers,
        )
    if isinstance(executor, Slurm):
        command_, environment = worker_command(
            study.name, _common.store_url(given["db"]), _common.data_path(given["data_dir"])
        )
        places = Places(workers, given["threads"] or max(1, cores() // workers), gpus, given["per_gpu"])
        document["script"] = executor.script(command_, environment, places)
    if given["json_"]:
        _common.print_json(document)
        return
    columns = ("run", "arm", "seed", "cohort", "engine", "epochs")
    _common.print_table(columns, [(r["id"], *(r[c] for c in columns[1:])) for r in runs.values()])
    _common.note(why)
    _common.note(
        f"sweep {study.name}: {count(len(runs), 'run')} in {count(cohorts, 'cohort')} on {count(workers, 'worker')}, "
        f"about {'an unknown time' if seconds is None else duration(seconds / workers)}, {size / 1e6:.1f} MB; "
        "nothing was trained or written."
    )
    if "power" in document:
        _common.say(document["power"]["sentence"])
    if "script" in document:
        for line in document["script"].splitlines():
            _common.out(line)


@app.command("status")
def status(
    name: Annotated[str | None, typer.Argument(help="A sweep; default all, one line each.")] = None,
    db: Db = None,
    json_: Json = False,
) -> None:
    """How sweeps stand: how many runs are done, who works on what, how fast, how long still, what went wrong.

    Example: ncpl sweep status study
    """
    from dataclasses import asdict

    from ncpl_cli.analysis.casualties import together
    from ncpl_cli.commands._workers import progress, working
    from ncpl_cli.store import Queue, open_store

    with open_store(_common.store_url(db), readonly=True) as store:
        queue = Queue(store)
        found = [queue.overview(one) for one in ([name] if name else queue.names())]
        bad = {one.name: _casualties(store, one) for one in found}
        listed = _listed(store, found[0]) if name is not None and sys.stdout.isatty() else None
    if json_:
        documents = [
            {
                "sweep": one.name, "created": _time(one.created), "cancelled": _time(one.cancelled),
                "total": sum(one.runs.values()), **{s: one.runs.get(s, 0) for s in STATUSES}, "probes": one.probes,
                "epochs": one.epochs, "total_epochs": one.total_epochs, "epochs_per_second": one.pace,
                "eta_seconds": one.seconds_left, "workers": [asdict(w) for w in one.working],
                "errors": [casualty.to_json() for casualty in bad[one.name]],
            }
            for one in found
        ]  # fmt: skip
        _common.print_json(documents[0] if name else {"sweeps": documents})
        return
    if name is None:
        told: tuple[str, ...] = STATUSES
        if sys.stdout.isatty():  # for eyes: no column of zeros
            told = tuple(s for s in STATUSES if s == "finished" or any(o.runs.get(s) for o in found))
        columns = ("sweep", "total", *told, "epochs", "created")
        rows = [(o.name, sum(o.runs.values()), *(o.runs.get(s, 0) for s in told), o.epochs, _time(o.created))
                for o in found]  # fmt: skip
        _common.print_table(columns, rows, least=("created", "epochs"))
        for one in found:
            for line in together(bad[one.name]):
                _common.say(f"{one.name}: {line}", "- ")
        return
    (one,) = found
    _common.say(f"{one.name}: {progress(one)}" + ("; cancelled" if one.cancelled else ""))
    if one.working:
        _common.print_table(("worker", "runs", "seeds", "epoch", "epochs/s"), working(one))
    _show_casualties(bad[one.name])
    if listed is not None:
        columns_of_runs, rows_of_runs, more = listed
        _common.print_table(columns_of_runs, rows_of_runs, least=("epochs", "seconds", "nc1 so far", "online so far"))
        if more:
            _common.note(f"{more} more: ncpl runs list --name {one.name}")


MOST_LISTED = 20
"""Runs that the status of a sweep lists at a terminal: those at work first."""


def _listed(store: Any, overview: Any) -> tuple[list[str], list[list[object]], int]:
    """The sweep's runs with their curves, those at work first; and how many more there are."""
    from ncpl_cli.analysis.casualties import varying
    from ncpl_cli.commands.runs import summaries, table_of

    found = store.runs(name=overview.name)
    about = varying(found)
    first = ("running", "interrupted", "failed", "diverged", "finished", "pending")
    rows = sorted(summaries(found, about), key=lambda r: first.index(r["status"]))
    shown = rows[:MOST_LISTED]
    columns, cells = table_of(shown, store.curves([r["id"] for r in shown], list(CURVES)), overview.name)
    return columns, cells, len(rows) - len(shown)


def _casualties(store: Any, overview: Any) -> list[Any]:
    """What failed or diverged of a sweep, with the settings that vary in it and the reason."""
    from ncpl_cli.analysis.casualties import casualties
    from ncpl_cli.analysis.differing import LEFT_OUT

    if not overview.errors and not any(kind.get(s) for kind in (overview.runs, overview.probes) for s in LEFT_OUT):
        return []  # nothing went wrong: no need to read every run for what varies among them
    return casualties(store.runs(name=overview.name), overview.errors)


def _show_casualties(found: list[Any]) -> None:
    from ncpl_cli.analysis.casualties import in_words

    if found:
        rows = [(c.run, c.seed, c.status, in_words(c.settings), c.attempts, c.error) for c in found]
        _common.print_table(("run", "seed", "status", "settings", "attempts", "last error"), rows)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


@app.command("retry")
def retry(name: Annotated[str, typer.Argument(help="A sweep.")], db: Db = None) -> None:
    """Let the failed runs of a sweep be tried again, by the next `ncpl sweep` or worker.

    Example: ncpl sweep retry study
    """
    from ncpl_cli.analysis.words import count
    from ncpl_cli.store import Queue, open_store

    with open_store(_common.store_url(db), create=False) as store:
        again = Queue(store).retry(name)
    _common.out(f"{count(again, 'run')} of sweep {name} will be tried again.")


@app.command("cancel")
def cancel(name: Annotated[str, typer.Argument(help="A sweep.")], db: Db = None) -> None:
    """Give out no more runs of a sweep, and have its workers stop after a checkpoint; what is stored stays.

    Example: ncpl sweep cancel study
    """
    from ncpl_cli.store import Queue, open_store

    with open_store(_common.store_url(db), create=False) as store:
        Queue(store).cancel(name)
    _common.out(f"sweep {name} is cancelled; its workers stop within seconds. The same ncpl sweep takes it up again.")


@app.command("worker")
def worker(
    sweep: Annotated[str, typer.Option(help="The sweep to work at.")],
    parent: Annotated[int | None, typer.Option(hidden=True, help="End with this process.")] = None,
    db: Db = None,
    data_dir: DataDir = None,
) -> None:
    """Work at a sweep until nothing is left: on any machine that reaches the store, as often as you like.

    Example: ncpl sweep worker --sweep study --db postgresql://host/ncpl
    """
    if parent is not None:
        _end_with(parent)
    from ncpl_cli.commands._progress import Progress
    from ncpl_cli.store import open_store
    from ncpl_cli.worker import work

    with open_store(_common.store_url(db), create=False) as store, Progress() as progress:
        ended = work(sweep, store, observer=progress, data_dir=_common.data_path(data_dir))
    _common.note(f"nothing is left for this worker; it trained {values.count(ended, 'unit')}.")


def _end_with(parent: int) -> None:
    """Be sent SIGTERM when the parent ends, however it ends."""
    if sys.platform == "linux":
        import ctypes

        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, signal.SIGTERM)
    else:
        threading.Thread(target=_until_orphaned, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before we could ask
        raise typer.Exit(os.EX_TEMPFAIL)


def _until_orphaned(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
