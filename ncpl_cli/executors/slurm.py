"""Workers as the tasks of a SLURM job array, which is requeued when its time is up."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from ncpl_cli.errors import InputError
from ncpl_cli.executors.executor import Places, thread_limits
from ncpl_cli.values import count

MOST_TASKS = 64

SCRIPT = """\
#!/bin/bash
{directives}

{exports}
# the worker is asked to stop in good time, checkpoints and ends with code {stopped}; the task then queues again
{command} &
worker=$!
trap 'again=1; asked=1; kill -USR1 $worker' USR1
trap 'asked=1; kill -TERM $worker' TERM
while :; do
    wait $worker
    code=$?
    # a signal cuts the wait short: wait once more for the worker's own code
    [ $code -gt 128 ] && [ -n "$asked" ] || break
    asked=
done
if [ $code -eq {stopped} ] && [ -n "$again" ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit $code
"""


class Slurm:
    """Tasks of a SLURM job array. They go on when this process ends: `ncpl sweep cancel` stops them."""

    id: ClassVar[str] = "slurm"
    options: ClassVar[tuple[str, ...]] = ("partition", "gres", "time", "directive", "stop_before")
    on_this_machine: ClassVar[bool] = False
    stays: ClassVar[bool] = False

    def __init__(
        self, partition: str | None = None, gres: str | None = None, time: str | None = None,
        directive: Sequence[str] = (), stop_before: int = 120,
    ) -> None:  # fmt: skip
        self.most: int | None = MOST_TASKS
        self.failures: list[str] = []
        self.job: str | None = None
        self._asked = {"partition": partition, "gres": gres, "time": time}
        self._directives = [text.removeprefix("#SBATCH").strip() for text in directive]
        self._stop_before = stop_before

    def script(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> str:
        """The job array's script. A URL with a password is not written into it: sbatch hands the environment on."""
        name = command[command.index("--sweep") + 1]
        lines = [
            f"--job-name=ncpl-{name}", f"--array=0-{places.workers - 1}", f"--cpus-per-task={places.threads}",
            "--requeue", "--open-mode=append", f"--output=ncpl-{name}-%A_%a.log",
            f"--signal=B:USR1@{self._stop_before}",
            *(f"--{key}={value}" for key, value in self._asked.items() if value is not None), *self._directives,
        ]  # fmt: skip
        told = {**thread_limits(places.threads), "NCPL_QUIET": "1"}
        told |= {key: value for key, value in environment.items() if "://" not in value}
        return SCRIPT.format(
            directives="\n".join(f"#SBATCH {line}" for line in lines),
            exports="\n".join(f"export {key}={shlex.quote(value)}" for key, value in told.items()),
            command=shlex.join(command),
            stopped=os.EX_TEMPFAIL,
        )

    def start(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> str:
        """Submit the array from the current directory; raises InputError with what sbatch says when it refuses."""
        said = _run(
            ["sbatch", "--parsable", f"--chdir={Path.cwd()}"], self.script(command, environment, places),
            {**os.environ, **environment},
        )  # fmt: skip
        if not re.fullmatch(r"\d+", number := said.strip().partition(";")[0]):
            raise InputError(f"sbatch answered {said.strip()!r} instead of a job's number.")
        self.job = number
        tasks = f"{count(places.workers, 'task')} of {count(places.threads, 'thread')}"
        return f"SLURM job {number}: {tasks} (squeue -j {number})"

    def tend(self, progress: int) -> int:
        """How many tasks are queued or running; SLURM itself replaces those whose node fails."""
        try:
            return len(_run(["squeue", "--noheader", "--array", "--jobs", str(self.job)]).split("\n")) - 1
        except InputError:  # it is over for so long that SLURM has forgotten it
            return 0

    def stop(self) -> None:
        """Nothing: the tasks belong to SLURM now."""


def _run(command: Sequence[str], text: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(
            f"{command[0]} is not here: this is no login node of a SLURM cluster.", "use --executor local"
        ) from None
    if done.returncode:
        raise InputError(f"{command[0]} refused: {done.stderr.strip()}.", "--dry-run prints the script")
    return done.stdout
