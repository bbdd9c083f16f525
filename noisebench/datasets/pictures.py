"""Images that lie in files and are read when they are asked for: in the place of an array that would not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ..errors import DataError
from .listing import Listing

T = TypeVar("T")

CENTRE = 0.875  # the share of the shorter side that is looked at when networks are asked: 224 of 256
SIDE = 224  # pixels

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # and no other: EPS is a program, which PIL would have run
LARGEST = 1 << 26  # pixels, 8,192 x 8,192: 270 MB on the way to an array

Opener = Callable[[int], Any]
"""The file of a picture, by its place in the listing."""


@dataclass(frozen=True)
class Pictures:
    """Images (n, side, side, 3), uint8, in the manner of an array: a slice, a mask or an index array of it has read nothing.

    places (n,): in the listing; centre: the share of the shorter side that lies within the middle square; fingerprint: of the whole
    listing and its labels; workers: processes that read ahead of a training, None for one a core, which changes no result.
    """

    listing: Listing
    places: np.ndarray
    fingerprint: str
    side: int = SIDE
    centre: float = CENTRE
    workers: int | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.places), self.side, self.side, 3

    ndim, dtype = 4, np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, which: slice | np.ndarray) -> Pictures:
        return replace(self, places=self.places[which])

    def sized(self, side: int, centre: float) -> Pictures:
        """The same pictures at another side, in pixels."""
        return replace(self, side=side, centre=centre)

    def ids(self) -> tuple[str, ...]:
        """Each picture's name."""
        return tuple(self.listing.names[place] for place in self.places.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, read here and now. Raises DataError, naming the picture that cannot be read."""
        from .opening import opener

        opened = opener(self.listing)
        images = [middle(decoded(opened, self.listing, place), self.side, self.centre) for place in self.places.tolist()]
        whole = np.stack([np.asarray(image) for image in images]) if images else np.empty(self.shape, np.uint8)
        return whole if dtype is None else whole.astype(dtype)


def decoded(opened: Opener, listing: Listing, place: int) -> Any:
    """A picture of PIL's in RGB. Raises DataError, naming it."""
    return read_picture(lambda: opened(place), lambda picture: picture.convert("RGB"), lambda: listing.where(place))


def read_picture(open_: Callable[[], Any], read: Callable[[Any], T], where: Callable[[], object]) -> T:
    """What `read` makes of a file's first picture; of a gigantic one, or one of another format, nothing is read but its head.

    Raises DataError.
    """
    from PIL import Image

    try:
        with open_() as file, Image.open(file, formats=FORMATS) as picture:
            _check_size(picture)
            return read(picture)
    except Exception as error:  # PIL documents no exceptions; whatever a damaged file makes it throw
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where()} cannot be read as a picture ({reason}): mend or remove it") from None


def _check_size(picture: Any) -> None:
    width, height = picture.size
    if width * height > LARGEST:
        raise ValueError(f"it has {width} x {height} pixels, more than {LARGEST:,}")


def middle(picture: Any, side: int, centre: float) -> Any:
    """The shorter side brought to side / centre pixels, and the middle square of it: as timm's and torchvision's transforms do it."""
    from PIL import Image

    short = math.floor(side / centre)
    width, height = picture.size
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    if scaled != (width, height):
        picture = picture.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - side) / 2), round((scaled[1] - side) / 2)
    return picture.crop((left, top, left + side, top + side))
