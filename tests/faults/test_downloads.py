"""Downloads, from hosts on this machine that break off, lie, fall silent or send too much: what is
there is whole and right.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisebench.datasets import download
from noisebench.datasets.download import MIRROR, NoHost, Published, download_lock, fetch
from noisebench.errors import ConfigError, DataError
from tests.support.hosting import (
    Host,
    breaks_off,
    falls_silent,
    hosting,
    published,
    sends,
    sends_on,
    status,
    whole,
    without_length,
)

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DEAD = "http://127.0.0.1:9/"  # where nobody answers


@pytest.fixture
def host() -> Iterator[Host]:
    with hosting() as host:
        host.files = {"/file.bin": CONTENT}
        yield host


@pytest.fixture
def mirror() -> Iterator[Host]:
    with hosting() as host:
        host.files = {"/file.bin": CONTENT}
        yield host


def file_of(*hosts: Host | str, **facts: Any) -> Published:
    return published(
        CONTENT, *(each if isinstance(each, str) else f"{each.address}/" for each in hosts), **facts
    )


def assert_whole(folder: Path) -> None:
    assert {path.name: path.read_bytes() == CONTENT for path in folder.iterdir()} == {
        "file.bin": True
    }


def test_a_file_arrives_whole_and_is_not_asked_for_again(host: Host, tmp_path: Path) -> None:
    for _ in range(2):
        assert fetch(file_of(host), tmp_path) == tmp_path / "file.bin"
    assert_whole(tmp_path)
    assert host.asked == [("/file.bin", "")]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(404), "HTTP 404"),
        (status(503), "HTTP 503"),
        (sends(CONTENT[:-1] + b"?"), "wrong checksum"),
        (sends(b"<html>log in first</html>"), "wrong checksum"),
        (sends(b""), "wrong checksum"),
        (sends(CONTENT + b"?"), "sends more than the file's 3,000,000 bytes"),
        (without_length(bytes(10_000_000)), "sends more than the file's 3,000,000 bytes"),
        (sends_on("http://example.org/file.bin"), "not https"),
        (sends_on("file:///etc/passwd"), "not https"),
        (breaks_off(0), "connection closed"),
        (breaks_off(1_000_000), "connection closed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_next_host_is_asked_where_one_does_not_have_it(
    answer: Any, reason: str, host: Host, mirror: Host, tmp_path: Path
) -> None:
    host.answers = [answer] * 2
    with pytest.raises(NoHost, match=reason):
        fetch(file_of(host), tmp_path)
    assert list(tmp_path.iterdir()) == []
    fetch(file_of(host, mirror), tmp_path)
    assert_whole(tmp_path)
    assert (len(host.asked), len(mirror.asked)) == (2, 1)


def test_without_a_length_the_checksum_decides(host: Host, tmp_path: Path) -> None:
    host.answers = [without_length()]
    fetch(file_of(host), tmp_path)
    assert_whole(tmp_path)


def test_of_a_file_whose_size_nobody_published_no_more_is_taken_than_said(
    host: Host, tmp_path: Path
) -> None:
    fetch(file_of(host, size=4_000_000), tmp_path)
    assert_whole(tmp_path)


def test_a_host_is_not_waited_for_longer_than_it_may_be_silent(
    host: Host, mirror: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SILENCE", 0.2)
    host.answers = [falls_silent(0)] * 9
    fetch(file_of(host, mirror), tmp_path)
    assert_whole(tmp_path)


def test_where_no_host_answers_one_line_says_what_became_of_each(
    host: Host, tmp_path: Path
) -> None:
    host.answers = [status(404)]
    with pytest.raises(NoHost) as caught:
        fetch(file_of(host, DEAD), tmp_path)
    assert str(caught.value) == (
        f"file.bin cannot be downloaded ({host.address.removeprefix('http://')}: HTTP 404 Not Found; "
        "127.0.0.1:9: Connection refused)"
    )


# A mirror of one's own


def test_ones_own_mirror_is_asked_first_and_the_published_hosts_after_it(
    host: Host, mirror: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRROR, f"{mirror.address}/all/")
    mirror.files = {"/all/set/file.bin": CONTENT}
    fetch(file_of(host), tmp_path)
    assert (mirror.asked, host.asked) == ([("/all/set/file.bin", "")], [])
    mirror.files = {}
    (tmp_path / "file.bin").unlink()
    fetch(file_of(host), tmp_path)
    assert len(mirror.asked) == 2 and len(host.asked) == 1


@pytest.mark.parametrize(
    "address", ["http://mirror.example.org", "ftp://mirror", "mirror", "https://", "file:///srv"]
)
def test_a_mirror_that_is_not_https_is_refused(
    address: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRROR, address)
    with pytest.raises(
        ConfigError,
        match=r"NOISEBENCH_MIRROR must be the https address of a directory "
        r"that contains set/file\.bin",
    ):
        fetch(file_of(host), tmp_path)
    assert host.asked == []


# The disk, and an interruption


def test_a_full_disk_is_said_and_asks_no_other_host(
    host: Host, mirror: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "move", full)  # as pooch ends a download
    with pytest.raises(
        DataError,
        match=r"cannot write .*file\.bin: No space left on device; the file has 3,000,000 bytes",
    ) as caught:
        fetch(file_of(host, mirror), tmp_path)
    assert not isinstance(caught.value, NoHost) and len(host.asked) == 1 and mirror.asked == []
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_passes_and_leaves_nothing(host: Host, tmp_path: Path) -> None:
    def interrupt(text: str, done: int, total: int, unit: str) -> None:
        if done >= 1_000_000:
            raise KeyboardInterrupt

    folder = tmp_path / "downloads" / "set"
    with pytest.raises(KeyboardInterrupt), download_lock(folder, interrupt):
        fetch(file_of(host), folder, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_interrupting_a_command_ends_it_with_130(host: Host, tmp_path: Path) -> None:
    host.files = {"/mnist/train-images-idx3-ubyte.gz": bytes(9_912_422)}
    host.answers = [falls_silent(1_000_000)]
    command = [sys.executable, "-m", "noisebench", "--data-dir", str(tmp_path), "-C", str(tmp_path)]
    # a process that starts in the background ignores Ctrl-C, and so do its children
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, "corrupt", "mnist", "--sym", "0.4"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {MIRROR: host.address},
    )
    signal.signal(signal.SIGINT, before)
    until(lambda: host.asked)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "error: interrupted")
    assert not (tmp_path / "downloads").exists()


def test_progress_is_reported_in_order_up_to_the_whole(host: Host, tmp_path: Path) -> None:
    reports: list[tuple[str, int, int, str]] = []
    fetch(file_of(host), tmp_path, lambda *report: reports.append(report))
    *counted, last = reports
    assert {(text, *of) for text, _, *of in counted} == {
        (f"downloading file.bin from {host.address[7:]}", 3_000_000, "bytes")
    }
    done = [done for _, done, *_ in counted]
    assert done == sorted(done) and done[-1] == 3_000_000 and len(done) > 5
    assert last == ("", 0, 0, "")


# Several processes

FETCH = """
import sys
from pathlib import Path
from noisebench.datasets.download import Published, download_lock, fetch
def report(*words): print(*words, flush=True)
with download_lock(Path(sys.argv[1]), report):
    fetch(Published("set", "file.bin", {size}, {checksum!r}, ({host!r},)), Path(sys.argv[1]), report)
