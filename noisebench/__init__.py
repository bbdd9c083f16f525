"""noisebench: a benchmark for learning with noisy labels in image classification.

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import losses
    from .api import corrupt, loss
    from .labels.manifest import Manifest, read_manifest
    from .losses import register_loss
    from .noise import register_noise, transition
    from .reporting import make_report as report
    from .runs.folder import results
    from .strategies import register_strategy

_SOURCES = {  # name -> module and attribute
    "Manifest": ("labels.manifest", "Manifest"),
    "corrupt": ("api", "corrupt"),
    "loss": ("api", "loss"),
    "losses": ("losses", ""),
    "read_manifest": ("labels.manifest", "read_manifest"),
    "register_loss": ("losses", "register_loss"),
    "register_noise": ("noise", "register_noise"),
    "register_strategy": ("strategies", "register_strategy"),
    "report": ("reporting", "make_report"),
    "results": ("runs.folder", "results"),
    "transition": ("noise", "transition"),
}

__all__ = [
    "Manifest",
    "corrupt",
    "loss",
    "losses",
    "read_manifest",
    "register_loss",
    "register_noise",
    "register_strategy",
    "report",
    "results",
    "transition",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("noisebench")
    if name not in _SOURCES:
        raise AttributeError(f"module 'noisebench' has no attribute {name!r}")
    module, attribute = _SOURCES[name]
    imported = import_module(f"noisebench.{module}")
    return getattr(imported, attribute) if attribute else imported


def __dir__() -> list[str]:
    return __all__
