"""Derives seeds from a seed and the number of a purpose.

A number never changes and is never used twice, since it determines labels, splits and initial
weights.
"""

from __future__ import annotations

import numpy as np

NETWORK, EPOCH, STRATEGY, RANK = range(4)  # training
RATES, PROJECTION, CORRUPTED, VIEWS = range(11, 15)  # instance-dependent noise
REPLACED, REPLACEMENTS = 21, 22  # images of another data set
VALIDATION = 31
ESTIMATION_FOLD = 37
CROSS_VALIDATION_FOLD = 41
TRUSTED = 43
SUBSET = 47
TEST_SPLIT = 53  # of a data set without a test part


def derived_seed(seed: int, *purpose: int) -> int:
    """An independent seed for one purpose; the same on every machine."""
    return int(
        np.random.SeedSequence([seed, *purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
