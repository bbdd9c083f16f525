"""What no option of `train` took: the data set, and the loss's own parameters such as `--eps
0.4`.
"""

from __future__ import annotations

import difflib
from typing import Any

import typer

from ..errors import ConfigError


def split_words(context: typer.Context, words: list[str]) -> tuple[str | None, dict[str, str]]:
    """`cifar10 --eps 0.4 --q=0.7` -> the data set and `{"eps": "0.4", "q": "0.7"}`. Raises
    ConfigError.
    """
    dataset, parameters, rest = None, dict[str, str](), list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            _check_option(context, name)
            if not equals and not rest:
                raise ConfigError(f"--{name} needs a value")
            key = name.replace("-", "_")
            if key in parameters:
                raise ConfigError(f"--{name} is given twice")
            parameters[key] = value if equals else rest.pop(0)
        elif word.startswith("-"):
            raise ConfigError(f"no such option: {word} (noisebench train --help)")
        elif dataset is not None:
            raise ConfigError(f"one data set only: {dataset!r} and {word!r} are given")
        else:
            dataset = word
    return dataset, parameters


def _check_option(context: typer.Context, name: str) -> None:
    """Refuse a misplaced or misspelt option, which would otherwise be taken for a loss's
    parameter.
    """
    from ..losses import LOSSES

    if name.replace("-", "_") in {p.name for entry in LOSSES for p in entry.parameters}:
        return
    option = f"--{name}"
    if option in _options(context.parent):
        raise ConfigError(f"{option} stands before the command: noisebench {option} ... train")
    if near := difflib.get_close_matches(option, _options(context), n=1, cutoff=0.75):
        raise ConfigError(
            f"no such option: {option}; did you mean {near[0]}? (noisebench train --help)"
        )


def _options(context: Any) -> list[str]:
    return (
        [name for parameter in context.command.params for name in parameter.opts] if context else []
    )
