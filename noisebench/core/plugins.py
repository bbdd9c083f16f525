"""Plugins: losses, strategies and noises in a Python file or an importable module.

A run's key contains the hash of a plugin's source, including the modules that it imports from its
own directory or package, at the time when it was loaded.
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
    """Import each plugin once; its output goes to stderr. Raises ConfigError if it is missing,
    fails or exits.
    """
    for name in names:
        try:
            with redirect_stdout(sys.stderr):
                _load(name)
        except NoisebenchError as error:
            raise ConfigError(f"plugin {name}: {error}") from error
        except (Exception, SystemExit) as error:  # a plugin can raise anything
            raise ConfigError(
                f"plugin {name} cannot be loaded: {type(error).__name__}: {error}".splitlines()[0]
            ) from error


def code_of(file: str | None) -> str:
    """The hash of a plugin's file and of its imports from its own directory or package; empty
    without a file.
    """
    if not file or not Path(file).is_file():
        return ""
    plugin = Path(file).resolve()
    # its topmost package, or its directory; in site-packages, a single file
    area = plugin if "site-packages" in plugin.parts else plugin.parent
    if (plugin.parent / "__init__.py").exists():
        area = next(p for p in plugin.parents if not (p.parent / "__init__.py").exists())
    files, queue = {plugin}, [plugin]
    while queue:
        imported = set(_imported(queue.pop(), area)) - files
        files |= imported
        queue += imported
    digest = hashlib.sha256(plugin.read_bytes())
    for path in sorted(files - {plugin}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _imported(file: Path, area: Path) -> Iterator[Path]:
    """The files within an area that a file imports, at any level."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # it imports nothing
        return
    names: list[tuple[int, str]] = []  # the number of dots before a name, and the name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # in `from a import b`, b can be a module too
            module = f"{node.module}." if node.module else ""
            names += [(node.level, module + alias.name) for alias in node.names]
    root = area.parent if (area / "__init__.py").exists() else area
    for level, name in names:
        folder = file.parents[level - 1] if level else root
        parts = name.split(".")
        for end in range(len(parts) + 1):
            stem = folder.joinpath(*parts[:end])
            for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
                if path.is_file() and path.is_relative_to(area):
                    yield path


def _load(name: str) -> None:
    path, module_name = Path(name), name
    if path.suffix == ".py":  # two files can have the same name
        path_hash = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
        module_name = f"noisebench_plugin_{path.stem}_{path_hash}"
    if path.suffix != ".py" or module_name in sys.modules:
        _note_code(importlib.import_module(module_name))
        return
    if not path.exists():
        raise ConfigError("the file does not exist")
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    _note_code(module)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:  # raised again; the next attempt loads it again
        del sys.modules[module_name]
        raise


def _note_code(module: ModuleType) -> None:
    """Raises ConfigError if the file of a loaded module has changed, since the key would be
    wrong.
    """
    code = code_of(getattr(module, "__file__", None))
    if module.__dict__.setdefault(_LOADED, code) != code:
        raise ConfigError("its code has changed since it was loaded: restart Python")
