"""Images of a data set: files of a directory, members of tars, rows of a table; opening, decoding
and resizing them; and lazily read images, for data sets that do not fit into memory.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar

import numpy as np

from ..core.files.untrusted import open_regular
from ..core.progress import ProgressCallback, silent, track
from ..errors import DataError

T = TypeVar("T")
Opener = Callable[[int], Any]  # the file of an image, by its position in the index

# share of the shorter side that is used at evaluation: 224 of 256
CENTRE = 0.875
SIDE = 224  # pixels
FITS = ("crop", "pad", "squash")
_SAMPLE = 64  # images of a streamed set whose changes are listed
_NAMED = 3  # images in a sentence

# no others: EPS is a program, which PIL would execute
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# of streamed images, whose pixels are in no key; raised when as_rgb changes pixels
DECODING_VERSION = 2
LARGEST = 1 << 26  # pixels, 8,192 x 8,192: 270 MB while it is decoded


class Names(Sequence[str]):
    """Many texts in two arrays, which worker processes share instead of copying."""

    def __init__(self, letters: np.ndarray, ends: np.ndarray) -> None:
        """letters: UTF-8, uint8, all texts concatenated; ends (N,): the end of each text."""
        self.letters, self.ends = letters, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """Names from texts."""
        raw = [text.encode() for text in texts]
        ends = np.cumsum(np.array([len(word) for word in raw], np.int64))
        return cls(np.frombuffer(b"".join(raw), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        start = int(self.ends[i - 1]) if i else 0
        return bytes(self.letters[start : int(self.ends[i])]).decode()


@dataclass(frozen=True)
class ImageIndex:
    """N images. kind: `folder`, `tar` or `hfds`; root: the directory of the files or tars, or the
    table's name or directory.

    names (N,): paths in the root, members of tars, or `split/row`; sizes (N,) in bytes, None if not
    read yet. For tars also `shards`, their paths in the root, `shard` (N,), the tar of each image,
    and `offsets` (N,), its position in the tar. columns: image and label of a table.
    """

    kind: str
    root: str
    names: Names
    sizes: np.ndarray | None = None
    shards: tuple[str, ...] = ()
    shard: np.ndarray | None = None
    offsets: np.ndarray | None = None
    columns: tuple[str, str] = ("image", "label")

    def __len__(self) -> int:
        return len(self.names)

    def where(self, i: int) -> str:
        """The name of an image in an error."""
        name = self.names[i]
        if self.shard is not None:
            return f"{name} in {Path(self.root) / self.shards[int(self.shard[i])]}"
        return f"{name} of {self.root}" if self.kind == "hfds" else str(Path(self.root) / name)

    def take(self, places: np.ndarray) -> ImageIndex:
        """Some of the images (n,), or all in another order."""
        return replace(
            self,
            names=Names.of(self.names[i] for i in places.tolist()),
            sizes=None if self.sizes is None else self.sizes[places],
            shard=None if self.shard is None else self.shard[places],
            offsets=None if self.offsets is None else self.offsets[places],
        )

    def sized(self) -> ImageIndex:
        """Reads the sizes of the files. Raises DataError, naming the first that is missing."""
        if self.sizes is not None:
            return self
        root, sizes = Path(self.root), np.empty(len(self), np.int64)
        for i in range(len(self)):
            try:
                status = (root / self.names[i]).stat()
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{self.where(i)} is listed but cannot be read: "
                    f"{getattr(error, 'strerror', None) or error}"
                ) from None
            if not S_ISREG(status.st_mode):
                raise DataError(f"{self.where(i)} is listed but is not a file")
            sizes[i] = status.st_size
        return replace(self, sizes=sizes)

    def fingerprint(self, labels: np.ndarray) -> str:
        """sha256 of names, labels (N,) and sizes in order; independent of the root."""
        sized = self.sized()
        digest = hashlib.sha256(f"{len(self)} pictures\n".encode())
        for array in (sized.names.ends, sized.sizes, labels):
            digest.update(np.ascontiguousarray(array, "<i8").data)
        digest.update(np.ascontiguousarray(sized.names.letters).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Listed:
    """The content of a data set: images and labels (N,) of the training part and (M,) of the test
    part, and the classes in order.

    clean (N,): verified labels, -1 for the others; None if none were verified. fair: whether the
    verified labels are a random sample, including incorrect ones, so that they give a noise rate.
    decisions: what was skipped and chosen, one line each; notes: how a table was read.
    """

    train: ImageIndex
    train_labels: np.ndarray
    test: ImageIndex
    test_labels: np.ndarray
    classes: tuple[str, ...]
    clean: np.ndarray | None = field(default=None)
    fair: bool = True
    decisions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def opener(index: ImageIndex) -> Opener:
    """A function that opens an image by its position, without torch. No file stays open between
    calls.
    """
    root, tables = Path(index.root), dict[str, Any]()

    def open_image(i: int) -> Any:
        name = index.names[i]
        if index.kind == "folder":
            return open_regular(root / name)
        if index.kind == "tar":
            assert index.shard is not None and index.offsets is not None and index.sizes is not None
            with (root / index.shards[int(index.shard[i])]).open("rb") as file:
                file.seek(int(index.offsets[i]))
                return io.BytesIO(file.read(int(index.sizes[i])))
        split, _, row = name.partition("/")
        if split not in tables:
            tables[split] = load_table(index.root, split, index.columns[0])
        image = tables[split][int(row)][index.columns[0]]
        return (
            io.BytesIO(image["bytes"]) if image.get("bytes") else open_regular(Path(image["path"]))
        )

    return open_image


def load_table(name: str, split: str, column: str | None = None) -> Any:
    """Loads one split; its images as bytes. Raises DataError."""
    datasets = hub_library()
    try:
        table = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library documents no exceptions
        raise unreadable_table(name, error) from None
    return table if column is None else table.cast_column(column, datasets.Image(decode=False))


def hub_library() -> Any:
    """Hugging Face's `datasets`. Raises DataError if it is not installed."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            "hfds: needs the package datasets: pip install 'noisebench[stream]'"
        ) from None
    datasets.disable_progress_bars()
    # versions below 4 would offer to run a table's own script
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False
    return datasets


