"""The README and docs/: their commands run, their links lead somewhere, each page says whom it is for."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import noisebench as nb
from noisebench.cli import main
from noisebench.datasets import Images
from noisebench.losses import LOSSES
from tests.contracts.test_surface import OPTIONS
from tests.support.pages import PAGES, README, ROOT, commands_of, plugin, read

LINKING = (*PAGES, *sorted((ROOT / "results").glob("*.md")), *sorted((ROOT / "tests" / "perf").glob("*.md")))
WITH_COMMANDS = [page for page in PAGES[1:] if commands_of(page)]


def written(pages: tuple[Path, ...] | list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def make_photos(place: Path, images: Images) -> None:
    """Somebody's pictures in folders by class, a sixth of them in a wrong one."""
    for part, count in (("train", 240), ("test", 60)):
        pictures, labels = getattr(images, f"{part}_images"), getattr(images, f"{part}_labels")
        for i in range(count):
            path = place / part / f"digit{(labels[i] + (part == 'train' and i % 6 == 0)) % 10}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures[i, ..., 0]).save(path)


def write_tables(place: Path) -> None:
    """Label files for the photos, and what cleanlab says of the digits' labels."""
    paths = sorted((place / "photos" / "train").rglob("*.png"))
    table = pd.DataFrame({"image_id": [path.name for path in paths], "label": [path.parent.name for path in paths]})
    table.to_csv(place / "train.csv", index=False)
    table.assign(label_noisy=table["label"].shift(1, fill_value="digit0")).to_csv(place / "both.csv", index=False)
    manifest = nb.read_manifest(place / "manifests" / "digits-sym0.4-s0.csv")
    given, predicted = manifest.labels, manifest.clean_labels
    issues = {"is_label_issue": given != predicted, "label_quality": 0.5, "given_label": given, "predicted_label": predicted}
    pd.DataFrame(issues).to_csv(place / "issues.csv")


def as_a_shell(word: str) -> list[str]:
    """Paths for a pattern of paths, else the word: `10*normalized(ce)` is none."""
    return [str(path) for path in sorted(Path().glob(word))] if re.fullmatch(r"[\w/]+\*", word) else [word]


def run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page's commands as one session, with the suite file that it shows; suites and large networks are planned alone."""
    if page.stem == "suites" and (shown := re.search(r"```yaml\n(.*?)```", read(page), re.S)):
        Path("benchmarks.yaml").write_text(shown[1])
    for arguments in commands_of(page):
        words = [name for word in arguments for name in as_a_shell(word)]
        current = Path("manifests/current").read_text() if Path("manifests/current").exists() else ""
        trained = next((word for word in words[1:2] if not word.startswith("-")), current)  # its data set, else the current manifest
        long = words[0] == "run" or (words[0] == "train" and not any(small in trained for small in ("digits", "photos")))
        if "--plugin" in words and "root" in LOSSES:
            continue
        dry = [*words, "--dry-run"] if long and "--dry-run" not in words else words
        if long and main(["-q", *dry]) != 0:
            assert "is not in" in capsys.readouterr().err, words  # the images of a large set are not at hand
        elif not long:
            assert main(dry) == 0, (words, capsys.readouterr().err)


@pytest.fixture(scope="session")
def left_by_readme() -> list[Path]:
    """The workspace that the README's commands left, once it is there."""
    return []


@pytest.fixture
def workspace(
    left_by_readme: list[Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    digits: Images,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    """A folder as the README's commands leave it; these are run once."""
    if not left_by_readme:
        place = tmp_path_factory.mktemp("readme")
        monkeypatch.chdir(place)
        make_photos(place / "photos", digits)
        (place / "my_loss.py").write_text(plugin())
        run(README, capsys)
        write_tables(place)
        left_by_readme.append(place)
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(left_by_readme[0], tmp_path, dirs_exist_ok=True)


def test_the_readmes_commands_run(workspace: Path) -> None:
    """And leave two runs of the same pictures, the second without what was doubted."""
    assert len(list((workspace / "runs").glob("photos*"))) == 2
    listed = (workspace / "doubted.csv").read_text().splitlines()[1:]
    dropped = nb.read_manifest(next((workspace / "manifests").glob("photos-*reviewed-drop*")))
    assert len(listed) == 240 - dropped.kept.sum() > 0


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=written(WITH_COMMANDS))
def test_a_pages_commands_run_after_the_readmes(page: Path, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if page.stem == "trackers":
        pytest.importorskip("tensorboard", reason="needs pip install 'noisebench[tensorboard]', which the page logs to")
    run(page, capsys)


def test_every_command_of_the_cli_stands_in_the_readme() -> None:
    assert {arguments[0] for arguments in commands_of(README)} >= set(OPTIONS)


def test_the_lines_from_python_run(workspace: Path, digits: Images) -> None:
    """As they stand there, with the digits' labels."""
    lines = re.search(r"```python\n(.*?)```", read(ROOT / "docs" / "python.md"), re.S)
    assert lines
    made: dict[str, Any] = {"labels": digits.train_labels}
    exec(lines[1], made)
    assert (made["noisy"] != digits.train_labels).mean() == pytest.approx(0.4, abs=1e-3)
    assert len(made["frame"]) == len(list((workspace / "runs").iterdir()))


def test_a_loss_takes_at_most_ten_lines() -> None:
    assert plugin().count("\n") <= 10


def test_the_tree_names_every_file_and_folder() -> None:
    tree = read(ROOT / "docs" / "code.md")
    for path in Path(nb.__file__).parent.iterdir():
        if path.name not in ("__pycache__", "__init__.py", "__main__.py", "benchmarks.yaml"):
            assert path.name in tree, path.name


@pytest.mark.parametrize("page", PAGES[1:], ids=written(PAGES[1:]))
def test_a_page_says_first_whom_it_is_for_and_the_readme_lists_it(page: Path) -> None:
    title, _, rest = read(page).partition("\n\n")
    assert re.fullmatch("# .+", title) and rest.startswith("For whoever ")
    assert f"](docs/{page.name}) |" in read(README)


def test_the_readme_can_be_read() -> None:
    """It is short, and its blocks of code are as narrow as GitHub shows them."""
    assert read(README).count("\n") <= 250
    assert max(map(len, "\n".join(re.findall(r"^```.*?^```$", read(README), re.S | re.M)).splitlines())) <= 104


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """What a link to one of its headings ends in, as GitHub makes it."""
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found[name] += 1
    return {name if number == 0 else f"{name}-{number}" for name, times in found.items() for number in range(times)}


def links_of(page: Path) -> list[str]:
    """Where its links and pictures lead, but for those to the world outside."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`(?!\])", "", prose(page)))
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("page", LINKING, ids=written(LINKING))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists() and ROOT in target.resolve().parents, link
        assert not anchor or anchor in anchors(target), link


def test_links_are_seen() -> None:
    assert {"docs/guarantees.md", "#you-publish", "results/quick-rates.svg"} <= set(links_of(README))
    assert sum(len(links_of(page)) for page in LINKING) > 60


@pytest.mark.parametrize("page", written(LINKING))
def test_no_half_of_a_merge_is_left(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith(("<<<<<<<", "=======", ">>>>>>>"))] == []
