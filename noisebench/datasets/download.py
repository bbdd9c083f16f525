"""Which published files there are, how one knows them, and where they lie: at their authors', and
where a library keeps the same bytes.

One connection to one host: what is missing of a file, written behind what is there. https alone,
and http to this machine.

A published file, downloaded: whole and right, or not there. What a broken connection left is gone
on from, at the next host too.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ..core.files.lock import LockOwner, acquire, find_lock
from ..errors import ConfigError, DataError, RunTaken


@dataclass(frozen=True)
class Published:
    """A file as it was published. shelf: its folder on a mirror of one's own; size: its bytes, or
    the most that are taken where nobody says them; checksum: `sha256:...`, or `md5:...` where no
    other is published; hosts: folders with it, in the order they are asked.
    """

    shelf: str
    name: str
    size: int
    checksum: str
    hosts: tuple[str, ...]

    def is_at(self, path: Path) -> bool:
        """Whether that is the file, to the last bit."""
        algorithm, _, published = self.checksum.partition(":")
        with path.open("rb") as file:
            return (
                hashlib.file_digest(
                    file, lambda: hashlib.new(algorithm, usedforsecurity=False)
                ).hexdigest()
                == published
            )


# then PaddlePaddle's
_TORONTO = ("https://www.cs.toronto.edu/~kriz/", "https://dataset.bj.bcebos.com/cifar/")
_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)  # PyTorch's, TensorFlow's
_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",  # Keras's
)
HUMAN_HOSTS = ("https://github.com/UCSC-REAL/cifar-10-100n/raw/main/data/",)
_HUMAN_MOST = 1 << 24  # nobody published their sizes


def _idx(shelf: str, hosts: tuple[str, ...], *files: tuple[str, int, str]) -> tuple[Published, ...]:
    return tuple(
        Published(shelf, f"{name}-ubyte.gz", size, f"sha256:{sha256}", hosts)
        for name, size, sha256 in files
    )


def human_file(name: str, md5: str) -> Published:
    """A file of CIFAR-N."""
    return Published("human", name, _HUMAN_MOST, f"md5:{md5}", HUMAN_HOSTS)


FILES = {
    "cifar10": (
        Published(
            "cifar10",
            "cifar-10-python.tar.gz",
            170_498_071,
            "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            _TORONTO,
        ),
    ),
    "cifar100": (
        Published(
            "cifar100",
            "cifar-100-python.tar.gz",
            169_001_437,
            "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            _TORONTO,
        ),
    ),
    "mnist": _idx(
        "mnist",
        _MNIST,
        (
            "train-images-idx3",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashionmnist": _idx(
        "fashionmnist",
        _FASHION,
        (
            "train-images-idx3",
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        (
            "train-labels-idx1",
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        (
            "t10k-images-idx3",
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        (
            "t10k-labels-idx1",
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}


SILENCE = 30.0  # seconds without a byte, after which a host counts as gone
_CHUNK = 1 << 18
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PASSING = (408, 429)  # errors that may be over the next time, as those from 500 on


class Failed(Exception):
    """Why a host did not send the file. again: whether it may when it is asked again."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(" ".join(reason.split()))
        self.again = again


def is_safe(address: str) -> bool:
    """Whether it is https, or on this machine."""
    return (address.startswith("https://") and bool(urlsplit(address).hostname)) or _is_here(
        address
    )


def _is_here(address: str) -> bool:
    return address.startswith("http://") and urlsplit(address).hostname in _LOOPBACK


def receive(address: str, part: Path, most: int, tell: Callable[[int, int], None]) -> int:
    """Write into `part` what is missing of it; the byte from which on the host sent, 0 where it
    knows of no parts.

    most: bytes that the file has; tell: how many of how many are there. Raises Failed, and OSError
    where one cannot write.
    """
    there = part.stat().st_size if part.exists() else 0
    answer = _open(address, there) if there < most else None
    if answer is None:
        return there
    with answer:
        return _copy(answer, part, there, most, tell)


