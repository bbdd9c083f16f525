"""What is written for users: the README and the pages of docs/, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))


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


def plugin() -> str:
    """The README's loss in one file."""
    found = re.search(r"```python\n(# my_loss\.py\n.*?)```", read(README), re.S)
    assert found
    return found[1]
