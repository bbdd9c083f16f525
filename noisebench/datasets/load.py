"""Finds a data set by name or path and reads its labels, or labels and images: from the package,
from `<data-dir>/<name>.npz`, or from the published files, which are downloaded if missing. Images
of streamed sets are read during training.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from ..core.files.atomic import atomic_write
from ..core.progress import ProgressCallback, silent, track
from ..errors import DataError, UnknownName
from .download import DOWNLOADS, FILES, NoHost, download_lock, fetch
from .features import check_finite, open_features
from .images import Fitting, LazyImages, Listed, read_fitted, sentences
from .npz import as_images, as_labels, fingerprint, read_arrays
from .raw import FOLDERS, find_raw, read_raw
from .registry import DATASETS, Dataset
from .user_data import (
    READERS,
    check_memory,
    describe_stream,
    describe_user_data,
    split_reader,
    with_listing,
)

_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
ImageArray = np.ndarray | LazyImages


@dataclass(frozen=True)
class Labels:
    """The training labels (N,) of a data set, int64, correct unless the set is known to have
    incorrect ones; `ids`: paths of the examples if they are files, `test_ids`: of the test images.

    clean (N,): verified labels, -1 for the others. fair: whether the verified labels are a random
    sample, including incorrect ones.
    """

    dataset: Dataset
    labels: np.ndarray
    ids: tuple[str, ...] = ()
    clean: np.ndarray | None = None
    fair: bool = True
    test_ids: Sequence[str] = ()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.labels)

    def take(self, indices: np.ndarray) -> Labels:
        """The labels of some of the examples (n,)."""
        ids = tuple(self.ids[i] for i in indices) if self.ids else ()
        clean = None if self.clean is None else self.clean[indices]
        return Labels(self.dataset, self.labels[indices], ids, clean, self.fair)


@dataclass(frozen=True)
class Images:
    """A data set in memory, or in files if streamed: images (N, height, width, channels) uint8, or
    features (N, D) float16 or float32; labels (N,) int64.

    changed: for a set in memory, each change of images with the number of images.
    """

    dataset: Dataset
    train_images: ImageArray
    train_labels: np.ndarray
    test_images: ImageArray
    test_labels: np.ndarray
    ids: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all images and labels; for images in files of their names, sizes and labels,
        independent of the directory.
        """
        train, test = self.train_images, self.test_images
        if isinstance(train, LazyImages) and isinstance(test, LazyImages):
            text = f"{train.fingerprint}\n{test.fingerprint}\n"
            return hashlib.sha256(text.encode()).hexdigest()
        assert isinstance(train, np.ndarray) and isinstance(test, np.ndarray)
        return fingerprint(train, self.train_labels, test, self.test_labels)


def find_dataset(
    name: str,
    *roots: Path,
    test: Path | None = None,
    labels: str | None = None,
    offline: bool = False,
) -> Dataset:
    """A built-in data set by name, or a user data set by path: a .npz in MedMNIST's layout, a
    folder of images, or one to be streamed (`folder:DIR`, `tar:`, `wds:`, `hfds:`).

    A relative path is searched for here and in `roots`; the last root also caches the index of
    tars. `test`: the directory of a folder's test images, if not its test/ or val/; `labels`: the
    label file of a folder, FILE or FILE:COLUMN. Raises UnknownName or DataError.
    """
    if name in DATASETS:
        if test is not None:
            raise DataError(f"--test is for folders of images only: {name} has its own test set")
        return with_listing(DATASETS[name], *roots) if DATASETS[name].reader else DATASETS[name]
    reader, rest = split_reader(name)
    if reader:
        candidates = [root / rest for root in (Path(), *roots)]
        folders = candidates
        if reader == "wds" and re.search(r"[{*]", rest):  # a pattern: the directory of its shards
            folders = [
                next(parent for parent in path.parents if not re.search(r"[{*]", str(parent)))
                for path in candidates
            ]
        path = next(
            (path for path, folder in zip(candidates, folders, strict=True) if folder.exists()),
            Path(rest),
        )
        cache = (roots or (Path(),))[-1] / "listings"
        return describe_stream(reader, path, cache, test, labels=labels, offline=offline)
    for root in (Path(), *roots):
        if (root / name).exists():
            return describe_user_data(root / name, test, labels)
    if "/" in name or "\\" in name or name.endswith(".npz"):
        streams = ", ".join(f"{reader}:..." for reader in READERS)
        raise DataError(
            f"{name} does not exist; expected the name of a data set, a .npz, a folder "
            f"of images, or {streams} to stream"
        )
    raise UnknownName("dataset", name, DATASETS, "datasets")


