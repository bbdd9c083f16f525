"""Downloads, from hosts on this machine that break off, lie, fall silent or send too much: what is
there is whole and right.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisebench.cli.progress import DownloadProgress
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
    without_ranges,
)

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DEAD = "http://127.0.0.1:9/"  # where nobody answers


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.0)


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


@pytest.mark.parametrize("how", [breaks_off, falls_silent])
def test_a_broken_connection_is_gone_on_from_at_the_very_byte(
    how: Callable[[int], Any], host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SILENCE", 0.3)
    host.answers = [how(1_000_000), how(1_500_000)]
    fetch(file_of(host), tmp_path)
    assert_whole(tmp_path)
    assert host.ranges == ["", "bytes=1000000-", "bytes=2500000-"]


def test_a_host_that_knows_no_ranges_starts_anew(host: Host, tmp_path: Path) -> None:
    host.answers = [breaks_off(1_000_000), without_ranges]
    fetch(file_of(host), tmp_path)
    assert_whole(tmp_path)
    assert host.ranges == ["", "bytes=1000000-"]


def test_a_host_that_gets_no_further_is_left_after_three_tries(
    host: Host, mirror: Host, tmp_path: Path
) -> None:
    host.answers = [breaks_off(1_000)] * 9
    fetch(file_of(host, mirror), tmp_path)
    assert_whole(tmp_path)
    assert host.ranges == ["", "bytes=1000-", "bytes=2000-"] and mirror.ranges == ["bytes=3000-"]


def test_as_long_as_a_host_gets_further_it_is_asked_again(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_FURTHER", 100_000)
    host.answers = [breaks_off(100_000)] * 20
    fetch(file_of(host), tmp_path)
    assert_whole(tmp_path)
    assert len(host.asked) == 21


@pytest.mark.parametrize(
    ("answer", "times", "said"),
    [
        (status(404), 1, "HTTP 404"),
        (status(403), 1, "HTTP 403"),
        (status(500), 3, "HTTP 500"),
        (status(503), 3, "HTTP 503"),
        (status(429), 3, "HTTP 429"),
        (sends(CONTENT[:-1] + b"?"), 1, "sent another file than the published one"),
        (sends(b"<html>log in first</html>"), 1, "sent another file than the published one"),
        (sends(b""), 1, "sent another file than the published one"),
        (sends(CONTENT + b"?"), 1, "would send 3,000,001 bytes, the file has 3,000,000"),
        (without_length(b"?"), 1, "sends more than the 3,000,000 bytes of the file"),
        (sends_on("http://example.org/file.bin"), 1, "not https"),
        (sends_on("file:///etc/passwd"), 1, "not allowed"),
        (breaks_off(0), 3, "broke off after 0 of 3,000,000 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_next_host_is_asked_where_one_does_not_have_it(
    answer: Any, times: int, said: str, host: Host, mirror: Host, tmp_path: Path
) -> None:
    host.answers = [answer] * 9
    with pytest.raises(NoHost, match=said):
        fetch(file_of(host), tmp_path)
    assert len(host.asked) == times and not (tmp_path / "file.bin").exists()
    fetch(file_of(host, mirror), tmp_path)
    assert_whole(tmp_path)
    assert (len(host.asked), len(mirror.asked)) == (2 * times, 1)


def test_what_came_before_a_host_turned_bad_is_kept(
    host: Host, mirror: Host, tmp_path: Path
) -> None:
    host.answers = [breaks_off(2_000_000), status(404)]
    fetch(file_of(host, mirror), tmp_path)
    assert_whole(tmp_path)
    assert mirror.ranges == ["bytes=2000000-"]


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


@pytest.mark.parametrize(
    "garbage", [b"?" * 1000, b"?" * 3_000_000, b"?" * 3_000_001], ids=["short", "whole", "long"]
)
def test_garbage_in_a_part_costs_one_download_from_the_start(
    garbage: bytes, host: Host, tmp_path: Path
) -> None:
    (tmp_path / "file.bin.part").write_bytes(garbage)
    fetch(file_of(host), tmp_path)
    assert_whole(tmp_path)
    assert host.ranges == ["bytes=1000-", ""][-2 if len(garbage) == 1000 else -1 :]


def test_a_host_of_another_file_is_not_asked_for_ever(host: Host, tmp_path: Path) -> None:
    host.files["/file.bin"] = CONTENT[:-1] + b"?"
    (tmp_path / "file.bin.part").write_bytes(b"?" * 1000)
    with pytest.raises(NoHost, match="sent another file"):
        fetch(file_of(host), tmp_path)
    assert host.ranges == ["bytes=1000-", ""] and list(tmp_path.iterdir()) == []


def test_a_part_that_is_whole_already_asks_nobody(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    fetch(file_of(host), tmp_path)
    assert_whole(tmp_path)
    assert host.asked == []


def test_a_whole_part_of_unknown_size_is_found_to_be_whole(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    fetch(file_of(host, size=4_000_000), tmp_path)
    assert_whole(tmp_path)
    assert host.ranges == ["bytes=3000000-"]


def test_where_no_host_answers_one_line_says_what_became_of_each(
    host: Host, tmp_path: Path
) -> None:
    host.answers = [status(404)]
    with pytest.raises(NoHost) as caught:
        fetch(file_of(host, DEAD), tmp_path)
    assert str(caught.value) == (
        f"no host sent file.bin ({host.address.removeprefix('http://')}: HTTP 404 Not Found; "
        "127.0.0.1:9: Connection refused)"
    )


def test_being_sent_on_keeps_the_byte_asked_for(host: Host, mirror: Host, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    host.answers = [sends_on(f"{mirror.address}/file.bin")]
    fetch(file_of(host), tmp_path)
    assert_whole(tmp_path)
    assert mirror.ranges == ["bytes=1000-"]


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
        match=r"NOISEBENCH_MIRROR is the https address of a folder "
        r"that holds set/file\.bin",
    ):
        fetch(file_of(host), tmp_path)
    assert host.asked == []


# The disk, and whoever interrupts


def test_a_full_disk_is_said_and_asks_no_other_host(
    host: Host, mirror: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(
        DataError,
        match=r"cannot write .*file\.bin\.part: No space left on "
        r"device; the file has 3,000,000 bytes",
    ) as caught:
        fetch(file_of(host, mirror), tmp_path)
    assert not isinstance(caught.value, NoHost) and len(host.asked) == 1 and mirror.asked == []


@pytest.mark.soak
def test_a_disk_that_is_really_full_keeps_what_came(host: Host, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("needs to mount a file system")
    try:
        with pytest.raises(DataError, match="No space left on device"):
            fetch(file_of(host), disk)
        assert (disk / "file.bin.part").read_bytes() == CONTENT[: 1 << 20]
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        fetch(file_of(host), disk)
        assert_whole(disk)
        assert host.ranges == ["", f"bytes={1 << 20}-"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_interruption_passes_and_leaves_what_came(host: Host, tmp_path: Path) -> None:
    def interrupt(text: str, done: int, size: int) -> None:
        if done >= 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), download_lock(tmp_path / "set", interrupt):
        fetch(file_of(host), tmp_path / "set", interrupt)
    (part,) = (tmp_path / "set").iterdir()  # and no claim
    came = part.read_bytes()
    assert len(came) >= 1_000_000 and came == CONTENT[: len(came)]
    fetch(file_of(host), tmp_path / "set")
    assert host.ranges == ["", f"bytes={len(came)}-"]


def test_interrupting_a_command_ends_it_with_130_and_leaves_what_came(
    host: Host, tmp_path: Path
) -> None:
    host.files = {"/mnist/train-images-idx3-ubyte.gz": bytes(9_912_422)}
    host.answers = [falls_silent(1_000_000)]
    command = [
        sys.executable,
        "-m",
        "noisebench",
        "--data-dir",
        str(tmp_path),
        "-C",
        str(tmp_path),
        "corrupt",
        "mnist",
        "--sym",
        "0.4",
    ]
    # what begins in the background hears no Ctrl-C, nor do its children
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {MIRROR: host.address}
    )
    signal.signal(signal.SIGINT, before)
    part = tmp_path / "downloads" / "mnist" / "train-images-idx3-ubyte.gz.part"
    until(lambda: part.exists() and part.stat().st_size == 1_000_000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said.splitlines()[-1]) == (130, "error: interrupted")
    assert [path.name for path in part.parent.iterdir()] == [
        part.name
    ] and part.stat().st_size == 1_000_000


def test_how_far_it_is_is_told_in_order_up_to_the_whole(host: Host, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    host.answers = [breaks_off(1_000_000)]
    fetch(file_of(host), tmp_path, lambda *words: told.append(words))
    assert {(text, size) for text, _, size in told} == {
        (f"downloading file.bin from {host.address[7:]}", 3_000_000)
    }
    done = [done for _, done, _ in told]
    assert done == sorted(set(done)) and done[-1] == 3_000_000 and 1_000_000 in done


def test_off_a_terminal_a_download_is_a_line_and_not_one_a_chunk(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell = DownloadProgress()
    for done in (0, 500_000, 1_000_000):
        tell("downloading file.bin from somewhere", done, 2_000_000)
    for _ in range(3):
        tell("waiting for process 7", 0, 0)
    tell("", 0, 0)
    DownloadProgress(quiet=True)("downloading file.bin from somewhere", 0, 2_000_000)
    assert capsys.readouterr().err == (
        "downloading file.bin from somewhere: 0.0 of 2.0 MB\nwaiting for process 7\n"
    )


# Several processes

FETCH = """
import sys
from pathlib import Path
from noisebench.datasets.download import Published, fetch, turn
def tell(*words): print(*words, flush=True)
with turn(Path(sys.argv[1]), tell):
    fetch(Published("set", "file.bin", {size}, {checksum!r}, ({host!r},)), Path(sys.argv[1]), tell)
