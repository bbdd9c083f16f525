"""Which runs of a suite train together as one network, and who goes with whom. Loads no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..datasets import fingerprint
from ..experiments.backbones import pack_width
from ..experiments.resolve import RunConfig
from ..labels.manifest import Manifest
from ..losses import LOSSES
from ..losses.registry import is_penalty
from ..strategies import STRATEGIES
from .queue import QueuedRun

# runs of one kind in a suite, from which on they are packed: the places of a pack cost, taken or
# not
_FEWEST = 4


@dataclass(frozen=True)
class Pack:
    """Runs that a worker does at once, one network of `width` places; a width of 1 is a run by
    itself.
    """

    items: tuple[QueuedRun, ...]
    width: int


def pack_key(run: RunConfig) -> str | None:
    """What runs that may go together have in common; None for one that trains by itself.

    They differ in seed, labels, loss and strategy alone, and so not in which images are held out or
    replaced. By themselves train: networks that fill a processor alone; strategies of several
    networks or views, of parameters of their own, or that begin anew with new networks; penalties
    on the parameters; a run that has to estimate its noise first; layers that are frozen, or learn
    at rates of their own. What they begin from may differ.
    """
    strategy = STRATEGIES[run.strategy.name].build  # type: ignore[union-attr]
    alone = (
        run.unknown_noise
        or any(is_penalty(call) for call in LOSSES.calls(run.loss))
        or not strategy.packable  # type: ignore[attr-defined]
    )
    by_layer = run.recipe.freeze > 0 or run.recipe.layer_decay != 1
    if pack_width(run.model) == 1 or alone or by_layer or run.dataset.reader:
        return None
    data = [run.dataset.name, run.data_sha256, run.source_sha256, _pictures(run.manifest)]
    return json.dumps([data, run.model, run.recipe.asdict(), run.precision], sort_keys=True)


def _pictures(manifest: Manifest) -> str:
    """Which pictures are trained on, and in whose place another set's are: a pack reads them once
    for all of its runs.
    """
    return fingerprint(
        manifest.in_training, *([] if manifest.source is None else [manifest.source])
    )


def make_packs(items: Sequence[QueuedRun], todo: Sequence[QueuedRun]) -> list[Pack]:
    """What is to be done, those of one loss and strategy side by side. items: the whole suite,
    which alone decides who is packed, so that a run that was interrupted goes on as it began.
    """
    kinds = {id(item): pack_key(item.run) for item in items}
    counts = Counter(kinds.values())
    packed: dict[str, list[QueuedRun]] = {}
    found = []
    for item in todo:
        kind = kinds[id(item)]
        if kind is None or counts[kind] < _FEWEST:
            found.append(Pack((item,), 1))
        else:
            packed.setdefault(kind, []).append(item)
    return [
        *(
            load
            for group in packed.values()
            for load in _shared_out(group, pack_width(group[0].run.model))
        ),
        *found,
    ]


def _shared_out(items: list[QueuedRun], width: int) -> list[Pack]:
    """As few packs as possible, of even size."""
    ordered = sorted(items, key=lambda item: (str(item.run.strategy), str(item.run.loss)))
    count = -(-len(ordered) // width)
    cuts = [len(ordered) * number // count for number in range(count + 1)]
    return [Pack(tuple(ordered[start:end]), width) for start, end in pairwise(cuts)]