def read_labels(
    dataset: Dataset, data_dir: Path, *, offline: bool = False, tell: ProgressCallback = silent
) -> Labels:
    """Reads the training labels, without images; if they are in the package, without torch and
    network. `tell` receives the progress.
    """
    if dataset.merged:
        parent, number = DATASETS[dataset.merged[0]], np.asarray(dataset.merged[1])
        parent_labels = read_labels(parent, data_dir, offline=offline, tell=tell).labels
        return Labels(dataset, number[parent_labels])
    if dataset.reader or dataset.listed:
        listed = _listed(dataset, data_dir)
        folder = f"{dataset.test.name}/" if dataset.test else ""
        test_ids = [folder + name for name in listed.test.names] if folder else listed.test.names
        ids = tuple(listed.train.names)
        return Labels(dataset, listed.train_labels, ids, listed.clean, listed.fair, test_ids)
    if dataset.dimensions and dataset.path:
        table = open_features(dataset.path)
        return Labels(dataset, table.labels, table.ids)
    labels = _packaged_labels(dataset.name)
    if labels is None and (archive := _archive(dataset, data_dir)):
        labels = as_labels(read_arrays(archive, ["train_labels"])["train_labels"], str(archive))
    if labels is None:
        labels = _published(dataset, data_dir, offline=offline, tell=tell).train_labels
    return Labels(dataset, labels)


def read_images(
    dataset: Dataset,
    data_dir: Path,
    *,
    fitting: Fitting | None = None,
    offline: bool = False,
    workers: int | None = None,
    tell: ProgressCallback = silent,
) -> Images:
    """Reads images and true labels and checks them against the known facts of the data set; images
    of a streamed set are not read yet. Raises DataError.

    fitting: a size other than the data set's own; workers: processes that prefetch; tell: receives
    the progress.
    """
    if dataset.reader:
        listed, fitting = _listed(dataset, data_dir), fitting or dataset.fitting
        if fitting.height != fitting.width:
            raise DataError(
                f"{dataset.name}: streamed images must be square, got {fitting}: "
                "use the data set in memory, without its reader"
            )
        train, test = (
            LazyImages(
                index,
                np.arange(len(index)),
                index.fingerprint(labels),
                fitting.height,
                fitting.centre,
                workers,
                fitting.fit,
            )
            for index, labels in (
                (listed.train.sized(), listed.train_labels),
                (listed.test.sized(), listed.test_labels),
            )
        )
        ids = tuple(listed.train.names)
        return Images(dataset, train, listed.train_labels, test, listed.test_labels, ids)
    if dataset.path and dataset.dimensions:
        return _read_features(dataset, dataset.path)
    if dataset.path and dataset.listed:
        return _from_folder(dataset, dataset.listed, fitting or dataset.fitting, tell)
    if dataset.merged:
        parent, number = DATASETS[dataset.merged[0]], np.asarray(dataset.merged[1])
        images = read_images(parent, data_dir, offline=offline, tell=tell)
        train_labels, test_labels = number[images.train_labels], number[images.test_labels]
        images = replace(
            images, dataset=dataset, train_labels=train_labels, test_labels=test_labels
        )
    elif archive := _archive(dataset, data_dir):
        images = _check_set(dataset, read_arrays(archive, _NAMES), archive)
    else:
        images = _published(dataset, data_dir, offline=offline, tell=tell)
    return images if fitting is None else fit_set(images, fitting, tell=tell)


