"""`noisebench corrupt`: a manifest of noisy labels on disk. No torch and no network; images are
read of sets by path alone. And the labels that `train` trains on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.files.atomic import is_text
from ..datasets import DATASETS, Dataset
from ..errors import ConfigError
from ..noise import MAPS, is_random, normal_noise
from ..noise.conventions import CONVENTIONS
from .completion import OF_ARGUMENT
from .console import facts_table, percent, say, show, text_table, write_json
from .options import Globals, Json, NoiseOptions, TestFolder, option, refuse, with_options

if TYPE_CHECKING:
    from ..labels.manifest import Manifest
    from ..runs.workspace import Workspace


# of a manifest's facts, as JSON
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
            help="A name (noisebench list datasets), a .npz in MedMNIST's layout, or a folder of "
            "images, with class folders or --labels.",
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
            help="Review these labels, by a list of --suspects.",
        ),
    ] = None,
    suspects: Annotated[
        Path | None,
        option(
            "Review",
            "--suspects",
            metavar="FILE",
            help="Label issues, by evaluate --suspects or from cleanlab: .csv, or indices or "
            "flags as .npy, .txt, .json.",
        ),
    ] = None,
    drop: Annotated[
        bool, option("Review", "--drop", help="Leave the examples in --suspects out of training.")
    ] = False,
    relabel: Annotated[
        bool,
        option(
            "Review", "--relabel", help="Give the examples in --suspects the label suggested there."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        option(
            "Output",
            "--out",
            "-o",
            metavar="FILE",
            help="A .csv, .csv.gz or .parquet; default: manifests/ by name.",
        ),
    ] = None,
    force: Annotated[
        bool, option("Output", "--force", help="Replace another manifest of the same name.")
    ] = False,
    json: Json = False,
) -> None:
    """Add noise to the labels of a data set and write them as a manifest; or drop or correct labels
    that a review found wrong.

    noisebench corrupt cifar10 --asym 0.3
    """
    from ..labels.build import DatasetInputs, size_sentences
    from ..labels.issues import review_manifest
    from ..labels.manifest import file_name, read_manifest

    options: Globals = context.obj
    review = manifest is not None or suspects is not None or drop or relabel
    incomplete = manifest is None or suspects is None or drop == relabel
    refuse(
        (
            review and incomplete,
            "a review is corrupt --manifest FILE --suspects FILE and one of --drop and --relabel",
        ),
        *(_choice_rules(dataset, manifest, noise) if review else ()),
        (
            not review and not noise.any and noise.convention,
            f"--convention {noise.convention} says how, not how much: give --sym, --asym, "
            "--pair or --idn a rate",
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
            f"--out is a .csv, .csv.gz or .parquet, got {out}",
        ),
        (
            not is_text(str(out)),
            f"--out is a path in UTF-8, got {str(out)!a}",
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
        action = "drop" if drop else "relabel"
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
        f"{path} {'written' if written else 'is there already, unchanged'}",
        quiet=options.quiet or (not written and json),
    )
    if json:
        facts = {name: labels.meta[name] for name in _SUMMARY if name in labels.meta}
        more = {"review": summary} if summary else {}
        write_json({"manifest": str(path), **facts, "sha256": labels.sha256, **more})
        return
    tables = [facts_table([("manifest", str(path)), *_facts(labels, summary)])]
    if labels.meta["realised_rate"] is not None:
        heads = ("class", "wrong labels", "most often recorded as")
        tables.append(text_table(heads, _class_rows(labels), right=heads[1:2]))
    show(*tables)


def _facts(manifest: Manifest, review: dict[str, Any]) -> Iterator[tuple[str, str]]:
    meta = manifest.meta
    yield "noise", meta["noise"]
    # whose noise it is, since "0.4" means another overall rate in each paper
    if (paper := meta.get("convention")) in CONVENTIONS:
        yield "convention", f"{paper}: {CONVENTIONS[paper].paper}; {CONVENTIONS[paper].note}"
    name = dict(normal_noise(meta["noise"]).kwargs).get("map")
    if name in MAPS:
        yield "map", f"{name}: {MAPS[str(name)].summary} ({MAPS[str(name)].paper})"
    count = f"{meta['subset']} of {meta['n']}" if "subset" in meta else str(meta["n"])
    seeded = is_random(meta["noise"]) or "val_fraction" in meta or "trusted" in meta
    seed = f", noise seed {meta['noise_seed']}" if seeded else ""
    yield "examples", f"{count} in {meta['num_classes']} classes{seed}"
    if manifest.source is not None:
        images = int((manifest.source >= 0).sum())
        yield "put in", f"{images} images of {meta['source']}, whose labels are all wrong"
    if manifest.val is not None:
        size, when = int(manifest.val.sum()), meta["val_split"]
        yield "held out", f"{size} for validation, drawn {when} corruption"
    if manifest.trusted is not None:
        yield "trusted", f"{int(manifest.trusted.sum())} labels are verified, and right"
    if dropped := manifest.num_examples - int(manifest.included.sum()):
        yield "dropped", f"{dropped} are not trained on"
    if "factor" in meta:
        yield "factor", f"{meta['factor']:.6g}"
    if review:
        text = f"{review['listed']} listed, {review['changed']} changed"
        if review["wrong_before"] is not None:
            text += (
                f", {review['changed_wrong']} of them wrong; {review['wrong_before']} wrong "
                f"labels before, {review['wrong_after']} after"
            )
        yield "reviewed", text
    if meta["nominal_rate"] is not None:
        yield "nominal rate", percent(meta["nominal_rate"])
    yield "wrong labels", _realised_rate(manifest)
    for decision in meta.get("decisions", ()):
        name, _, text = decision.partition(": ")
        yield name, text


def _realised_rate(manifest: Manifest) -> str:
    """With what it is a share of."""
    unknown = int(((manifest.true_labels == -1) & manifest.included).sum())
    kept, rate = int(manifest.included.sum()), manifest.meta["realised_rate"]
    if rate is None:
        return "unknown: no clean labels"
    if unknown:
        return f"{percent(rate)} of {kept - unknown}; {unknown} unknown"
    if kept < manifest.num_examples:
        return f"{percent(rate)} of the {kept} that are left"
    return f"{percent(rate)} of {f'these {kept}' if 'subset' in manifest.meta else 'all'}"


def _class_rows(manifest: Manifest, most: int = 10) -> list[tuple[str, str, str]]:
    """The classes in order, or the worst ones of many."""
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
        rows.append((f"... and {len(rates) - most} classes with no higher rate", "", ""))
    return rows


def choose_labels(
    workspace: Workspace,
    name: str | None,
    path: Path | None,
    options: NoiseOptions,
    test: Path | None,
) -> tuple[Manifest, Path, Dataset, str, list[str]]:
    """What to train on: a manifest, a noise on a data set, what corrupt wrote last, or the embedded
    digits; nothing is written. Raises NoisebenchError.

    The manifest, its path, its data set, a sentence about them, and notes on how its files were
    read.
    """
    from ..labels.manifest import read_manifest

    refuse(*_choice_rules(name, path, options))
    reason, hint = "", f"noisebench train {name} --sym 0.4"
    if path is None and not options.any:
        if is_recorded(name):
            options = replace(options, values={"labels": "own"})
        elif (current := workspace.current) is not None:
            path, reason = current, "what corrupt wrote last: "
        elif name in (None, "digits"):
            name, options, reason = "digits", NoiseOptions({"sym": 0.4}), "no manifest here: "
        else:
            raise ConfigError(
                f"say which noise: {hint} (--sym 0 for clean labels), or run noisebench corrupt "
                "first"
            )
    if path is not None:
        manifest, notes = read_manifest(path), []
        dataset, known = dataset_of(workspace, manifest, name, test), manifest.meta["dataset"]
        refuse(
            (
                reason and name is not None and dataset.name != known,
                f"what corrupt wrote last, {path}, is for {known}: say which noise, e.g. {hint}",
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
    """Options of a noise without one, and a noise without a data set or beside a manifest."""
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
    """Whether a data set is used as it is where no noise is named."""
    return dataset in DATASETS and DATASETS[dataset].recorded


def dataset_of(
    workspace: Workspace, manifest: Manifest, name: str | None, test: Path | None
) -> Dataset:
    """The data set that is named, else the manifest's own."""
    if name is None and test is None:
        return workspace.dataset_of(manifest)
    named = name or manifest.meta.get("path") or manifest.meta["dataset"]
    return workspace.dataset(named, test, manifest.meta.get("labels_path"))


def notes_of(dataset: Dataset, manifest: Manifest, *, decisions: bool = True) -> list[str]:
    """How the tables of a data set and of its labels were read: the meaning of columns, and those
    that are not used; and what was passed over and chosen in the data set. Changes of its images
    are noted of each run.
    """
    notes = list(dataset.listed.notes if dataset.listed else ())
    notes += [manifest.meta["label_file"]] if "label_file" in manifest.meta else []
    lines = manifest.meta.get("decisions", ()) if decisions else ()
    return [*notes, *(line for line in lines if not line.startswith("images: "))]
