"""Losses, strategies and noises from outside: a Python file or an importable module, which
registers what it has.

A run's key holds the hash of a plugin's source and of what that imports from its own folder or
package, as it was when it was loaded.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

from ..errors import ConfigError, NoisebenchError

_LOADED = "noisebench_code"  # of a module: the hash of its code as it was loaded


def load_plugins(names: Iterable[str]) -> None:
    """Import each plugin once; what it prints goes to stderr. Raises ConfigError where it is
    missing, fails or ends the process.
    """
    for name in names:
        try:
            with redirect_stdout(sys.stderr):
                _load(name)
        except NoisebenchError as error:
            raise ConfigError(f"plugin {name}: {error}") from error
        except (Exception, SystemExit) as error:  # a stranger's module may throw anything
            raise ConfigError(
                f"plugin {name} cannot be loaded: {type(error).__name__}: {error}".splitlines()[0]
            ) from error


def code_of(file: str | None) -> str:
    """The hash of a plugin's file, and of what it imports from its own folder or package; empty
    where it is of no file.
    """
    if not file or not Path(file).is_file():
        return ""
    own = Path(file).resolve()
    found: dict[Path, None] = {own: None}
    waiting = [own]
    while waiting:
        new = [path for path in _imported(waiting.pop(), _area(own)) if path not in found]
        found.update(dict.fromkeys(new))
        waiting += new
    digest = hashlib.sha256(own.read_bytes())
    for path in sorted(found.keys() - {own}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _area(own: Path) -> Path:
    """Where what a plugin imports is its own: its topmost package, or its folder; of a file beside
    others' packages, that file alone.
    """
    if (own.parent / "__init__.py").exists():
        return next(
            folder for folder in own.parents if not (folder.parent / "__init__.py").exists()
        )
    return own if "site-packages" in own.parts else own.parent


def _imported(file: Path, area: Path) -> Iterator[Path]:
    """The files within an area that a file imports, wherever in it."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # then nothing is imported by it
        return
    root = area.parent if (area / "__init__.py").exists() else area
    for level, name in _names(tree):
        parts = name.split(".") if name else []
        base = file.parents[level - 1] if level else root
        for end in range(len(parts) + 1):
            stem = base.joinpath(*parts[:end])
            files = stem.with_name(f"{stem.name}.py"), stem / "__init__.py"
            yield from (path for path in files if path.is_file() and path.is_relative_to(area))


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What is imported: how many dots stand before it, and its name; of `from a import b`, b may be
    a module too.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                (node.level, ".".join(filter(None, (node.module, alias.name))))
                for alias in node.names
            )


def _load(name: str) -> None:
    path = Path(name)
    if path.suffix != ".py":
        _note_code(importlib.import_module(name))
        return
    # two files may have one name
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    module_name = f"noisebench_plugin_{path.stem}_{place}"
    if module_name in sys.modules:
        _note_code(sys.modules[module_name])
        return
    if not path.exists():
        raise ConfigError("no such file")
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    _note_code(module)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


def _note_code(module: ModuleType) -> None:
    """Raises ConfigError where a module that was loaded has another code by now: it would compute
    what is written there no longer.
    """
    code = code_of(getattr(module, "__file__", None))
    if module.__dict__.setdefault(_LOADED, code) != code:
        raise ConfigError("its code has changed since it was loaded: begin a new session")
