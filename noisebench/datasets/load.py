"""A data set by name or path; its labels alone, or with its images: from the package, from
`<data-dir>/<name>.npz`, from the files as they were published, downloaded where they are not there;
or its images left where they are, to be streamed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from ..core.files.atomic import atomic_write
from ..errors import DataError, UnknownName
from .download import DOWNLOADS, FILES, NoHost, ProgressCallback, download_lock, fetch, silent
from .images import Fitting, LazyImages, sentences
from .index import Listed
from .npz import as_images, as_labels, fingerprint, read_arrays
from .raw import find_raw, raw_path, read_raw
from .registry import DATASETS, Dataset
from .streaming.registry import READERS, describe_stream, found_of, split_reader
from .user_data import check_memory, describe_user_data, read_pictures

_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
ImageArray = np.ndarray | LazyImages


@dataclass(frozen=True)
class Labels:
    """The training labels of a set (N,), int64, all correct unless the set is known for incorrect
    ones; `ids`: the paths of the examples where they are files, `test_ids` of the test images.

    clean (N,): the verified labels, -1 for the others. fair: whether the verified ones are a sample
    of all, incorrect ones included.
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

    def take(self, places: np.ndarray) -> Labels:
        """The labels of some of the examples (n,)."""
        ids = tuple(self.ids[place] for place in places) if self.ids else ()
        return Labels(
            self.dataset,
            self.labels[places],
            ids,
            None if self.clean is None else self.clean[places],
            self.fair,
        )


