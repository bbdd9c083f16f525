"""What pyproject.toml puts into the wheel."""

from __future__ import annotations

import tomllib
from importlib.resources import files

from tests.support.pages import ROOT


def test_the_templates_of_the_page_travel_in_the_wheel() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    for name in ("page", "review"):
        names = {path.name for path in files(f"noisebench.reporting.{name}").iterdir()}
        assert {f"{name}.html.j2", f"{name}.css", f"{name}.js"} <= names
    assert wheel["packages"] == ["noisebench"] and "exclude" not in wheel
