"""A host on this machine that answers as it is told, and notes what it was asked; and CIFAR's
batches as Python 2 pickled them.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from noisebench.datasets.download import Published

Answer = Callable[["Request", bytes], None]


class Request(BaseHTTPRequestHandler):
    """One of the host's answers after the other, then the whole file."""

    server: Host

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append((self.path, asked))
        content = self.server.files.get(self.path)
        answer = self.server.answers.pop(0) if self.server.answers else whole
        if content is None:
            answer, content = status(404), b""
        answer(self, content)

    def head(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    @property
    def start(self) -> int:
        """The byte that was asked for."""
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *words: object) -> None:
        pass


class Host(ThreadingHTTPServer):
    """`files` by path; `answers` to come; what was `asked`: path and range; a slow answer ends when
    the host is `done`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.files: dict[str, bytes] = {}
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str]] = []
        self.done = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self) -> list[str]:
        return [asked for _, asked in self.asked]

    def handle_error(self, *who: object) -> None:
        """Who breaks a connection off is meant to."""


@contextmanager
def hosting() -> Iterator[Host]:
    with Host() as host:
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield host
        finally:
            host.done.set()
            host.shutdown()
            thread.join()


def whole(request: Request, content: bytes) -> None:
    """From the byte that was asked for."""
    if request.start > len(content) or (request.start == len(content) and content):
        return request.head(416, Content_Length=0)
    rest = content[request.start :]
    if request.start:
        request.head(
            206,
            Content_Length=len(rest),
            Content_Range=f"bytes {request.start}-{len(content) - 1}/{len(content)}",
        )
    else:
        request.head(200, Content_Length=len(rest))
    request.wfile.write(rest)


def without_ranges(request: Request, content: bytes) -> None:
    request.head(200, Content_Length=len(content))
    request.wfile.write(content)


def status(code: int) -> Answer:
    return lambda request, content: request.head(code, Content_Length=0)


def sends(other: bytes) -> Answer:
    return lambda request, content: without_ranges(request, other)


def breaks_off(after: int) -> Answer:
    """Promises all from the byte that was asked for, and closes the connection after so many."""

    def answer(request: Request, content: bytes) -> None:
        rest = content[request.start :]
        headers = (
            {"Content_Range": f"bytes {request.start}-{len(content) - 1}/{len(content)}"}
            if request.start
            else {}
        )
        request.head(206 if request.start else 200, Content_Length=len(rest), **headers)
        request.wfile.write(rest[:after])

    return answer


def falls_silent(after: int) -> Answer:
    """As `breaks_off`, but keeps the connection open."""

    def answer(request: Request, content: bytes) -> None:
        breaks_off(after)(request, content)
        request.wfile.flush()
        request.server.done.wait(60)

    return answer


def without_length(extra: bytes = b"") -> Answer:
    """All and more, without saying how much that is."""

    def answer(request: Request, content: bytes) -> None:
        request.head(200)
        request.wfile.write(content + extra)

    return answer


def sends_on(address: str) -> Answer:
    return lambda request, content: request.head(302, Location=address, Content_Length=0)


def published(
    content: bytes, *hosts: str, shelf: str = "set", name: str = "file.bin", size: int | None = None
) -> Published:
    """What a table would say of a file of this content."""
    sha256 = hashlib.sha256(content).hexdigest()
    return Published(shelf, name, len(content) if size is None else size, f"sha256:{sha256}", hosts)


def python_2_batch(
    images: np.ndarray, labels: np.ndarray, key: str, *, name: str = "batch 1"
) -> bytes:
    """A batch of CIFAR, images (n, 32, 32, 3), by the opcodes that Python 2's pickle wrote: text
    for bytes, numpy's old module.
    """

    def text(value: bytes) -> bytes:
        return (
            b"U" + bytes([len(value)]) + value
            if len(value) < 256
            else b"T" + struct.pack("<i", len(value)) + value
        )

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)

    flat = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\0K\1\x87R("
        + number(3)
        + text(b"|")
        + b"NNN"
        + number(-1) * 2
        + b"K\0tb"
    )
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    data = (
        made
        + b"(K\1"
        + number(len(flat))
        + number(flat.shape[1])
        + b"\x86"
        + dtype
        + b"\x89"
        + text(flat.tobytes())
        + b"tb"
    )
    listed = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    raw = (
        b"\x80\2}("
        + text(b"batch_label")
        + text(name.encode())
        + text(key.encode())
        + listed
        + text(b"data")
        + data
        + b"u."
    )
    # numpy itself reads it so
    assert np.array_equal(pickle.loads(raw, encoding="latin1")["data"], flat)
    return raw


def idx(values: np.ndarray) -> bytes:
    """MNIST's own format."""
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        + values.astype(np.uint8).tobytes()
    )


def lay_out(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def png(number: int) -> bytes:
    """A small picture, another for each number."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)).save(
        file, "png"
    )
    return file.getvalue()
