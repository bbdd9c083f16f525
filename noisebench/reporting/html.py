"""Renders a template as one HTML file: its style and script are inlined, and its content security
policy allows them by hash and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from ..errors import printable


def render(package: str, name: str, *, images: str = "data:", **values: Any) -> str:
    """The HTML document of NAME.html.j2, NAME.css and NAME.js in a package. All text except the
    template's is made printable and escaped; images: where the policy allows images from.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def part(file: str) -> str:
        return files(package).joinpath(file).read_text(encoding="utf-8")

    style = files(__package__).joinpath("base.css").read_text(encoding="utf-8")
    style, script = style + part(f"{name}.css"), part(f"{name}.js")
    policy = (
        f"default-src 'none'; img-src {images}; style-src '{_hash(style)}'; script-src "
        f"'{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(part),
        finalize=_printable,
    )
    template = environment.get_template(f"{name}.html.j2")
    return template.render(style=style, script=script, policy=policy, **values)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _printable(value: Any) -> Any:
    """Makes text printable before the template escapes it; leaves markup as it is."""
    return printable(value) if type(value) is str else value