"""


def other_process(host: Host, folder: Path, **environment: str) -> subprocess.Popen[str]:
    file = file_of(host)
    script = FETCH.format(size=file.size, checksum=file.checksum, host=file.hosts[0])
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("job", ["", "4711"], ids=["alone", "of one job"])
def test_of_several_processes_one_downloads_and_the_others_wait_for_it(
    job: str, host: Host, tmp_path: Path
) -> None:
    host.answers = [falls_silent(1_000_000)]
    first = other_process(host, tmp_path / "set", NOISEBENCH_JOB=job)
    until(lambda: host.asked)
    second = other_process(host, tmp_path / "set", NOISEBENCH_JOB=job)
    assert second.stdout is not None and first.stdout is not None
    assert second.stdout.readline().startswith(f"waiting for process {first.pid} on ")
    first.kill()  # no time to clean up: it holds nobody up, and what it has is gone on from
    first.wait()
    assert second.wait(30) == 0
    assert_whole(tmp_path / "set")
    assert host.ranges[0] == "" and host.ranges[1].startswith("bytes=") and len(host.asked) == 2
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
    assert all(
        process.stdout.readline().startswith("waiting for process")
        for process in processes[1:]
        if process.stdout
    )
    host.done.set()
    assert [process.communicate(timeout=120) and process.returncode for process in processes] == [
        0,
        0,
        0,
    ]
    assert_whole(tmp_path / "set")
    assert host.asked == [("/file.bin", "")]


def test_a_killed_download_goes_on_at_the_very_byte(host: Host, tmp_path: Path) -> None:
    host.answers = [falls_silent(1_234_567)]
    process, part = other_process(host, tmp_path / "set"), tmp_path / "set" / "file.bin.part"
    until(lambda: part.exists() and part.stat().st_size == 1_234_567)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with download_lock(tmp_path / "set", lambda *words: None):
        fetch(file_of(host), tmp_path / "set")
    assert_whole(tmp_path / "set")
    assert host.ranges == ["", "bytes=1234567-"]


def test_a_folder_where_one_cannot_write_is_said(tmp_path: Path) -> None:
    (tmp_path / "downloads").write_text("a file")
    with (
        pytest.raises(DataError, match="cannot write"),
        download_lock(tmp_path / "downloads" / "set", lambda *words: None),
    ):
        pytest.fail("nobody has a turn there")


@pytest.mark.soak
def test_killed_again_and_again_a_download_only_ever_goes_forward(
    host: Host, tmp_path: Path
) -> None:
    """Thirty times, whenever it happens to be: no byte is asked for twice, and nothing but the file
    is left.
    """

    def slowly(request: Any, content: bytes) -> None:
        for start in range(request.start, len(content), 50_000):
            if start == request.start:
                breaks_off(0)(request, content)
            request.wfile.write(content[start : start + 50_000])
            time.sleep(0.02)

    rng = np.random.default_rng(0)
    host.answers = [slowly] * 1000
    for _ in range(30):
        process = other_process(host, tmp_path / "set")
        try:
            process.wait(0.3 + rng.exponential(0.3))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    host.answers = []
    with download_lock(tmp_path / "set", lambda *words: None):
        fetch(file_of(host), tmp_path / "set")
    assert_whole(tmp_path / "set")
    starts = [int(asked.removeprefix("bytes=").removesuffix("-") or 0) for asked in host.ranges]
    assert starts == sorted(starts) and len(starts) > 1
