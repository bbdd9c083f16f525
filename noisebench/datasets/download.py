"""Published files: checksums, hosts and downloads.

A download is verified before it gets its name, so that a file is complete or missing. Addresses are
https, or http to this machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..core.files.atomic import remove_partials
from ..core.progress import ProgressCallback, silent
from ..errors import ConfigError, DataError


@dataclass(frozen=True)
class Published:
    """A published file.

    shelf: its directory on a mirror. size: its bytes, or the accepted maximum if the size is not
    published. checksum: `sha256:...`, or `md5:...` if no other is published. hosts: addresses of
    directories with the file, in the order in which they are tried.
    """

    shelf: str
    name: str
    size: int
    checksum: str
    hosts: tuple[str, ...]

    def is_at(self, path: Path) -> bool:
        """Whether the file at a path has the published checksum."""
        algorithm, _, published = self.checksum.partition(":")
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest() == published


# the authors, PaddlePaddle
_TORONTO = ("https://www.cs.toronto.edu/~kriz/", "https://dataset.bj.bcebos.com/cifar/")
_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)  # PyTorch, TensorFlow
_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",  # Keras
)
HUMAN_HOSTS = ("https://github.com/UCSC-REAL/cifar-10-100n/raw/main/data/",)
_HUMAN_MOST = 1 << 24  # bytes; their sizes are not published


def human_file(name: str, md5: str) -> Published:
    """A file of CIFAR-N."""
    return Published("human", name, _HUMAN_MOST, f"md5:{md5}", HUMAN_HOSTS)


_IDX_FILES = {  # hosts; name, size and sha256 of each file
    "mnist": (
        _MNIST,
        (
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
    ),
    "fashionmnist": (
        _FASHION,
        (
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
    ),
}
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
    **{
        shelf: tuple(
            Published(shelf, f"{name}-ubyte.gz", size, f"sha256:{sha256}", hosts)
            for name, size, sha256 in files
        )
        for shelf, (hosts, files) in _IDX_FILES.items()
    },
}


MIRROR = "NOISEBENCH_MIRROR"
DOWNLOADS = "downloads"  # subdirectory of the data directory for downloads in progress
SILENCE = 30.0  # seconds without data after which a host counts as unreachable
_CHUNK = 1 << 18  # bytes between two progress reports
_PAUSE = 0.2  # seconds between two checks of a lock
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class NoHost(DataError):
    """A file could not be downloaded; the message gives the reason of each host."""


@contextmanager
def download_lock(folder: Path, tell: ProgressCallback) -> Iterator[None]:
    """Let only one process download into a directory; others wait. The operating system frees the
    lock of a killed process. Raises DataError if the directory cannot be written.
    """
    from filelock import FileLock, Timeout

    lock, waiting = FileLock(folder.with_name(f"{folder.name}.lock")), False
    try:
        while not lock.is_locked:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except FileNotFoundError:
                continue  # the process with the lock has removed the directory
            except Timeout:
                waiting = True
                tell(f"waiting for another process that downloads {folder.name}", 0, 0, "")
                time.sleep(_PAUSE)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        if waiting:
            tell("", 0, 0, "")
    try:
        remove_partials(folder)
        for unfinished in folder.glob("tmp*"):  # of a killed download
            unfinished.unlink()
        yield
    finally:
        with suppress(OSError):  # a directory with files stays for the next attempt
            folder.rmdir()
            Path(lock.lock_file).unlink()
            folder.parent.rmdir()
        lock.release()


def fetch(file: Published, folder: Path, tell: ProgressCallback = silent) -> Path:
    """Returns the file in `folder`; if it is missing, downloads it from the first host that has it.
    The caller holds the directory's `download_lock`.

    Raises NoHost, and DataError if the file cannot be written.
    """
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("ERROR")  # else it reports each download on stderr
    failures = []
    for address in _addresses(file):
        host = urlsplit(address).netloc.rpartition("@")[2]
        text = f"downloading {file.name} from {host}"
        tell(text, 0, file.size, "bytes")
        downloader = pooch.HTTPDownloader(
            progressbar=_Progress(file, text, tell),
            chunk_size=_CHUNK,
            timeout=SILENCE,
            headers={"User-Agent": "noisebench", "Accept-Encoding": "identity"},
            hooks={"response": _check_redirect},
        )
        try:
            path = pooch.retrieve(address, file.checksum, file.name, folder, downloader=downloader)
            return Path(path)
        except RequestException as error:
            failures.append(f"{host}: {_reason(error)}")
        except ValueError:  # raised by pooch for another checksum
            failures.append(f"{host}: wrong checksum")
        except OSError as error:
            raise DataError(
                f"cannot write {folder / file.name}: {error.strerror or error}; the file has "
                f"{file.size:,} bytes"
            ) from None
        finally:
            tell("", 0, 0, "")
    raise NoHost(f"{file.name} cannot be downloaded ({'; '.join(failures)})")


def _addresses(file: Published) -> list[str]:
    addresses = [host + file.name for host in file.hosts]
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if not mirror:
        return addresses
    if not (_is_https(mirror) or _is_loopback(mirror)):
        raise ConfigError(
            f"{MIRROR} must be the https address of a directory that contains "
            f"{file.shelf}/{file.name}, got {mirror!r}"
        )
    return [f"{mirror}/{file.shelf}/{file.name}", *addresses]


def _is_https(address: str) -> bool:
    return address.startswith("https://") and bool(urlsplit(address).hostname)


def _is_loopback(address: str) -> bool:
    return address.startswith("http://") and urlsplit(address).hostname in _LOOPBACK


def _check_redirect(response: Any, **settings: Any) -> None:
    """Refuse a redirect to plain http, and from another host to this machine."""
    from requests import RequestException

    target = urljoin(response.url, response.headers.get("location", ""))
    if response.is_redirect and not (
        _is_https(target) or (_is_loopback(target) and _is_loopback(response.url))
    ):
        raise RequestException("redirects to an address that is not https")


class _Progress:
    """Receives pooch's progress; aborts a download that is larger than the file."""

    def __init__(self, file: Published, text: str, tell: ProgressCallback) -> None:
        self._file, self._text, self._tell = file, text, tell
        self.total = self._done = 0

    def update(self, count: int) -> None:
        """count: received bytes, rounded up to whole chunks."""
        from requests import RequestException

        self._done += count
        size = self.total or self._file.size
        if max(self.total, self._done - _CHUNK + 1) > self._file.size:
            raise RequestException(f"sends more than the file's {self._file.size:,} bytes")
        self._tell(self._text, min(self._done, size), size, "bytes")

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Pooch closes every progress bar."""


def _reason(error: Exception) -> str:
    """Why a request failed, in a few words."""
    from requests import exceptions

    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, exceptions.Timeout) or "timed out" in str(error):
        return f"no data for {SILENCE:.0f} s"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "connection closed"
    text = " ".join(str(error).split())
    system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    return system[1] if system else text[:200]
