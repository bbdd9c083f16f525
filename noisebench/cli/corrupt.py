"""`noisebench corrupt` writes noisy labels to a manifest; it needs no torch and reads images only
from folders. Also selects the labels that `train` uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.files.atomic import is_text
from ..errors import ConfigError
from ..noise import MAPS, is_random, normal_noise
from ..noise.conventions import CONVENTIONS
from .completion import OF_ARGUMENT
from .console import facts_table, percent, say, show, text_table, write_json
from .options import Globals, Json, NoiseOptions, TestFolder, option, refuse, with_options

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..labels.manifest import Manifest
    from ..runs.workspace import Workspace


# fields of a manifest's header that --json prints
_SUMMARY = (
    *("dataset", "noise", "n", "num_classes", "nominal_rate", "realised_rate", "per_class_rate"),
    *("noise_seed", "convention", "source", "val_fraction", "val_split", "trusted", "subset"),
    *("factor", "label_file", "decisions"),
)


@with_options
def corrupt(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET",
            autocompletion=OF_ARGUMENT["DATASET"],
            help="Name of a data set (noisebench list datasets), .npz file in MedMNIST's layout, "
            "or directory of images with class folders or --labels.",
            show_default=False,
        ),
    ] = None,
    noise: NoiseOptions = NoiseOptions(),
    test: TestFolder = None,
    manifest: Annotated[
        Path | None,
        option(
            "Review",
            "--manifest",
            metavar="FILE",
            help="Manifest to review with the list in --suspects.",
        ),
    ] = None,
    suspects: Annotated[
        Path | None,
        option(
            "Review",
            "--suspects",
            metavar="FILE",
            help="List of label issues: .csv saved by a review page, whose decisions are applied; "
            "or written by evaluate --suspects or cleanlab, with --drop or --relabel: .csv, or "
            "indices or flags as .npy, .txt, .json.",
        ),
    ] = None,
    drop: Annotated[
        bool, option("Review", "--drop", help="Exclude the examples listed in --suspects.")
    ] = False,
    relabel: Annotated[
        bool,
        option(
            "Review",
            "--relabel",
            help="Replace the labels of these examples by the suggested ones.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        option(
            "Output",
            "--out",
            "-o",
            metavar="FILE",
            help="Manifest to write: .csv, .csv.gz or .parquet; default: manifests/NAME.csv.",
        ),
    ] = None,
    force: Annotated[
        bool, option("Output", "--force", help="Replace a different manifest of the same name.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a manifest of noisy labels.

    Adds noise to the labels of a data set; or drops or corrects labels that a review found to be
    incorrect.

    noisebench corrupt cifar10 --asym 0.3
    """
    from ..labels.build import DatasetInputs, size_sentences
    from ..labels.issues import review_manifest
    from ..labels.manifest import file_name, read_manifest

    options: Globals = context.obj
    review = manifest is not None or suspects is not None or drop or relabel
    incomplete = manifest is None or suspects is None or (drop and relabel)
    refuse(
        (
            review and incomplete,
            "a review needs --manifest FILE, --suspects FILE, and, unless the list has decisions, "
            "either --drop or --relabel",
        ),
        *(_choice_rules(dataset, manifest, noise) if review else ()),
        (
            not review and not noise.any and noise.convention,
            f"--convention {noise.convention} needs a rate: give --sym, --asym, --pair or --idn",
        ),
        (
            not review and not noise.any and not is_recorded(dataset),
            "name a noise: --sym 0.4, --asym 0.3, --human worse, --labels FILE, "
            "--noise TEXT ... (noisebench list noises)",
        ),
        (
            not review and dataset is None,
            "a noise needs a data set: noisebench corrupt cifar10 --sym 0.4",
        ),
        (
            out and not out.name.endswith((".csv", ".csv.gz", ".parquet")),
            f"--out must end in .csv, .csv.gz or .parquet, got {out}",
        ),
        (
            not is_text(str(out)),
            f"--out must be a path in UTF-8, got {str(out)!a}",
        ),
    )
    workspace, summary = options.open(), dict[str, Any]()
    if manifest and suspects:
        before = read_manifest(manifest)
        data = dataset_of(workspace, before, dataset, test)
        clean = workspace.labels(data)
        inputs = DatasetInputs(
            clean,
            workspace.data_dir,
            workspace.offline,
            workspace.dataset,
            workspace.root,
            workspace.tell,
        )
        action = "drop" if drop else "relabel" if relabel else "decided"
        reviewed = review_manifest(clean, before, suspects, action, inputs)
        labels, path = reviewed.after, workspace.manifests / file_name(reviewed.after, data)
        summary = {**reviewed.summary, **({"notes": reviewed.notes} if reviewed.notes else {})}
        notes = [f"{suspects}: {note}" for note in reviewed.notes]
    else:
        data = workspace.dataset(str(dataset), test, noise.label_file)
        noise = noise if noise.any else replace(noise, values={"labels": "own"})
        labels, path = workspace.make(data, noise.request(data.name))
        notes = [*size_sentences(data), *notes_of(data, labels, decisions=False)]
    for note in notes:
        say(note, quiet=options.quiet)
    path = out or path
    written = workspace.keep(labels, path, force=force)
    workspace.make_current(path)
    say(
        f"{path} {'written' if written else 'exists already, unchanged'}",
        quiet=options.quiet or (not written and json),
    )
    if json:
        facts = {name: labels.meta[name] for name in _SUMMARY if name in labels.meta}
        more = {"review": summary} if summary else {}
        write_json({"manifest": str(path), **facts, "sha256": labels.sha256, **more})
        return
    tables = [facts_table([("manifest", str(path)), *_facts(labels, summary)])]
    if labels.meta["realised_rate"] is not None:
        heads = ("class", "incorrect labels", "most common incorrect label")
        tables.append(text_table(heads, _class_rows(labels), right=heads[1:2]))
    show(*tables)


