"""A command that is killed, stopped or refused at any touch of the file system: nothing finished is
lost, nothing half-done looks finished, and the same command ends as if nothing had happened, bit
for bit.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from noisebench.labels.manifest import read_manifest
from noisebench.runs.folder import RunFolder
from tests.support import kills
from tests.support.faults import CHANGES, Commands, Ended, commands
from tests.support.suites import left

TRAIN = (
    "train",
    "digits",
    "--sym",
    "0.4",
    "--epochs",
    "2",
    "--batch-size",
    "512",
    "--precision",
    "fp32",
)
WRITERS = {  # what else writes files, of a workspace with a finished run
    "corrupt": ("corrupt", "digits", "--pair", "0.3"),
    "gzip": ("corrupt", "digits", "--sym", "0.2", "--out", "{place}/labels.csv.gz"),
    "suspects": ("evaluate", "{run}", "--suspects", "{place}/doubted.csv"),
    "predictions": ("evaluate", "{run}", "--predictions", "{place}/said.npz"),
    "page": ("report", "{place}", "-o", "{place}/report.html"),
    "latex": ("report", "{place}", "-o", "{place}/report.tex"),
    "baseline": ("report", "{place}", "--save-baseline", "{place}/baseline.json"),
    "figure": ("report", "{place}", "--figure", "curves", "-o", "{place}/curves.svg"),
}
# written by a csv writer, as an archive, and as text
OF_A_KIND = ("corrupt", "predictions", "latex")
TWO_NETWORKS = "elr_plus"  # and a memory of every example
_HEX = re.compile(r"\.[0-9a-f]{16,32}(?=\.|$)")


@pytest.fixture(scope="module")
def noisebench() -> Iterator[Commands]:
    with commands() as found:
        yield found


@dataclass
class Undisturbed:
    """What a command leaves that nothing happens to, and what it touches on the way."""

    noisebench: Commands
    place: Path
    known: dict[tuple[str, ...], tuple[dict[str, Any], list[str]]] = field(default_factory=dict)

    def __call__(self, *arguments: str) -> tuple[dict[str, Any], list[str]]:
        if arguments not in self.known:
            place = self.place / str(len(self.known))
            ended = self.noisebench.run(place, *arguments)
            assert ended.code == 0, ended.output
            self.known[arguments] = left(place), ended.touches
        return self.known[arguments]


@pytest.fixture(scope="module")
def undisturbed(noisebench: Commands, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(noisebench, tmp_path_factory.mktemp("undisturbed"))


def check_whole(place: Path) -> None:
    """Whatever looks finished is."""
    for path in (place / "manifests").glob("*.csv"):
        read_manifest(path)
    for folder in map(RunFolder, (place / "runs").glob("*")):
        if folder.result.exists():
            assert (
                folder.checksums() == folder.record()["files"]
                and len(folder.record()["files"]) == 4
            )
            assert folder.about()["metrics"]["train"]["n"] == 1297


def check_goes_on(
    noisebench: Commands, place: Path, arguments: tuple[str, ...], expected: dict[str, Any]
) -> None:
    """The same command again ends as if nothing had happened."""
    ended = noisebench.run(place, *arguments)
    assert ended.code == 0, ended.output
    manifests = place / "manifests"
    # they are swept after a day, since others may be writing
    halves = list(manifests.glob(".*.part"))
    for path in halves:
        path.unlink()
    assert len(halves) <= 1 and left(place) == expected


def kind(touch: str) -> str:
    """What is touched, whichever process touches it."""
    return _HEX.sub("", touch)


def moments(touches: list[str], count: int | None) -> list[int]:
    """All of them, or so many spread over those that differ in what is done to which file."""
    return (
        list(range(len(touches)))
        if count is None
        else spread({kind(touch): at for at, touch in enumerate(touches)}, count)
    )


def half_written(touches: list[str], count: int | None) -> list[int]:
    """All of them, or so many spread over the last times that each file is flushed, when a fault
    leaves half of it.
    """
    last = {kind(touch): at for at, touch in enumerate(touches) if touch.startswith("fsync ")}
    return list(range(len(touches))) if count is None else spread(last, count)


def spread(places: dict[str, int], count: int) -> list[int]:
    found = sorted(places.values())
    return [found[round(at * (len(found) - 1) / max(count - 1, 1))] for at in range(count)]


STRATEGIES = ["standard", TWO_NETWORKS]


def some_or(some: int) -> list[Any]:
    """How many moments: some, and under `make soak` all."""
    return [pytest.param(some), pytest.param(None, marks=pytest.mark.soak)]


@cache
def words(strategy: str) -> tuple[str, ...]:
    return (*TRAIN, "--strategy", strategy)


@pytest.mark.parametrize("count", some_or(3))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_at_any_moment(
    strategy: str, count: int | None, noisebench: Commands, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """What is being written at that moment is written by half."""
    expected, touches = undisturbed(*words(strategy))
    assert {kind(touch).split()[0] for touch in touches} >= {
        "write",
        "fsync",
        "os.rename",
        "os.link",
        "os.remove",
        "os.mkdir",
    }
    for at in half_written(touches, count):
        place = tmp_path / str(at)
        ended = noisebench.run(place, *words(strategy), fault="kill", at=at)
        assert ended.code == -9
        check_whole(place)
        check_goes_on(noisebench, place, words(strategy), expected)


@pytest.mark.parametrize("count", some_or(2))
@pytest.mark.parametrize("fault", ["terminate", "interrupt"])
def test_stopped_at_any_moment(
    fault: str, count: int | None, noisebench: Commands, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    expected, touches = undisturbed(*words(TWO_NETWORKS))
    for at in moments(touches, count):
        place = tmp_path / str(at)
        ended = noisebench.run(place, *words(TWO_NETWORKS), fault=fault, at=at)
        assert "Traceback" not in ended.output
        if ended.code == 0:  # it came too late to matter
            assert left(place) == expected
        else:
            assert ended.code in (130, -15) and (
                "the same command resumes it" in ended.output
                or "interrupted" in ended.output
                or ended.code < 0
            )
        check_whole(place)
        check_goes_on(noisebench, place, words(TWO_NETWORKS), expected)


def refused(ended: Ended) -> bool:
    """One line that says what could not be written and why."""
    last = ended.output.strip().splitlines()[-1]
    return ended.code in (2, 3) and last.startswith("error: ") and "Traceback" not in ended.output


@pytest.mark.parametrize("count", some_or(2))
@pytest.mark.parametrize(("fault", "why"), [("full", "No space left on device"), ("read-only", "Read-only file system"),
                                            ("error", "Input/output error")])  # fmt: skip
def test_refused_at_any_moment(
    fault: str,
    why: str,
    count: int | None,
    noisebench: Commands,
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    """By a disk that is full, or read-only from then on; by a file server that fails once."""
    expected, touches = undisturbed(*words(TWO_NETWORKS))
    changes = [
        number
        for number, touch in enumerate(touches)
        if fault == "error" or touch.split()[0] in CHANGES
    ]
    choose = half_written if fault == "error" else moments
    for at in [changes[n] for n in choose([touches[at] for at in changes], count)]:
        place = tmp_path / str(at)
        ended = noisebench.run(place, *words(TWO_NETWORKS), fault=fault, at=at)
        if ended.code:
            assert refused(ended) and why in ended.output, (touches[at], ended.output)
        check_whole(place)
        check_goes_on(noisebench, place, words(TWO_NETWORKS), expected)


@pytest.fixture(scope="module")
def finished(undisturbed: Undisturbed) -> Path:
    """A workspace with a finished run."""
    undisturbed(*words("standard"))
    return undisturbed.place / str(list(undisturbed.known).index(words("standard")))


def check_writer(
    writer: str,
    faults: tuple[str, ...],
    count: int | None,
    noisebench: Commands,
    finished: Path,
    tmp_path: Path,
) -> None:
    def run(place: Path, **case: Any) -> tuple[Ended, dict[str, Any]]:
        if not place.exists():
            shutil.copytree(finished, place)
        (folder,) = (place / "runs").iterdir()
        ended = noisebench.run(
            place, *(word.format(place=place, run=folder) for word in WRITERS[writer]), **case
        )
        return ended, {
            name: _without_place(content, place)
            for name, content in left(place).items()
            if not name.endswith(".part")
        }

    whole, expected = run(tmp_path / "whole")
    assert whole.code == 0, whole.output
    before = left(finished)
    assert expected.keys() > before.keys()
    for fault in faults:
        numbers = [
            number
            for number, touch in enumerate(whole.touches)
            if fault == "kill" or touch.split()[0] in CHANGES
        ]
        for at in [numbers[n] for n in half_written([whole.touches[at] for at in numbers], count)]:
            place = tmp_path / f"{fault}-{at}"
            ended, now = run(place, fault=fault, at=at)
            assert ended.code == (-9 if fault == "kill" else 2), (whole.touches[at], ended.output)
            assert fault == "kill" or (refused(ended) and "No space left on device" in ended.output)
            assert all(
                content in (expected[name], before.get(name)) for name, content in now.items()
            )
            again, now = run(place)
            assert again.code == 0 and now == expected, again.output


def test_every_other_file_is_whole_or_not_there(
    noisebench: Commands, finished: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for writer in WRITERS:
        (tmp_path / writer).mkdir()
        with subtests.test(writer=writer):
            check_writer(
                writer,
                ("kill", "full") if writer in OF_A_KIND else ("kill",),
                1,
                noisebench,
                finished,
                tmp_path / writer,
            )


@pytest.mark.soak
@pytest.mark.parametrize("writer", WRITERS)
def test_every_other_file_is_whole_or_not_there_at_any_moment(
    writer: str, noisebench: Commands, finished: Path, tmp_path: Path
) -> None:
    check_writer(writer, ("kill", "full"), None, noisebench, finished, tmp_path)


def _without_place(content: Any, place: Path) -> Any:
    return content.replace(str(place).encode(), b"PLACE") if isinstance(content, bytes) else content


@pytest.mark.soak
def test_two_hundred_kills_at_random_change_no_cell() -> None:
    said: list[str] = []
    assert kills.soak(200, 0, said.append), said
