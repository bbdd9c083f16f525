"""TensorBoard: an event file in the run's folder, so that `tensorboard --logdir runs` shows every
run by its name.

Written record by record, since TensorBoard's own writer is a thread that would keep a full disk to
itself. Numbers are float32 there.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from .base import Ending, Epochs, Numbers, RunInfo, Tracker, TrackerConfig

_OURS = ".noisebench"  # how the file's name ends


def connect(config: TrackerConfig) -> Tracker:
    """Nothing to connect to: files alone."""
    import tensorboard.summary.writer.record_writer  # noqa: F401  an error now if it is missing

    where = f"tensorboard --logdir {config.workspace / 'runs'}"
    return Tracker(where, lambda facts, identity: _Run(facts))


class _Run:
    """A file for every session, with all epochs; that of the session before is deleted."""

    held = 0

    def __init__(self, facts: RunInfo) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        for older in facts.folder.glob(f"events.out.tfevents.*{_OURS}"):
            older.unlink()
        self.identity = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}{_OURS}"
        self._records = RecordWriter((facts.folder / self.identity).open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(summary=hparams_pb(facts.config, trial_id=facts.name))

    def log(self, epochs: Epochs) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for epoch, numbers in epochs:
            values = [
                Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()
            ]
            self._write(step=epoch, summary=Summary(value=values))
        self._records.flush()

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        self.log([(epoch, numbers)])
        self._records.close()

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
