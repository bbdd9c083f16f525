"""A published file, downloaded: whole and right, or not there. What a broken connection left is gone on from, at the next host too."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from ..core.files.lock import Holder, claimed, find_claim
from ..errors import ConfigError, DataError, RunTaken
from .transfer import Failed, is_safe, receive

MIRROR = "NOISEBENCH_MIRROR"
DOWNLOADS = "downloads"  # in the data directory: what is on its way
_TRIES = 3  # of one host that gets no further
_PAUSE = 1.0  # seconds before the second, twice as many before the third
_FURTHER = 1 << 20  # bytes that a try has to bring, or it counts
_LOOK = 0.5  # seconds until one looks again whether another process has ended

Tell = Callable[[str, int, int], None]
"""Is told what goes on, and how many bytes of how many are there, 0 of 0 where nothing is counted. An empty text: nothing any more."""


def silent(text: str, done: int, size: int) -> None:
    """Tells nobody."""


class NoHost(DataError):
    """No host sent a file; what became of each."""


@dataclass(frozen=True)
class Published:
    """A file as it was published. shelf: its folder on a mirror of one's own; size: its bytes, or the most that are taken where nobody
    says them; checksum: `sha256:...`, or `md5:...` where no other is published; hosts: folders with it, in the order they are asked."""

    shelf: str
    name: str
    size: int
    checksum: str
    hosts: tuple[str, ...]

    def is_at(self, path: Path) -> bool:
        """Whether that is the file, to the last bit."""
        algorithm, _, published = self.checksum.partition(":")
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest() == published


@contextmanager
def turn(folder: Path, tell: Tell) -> Iterator[None]:
    """Be the only process that downloads into a folder; who comes meanwhile waits, and is told for whom. A dead process holds nobody up.
    Afterwards the folder is gone, unless a broken connection left something in it. Raises DataError where one cannot write."""
    try:
        with ExitStack() as held:
            while not _has_turn(held, folder / "claim", tell):
                time.sleep(_LOOK)
            tell("", 0, 0)
            yield
    finally:
        tell("", 0, 0)
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()


def _has_turn(held: ExitStack, claim: Path, tell: Tell) -> bool:
    try:
        held.enter_context(claimed(claim, _this_process))
    except RunTaken:
        other = find_claim(claim)
        tell(f"waiting for {other.holder if other else 'another process'}, which downloads {claim.parent.name}", 0, 0)
        return False
    return True


def _this_process() -> Holder:
    """Without its job, which may have several processes at once that want the same data."""
    return replace(Holder.here(), job="")


def fetch(file: Published, folder: Path, tell: Tell = silent) -> Path:
    """The file in `folder`, downloaded unless it is there. For who has the folder's `turn`.

    Raises NoHost, and DataError where one cannot write; what came so far stays, as `.part`.
    """
    place, part, failures = folder / file.name, folder / f"{file.name}.part", []
    try:
        if place.exists():
            return place
        for address in _addresses(file):
            try:
                _ask(file, address, part, tell)
                return part.replace(place)
            except Failed as failed:
                failures.append(f"{_host(address)}: {failed}")
    except OSError as error:
        raise DataError(f"cannot write {part}: {error.strerror or error}; the file has {file.size:,} bytes") from None
    raise NoHost(f"no host sent {file.name} ({'; '.join(failures)})")


def _addresses(file: Published) -> list[str]:
    own = os.environ.get(MIRROR, "").rstrip("/")
    if own and not is_safe(own):
        raise ConfigError(f"{MIRROR} is the https address of a folder that holds {file.shelf}/{file.name}, got {own!r}")
    return [*([f"{own}/{file.shelf}/{file.name}"] if own else []), *(host + file.name for host in file.hosts)]


def _host(address: str) -> str:
    return urlsplit(address).netloc.rpartition("@")[2]


def _ask(file: Published, address: str, part: Path, tell: Tell) -> None:
    """Fill `part` from one host, in as many connections as it takes while they get further. Raises Failed."""
    furthest, tries = _length(part), 0
    while True:
        try:
            return _fill(file, address, part, tell)
        except Failed as failed:
            reached = _length(part)
            tries = 1 if reached >= furthest + _FURTHER else tries + 1
            furthest = max(furthest, reached)
            if not failed.again or tries == _TRIES:
                raise
            time.sleep(_PAUSE * 2 ** (tries - 1))


def _fill(file: Published, address: str, part: Path, tell: Tell) -> None:
    """By one connection. A whole that is not the file is removed; what lay there before may be to blame, and then it is asked for again."""
    start = receive(address, part, file.size, lambda done, size: tell(f"downloading {file.name} from {_host(address)}", done, size))
    if not file.is_at(part):
        part.unlink()
        raise Failed("sent another file than the published one", again=start > 0)


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
