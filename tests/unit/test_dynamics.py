"""What is kept of how a training treats right and wrong labels: the gradient's closed forms, the
bins, resumption.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from noisebench.errors import DataError, Interrupted
from noisebench.metrics.dynamics import BINS, Dynamics
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.folder import RunFolder
from noisebench.training.trainer import Trainer
from tests.conftest import Case
from tests.unit.test_runner import Desk

FORMS = {
    "ce": lambda p: 2 * (1 - p),
    "el(eps=0.4)": lambda p: 1.4 * p / (p + 0.4) * 2 * (1 - p),  # Equal Loss, Eq. 6
    "mae": lambda p: 4 * p * (1 - p),
    "gce(q=0.7)": lambda p: p**0.7 * 2 * (1 - p),
}


def test_the_gradients_norm_is_the_losses_own(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for batch_size in [32, 50]:
        for loss, form in FORMS.items():
            with case(loss=loss, batch_size=batch_size):
                end = make_trainer(loss, batch_size=batch_size).run_epoch()
                np.testing.assert_allclose(
                    end.train_gradient, form(end.train_p.astype(np.float64)), rtol=1e-4, atol=1e-5
                )


def test_p_is_of_the_recorded_label_and_the_class_the_likeliest(
    make_trainer: Callable[..., Trainer],
) -> None:
    # one step from where the network is
    trainer = make_trainer(lr=0.0, batch_size=256, weight_decay=0.0)
    trainer.networks[0].eval()
    expected = trainer.networks[0](
        next(trainer.train.eval_batches(torch.arange(256, device=trainer.device)))
    ).softmax(1)
    end = trainer.run_epoch()
    np.testing.assert_allclose(
        end.train_p,
        expected.detach().cpu().numpy()[np.arange(256), trainer.state.labels.cpu().numpy()],
        rtol=1e-4,
    )
    assert np.array_equal(end.train_predicted, expected.argmax(1).cpu().numpy())


def test_an_example_that_no_step_saw_has_none(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    trainer.training_step.run()
    seen = trainer.state.predictions.predicted >= 0
    assert (
        int(seen.sum()) == 32
        and trainer.state.predictions.p.isnan().equal(~seen)
        and trainer.state.predictions.gradient.isnan().equal(~seen)
    )


def test_one_that_is_not_trusted_pulls_at_nothing(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("ce", "coteaching(rate=0.5, ramp=0.3)")
    share = [float((trainer.run_epoch().train_gradient == 0).mean()) for _ in range(3)]
    assert share[0] == pytest.approx(0, abs=0.05) and share[2] == pytest.approx(0.5, abs=0.05)


def test_examples_are_counted_by_group_and_bin() -> None:
    dynamics = Dynamics()
    p, gradient = np.array([0.0, 0.019, 0.02, 1.0, np.nan]), np.array([1.0, 2.0, 4.0, 8.0, np.nan])
    dynamics.add(p, gradient, np.array([0, 1, 1, 1, 0]), np.array([0, 1, 0, -1, 0]))
    right, wrong, unknown = dynamics.counts[0]
    assert (right[0], right.sum(), wrong[1], wrong.sum(), unknown[BINS - 1], unknown.sum()) == (
        2,
        2,
        1,
        1,
        1,
        1,
    )
    assert [sums.sum() for sums in dynamics.gradients[0]] == [3.0, 4.0, 8.0]


def test_densities_are_densities() -> None:
    rng, dynamics = np.random.default_rng(0), Dynamics()
    p, gradient, labels = rng.random(1000), rng.random(1000), np.arange(1000) % 3
    dynamics.add(p, gradient, labels, labels * (labels < 2))
    assert dynamics.density(1).sum(1) / BINS == pytest.approx([1, 1, 0])
    assert dynamics.gradient_density(1).sum() / BINS == pytest.approx(gradient.mean())
    with pytest.raises(DataError, match="epoch 2 does not exist"):
        dynamics.density(2)


def test_the_mean_is_over_the_epochs_that_saw_the_example() -> None:
    dynamics = Dynamics()
    for p in ([0.2, 0.4, np.nan], [0.4, np.nan, np.nan]):
        dynamics.add_early(np.stack([p, np.subtract(1, p)], 1))
    assert np.allclose(dynamics.early_p, [[0.3, 0.7], [0.4, 0.6], [np.nan, np.nan]], equal_nan=True)


def test_an_interrupted_run_keeps_the_same(tmp_path: Path) -> None:
    straight, stopped = Desk(tmp_path / "straight"), Desk(tmp_path / "stopped")
    run, steps = straight.plan(), iter(range(1000))
    straight.execute(run)
    with pytest.raises(Interrupted):
        stopped.execute(run, RunOptions(should_stop=lambda: next(steps) >= 30))
    stopped.execute(run)
    folders = [desk.folder(run) for desk in (straight, stopped)]
    for name in ("dynamics", "predictions"):
        first, second = (getattr(folder, name).read_bytes() for folder in folders)
        assert first == second


def test_a_run_keeps_all_its_epochs_and_every_example(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    run = desk.plan()
    desk.execute(run)
    dynamics, arrays = desk.folder(run).read_dynamics(), desk.folder(run).read_arrays()
    wrong = int((arrays["recorded_labels"] != arrays["clean_labels"]).sum())
    assert [counts.sum(1).tolist() for counts in dynamics.counts] == [[1297 - wrong, wrong, 0]] * 3
    assert arrays["early_log_p"].shape == (1297, 10)
    assert np.exp(arrays["early_log_p"].astype(float)).sum(1) == pytest.approx(
        np.ones(1297), abs=5e-3
    )


def test_a_damaged_file_is_named(tmp_path: Path, case: Case) -> None:
    for content in [
        b"",
        b"PK",
        {"counts": np.zeros((3, 3, 50))},
        {"counts": np.zeros(3), "gradients": np.zeros(3)},
    ]:
        with case(content=content):
            desk = Desk(tmp_path)
            run = desk.plan(changes={"epochs": 1})
            desk.execute(run)
            path = desk.folder(run).dynamics
            path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
            with pytest.raises(
                DataError,
                match=r"dynamics.npz is damaged .*run it again with "
                r"--force",
            ):
                RunFolder(desk.folder(run).path, checked=False).read_dynamics()


def test_a_run_of_an_older_version_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    run = desk.plan()
    desk.execute(run)
    desk.folder(run).dynamics.unlink()
    with pytest.raises(DataError, match="run it again with --force"):
        desk.folder(run).read_dynamics()
