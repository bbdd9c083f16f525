"""The comforts of the command line: options of plugins, the schema of suite files, completion."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisebench.cli import main

NOISE = '''
import numpy as np
from noisebench import register_noise
from noisebench.core.parameters import Rate
from noisebench.noise import NoiseOption

@register_noise(option=NoiseOption("--nearby", "RATE", "The next class."), paper="mine, 2026")
def nearby(num_classes: int, rate: Rate) -> np.ndarray:
    """Class i becomes i + 1."""
    eye = np.eye(num_classes)
    return (1 - rate) * eye + rate * np.roll(eye, 1, 1)
'''


def test_a_plugins_noise_has_its_short_option_and_breaks_no_other(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my_noise.py").write_text(NOISE)
    assert main(["--plugin", "my_noise.py", "corrupt", "digits", "--nearby", "0.3"]) == 0
    assert "nearby(rate=0.3)" in capsys.readouterr().out
    for words in (["--sym", "0.4"], ["--nearby", "0.2"]):
        assert main(["corrupt", "digits", *words]) == 0
