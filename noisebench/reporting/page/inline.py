"""A figure's SVG as a part of a page: nothing in it runs, loads, styles or names anything outside
itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from markupsafe import Markup

_DROPPED = {"metadata", "script", "foreignObject", "title", "style"}
_NAMESPACE = re.compile(r"^\{.*\}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(
    r"(?:(?P<style>italic|oblique)\s+)?(?:(?P<weight>bold|\d{3})\s+)?(?P<size>[\d.]+px)\s+(?P<family>.+)"
)
_POINTS = 4 / 3  # CSS pixels a point
# ink, paper and grid, which follow light and dark
_COLORS = {"#000000": "currentColor", "#ffffff": "none", "#ebebeb": "var(--line)"}
_ROOT = {
    "role": "img",
    "fill": "currentColor",
    "stroke-linejoin": "round",
    "stroke-linecap": "butt",
}  # the last two stand in matplotlib's style element


def inline_svg(svg: str, title: str, prefix: str) -> Markup:
    """The figure with its ids prefixed and each style as attributes, which a policy without inline
    styles lets pass.
    """
    from markupsafe import Markup

    root = ElementTree.fromstring(svg)  # noqa: S314 made by this program a moment ago
    _clean(root, prefix)
    for side in ("width", "height"):
        length = root.get(side, "")
        root.set(side, f"{float(length[:-2]) * _POINTS:.0f}" if length.endswith("pt") else length)
    for name, value in {**_ROOT, "aria-label": title}.items():
        root.set(name, value)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 ElementTree escapes text and attributes


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
    found: dict[str, str] = {}
    for declaration in filter(str.strip, style.split(";")):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (font := _FONT.fullmatch(value)):
            found |= {f"font-{key}": part for key, part in font.groupdict().items() if part}
        else:
            found[name] = value
    return found
