"""What is not finite ends a run with its step and examples, losses compute in float32, and every
example is counted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from noisebench.cli import main
from noisebench.core import hardware
from noisebench.core.files.arrays import packed_npz
from noisebench.errors import DataError, RunFailed
from noisebench.experiments.resolve import RunConfig, RunRequest, resolve_run
from noisebench.labels.build import LabelRequest
from noisebench.runs.checkpoint import RunOptions, RunState, save
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.session import execute_run, make_trainer
from noisebench.training.distributed.processes import ParallelConfig, cut
from noisebench.training.images import InMemoryImages
from noisebench.training.inference import every
from noisebench.training.packed import PackedTrainer
from noisebench.training.trainer import Trainer
from tests.conftest import Case, same, weights
from tests.contracts.test_losses import (
    COMBINATORS,
    POINTWISE,
    a_batch,
    combined,
    cost,
    extreme,
    texts_of,
    variants_of,
)
from tests.contracts.test_strategies import TEXTS
from tests.support.suites import reseal
from tests.unit.test_pack import WIDTH, agenda, carried_out, made, packed
from tests.unit.test_runner import Desk

INF, NAN = float("inf"), float("nan")
Made = Callable[..., Trainer]


def spoil(trainer: Trainer, step: int, values: torch.Tensor, becomes: float = INF) -> None:
    """From a step of the first epoch on, the first number of some values' gradient is not finite."""
    inner = trainer.training_step.run

    def spoiled() -> None:
        if (trainer.state.epoch, trainer.state.step) == (0, step):
            values.register_hook(
                lambda gradient: (
                    gradient.flatten().index_fill(0, torch.tensor([0]), becomes).view_as(gradient)
                )
            )
        inner()

    trainer.training_step.run = spoiled  # type: ignore[method-assign]


def failure(act: Callable[[], object]) -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        act()
    return caught.value


def own(trainer: Trainer) -> torch.Tensor:
    """What a strategy learns by the optimiser."""
    return trainer.state.optimizer.groups[-1].params[0]


WHERE: dict[str, tuple[dict[str, Any], Callable[[Trainer], torch.Tensor], str]] = {
    "a weight": ({}, lambda t: t.networks[0].head.weight, "head.weight"),
    "clipped": ({"clip": 1.0}, lambda t: t.networks[0].head.bias, "head.bias"),
    "in parts": ({"accumulate": 3}, lambda t: t.networks[0].head.weight, "head.weight"),
    "in parts, twice": (
        {"accumulate": 3, "strategy": "mixup"},
        lambda t: t.networks[0].head.weight,
        "head.weight",
    ),
    "two networks": (
        {"strategy": "coteaching(rate=0.3)"},
        lambda t: t.networks[1].head.bias,
        "head.bias of network 2",
    ),
    "by layers": (
        {"layer_decay": 0.5, "freeze": 1},
        lambda t: t.networks[0].head.bias,
        "head.bias",
    ),
    "of the strategy": ({"strategy": "volminnet"}, own, "the strategy's w"),
    "both": ({"strategy": "volminnet", "clip": 1.0}, own, "the strategy's w"),
}


@pytest.mark.parametrize("becomes", [INF, NAN])
def test_a_gradient_that_is_not_finite_fails_in_its_step_and_moves_nothing(
    becomes: float, make_trainer: Made, case: Case
) -> None:
    for where, (changes, values, name) in WHERE.items():
        with case(where):
            spread = ParallelConfig(accumulate=changes.get("accumulate", 1))
            trainer = make_trainer(
                spread=spread,
                **{key: value for key, value in changes.items() if key != "accumulate"},
            )
            spoil(trainer, 2, values(trainer), becomes)
            failed = failure(trainer.run_epoch)
            batch = trainer.state.batches[2].tolist()
            shown = ", ".join(map(str, batch[:3]))
            assert str(failed) == (
                f"the gradient of {name} became {becomes} at epoch 1, step 3, "
                f"on examples {shown} and 29 more"
            )
            assert failed.batch == batch and trainer.state.step == 2
            assert all(np.isfinite(value).all() for value in weights(trainer))


