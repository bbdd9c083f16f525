"""How long a suite will take: from finished runs by arithmetic, else by a few steps that leave
nothing behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noisebench.runs.queue import estimate_suite_seconds, make_packs, makespan
from noisebench.runs.workspace import Workspace
from tests.unit.test_pack import agenda


@pytest.mark.parametrize(
    ("seconds", "jobs", "end"),
    [([5, 1, 1, 1], 2, 5), ([1, 1, 1, 5], 2, 6), ([2, 2, 2], 1, 6), ([3], 4, 3), ([], 2, 0)],
)
def test_each_worker_takes_the_next_as_soon_as_it_is_free(
    seconds: list[float], jobs: int, end: float
) -> None:
    assert makespan(seconds, jobs) == end


def a_record(strategy: str, seconds: float, **changes: Any) -> dict[str, Any]:
    record = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "recipe": {"batch_size": 64, "epochs": 10}, "precision": "bf16",
              "strategy": strategy, "seconds": seconds, "noise": {}, "environment": {"packed": 16}}  # fmt: skip
    return {**record, **changes}


def test_finished_runs_of_the_same_sort_are_taken_at_their_word(tmp_path: Path) -> None:
    """And runs of other widths, subsets or image sizes are not: each epoch of the two that count
    takes 3 s.
    """
    items = agenda(tmp_path, "smoke", subset=None)  # 8 runs of 2 epochs
    records = [a_record("standard", 20.0), a_record("standard", 40.0), a_record("d2l(wait=0.3)", 1.0),
               a_record("standard", 1.0, environment={"packed": 1}), a_record("standard", 1.0, noise={"subset": 300}),
               a_record("standard", 1.0, recipe={"batch_size": 64, "epochs": 10, "size": 64})]  # fmt: skip
    seconds = estimate_suite_seconds(
        Workspace(tmp_path), make_packs(items, items), records, 1, "cpu"
    )
    assert seconds == pytest.approx(len(items) * 2 * 3.0, abs=0.5)


@pytest.mark.parametrize("model", ["mlp", "cnn4"])
def test_what_nobody_has_run_is_measured_and_leaves_nothing(model: str, tmp_path: Path) -> None:
    items, threads = agenda(tmp_path, "smoke", model=model), torch.get_num_threads()
    one, two = (
        estimate_suite_seconds(Workspace(tmp_path), make_packs(items, items[:count]), [], 1, "cpu")
        for count in (4, 8)
    )
    assert one > 0 and 0 < two < 600
    assert torch.get_num_threads() == threads and not (tmp_path / "runs").exists()


def test_a_run_that_diverges_is_planned_all_the_same(tmp_path: Path) -> None:
    items = agenda(tmp_path, "smoke", model="cnn4", lr=1e30)
    assert (
        0
        < estimate_suite_seconds(Workspace(tmp_path), make_packs(items, items[:1]), [], 1, "cpu")
        < 600
    )


def test_packs_with_different_validation_splits_are_measured_one_by_one(tmp_path: Path) -> None:
    items = agenda(tmp_path, "quick", val_fraction=0.2, seeds=[0, 1])
    packs = make_packs(items, items)
    assert len(packs) > 7 and all(pack.width > 1 for pack in packs)
    assert estimate_suite_seconds(Workspace(tmp_path), packs, [], 1, "cpu") > 0
