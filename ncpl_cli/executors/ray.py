"""Workers as Ray core tasks: on this machine, or on the cluster that --address names."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ncpl_cli.errors import InputError, told
from ncpl_cli.executors.executor import Place, Places, thread_limits


class Ray:
    """Tasks of a Ray cluster: GPUs are shared by fractions, many machines work at one store."""

    id: ClassVar[str] = "ray"
    options: ClassVar[tuple[str, ...]] = ("address",)
    on_this_machine: ClassVar[bool] = False
    stays: ClassVar[bool] = True

    def __init__(self, address: str | None = None) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError:
            raise InputError("--executor ray needs Ray.", "pip install 'ncpl[ray]'") from None
        own = {"include_dashboard": False} if address is None else {"address": address}
        try:
            self._ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"Ray cannot be reached ({told(error)}).", "ray status shows whether a cluster runs"
            ) from None
        self.most: int | None = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self.failures: list[str] = []
        self._task: Any = None
        self._flying: dict[Any, Place] = {}

    def start(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> str:
        """Submit a task a worker; Ray starts each where its share of cores and GPUs is free."""
        told = {**environment, **thread_limits(places.threads), "NCPL_QUIET": "1"}
        task = self._ray.remote(run_worker).options(
            num_cpus=places.threads, num_gpus=1 / places.per_gpu if places.gpus else 0, max_retries=-1
        )
        self._task = lambda: task.remote(list(command), told)
        self._flying = {self._task(): Place() for _ in range(places.workers)}
        return f"{places.workers} Ray tasks of {places.threads} threads"

    def tend(self, progress: int) -> int:
        """Replace workers that were killed; how many live."""
        done, _ = self._ray.wait(list(self._flying), num_returns=len(self._flying), timeout=0)
        for one in done:
            place = self._flying.pop(one)
            try:
                code, said = self._ray.get(one)
            except self._ray.exceptions.RayError as error:
                code, said = 1, str(error)
            if place.again(code, said, progress, self.failures):
                self._flying[self._task()] = place
        return len(self._flying)

    def stop(self) -> None:
        """Interrupt the tasks, which pass it on, and leave Ray."""
        for one in self._flying:
            self._ray.cancel(one)
        if self._flying:
            self._ray.wait(list(self._flying), num_returns=len(self._flying), timeout=120)
        self._ray.shutdown()


def run_worker(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a worker to its end in a process of its own; its exit code and what it said. Ends with the Ray worker."""
    with subprocess.Popen(
        [*command, "--parent", str(os.getpid())], env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as worker:  # fmt: skip
        try:
            _, said = worker.communicate()
        except KeyboardInterrupt:  # cancelled
            worker.send_signal(signal.SIGTERM)
            _, said = worker.communicate()
    return worker.returncode, said
