"""Layers by groups: what is frozen does not move by a bit, each other group learns at its rate, and
no older key or record moves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from noisebench.cli import main
from noisebench.errors import ConfigError
from noisebench.experiments.command import repro_command
from noisebench.experiments.recipes import RECIPES, Recipe, all_settings, make_recipe
from noisebench.runs.folder import run_folders
from noisebench.runs.queue import pack_key
from noisebench.runs.workspace import Workspace, rebuild
from noisebench.training.networks import make_network
from noisebench.training.optimizer import freeze, layer_groups, parameter_groups
from noisebench.training.trainer import Trainer
from tests.conftest import same, weights
from tests.unit.test_init import planned

CIFAR = (32, 32, 3)
TINY = "timm:test_resnet"


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


GROUPS = [
    ("mlp", 3),
    ("cnn4", 4),
    ("cnn8", 8),
    ("resnet18", 10),
    ("resnet34", 18),
    ("resnet44", 23),
    ("preact_resnet18", 10),
]


def test_a_group_of_ours_is_a_layer_or_block_with_its_norms(subtests: pytest.Subtests) -> None:
    for name, count in GROUPS:
        with subtests.test(model=name):
            network = make_network(name, 10, CIFAR, 0)
            groups = layer_groups(network)
            assert len(groups) == count and groups[-1] == ["head.weight", "head.bias"]
            assert sorted(name for group in groups for name in group) == sorted(
                name for name, _ in network.named_parameters()
            )
            assert all(
                any(network.get_parameter(name).dim() > 1 for name in group) for group in groups
            )


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "convnext_atto", "mobilenetv3_small_050"]
)
@pytest.mark.parametrize("decay", [0.75, 0.3])
def test_learning_rates_are_those_of_timms_layer_decay(name: str, decay: float) -> None:
    network = timm.create_model(name)
    reference = param_groups_layer_decay(network, layer_decay=decay)
    expected = {id(p): group["lr_scale"] for group in reference for p in group["params"]}
    found = {
        id(p): group["lr"]
        for group in parameter_groups(network, Recipe(1, lr=2.0, layer_decay=decay))
        for p in group["params"]
    }
    assert found == {key: pytest.approx(2 * scale) for key, scale in expected.items()}


@pytest.mark.parametrize("name", ["mlp", "cnn8", "resnet44"])
def test_learning_rates_of_ours_are_powers_of_the_decay(name: str) -> None:
    groups = parameter_groups(make_network(name, 10, CIFAR, 0), Recipe(1, lr=0.1, layer_decay=0.5))
    assert [group["lr"] for group in groups] == [
        pytest.approx(0.1 * 0.5**power) for power in reversed(range(len(groups)))
    ]


def test_without_decay_there_is_one_group_in_the_order_of_the_network() -> None:
    network = make_network("cnn4", 10, CIFAR, 0)
    (group,) = parameter_groups(network, Recipe(1))
    assert group.keys() == {"params"} and all(
        a is b for a, b in zip(group["params"], network.parameters(), strict=True)
    )


STRATEGIES = [
    "standard",
    "coteaching(rate=0.3)",
    "elr_plus",
    "mixup",
    "joint",
    "d2l",
    "forward_revision",
    "gjs",
]


@pytest.mark.parametrize(
    ("model", "strategy"), [*(("cnn4", strategy) for strategy in STRATEGIES), (TINY, STRATEGIES[0])]
)
def test_what_is_frozen_does_not_move_by_a_bit_and_the_rest_does(
    model: str, strategy: str, make_trainer: Callable[..., Trainer]
) -> None:
    trainer = make_trainer(
        strategy=strategy, model=model, freeze=2, batch_size=64, epochs=2, weight_decay=0.01
    )
    frozen = [
        prefix
        for group in layer_groups(trainer.networks[0])[:2]
        for name in group
        for prefix in [name.rpartition(".")[0]]
    ]
    before = [state(network) for network in trainer.networks]
    trainer.training_step.run()
    for network, was in zip(trainer.networks, before, strict=True):
        now = state(network)
        moved = {name for name in now if not torch.equal(now[name], was[name])}
        still = {name for name in now if name.rpartition(".")[0] in frozen}
        assert not moved & still and len(still) >= 8
        assert {name for name in moved if name.startswith(("head", "fc"))} and any(
            "running_mean" in name for name in now.keys() & moved
        )


def test_frozen_parts_stay_still_over_whole_epochs_and_after_the_network_was_asked(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(strategy="elr_plus", model="cnn4", freeze=1, epochs=2, batch_size=64)
    before = [state(network.body[1]) for network in trainer.networks]
    for _ in range(2):
        trainer.run_epoch()
        trainer.predict_log_p(torch.zeros(2, 1, 8, 8))
    trainer_now = [state(network.body[1]) for network in trainer.networks]
    assert all(
        torch.equal(now[name], was[name])
        for now, was in zip(trainer_now, before, strict=True)
        for name in was
    )
    assert (
        int(trainer_now[0]["num_batches_tracked"]) == 0
        and int(trainer.networks[0].body[5].num_batches_tracked) > 0
    )


def test_what_is_frozen_has_no_gradient_no_decay_and_no_momentum(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(model="cnn4", freeze=1)
    held = {id(p) for group in trainer.state.optimizer.groups for p in group.params}
    frozen = list(trainer.networks[0].body[:2].parameters())
    assert not any(id(p) in held or p.requires_grad for p in frozen)
    assert len(trainer.state.optimizer.velocities()) == len(
        list(trainer.networks[0].parameters())
    ) - len(frozen)


@pytest.mark.parametrize("model", ["cnn4", TINY])
def test_freezing_and_rates_by_layer_resume_bit_for_bit_in_mid_epoch(
    model: str, make_trainer: Callable[..., Trainer]
) -> None:
    settings = {
        "model": model,
        "freeze": 1,
        "layer_decay": 0.7,
        "batch_size": 64,
        "strategy": "coteaching(rate=0.3)",
    }
    straight, kept = make_trainer(**settings), {}
    straight.run_epoch(
        lambda: kept.update(deepcopy(straight.state_dict())) if straight.state.step == 2 else None
    )
    resumed = make_trainer(**settings)
    resumed.load_state_dict(kept)
    resumed.run_epoch()
    assert same(weights(resumed), weights(straight))


def test_a_step_moves_each_layer_in_proportion_to_its_rate(
    make_trainer: Callable[..., Trainer],
) -> None:
    """Without momentum and weight decay a step is the gradient times the rate: the ratio of two
    runs' steps is that of their rates.
    """
    steps = []
    for decay in (1.0, 0.5):
        trainer = make_trainer(
            layer_decay=decay, momentum=0.0, nesterov=False, weight_decay=0.0, schedule="constant"
        )
        before = weights(trainer)
        trainer.training_step.run()
        steps.append([after - was for after, was in zip(weights(trainer), before, strict=True)])
    ratios = [
        float(np.linalg.norm(slow) / np.linalg.norm(full))
        for full, slow in zip(*steps, strict=True)
    ]
    assert ratios == pytest.approx([0.25, 0.25, 0.5, 0.5, 1, 1], rel=1e-3)


class NoGroups(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


REFUSED = [
    (
        lambda: freeze(make_network("mlp", 10, CIFAR, 0), 3),
        "freeze 3: the network has 3 layer groups, so nothing would be trained",
    ),
    (lambda: freeze(NoGroups(), 1), "has no layer groups"),
    (
        lambda: parameter_groups(NoGroups(), Recipe(1, layer_decay=0.5)),
        "layer_decay 0.5 has no effect",
    ),
    (lambda: Recipe(1, freeze=-1), "freeze must be at least 0"),
    (lambda: Recipe(1, layer_decay=0.0), "layer_decay must be above 0 and at most 1"),
    (lambda: Recipe(1, layer_decay=1.5), "layer_decay must be above 0 and at most 1"),
    (lambda: Recipe(1, layer_decay=float("nan")), "layer_decay must be above 0 and at most 1"),
]


def test_what_has_no_effect_or_no_meaning_is_refused(subtests: pytest.Subtests) -> None:
    for act, said in REFUSED:
        with subtests.test(said=said), pytest.raises(ConfigError, match=said):
            act()


def test_decay_of_the_only_trained_group_is_refused(make_trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(ConfigError, match="only one trained layer group"):
        make_trainer(freeze=2, layer_decay=0.5)


def test_settings_that_came_later_are_not_written_where_they_change_nothing() -> None:
    assert Recipe(3).asdict().keys() & {"freeze", "layer_decay"} == set()
    assert Recipe(3, freeze=1, layer_decay=0.5).asdict()["freeze"] == 1
    assert Recipe(**all_settings(Recipe(3).asdict())) == Recipe(3)


def test_runs_by_layer_train_by_themselves(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    assert pack_key(planned(space)) is not None
    assert (
        pack_key(planned(space, changes={"freeze": 1})) is None
        and pack_key(planned(space, changes={"layer_decay": 0.5})) is None
    )


@pytest.mark.parametrize(
    "words",
    [
        "--recipe finetune",
        "--recipe finetune --layer-decay 1",
        "--recipe finetune_frozen --freeze 0",
        "--freeze 1",
    ],
)
def test_a_run_by_layer_is_rebuilt_and_has_a_command(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "-q",
                "-C",
                str(tmp_path),
                "train",
                "digits",
                "--sym",
                "0.4",
                "--epochs",
                "1",
                *words.split(),
            ]
        )
        == 0
    )
    (folder,) = run_folders([tmp_path])
    key = folder.record()["key"]
    assert rebuild(folder, Workspace(tmp_path)).key == key
    capsys.readouterr()
    assert (
        main(
            [
                "-C",
                str(tmp_path / "other"),
                *repro_command(folder.about()).words[1:],
                "--dry-run",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["key"] == key


def test_freezing_all_is_said_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(
        "version: 1\nsuites:\n  a:\n    defaults: {dataset: digits, freeze: 3}\n    matrix: "
        "{noise: [symmetric(rate=0.4)], method: [ce]}\n"
    )
    assert main(["-C", str(tmp_path), "run", str(tmp_path / "s.yaml")]) == 2
    assert (
        "freeze 3: the network has 3 layer groups" in capsys.readouterr().err
        and not (tmp_path / "runs").exists()
    )
    assert main(["-C", str(tmp_path), "train", "digits", "--sym", "0.4", "--freeze", "3"]) == 2


@pytest.mark.parametrize("name", ["finetune", "finetune_frozen"])
def test_the_recipes_for_trained_weights_use_what_they_are_named_for(name: str) -> None:
    recipe = make_recipe(name, "cifar10", augment={"crop": 4, "flip": True}, changes={})
    assert (
        recipe.layer_decay < 1
        and (recipe.freeze > 0) == (name == "finetune_frozen")
        and recipe.flip
    )
    assert RECIPES[name].source.startswith("ours")


def test_a_plan_holds_what_is_frozen(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    assert planned(space, changes={"epochs": 4, "freeze": 1}).config["recipe"]["freeze"] == 1
    assert len({planned(space, changes={"epochs": 4, "freeze": n}).key for n in (0, 1, 2)}) == 3
