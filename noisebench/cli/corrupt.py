"""`noisebench corrupt`: a manifest of noisy labels on disk. No torch and no network; images are
read of sets by path alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import percent, say, show, write_json
from .options import (
    Asym,
    Bernoulli,
    ConventionName,
    Drop,
    Globals,
    Human,
    Idn,
    Inclusive,
    Json,
    LabelFile,
    Map,
    Matrix,
    Noise,
    NoiseOptions,
    NoiseSeed,
    Openset,
    Pair,
    Predictions,
    Relabel,
    Source,
    Subset,
    Sym,
    TestFolder,
    Trusted,
    ValFraction,
    ValSplit,
)  # fmt: skip

if TYPE_CHECKING:
    from rich.console import Group

    from ..labels.manifest import Manifest


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
    sym: Sym = None,  # these and what follows are read by NoiseOptions.of
    asym: Asym = None,
    pair: Pair = None,
    idn: Idn = None,
    human: Human = None,
    matrix: Matrix = None,
    labels: LabelFile = None,
    openset: Openset = None,
    source: Source = None,
    noise: Noise = None,
    map: Map = None,
    inclusive: Inclusive = False,
    bernoulli: Bernoulli = False,
    convention: ConventionName = None,
    predictions: Predictions = None,
    val_fraction: ValFraction = None,
    val_split: ValSplit = None,
    trusted: Trusted = None,
    subset: Subset = None,
    test: TestFolder = None,
    noise_seed: NoiseSeed = 0,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="FILE", help="Review these labels, by a list of --suspects."
        ),
    ] = None,
    suspects: Annotated[
        Path | None,
        typer.Option(
            "--suspects",
            metavar="FILE",
            help="Label issues, by evaluate --suspects or from cleanlab: .csv, or indices or "
            "flags as .npy, .txt, .json.",
        ),
    ] = None,
    drop: Drop = False,
    relabel: Relabel = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A .csv, .csv.gz or .parquet; default: manifests/ by name.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another manifest of the same name.")
    ] = False,
    json: Json = False,
) -> None:
    """Draw noisy labels for a data set and write them down; or drop or correct labels that were
    found wrong.

    noisebench corrupt cifar10 --asym 0.3
    """
    from dataclasses import replace

    from ..errors import ConfigError
    from ..labels.build import size_sentences
    from .labels import LabelChoice, notes_of, recorded
    from .review import ReviewChoice

    options: Globals = context.obj
    chosen, review = NoiseOptions.of(context), ReviewChoice(manifest, suspects, drop, relabel)
    if review.any:
        LabelChoice(dataset, manifest, chosen, test)  # which refuses a noise beside a manifest
    elif not chosen.any and convention:
        raise ConfigError(
            f"--convention {convention} says how, not how much: give --sym, --asym, "
            "--pair or --idn a rate"
        )
    elif not chosen.any and not recorded(dataset):
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
        made, named, reviewed = review.make(workspace, dataset, test)
    else:
        found, reviewed = workspace.dataset(str(dataset), test, chosen.label_file), {}
        chosen = chosen if chosen.any else replace(chosen, labels="own")
        made, named = workspace.make(found, chosen.wish(found.name))
        for sentence in size_sentences(found):
            say(sentence, quiet=options.quiet)
    read_as = (
        [f"{suspects}: {note}" for note in reviewed.get("notes", ())]
        if review.any
        else notes_of(found, made)
    )
    for note in read_as:
        say(note, quiet=options.quiet)
    path = out or named
    fresh = workspace.keep(made, path, force=force)
    workspace.make_current(path)
    say(
        f"{path} {'written' if fresh else 'is there already, unchanged'}",
        quiet=options.quiet or (not fresh and json),
    )
    if json:
        write_json({**_summary(made, path), **({"review": reviewed} if reviewed else {})})
    else:
        show(_drawn(made, path, reviewed))


def _check_out(out: Path) -> None:
    """Raises ConfigError for a path that no manifest can have."""
    from ..core.files.atomic import is_text
    from ..errors import ConfigError

    if not out.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise ConfigError(f"--out is a .csv, .csv.gz or .parquet, got {out}")
    if not is_text(str(out)):
        raise ConfigError(f"--out is a path in UTF-8, got {str(out)!a}")


def _summary(manifest: Manifest, path: Path) -> dict[str, Any]:
    names = (
        "dataset",
        "noise",
        "n",
        "num_classes",
        "nominal_rate",
        "realised_rate",
        "per_class_rate",
        "noise_seed",
    )
    extras = [
        name
        for name in (
            "convention",
            "source",
            "val_fraction",
            "val_split",
            "trusted",
            "subset",
            "factor",
            "label_file",
            "decisions",
        )
        if name in manifest.meta
    ]
    return {
        "manifest": str(path),
        **{name: manifest.meta[name] for name in [*names, *extras]},
        "sha256": manifest.sha256,
    }


def _drawn(manifest: Manifest, path: Path, reviewed: dict[str, Any]) -> Group:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    from ..core.console import Text
    from .review import reviewed_facts

    meta = manifest.meta
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("manifest", str(path)),
        ("noise", meta["noise"]),
        *_convention(meta),
        ("examples", f"{_count(meta)} in {meta['num_classes']} classes{_seed(meta)}"),
        *_extras(manifest),
        *reviewed_facts(reviewed),
        *(
            [("nominal rate", percent(meta["nominal_rate"]))]
            if meta["nominal_rate"] is not None
            else []
        ),
        ("wrong labels", _wrong(manifest)),
        *(tuple(decision.split(": ", 1)) for decision in meta.get("decisions", ())),
    ):
        facts.add_row(Text(name, style="dim"), Text(value))
    if meta["realised_rate"] is None:
        return Group(facts)
    classes = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("class", "wrong labels", "most often recorded as"):
        classes.add_column(head, justify="right" if head == "wrong labels" else "left")
    for row in _class_rows(manifest):
        classes.add_row(*map(Text, row))
    return Group(facts, classes)


def _count(meta: dict[str, Any]) -> str:
    return f"{meta['subset']} of {meta['n']}" if "subset" in meta else str(meta["n"])


def _seed(meta: dict[str, Any]) -> str:
    from ..noise import is_random

    return (
        f", noise seed {meta['noise_seed']}"
        if is_random(meta["noise"]) or "val_fraction" in meta or "trusted" in meta
        else ""
    )


def _wrong(manifest: Manifest) -> str:
    """The realised rate, and what it is a share of."""
    if manifest.meta["realised_rate"] is None:
        return "unknown: no clean labels"
    unknown, kept = (
        int(((manifest.true_labels == -1) & manifest.included).sum()),
        int(manifest.included.sum()),
    )
    share = percent(manifest.meta["realised_rate"])
    of_all = (
        f"the {kept} that are left"
        if kept < manifest.num_examples
        else f"these {kept}"
        if "subset" in manifest.meta
        else "all"
    )
    return (
        f"{share} of {of_all}"
        if not unknown
        else (f"{share} of {kept - unknown}; of {unknown} nobody knows")
    )


def _extras(manifest: Manifest) -> list[tuple[str, str]]:
    """What only some noises have."""
    meta, rows = manifest.meta, []
    if manifest.source is not None:
        rows.append(
            (
                "put in",
                f"{int((manifest.source >= 0).sum())} images of {meta['source']}, "
                "whose labels are all wrong",
            )
        )
    if manifest.val is not None:
        rows.append(
            (
                "held out",
                f"{int(manifest.val.sum())} for validation, drawn {meta['val_split']} corruption",
            )
        )
    if manifest.trusted is not None:
        rows.append(("trusted", f"{int(manifest.trusted.sum())} labels are verified, and right"))
    if dropped := manifest.num_examples - int(manifest.included.sum()):
        rows.append(("dropped", f"{dropped} are not trained on"))
    if "factor" in meta:
        rows.append(("factor", f"{meta['factor']:.6g}"))
    return rows


def _convention(meta: dict[str, Any]) -> list[tuple[str, str]]:
    """Whose noise it is, since "0.4" means another overall rate in each paper."""
    from ..noise import MAPS, normal_noise
    from ..noise.conventions import CONVENTIONS

    rows = []
    if (paper := meta.get("convention")) in CONVENTIONS:
        rows.append(
            ("convention", f"{paper}: {CONVENTIONS[paper].paper}; {CONVENTIONS[paper].note}")
        )
    name = dict(normal_noise(meta["noise"]).kwargs).get("map")
    if name in MAPS:
        rows.append(("map", f"{name}: {MAPS[str(name)].summary} ({MAPS[str(name)].paper})"))
    return rows


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
