"""The suite reader: the packaged suites, one at a time, with values, lines or bytes changed ->
read, and every run listed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from noisebench.experiments.suite import (
    expand,
    find_suite,
    label_request_of,
    read_suites,
    request_of,
)
from noisebench.experiments.suite_file import packaged_suites

from .choices import VALUES, Choices, changed, mutated


def prepare(folder: Path) -> Callable[[bytes], None]:
    """A file with one suite or two."""
    packaged = yaml.safe_load(packaged_suites().read_text())["suites"]
    seeds = [{"version": 1, "suites": {name: suite}} for name, suite in packaged.items()]
    values = [value for value in VALUES if not (isinstance(value, str) and "\ud800" in value)]

    def attempt(data: bytes) -> None:
        choices = Choices(data)
        content = choices.of(seeds)
        if choices.chance(2):
            content = changed(choices, content, values)
        text = yaml.dump(content, allow_unicode=choices.chance(2)).encode()
        if choices.chance(2):
            text = mutated(choices, text)
        path = folder / "suite.yaml"
        path.write_bytes(text)
        for suite in read_suites(path).values():
            for wanted in expand(suite)[:20]:
                request_of(wanted)
                if "noise" in wanted.settings:
                    label_request_of(wanted)
        find_suite(str(path), folder)

    return attempt
