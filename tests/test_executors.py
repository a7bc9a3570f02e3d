"""Executors: the same sweep through each gives the same records. With the real Ray and SLURM, where they are."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ncpl_cli.errors import InputError
from ncpl_cli.estimate import BYTES_PER_EPOCH
from ncpl_cli.executors import EXECUTORS, Local, Places, Slurm, executor_named
from ncpl_cli.main import call
from ncpl_cli.store import open_store
from ncpl_cli.sweep import Options, enlist
from ncpl_cli.worker import work
from tests.test_sweep import Silent, arm
from tests.test_train import NCPL, SMALL, contents, ncpl

SWEEP = [
    "sweep",
    *SMALL,
    "--tasks",
    "20",
    "--seeds",
    "0-1",
    "--grid",
    "batch_size=1,32",
    "--name",
    "s",
    "--threads",
    "1",
]
SLURM = ("munged", "slurmctld", "slurmd", "sbatch")

CONFIGURATION = """
ClusterName=ncpl
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """A SLURM cluster of one node, ours for as long as the tests run; skips where SLURM is not installed."""
    if missing := [name for name in SLURM if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]:
        pytest.skip(f"{missing[0]} is not installed (apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons are started as root here")
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2)))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    munge = ["munged", "--force", "--foreground", f"--socket={folder}/munge/socket", f"--key-file={key}",
             f"--pid-file={folder}/munge/pid", f"--log-file={folder}/munge/log",
             f"--seed-file={folder}/munge/seed"]  # fmt: skip
    daemons = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SLURM_CONF", "PATH"):
            patch.setenv(name, environment[name])
        try:
            for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", host]):
                daemons.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                time.sleep(1)
            deadline = time.monotonic() + 30
            while "idle" not in _said("sinfo", "--noheader"):
                assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-2000:]
                time.sleep(0.5)
            yield
        finally:
            _said("scancel", "--full", "--signal=KILL", "--user=root")
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(30)
            shutil.rmtree(folder, ignore_errors=True)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def ray() -> None:
    """Skips where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (pip install 'ncpl[ray]')")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep, trained by one worker in this process."""
    path = tmp_path_factory.mktemp("calm") / "calm.db"
    with open_store(path) as store:
        enlist([arm([0, 1], tasks=20), arm([0, 1], tasks=20, batch_size=32)], store, "s", Options(threads=1))
        work("s", store, observer=Silent())
    return path


