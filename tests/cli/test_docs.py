"""The README's commands are run; those of docs/ are parsed and, where that is cheap, run or
planned.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from PIL import Image

import noisebench as nb
from noisebench.cli import main
from noisebench.cli.app import app, declare_options
from noisebench.core.plugins import load_plugins
from noisebench.datasets import Images
from tests.contracts.test_surface import OPTIONS
from tests.support.pages import PAGES, README, ROOT, commands_of, plugins, read

WITH_COMMANDS = [page for page in PAGES[1:] if commands_of(page)]
# trainings, drawings, features of 50,000 images, timm's import
COSTLY = ("--cv-folds", "--figure", "report.html", "jal2025", "timm:")
# images of a large data set; an extra
NOT_AT_HAND = ("is not in", "cannot be read", "no such", "pip install 'noisebench[")


def make_photos(place: Path, images: Images) -> None:
    """Images in directories by class, a sixth of them in a wrong one."""
    for part, count in (("train", 240), ("test", 60)):
        pixels, labels = getattr(images, f"{part}_images"), getattr(images, f"{part}_labels")
        for i in range(count):
            path = (
                place
                / part
                / f"digit{(labels[i] + (part == 'train' and i % 6 == 0)) % 10}"
                / f"{i}.png"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i, ..., 0]).save(path)


def write_tables(place: Path) -> None:
    """Label files for the photos, and cleanlab's result for the digits' labels."""
    paths = sorted((place / "photos" / "train").rglob("*.png"))
    table = pd.DataFrame(
        {"image_id": [path.name for path in paths], "label": [path.parent.name for path in paths]}
    )
    table.to_csv(place / "train.csv", index=False)
    table.assign(label_noisy=table["label"].shift(1, fill_value="digit0")).to_csv(
        place / "both.csv", index=False
    )
    manifest = nb.read_manifest(place / "manifests" / "digits-sym0.4-s0.csv")
    given, predicted = manifest.labels, manifest.clean_labels
    issues = {
        "is_label_issue": given != predicted,
        "label_quality": 0.5,
        "given_label": given,
        "predicted_label": predicted,
    }
    pd.DataFrame(issues).to_csv(place / "cleanlab.csv")


def as_a_shell(words: list[str]) -> list[str]:
    """Each pattern of paths replaced by the paths; `10*normalized(ce)` is no such pattern."""

    def paths(word: str) -> list[str]:
        return (
            [str(path) for path in sorted(Path().glob(word))]
            if re.fullmatch(r"[\w/]+\*", word)
            else [word]
        )

    return [name for word in words for name in paths(word)]


LOADED: set[str] = set()


def with_plugin(words: list[str]) -> list[str]:
    """A command without its --plugin FILE, which is loaded once in this process."""
    if words[0] != "--plugin":
        return words
    if words[1] not in LOADED:
        LOADED.add(words[1])
        load_plugins([words[1]])
        declare_options()
    return words[2:]


def is_long(words: list[str]) -> bool:
    """Suites, and trainings of other data than digits or photos."""
    current = Path("manifests/current").read_text() if Path("manifests/current").exists() else ""
    trained = next((word for word in words[1:2] if not word.startswith("-")), current)
    return words[0] == "run" or (
        words[0] == "train" and not any(small in trained for small in ("digits", "photos"))
    )


def as_dry_run(words: list[str]) -> list[str]:
    return words if "--dry-run" in words else [*words, "--dry-run"]


def run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page's commands as one session; suites and large networks are only planned."""
    write_files_of(page)
    for arguments in commands_of(page):
        words = with_plugin(as_a_shell(arguments))
        if words[0] == "audit":  # trains dozens of networks; it has tests of its own
            parse(words)
            continue
        code = main(["-q", *as_dry_run(words)] if is_long(words) else words)
        assert code == 0 or (is_long(words) and is_not_at_hand(capsys)), (
            words,
            capsys.readouterr().err,
        )


def write_files_of(page: Path) -> None:
    """The files that a page refers to: the suite of the tutorial, a table of features."""
    if page.stem == "features":  # the script that writes its data set
        exec(re.findall(r"```python\n(.*?)```", read(page), re.S)[0], {})
    if page.stem == "suites":
        tutorial = read(ROOT / "docs" / "tutorials" / "publish.md")
        (suite,) = re.findall(r"```yaml\n(.*?)```", tutorial, re.S)
        Path("benchmarks.yaml").write_text(suite)


