"""Noise that is not sampled: human annotations, label files and reviewed labels; and open-set
noise, images that belong to no class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np

from ..core.expressions import Call, Value
from ..core.parameters import Inner, OneOf, Rate
from ..core.seeds import REPLACED, REPLACEMENTS
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

OWN = "own"  # instead of a file: the data set's labels unchanged
DROP, RELABEL, DECIDED = ACTIONS = ("drop", "relabel", "decided")
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
        "Human annotations of CIFAR-N: worse, aggre, random1, ...",
        parameter="column",
    ),
    overall="9.01 % (aggre) to 40.21 % (worse)",
    paper="Wei et al. 2022, CIFAR-N",
    fill_defaults=_complete_human,
    drawn=False,
)
def human(examples: Examples, column: str) -> NoisyLabels:
    """Human annotations: the published labels of CIFAR-10N and CIFAR-100N.

    Read from <data-dir>/CIFAR-10_human.pt or CIFAR-100_human.pt (CC BY-NC 4.0), downloaded if
    missing.

    - column: the set of labels. cifar10: aggre_label, random_label1, random_label2, random_label3
      or worse_label; cifar100: noisy_label; cifar20: noisy_coarse_label.
    """
    return NoisyLabels(examples.sources.human(column))


@register_noise(
    short="imported",
    option=NoiseOption(
        "--labels",
        "FILE",
        "Label file (.csv, .tsv, .txt, .json, .jsonl, .npy, .npz, .pt), or FILE:COLUMN to name the "
        "column of labels. The column of indices, paths or file names is the key. 'own': the "
        "data set's labels unchanged.",
        parameter="file",
    ),
    overall="as given",
    paper="your own labels",
    drawn=False,
)
def imported(examples: Examples, file: str, sha256: str | None = None) -> NoisyLabels:
    """Labels from a file, or the data set's own labels unchanged.

    The column whose cells are the examples' indices, paths or file names is the key, regardless of
    its name. Without a key, labels must be in the order of the examples. Examples without a label
    are excluded from training. True labels come from the file if it has them, else from a built-in
    data set; otherwise they are unknown.

    - file: a .csv, .tsv, .txt, .json, .jsonl, .npy, .npz or .pt, FILE:COLUMN to name the column of
      labels, or own.
    - sha256: prefix of the file's checksum, which is verified; manifests contain it.
    """
    return examples.sources.imported(file, sha256)


def label_file_of(noise: str) -> str | None:
    """The FILE or FILE:COLUMN of imported labels; None for other noise and for the data set's own
    labels.
    """
    call = parse_noise(noise)
    if not isinstance(call, Call) or call.name != "imported":
        return None
    file = str(dict(call.kwargs).get("file", call.args[0] if call.args else OWN))
    return None if file == OWN else file


@register_noise(
    short="open",
    option=NoiseOption(
        "--openset",
        "RATE",
        "Open-set noise: share of images replaced by --source.",
    ),
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
    """Open-set noise: a share of the images is replaced by images of another data set.

    The replaced images keep their labels, all of which are incorrect.

    - closed: class-conditional noise for the labels of the other images, such as
      symmetric(rate=0.2).
    - rate: share of replaced images.
    - source: the other data set, by name or path. Its training images are used, each once before
      any is used again.
    - exact: if true, the number of replaced images per class equals the expected number, rounded;
      otherwise each image is replaced independently.
    - exact_over: class (default), or set: exactly rate of all images, regardless of their class
      (LogitClip).
    """
    labels, seed = examples.labels, examples.seed
    order = uniforms((seed, REPLACED), len(labels))
    chosen = order < rate
    if exact:
        of_set = exact_over == "set"
        groups, num_groups = grouped(
            np.zeros_like(labels) if of_set else labels,
            1 if of_set else examples.num_classes,
            examples.parts,
        )
        chosen[:] = False
        for members_of_group in members(groups, num_groups):
            in_order = members_of_group[np.argsort(order[members_of_group], kind="stable")]
            chosen[in_order[: expected(rate, len(in_order))]] = True
    replaced = np.full(len(labels), -1, np.int64)
    facts, size = examples.sources.other(source)
    count = int(chosen.sum())
    rounds = [  # each image of the other set is used once before any is used again
        np.argsort(uniforms((seed, REPLACEMENTS, number), size), kind="stable")
        for number in range(-(-count // size))
    ]
    replaced[chosen] = np.concatenate([*rounds, np.empty(0, np.int64)])[:count]
    if closed is None:
        return NoisyLabels(labels.copy(), nominal_rate=rate, source=replaced, facts=facts)
    if not is_class_conditional(closed):
        raise LanguageError(
            f"openset: the noise for the other images must be class-conditional, got {closed}"
        )
    model = build_noise(closed, examples.num_classes, examples.classes)
    parts, _ = grouped(chosen.astype(np.int64), 2, examples.parts)
    noisy = np.where(chosen, labels, model.sample(labels, seed, parts=parts))
    return NoisyLabels(
        noisy,
        source=replaced,
        transition=model.transition,
        facts={**facts, "rates": [rate, model.rate]},
    )


@register_noise(
    overall="what remains", paper="your own review", drawn=False, afterwards=True, within="any"
)
def reviewed(
    examples: Examples,
    noise: Annotated[Call, Inner("noise")],
    action: Annotated[str, OneOf(ACTIONS)],
    suspects: str,
    sha256: str | None = None,
) -> NoisyLabels:
    """Labels after a review of label issues, listed by `noisebench evaluate --suspects`.

    Decide about each line first, or delete the lines whose given label is correct.

    - noise: the noise before the review.
    - action: relabel, each listed example gets its predicted label; drop, the listed examples
      are excluded from training; or decided, keep, drop or relabel by the list's column decision.
    - suspects: the list (.csv), cleanlab's table, or indices or flags (.npy, .txt, .json).
    - sha256: prefix of the list's checksum, which is verified; manifests contain it.
    """
    noisy = apply(noise, examples)
    return after_review(noisy, action, examples.sources.review(suspects, sha256, noisy.labels))


def after_review(noisy: NoisyLabels, action: str, review: Review) -> NoisyLabels:
    """Applies a reviewed list to noisy labels; the nominal rate and T of the result are unknown."""
    if action == DECIDED and review.decisions is None:
        raise DataError("the list has no column decision: give either --drop or --relabel")
    if action != DECIDED and review.decisions is not None:
        raise DataError(
            f"the list has decisions, which --{action} would replace: omit --{action}, or delete "
            "the column decision"
        )
    if action == RELABEL and review.suggested is None:
        raise DataError(
            "the list has no predicted labels: drop the listed examples, or use a table "
            "with a column predicted_label"
        )
    decisions = review.decisions
    if decisions is None:
        decisions = np.full(len(review.examples), action)
    facts = {key: value for key, value in noisy.facts.items() if key != "rates"}
    labels, dropped = noisy.labels.copy(), noisy.dropped
    relabelled = decisions == RELABEL
    if review.suggested is not None:
        labels[review.examples[relabelled]] = review.suggested[relabelled]
    if (decisions == DROP).any():
        dropped = np.isin(np.arange(len(labels)), review.examples[decisions == DROP])
        if noisy.dropped is not None:
            dropped |= noisy.dropped
    return replace(
        noisy, labels=labels, dropped=dropped, nominal_rate=None, transition=None, facts=facts
    )