@pytest.mark.parametrize(
    ("executor", "options"),
    [
        ("local", []),
        pytest.param("ray", [], marks=pytest.mark.cluster),
        pytest.param("slurm", ["--wait", "--partition", "main", "--time", "10"], marks=pytest.mark.cluster),
    ],
)
def test_every_executor_gives_the_same_records(
    request: pytest.FixtureRequest, tmp_path: Path, calm: Path, executor: str, options: list[str]
) -> None:
    if executor != "local":
        request.getfixturevalue(executor)
    done = ncpl(*SWEEP, "--executor", executor, *options, "--jobs", "2", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (found["total"], found["finished"], found["pending"]) == (4, 4, 0)
    assert contents(tmp_path / "ncpl.db") == contents(calm)


@pytest.mark.cluster
def test_a_killed_ray_driver_is_started_again_and_nothing_is_doubled(ray: None, tmp_path: Path) -> None:
    command = [*SWEEP, "--executor", "ray", "--jobs", "2", "--quiet"]
    command[command.index("--tasks") + 1] = "150"
    driver = subprocess.Popen([*NCPL, *command], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(lambda: list(tmp_path.glob("ncpl.checkpoints/*/*.safetensors")), driver)
    driver.kill()
    driver.wait()
    found = json.loads(ncpl(*command, "--json", cwd=tmp_path).stdout)
    assert found["finished"] + found["skipped"] == 4
    with open_store(tmp_path / "ncpl.db") as store:
        assert store.check() == []
        for row in store.runs():
            assert row.status == "finished" and [r["epoch"] for r in store.rows(row.id)] == list(range(151))
            assert [a["outcome"] for a in store.attempts(row.id)].count("finished") == 1


@pytest.mark.cluster
def test_a_slurm_task_checkpoints_in_time_and_queues_again(slurm: None, tmp_path: Path) -> None:
    command = [*SWEEP, "--executor", "slurm", "--jobs", "1"]
    command[command.index("--tasks") + 1] = "100000"
    assert "squeue -j" in ncpl(*command, cwd=tmp_path).stderr
    _until(lambda: list(tmp_path.glob("ncpl.checkpoints/*/*.safetensors")))
    job = _said("squeue", "--noheader", "--format=%F").split()[0]
    _said("scancel", "--signal=USR1", "--batch", f"{job}_0")  # what SLURM sends before the time limit
    _until(lambda: "PENDING" in _said("squeue", "--noheader", "--format=%T", f"--jobs={job}"))
    with open_store(tmp_path / "ncpl.db") as store:
        assert {row.status for row in store.runs()} == {"interrupted", "pending"}
    assert "stopped by SIGUSR1" in next(tmp_path.glob(f"ncpl-s-{job}_0.log")).read_text()
    _said("scancel", job)


def _until(true: object, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 120
    assert callable(true)
    while not true():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.1)


WORKER = [sys.executable, "-c", "import sys, time; time.sleep(float(sys.argv[1])); sys.exit(int(sys.argv[2]))"]


def tended(executor: Local, progress: Sequence[int] = (), seconds: float = 20) -> None:
    """Look after workers until all have left."""
    deadline, steps = time.monotonic() + seconds, iter(progress)
    while executor.tend(next(steps, 0)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_worker_said_when_it_failed_is_kept() -> None:
    local = Local()
    complaint = "import sys; print('error: no data', file=sys.stderr); print('hint: fetch it', file=sys.stderr); "
    local.start([sys.executable, "-c", complaint + "sys.exit(1)"], {}, Places(1))
    tended(local)
    assert local.failures == ["error: no data hint: fetch it"]


def test_workers_that_are_killed_are_replaced_but_not_for_ever() -> None:
    local = Local()
    local.start([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], {}, Places(1))
    tended(local)
    assert local.failures == [f"a worker was killed by signal {signal.SIGKILL} 5 times in a row"]
    local = Local()
    local.start([*WORKER, "60", "0"], {}, Places(2))
    first = [slot.process for slot in local._slots]
    first[0].kill()
    first[0].wait()
    assert local.tend(0) == 2 and local._slots[0].process is not first[0] and local._slots[1].process is first[1]
    local.stop()
    assert local.tend(0) == 0 and first[1].returncode == -signal.SIGTERM


def test_workers_share_cores_and_gpus(tmp_path: Path) -> None:
    told = "import os, sys, pathlib; e = os.environ; pathlib.Path(sys.argv[1], str(os.getpid())).write_text("
    told += "' '.join([e['OMP_NUM_THREADS'], e['CUDA_VISIBLE_DEVICES'], e['NCPL_DB']]))"
    local = Local()
    local.start([sys.executable, "-c", told, str(tmp_path)], {"NCPL_DB": "x.db"}, Places(4, 3, ("0", "2"), 2))
    tended(local)
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["3 0 x.db"] * 2 + ["3 2 x.db"] * 2


def test_the_script_of_a_job_array() -> None:
    slurm = Slurm(partition="gpu", gres="gpu:1", directive=["--account=x y"], stop_before=60)
    command = ["python", "-m", "ncpl_cli", "sweep", "worker", "--sweep", "s", "--data-dir", "/a b"]
    secret = "postgresql://me:secret@host/ncpl"
    lines = slurm.script(command, {"NCPL_DB": secret}, Places(8, 4)).splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --time" not in "\n".join(lines)
    for line in ("#SBATCH --array=0-7", "#SBATCH --cpus-per-task=4", "#SBATCH --requeue", "#SBATCH --gres=gpu:1",
                 "#SBATCH --signal=B:USR1@60", "#SBATCH --partition=gpu", "#SBATCH --account=x y",
                 "export OMP_NUM_THREADS=4",
                 "python -m ncpl_cli sweep worker --sweep s --data-dir '/a b' &"):  # fmt: skip
        assert line in lines
    assert "secret" not in "\n".join(lines)
    subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True)


def test_options_belong_to_their_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="Did you mean 'slurm'") as error:
        executor_named("slurmm")
    assert error.value.hint == "known: local, ray, slurm"
    assert list(EXECUTORS) == ["local", "ray", "slurm"]
    monkeypatch.chdir(tmp_path)
    assert call([*SWEEP, "--partition", "main"]) == 2
    assert "--partition belongs to --executor slurm, not to local" in capsys.readouterr().err


@pytest.mark.parametrize("device", [["--gres", "gpu:1"], ["--device", "cuda"], ["--device", "mps"]], ids=" ".join)
def test_a_dry_run_for_other_machines_asks_nothing_of_their_device(
    device: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a login node there is no GPU: the script and the size, with no estimate of the time."""
    import torch

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("the workers' device was asked for")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "_lazy_init", touched)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    study = ["sweep", "permuted-digits", "--tasks", "2", "--seeds", "0-1", "--name", "s", "--db", "s.db", "--dry-run"]
    assert call([*study, "--executor", "slurm", *device]) == 0
    told = capsys.readouterr()
    assert "#SBATCH --job-name=ncpl-s" in told.out and "an unknown time" in told.err
    assert call([*study, "--executor", "slurm", *device, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["seconds"] is None and len(planned["runs"]) == 2
    parameters = 64 * 100 + 100 + 2 * (100 * 100 + 100) + 100 * 10 + 10
    assert planned["bytes"] == 2 * (2 * BYTES_PER_EPOCH + parameters * 4)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_warm_starts_for_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = ["sweep", "warm-start", "--dataset", "digits", "--network", "mlp", "--name", "s", "--db", "s.db"]
    assert call([*study, "--dry-run", "--executor", "slurm", "--gres", "gpu:1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] is None
