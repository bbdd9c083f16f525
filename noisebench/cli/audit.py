"""`noisebench audit` says which labels of a data set are probably incorrect, how many, and which
method to train with, without correct labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .completion import OF_ARGUMENT
from .console import RunProgress, say, show, text_table, write_json
from .corrupt import dataset_of
from .options import (
    Device,
    Features,
    FeatureWeights,
    Globals,
    Json,
    TestFolder,
    option,
    refuse,
    with_options,
)

if TYPE_CHECKING:
    from ..runs.checkpoint import RunOptions


@with_options
def audit(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET",
            autocompletion=OF_ARGUMENT["DATASET"],
            help="Directory of images with class folders or --labels, .npz file, file of features, "
            "or name of a data set.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        option("Data", "--labels", metavar="FILE", help="File of the given labels."),
    ] = None,
    manifest: Annotated[
        Path | None,
        option("Data", "--manifest", metavar="FILE", help="Manifest whose labels are audited."),
    ] = None,
    test: TestFolder = None,
    features: Features = None,
    feature_weights: FeatureWeights = None,
    img_size: Annotated[
        int | None,
        option(
            "Method",
            "--img-size",
            metavar="N",
            min=1,
            help="Side of the images for --features.  [default: 128]",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        option(
            "Method",
            "--methods",
            metavar="NAMES",
            help="Methods to compare, simplest first, separated by commas.  [default: "
            "ce,gce,sl,elr on features, else ce,gce,elr]",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        option("Recipe", "--epochs", metavar="N", min=1, help="Epochs of each training."),
    ] = None,
    seed: Annotated[
        int, option("Run", "--seed", metavar="N", help="Seed for folds and training.")
    ] = 0,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        option("Output", "--out", "-o", metavar="DIR", help="Directory; default: audit/NAME."),
    ] = None,
    json: Json = False,
) -> None:
    """Find label errors, estimate their rate, and choose a method.

    noisebench audit photos/
    """
    import json as json_format

    from ..core.files.atomic import write_text
    from ..core.hardware import keep_memory
    from ..core.signals import StopSignals
    from ..labels.build import LabelRequest
    from ..labels.issues import write_suspects
    from ..labels.manifest import read_manifest
    from ..reporting.audit import audit_document, audit_sections, picture_of, review_items
    from ..reporting.review import write_review_page
    from ..runs.audit import audit_folder, audit_labels, features_at_hand, resolve_methods
    from ..runs.checkpoint import RunOptions

    refuse(
        (
            dataset is None and manifest is None,
            "name the data: noisebench audit photos/, or --manifest FILE",
        ),
        (labels and manifest, "give --labels or --manifest, not both"),
    )
    options: Globals = context.obj
    workspace = options.open()
    if manifest is not None:
        noisy, path = read_manifest(manifest), manifest
        data = dataset_of(workspace, noisy, dataset, test)
        clean = workspace.labels(data)
        noisy.verify(clean.labels, clean.ids, classes=data.num_classes)
    else:
        data = workspace.dataset(str(dataset), test, labels)
        file = labels if labels is not None and data.labels is None else "own"
        noisy, path = workspace.make(data, LabelRequest(f"imported(file={file!r})"))
        workspace.keep(noisy, path)
    network = None if data.dimensions else features_at_hand(workspace, features, feature_weights)
    refuse(
        (data.dimensions and (features or feature_weights), f"{data.name} has features already"),
        (img_size and network is None, "--img-size has an effect with --features only"),
    )
    runs = resolve_methods(
        workspace,
        data,
        noisy,
        network,
        methods.split(",") if methods else None,
        seed=seed,
        size=img_size,
        epochs=epochs,
        device=device,
    )
    trained_on = f"images, {runs[0].model}"
    if data.dimensions:
        trained_on = "the features in the file"
    elif network is not None:
        trained_on = f"features {network.model}, weights {network.weights.text}"
    say(f"auditing {noisy.dataset_text} on {trained_on}", quiet=options.quiet)
    keep_memory()
    with StopSignals() as signals, RunProgress(quiet=options.quiet) as lines:

        def run_options(stage: str) -> RunOptions:
            lines.say(stage)
            return RunOptions(
                on_epoch_end=lines.update, should_stop=lambda: signals.stopped, on_step=lines.step
            )

        result = audit_labels(workspace, runs, run_options, device)
    folder = audit_folder(out, workspace.root, path)
    folder.mkdir(parents=True, exist_ok=True)
    listed = write_suspects(folder / "issues.csv", result.quality, noisy, result.confident)
    document = audit_document(result, listed, path, folder, features=trained_on)
    sizes = ""
    if not data.dimensions:
        sizes = f", used at {data.shape[1]} x {data.shape[0]} pixels"
    sections = audit_sections(document, sizes)
    write_review_page(
        folder / "review.html",
        sections,
        review_items(result, listed),
        noisy.meta["classes"],
        picture_of(workspace.images(data)),
        title=f"Audit of {noisy.meta['dataset']}",
        command=f"noisebench corrupt --manifest {path}",
        tell=workspace.tell,
    )
    text = json_format.dumps(document, indent=2, ensure_ascii=False)
    write_text(folder / "audit.json", f"{text}\n")
    if json:
        write_json(document)
        return
    for section in sections:
        table = [text_table(section.columns, section.rows)] if section.rows else []
        show(section.title, *section.sentences, *table)