def unreadable_table(name: str, error: Exception) -> DataError:
    """The error for a table that the library cannot read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(
        f"hfds:{name} cannot be read ({reason}): expected a name on the hub, or a directory of "
        "parquet files"
    )


@dataclass(frozen=True)
class Fitting:
    """Resizes an image to height x width pixels, bilinear and antialiased; an image of that size is
    not changed.

    crop: scales it to cover the size and keeps the middle; pad: scales it to fit and pads with
    black; squash: scales each side independently. centre: share of the covering side that crop
    keeps.
    """

    height: int
    width: int
    fit: str = "crop"
    centre: float = 1.0

    def __str__(self) -> str:
        full = math.floor(self.height / self.centre), math.floor(self.width / self.centre)
        share = f" of {full[0]}x{full[1]}" if self.centre != 1 else ""
        return f"{self.height}x{self.width} pixels{share} ({self.fit})"

    def __call__(self, picture: Any) -> Any:
        """Returns a PIL image at this size."""
        from PIL import Image

        width, height = picture.size
        if (height, width) == (self.height, self.width) and self.centre == 1:
            return picture
        if self.fit == "squash":
            return picture.resize((self.width, self.height), Image.Resampling.BILINEAR)
        if self.fit == "pad":
            scale = min(self.height / height, self.width / width)
            padded = Image.new(picture.mode, (self.width, self.height))
            scaled = max(1, round(width * scale)), max(1, round(height * scale))
            small = picture.resize(scaled, Image.Resampling.BILINEAR)
            corner = (self.width - small.width) // 2, (self.height - small.height) // 2
            padded.paste(small, corner)
            return padded
        # like the test transforms of timm and torchvision
        tall, wide = math.floor(self.height / self.centre), math.floor(self.width / self.centre)
        if width * tall <= height * wide:
            scaled = wide, max(tall, int(wide * height / width))
        else:
            scaled = max(wide, int(tall * width / height)), tall
        if scaled != (width, height):
            picture = picture.resize(scaled, Image.Resampling.BILINEAR)
        left, top = round((scaled[0] - self.width) / 2), round((scaled[1] - self.height) / 2)
        return picture.crop((left, top, left + self.width, top + self.height))


@dataclass(frozen=True)
class Sizes:
    """Width and height of images (N, 2), in pixels, upright, and their names."""

    names: Sequence[str]
    pixels: np.ndarray

    @property
    def equal(self) -> bool:
        return bool((self.pixels == self.pixels[0]).all())

    @property
    def median(self) -> int:
        """Median of the shorter sides, rounded."""
        return int(np.median(self.pixels.min(1)) + 0.5)

    def __str__(self) -> str:
        if self.equal:
            return f"{len(self.names)} of {self.pixels[0, 1]}x{self.pixels[0, 0]} pixels"
        short = self.pixels.min(1)
        return (
            f"{len(self.names)} of different sizes, the shorter side {short.min()} to "
            f"{short.max()} pixels, median {self.median}"
        )

    def too_small(self, fitting: Fitting) -> str:
        """A sentence that names images of less than half that size; empty if there are none."""
        factor = self.pixels.reshape(-1, 2) / np.array([fitting.width, fitting.height])
        small = np.flatnonzero((factor.max(1) if fitting.fit == "pad" else factor.min(1)) < 0.5)
        if not len(small):
            return ""
        named = [
            f"{self.names[i]} ({self.pixels[i, 1]}x{self.pixels[i, 0]})"
            for i in small[:_NAMED].tolist()
        ]
        more = ", ..." if len(small) > len(named) else ""
        return (
            f"{len(small)} of {len(self.names)} are less than half as large and are enlarged: "
            f"{', '.join(named)}{more}"
        )


@dataclass(frozen=True)
class Changed:
    """The size (width, height) of an image in its file, upright, and the changes in words."""

    size: tuple[int, int]
    changes: tuple[str, ...]


def read_fitted(
    index: ImageIndex,
    places: Sequence[int],
    fitting: Fitting,
    tell: ProgressCallback = silent,
) -> tuple[np.ndarray, list[Changed]]:
    """Reads images (n, height, width, 3), uint8, with the changes of each. Raises DataError, naming
    the image that cannot be read.
    """
    images = np.empty((len(places), fitting.height, fitting.width, 3), np.uint8)
    changed, opened = [], opener(index)
    reported = track(places, "reading images", tell, total=len(places), unit="images")
    for row, i in enumerate(reported):
        image, changes = read_picture(opened, index, i, as_rgb)
        fitted = fitting(image)
        images[row] = np.asarray(fitted)
        resized = () if fitted is image else (f"resized to {fitting}",)
        changed.append(Changed(image.size, (*changes, *resized)))
    return images, changed


def sentences(
    part: str, names: Sequence[str], read: Sequence[Changed], fitting: Fitting
) -> tuple[str, ...]:
    """Each change with the number of images of a part, and which were enlarged."""
    counts = Counter(change for image in read for change in image.changes)
    small = Sizes(names, np.array([image.size for image in read])).too_small(fitting)
    lines = [f"{n} of {len(read)} {part} images: {change}" for change, n in counts.items()]
    return (*lines, *([f"{part} images: {small}"] if small else []))


@dataclass(frozen=True)
class LazyImages:
    """Images (n, side, side, 3), uint8, that behave like an array; slices, masks and index arrays
    read no image.

    places (n,): positions in the listing; centre and fit: see Fitting; fingerprint: of the whole
    listing and its labels; workers: processes that prefetch during training, None for one per core;
    does not change results.
    """

    listing: ImageIndex
    places: np.ndarray
    fingerprint: str
    side: int = SIDE
    centre: float = CENTRE
    workers: int | None = None
    fit: str = "crop"

    @property
    def fitting(self) -> Fitting:
        return Fitting(self.side, self.side, self.fit, self.centre)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.places), self.side, self.side, 3

    ndim, dtype = 4, np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which: slice | np.ndarray) -> LazyImages:
        return replace(self, places=self.places[which])

    def sized(self, side: int, centre: float, fit: str = "crop") -> LazyImages:
        """The same images at another side, in pixels."""
        return replace(self, side=side, centre=centre, fit=fit)

    def changes(self, part: str) -> tuple[str, ...]:
        """The changes of an evenly spaced sample, which is read for it. Raises DataError."""
        sample = np.linspace(0, len(self) - 1, min(_SAMPLE, len(self))).astype(int)
        places = self.places[sample].tolist()
        resized = f"resized to {self.fitting}"  # applies to all
        read = [
            replace(image, changes=tuple(change for change in image.changes if change != resized))
            for image in read_fitted(self.listing, places, self.fitting)[1]
        ]
        names = [self.listing.names[i] for i in places]
        return sentences(f"sampled {part}", names, read, self.fitting)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all images. Raises DataError, naming the image that cannot be read."""
        images, _ = read_fitted(self.listing, self.places.tolist(), self.fitting)
        return images if dtype is None else images.astype(dtype)


