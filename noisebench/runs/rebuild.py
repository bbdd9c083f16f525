"""A finished run's folder -> its configuration, to use its networks again or train others."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError, ManifestError
from ..experiments.recipes import all_settings
from ..experiments.resolve import RunConfig, RunRequest
from ..experiments.run_facts import config_of, facts_of_record
from ..labels.manifest import Manifest, read_manifest
from .folder import RunFolder
from .workspace import Workspace

_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def rebuild(folder: RunFolder, workspace: Workspace, manifest: Path | None = None) -> RunConfig:
    """The run of a finished folder, with the manifest that it was trained on: this one, or else the
    workspace's.

    Raises DataError where manifest, data or component versions are not the run's; NoisebenchError
    where its data are missing.
    """
    record = folder.record()
    labels = manifest_of(folder, workspace, manifest)
    recipe, model = all_settings(record["recipe"]), record["model"]["name"]
    request = RunRequest(
        loss=record["loss"],
        strategy=record["strategy"],
        model=model,
        recipe=recipe.pop("name"),
        changes=recipe,
        seed=record["seed"],
        precision=record["precision"],
        init=workspace.initial_again(record["init"], model) if "init" in record else None,
    )
    run = workspace.plan(request, workspace.dataset_of(labels), labels)
    if run.key == record["key"]:
        return run
    before, now = config_of(facts_of_record(record)), dict(run.config)
    before |= before.pop("versions")
    now |= now.pop("versions")
    changed = [name.removesuffix("_sha256") for name in now if now[name] != before.get(name)]
    raise DataError(
        f"{folder.path} is no longer the run that its settings make here: "
        f"{', '.join(changed) or 'a setting'} changed since"
    )


def manifest_of(folder: RunFolder, workspace: Workspace, given: Path | None = None) -> Manifest:
    """The manifest that a finished run was trained on: at this path, or in this workspace or the
    run's. Raises DataError where it is missing.
    """
    expected = folder.record()["noise"].get("manifest_sha256")
    if given is not None:
        labels = read_manifest(given)
        if labels.content_hash != expected:
            raise DataError(f"{given} is not what {folder.path} was trained on")
        return labels
    for manifests in (workspace.manifests, folder.path.absolute().parent.parent / "manifests"):
        paths = sorted(path for suffix in _SUFFIXES for path in manifests.glob(f"*{suffix}"))
        # the one that the run is named after first
        paths.sort(key=lambda path: not folder.path.name.startswith(path.name.partition(".csv")[0]))
        for path in paths:
            try:
                labels = read_manifest(path)
            except ManifestError:
                continue  # a damaged one, which is not the one
            if labels.content_hash == expected:
                return labels
    raise DataError(
        f"none of {workspace.manifests} is what {folder.path} was trained on: give "
        "its --manifest FILE"
    )
