"""The names of executors and where their code is; knows none of their packages. An executor's extra
has its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from ..errors import ConfigError
from .job import Event, JobBatch, WorkerConfig


class Executor(Protocol):
    """Where runs execute. Whatever a worker dies of, each job ends: done, failed, interrupted, or
    taken by another process.
    """

    place: WorkerConfig

    def max_parallel(self, count: int) -> int:
        """How many of so many bundles go at a time. Raises ConfigError where a cluster cannot be
        reached.
        """
        ...

    def prepare(self) -> None:
        """Start what takes a moment, while the runs are planned."""
        ...

    def run(self, bundles: list[JobBatch], stopped: Callable[[], bool] = ...) -> Iterator[Event]:
        """Every job's events as they come. When `stopped()` turns true all is stopped, what runs is
        saved first.
        """
        ...

    def stop(self) -> None:
        """Let what runs save and end; start nothing more."""
        ...

    def tidy(self) -> None:
        """Nothing is left to do: keep nothing of what earlier commands left to a cluster."""
        ...


@dataclass(frozen=True)
class ExecutorOptions:
    """How somebody wants runs to be executed. jobs: at a time; address: of a Ray cluster; cpus,
    gpus: of each run; slurm: KEY=VALUE; detach: submit, and do not wait.
    """

    jobs: int | None = None
    address: str | None = None
    cpus: int | None = None
    gpus: float | None = None
    slurm: tuple[str, ...] = ()
    detach: bool = False


_OPTIONS = {
    "address": "--address",
    "cpus": "--cpus-per-run",
    "gpus": "--gpus-per-run",
    "slurm": "--slurm",
    "detach": "--detach",
}


@dataclass(frozen=True)
class ExecutorInfo:
    """One executor: the module of its name has `open_pool`; `heeds`, the parts of a request that
    mean something to it alone.
    """

    name: str
    summary: str
    supported: tuple[str, ...] = ()


EXECUTORS = {
    kind.name: kind
    for kind in (
        ExecutorInfo("local", "worker processes on this machine"),
        ExecutorInfo(
            "ray", "a Ray cluster, or one of its own on this machine", ("address", "cpus", "gpus")
        ),
        ExecutorInfo(
            "slurm", "array jobs on Slurm, by submitit", ("cpus", "gpus", "slurm", "detach")
        ),
    )
}


def open_executor(name: str, place: WorkerConfig, request: ExecutorOptions) -> Executor:
    """An executor. Raises ConfigError for an unknown name, a setting without effect there, or a
    package that is missing.
    """
    check_request(name, place, request)
    try:
        executor: Executor = import_module(f"{__package__}.{name}").open_pool(place, request)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--executor {name} needs {(error.name or name).partition('.')[0]}: pip "
            f"install 'noisebench[{name}]'"
        ) from None
    return executor


def check_request(name: str, place: WorkerConfig, request: ExecutorOptions) -> None:
    """Raises ConfigError for a request that no executor of this name can fulfil."""
    if name not in EXECUTORS:
        raise ConfigError(f"--executor is one of {', '.join(EXECUTORS)}, got {name!r}")
    for key, option in _OPTIONS.items():
        if getattr(request, key) not in (None, (), False) and key not in EXECUTORS[name].supported:
            heeding = [kind.name for kind in EXECUTORS.values() if key in kind.supported]
            raise ConfigError(
                f"{option} has an effect with --executor {' and '.join(heeding)} only"
            )
    _check_devices(name, place.device, request.gpus)


def _check_devices(name: str, device: str, gpus: float | None) -> None:
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise ConfigError(
            f"--gpus-per-run is a share of one GPU, such as 0.25, or a whole number, got {gpus:g}"
        )
    if gpus and device == "cpu":
        raise ConfigError("--gpus-per-run has no effect with --device cpu")
    if name != "local" and device.startswith("cuda:"):
        raise ConfigError(
            f"--executor {name} says itself which GPU is whose: --device cuda, got {device!r}"
        )
    if name != "local" and device == "cuda" and not gpus:
        raise ConfigError("--device cuda needs --gpus-per-run 1, or a share of one")