def _facts(manifest: Manifest, review: dict[str, Any]) -> Iterator[tuple[str, str]]:
    meta = manifest.meta
    yield "noise", meta["noise"]
    # papers define the rate differently: "0.4" is another share of incorrect labels in each
    if (paper := meta.get("convention")) in CONVENTIONS:
        yield "convention", f"{paper}: {CONVENTIONS[paper].paper}; {CONVENTIONS[paper].note}"
    name = dict(normal_noise(meta["noise"]).kwargs).get("map")
    if name in MAPS:
        yield "map", f"{name}: {MAPS[str(name)].summary} ({MAPS[str(name)].paper})"
    count = f"{meta['subset']:,} of {meta['n']:,}" if "subset" in meta else f"{meta['n']:,}"
    seeded = is_random(meta["noise"]) or "val_fraction" in meta or "trusted" in meta
    seed = f", noise seed {meta['noise_seed']}" if seeded else ""
    yield "examples", f"{count} in {meta['num_classes']} classes{seed}"
    if manifest.source is not None:
        images = int((manifest.source >= 0).sum())
        yield "open-set", f"{images:,} images of {meta['source']}; all their labels are incorrect"
    if manifest.val is not None:
        size, when = int(manifest.val.sum()), meta["val_split"]
        yield "validation", f"{size:,} examples, split off {when} corruption"
    if manifest.trusted is not None:
        yield "trusted", f"{int(manifest.trusted.sum()):,} labels, verified to be correct"
    if dropped := manifest.num_examples - int(manifest.included.sum()):
        yield "dropped", f"{dropped:,} examples, excluded from training"
    if "factor" in meta:
        yield "factor", f"{meta['factor']:.6g}"
    if review:
        text = f"{review['listed']} listed, {review['changed']} changed"
        if review["wrong_before"] is not None:
            text += (
                f", {review['changed_wrong']} of them incorrect; {review['wrong_before']} "
                f"incorrect labels before, {review['wrong_after']} after"
            )
        yield "reviewed", text
    if meta["nominal_rate"] is not None:
        yield "nominal rate", percent(meta["nominal_rate"])
    yield "incorrect labels", _realised_rate(manifest)
    for decision in meta.get("decisions", ()):
        name, _, text = decision.partition(": ")
        yield name, text


def _realised_rate(manifest: Manifest) -> str:
    """The share of incorrect labels, and the number of labels that it refers to."""
    unknown = int(((manifest.true_labels == -1) & manifest.included).sum())
    kept, rate = int(manifest.included.sum()), manifest.meta["realised_rate"]
    if rate is None:
        return "unknown: no true labels"
    if unknown:
        return f"{percent(rate)} of {kept - unknown:,}; {unknown:,} unknown"
    if kept < manifest.num_examples:
        return f"{percent(rate)} of the remaining {kept:,}"
    return f"{percent(rate)} of {f'these {kept:,}' if 'subset' in manifest.meta else 'all'}"


