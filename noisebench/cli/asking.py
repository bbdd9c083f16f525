"""What it takes to ask a finished run's networks again, or to train them anew without some
labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runs.workspace import Workspace


@dataclass(frozen=True)
class Asking:
    """manifest: what the run was trained on, where it is not the workspace's; test: the test images
    of another folder set.
    """

    workspace: Workspace
    manifest: Path | None
    device: str
    test: Path | None
    quiet: bool
