"""The pages for users: their links lead somewhere, each opens with one sentence, and the page on the
code names each part of the package.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import noisebench as nb
from tests.support.pages import PAGES, README, ROOT, read

LINKING = (
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "results").glob("*.md")),
    *sorted((ROOT / "tests" / "perf").glob("*.md")),
)

# pages of the site that docs/site_hooks.py makes of the package
GENERATED = ("cli.md", "losses.md", "noises.md", "strategies.md", "methods.md")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    names: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        names[re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")] += 1
    return {
        name if number == 0 else f"{name}-{number}"
        for name, times in names.items()
        for number in range(times)
    }


def links_of(page: Path) -> list[str]:
    """The targets of its links and images that are files of the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`(?!\])", "", prose(page)))
    return [target for target in targets if "://" not in target]


def test_every_link_leads_to_a_file_and_a_heading(subtests: pytest.Subtests) -> None:
    count = 0
    for page in LINKING:
        for link in links_of(page):
            with subtests.test(link, page=page.name):
                count += 1
                path, _, anchor = link.partition("#")
                target = page.parent / path if path else page
                if target.name in GENERATED and target.parent.name == "reference":
                    continue
                assert target.exists() and ROOT in target.resolve().parents
                assert not anchor or anchor in anchors(target)
    assert count > 60


def test_every_page_opens_with_one_sentence(subtests: pytest.Subtests) -> None:
    for page in PAGES[1:]:
        with subtests.test(page.name):
            _, opening, *_ = read(page).split("\n\n")
            assert opening.endswith(".") and not re.search(r"[.?!]\s+[A-Z]", opening)


def test_the_readmes_blocks_of_code_are_as_narrow_as_github_shows_them() -> None:
    blocks = re.findall(r"^```.*?^```$", read(README), re.S | re.M)
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 104


def test_the_tree_names_every_file_and_directory_of_the_package(subtests: pytest.Subtests) -> None:
    tree = read(ROOT / "docs" / "explanation" / "code.md")
    for path in Path(nb.__file__).parent.iterdir():
        if path.name not in (
            "__pycache__",
            "__init__.py",
            "__main__.py",
            "benchmarks.yaml",
            "py.typed",
        ):
            with subtests.test(path.name):
                assert path.name in tree


def test_no_conflict_marker_is_left(subtests: pytest.Subtests) -> None:
    for page in LINKING:
        with subtests.test(page.name):
            assert [
                line
                for line in read(page).splitlines()
                if line.startswith(("<<<<<<<", "=======", ">>>>>>>"))
            ] == []
