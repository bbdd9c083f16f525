"""A report as one HTML file: the model in a template, its style and script inlined and named by
hash in its own security policy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ...errors import printable
from ...runs.workspace import Workspace
from ..table import Table
from .detail import NUMBERS
from .inline import inline_svg
from .model import view_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from ..ci.gate import Check

Figure = tuple[str, str, str]  # a title, what one must know to read it, and an SVG document


def page(
    tables: list[Table],
    workspace: Workspace,
    *,
    ranks: bool = False,
    verdict: Check | None = None,
    damaged: Sequence[str] = (),
    figures: Sequence[Figure] = (),
) -> str:
    """The whole document. Whatever stands in it besides our own template is escaped; nothing in it
    may load anything.
    """
    view = view_of(tables, damaged, workspace, ranks=ranks)
    style, script = _part("page.css"), _part("page.js")
    drawn = [
        (title, said, inline_svg(svg, title, f"figure{number}-"))
        for number, (title, said, svg) in enumerate(figures, 1)
    ]
    template = _environment().get_template("page.html.j2")
    return template.render(
        view=view,
        numbers=NUMBERS,
        verdict=verdict,
        figures=drawn,
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere but pictures within the file, and exactly this style and this
    script.
    """
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src "
        f"'{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_part),
        finalize=_seen,
    )


def _seen(value: Any) -> Any:
    """What the template is about to escape; what is markup already is the template's own."""
    return printable(value) if type(value) is str else value