def is_not_at_hand(capsys: pytest.CaptureFixture[str]) -> bool:
    error = capsys.readouterr().err
    return any(words in error for words in NOT_AT_HAND)


@pytest.fixture(scope="module")
def left_by_readme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's commands are run, once."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture
def workspace(
    left_by_readme: Path,
    tmp_path: Path,
    digits: Images,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    """A copy of the directory as the README's commands leave it."""
    if not any(left_by_readme.iterdir()):
        monkeypatch.chdir(left_by_readme)
        make_photos(left_by_readme / "photos", digits)
        for name, text in plugins().items():
            (left_by_readme / name).write_text(text)
        run(README, capsys)
        write_tables(left_by_readme)
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(left_by_readme, tmp_path, dirs_exist_ok=True)


def test_the_readmes_commands_run(workspace: Path) -> None:
    """They leave two runs on the same images, the second without the suspected label errors."""
    assert len(list((workspace / "runs").glob("photos*"))) == 2
    listed = (workspace / "issues.csv").read_text().splitlines()[1:]
    dropped = nb.read_manifest(next((workspace / "manifests").glob("photos-*reviewed-drop*")))
    assert len(listed) == 240 - dropped.included.sum() > 0


def parse(words: list[str]) -> None:
    """As the command line does, without running the command. Raises click's errors."""
    group: Any = typer.main.get_command(app)
    group.commands[words[0]].make_context(words[0], words[1:]).close()


def test_every_command_of_the_pages_is_accepted(
    left_by_readme: Path,
    workspace: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    subtests: pytest.Subtests,
) -> None:
    """After the README's: each is parsed; suites and long trainings are planned, the rest is run
    where it is cheap.
    """
    monkeypatch.setenv("NOISEBENCH_DATA", str(tmp_path_factory.mktemp("empty")))
    # it would train a few steps
    monkeypatch.setattr("noisebench.runs.queue.estimate_suite_seconds", lambda *_: 0.0)
    for page in WITH_COMMANDS:
        place = shutil.copytree(
            left_by_readme, tmp_path_factory.mktemp(page.stem), dirs_exist_ok=True
        )
        monkeypatch.chdir(place)
        write_files_of(page)
        for typed in commands_of(page):
            with subtests.test(" ".join(typed), page=page.name):
                words = with_plugin(as_a_shell(typed))
                parse(words)
                if any(word in " ".join(words) for word in COSTLY):
                    continue
                short = re.search("--epochs [1-3]( |$)", " ".join(words))
                trains = "train" in words or words[0] == "run"
                planned = as_dry_run(words) if trains and not short else words
                code = main(["-q", "--offline", *planned])
                assert code == 0 or is_not_at_hand(capsys), capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_a_pages_commands_run_after_the_readmes(
    page: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if page.stem == "trackers":
        pytest.importorskip(
            "tensorboard",
            reason="needs pip install 'noisebench[tensorboard]', which the page logs to",
        )
    run(page, capsys)


def test_every_command_of_the_cli_stands_in_the_readme() -> None:
    assert {arguments[0] for arguments in commands_of(README)} >= set(OPTIONS)


def test_the_lines_from_python_run(workspace: Path, digits: Images) -> None:
    """As they stand there, with the digits' labels."""
    blocks = re.findall(r"```python\n(.*?)```", read(ROOT / "docs" / "how-to" / "python.md"), re.S)
    names: dict[str, Any] = {"labels": digits.train_labels}
    exec("\n".join(blocks), names)
    assert (names["noisy"] != digits.train_labels).mean() == pytest.approx(0.4, abs=1e-3)
    assert len(names["frame"]) == len(list((workspace / "runs").iterdir()))


def test_the_quickstart_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lines in order; those that begin with ! are commands."""
    notebook = json.loads(read(ROOT / "docs" / "tutorials" / "quickstart.ipynb"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines()
        for line in lines:
            if line.startswith("!noisebench "):
                assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
        exec("\n".join(line for line in lines if not line.startswith("!")), names)
    assert names["wrong"].mean() > 0.9
    accuracy = nb.results("runs").set_index(["noise.text", "loss"])["metrics.test_acc.last"]
    assert accuracy.loc[("symmetric(rate=0.4)", "gce(q=0.7)")] > 0.9
    assert accuracy.loc[("symmetric(rate=0.4)", "ce")] < 0.8
