"""Packs: a training depends on no neighbour, bit for bit; it is what it would be alone; it stops,
resumes and fails by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noisebench.errors import Interrupted, NoisebenchError, RunFailed
from noisebench.experiments.recipes import Recipe
from noisebench.experiments.resolve import RunConfig
from noisebench.experiments.suite import find_suite
from noisebench.losses import LOSSES, Scores
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.folder import RunFolder
from noisebench.runs.packed_session import PackedRun, run_packed
from noisebench.runs.queue import QueuedRun, make_packs, pack_key, plan_suite
from noisebench.runs.session import execute_run, make_trainer
from noisebench.runs.workspace import Workspace
from noisebench.strategies import STRATEGIES, build_strategy
from noisebench.training.networks import make_network
from noisebench.training.networks.packed import pack_networks
from noisebench.training.packed import PackedTrainer
from noisebench.training.trainer import Trainer
from tests.conftest import same, weights
from tests.unit.test_runner import Desk

Made = Callable[..., Trainer]
WIDTH = 6
SPECS = [
    ("ce", "standard"),
    ("ce", "standard"),
    ("el(eps=0.3)", "standard"),
    ("el(eps=0.3)", "standard"),
    ("gce", "d2l(wait=0)"),
]


@pytest.fixture(params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


def made(make_trainer: Made, number: int, precision: str = "fp32", **settings: object) -> Trainer:
    loss, strategy = SPECS[number]
    trainer = make_trainer(loss, strategy, seed=number, **settings)
    object.__setattr__(trainer.task, "precision", precision)
    return trainer


def packed(trainers: list[Trainer], epochs: int, kinds: list[str] | None = None) -> list[Any]:
    """What the last epoch left."""
    pack = PackedTrainer(trainers, WIDTH, kinds or [])
    return [pack.run_epoch() for _ in range(epochs)][-1]


def kinds_of(numbers: list[int]) -> list[str]:
    return [str(SPECS[number]) for number in numbers]


# The last batch of 40 examples has rows of no full vectors: 256 = 4 * 54 + 40
@pytest.mark.parametrize("numbers", [[4, 2, 0, 3, 1], [1], [3, 4], [2, 1]], ids=str)
def test_a_training_depends_on_no_neighbour_bit_for_bit(
    numbers: list[int], precision: str, make_trainer: Made
) -> None:
    settings = {"batch_size": 54, "clip": 1.0, "crop": 1, "flip": True}
    whole = [made(make_trainer, n, precision, **settings) for n in range(5)]
    other = [made(make_trainer, n, precision, **settings) for n in numbers]
    whole_ends, ends = (
        packed(whole, 2, kinds_of(list(range(5)))),
        packed(other, 2, kinds_of(numbers)),
    )
    for number, trainer, end in zip(numbers, other, ends, strict=True):
        for name in ("train_predicted", "train_p", "train_gradient", "train_margin", "loss"):
            assert np.array_equal(getattr(end, name), getattr(whole_ends[number], name))
        assert same(weights(trainer), weights(whole[number]))


@pytest.mark.parametrize(
    "model", ["mlp", "cnn4", "resnet44", pytest.param("preact_resnet18", marks=pytest.mark.soak)]
)
def test_the_first_steps_are_those_of_the_training_alone(model: str, make_trainer: Made) -> None:
    """Order, noise, augmentation, clipping, momentum and batch statistics of each are its own."""
    settings = {"model": model, "batch_size": 64, "clip": 1.0, "crop": 1, "flip": True, "lr": 0.02}
    together = [made(make_trainer, number, **settings) for number in (0, 2, 4)]
    pack = PackedTrainer(together, WIDTH)
    for _ in range(2):
        pack.make_step()
    for number, trainer in zip((0, 2, 4), together, strict=True):
        alone = made(make_trainer, number, **settings)
        for _ in range(2):
            alone.training_step.run()
        torch.testing.assert_close(trainer.state.costs, alone.state.costs, rtol=1e-4, atol=1e-5)
        for mine, its in zip(weights(trainer), weights(alone), strict=True):
            np.testing.assert_allclose(mine, its, rtol=2e-3, atol=2e-4)
        for mine, its in zip(
            trainer.state.optimizer.velocities(), alone.state.optimizer.velocities(), strict=True
        ):
            torch.testing.assert_close(mine, its, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    "model", ["mlp", "cnn4", "cnn8", "resnet44", "resnet18", "preact_resnet18"]
)
def test_packed_networks_are_the_networks(model: str) -> None:
    networks = [make_network(model, 10, (16, 16, 3), seed).eval() for seed in range(3)]
    before = [
        {name: value.clone() for name, value in network.state_dict().items()}
        for network in networks
    ]
    images = torch.randn(4, 9, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = [network(images[:, 3 * r : 3 * r + 3]) for r, network in enumerate(networks)]
    together = pack_networks(networks).eval()
    torch.testing.assert_close(together(images), torch.stack(expected), rtol=1e-4, atol=1e-4)
    for network, saved in zip(networks, before, strict=True):
        assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        networks[1].head.bias.fill_(7.0)  # still its own, and a part of the whole
    assert together.head.bias[1].eq(7).all() and not together.head.bias[0].eq(7).any()


def test_a_network_of_a_layer_that_nobody_can_pack_is_refused() -> None:
    with pytest.raises(TypeError, match="Dropout layers cannot be packed"):
        pack_networks([torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout())])


def test_one_that_fails_leaves_the_others_alone(make_trainer: Made) -> None:
    fine = [made(make_trainer, 0), made(make_trainer, 2)]
    packed(fine, 3)
    beside = [made(make_trainer, 0), make_trainer("ce", lr=0.05), made(make_trainer, 2)]
    with torch.no_grad():
        next(iter(beside[1].networks[0].parameters())).fill_(float("nan"))
    pack = PackedTrainer(beside, WIDTH)
    ends = pack.run_epoch()
    assert isinstance(ends[1], RunFailed) and "the cost became nan at epoch 1, step 1" in str(
        ends[1]
    )
    assert len(pack.run_epoch()) == len(pack.run_epoch()) == 2
    assert same(weights(beside[0]), weights(fine[0])) and same(weights(beside[2]), weights(fine[1]))


# Runs


def agenda(root: Path, name: str, **changes: Any) -> list[QueuedRun]:
    """A suite's runs, short and on few examples; the last batch is not full."""
    suite = find_suite(name, root)[1]
    defaults = suite.defaults.model_copy(
        update={"subset": 150, "epochs": 2, "precision": "bf16", **changes}
    )
    return plan_suite(Workspace(root), suite.model_copy(update={"defaults": defaults}))


