"""`noisebench corrupt`: a manifest of noisy labels on disk. No torch and no network; images are
read of sets by path alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from .console import percent, say, show, write_json
from .options import Globals, Json, NoiseOptions, TestFolder, option, with_options

if TYPE_CHECKING:
    from rich.console import Group

    from ..labels.manifest import Manifest
    from ..runs.workspace import Workspace


# of a manifest's facts, as JSON
_SUMMARY = (
    *("dataset", "noise", "n", "num_classes", "nominal_rate", "realised_rate", "per_class_rate"),
    *("noise_seed", "convention", "source", "val_fraction", "val_split", "trusted", "subset"),
    *("factor", "label_file", "decisions"),
)


@dataclass(frozen=True)
class ReviewChoice:
    """The options of a review; all are missing where there is none."""

    manifest: Path | None
    suspects: Path | None
    drop: bool
    relabel: bool

    @property
    def any(self) -> bool:
        return self.manifest is not None or self.suspects is not None or self.drop or self.relabel

    def __post_init__(self) -> None:
        if not self.any:
            return
        if self.manifest is None or self.suspects is None or self.drop == self.relabel:
            raise ConfigError(
                "a review is corrupt --manifest FILE --suspects FILE and one of "
                "--drop and --relabel"
            )

    def apply(
        self, workspace: Workspace, dataset_name: str | None, test: Path | None
    ) -> tuple[Manifest, Path, dict[str, Any]]:
        """The new manifest, its path by name, and a summary of the review. The data are the
        manifest's own, or in `dataset_name`.
        """
        from ..labels.build import DatasetInputs
        from ..labels.issues import review_manifest
        from ..labels.manifest import file_name, read_manifest
        from .labels import LabelChoice, dataset_of

        assert self.manifest is not None and self.suspects is not None
        before = read_manifest(self.manifest)
        choice = LabelChoice(dataset_name, self.manifest, NoiseOptions(), test)
        dataset = dataset_of(workspace, choice, before)
        labels = workspace.labels(dataset)
        inputs = DatasetInputs(
            labels,
            workspace.data_dir,
            workspace.offline,
            workspace.dataset,
            workspace.root,
            workspace.tell,
        )
        action = "drop" if self.drop else "relabel"
        done = review_manifest(labels, before, self.suspects, action, inputs)
        notes = {"notes": list(done.notes)} if done.notes else {}
        path = workspace.manifests / file_name(done.after, dataset)
        return done.after, path, {**done.summary, **notes}


@with_options
def corrupt(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET",
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
    from ..labels.build import size_sentences
    from .labels import LabelChoice, notes_of, recorded

    options: Globals = context.obj
    review = ReviewChoice(manifest, suspects, drop, relabel)
    if review.any:
        LabelChoice(dataset, manifest, noise, test)  # which refuses a noise beside a manifest
    elif not noise.any and noise.convention:
        raise ConfigError(
            f"--convention {noise.convention} says how, not how much: give --sym, --asym, "
            "--pair or --idn a rate"
        )
    elif not noise.any and not recorded(dataset):
        raise ConfigError(
            "name a noise: --sym 0.4, --asym 0.3, --human worse, --labels FILE, "
            "--noise TEXT ... (noisebench list noises)"
        )
    elif dataset is None:
        raise ConfigError("a noise needs a data set: noisebench corrupt cifar10 --sym 0.4")
    if out is not None:
        _check_out(out)
    workspace = options.open()
    if review.any:
        labels, named, reviewed = review.apply(workspace, dataset, test)
        notes = [f"{suspects}: {note}" for note in reviewed.get("notes", ())]
    else:
        data, reviewed = workspace.dataset(str(dataset), test, noise.label_file), {}
        noise = noise if noise.any else replace(noise, short={"labels": "own"})
        labels, named = workspace.make(data, noise.request(data.name))
        notes = [*size_sentences(data), *notes_of(data, labels)]
    for note in notes:
        say(note, quiet=options.quiet)
    path = out or named
    written = workspace.keep(labels, path, force=force)
    workspace.make_current(path)
    say(
        f"{path} {'written' if written else 'is there already, unchanged'}",
        quiet=options.quiet or (not written and json),
    )
    if json:
        write_json({**_summary(labels, path), **({"review": reviewed} if reviewed else {})})
    else:
        show(_drawn(labels, path, reviewed))


def _check_out(out: Path) -> None:
    """Raises ConfigError for a path that no manifest can have."""
    from ..core.files.atomic import is_text

    if not out.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise ConfigError(f"--out is a .csv, .csv.gz or .parquet, got {out}")
    if not is_text(str(out)):
        raise ConfigError(f"--out is a path in UTF-8, got {str(out)!a}")


def _summary(manifest: Manifest, path: Path) -> dict[str, Any]:
    return {
        "manifest": str(path),
        **{name: manifest.meta[name] for name in _SUMMARY if name in manifest.meta},
        "sha256": manifest.sha256,
    }


def _drawn(manifest: Manifest, path: Path, reviewed: dict[str, Any]) -> Group:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    from ..core.console import Text

    meta = manifest.meta
    facts = Table.grid(padding=(0, 2))
    for name, value in [("manifest", str(path)), *_facts(manifest, reviewed)]:
        facts.add_row(Text(name, style="dim"), Text(value))
    if meta["realised_rate"] is None:
        return Group(facts)
    classes = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("class", "wrong labels", "most often recorded as"):
        classes.add_column(head, justify="right" if head == "wrong labels" else "left")
    for row in _class_rows(manifest):
        classes.add_row(*map(Text, row))
    return Group(facts, classes)


def _facts(manifest: Manifest, reviewed: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from ..noise import MAPS, is_random, normal_noise
    from ..noise.conventions import CONVENTIONS

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
    kept = int(manifest.included.sum())
    if dropped := manifest.num_examples - kept:
        yield "dropped", f"{dropped} are not trained on"
    if "factor" in meta:
        yield "factor", f"{meta['factor']:.6g}"
    if reviewed:
        text = f"{reviewed['listed']} listed, {reviewed['changed']} changed"
        if reviewed["wrong_before"] is not None:
            text += (
                f", {reviewed['changed_wrong']} of them wrong; {reviewed['wrong_before']} wrong "
                f"labels before, {reviewed['wrong_after']} after"
            )
        yield "reviewed", text
    if meta["nominal_rate"] is not None:
        yield "nominal rate", percent(meta["nominal_rate"])
    yield "wrong labels", _wrong(manifest)
    for decision in meta.get("decisions", ()):
        name, _, text = decision.partition(": ")
        yield name, text


def _wrong(manifest: Manifest) -> str:
    """The realised rate, and what it is a share of."""
    if manifest.meta["realised_rate"] is None:
        return "unknown: no clean labels"
    unknown = int(((manifest.true_labels == -1) & manifest.included).sum())
    kept = int(manifest.included.sum())
    share = percent(manifest.meta["realised_rate"])
    if unknown:
        return f"{share} of {kept - unknown}; {unknown} unknown"
    if kept < manifest.num_examples:
        return f"{share} of the {kept} that are left"
    return f"{share} of these {kept}" if "subset" in manifest.meta else f"{share} of all"


def _class_rows(manifest: Manifest, most: int = 10) -> list[tuple[str, str, str]]:
    """The classes in order, or the worst ones of many."""
    import numpy as np

    rates, names = manifest.meta["per_class_rate"], manifest.meta["classes"]
    chosen = (
        np.argsort([-(rate or 0) for rate in rates], kind="stable")[:most]
        if len(rates) > most
        else range(len(rates))
    )
    counts = manifest.confusion
    np.fill_diagonal(counts, 0)
    rows = [
        (names[k], percent(rates[k]), names[int(counts[k].argmax())] if counts[k].any() else "")
        for k in chosen
    ]
    return (
        [*rows, (f"... and {len(rates) - most} classes with no higher rate", "", "")]
        if len(rates) > most
        else rows
    )
