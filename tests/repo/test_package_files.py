"""What pyproject.toml puts into the wheel."""

from __future__ import annotations

import tomllib
from importlib.resources import files

from tests.support.pages import ROOT


def test_the_templates_of_the_page_travel_in_the_wheel() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    names = {path.name for path in files("noisebench.reporting.page").iterdir()}
    assert {"page.html.j2", "page.css", "page.js"} <= names
    assert wheel["packages"] == ["noisebench"] and "exclude" not in wheel
