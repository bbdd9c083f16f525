"""The executor `ray`: one task per batch, which starts a worker process on a node with free
resources.

The batch and its events are files in the shared directory. When a node dies, its runs resume on
another one from their last checkpoints, under the same name, which takes over their locks.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ..core.hardware import cpu_count
from ..errors import ConfigError
from .job import (
    INTERRUPTED,
    Attempt,
    Event,
    EventFile,
    Executor,
    ExecutorOptions,
    JobBatch,
    Outcome,
    Submission,
    WorkerConfig,
)
from .local import describe_exit, worker_environment

OWN = "local"  # Ray's word for a cluster that starts and ends with this process
# seconds to wait for a cluster; Ray itself would retry for minutes and print to stderr
_TIMEOUT = 5.0
_POLL = 0.2  # seconds between two reads of the files of up to 200 batches
_PAUSE = 2.0  # seconds before a batch is retried, times the number of machines it lost
_STORE = 100_000_000  # bytes of shared memory, which runs do not use


class RayPool(Executor):
    """Runs batches on the nodes of a Ray cluster. All nodes need the same Python environment, and
    the workspace, the data and the plugins at the same paths.
    """

    def __init__(self, config: WorkerConfig, options: ExecutorOptions) -> None:
        """Raises ConfigError if no cluster responds at the address."""
        self.config, self.options, self._cpus = config, options, options.cpus or 1
        self._address = options.address or os.environ.get("RAY_ADDRESS") or OWN
        host, _, port = self._address.rpartition(":")
        if self._address not in (OWN, "auto"):
            if not host or not port.isdigit() or "/" in host:
                raise ConfigError(
                    "--address must be auto or HOST:PORT, from a node of the cluster (use ray job "
                    f"submit), got {self._address!r}"
                )
            try:
                socket.create_connection((host, int(port)), _TIMEOUT).close()
            except (OSError, OverflowError) as error:
                raise ConfigError(
                    f"no Ray cluster responds at {self._address} ({error}): start one with ray "
                    "start --head, which prints its address"
                ) from None
        if self._address == OWN or host in ("127.0.0.1", "localhost"):
            # On Linux, Ray replaces the loopback address by the machine's, and everything that can
            # reach a cluster can run code on it. With this variable it keeps the address, on every
            # system; it is read once, when Ray is imported.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # hide GPUs from runs without a share of one
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        import ray

        self._ray: Any = ray
        self._todo: deque[JobBatch] = deque()
        self._tasks: dict[Any, tuple[Attempt, EventFile]] = {}
        self._submissions: list[Submission] = []
        self._stopping = False

    def max_parallel(self, count: int) -> int:
        """`--jobs`, limited by the cluster's resources; does not start a temporary cluster."""
        if self._address == OWN:
            free = cpu_count() // self._cpus
        else:
            self._connect()
            total = self._ray.cluster_resources()
            free = min(
                int(total.get(name, 0) / share + 1e-9)
                for name, share in (("CPU", self._cpus), ("GPU", self._gpus))
                if share
            )
        return max(1, min(self.options.jobs or count, count, free))

    @property
    def _gpus(self) -> float:
        """GPUs per run: by default one if the cluster has GPUs."""
        if self.options.gpus is not None:
            return float(self.options.gpus)
        has_gpus = self._ray.cluster_resources().get("GPU", 0) > 0
        return float(self.config.device != "cpu" and has_gpus)

    def run(
        self, batches: list[JobBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Yields every job's events as they arrive; once `stopped()` is true, workers save and
        stop.
        """
        self._todo.extend(batches)
        # Ray's driver prints events of nodes to stdout, which is for data; no setting disables it.
        with Path(os.devnull).open("w") as devnull, redirect_stdout(devnull):
            self._connect()
            try:
                nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
                sizes = [(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]
                if not any(cpus >= self._cpus and gpus >= self._gpus for cpus, gpus in sizes):
                    # Ray would wait forever for a node that is large enough
                    raise ConfigError(
                        f"no node of the Ray cluster has {self._cpus} CPUs and {self._gpus:g} "
                        "GPUs, as required by --cpus-per-run and --gpus-per-run; the most on a "
                        f"node are {max(cpus for cpus, _ in sizes):g} CPUs and "
                        f"{max(gpus for _, gpus in sizes):g} GPUs"
                    )
                while self._tasks or (self._todo and not self._stopping):
                    if stopped():
                        self.stop()
                    self._submit()
                    tasks = list(self._tasks)
                    pause = _POLL * max(1.0, len(tasks) / 200)
                    ended, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=pause)
                    for task in tasks:
                        attempt, events = self._tasks[task]
                        for event in events.read():
                            yield from attempt.on_event(event)
                        if task in ended:
                            outcome = self._outcome(task, attempt)
                            del self._tasks[task]
                            self._todo.extend(outcome.retry)
                            yield from outcome.events
            finally:
                self._ray.shutdown()
                for submission in self._submissions:
                    submission.forget()

    def stop(self) -> None:
        """Signal every worker to save its run and end; start no further task."""
        if not self._stopping:
            self._stopping = True
            for task in self._tasks:
                self._ray.cancel(task)

    def _submit(self) -> None:
        """Submit tasks, up to --jobs; Ray decides which of them run at once."""
        most = self.options.jobs or len(self._todo) + len(self._tasks)
        remote = self._ray.remote(run_worker)
        while self._todo and len(self._tasks) < most and not self._stopping:
            submission, (batch,) = Submission.make("ray", self.config, [self._todo.popleft()])
            self._submissions.append(submission)
            task = remote.options(
                name=batch.name,
                scheduling_strategy="SPREAD",
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                max_retries=0,
            ).remote(
                submission.worker_options(0),
                worker_environment(self._cpus, batch.name),
                str(Path.cwd()),
                # by then, a worker that only lost its connection has saved and ended
                _PAUSE * batch.machines_lost,
            )
            self._tasks[task] = Attempt(batch), submission.events(0)

    def _outcome(self, task: Any, attempt: Attempt) -> Outcome:
        """The outcome of a task that has ended, after its last events were read."""
        code, cause = 0, None
        try:
            code = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            # an error of the node, its raylet or the task's process, not of the worker
            cause = getattr(error, "cause", None) or error
        if self._stopping:
            return attempt.stopped()
        if cause is not None:
            return attempt.lost(
                f"its node was lost ({type(cause).__name__}: {_first_sentence(cause)})"
            )
        if code in (0, INTERRUPTED):
            return attempt.ended()
        return attempt.died(
            f"its worker process died ({describe_exit(code)}): out of memory? a "
            "larger --cpus-per-run leaves more memory for each run"
        )

    def _connect(self) -> None:
        """Connect, once per process. Raises ConfigError if there is no such cluster."""
        if self._ray.is_initialized():
            return
        # only affects a temporary cluster
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings: dict[str, Any] = {}
        if self._address == OWN:
            settings = {"include_dashboard": False, "object_store_memory": _STORE}
        before = signal.getsignal(signal.SIGTERM)  # Ray sets its own handler
        try:
            self._ray.init(
                self._address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=True,
                **settings,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = "cannot start here" if settings else f"cannot be reached at {self._address}"
            raise ConfigError(
                f"a Ray cluster {where} ({_first_sentence(error)}): start one with ray start --head"
            ) from None
        finally:
            signal.signal(signal.SIGTERM, before)


def run_worker(
    options: tuple[str, ...], environment: dict[str, str], folder: str, pause: float
) -> int:
    """The task on a node: run a worker and return its exit code. If cancelled, it lets the worker
    save.

    Raises RuntimeError if the command's working directory does not exist on this node.
    """
    if not Path(folder).is_dir():
        raise RuntimeError(
            f"{folder} is missing on node {socket.gethostname()}: all nodes need the same paths"
        )
    time.sleep(pause)
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, *options],
        env={**os.environ, **environment},
        cwd=folder,
        start_new_session=True,
    )
    try:
        # a cancellation interrupts neither waitpid nor a long sleep
        while process.poll() is None:
            time.sleep(0.1)
        return process.returncode
    finally:
        process.terminate()
        process.wait()


def _first_sentence(error: object) -> str:
    """The first sentence of Ray's long messages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
