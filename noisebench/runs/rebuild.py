"""A finished run's folder -> the run as it was planned, so that its networks can be asked again, or
trained again otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, ManifestError
from ..experiments.recipes import all_settings
from ..experiments.resolve import RunConfig, RunRequest
from ..labels.manifest import Manifest, read_manifest
from .folder import RunFolder
from .workspace import Workspace

_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def rebuild(folder: RunFolder, workspace: Workspace, manifest: Path | None = None) -> RunConfig:
    """The run of a finished folder, with the manifest that it was trained on: this one, or else the
    workspace's.

    Raises DataError where manifest, data or component versions are not the run's; NoisebenchError
    where its data are not at hand.
    """
    record = folder.record()
    labels = manifest_of(folder, workspace, manifest)
    dataset = workspace.dataset_of(labels)
    run = workspace.plan(_wish(record, workspace), dataset, labels)
    if run.key != record["key"]:
        raise DataError(
            f"{folder.path} is no longer the run that its settings make here: "
            f"{_difference(run, record)}"
        )
    return run


def _wish(record: dict[str, Any], workspace: Workspace) -> RunRequest:
    recipe = all_settings(record["recipe"])
    name, model = recipe.pop("name"), record["model"]["name"]
    init = workspace.initial_again(record["init"], model) if "init" in record else None
    return RunRequest(
        None,
        record["loss"],
        record["strategy"],
        model,
        name,
        recipe,
        record["seed"],
        record["precision"],
        init=init,
    )


def manifest_of(folder: RunFolder, workspace: Workspace, given: Path | None = None) -> Manifest:
    """What a finished run was trained on: at this path, or in this workspace or the run's own.
    Raises DataError where it is not.
    """
    wanted = folder.record()["noise"].get("manifest_sha256")
    if given is not None:
        labels = read_manifest(given)
        if labels.content_hash != wanted:
            raise DataError(f"{given} is not what {folder.path} was trained on")
        return labels
    own = folder.path.absolute().parent.parent / "manifests"
    for path in [*_likely(folder, workspace.manifests), *_likely(folder, own)]:
        try:
            found = read_manifest(path)
        except ManifestError:
            continue  # a damaged one, which is not the one
        if found.content_hash == wanted:
            return found
    raise DataError(
        f"none of {workspace.manifests} is what {folder.path} was trained on: give "
        "its --manifest FILE"
    )


def _likely(folder: RunFolder, manifests: Path) -> Iterator[Path]:
    """All manifests, the one that the run is named after first."""
    paths = sorted(path for suffix in _SUFFIXES for path in manifests.glob(f"*{suffix}"))
    yield from sorted(
        paths, key=lambda path: not folder.path.name.startswith(path.name.partition(".csv")[0])
    )


def _difference(run: RunConfig, record: dict[str, Any]) -> str:
    """What is not as it was."""
    was = {
        "manifest": record["noise"].get("manifest_sha256"),
        "data": record["data"].get("sha256"),
        "loss": record["loss"],
        "strategy": record["strategy"],
        **record.get("versions", {}),
    }
    now = {
        "manifest": run.manifest.content_hash,
        "data": run.data_sha256,
        "loss": str(run.loss),
        "strategy": str(run.strategy),
        "protocol": str(run.config["protocol"]),
        **run.config["versions"],
    }
    changed = [name for name in now if now[name] != was.get(name)]
    return f"{', '.join(changed) or 'a setting'} changed since"