def _check_set(
    dataset: Dataset,
    arrays: dict[str, np.ndarray],
    where: Path,
    ids: tuple[str, ...] = (),
    changed: tuple[str, ...] = (),
) -> Images:
    """Arrays as a data set in memory. Raises DataError if images and labels do not fit each other,
    or differ from the built-in data set's.
    """
    images = Images(
        dataset,
        as_images(arrays["train_images"], str(where)),
        as_labels(arrays["train_labels"], str(where)),
        as_images(arrays["test_images"], str(where)),
        as_labels(arrays["test_labels"], str(where)),
        ids,
        changed,
    )
    shape = images.train_images.shape[1:]
    for array, labels, part in (
        (images.train_images, images.train_labels, "train"),
        (images.test_images, images.test_labels, "test"),
    ):
        if len(array) != len(labels):
            raise DataError(f"{where}: {len(array)} {part} images but {len(labels)} {part} labels")
        if labels.max() >= dataset.num_classes:
            raise DataError(
                f"{where}: {part} label {labels.max()} is out of range, {dataset.name} has "
                f"the classes 0 to {dataset.num_classes - 1}"
            )
    if shape != images.test_images.shape[1:]:
        raise DataError(
            f"{where}: train images are {shape}, test images {images.test_images.shape[1:]}"
        )
    known = _packaged_labels(dataset.name)
    if known is not None and not np.array_equal(known, images.train_labels):
        raise DataError(
            f"{where} is not {dataset.name}: its training labels differ from the "
            "published ones in number, order or value"
        )
    if dataset.path is None and (shape, len(images.test_labels)) != (dataset.shape, dataset.n_test):
        raise DataError(
            f"{where} is not {dataset.name}: expected images {dataset.shape} and "
            f"{dataset.n_test} test examples"
        )
    return images


def fit_images(
    images: np.ndarray, fitting: Fitting, channels: int, tell: ProgressCallback = silent
) -> np.ndarray:
    """Resizes images (n, h, w, c), uint8, and converts to grey or colour (1 or 3 channels)."""
    shape = (fitting.height, fitting.width, channels)
    if images.shape[1:] == shape and fitting.centre == 1:
        return images
    from PIL import Image

    fitted = np.empty((len(images), *shape), np.uint8)
    reported = track(images, "resizing images", tell, total=len(images), unit="images")
    for i, image in enumerate(reported):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert(
            "L" if channels == 1 else "RGB"
        )
        fitted[i] = np.asarray(fitting(picture)).reshape(shape)
    return fitted


def fit_set(
    images: Images,
    fitting: Fitting,
    channels: int | None = None,
    *,
    tell: ProgressCallback = silent,
) -> Images:
    """Resizes all images of a set in memory and converts between grey and colour. Raises DataError
    if they do not fit into memory.
    """
    train, test = images.train_images, images.test_images
    assert isinstance(train, np.ndarray) and isinstance(test, np.ndarray)
    channels, n = channels or train.shape[3], len(train) + len(test)
    check_memory(images.dataset.name, n, fitting.height, fitting.width, channels)
    sentence = describe_fitting(train.shape[1:], fitting, channels)
    return replace(
        images,
        train_images=fit_images(train, fitting, channels, tell),
        test_images=fit_images(test, fitting, channels, tell),
        changed=(*images.changed, *([sentence] if sentence else [])),
    )


def describe_fitting(shape: tuple[int, ...], fitting: Fitting, channels: int) -> str:
    """The changes of images of a shape (height, width, channels), in words; empty for none."""
    changes = []
    if shape[:2] != (fitting.height, fitting.width) or fitting.centre != 1:
        changes.append(f"resized to {fitting}")
    if (shape[2], channels) == (1, 3):
        changes.append("grey copied to three channels")
    if (shape[2], channels) == (3, 1):
        changes.append("colour converted to grey")
    return f"all images of {shape[0]}x{shape[1]}: {', '.join(changes)}" if changes else ""


