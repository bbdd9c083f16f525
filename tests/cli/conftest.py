"""What the tests of the commands share: an empty workspace, one with two finished runs, and a
browser.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from noisebench.cli import main
from tests.support.browser import Browser, find_chromium


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, which is the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def two_finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with finished runs of CE and MAE on one manifest, to read from."""
    root = tmp_path_factory.mktemp("two_finished_runs")
    for loss in ("ce", "mae"):
        assert (
            main(
                [
                    "-q",
                    "-C",
                    str(root),
                    "train",
                    "digits",
                    "--sym",
                    "0.4",
                    "--loss",
                    loss,
                    "--epochs",
                    "2",
                ]
            )
            == 0
        )
    return root


@pytest.fixture
def finished(two_finished_runs: Path, place: Path) -> Path:
    """A copy of that workspace, which is the current directory."""
    return shutil.copytree(two_finished_runs, place, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A Chromium. Whatever a test does in it: it fetches nothing but files, and logs no error."""
    chromium.events.clear()
    yield chromium
    complaints = [
        e
        for e in chromium.events
        if e["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    ]
    requests = [
        e["params"]["request"]["url"]
        for e in chromium.events
        if e["method"] == "Network.requestWillBeSent"
    ]
    assert (
        complaints == []
        and requests
        and all(url.startswith(("file://", "data:", "blob:file://")) for url in requests)
    )