def test_a_gradient_that_is_finite_and_its_norm_is_not_fails_instead_of_standing_still(
    make_trainer: Made,
) -> None:
    trainer = make_trainer(clip=1.0)
    spoil(trainer, 1, trainer.networks[0].head.weight, becomes=1e30)
    assert str(failure(trainer.run_epoch)).startswith(
        "the gradient's norm became inf at epoch 1, step 2, on examples"
    )
    unclipped = make_trainer(clip=0.0, lr=1e-35)
    spoil(unclipped, 1, unclipped.networks[0].head.weight, becomes=1e30)
    unclipped.run_epoch()


def test_what_a_strategy_updates_by_itself_is_checked(make_trainer: Made) -> None:
    trainer = make_trainer(strategy="sop")
    index = trainer.state.batches[3]
    inner = trainer.strategy.regularizer

    def spoiled(batch: Any, outputs: Any) -> Any:
        penalty = inner(batch, outputs)
        if trainer.state.step == 3:
            trainer.strategy.state["v"][index[5], 1] = NAN
        return penalty

    trainer.strategy.regularizer = spoiled  # type: ignore[method-assign]
    failed = failure(trainer.run_epoch)
    assert (
        "the gradient of the strategy's v became nan at epoch 1, step 4" in str(failed)
        and failed.batch == index.tolist()
    )


def test_a_last_step_that_is_too_large_leaves_no_result(make_trainer: Made, case: Case) -> None:
    for lr in (1e30, 3e38):
        with case(lr=lr):
            trainer = make_trainer(epochs=1, batch_size=256, lr=lr, schedule="constant")
            assert "at epoch 1, step 1, on examples" in str(
                failed := failure(trainer.run_epoch)
            ) or "output is not finite" in str(failed)


def test_a_buffer_of_a_network_that_is_not_finite_fails_at_the_end_of_the_epoch(
    make_trainer: Made, case: Case
) -> None:
    for becomes in (INF, -INF, NAN):
        with case(becomes=becomes):
            trainer = make_trainer(model="cnn4", batch_size=128)
            variance = next(
                value
                for name, value in trainer.networks[0].named_buffers()
                if name.endswith("running_var")
            )
            with torch.no_grad():
                variance[0] = becomes
            assert f"running_var became {becomes}" in str(failure(trainer.run_epoch))


def test_what_a_gpu_computed_is_named_when_it_is_checked(make_trainer: Made) -> None:
    """There no step waits for the check; the tables are the same."""
    trainer = make_trainer()
    for _ in range(4):
        trainer.training_step.run()
    trainer.state.finite_probes[2] = INF
    assert str(failed := failure(trainer.state.check)).startswith(
        "a gradient became infinite or nan at epoch 1, step 3"
    )
    trainer.state.costs[1] = NAN
    assert str(failure(trainer.state.check)).startswith("the cost became nan at epoch 1, step 2")
    assert failed.batch == trainer.state.batches[2].tolist()


