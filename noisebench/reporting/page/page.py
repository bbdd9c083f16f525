"""Renders a report as one HTML file, with its figures inlined."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ...runs.workspace import Workspace
from ..html import render
from ..table import Table
from .details import NUMBERS
from .model import view_of

if TYPE_CHECKING:
    from markupsafe import Markup

    from ..gate import Check

Figure = tuple[str, str, str]
"""A title, a caption and an SVG document."""
_DROPPED = {"metadata", "script", "foreignObject", "title", "style"}
_NAMESPACE = re.compile(r"^\{.*\}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(
    r"(?:(?P<style>italic|oblique)\s+)?(?:(?P<weight>bold|\d{3})\s+)?"
    r"(?P<size>[\d.]+px)\s+(?P<family>.+)"
)
_POINTS = 4 / 3  # CSS pixels per point
# text, background and grid, which follow light and dark mode
_COLORS = {"#000000": "currentColor", "#ffffff": "none", "#ebebeb": "var(--line)"}
_ROOT = {
    "role": "img",
    "fill": "currentColor",
    "stroke-linejoin": "round",
    "stroke-linecap": "butt",
}  # the last two are in matplotlib's style element


def page(
    tables: list[Table],
    workspace: Workspace,
    *,
    ranks: bool = False,
    verdict: Check | None = None,
    damaged: Sequence[str] = (),
    figures: Sequence[Figure] = (),
) -> str:
    """The HTML document. All text except the template's is escaped; nothing is loaded."""
    svgs = [
        (title, caption, inline_svg(svg, title, f"figure{number}-"))
        for number, (title, caption, svg) in enumerate(figures, 1)
    ]
    return render(
        str(__package__),
        "page",
        view=view_of(tables, damaged, workspace, ranks=ranks),
        numbers=NUMBERS,
        verdict=verdict,
        figures=svgs,
    )


def inline_svg(svg: str, title: str, prefix: str) -> Markup:
    """The figure with prefixed ids, and with styles as attributes, since the policy forbids inline
    styles.
    """
    from markupsafe import Markup

    root = ElementTree.fromstring(svg)  # noqa: S314 made by this program
    _clean(root, prefix)
    for side in ("width", "height"):
        length = root.get(side, "")
        root.set(side, f"{float(length[:-2]) * _POINTS:.0f}" if length.endswith("pt") else length)
    for name, value in {**_ROOT, "aria-label": title}.items():
        root.set(name, value)
    text = ElementTree.tostring(root, encoding="unicode")  # which escapes text and attributes
    return Markup(text)  # noqa: S704


def _clean(element: ElementTree.Element, prefix: str) -> None:
    element.tag = _NAMESPACE.sub("", element.tag)
    attributes = {_NAMESPACE.sub("", name): value for name, value in element.attrib.items()}
    declared = _as_attributes(attributes.pop("style", ""))
    element.attrib.clear()
    for name, value in {**attributes, **declared}.items():
        if not name.lower().startswith("on") and (
            name != "href" or value.startswith(("#", "data:image/png"))
        ):
            element.set(name, _prefixed(name, value, prefix))
    for child in list(element):
        if _NAMESPACE.sub("", child.tag) in _DROPPED:
            element.remove(child)
        else:
            _clean(child, prefix)


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name in ("fill", "stroke"):
        return _COLORS.get(value, value)
    return (
        f"#{prefix}{value[1:]}"
        if name == "href" and value.startswith("#")
        else _REFERENCE.sub(rf"url(#{prefix}\1)", value)
    )


def _as_attributes(style: str) -> dict[str, str]:
    """`fill: none; font: 10px 'DejaVu Sans'` as presentation attributes."""
    attributes: dict[str, str] = {}
    for declaration in filter(str.strip, style.split(";")):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (font := _FONT.fullmatch(value)):
            attributes |= {f"font-{key}": part for key, part in font.groupdict().items() if part}
        else:
            attributes[name] = value
    return attributes
