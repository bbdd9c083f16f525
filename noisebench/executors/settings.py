"""`--slurm KEY=VALUE`: sbatch's own options, by their long names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from .catalogue import Request

_CLUSTERS = ("slurm", "local")  # local: submitit's own, processes on this machine; for tests
_OURS = {
    "cpus_per_task": "--cpus-per-run", "gpus_per_node": "--gpus-per-run", "gpus_per_task": "--gpus-per-run", "gpus": "--gpus-per-run",
    "array": "--jobs", "array_parallelism": "--jobs", "requeue": "nothing, it is on",
    "nodes": "nothing, a run is one process", "ntasks": "nothing, a run is one process", "ntasks_per_node": "nothing, a run is one process",
}  # fmt: skip
_SUBMITIT = {
    "partition", "qos", "account", "constraint", "exclude", "nodelist", "gres", "mem", "mem_per_gpu", "mem_per_cpu", "comment",
    "mail_type", "mail_user", "dependency", "exclusive", "wckey", "job_name",
}  # fmt: skip
_LISTS = {"setup", "teardown", "srun_args"}  # lines of the script, may be repeated
_MINUTES = 60  # of a job, unless --slurm time says: it is queued again until it is done
_REQUEUES = 1000  # times that a job may run out of its time


@dataclass(frozen=True)
class SlurmSettings:
    """What is asked of Slurm for each job. cpus, gpus: whole; minutes: its time; own: submitit's parameters; more: sbatch's others."""

    cluster: str = "slurm"
    cpus: int = 1
    gpus: int = 0
    minutes: int = _MINUTES
    own: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    requeues: int = _REQUEUES

    @classmethod
    def read(cls, request: Request) -> SlurmSettings:
        """Raises ConfigError for what is no KEY=VALUE, said twice, or another option's to say."""
        if request.gpus is not None and request.gpus != int(request.gpus):
            raise ConfigError(f"--executor slurm gives whole GPUs: --gpus-per-run 1, got {request.gpus:g}")
        given = _pairs(request.slurm)
        cluster = given.pop("cluster", "slurm")
        if cluster not in _CLUSTERS:
            raise ConfigError(
                f"--slurm cluster is one of {', '.join(_CLUSTERS)}, got {cluster!r}; of several clusters: --slurm clusters=NAME"
            )
        minutes = _minutes(given.pop("time")) if "time" in given else _MINUTES
        own: dict[str, Any] = {key: _value(value) for key, value in given.items() if key in _SUBMITIT}
        own |= {key: value.split("\n") for key, value in given.items() if key in _LISTS}
        own |= {"signal_delay_s": _number("signal_delay_s", given["signal_delay_s"])} if "signal_delay_s" in given else {}
        own |= {"use_srun": _value(given["use_srun"])} if "use_srun" in given else {}
        more = {key.replace("_", "-"): _value(value) for key, value in given.items() if key not in own}
        return cls(cluster, request.cpus or 1, int(request.gpus or 0), minutes, own, more)

    def parameters(self, at_once: int) -> dict[str, Any]:
        """As submitit's AutoExecutor takes them."""
        gpus = {"gpus_per_node": self.gpus} if self.gpus else {}
        named = {"slurm_job_name": "noisebench", **{f"slurm_{key}": value for key, value in self.own.items()}}
        more = {"slurm_additional_parameters": {"requeue": True, **self.more}}
        return {"timeout_min": self.minutes, "cpus_per_task": self.cpus, **gpus, "slurm_array_parallelism": at_once, **named, **more}


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not equals or not key or not value:
            raise ConfigError(f"--slurm is KEY=VALUE, an option of sbatch by its long name, such as partition=gpu; got {text!r}")
        if key in _OURS:
            raise ConfigError(f"--slurm {key} is said by {_OURS[key]}")
        if key in found and key not in _LISTS:
            raise ConfigError(f"--slurm {key} is given twice: {found[key]} and {value}")
        found[key] = f"{found[key]}\n{value}" if key in found else value
    return found


def _value(text: str) -> str | bool:
    return {"true": True, "false": False}.get(text, text)


def _number(key: str, text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ConfigError(f"--slurm {key} is a whole number of seconds, got {text!r}")
    return int(text)


_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?")


def _minutes(text: str) -> int:
    """Slurm's ways to write a time: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]; rounded up."""
    found = _TIME.fullmatch(text)
    if not found:
        raise ConfigError(f"--slurm time is minutes, hours:minutes:seconds or days-hours, as Slurm writes them; got {text!r}")
    days, a, b, c = (int(found[name] or 0) for name in ("days", "a", "b", "c"))
    if found["days"] is not None:
        hours, minutes, seconds = 24 * days + a, b, c
    elif found["c"] is not None:
        hours, minutes, seconds = a, b, c
    else:
        hours, minutes, seconds = 0, a, b
    total = 60 * hours + minutes + (seconds + 59) // 60
    if not total:
        raise ConfigError(f"--slurm time must be longer than nothing, got {text!r}")
    return total