"""
WAITING = "waiting for another process that downloads set"


def other_process(host: Host, folder: Path) -> subprocess.Popen[str]:
    file = file_of(host)
    script = FETCH.format(size=file.size, checksum=file.checksum, host=file.hosts[0])
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    )


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_of_several_processes_one_downloads_and_a_dead_one_holds_nobody_up(
    host: Host, tmp_path: Path
) -> None:
    host.answers = [falls_silent(1_000_000)]
    first = other_process(host, tmp_path / "set")
    until(lambda: host.asked)
    second = other_process(host, tmp_path / "set")
    assert second.stdout is not None and first.stdout is not None
    assert second.stdout.readline().startswith(WAITING)
    first.kill()  # no time to clean up
    first.wait()
    assert second.wait(30) == 0
    assert_whole(tmp_path / "set")
    assert len(host.asked) == 2
    second.stdout.close()
    first.stdout.close()


def test_who_waited_finds_the_file(host: Host, tmp_path: Path) -> None:
    def after_all_wait(request: Any, content: bytes) -> None:
        host.done.wait(30)
        whole(request, content)

    host.answers = [after_all_wait]
    processes = [other_process(host, tmp_path / "set")]
    until(lambda: host.asked)
    processes += [other_process(host, tmp_path / "set") for _ in range(2)]
    for process in processes[1:]:
        assert process.stdout is not None and process.stdout.readline().startswith(WAITING)
    host.done.set()
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert_whole(tmp_path / "set")
    assert host.asked == [("/file.bin", "")]


def test_a_folder_where_one_cannot_write_is_said(tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("a file")
    with (
        pytest.raises(DataError, match="cannot write"),
        download_lock(tmp_path / "downloads" / "set", lambda *words: None),
    ):
        pytest.fail("the lock was granted")
