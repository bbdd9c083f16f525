"""Where things lie: `manifests/`, `runs/` and the data; and what was read once in this process."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from .datasets import Dataset, Images, Labels, find_dataset, read_images, read_labels
from .errors import ConfigError, ManifestError
from .manifest import Manifest, file_name, make_manifest, noise_for
from .spec import Call
from .storing import write_text


def default_data_dir() -> Path:
    """The user's cache directory."""
    from platformdirs import user_cache_path

    return user_cache_path("noisebench", appauthor=False)


class Workspace:
    """One folder of manifests and runs, and the folder of the data. Reads each data set once."""

    def __init__(self, root: str | Path = ".", data_dir: str | Path | None = None, *, offline: bool = False) -> None:
        self.root, self.offline = Path(root), offline
        self._data_dir = data_dir
        self._images: dict[Dataset, Images] = {}
        self._labels: dict[Dataset, Labels] = {}
        self._manifests: dict[tuple[Dataset, str, int], tuple[Manifest, Path]] = {}

    @cached_property
    def data_dir(self) -> Path:
        return Path(self._data_dir).expanduser() if self._data_dir else default_data_dir()

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def dataset(self, name: str) -> Dataset:
        """A data set by name or path, here, in the workspace or in the data directory."""
        return find_dataset(name, self.root, self.data_dir)

    def labels(self, dataset: Dataset) -> Labels:
        if dataset not in self._labels:
            self._labels[dataset] = read_labels(dataset, self.data_dir, offline=self.offline)
        return self._labels[dataset]

    def images(self, dataset: Dataset) -> Images:
        if dataset not in self._images:
            self._images[dataset] = read_images(dataset, self.data_dir, offline=self.offline)
        return self._images[dataset]

    def make(self, dataset: Dataset, noise: str | Call, noise_seed: int) -> tuple[Manifest, Path]:
        """The manifest of a noise and its place by name; nothing is written."""
        key = (dataset, str(noise_for(dataset, str(noise))), noise_seed)
        if key not in self._manifests:
            manifest = make_manifest(self.labels(dataset), key[1], noise_seed)
            self._manifests[key] = (manifest, self.manifests / file_name(manifest, dataset))
        return self._manifests[key]

    def keep(self, manifest: Manifest, path: Path, *, force: bool = False) -> bool:
        """Write a manifest; True if it was not there. Raises ManifestError where another lies under that name."""
        if path.exists() and not force:
            if manifest.lies_at(path):
                return False
            raise ManifestError(f"{path} exists and holds other labels: noisebench corrupt takes another --out, or --force to replace it")
        manifest.write(path)
        return True

    @property
    def current(self) -> Path | None:
        """The manifest that `corrupt` wrote last, if any."""
        pointer = self.manifests / "current"
        try:
            name = pointer.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        if not name:
            raise ConfigError(f"{pointer} is empty: run noisebench corrupt again, or name a --manifest")
        return self.root / name

    def make_current(self, path: Path) -> None:
        """Remember what `corrupt` wrote last, by its name from the workspace where it lies within."""
        absolute, root = path.resolve(), self.root.resolve()
        name = absolute.relative_to(root) if absolute.is_relative_to(root) else absolute
        write_text(self.manifests / "current", f"{name}\n")