def _open(address: str, start: int) -> HTTPResponse | None:
    """What a host answers when it is asked for all from a byte on; None where there is no more."""
    wanted = {"Range": f"bytes={start}-"} if start else {}
    request = Request(address, headers={"User-Agent": "noisebench", **wanted})  # noqa: S310 is_safe
    try:
        return build_opener(_Redirects).open(request, timeout=SILENCE)
    except HTTPError as error:
        error.close()
        if error.code == 416:
            return None
        raise Failed(
            f"HTTP {error.code} {error.reason}", again=error.code >= 500 or error.code in _PASSING
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        raise Failed(
            _reason(error), again=isinstance(error, HTTPException | ConnectionResetError)
        ) from None


class _Redirects(HTTPRedirectHandler):
    def redirect_request(  # noqa: PLR0917 urllib's own
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if not is_safe(newurl) or (_is_here(newurl) and not _is_here(req.full_url)):
            raise Failed("sends one on to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy(
    answer: HTTPResponse, part: Path, there: int, most: int, tell: Callable[[int, int], None]
) -> int:
    start = done = _start(answer, there)
    length = answer.headers.get("Content-Length", "")
    size = start + int(length) if length.isdecimal() else most
    if size > most:
        raise Failed(f"would send {size:,} bytes, the file has {most:,}")
    part.touch()
    with part.open("r+b") as file:
        file.seek(start)
        file.truncate()
        while chunk := _read(answer):
            done += len(chunk)
            if done > most:
                file.truncate(start)
                raise Failed(f"sends more than the {most:,} bytes of the file")
            file.write(chunk)
            file.flush()  # from Python 3.14 on 128 KiB would wait, and be lost with this process
            tell(done, size)
        file.flush()
        os.fsync(file.fileno())
    if length and done < size:
        raise Failed(f"broke off after {done:,} of {size:,} bytes", again=True)
    return start


def _start(answer: HTTPResponse, there: int) -> int:
    """The byte from which on an answer is."""
    if answer.status != 206:
        return 0
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if not found or int(found[1]) > there:
        raise Failed("sends another part of the file than it was asked for")
    return int(found[1])


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read1(_CHUNK)
    except (OSError, HTTPException, ValueError) as error:
        raise Failed(_reason(error), again=True) from None


def _reason(error: Exception) -> str:
    error = getattr(error, "reason", error)
    if isinstance(error, TimeoutError):
        return f"silent for {SILENCE:.0f} s"
    return getattr(error, "strerror", "") or str(error) or type(error).__name__


MIRROR = "NOISEBENCH_MIRROR"
DOWNLOADS = "downloads"  # in the data directory: what is on its way
_TRIES = 3  # of one host that gets no further
_PAUSE = 1.0  # seconds before the second, twice as many before the third
_FURTHER = 1 << 20  # bytes that a try has to bring, or it counts
_LOOK = 0.5  # seconds until one looks again whether another process has ended

ProgressCallback = Callable[[str, int, int], None]
"""Is told what goes on, and how many bytes of how many are there, 0 of 0 where nothing is counted.
An empty text: nothing any more.
"""


def silent(text: str, done: int, size: int) -> None:
    """Tells nobody."""


class NoHost(DataError):
    """No host sent a file; what became of each."""


@contextmanager
def download_lock(folder: Path, tell: ProgressCallback) -> Iterator[None]:
    """Be the only process that downloads into a folder; who comes meanwhile waits, and is told for
    whom. A dead process holds nobody up. Afterwards the folder is gone, unless a broken connection
    left something in it. Raises DataError where one cannot write.
    """
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


def _has_turn(held: ExitStack, claim: Path, tell: ProgressCallback) -> bool:
    try:
        held.enter_context(acquire(claim, _this_process))
    except RunTaken:
        other = find_lock(claim)
        tell(
            f"waiting for {other.owner if other else 'another process'}, which downloads "
            f"{claim.parent.name}",
            0,
            0,
        )
        return False
    return True


def _this_process() -> LockOwner:
    """Without its job, which may have several processes at once that want the same data."""
    return replace(LockOwner.here(), job="")


def fetch(file: Published, folder: Path, tell: ProgressCallback = silent) -> Path:
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
        raise DataError(
            f"cannot write {part}: {error.strerror or error}; the file has {file.size:,} bytes"
        ) from None
    raise NoHost(f"no host sent {file.name} ({'; '.join(failures)})")


def _addresses(file: Published) -> list[str]:
    own = os.environ.get(MIRROR, "").rstrip("/")
    if own and not is_safe(own):
        raise ConfigError(
            f"{MIRROR} is the https address of a folder that holds "
            f"{file.shelf}/{file.name}, got {own!r}"
        )
    return [
        *([f"{own}/{file.shelf}/{file.name}"] if own else []),
        *(host + file.name for host in file.hosts),
    ]


def _host(address: str) -> str:
    return urlsplit(address).netloc.rpartition("@")[2]


def _ask(file: Published, address: str, part: Path, tell: ProgressCallback) -> None:
    """Fill `part` from one host, in as many connections as it takes while they get further. Raises
    Failed.
    """
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


def _fill(file: Published, address: str, part: Path, tell: ProgressCallback) -> None:
    """By one connection. A whole that is not the file is removed; what lay there before may be to
    blame, and then it is asked for again.
    """
    start = receive(
        address,
        part,
        file.size,
        lambda done, size: tell(f"downloading {file.name} from {_host(address)}", done, size),
    )
    if not file.is_at(part):
        part.unlink()
        raise Failed("sent another file than the published one", again=start > 0)


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