def decoded(opened: Opener, listing: ImageIndex, i: int) -> Any:
    """Reads a PIL image in RGB. Raises DataError, naming the image."""
    return read_picture(opened, listing, i, as_rgb)[0]


def as_rgb(picture: Any) -> tuple[Any, tuple[str, ...]]:
    """Converts an opened PIL image to upright 8-bit RGB; also returns the changes in words, except
    grey to RGB.

    Raises ValueError for pixels of unknown range: floats, and integers of more than 16 bits.
    """
    from PIL import Image

    several = getattr(picture, "is_animated", False)
    changes = ["only the first of several frames used"] if several else []
    # PIL itself keeps the high byte of colour images, and scales a PPM
    deep = any(";16" in str(tile[3]) for tile in picture.tile)
    deep |= picture.format == "PPM" and any(
        isinstance(arg, int) and arg > 255 for arg in picture.tile[0][3]
    )
    picture.load()
    mode, transparent = picture.mode, picture.info.get("transparency")
    if mode == "F" or (mode == "I" and picture.format not in ("PNG", "PPM")):
        raise ValueError(
            f"mode {mode}, whose range is unknown: save it with 8 or 16 bits per channel"
        )
    if deep and mode == "RGB" and transparent is not None:
        raise ValueError("a transparent colour of 16 bits: save it with 8 bits per channel")
    if deep or mode.startswith("I"):
        changes.append("more than 8 bits per channel reduced to the highest 8")
    if mode.startswith("I"):
        image = _high_byte(picture)
        if image.getextrema()[1] < _DARK:
            changes.append("16-bit grey without a value above 4,095, so nearly black")
        if transparent is not None:
            opaque = np.where(np.asarray(picture) != transparent, 255, 0)
            image.putalpha(Image.fromarray(opaque.astype(np.uint8)))
    else:
        image = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode))
    if transparent is not None or image.mode in ("LA", "PA", "RGBA"):
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            white = Image.new("RGB", image.size, "white")
            white.paste(image, mask=image.getchannel("A"))
            image = white
            changes.append("transparent pixels put on white")
    if mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        changes.append(f"{mode} converted to RGB")
    turn = orientation(picture)
    if turn in _TURNS:
        image = image.transpose(_TURNS[turn])
        changes.append("rotated by the EXIF orientation")
    elif turn is None:
        changes.append("damaged EXIF data ignored")
    return image.convert("RGB"), tuple(changes)


