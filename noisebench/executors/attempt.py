"""One bundle at one worker: what was said of its jobs, and what becomes of those that it left
without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..runs.folder import RunFolder
from .job import Event, Job, JobBatch

# machines that may go silent over a bundle; the next one fails its runs, which may be what they go
# silent of
MOST_LOST = 3


@dataclass(frozen=True)
class Outcome:
    """What is to be tried by another worker, and what is to be said now."""

    retry: list[JobBatch]
    events: list[Event]


@dataclass
class Attempt:
    """`hear` every event, then ask for the fate of the rest once: `died` or `lost` where the worker
    ended badly, else `ended`.
    """

    bundle: JobBatch
    ends: dict[int, Event] = field(default_factory=dict)

    def on_event(self, event: Event) -> Iterator[Event]:
        """Note an event; pass it on, but for ends that another worker may yet change."""
        if event.kind == "progress":
            self.ends.pop(event.number, None)  # it goes on
        else:
            self.ends[event.number] = event
        if not self._open(event):
            yield event

    def _open(self, event: Event) -> bool:
        """Interrupted; or still claimed by the worker that was lost, which saves and leaves, or
        whose claim runs out.
        """
        return event.kind == "interrupted" or (
            event.kind == "taken" and self.bundle.machines_lost > 0
        )

    @property
    def answered(self) -> bool:
        """Whether something has been said of each job's end."""
        return len(self.ends) == len(self.bundle.jobs)

    @property
    def complete(self) -> bool:
        """Whether no worker is to go on with any."""
        return not self.unfinished

    @property
    def unfinished(self) -> list[Job]:
        return [
            job
            for job in self.bundle.jobs
            if job.number not in self.ends or self._open(self.ends[job.number])
        ]

    @property
    def silent(self) -> list[Job]:
        return [job for job in self.bundle.jobs if job.number not in self.ends]

    def ended(self) -> Outcome:
        """The worker ended in peace, somebody stopped it alone: what it was at goes on in
        another.
        """
        return self._again(self.unfinished)

    def stopped(self) -> Outcome:
        """All is being stopped."""
        unsaid = Event(-1, "interrupted", {"message": "stopped before it began"})
        return Outcome(
            [],
            [
                replace(self.ends.get(job.number, unsaid), number=job.number)
                for job in self.unfinished
            ],
        )

    def died(self, message: str) -> Outcome:
        """The worker died over what it was silent about: several jobs are tried again in halves,
        until one by itself has failed.
        """
        open_ones = [job for job in self.unfinished if job.number in self.ends]
        halves = _halves(self.silent) if len(self.bundle.jobs) > 1 else []
        said = [] if halves else list(_failed(self.silent, "WorkerDied", message))
        return Outcome([self.bundle.retry(jobs) for jobs in (open_ones, *halves) if jobs], said)

    def lost(self, message: str) -> Outcome:
        """The machine went silent, which is seldom its runs' fault: they go on elsewhere from their
        checkpoints, so many times.
        """
        if self.bundle.machines_lost < MOST_LOST:
            said = [
                Event(
                    job.number, "again", {"message": (f"{job.title} goes on elsewhere: {message}")}
                )
                for job in self.unfinished
            ]
            return Outcome(
                self._again(self.unfinished, lost=self.bundle.machines_lost + 1).retry, said
            )
        taken = [
            self.ends[job.number]
            for job in self.unfinished
            if job.number in self.ends and self.ends[job.number].kind == "taken"
        ]
        rest = [
            job for job in self.unfinished if job.number not in {event.number for event in taken}
        ]
        return Outcome(
            [], [*taken, *_failed(rest, "WorkerLost", f"{message}, {MOST_LOST + 1} times")]
        )

    def _again(self, jobs: list[Job], lost: int | None = None) -> Outcome:
        bundle = replace(
            self.bundle, machines_lost=self.bundle.machines_lost if lost is None else lost
        )
        return Outcome([bundle.retry(jobs)] if jobs else [], [])


def _halves(jobs: list[Job]) -> list[list[Job]]:
    middle = -(-len(jobs) // 2)
    return [half for half in (jobs[:middle], jobs[middle:]) if half]


def _failed(jobs: Iterable[Job], kind: str, message: str) -> Iterator[Event]:
    """Say and write down that they failed, of what nobody else has written down."""
    for job in jobs:
        RunFolder(Path(job.folder)).note_failure(job.about, kind, message)
        yield Event(job.number, "failed", {"message": f"{job.title} failed: {message}"})