def image_rows(
    dataset: Dataset, data_dir: Path, *, offline: bool = False, tell: ProgressCallback = silent
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from training examples (n,) to their images (n, H, W, C), uint8; images in files
    are read at first use.
    """
    if dataset.dimensions:
        raise DataError(f"{dataset.name} has no images")
    if dataset.reader or dataset.listed:
        index = _listed(dataset, data_dir).train
        return lambda which: read_fitted(index, which.tolist(), dataset.fitting)[0]
    images = np.asarray(read_images(dataset, data_dir, offline=offline, tell=tell).train_images)
    return lambda which: images[which]


def at_hand(dataset: Dataset, data_dir: Path) -> bool:
    """Whether the images can be read without network."""
    if dataset.reader:
        return dataset.listed is not None
    known = DATASETS[dataset.merged[0]] if dataset.merged else dataset
    return _archive(known, data_dir) is not None or find_raw(known.name, data_dir) is not None


def images_fingerprint(images: ImageArray) -> str:
    """sha256 of images in memory by every byte, of images in files by names, sizes and labels."""
    return images.fingerprint if isinstance(images, LazyImages) else fingerprint(images)


def _listed(dataset: Dataset, data_dir: Path) -> Listed:
    if dataset.listed is None:
        raise DataError(f"{dataset.name} is not in {data_dir}: put it into "
                        f"{data_dir / dataset.name}/ in its authors' layout, "
                        "or use another --data-dir")  # fmt: skip
    return dataset.listed


def _archive(dataset: Dataset, data_dir: Path) -> Path | None:
    if dataset.path:
        return dataset.path
    if dataset.name == "digits":
        with as_file(files("noisebench.datasets") / "data" / "digits.npz") as path:
            return path
    path = data_dir / f"{dataset.name}.npz"
    return path if path.exists() else None


def _packaged_labels(name: str) -> np.ndarray | None:
    if name == "digits":
        return None  # its images are in the package too
    with (
        as_file(files("noisebench.datasets") / "data" / "train_labels.npz") as path,
        np.load(path, allow_pickle=False) as archive,
    ):
        return archive[name].astype(np.int64) if name in archive else None


def _from_folder(
    dataset: Dataset, listed: Listed, fitting: Fitting, tell: ProgressCallback
) -> Images:
    path = dataset.path
    assert path is not None
    if not len(listed.test):
        raise DataError(
            f"{path} has no test images: put them into {path / 'test'}/class/ beside "
            f"{path / 'train'}/class/, or use --test"
        )
    check_memory(path, len(listed.train) + len(listed.test), fitting.height, fitting.width)
    train, train_changes = read_fitted(listed.train, range(len(listed.train)), fitting, tell)
    test, test_changes = read_fitted(listed.test, range(len(listed.test)), fitting, tell)
    arrays = dict(zip(_NAMES, (train, listed.train_labels, test, listed.test_labels), strict=True))
    changed = (
        *sentences("training", listed.train.names, train_changes, fitting),
        *sentences("test", listed.test.names, test_changes, fitting),
    )
    return _check_set(dataset, arrays, path, tuple(listed.train.names), changed)


def _read_features(dataset: Dataset, path: Path) -> Images:
    table = open_features(path)
    train, test = table.train(), table.test()
    check_finite(train, path, "training")
    check_finite(test, path, "test")
    return Images(dataset, train, table.labels, test, table.test_labels, table.ids)


def _published(
    dataset: Dataset, data_dir: Path, *, offline: bool, tell: ProgressCallback
) -> Images:
    """Reads the published files; unless offline, downloads them and stores them as .npz."""
    name = dataset.name
    if original := find_raw(name, data_dir):
        return _check_set(dataset, read_raw(name, original), original)
    if offline:
        raise _missing(dataset, data_dir, "without --offline it would be downloaded")
    folder = data_dir / DOWNLOADS / name
    with download_lock(folder, tell):
        if archive := _archive(dataset, data_dir):  # from the process that had the lock before
            return _check_set(dataset, read_arrays(archive, _NAMES), archive)
        try:
            fetched = [fetch(file, folder, tell) for file in FILES[name]]
        except NoHost as error:
            raise _missing(dataset, data_dir, str(error)) from None
        path = folder if len(fetched) > 1 else fetched[0]
        arrays = read_raw(name, path)
        images = _check_set(dataset, arrays, path)
        # in this directory, so that the next process removes a partial file after a kill
        npz_file = folder / f"{name}.npz"
        atomic_write(npz_file, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        npz_file.replace(data_dir / npz_file.name)
        for path in fetched:
            path.unlink()
        return images


def _missing(dataset: Dataset, data_dir: Path, why: str) -> DataError:
    name = dataset.name
    original = f"{FOLDERS[name]}/" if name in FOLDERS else FILES[name][0].name
    return DataError(
        f"{name} is not in {data_dir}, and {why}: put {name}.npz there ({', '.join(_NAMES)}), or "
        f"the published {original}, or use another --data-dir"
    )
