"""Losses, strategies and noises from outside: a Python file or an importable module, which registers what it has."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from .errors import ConfigError, NoisebenchError


def load_plugins(names: Iterable[str]) -> None:
    """Import each plugin once. Raises ConfigError where it is missing or fails."""
    for name in names:
        try:
            _load(name)
        except NoisebenchError as error:
            raise ConfigError(f"plugin {name}: {error}") from error
        except Exception as error:  # a stranger's module may throw anything
            raise ConfigError(f"plugin {name} cannot be loaded: {type(error).__name__}: {error}".splitlines()[0]) from error


def _load(name: str) -> None:
    path = Path(name)
    if path.suffix != ".py":
        importlib.import_module(name)
        return
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # two files may have one name
    module_name = f"noisebench_plugin_{path.stem}_{place}"
    if module_name in sys.modules:
        return
    if not path.exists():
        raise ConfigError("no such file")
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
