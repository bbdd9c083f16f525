"""One connection to one host: what is missing of a file, written behind what is there. https alone, and http to this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

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
    return (address.startswith("https://") and bool(urlsplit(address).hostname)) or _is_here(address)


def _is_here(address: str) -> bool:
    return address.startswith("http://") and urlsplit(address).hostname in _LOOPBACK


def receive(address: str, part: Path, most: int, tell: Callable[[int, int], None]) -> int:
    """Write into `part` what is missing of it; the byte from which on the host sent, 0 where it knows of no parts.

    most: bytes that the file has; tell: how many of how many are there. Raises Failed, and OSError where one cannot write.
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
        raise Failed(f"HTTP {error.code} {error.reason}", again=error.code >= 500 or error.code in _PASSING) from None
    except (OSError, HTTPException, ValueError) as error:
        raise Failed(_reason(error), again=isinstance(error, HTTPException | ConnectionResetError)) from None


class _Redirects(HTTPRedirectHandler):
    def redirect_request(  # noqa: PLR0917 urllib's own
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if not is_safe(newurl) or (_is_here(newurl) and not _is_here(req.full_url)):
            raise Failed("sends one on to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy(answer: HTTPResponse, part: Path, there: int, most: int, tell: Callable[[int, int], None]) -> int:
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