def wanted(
    root: Path, items: list[QueuedRun], conduct: RunOptions | None = None
) -> list[PackedRun]:
    workspace = Workspace(root)
    return [
        PackedRun(
            number,
            item.run,
            workspace.training_images(item.run),
            item.folder,
            conduct or RunOptions(),
        )
        for number, item in enumerate(items)
    ]


def carried_out(
    root: Path, items: list[QueuedRun], width: int = 8, conduct: RunOptions | None = None
) -> dict[int, Any]:
    told: dict[int, Any] = {}
    run_packed(wanted(root, items, conduct), width, "cpu", told.__setitem__)
    return told


def left(folder: RunFolder) -> tuple[bytes, bytes]:
    return folder.weights.read_bytes(), folder.predictions.read_bytes()


def test_every_method_of_the_quick_suite_is_the_same_in_any_company(tmp_path: Path) -> None:
    """Runs share a call only if their costs depend on nothing else: T differs between noises under
    one text.
    """
    items = [
        item
        for item in agenda(tmp_path / "a", "quick", seeds=[0])
        if "0.4" in item.run.manifest.meta["noise"]
    ]
    assert {item.run.method for item in items} == {
        "ce",
        "lsr",
        "bootstrap",
        "forward",
        "sl",
        "d2l",
        "gce",
        "el",
    }
    together = carried_out(tmp_path / "a", items, 16)
    alone = [
        item
        for item in agenda(tmp_path / "b", "quick", seeds=[0])
        if "0.4" in item.run.manifest.meta["noise"]
    ]
    for item in alone:
        carried_out(tmp_path / "b", [item], 16)
    assert all(
        left(one.folder) == left(other.folder) for one, other in zip(items, alone, strict=True)
    )
    assert {record["environment"]["packed"] for record in together.values()} == {16}


def test_a_run_with_images_held_out_is_the_same_in_any_company(tmp_path: Path) -> None:
    """The validation images of two seeds differ, so runs of different seeds must not share a pack."""
    items, alone = (agenda(tmp_path / place, "smoke", val_fraction=0.1) for place in ("a", "b"))
    together = carried_out(tmp_path / "a", items, 16)
    for item in alone:
        carried_out(tmp_path / "b", [item], 16)
    assert all(
        left(one.folder) == left(other.folder) for one, other in zip(items, alone, strict=True)
    )
    assert len(together) == len(items) and all(
        isinstance(record, dict) for record in together.values()
    )


