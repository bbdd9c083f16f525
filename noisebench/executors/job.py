"""Runs of a suite as a line of JSON, and what a worker answers, line by line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..agenda import Item
from ..packing import loads
from ..suite import SuiteRun


@dataclass(frozen=True)
class Place:
    """Where a worker finds and puts things; workers: processes of its own that read pictures ahead, None for one a core."""

    workspace: str
    data_dir: str
    offline: bool
    plugins: tuple[str, ...] = ()
    device: str = "auto"
    resume: bool = True
    workers: int | None = None


@dataclass(frozen=True)
class Job:
    """A run of a suite, with the key and the facts that whoever planned it computed. `anew`: though it is finished."""

    number: int
    wanted: SuiteRun
    key: str
    folder: str
    about: dict[str, Any]
    anew: bool = False

    @classmethod
    def of(cls, number: int, item: Item) -> Job:
        return cls(number, item.wanted, item.run.key, str(item.folder.path), item.run.about, item.status == "done")

    @property
    def title(self) -> str:
        return str(self.about["title"])

    @classmethod
    def of_content(cls, content: dict[str, Any]) -> Job:
        return cls(**{**content, "wanted": SuiteRun(**content["wanted"])})


@dataclass(frozen=True)
class Bundle:
    """What a worker does at once: one job, or several in the places of a pack of this width."""

    jobs: tuple[Job, ...]
    width: int = 1

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, line: str) -> Bundle:
        content = json.loads(line)
        return cls(tuple(Job.of_content(job) for job in content["jobs"]), content["width"])


def bundles(items: Sequence[Item], todo: Sequence[Item]) -> list[Bundle]:
    """What is to be done of a suite, each job numbered by its place in `todo`."""
    numbers = {id(item): number for number, item in enumerate(todo)}
    return [Bundle(tuple(Job.of(numbers[id(item)], item) for item in load.items), load.width) for load in loads(items, todo)]


@dataclass(frozen=True)
class Event:
    """`kind`: progress, done, failed, interrupted, or taken by another process; `content` is Progress, the record's
    accuracy, or the message."""

    number: int
    kind: str
    content: dict[str, Any]

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, line: str) -> Event:
        return cls(**json.loads(line))
