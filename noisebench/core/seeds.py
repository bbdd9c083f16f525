"""Seeds made of a seed."""

from __future__ import annotations

import numpy as np


def derived_seed(seed: int, *purpose: int) -> int:
    """An independent seed for one purpose; the same on every machine."""
    return int(
        np.random.SeedSequence([seed, *purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