def test_a_pack_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    straight, stopped = (
        agenda(tmp_path / "straight", "smoke"),
        agenda(tmp_path / "stopped", "smoke"),
    )
    carried_out(tmp_path / "straight", straight)
    steps = iter(range(10_000))
    told = carried_out(
        tmp_path / "stopped",
        stopped,
        conduct=RunOptions(should_stop=lambda: next(steps) >= 4 * len(stopped)),
    )
    assert all(isinstance(outcome, Interrupted) for outcome in told.values()) and len(told) == len(
        stopped
    )
    assert {item.folder.status() for item in stopped} == {"resume"}
    # its own state, not its neighbours'
    assert max(item.folder.resume.stat().st_size for item in stopped) < 2_000_000
    half = len(stopped) // 2
    carried_out(tmp_path / "stopped", stopped[half:])  # in other company, which changes nothing
    # and as wide as it began, whatever is asked now
    carried_out(tmp_path / "stopped", stopped[:half], width=1)
    for one, other in zip(straight, stopped, strict=True):
        assert left(one.folder) == left(other.folder) and not other.folder.resume.exists()
        assert other.folder.record()["environment"]["packed"] == 8


@pytest.mark.parametrize("asked", [{"resume": False}, {"resume": False, "force": True}])
def test_a_run_that_throws_fails_alone_and_the_others_train_no_epoch_twice(
    asked: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noisebench.runs import checkpoint
    from noisebench.strategies import Strategy

    items = agenda(tmp_path, "smoke")
    if "force" in asked:
        carried_out(tmp_path, items)
    monkeypatch.setattr(checkpoint.RunTimer, "checkpoint_due", lambda self: True)
    heard: list[int] = []

    def throwing(self: Strategy, epoch: int, whole: Trainer) -> None:
        if whole.task.seed == 1 and epoch == 2:
            raise ZeroDivisionError("a strategy's own mistake")

    monkeypatch.setattr(Strategy, "on_epoch_end", throwing)
    told = carried_out(
        tmp_path,
        items,
        conduct=RunOptions(**asked, on_epoch_end=lambda progress: heard.append(progress.epoch)),
    )  # type: ignore[arg-type]
    seeds = {number: item.run.seed for number, item in enumerate(items)}
    assert all(isinstance(told[n], RunFailed) == (seed == 1) for n, seed in seeds.items())
    assert heard.count(1) == len(items) and heard.count(2) == list(seeds.values()).count(0)
    assert (
        "ZeroDivisionError"
        in json.loads(items[[*seeds.values()].index(1)].folder.error.read_text())["message"]
    )


def test_finished_and_taken_runs_are_left_as_they_are(tmp_path: Path) -> None:
    items = agenda(tmp_path, "smoke")
    first = carried_out(tmp_path, items[:1])[0]
    with items[1].folder.locked():
        told = carried_out(tmp_path, items[:3])
    assert (
        told[0]["seconds"] == first["seconds"]
        and "is being run by" in str(told[1])
        and isinstance(told[1], NoisebenchError)
    )
    assert told[2]["metrics"]["test"]["n"] == 500


def test_a_run_of_a_pack_that_train_takes_up_stays_as_it_began(tmp_path: Path) -> None:
    straight, stopped = (
        agenda(tmp_path / "straight", "smoke"),
        agenda(tmp_path / "stopped", "smoke"),
    )
    carried_out(tmp_path / "straight", straight[:2])
    steps = iter(range(10_000))
    carried_out(
        tmp_path / "stopped", stopped[:2], conduct=RunOptions(should_stop=lambda: next(steps) >= 8)
    )
    item = stopped[0]
    images = Workspace(tmp_path).images(item.run.dataset)
    execute_run(item.run, images, make_trainer(item.run, images, "cpu"), item.folder, RunOptions())
    assert left(item.folder) == left(straight[0].folder)


# Who goes with whom


def test_the_quick_suite_is_packed_whole_and_what_is_left_of_a_suite_as_the_whole_was(
    tmp_path: Path,
) -> None:
    quick, smoke = agenda(tmp_path, "quick", seeds=[0, 1]), agenda(tmp_path, "smoke")
    assert [(len(load.items), load.width) for load in make_packs(quick, quick)] == [(16, 16)] * 7
    assert [(len(load.items), load.width) for load in make_packs(smoke, smoke[3:5])] == [(2, 16)]
    # too few to be worth it
    assert [(len(load.items), load.width) for load in make_packs(smoke[:3], smoke[:3])] == [
        (1, 1)
    ] * 3


@pytest.mark.parametrize(
    "wish", [{"model": "cnn4"}, {"loss": "ce + l1(0.1)"}, {"loss": "el(eps=estimated)"}], ids=str
)
def test_what_cannot_be_packed_trains_alone(wish: dict[str, str], tmp_path: Path) -> None:
    assert pack_key(Desk(tmp_path).plan(**wish)) is None


def test_a_strategy_is_packed_unless_it_needs_a_network_of_its_own(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    alone = {
        "coteaching",
        "coteaching_plus",
        "decoupling",
        "jocor",
        "joint",
        "distill",
        "forward_estimated",
        "backward_estimated",
    }
    alone |= {"sop_plus", "gjs", "dividemix", "elr_plus"}  # of two views, or networks
    alone |= {"volminnet", "forward_revision"}  # of parameters of their own, or begin anew
    desk = Desk(tmp_path)
    for entry in STRATEGIES:
        if entry.build.__module__.startswith("noisebench."):
            with subtests.test(strategy=entry.name):
                assert (pack_key(desk.plan(strategy=entry.name)) is None) == (entry.name in alone)


def test_runs_of_different_data_or_recipes_do_not_go_together(tmp_path: Path) -> None:
    def kind(**wish: Any) -> str | None:
        run: RunConfig = Desk(tmp_path).plan(**wish)
        return pack_key(run)

    assert kind() == kind(seed=3, loss="gce", strategy="bootstrap", noise="symmetric(rate=0.2)")
    assert len({kind(), kind(changes={"epochs": 4}), kind(precision="bf16")}) == 3


def test_runs_that_go_together_train_on_the_same_images(tmp_path: Path) -> None:
    """Held-out images are others for each seed, and so are the places that another set's take."""
    images = np.full((400, 8, 8, 1), 90, np.uint8)
    np.savez(
        tmp_path / "few.npz",
        train_images=images,
        train_labels=np.arange(400) % 3,
        test_images=images[:3] + 1,
        test_labels=np.arange(3),
    )
    noises = ["symmetric(rate=0.4)", "asymmetric(rate=0.4)", "openset(rate=0.3, source='few.npz')"]
    whole = find_suite("smoke", tmp_path)[1]
    suite = whole.model_copy(update={
        "defaults": whole.defaults.model_copy(update={"val_fraction": 0.1}),
        "matrix": {"noise": noises, "method": ["ce", "lsr", "sl", "gce", "el"]},
    })  # fmt: skip
    space = Workspace(tmp_path)
    items = plan_suite(space, suite)
    found = make_packs(items, items)
    assert [len(load.items) for load in found] == [5] * 6 and {load.width for load in found} == {16}
    for load in found:
        runs = [item.run for item in load.items]
        seen = [space.training_images(run).train_images[run.manifest.in_training] for run in runs]
        assert all(np.array_equal(each, seen[0]) for each in seen)


def test_trainings_on_other_images_make_no_pack(make_trainer: Made) -> None:
    one, other = (make_trainer(seed=seed) for seed in (0, 1))
    assert PackedTrainer([one, other], WIDTH)
    object.__setattr__(other.task, "images", other.task.images[::-1])
    with pytest.raises(ValueError, match="must have the same images"):
        PackedTrainer([one, other], WIDTH)


def test_a_strategy_for_several_runs_at_once_keeps_no_state(make_trainer: Made) -> None:
    for entry in STRATEGIES:
        if entry.build.stateless:
            trainer = make_trainer(strategy=entry.name)
            trainer.run_epoch()
            assert (
                not trainer.strategy.state
                and type(trainer.strategy).on_epoch_end
                is type(build_strategy("standard")).on_epoch_end
            )


def test_every_loss_costs_a_row_the_same_in_any_batch(
    make_trainer: Made, subtests: pytest.Subtests
) -> None:
    """Rows of several runs in one call: full SIMD vectors of them round alike at any position."""
    logits = torch.randn(320, 10) * 5
    ours = [entry for entry in LOSSES if entry.build.__module__.startswith("noisebench.")]
    for entry in ours:
        if entry.facts.get("penalty") or any(p.is_expression or p.auto for p in entry.parameters):
            continue
        with subtests.test(loss=entry.name):
            cost = make_trainer(entry.name).task.loss
            whole = cost(Scores(logits))
            for start in range(0, 320, 64):
                assert torch.equal(
                    cost(Scores(logits[start : start + 64])), whole[start : start + 64]
                )


def test_recipes_of_packs_have_the_same_momentum_as_torch() -> None:
    """Our step is torch.optim.SGD's, whose class is left alone since it loads a compiler."""
    from noisebench.training.optimizer import SGD

    recipe = Recipe(1, lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.01)
    mine, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 12)) for _ in range(2))
    optimizer = SGD([{"params": [mine]}], recipe)
    reference = torch.optim.SGD([theirs], 0.3, momentum=0.9, nesterov=True, weight_decay=0.01)
    for step in range(5):
        for parameter in (mine, theirs):
            (parameter.sin() * parameter.square()).sum().backward()
        optimizer.step(0.5**step)
        reference.param_groups[0]["lr"] = 0.3 * 0.5**step
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(mine, theirs)