def _class_rows(manifest: Manifest, most: int = 10) -> list[tuple[str, str, str]]:
    """The classes in order; of more than `most`, those with the highest rate."""
    import numpy as np

    rates, names = manifest.meta["per_class_rate"], manifest.meta["classes"]
    chosen = np.arange(len(rates))
    if len(rates) > most:
        chosen = np.argsort([-(rate or 0) for rate in rates], kind="stable")[:most]
    counts = manifest.confusion
    np.fill_diagonal(counts, 0)
    rows = [
        (names[k], percent(rates[k]), names[int(counts[k].argmax())] if counts[k].any() else "")
        for k in chosen
    ]
    if len(rates) > most:
        rows.append((f"... and {len(rates) - most} classes with at most this rate", "", ""))
    return rows


def choose_labels(
    workspace: Workspace,
    name: str | None,
    path: Path | None,
    options: NoiseOptions,
    test: Path | None,
) -> tuple[Manifest, Path, Dataset, str, list[str]]:
    """The labels to train on: a manifest, a noise on a data set, the newest manifest, or noisy
    labels of digits; nothing is written. Raises NoisebenchError.

    Returns the manifest, its path, its data set, a sentence about them, and notes on how its files
    were read.
    """
    from ..labels.manifest import read_manifest

    refuse(*_choice_rules(name, path, options))
    reason, hint = "", f"noisebench train {name} --sym 0.4"
    if path is None and not options.any:
        if is_recorded(name):
            options = replace(options, values={"labels": "own"})
        elif (current := workspace.current) is not None:
            path, reason = current, "newest manifest: "
        elif name in (None, "digits"):
            name, options, reason = "digits", NoiseOptions({"sym": 0.4}), "no manifest found: "
        else:
            raise ConfigError(
                f"name a noise: {hint} (--sym 0 for clean labels), or run noisebench corrupt first"
            )
    if path is not None:
        manifest, notes = read_manifest(path), []
        dataset, known = dataset_of(workspace, manifest, name, test), manifest.meta["dataset"]
        refuse(
            (
                reason and name is not None and dataset.name != known,
                f"the newest manifest, {path}, is for {known}: name a noise, e.g. {hint}",
            )
        )
    else:
        dataset = workspace.dataset(str(name), test, options.label_file)
        manifest, path = workspace.make(dataset, options.request(dataset.name))
        notes = notes_of(dataset, manifest)
    noise = manifest.meta["noise"]
    sentence = f"{reason}training on {path}: {manifest.dataset_text}, {noise}"
    return manifest, path, dataset, sentence, notes


def _choice_rules(
    name: str | None, path: Path | None, options: NoiseOptions
) -> list[tuple[object, str]]:
    """Rules that refuse options of a noise without a noise, and a noise without a data set or with
    a manifest.
    """
    changed = [key for key, value in vars(options).items() if value != vars(NoiseOptions())[key]]
    flags = [f"--{key.replace('_', '-')}" for key in changed]
    return [
        (
            flags and not options.any and not is_recorded(name),
            f"{''.join(flags[:1])} has an effect with a noise only: --sym, --asym, --human, "
            "--noise ...",
        ),
        (options.any and path, "give a noise or a --manifest, not both"),
        (
            options.any and name is None,
            "a noise needs a data set: noisebench train cifar10 --sym 0.4",
        ),
    ]


def is_recorded(dataset: str | None) -> bool:
    """Whether a data set has noisy labels of its own, which are used if no noise is named."""
    from ..datasets import DATASETS

    return dataset in DATASETS and DATASETS[dataset].recorded


def dataset_of(
    workspace: Workspace, manifest: Manifest, name: str | None, test: Path | None
) -> Dataset:
    """The named data set, or else that of the manifest."""
    if name is None and test is None:
        return workspace.dataset_of(manifest)
    named = name or manifest.meta.get("path") or manifest.meta["dataset"]
    return workspace.dataset(named, test, manifest.meta.get("labels_path"))


def notes_of(dataset: Dataset, manifest: Manifest, *, decisions: bool = True) -> list[str]:
    """How the tables of a data set and its labels were read: the meaning of columns, unused
    columns, skipped files and automatic choices. Changes of images are reported for each run
    instead.
    """
    notes = list(dataset.listed.notes if dataset.listed else ())
    notes += [manifest.meta["label_file"]] if "label_file" in manifest.meta else []
    lines = manifest.meta.get("decisions", ()) if decisions else ()
    return [*notes, *(line for line in lines if not line.startswith("images: "))]
