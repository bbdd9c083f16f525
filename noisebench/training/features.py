"""Features of images from a frozen network, computed once and kept in a file: the inputs of its
classification layer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor, nn

from ..core.progress import ProgressCallback, silent
from ..datasets import ImageArray, fit_images, images_fingerprint
from ..datasets.images import DECODING_VERSION, ImageIndex, read_fitted
from ..errors import DataError
from ..experiments.backbones import TIMM
from ..experiments.features import FeatureExtraction
from .images import Normalisation
from .inference import autocast, find_device, repeatable
from .networks import on_device
from .networks.factory import NetworkFactory, weights_of

_BATCH = 64  # images per forward pass; larger ones are slower on a CPU
_GPU_BATCH = 512
_TEXT = "computing features"


class FeatureExtractor:
    """The frozen network of an extraction, with its classification layer. `dimensions`: D;
    `normalise`: of the images; `notes`: how its weights were adapted.

    Raises DataError if the weights do not fit, or if the network has no single classification
    layer.
    """

    def __init__(self, extraction: FeatureExtraction, device: torch.device) -> None:
        import timm

        self.extraction, self.device = extraction, device
        shape = (extraction.size, extraction.size, 3)
        factory = NetworkFactory(extraction.model, 2, shape, weights_of(extraction.weights))
        network, notes = factory.network(0, 0)
        self.notes = tuple(note for note in notes if not note.endswith("random classifier"))
        head = network.get_classifier()  # type: ignore[operator]
        if not isinstance(head, nn.Linear | nn.Conv2d):
            raise DataError(
                f"{extraction.model} has no single classification layer, whose input the features "
                "would be: choose another network"
            )
        self.dimensions = head.in_features if isinstance(head, nn.Linear) else head.in_channels
        head.register_forward_pre_hook(self._keep)
        self.network = on_device(network.eval(), device)
        config: Any = timm.get_pretrained_cfg(extraction.model.removeprefix(TIMM))
        mean, std = (torch.tensor(getattr(config, name)) * 255 for name in ("mean", "std"))
        self.normalise = Normalisation(mean, std).to(device)
        self.batch_size = _GPU_BATCH if device.type == "cuda" else _BATCH
        self._kept = torch.empty(0)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features (n, D), float16, of images (n, size, size, 3), uint8."""
        pixels = self.normalise(torch.from_numpy(images).to(self.device))
        with repeatable(self.device), autocast(self.device, self.extraction.precision):
            self.network(pixels)
        return self._kept.half().cpu().numpy()

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._kept = inputs[0].flatten(1).float()


def extract_to_file(
    extractor: FeatureExtractor,
    read: Callable[[int, int], np.ndarray],
    n: int,
    path: Path,
    tell: ProgressCallback = silent,
) -> None:
    """Writes the features (n, D), float16, to a .npy file. Features of an interrupted call are kept
    beside it, and the next call continues after them.

    read(start, stop): images (stop - start, size, size, 3), uint8, of these examples. Raises
    DataError if a feature is not finite in float16, or if the file cannot be written.
    """
    partial = path.with_suffix(".partial")
    row = 2 * extractor.dimensions  # bytes
    tell(_TEXT, 0, n, "images")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as file, ThreadPoolExecutor(1) as reader:
            done, size = file.tell() // row, extractor.batch_size
            file.truncate(done * row)

            def images_from(start: int) -> np.ndarray:
                return read(start, min(start + size, n))

            following = reader.submit(images_from, done)
            while done < n:
                tell(_TEXT, done, n, "images")
                images = following.result()
                following = reader.submit(images_from, done + len(images))
                features = extractor(images)
                if not np.isfinite(features).all():
                    raise DataError(
                        f"{extractor.extraction.label}: a feature of examples {done} to "
                        f"{done + len(images) - 1} is not finite in float16: use another network"
                    )
                file.write(features.tobytes())
                done += len(images)
            file.flush()
            os.fsync(file.fileno())
        _add_header(partial, path, (n, extractor.dimensions))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        tell("", 0, 0, "")


def _add_header(rows: Path, path: Path, shape: tuple[int, int]) -> None:
    """Turns a file of rows, float16, into a .npy file of this shape."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file, rows.open("rb") as content:
        npy.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        while block := content.read(1 << 24):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    with suppress(OSError):
        rows.unlink()


class FeatureCache:
    """Features of images in the .npy files of a directory; computed where they are missing, by one
    process at a time.
    """

    def __init__(
        self,
        folder: Path,
        extraction: FeatureExtraction,
        device: str,
        tell: ProgressCallback = silent,
    ) -> None:
        self._folder, self._extraction, self._tell = folder, extraction, tell
        self._device = device
        self._extractor: FeatureExtractor | None = None

    def features(self, images: ImageArray, index: ImageIndex | None) -> np.ndarray:
        """The features (n, D), float16, mapped from their file. index: of images in files, which
        are read from there in the network's size, so that none is resized twice. Raises DataError.
        """
        identity = f"{images_fingerprint(images)} {self._extraction.facts['sha256']}"
        if index is not None:
            identity += f" {DECODING_VERSION}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:32]
        path, n = self._folder / f"{name}.npy", len(images)
        if (found := stored_features(path, n)) is not None:
            return found
        fitting = self._extraction.fitting

        def read(start: int, stop: int) -> np.ndarray:
            if index is not None:
                return read_fitted(index, range(start, stop), fitting)[0]
            return fit_images(np.asarray(images[start:stop]), fitting, 3)

        with self._locked(path):
            found = stored_features(path, n)  # another process may have computed them meanwhile
            if found is None:
                self._extractor = self._extractor or FeatureExtractor(
                    self._extraction, find_device(self._device)
                )
                extract_to_file(self._extractor, read, n, path, self._tell)
                found = stored_features(path, n)
        assert found is not None, "it was written above"
        return found

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        from filelock import FileLock, Timeout

        lock = FileLock(path.with_suffix(".lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                self._tell("waiting for another process that computes these features", 0, 0, "")
                lock.acquire()
                self._tell("", 0, 0, "")
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}") from None
        try:
            yield
        finally:
            lock.release()


def stored_features(path: Path, n: int) -> np.ndarray | None:
    """Maps a finished file of features (n, D); None without one, or for a damaged file."""
    with suppress(OSError, ValueError):
        features: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        if features.dtype == np.float16 and features.ndim == 2 and len(features) == n:
            return features
    return None
