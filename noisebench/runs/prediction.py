"""Predictions of a finished run's networks for new images or features, prepared as the run prepared
its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.arrays import map_npz_array, npz_names
from ..core.files.atomic import is_text
from ..core.progress import ProgressCallback, silent
from ..datasets import Fitting, fit_images
from ..datasets.image_folder import Skipped, images_below
from ..datasets.images import ImageIndex, Names, as_rgb, opener, read_picture
from ..errors import DataError
from ..training.features import FeatureExtractor
from ..training.inference import find_device
from .folder import RunFolder
from .inference import StoredNetworks, load_ensemble
from .workspace import Workspace, extraction_of, rebuild

_CHUNK = 256  # images in memory at a time
_FEATURES, _IMAGES = ("features", "test_features"), ("images", "test_images")


@dataclass(frozen=True)
class NewData:
    """New examples and their names: paths of image files, or rows of an array of images (n, H, W,
    C), uint8, or of features (n, D). skipped: lines about files that are no images.
    """

    names: Sequence[str]
    arrays: np.ndarray | None = None
    skipped: tuple[str, ...] = ()


def find_new_data(text: str, lines: Iterable[str]) -> NewData:
    """A directory (images at any depth), an image, a text file of paths, `-` for paths in `lines`,
    or a .npy or .npz of images or features. Raises DataError.
    """
    path = Path(text)
    if text == "-":
        try:
            return NewData(tuple(_paths(lines)))
        except UnicodeDecodeError as error:
            raise DataError(f"stdin cannot be read as a list of paths: {error}") from None
    if path.is_dir():
        passed = Skipped()
        found = images_below(path, "", passed)
        if not found:
            raise DataError("; ".join((f"{text} contains no images", *passed.lines())))
        return NewData([str(path / name) for name in found], skipped=passed.lines())
    if not path.is_file():
        raise DataError(f"{text} does not exist: give a directory, an image, a list of paths or -")
    if path.suffix.lower() in (".npy", ".npz"):
        arrays = _stored(path)
        return NewData([str(number) for number in range(len(arrays))], arrays)
    if path.suffix.lower() in (".txt", ".lst"):
        try:
            return NewData(tuple(_paths(path.read_text(encoding="utf-8-sig").splitlines())))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as a list of paths: {error}") from None
    return NewData((text,))


def _paths(lines: Iterable[str]) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in lines if line.strip())


def _stored(path: Path) -> np.ndarray:
    """The images or features in a file. Raises DataError."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with path.open("rb") as file:
                names = npz_names(file)
            known = [name for name in (*_FEATURES, *_IMAGES) if name in names]
            if len(known) != 1:
                listed = ", ".join((*_FEATURES, *_IMAGES))
                raise DataError(
                    f"{path} must contain one of the arrays {listed}; it contains "
                    f"{', '.join(names)}"
                )
            array = map_npz_array(path, known[0])
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if array.ndim == 2 and array.dtype.kind == "f":
        return array
    if array.ndim in (3, 4) and array.dtype == np.uint8:
        return array if array.ndim == 4 else array[..., None]
    raise DataError(
        f"{path} has an array {array.shape} of {array.dtype}: images are (n, H, W) or (n, H, W, C) "
        "of uint8, features are (n, D) of float16 or float32"
    )


class Predictor:
    """The networks of a finished run, for new examples. Raises DataError without its weights, or if
    the frozen network of its features is not available.
    """

    def __init__(self, folder: RunFolder, workspace: Workspace, device: str = "auto") -> None:
        self.record = folder.full_record()
        self.classes: list[str] = self.record["data"]["classes"]

        def training_images() -> Any:
            run = rebuild(folder, workspace)
            return workspace.training_images(run, device).train_images[run.manifest.in_training]

        self.networks: StoredNetworks = load_ensemble(folder, self.record, device, training_images)
        self.extraction = extraction_of(self.record, workspace)
        self.extractor = (
            FeatureExtractor(self.extraction, find_device(device)) if self.extraction else None
        )

    @property
    def takes_features(self) -> bool:
        """Whether the run was trained on a file of features, so that it cannot take images."""
        return self.networks.shape[:2] == (1, 1) and self.extraction is None

    @property
    def fitting(self) -> Fitting:
        """How images are resized."""
        return self.extraction.fitting if self.extraction else self.networks.fitting

    def of_array(self, array: np.ndarray) -> np.ndarray:
        """log_p (n, K) of images (n, H, W, C), uint8, of any size, or of features (n, D)."""
        if (array.ndim == 2) != self.takes_features:
            kinds = ("features", "images") if self.takes_features else ("images", "features")
            raise DataError(f"the run was trained on {kinds[0]}, the data are {kinds[1]}")
        if array.ndim == 2:
            if array.shape[1] != self.networks.shape[2]:
                raise DataError(
                    f"the data have {array.shape[1]} features, the run was trained on "
                    f"{self.networks.shape[2]}"
                )
            array = np.array(array, np.float32)
        else:
            channels = 3 if self.extractor else self.networks.shape[2]
            array = fit_images(np.array(array), self.fitting, channels)
            array = self.extractor(array) if self.extractor else array
        log_p = np.concatenate(list(self.networks.parts(array)))
        if not np.isfinite(log_p).all():
            raise DataError("the networks have no finite prediction for some of the data")
        return log_p

    def __call__(
        self, data: NewData, tell: ProgressCallback = silent
    ) -> Iterator[tuple[str, np.ndarray | DataError]]:
        """Yields the name and log_p (K,) of each example in order, or why it cannot be read."""
        names, done = iter(data.names), 0
        with ThreadPoolExecutor() as readers:
            while chunk := list(islice(names, _CHUNK)):
                tell("predicting", done, len(data.names), "examples")
                if data.arrays is not None:
                    yield from zip(
                        chunk, self.of_array(data.arrays[done : done + len(chunk)]), strict=True
                    )
                else:
                    found = list(readers.map(self._read, chunk))
                    images = [image for image in found if not isinstance(image, DataError)]
                    rows = iter(self.of_array(np.stack(images)) if images else ())
                    for name, image in zip(chunk, found, strict=True):
                        yield name, image if isinstance(image, DataError) else next(rows)
                done += len(chunk)
        tell("", 0, 0, "")

    def _read(self, name: str) -> np.ndarray | DataError:
        """An image (H, W, 3) at the run's size."""
        if not is_text(name):  # bytes of stdin that Python keeps as surrogates
            return DataError(f"the path {name!a} is not UTF-8: rename the file")
        index = ImageIndex("folder", "", Names.of([name]))
        try:
            picture, _ = read_picture(opener(index), index, 0, as_rgb)
        except DataError as error:
            return error
        return np.asarray(self.fitting(picture))