@dataclass(frozen=True)
class Images:
    """A set in memory, or, streamed, in files: images (N, height, width, channels) uint8, labels
    (N,) int64.

    changed: of a set in memory, what was changed of how many images, in sentences.
    """

    dataset: Dataset
    train_images: ImageArray
    train_labels: np.ndarray
    test_images: ImageArray
    test_labels: np.ndarray
    ids: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @cached_property
    def changes(self) -> tuple[str, ...]:
        """What was changed of how many images, in sentences; of a streamed set of some, which are
        read for it. Raises DataError.
        """
        streamed = [
            (part, images)
            for part, images in (("training", self.train_images), ("test", self.test_images))
            if isinstance(images, LazyImages)
        ]
        return (
            *self.changed,
            *(sentence for part, images in streamed for sentence in images.changes(part)),
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over every byte that a result depends on; of images in files over their names,
        sizes and labels. Where they lie does not matter.
        """
        if isinstance(self.train_images, LazyImages) and isinstance(self.test_images, LazyImages):
            return hashlib.sha256(
                f"{self.train_images.fingerprint}\n{self.test_images.fingerprint}\n".encode()
            ).hexdigest()
        assert isinstance(self.train_images, np.ndarray) and isinstance(
            self.test_images, np.ndarray
        )
        return fingerprint(self.train_images, self.train_labels, self.test_images, self.test_labels)


def find_dataset(
    name: str,
    *roots: Path,
    test: Path | None = None,
    labels: str | None = None,
    offline: bool = False,
) -> Dataset:
    """The catalogue's entry, or a user data set by path: a .npz in MedMNIST's layout, a folder of
    images, or one to be streamed (`folder:DIR`, `tar:`, `wds:`, `hfds:`).

    A relative path is looked for here and under `roots`, in the last of which what tars hold is
    kept; `test` is where a folder's test images lie, if not in its test/ or val/; `labels` the
    label file of a folder, FILE or FILE:COLUMN. Raises UnknownName or DataError.
    """
    if name in DATASETS:
        if test is not None:
            raise DataError(f"--test is for a folder of images: {name} has its own test set")
        return found_of(DATASETS[name], *roots) if DATASETS[name].reader else DATASETS[name]
    reader, rest = split_reader(name)
    if reader:
        path_of_stream = next(
            (root / rest for root in (Path(), *roots) if _is_there(reader, root / rest)), Path(rest)
        )
        return describe_stream(
            reader,
            path_of_stream,
            (roots or (Path(),))[-1] / "listings",
            test,
            labels=labels,
            offline=offline,
        )
    found = next((root / name for root in (Path(), *roots) if (root / name).exists()), None)
    if found is None and ("/" in name or "\\" in name or name.endswith(".npz")):
        raise DataError(
            f"no such file or folder: {name} (a data set is a name, a .npz, a folder "
            f"of images, or {_WAYS})"
        )
    if found is None:
        raise UnknownName("dataset", name, DATASETS, "datasets")
    return describe_user_data(found, test, labels)


_WAYS = f"{', '.join(f'{reader}:...' for reader in READERS)} to stream"


def _is_there(reader: str, place: Path) -> bool:
    """Whether a path exists; of a pattern of shards, the folder in which they are."""
    if reader == "wds" and any(mark in str(place) for mark in "{*"):
        return next(
            parent for parent in place.parents if not any(mark in str(parent) for mark in "{*")
        ).is_dir()
    return place.exists()


def read_labels(
    dataset: Dataset, data_dir: Path, *, offline: bool = False, tell: ProgressCallback = silent
) -> Labels:
    """The training labels: no image, no torch and no network for a set whose labels are in
    the package. `tell` is told how far a download is.
    """
    if dataset.merged:
        parent, number = DATASETS[dataset.merged[0]], np.asarray(dataset.merged[1])
        return Labels(
            dataset, number[read_labels(parent, data_dir, offline=offline, tell=tell).labels]
        )
    if dataset.reader or dataset.listed:
        listed = _listed(dataset, data_dir)
        test_ids = (
            [f"{dataset.test.name}/{name}" for name in listed.test.names]
            if dataset.test
            else listed.test.names
        )
        return Labels(
            dataset, listed.train_labels, listed.ids, listed.clean, listed.whole, test_ids
        )
    packaged = _packaged_labels(dataset.name)
    if packaged is not None:
        return Labels(dataset, packaged)
    if archive := _archive(dataset, data_dir):
        return Labels(
            dataset, as_labels(read_arrays(archive, ["train_labels"])["train_labels"], str(archive))
        )
    return Labels(dataset, _published(dataset, data_dir, offline=offline, tell=tell).train_labels)


def read_images(
    dataset: Dataset,
    data_dir: Path,
    *,
    fitting: Fitting | None = None,
    offline: bool = False,
    workers: int | None = None,
    tell: ProgressCallback = silent,
) -> Images:
    """Images and true labels, checked against what is known of the set; of a streamed set no image
    is read yet. Raises DataError.

    fitting: to another size than the data set's own; workers: processes that will read ahead; tell:
    is told how far a download is.
    """
    if dataset.reader:
        return _streamed(dataset, _listed(dataset, data_dir), workers, fitting or dataset.fitting)
    if dataset.path and dataset.listed:
        return _from_folder(dataset, dataset.path, dataset.listed, fitting or dataset.fitting)
    images = _read_arrays(dataset, data_dir, offline=offline, tell=tell)
    return images if fitting is None else fit_set(images, fitting)


def _read_arrays(
    dataset: Dataset, data_dir: Path, *, offline: bool, tell: ProgressCallback
) -> Images:
    if dataset.merged:
        parent, number = DATASETS[dataset.merged[0]], np.asarray(dataset.merged[1])
        images = _read_arrays(parent, data_dir, offline=offline, tell=tell)
        return replace(
            images,
            dataset=dataset,
            train_labels=number[images.train_labels],
            test_labels=number[images.test_labels],
        )
    if archive := _archive(dataset, data_dir):
        return _check_set(dataset, read_arrays(archive, _NAMES), str(archive))
    return _published(dataset, data_dir, offline=offline, tell=tell)


def _check_set(dataset: Dataset, arrays: dict[str, np.ndarray], where: str) -> Images:
    """Arrays as a set in memory. Raises DataError where they are not of this set."""
    images = Images(
        dataset,
        as_images(arrays["train_images"], where),
        as_labels(arrays["train_labels"], where),
        as_images(arrays["test_images"], where),
        as_labels(arrays["test_labels"], where),
    )
    _check(images, where)
    return images


def fit_images(images: np.ndarray, fitting: Fitting, channels: int) -> np.ndarray:
    """Images (n, h, w, c), uint8, at another size, as grey or colour (channels: 1 or 3)."""
    shape = (fitting.height, fitting.width, channels)
    if images.shape[1:] == shape and fitting.centre == 1:
        return images
    from PIL import Image

    fitted = np.empty((len(images), *shape), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert(
            "L" if channels == 1 else "RGB"
        )
        fitted[i] = np.asarray(fitting(picture)).reshape(shape)
    return fitted


def fit_set(images: Images, fitting: Fitting, channels: int | None = None) -> Images:
    """A set in memory with all its images at another size, grey as colour or back. Raises DataError
    where they do not fit into memory.
    """
    assert isinstance(images.train_images, np.ndarray) and isinstance(
        images.test_images, np.ndarray
    )
    before = images.train_images.shape[1:]
    channels = channels or before[2]
    parts = images.train_images, images.test_images
    check_memory(images.dataset.name, sum(map(len, parts)), fitting.height, fitting.width, channels)
    train_images, test_images = (fit_images(part, fitting, channels) for part in parts)
    sentence = said_of_fitting(before, fitting, channels)
    return replace(
        images,
        train_images=train_images,
        test_images=test_images,
        changed=(*images.changed, *([sentence] if sentence else [])),
    )


def said_of_fitting(shape: tuple[int, ...], fitting: Fitting, channels: int) -> str:
    """What is done with images of a shape (height, width, channels) for it, in words; empty for
    nothing.
    """
    changes = []
    if shape[:2] != (fitting.height, fitting.width) or fitting.centre != 1:
        changes.append(f"resized to {fitting}")
    if (shape[2], channels) == (1, 3):
        changes.append("grey copied to three channels")
    if (shape[2], channels) == (3, 1):
        changes.append("colour turned grey")
    return f"all images of {shape[0]}x{shape[1]}: {', '.join(changes)}" if changes else ""


def image_rows(
    dataset: Dataset, data_dir: Path, *, offline: bool = False, tell: ProgressCallback = silent
) -> Callable[[np.ndarray], np.ndarray]:
    """Which training examples (n,) -> their images (n, H, W, C), uint8; a folder's images are
    read at first use.
    """
    if dataset.reader:
        streamed = read_images(dataset, data_dir, offline=offline).train_images
        return lambda which: np.asarray(streamed[np.asarray(which, np.int64)])
    if not (dataset.path and dataset.listed):
        images = np.asarray(read_images(dataset, data_dir, offline=offline, tell=tell).train_images)
        return lambda which: images[which]
    root, files = dataset.path, dataset.listed.train.names
    return lambda which: read_pictures(root, [files[i] for i in which], dataset.fitting)[0]


def at_hand(dataset: Dataset, data_dir: Path) -> bool:
    """Whether its images lie here, so that reading them takes no network."""
    if dataset.reader:
        return dataset.listed is not None
    known = DATASETS[dataset.merged[0]] if dataset.merged else dataset
    return _archive(known, data_dir) is not None or find_raw(known.name, data_dir) is not None


def images_fingerprint(images: ImageArray) -> str:
    """Of images in memory every byte; of images in files their names, sizes and labels."""
    return images.fingerprint if isinstance(images, LazyImages) else fingerprint(images)


def _listed(dataset: Dataset, data_dir: Path) -> Listed:
    if dataset.listed is None:
        raise DataError(f"{dataset.name} is not in {data_dir}: put it into "
                        f"{data_dir / dataset.name}/ as its authors lay it out, "
                        "or name another --data-dir")  # fmt: skip
    return dataset.listed


def _streamed(dataset: Dataset, listed: Listed, workers: int | None, fitting: Fitting) -> Images:
    if fitting.height != fitting.width:
        raise DataError(
            f"{dataset.name} is streamed, which is for squares, not for {fitting}: "
            "name it without its reader, in memory"
        )

    def lazy_images(part: str) -> LazyImages:
        listing, labels = getattr(listed, part).sized(), getattr(listed, f"{part}_labels")
        where = np.arange(len(listing))
        return LazyImages(
            listing,
            where,
            listing.fingerprint(labels),
            fitting.height,
            fitting.centre,
            workers,
            fitting.fit,
        )

    return Images(
        dataset,
        lazy_images("train"),
        listed.train_labels,
        lazy_images("test"),
        listed.test_labels,
        listed.ids,
    )


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


def _from_folder(dataset: Dataset, path: Path, listed: Listed, fitting: Fitting) -> Images:
    train, test = list(listed.train.names), list(listed.test.names)
    if not test:
        raise DataError(
            f"{path} has no test images: put them into {path / 'test'}/class/ beside "
            f"{path / 'train'}/class/, or name --test"
        )
    check_memory(path, len(train) + len(test), fitting.height, fitting.width)
    train_images, train_changes = read_pictures(path, train, fitting)
    test_images, test_changes = read_pictures(Path(listed.test.root), test, fitting)
    changed = (
        *sentences("training", train, train_changes, fitting),
        *sentences("test", test, test_changes, fitting),
    )
    images = Images(
        dataset,
        train_images,
        listed.train_labels,
        test_images,
        listed.test_labels,
        listed.ids,
        changed,
    )
    _check(images, str(path))
    return images


def _published(
    dataset: Dataset, data_dir: Path, *, offline: bool, tell: ProgressCallback
) -> Images:
    """From the files as they were published; downloaded unless offline, and then kept as a .npz."""
    if original := find_raw(dataset.name, data_dir):
        return _check_set(dataset, read_raw(dataset.name, original), str(original))
    if offline:
        raise _missing(dataset, data_dir, "without --offline it would be downloaded")
    folder = data_dir / DOWNLOADS / dataset.name
    with download_lock(folder, tell):
        if archive := _archive(dataset, data_dir):  # of who had the turn before
            return _check_set(dataset, read_arrays(archive, _NAMES), str(archive))
        return _download(dataset, data_dir, folder, tell)


def _download(dataset: Dataset, data_dir: Path, folder: Path, tell: ProgressCallback) -> Images:
    try:
        fetched = [fetch(file, folder, tell) for file in FILES[dataset.name]]
    except NoHost as error:
        raise _missing(dataset, data_dir, str(error)) from None
    place = folder if len(fetched) > 1 else fetched[0]
    arrays = read_raw(dataset.name, place)
    images = _check_set(dataset, arrays, str(place))
    # here, so that half of one is swept away by who has the turn after a kill
    npz_file = folder / f"{dataset.name}.npz"
    atomic_write(npz_file, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    npz_file.replace(data_dir / npz_file.name)
    for path in fetched:
        path.unlink()
    return images


def _missing(dataset: Dataset, data_dir: Path, why: str) -> DataError:
    return DataError(
        f"{dataset.name} is not in {data_dir}, and {why}: put {dataset.name}.npz there "
        f"({', '.join(_NAMES)}), or "
        f"{raw_path(dataset.name)} as it was published, or name another --data-dir"
    )


def _check(images: Images, where: str) -> None:
    dataset = images.dataset
    pairs = (
        (images.train_images, images.train_labels, "train"),
        (images.test_images, images.test_labels, "test"),
    )
    for array, labels, part in pairs:
        if len(array) != len(labels):
            raise DataError(f"{where}: {len(array)} {part} images but {len(labels)} {part} labels")
        if labels.max() >= dataset.num_classes:
            raise DataError(
                f"{where}: {part} label {labels.max()} is out of range, {dataset.name} has "
                f"classes 0 to {dataset.num_classes - 1}"
            )
    if images.train_images.shape[1:] != images.test_images.shape[1:]:
        raise DataError(
            f"{where}: train images are {images.train_images.shape[1:]}, test images "
            f"{images.test_images.shape[1:]}"
        )
    known = _packaged_labels(dataset.name)
    if known is not None and not np.array_equal(known, images.train_labels):
        raise DataError(
            f"{where} is not {dataset.name}: its training labels differ from the "
            "published ones in number, order or value"
        )
    if dataset.path is None and (images.train_images.shape[1:], len(images.test_labels)) != (
        dataset.shape,
        dataset.n_test,
    ):
        raise DataError(
            f"{where} is not {dataset.name}: expected images {dataset.shape} and "
            f"{dataset.n_test} test examples"
        )
