"""The one loop: it learns, repeats itself bit for bit, resumes, sees no clean label, and says where
a cost went wrong.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields

import numpy as np
import pytest
import torch

from noisebench.datasets import Images
from noisebench.errors import RunFailed
from noisebench.losses import Scores, register_loss
from noisebench.training.images import EpochPlan, InMemoryImages, Normalisation
from noisebench.training.optimizer import learning_rate_factor
from noisebench.training.trainer import Task, Trainer
from tests.conftest import CPU, same, weights


@register_loss(properties=())
def test_nan_when_sure(log_p):
    """NaN as soon as one probability passes 0.9."""
    return -log_p + (log_p > -0.105).float() * float("nan")


test_nan_when_sure.__test__ = False  # a loss, not a test


def test_the_cost_falls(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(epochs=10, lr=0.1)
    costs = [trainer.run_epoch().loss for _ in range(10)]
    assert costs[-1] < 0.6 * costs[0]


@pytest.mark.parametrize("model", ["mlp", "cnn4", "cnn8"])
def test_two_runs_are_equal_bit_for_bit(model: str, make_trainer: Callable[..., Trainer]) -> None:
    ends = []
    for _ in range(2):
        trainer = make_trainer(model=model, crop=1, flip=True, clip=1.0)
        trainer.run_epoch()
        ends.append(weights(trainer))
    assert same(*ends)


def test_another_seed_is_another_run(make_trainer: Callable[..., Trainer]) -> None:
    first, second = make_trainer(seed=0), make_trainer(seed=1)
    assert not same(weights(first), weights(second))
    assert not torch.equal(first.state.plan.order, second.state.plan.order)


def test_dropout_resumes_bit_for_bit_in_mid_epoch(make_trainer: Callable[..., Trainer]) -> None:
    straight, saved = make_trainer(model="timm:resnet10t", batch_size=64), {}
    straight.networks[0].drop_rate = 0.5
    straight.run_epoch(
        lambda: saved.update(deepcopy(straight.state_dict())) if straight.state.step == 2 else None
    )
    resumed = make_trainer(model="timm:resnet10t", batch_size=64)
    resumed.networks[0].drop_rate = 0.5
    resumed.load_state_dict(saved)
    resumed.run_epoch()
    assert same(weights(resumed), weights(straight))


def test_the_callers_randomness_is_left_alone(make_trainer: Callable[..., Trainer]) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    make_trainer().run_epoch()
    assert torch.equal(torch.rand(3), expected)


def test_a_task_has_no_place_for_clean_or_test_labels() -> None:
    assert {field.name for field in fields(Task)} == {
        "images", "labels", "test_images", "num_classes", "model", "loss", "strategy", "recipe", "seed", "precision", "penalty",
        "val_images", "trusted", "init", "numbers",
    }  # fmt: skip


def test_a_cost_that_is_not_finite_fails_naming_the_step(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer("test_nan_when_sure", lr=0.5, epochs=20)
    with pytest.raises(RunFailed, match=r"the cost became nan at epoch \d+, step \d+"):
        for _ in range(20):
            trainer.run_epoch()


def test_gradients_are_clipped(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(
        clip=1e-3, lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, schedule="constant"
    )
    before = weights(trainer)
    trainer.training_step.run()
    moved = np.sqrt(
        sum(((a - b) ** 2).sum() for a, b in zip(weights(trainer), before, strict=True))
    )
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_cosine_falls_from_one_to_zero(subtests: pytest.Subtests) -> None:
    for done, factor in ((0, 1.0), (5, 0.5), (10, 0.0), (2.5, 0.5 + 0.5**1.5)):
        with subtests.test(done=done):
            assert learning_rate_factor(("cosine", ()), done, 10) == pytest.approx(factor)


def test_steps_divide_by_ten_after_their_epochs(subtests: pytest.Subtests) -> None:
    for done, factor in ((0, 1.0), (39.9, 1.0), (40, 0.1), (79, 0.1), (80, 0.01)):
        with subtests.test(done=done):
            assert learning_rate_factor(("step", (40, 80)), done, 120) == pytest.approx(factor)


def test_images_are_normalised_by_the_training_sets_own_mean_and_deviation(digits: Images) -> None:
    normalise = Normalisation.of(digits.train_images)
    images = torch.cat(list(InMemoryImages(digits.train_images, normalise, CPU).eval_batches()))
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_a_crop_without_shift_is_the_image_itself(digits: Images) -> None:
    pixels = InMemoryImages(digits.train_images, Normalisation.of(digits.train_images), CPU, crop=2)
    index = torch.arange(5)
    still = pixels.augmented(index, torch.full((5, 2), 2), torch.zeros(5, dtype=torch.bool))
    assert torch.equal(still, next(pixels.eval_batches(index)))


@pytest.mark.parametrize("crop", [0, 2])
def test_flips_mirror_each_image_alone(crop: int, digits: Images) -> None:
    pixels = InMemoryImages(
        digits.train_images, Normalisation.of(digits.train_images), CPU, crop=crop
    )
    index, flips = torch.arange(4), torch.tensor([True, False, True, False])
    plain = next(pixels.eval_batches(index))
    mirrored = pixels.augmented(index, torch.full((4, 2), crop), flips)
    assert torch.equal(mirrored[flips], plain[flips].flip(3)) and torch.equal(
        mirrored[~flips], plain[~flips]
    )


@pytest.mark.parametrize("crop", [0, 2])
def test_a_small_set_gives_the_same_images_as_one_kept_as_bytes(
    crop: int, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalise = Normalisation.of(digits.train_images)
    small = InMemoryImages(digits.train_images, normalise, CPU, crop)
    monkeypatch.setattr("noisebench.training.images._FEW", 0)
    large = InMemoryImages(digits.train_images, normalise, CPU, crop)
    plan = EpochPlan.draw(len(small), 2, crop, crop > 0, torch.Generator().manual_seed(1))
    pairs = [
        *zip(small.views(plan, slice(0, 9)), large.views(plan, slice(0, 9)), strict=True),
        *zip(small.eval_batches(), large.eval_batches(), strict=True),
    ]
    for one, other in pairs:
        assert torch.equal(one, other) and one.stride() == other.stride()


def test_a_shift_moves_the_image_and_fills_with_black() -> None:
    images = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1)
    pixels = InMemoryImages(images, Normalisation(torch.zeros(1), torch.ones(1)), CPU, crop=1)
    moved = pixels.augmented(torch.tensor([0]), torch.tensor([[0, 2]]), torch.tensor([False]))
    assert moved[0, 0].tolist() == [[0, 0, 0], [2, 3, 0], [5, 6, 0]]


def test_an_epoch_visits_every_example_once_and_draws_all_shifts() -> None:
    plan = EpochPlan.draw(1000, 2, 4, True, torch.Generator().manual_seed(0))
    assert torch.equal(plan.order.sort().values, torch.arange(1000))
    assert set(plan.shifts.unique().tolist()) == set(range(9))
    assert plan.flips is not None and plan.flips.float().mean().item() == pytest.approx(
        0.5, abs=0.05
    )


def test_a_last_batch_of_one_is_left_out_but_a_single_batch_is_kept(
    make_trainer: Callable[..., Trainer],
) -> None:
    for size, expected in ((255, [255]), (200, [200, 56]), (256, [256])):
        state = make_trainer(batch_size=size).state
        assert [len(batch) for batch in state.batches] == expected


def test_bf16_trains_with_the_loss_in_float32(
    digits: Images, make_trainer: Callable[..., Trainer]
) -> None:
    trainer = make_trainer()
    object.__setattr__(trainer.task, "precision", "bf16")
    seen: list[torch.dtype] = []

    def loss(scores: Scores) -> torch.Tensor:
        seen.append(scores.log_p.dtype)
        return trainer.task.loss(scores)

    trainer.training_step.loss = loss
    assert np.isfinite(trainer.run_epoch().loss)
    assert set(seen) == {torch.float32}


_PREDICT = """
import re, numpy as np, torch
from noisebench.training.networks import make_network
from noisebench.training.images import InMemoryImages, Normalisation
from noisebench.training.inference import log_p_parts

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

images = np.zeros((1024, 32, 32, 3), np.uint8)
network = make_network("cnn4", 10, (32, 32, 3), 0)
pixels = InMemoryImages(images, Normalisation.of(images), torch.device("cpu"))
list(log_p_parts([network], pixels, "fp32", torch.arange(4)))
before = peak()
list(log_p_parts([network], pixels, "fp32"))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_memory_of_predictions_is_bounded() -> None:
    """In MB, beyond that of the process; all 1,024 images at once take 270."""
    done = subprocess.run(
        [sys.executable, "-c", _PREDICT], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 180