_DARK = 16  # of 256: probably 12 bits instead of 16
# EXIF orientation -> PIL's Transpose; 6 is a quarter to the right
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def orientation(picture: Any) -> int | None:
    """The EXIF orientation, 1 for upright, None if the data are damaged. PIL rotates a TIFF itself
    and then returns 1.
    """
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:
        # PIL documents no exceptions; the pixels are intact, and viewers show them unrotated
        return None


def _high_byte(picture: Any) -> Any:
    """Reduces grey of more than 8 bits to 8: of 16 bits the high byte, which maps both v * 256 and
    v * 257 to v.
    """
    from PIL import Image

    tags = getattr(picture, "tag_v2", {})  # a TIFF's: bits of a sample, and whether 0 is white
    bits = (tags.get(258) or (16,))[0]
    values = np.asarray(picture)
    if not 8 < bits <= 16 or values.min() < 0 or values.max() >= 1 << bits:
        raise ValueError(
            f"grey of {bits} bits from {values.min()} to {values.max()}: save it with 8 or 16 bits"
        )
    grey = (values >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(262) == 0 else grey)


def read_picture(opened: Opener, index: ImageIndex, i: int, read: Callable[[Any], T]) -> T:
    """Applies `read` to a file's first image. Of an image that is too large, or in another format,
    only the header is read. Raises DataError.
    """
    from PIL import Image

    try:
        with opened(i) as file, Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > LARGEST:
                raise ValueError(f"it has {width} x {height} pixels, the limit is {LARGEST:,}")
            return read(picture)
    except Exception as error:
        # PIL documents no exceptions: a damaged file can raise any
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{index.where(i)} cannot be read as an image ({reason}): repair or remove it"
        ) from None
