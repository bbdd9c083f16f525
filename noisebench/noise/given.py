"""Noise that nobody draws: labels that people recorded, and reviewed; and images that are of no
class at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np

from ..core.expressions import Call, Value
from ..core.parameters import Inner, OneOf, Rate
from ..errors import DataError, LanguageError
from .registry import (
    Examples,
    NoiseOption,
    NoisyLabels,
    Review,
    apply,
    build_noise,
    is_class_conditional,
    parse_noise,
    register_noise,
)
from .sampling import OVER, complete_counts, expected, grouped, members, uniforms

OWN = "own"  # in the place of a file: the data set's labels as they are
DROP, RELABEL = ACTIONS = ("drop", "relabel")
_CHOICE, _IMAGES = 21, 22  # what a derived seed is for
_SHORT = {
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "rand1": "random_label1",  # the authors' flags
    "rand2": "random_label2",
    "rand3": "random_label3",
    "noisy100": "noisy_label",
    "worse": "worse_label",
    "worst": "worse_label",  # as above; their file says worse
    "noisy": "noisy_label",
    "noisy_coarse": "noisy_coarse_label",
}


def _complete_human(values: dict[str, Value]) -> dict[str, Value]:
    column = str(values["column"])
    return {**values, "column": _SHORT.get(column, column)}


@register_noise(
    short="human",
    option=NoiseOption(
        "--human",
        "COLUMN",
        "Labels by people: CIFAR-N's worse, aggre, random1 ...",
        parameter="column",
    ),
    overall="9.01 % (aggre) to 40.21 % (worse)",
    paper="Wei et al. 2022, CIFAR-N",
    fill_defaults=_complete_human,
    drawn=False,
)
def human(examples: Examples, column: str) -> NoisyLabels:
    """Labels by people: CIFAR-10N's and CIFAR-100N's published columns.

    column: on cifar10 aggre_label, random_label1, random_label2, random_label3 or worse_label; on
    cifar100 noisy_label; on cifar20 noisy_coarse_label. The file is <data-dir>/CIFAR-10_human.pt or
    CIFAR-100_human.pt (CC BY-NC 4.0).
    """
    return NoisyLabels(examples.sources.human(column))


@register_noise(
    short="imported",
    option=NoiseOption(
        "--labels",
        "FILE",
        "Label file (.csv, .tsv, .txt, .json, .jsonl, .npy, .npz, .pt), or FILE:COLUMN for the "
        "column of labels; the column of indices, paths or file names is the key. Or 'own': the "
        "data set's labels unchanged.",
        parameter="file",
    ),
    overall="as recorded",
    paper="anyone's own labels",
    drawn=False,
)
def imported(examples: Examples, file: str, sha256: str | None = None) -> NoisyLabels:
    """Labels of a file (.csv, .tsv, .txt, .json, .npy, .npz, .pt); or own, the data set's labels as
    they are.

    The column whose cells are the examples' indices, paths or file names is the key, whatever it is
    called; FILE:COLUMN names the column of labels. Without a key the labels come in the order of
    the examples. What the file does not label is not trained on. Clean labels are the file's if it
    has them, else those of a catalogue's data set; otherwise nobody knows them. sha256: how the
    file's checksum must begin; a manifest says it.
    """
    return examples.sources.imported(file, sha256)


def label_file_of(noise: str) -> str | None:
    """The FILE or FILE:COLUMN of imported labels; None for other noise, and for the data set's own
    labels.
    """
    call = parse_noise(noise)
    if not isinstance(call, Call) or call.name != "imported":
        return None
    file = str(dict(call.kwargs).get("file", call.args[0] if call.args else OWN))
    return None if file == OWN else file


@register_noise(
    short="open",
    option=NoiseOption("--openset", "RATE", "This share of images comes from --source."),
    overall="rate",
    paper="Wang et al. 2018",
    fill_defaults=complete_counts,
)
def openset(
    examples: Examples,
    closed: Annotated[Call | None, Inner("noise")] = None,
    *,
    rate: Rate,
    source: str,
    exact: bool = True,
    exact_over: Annotated[str | None, OneOf(OVER[:2])] = None,
) -> NoisyLabels:
    """A share of the images is replaced by images of another data set; their labels stay, and none
    could be right.

    source: another data set, by name or path, whose training images are taken, none twice while
    they last. closed: class-conditional noise on the labels of the images that stay, such as
    symmetric(rate=0.2). exact: the number of replaced images per class is the expected one,
    rounded; else each is replaced by itself. exact_over: class (the default); set: exactly rate of
    all images, whatever their class (LogitClip).
    """
    labels, seed = examples.labels, examples.seed
    order = uniforms((seed, _CHOICE), len(labels))
    if exact_over == "set":
        groups, num_groups = grouped(np.zeros_like(labels), 1, examples.parts)
    else:
        groups, num_groups = grouped(labels, examples.num_classes, examples.parts)
    if exact:
        chosen = np.zeros(len(labels), bool)
        for places in members(groups, num_groups):
            chosen[
                places[np.argsort(order[places], kind="stable")[: expected(rate, len(places))]]
            ] = True
    else:
        chosen = order < rate
    replaced = np.full(len(labels), -1, np.int64)
    facts, size = examples.sources.other(source)
    replaced[chosen] = _images(int(chosen.sum()), size, seed)
    if closed is None:
        return NoisyLabels(labels.copy(), nominal_rate=rate, source=replaced, facts=facts)
    if not is_class_conditional(closed):
        raise LanguageError(
            f"openset takes class-conditional noise for the images that stay, got {closed}"
        )
    model = build_noise(closed, examples.num_classes, examples.classes)
    parts, _ = grouped(chosen.astype(np.int64), 2, examples.parts)
    recorded = np.where(chosen, labels, model.draw(labels, seed, parts=parts))
    return NoisyLabels(
        recorded,
        source=replaced,
        transition=model.transition,
        facts={**facts, "rates": [rate, model.rate]},
    )


@register_noise(
    overall="what is left", paper="anyone's own review", drawn=False, afterwards=True, within="any"
)
def reviewed(
    examples: Examples,
    noise: Annotated[Call, Inner("noise")],
    action: Annotated[str, OneOf(ACTIONS)],
    suspects: str,
    sha256: str | None = None,
) -> NoisyLabels:
    """Labels that somebody has looked at again: a list of doubted ones, by evaluate --suspects,
    less the lines found right.

    action: relabel, each example that is listed gets the label suggested there; drop, none of them
    is trained on. suspects: the list (.csv), cleanlab's table, or indices or flags (.npy, .txt,
    .json). sha256: how its checksum must begin; a manifest says it.
    """
    made = apply(noise, examples)
    return after_review(made, action, examples.sources.review(suspects, sha256, made.labels))


def after_review(made: NoisyLabels, action: str, review: Review) -> NoisyLabels:
    """A labelling once its list is worked off. Nobody knows a model of what is left."""
    facts = {key: value for key, value in made.facts.items() if key != "rates"}
    left = replace(made, nominal_rate=None, transition=None, facts=facts)
    if action == RELABEL:
        if review.suggested is None:
            raise DataError(
                "the list suggests no labels: drop what it lists, or give a table "
                "with a column suggested"
            )
        labels = made.labels.copy()
        labels[review.examples] = review.suggested
        return replace(left, labels=labels)
    dropped = np.zeros(len(made.labels), bool) if made.dropped is None else made.dropped.copy()
    dropped[review.examples] = True
    return replace(left, dropped=dropped)


def _images(count: int, size: int, seed: int) -> np.ndarray:
    """Random images of the other set (count,), none twice before every one was taken."""
    turns = [
        np.argsort(uniforms((seed, _IMAGES, turn), size), kind="stable")
        for turn in range(-(-count // size))
    ]
    return np.concatenate([*turns, np.empty(0, np.int64)])[:count]
