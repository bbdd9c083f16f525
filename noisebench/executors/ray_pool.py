"""Runs on Ray: a task for each bundle, which is a worker process on whatever node has room; what it
says is streamed back.

What travels is JSON and the name of one function. A node that dies costs what its runs did since
their last checkpoint: they go on elsewhere, under the same name, by which they may take their own
claims over.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from ..core.hardware import cpu_count
from ..errors import ConfigError
from .attempt import Attempt, Outcome
from .job import Event, JobBatch, WorkerConfig
from .local import WorkerProcess
from .ray import OWN
from .registry import ExecutorOptions

_DIED = "died"  # the kind of the last event of a worker that did: not of a job
_PAUSE = 2.0  # seconds before a bundle is tried again, times how often it was lost
_STORE = 100_000_000  # bytes of shared memory: no run lies in it


class RayPool:
    """A cluster's nodes. They need the same Python environment, and the workspace, the data and the
    plugins at the same paths.
    """

    def __init__(self, place: WorkerConfig, request: ExecutorOptions, address: str) -> None:
        self.place, self.request = place, request
        self._cpus, self._address = request.cpus or 1, address
        self._todo: deque[JobBatch] = deque()
        self._attempts: dict[Any, Attempt] = {}
        self._stopping = False

    def max_parallel(self, count: int) -> int:
        """As many as wanted, no more than the cluster has room for now; one of our own is not begun
        for that.
        """
        if self._address == OWN:
            return max(1, min(self.request.jobs or count, count, cpu_count() // self._cpus))
        _connect(self._address)
        free = min(_room(_total("CPU"), self._cpus), _room(_total("GPU"), self._gpus))
        return max(1, min(self.request.jobs or count, count, free))

    @property
    def _gpus(self) -> float:
        """Of each run: where the cluster has GPUs and nothing was said, one."""
        wanted = self.request.gpus
        return (
            float(wanted)
            if wanted is not None
            else float(self.place.device != "cpu" and _total("GPU") > 0)
        )

    def prepare(self) -> None:
        """Nothing: workers are the cluster's."""

    def run(
        self, bundles: list[JobBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Every job's events as they come. When `stopped()` turns true the workers save and
        stop.
        """
        submission = uuid.uuid4().hex[:12]
        self._todo.extend(
            replace(bundle, name=f"ray-{submission}-{number}")
            for number, bundle in enumerate(bundles)
        )
        # What happens to nodes Ray's driver prints on stdout, whatever it is told of logs; and
        # stdout is data.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            _connect(self._address)
            try:
                self._check_room()
                yield from self._follow(stopped)
            finally:
                ray.shutdown()

    def _follow(self, stopped: Callable[[], bool]) -> Iterator[Event]:
        while self._attempts or (self._todo and not self._stopping):
            if stopped():
                self.stop()
            self._submit()
            ready, _ = (
                ray.wait(list(self._attempts), num_returns=len(self._attempts), timeout=0.2)
                if self._attempts
                else ([], [])
            )
            for stream in ready:
                yield from self._take(stream)

    def tidy(self) -> None:
        """Nobody works here for a command that has ended."""

    def stop(self) -> None:
        """Ask every worker to save its run and end; start no further task."""
        if self._stopping:
            return
        self._stopping = True
        for stream in self._attempts:
            ray.cancel(stream)

    def _submit(self) -> None:
        """Tasks, up to --jobs; which of them run at once is Ray's to say."""
        most = self.request.jobs or len(self._todo) + len(self._attempts)
        while self._todo and len(self._attempts) < most and not self._stopping:
            bundle = self._todo.popleft()
            options = {
                "num_cpus": self._cpus,
                "num_gpus": self._gpus,
                "max_retries": 0,
                "num_returns": "streaming",
            }
            task = ray.remote(serve).options(
                name=bundle.name, scheduling_strategy="SPREAD", **options
            )
            self._attempts[
                task.remote(self.place.line(), bundle.line(), str(Path.cwd()), self._cpus)
            ] = Attempt(bundle)

    def _take(self, stream: Any) -> Iterator[Event]:
        """The next that a worker said; where that was its last, what follows of it."""
        attempt = self._attempts[stream]
        try:
            event = Event(**json.loads(ray.get(next(stream))))
        except StopIteration:
            yield from self._close(stream, attempt.stopped() if self._stopping else attempt.ended())
        except RayError as error:
            # the node, its raylet, the task's own process: whatever is not our worker
            yield from self._close(
                stream, attempt.stopped() if self._stopping else attempt.lost(_reason(error))
            )
        else:
            if event.kind != _DIED:
                yield from attempt.on_event(event)
            else:
                yield from self._close(
                    stream,
                    attempt.stopped() if self._stopping else attempt.died(event.content["message"]),
                )

    def _close(self, stream: Any, fate: Outcome) -> Iterator[Event]:
        del self._attempts[stream]
        self._todo.extend(fate.retry)
        yield from fate.events

    def _check_room(self) -> None:
        """Raises ConfigError where no node is large enough: Ray would wait for one for ever."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(
            node.get("CPU", 0) >= self._cpus and node.get("GPU", 0) >= self._gpus for node in nodes
        ):
            largest = (
                max(node.get("CPU", 0) for node in nodes),
                max(node.get("GPU", 0) for node in nodes),
            )
            raise ConfigError(
                f"no node of the Ray cluster has {self._cpus} CPUs and {self._gpus:g} GPUs, which "
                "a run asks for by --cpus-per-run and "
                f"--gpus-per-run; the most there are on one: {largest[0]:g} and {largest[1]:g}"
            )


def _connect(address: str) -> None:
    """Once in this process. Raises ConfigError where there is no such cluster."""
    if ray.is_initialized():
        return
    # of a cluster of our own; who starts another has said so himself
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"include_dashboard": False, "object_store_memory": _STORE} if address == OWN else {}
    before = signal.getsignal(signal.SIGTERM)  # Ray takes it for itself
    try:
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            configure_logging=True,
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "cannot start here" if own else f"cannot be reached at {address}"
        raise ConfigError(
            f"a Ray cluster {where} ({_first(error)}): ray start --head makes one"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(place: str, bundle: str, folder: str, threads: int) -> Iterator[str]:
    """The task, on its node: a worker process, told the bundle; its events as they come. Cancelled,
    it lets the worker save.

    Raises RuntimeError where the folder that the command was given in is not there too.
    """
    wanted = JobBatch.read(bundle)
    if not Path(folder).is_dir():
        raise RuntimeError(
            f"{folder} is not on node {ray.util.get_node_ip_address()}: all nodes "
            "need the same folders"
        )
    # who was at it before and only lost touch has saved and left by then
    time.sleep(_PAUSE * wanted.machines_lost)
    worker = WorkerProcess(WorkerConfig.read(place), threads, wanted.name, Path(folder))
    said = 0
    try:
        for event in _awake(worker.serve(wanted)):
            said += event.kind != "progress"
            yield event.line()
        if said < len(wanted.jobs):
            worker.stop()
            yield _death(worker.death()).line()
    finally:
        worker.stop()
        worker.close()


def _death(cause: str) -> Event:
    return Event(
        -1,
        _DIED,
        {
            "message": (
                f"its worker process died ({cause}): out of memory? a "
                "larger --cpus-per-run leaves each more"
            )
        },
    )


def _awake(events: Iterator[Event]) -> Iterator[Event]:
    """The same, waited for in a way that a cancellation can interrupt."""
    heard: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for event in events:
                heard.put(event)
        finally:
            heard.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            event = heard.get(timeout=0.2)
        except queue.Empty:
            continue
        if event is None:
            return
        yield event


def _total(resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0.0))


def _room(total: float, share: float) -> int:
    """How many of this share go into it."""
    return int(total / share + 1e-9) if share else 1 << 30


def _reason(error: RayError) -> str:
    cause = getattr(error, "cause", None)
    return f"its node was lost ({type(cause or error).__name__}: {_first(cause or error)})"


def _first(error: Any) -> str:
    """Ray explains at length: the first sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
