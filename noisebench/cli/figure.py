"""`noisebench report --figure`: a picture instead of a table; without a file, drawn in the terminal."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .console import say, show, write_json

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..workspace import Workspace

_FIGURES = ("transition",)


def draw_figure(name: str, paths: list[Path], workspace: Workspace, out: Path | None, *, json: bool) -> None:
    """Draw a named figure of these manifests, or of the current one."""
    from ..errors import ConfigError
    from ..manifest import read_manifest
    from ..report import transition

    if name not in _FIGURES:
        raise ConfigError(f"--figure is {' or '.join(_FIGURES)}, got {name!r}")
    chosen = paths or [path for path in [workspace.current] if path]
    if not chosen:
        raise ConfigError("name a manifest to draw: noisebench report --figure transition manifests/NAME.csv")
    manifests: list[Manifest] = [read_manifest(path) for path in chosen]
    if json:
        write_json([transition.as_dict(manifest) for manifest in manifests])
    elif out is not None:
        transition.save(manifests, out)
        say(f"{out} written")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        show(*(transition.draw(manifest, width) for manifest in manifests))
