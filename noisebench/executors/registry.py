"""The names of executors, their options and what they have in common.

Imports none of their packages; the extra that installs an executor's package has its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from ..errors import ConfigError
from .job import Event, JobBatch, WorkerConfig


class Executor(Protocol):
    """Where runs execute. Every job ends, however its worker does: done, failed, interrupted, or
    taken by another process. What a subclass does not define, it need not do.
    """

    config: WorkerConfig

    def max_parallel(self, count: int) -> int:
        """How many of `count` batches run at a time. Raises ConfigError if a cluster does not
        answer.
        """

    def prepare(self) -> None:
        """Start what takes a moment, while the runs are planned."""

    def run(self, batches: list[JobBatch], stopped: Callable[[], bool] = ...) -> Iterator[Event]:
        """Every job's events as they come. When `stopped()` turns true all is saved and stopped."""

    def stop(self) -> None:
        """Ask the running workers to save and end; start nothing more."""

    def tidy(self) -> None:
        """Delete what earlier commands left for a cluster, since no run is left to do."""


@dataclass(frozen=True)
class ExecutorOptions:
    """How runs are to be executed.

    jobs: at a time; address: of a Ray cluster; cpus, gpus: of each run; slurm: KEY=VALUE; detach:
    submit, and do not wait.
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
    """One executor: a class of (config, options) in the module of its name. `supported`: the
    options that only some executors have.
    """

    name: str
    factory: str
    summary: str
    supported: tuple[str, ...] = ()


EXECUTORS = {
    info.name: info
    for info in (
        ExecutorInfo("local", "LocalPool", "worker processes on this machine"),
        ExecutorInfo(
            "ray",
            "RayPool",
            "a Ray cluster, or one of its own on this machine",
            ("address", "cpus", "gpus"),
        ),
        ExecutorInfo(
            "slurm",
            "SlurmPool",
            "array jobs on Slurm, by submitit",
            ("cpus", "gpus", "slurm", "detach"),
        ),
    )
}


def open_executor(name: str, config: WorkerConfig, options: ExecutorOptions) -> Executor:
    """An executor. Raises ConfigError for an unknown name, an option without effect there, or a
    package that is missing.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"--executor is one of {', '.join(EXECUTORS)}, got {name!r}")
    for key, option in _OPTIONS.items():
        if getattr(options, key) not in (None, (), False) and key not in EXECUTORS[name].supported:
            supporting = [info.name for info in EXECUTORS.values() if key in info.supported]
            raise ConfigError(
                f"{option} has an effect with --executor {' and '.join(supporting)} only"
            )
    device, gpus = config.device, options.gpus
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
    try:
        module = import_module(f"{__package__}.{name}")
        executor: Executor = getattr(module, EXECUTORS[name].factory)(config, options)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--executor {name} needs {(error.name or name).partition('.')[0]}: pip "
            f"install 'noisebench[{name}]'"
        ) from None
    return executor
