"""`noisebench corrupt --manifest M --suspects FILE --drop|--relabel`: labels that somebody has
looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..labels.manifest import Manifest
    from ..runs.workspace import Workspace


@dataclass(frozen=True)
class ReviewChoice:
    """What the command line says of a review; all is missing where there is none."""

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

    def make(
        self, workspace: Workspace, dataset: str | None, test: Path | None
    ) -> tuple[Manifest, Path, dict[str, Any]]:
        """The new manifest, its place by name, and what the review did. The data are the manifest's
        own, or lie where `dataset` says.
        """
        from ..labels.build import DatasetInputs
        from ..labels.manifest import file_name, read_manifest
        from ..labels.review import review_manifest
        from .labels import LabelChoice, dataset_of
        from .options import NoiseOptions

        assert self.manifest is not None and self.suspects is not None
        before = read_manifest(self.manifest)
        found = dataset_of(
            workspace, LabelChoice(dataset, self.manifest, NoiseOptions(), test), before
        )
        labels = workspace.labels(found)
        outside = DatasetInputs(
            labels,
            workspace.data_dir,
            workspace.offline,
            workspace.dataset,
            workspace.root,
            workspace.tell,
        )
        done = review_manifest(
            labels, before, self.suspects, "drop" if self.drop else "relabel", outside
        )
        notes = {"notes": list(done.notes)} if done.notes else {}
        return (
            done.after,
            workspace.manifests / file_name(done.after, found),
            {**done.summary, **notes},
        )


def reviewed_facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The line of a review."""
    if not summary:
        return []
    text = f"{summary['listed']} listed, {summary['changed']} changed"
    if summary["wrong_before"] is not None:
        text += (
            f", {summary['changed_wrong']} of them wrong; {summary['wrong_before']} wrong "
            f"labels before, {summary['wrong_after']} after"
        )
    return [("reviewed", text)]
