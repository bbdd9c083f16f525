"""What is written for users: the README and the pages of docs/, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands_of(page: Path) -> list[list[str]]:
    """Every noisebench command in its sh blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", read(page), re.S)
    lines = [
        line.partition("  #")[0].strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [shlex.split(line)[1:] for line in lines if line.startswith("noisebench ")]


def plugins() -> dict[str, str]:
    """The pages' plugins: blocks of Python that begin with their file's name."""
    blocks = [
        re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", read(page), re.S) for page in PAGES
    ]
    return dict(block for page in blocks for block in page)