@pytest.mark.parametrize("said", ["val", "test", "train"])
def test_predictions_that_are_not_finite_are_no_result(said: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    run = held_out(desk)
    trainer = make_trainer(run, desk.images, "cpu")
    bad = {"val": trainer.val, "test": trainer.test, "train": trainer.train}[said]
    inner = trainer.predict_parts
    trainer.predict_parts = lambda pixels: (
        rows * (NAN if pixels is bad else 1) for rows in inner(pixels)
    )  # type: ignore[method-assign]
    with pytest.raises(RunFailed, match=r"not finite|a finite"):
        execute_run(run, desk.images, trainer, desk.folder(run), RunOptions())
    assert desk.folder(run).status() == "failed"


def held_out(desk: Desk, epochs: int = 2, **wish: Any) -> RunConfig:
    """A run on nine tenths of the digits: its examples stand elsewhere in the manifest."""
    manifest, _ = desk.workspace.make(
        desk.dataset, LabelRequest("symmetric(rate=0.4)", val_fraction=0.1)
    )
    changes = {"epochs": epochs, **wish.pop("changes", {})}
    return resolve_run(
        RunRequest(changes=changes, precision="fp32", **wish),
        desk.dataset,
        manifest,
        desk.images.fingerprint,
    )


def test_the_examples_of_a_failed_step_are_the_manifests(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    run = held_out(desk)
    trainer = make_trainer(run, desk.images, "cpu")
    expected = np.flatnonzero(run.manifest.in_training)[trainer.state.batches[4].numpy()]
    spoil(trainer, 4, trainer.networks[0].head.weight)
    with pytest.raises(
        RunFailed,
        match=r"^ce on digits, .*seed 0 failed: the gradient of "
        r"head.weight became inf at epoch 1, step 5, on",
    ):
        execute_run(run, desk.images, trainer, desk.folder(run), RunOptions())
    error = json.loads(desk.folder(run).error.read_text())
    assert error["batch"] == expected.tolist() and not np.array_equal(
        expected, trainer.state.batches[4]
    )
    assert (
        error["about"]["method"] == "ce"
        and f"on examples {expected[0]}, {expected[1]}, " in error["message"]
    )


def test_what_is_not_finite_while_noise_is_estimated_is_named_by_the_manifest_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noisebench.runs import session

    desk, seen = Desk(tmp_path), []
    run = held_out(desk, loss="el(eps=estimated)")
    inner = session.fold_trainer

    def spoiled(*arguments: Any) -> Trainer:
        trainer = inner(*arguments)
        spoil(trainer, 1, trainer.networks[0].head.bias)
        seen.append(trainer)
        return trainer

    monkeypatch.setattr(session, "fold_trainer", spoiled)
    with pytest.raises(
        RunFailed,
        match=r"failed: while the noise was estimated, the gradient of "
        r"head.bias became inf at epoch 1, step 2",
    ):
        desk.execute(run)
    within = np.flatnonzero(run.manifest.in_training)[session.estimation_folds(run) != 0]
    assert (
        json.loads(desk.folder(run).error.read_text())["batch"]
        == within[seen[0].state.batches[1].numpy()].tolist()
    )


def test_nothing_that_is_not_finite_is_saved(make_trainer: Made, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for spoiled in ("costs", "finite_probes", "weights"):
        trainer = make_trainer()
        trainer.training_step.run()
        with torch.no_grad():
            (
                next(trainer.networks[0].parameters()).flatten()
                if spoiled == "weights"
                else getattr(trainer.state, spoiled)
            )[0] = NAN
        failure(lambda trainer=trainer: save(folder, trainer, RunState()))
        assert not folder.resume.exists()


# In a pack


def spoil_packed(pack: PackedTrainer, place: int, step: int, becomes: float) -> None:
    """A number in the middle of one network's gradients; its logits do not show it."""

    def spoiled(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        if pack.first.state.step == step and pack.first.state.epoch == 0:
            gradient[place].view(-1)[7] = becomes
        return gradient

    list(pack.network.parameters())[2].register_hook(spoiled)


@pytest.mark.parametrize(
    ("step", "becomes", "clip"), [(2, INF, 0.0), (7, INF, 5.0), (7, NAN, 0.0), (2, NAN, 5.0)]
)
def test_a_gradient_of_one_run_of_a_pack_fails_it_alone_in_its_step(
    step: int, becomes: float, clip: float, make_trainer: Made
) -> None:
    settings = {"clip": clip}
    fine = [made(make_trainer, 0, **settings), made(make_trainer, 2, **settings)]
    packed(fine, 2)
    beside = [
        made(make_trainer, 0, **settings),
        made(make_trainer, 1, **settings),
        made(make_trainer, 2, **settings),
    ]
    batch = beside[1].state.batches[step].tolist()
    pack = PackedTrainer(beside, WIDTH)
    spoil_packed(pack, 1, step, becomes)
    ends = pack.run_epoch()
    assert isinstance(ends[1], RunFailed) and (
        f"at epoch 1, step {step + 1}, on examples {batch[0]}, {batch[1]}, "
    ) in str(ends[1])
    assert ends[1].batch == batch and len(pack.run_epoch()) == 2
    assert all(param.isfinite().all() for param in pack.network.parameters())
    assert same(weights(beside[0]), weights(fine[0])) and same(weights(beside[2]), weights(fine[1]))


def test_a_pack_that_is_stopped_saves_those_that_are_finite_and_fails_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = agenda(tmp_path, "smoke")[:3]
    inner, steps = PackedTrainer.make_step, iter(range(1000))

    def spoiled(self: PackedTrainer) -> None:
        inner(self)
        if self.first.state.epoch == 0 and self.first.state.step == 2:
            self._all[1].state.costs[1] = NAN

    monkeypatch.setattr(PackedTrainer, "make_step", spoiled)
    carried_out(
        tmp_path, items, conduct=RunOptions(should_stop=lambda: next(steps) >= 4 * len(items))
    )
    assert [item.folder.status() for item in items] == ["resume", "failed", "resume"]
    assert (
        "the cost became nan at epoch 1, step 2"
        in json.loads(items[1].folder.error.read_text())["message"]
    )


# Precision


class NoHalf(TorchDispatchMode):
    """Inside `with`, whatever computes a half-precision number is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor) and each.dtype in (torch.bfloat16, torch.float16):
                self.found.add(str(function))
        return out


def learned(text: str, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cost (N, K), and the gradient of a weighted sum of it, so that each column counts otherwise."""
    leaf = logits.clone().requires_grad_()
    found = cost(text, leaf)
    weight = torch.linspace(1, 2, found.numel(), dtype=found.dtype).view_as(found)
    (gradient,) = torch.autograd.grad((found * weight).sum(), leaf)
    return found.detach(), gradient


def test_no_loss_computes_in_half_precision_under_autocast(case: Case) -> None:
    """Bit for bit what it is without autocast, which is float32, and so is its gradient; logits of
    half precision are taken as float32.
    """
    first = [texts_of(entry)[0] for entry in POINTWISE] + [
        texts_of(entry, "ce")[0] for entry in COMBINATORS
    ]
    with_T = [entry.name for entry in COMBINATORS if any(p.name == "T" for p in entry.parameters)]
    tenfold = torch.cat([a_batch(8, 10), extreme(10)])
    for logits, texts in (
        (tenfold, variants_of(POINTWISE) + combined()),
        (a_batch(3, 100), first),
        (a_batch(3, 1000), first),
    ):
        for text in texts:
            if logits.shape[1] == 1000 and any(name in text for name in with_T):
                continue
            with case(loss=text, K=logits.shape[1]):
                with torch.autocast("cpu", torch.bfloat16), NoHalf() as half:
                    inside = learned(text, logits)
                assert not half.found
                for one, other in zip(inside, learned(text, logits), strict=True):
                    assert one.dtype == torch.float32 and torch.equal(one, other)
                short = logits.bfloat16()
                with torch.autocast("cpu", torch.bfloat16):
                    torch.testing.assert_close(cost(text, short), cost(text, short.float()))


def test_a_cost_and_its_gradient_are_those_of_float64(case: Case) -> None:
    exact, target = a_batch(20, 10).double(), (torch.arange(20) % 10)[:, None]
    for text in variants_of(POINTWISE) + combined():
        with case(loss=text):
            leaf = exact.clone().requires_grad_()
            reference = cost(text, leaf).gather(1, target)
            (expected,) = torch.autograd.grad(reference.sum(), leaf)
            leaf = exact.float().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16):
                found = cost(text, leaf).gather(1, target)
                (gradient,) = torch.autograd.grad(found.sum(), leaf)
            assert reference.dtype == torch.float64
            near = 1e-3 if "lam=1000" in text else 1e-5  # a logarithm of float32, times 1000
            torch.testing.assert_close(found.double(), reference, rtol=1e-4, atol=near)
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(
                gradient.double() / scale, expected / scale, rtol=1e-4, atol=2e-5
            )


def test_no_strategy_computes_in_half_precision_where_networks_do(
    make_trainer: Made, case: Case
) -> None:
    for text in [text for text in TEXTS if "data_driven" not in text]:
        with case(strategy=text):
            trainer = make_trainer(strategy=text, epochs=3, batch_size=128)
            object.__setattr__(trainer.task, "precision", "bf16")
            half, seen = watch_precision(trainer)
            for _ in range(3):
                trainer.run_epoch()
            assert not half.found and seen == {torch.float32}
            floating = [
                value
                for value in trainer.strategy.state.values()
                if isinstance(value, torch.Tensor) and value.is_floating_point()
            ]
            assert {value.dtype for value in floating} <= {torch.float32, torch.float64}


def watch_precision(trainer: Trainer) -> tuple[NoHalf, set[torch.dtype]]:
    """What computes in half precision within the objective and its gradient, and the precisions of
    the logits that it gets.
    """
    inner, half, seen = trainer.training_step.objective, NoHalf(), set()

    def watched(batch: Any, logits: Any, runs: int = 1) -> torch.Tensor:
        seen.update(each.dtype for views in logits for each in views)
        with half:
            objective: torch.Tensor = inner(batch, logits, runs)
            torch.autograd.grad(
                objective.sum(),
                [each for views in logits for each in views],
                allow_unused=True,
                retain_graph=True,
            )
        return objective

    trainer.training_step.objective = watched  # type: ignore[method-assign]
    return half, seen


def test_networks_compute_in_the_precision_that_the_record_names(tmp_path: Path) -> None:
    """A record cannot say bf16 where float32 was computed, nor the other way round."""
    desk = Desk(tmp_path)
    for name, dtypes in (("bf16", {torch.bfloat16}), ("fp32", {torch.float32})):
        run = desk.plan(precision=name, changes={"epochs": 1})
        trainer, seen = make_trainer(run, desk.images, "cpu"), set()
        trainer.networks[0].head.register_forward_hook(
            lambda _, __, out, seen=seen: seen.add(out.dtype)
        )
        record = execute_run(run, desk.images, trainer, desk.folder(run), RunOptions())
        assert record["precision"] == name and seen == dtypes


def test_a_machine_without_bf16_takes_float32_where_that_is_left_to_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_cpu_flags", set)
    monkeypatch.setattr(hardware, "_capability", lambda number: None)
    desk = Desk(tmp_path)
    left, asked = (desk.plan(precision=name, changes={"epochs": 1}) for name in ("auto", "bf16"))
    assert desk.execute(left)["precision"] == "fp32" and desk.execute(asked)["precision"] == "bf16"
    assert left.key != asked.key


def test_a_precision_without_a_test_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    for name in ("fp16", "float16", "half", "mixed"):
        with case(precision=name):
            assert (
                main(["-C", str(tmp_path), "train", "digits", "--sym", "0.4", "--precision", name])
                == 2
            )
            assert (
                f"precision must be one of auto, fp32, bf16, got '{name}'"
                in capsys.readouterr().err
            )


# Expected and seen


class Unreliable(InMemoryImages):
    """Images of which some are lost, or come twice."""

    change = 0

    def eval_batches(self, index: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
        index = torch.arange(len(self)) if index is None else index
        yield from super().eval_batches(
            index[: self.change] if self.change < 0 else torch.cat([index, index[: self.change]])
        )


def unreliable(pixels: Any, change: int) -> Any:
    pixels.__class__, pixels.change = Unreliable, change
    return pixels


def test_a_source_that_loses_or_repeats_an_image_gives_no_prediction(
    make_trainer: Made, case: Case
) -> None:
    trainer = make_trainer()
    for change in (-1, 1, -100, 1000):
        with case(change=change), pytest.raises(DataError, match="of 100 images were read"):
            trainer.predict(unreliable(trainer.test, change))
    assert sum(map(len, every(unreliable(trainer.test, 0)))) == 100


@pytest.mark.parametrize(("part", "change"), [("train", -1), ("test", 1), ("val", -1)])
def test_a_run_that_cannot_evaluate_every_image_once_has_no_result(
    part: str, change: int, tmp_path: Path
) -> None:
    desk = Desk(tmp_path)
    run = held_out(desk, epochs=1)
    trainer = make_trainer(run, desk.images, "cpu")
    unreliable(getattr(trainer, part), change)
    with pytest.raises(DataError, match="images were read"):
        execute_run(run, desk.images, trainer, desk.folder(run), RunOptions())
    assert not desk.folder(run).result.exists()


def test_a_pack_that_cannot_evaluate_every_image_once_has_no_result(make_trainer: Made) -> None:
    pack = PackedTrainer([made(make_trainer, 0), made(make_trainer, 1)], WIDTH)
    unreliable(pack.first.test, -1)
    with pytest.raises(DataError, match="99 of 100 images were read"):
        pack.run_epoch()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    place = tmp_path_factory.mktemp("finished")
    assert (
        main(
            [
                "-q",
                "-C",
                str(place),
                "train",
                "digits",
                "--sym",
                "0.4",
                "--epochs",
                "1",
                "--val-fraction",
                "0.1",
            ]
        )
        == 0
    )
    return run_folders([place])[0]


def test_a_record_and_evaluate_say_what_was_expected_and_seen(
    finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    record, place = finished.record(), finished.path.parent.parent
    training = 1297 - round(0.1 * 1297)
    assert record["expected"] == record["seen"] == {"train": training, "test": 500}
    assert (
        main(
            [
                "-q",
                "-C",
                str(place),
                "evaluate",
                str(finished.path),
                "--eval-on",
                "digits",
                "--json",
            ]
        )
        == 0
    )
    (found,) = json.loads(capsys.readouterr().out)
    assert found["expected"] == found["seen"] == record["expected"]
    assert found["on"]["digits"]["expected"] == found["on"]["digits"]["n"] == 500


def tampered(
    finished: RunFolder, place: Path, edit: Callable[[dict[str, np.ndarray]], object]
) -> RunFolder:
    shutil.copytree(finished.path, place / "run")
    folder = RunFolder(place / "run")
    arrays = folder.read_arrays()
    edit(arrays)
    folder.write(folder.predictions, packed_npz(arrays))
    reseal(folder)
    return folder


def shorter(*parts: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda arrays: arrays.update(
        {name: rows[:-1] for name, rows in arrays.items() if name.startswith(parts)}
    )


EDITS: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "a row of the test less": (shorter("test_classes", "test_log_p"), "damaged"),
    "a test image less": (shorter("test_"), "499 of 500 test examples"),
    "a row of training less": (shorter("train_log_p"), "damaged"),
    "one more is trained on": (
        lambda arrays: arrays["in_training"].fill(True),
        "1297 of 1167 train examples",
    ),
    "not a number": (
        lambda arrays: arrays["test_log_p"].__setitem__((3, 2), NAN),
        "test examples without a finite prediction: 1",
    ),
    "infinite": (
        lambda arrays: arrays["train_log_p"].__setitem__((3, 2), -INF),
        "training examples without a finite prediction: 1",
    ),
}


def test_no_number_is_given_of_predictions_that_are_incomplete(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    for number, (name, (change, message)) in enumerate(EDITS.items()):
        with case(name):
            folder = tampered(finished, tmp_path / str(number), change)
            assert main(["-q", "-C", str(tmp_path), "evaluate", str(folder.path), "--json"]) == 2
            captured = capsys.readouterr()
            assert (
                message.replace("1167", str(finished.record()["expected"]["train"])) in captured.err
                and not captured.out
            )
            assert main(["-q", "-C", str(tmp_path), "evaluate", str(folder.path), "--verify"]) in (
                4,
                5,
            )
            capsys.readouterr()


def test_suspects_need_a_score_of_every_label(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tampered(finished, tmp_path, shorter("early_"))
    asked = [
        "evaluate",
        str(folder.path),
        "--suspects",
        str(tmp_path / "suspects.csv"),
        "--score",
        "early",
    ]
    assert main(["-q", "-C", str(finished.path.parent.parent), *asked]) == 2
    assert (
        "predictions.npz is damaged" in capsys.readouterr().err
        and not (tmp_path / "suspects.csv").exists()
    )


def test_networks_whose_weights_are_not_finite_predict_no_other_images(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tampered(finished, tmp_path, lambda arrays: None)
    tensors = load_file(folder.weights)
    tensors["network0.head.bias"][3] = NAN
    save_file(tensors, folder.weights)
    reseal(folder)
    assert (
        main(["-q", "-C", str(tmp_path), "evaluate", str(folder.path), "--eval-on", "digits"]) == 2
    )
    assert "only 0 of the 500 images of digits have a finite prediction" in capsys.readouterr().err


def test_a_run_on_a_data_set_that_declares_another_size_has_no_result(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    run = replace(desk.plan(changes={"epochs": 1}), dataset=replace(desk.dataset, n_test=501))
    with pytest.raises(RunFailed, match="only 500 of 501 test examples were evaluated"):
        desk.execute(run)
    assert not desk.folder(run).result.exists()


def test_parts_and_processes_share_rows_without_losing_one() -> None:
    for n in (1, 2, 499, 500, 10_000):
        for size in (1, 2, 3, 7):
            assert np.concatenate([np.arange(n)[part] for part in cut(n, size)]).tolist() == list(
                range(n)
            )
