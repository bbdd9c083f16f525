"""The networks: as large as the literature says, and right for any image."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from noisebench.errors import DataError, LanguageError, UnknownName
from noisebench.experiments.backbones import BACKBONES, canonical_backbone
from noisebench.training.networks import classifier, make_network
from tests.conftest import Case

CIFAR = (32, 32, 3)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_are_the_published_ones(case: Case) -> None:
    for name, classes, count in [
        ("cnn8", 10, 1_639_794),
        ("cnn8", 100, 1_662_924),
        ("resnet44", 100, 668_676),
        ("resnet34", 10, 21_282_122),
        ("resnet18", 10, 11_173_962),
    ]:
        with case(name=name, classes=classes, count=count):
            assert parameters(make_network(name, classes, CIFAR, 0)) == count


def test_every_backbone_takes_any_image(case: Case) -> None:
    for name in BACKBONES.keys() - {"knn"}:  # of features only
        for shape in [CIFAR, (28, 28, 1), (64, 48, 3)]:
            with case(shape=shape, name=name):
                network, features = make_network(name, 7, shape, 0).eval(), []
                classifier(network).register_forward_pre_hook(
                    lambda _, inputs, features=features: features.append(inputs[0])
                )
                with torch.no_grad():
                    logits = network(torch.randn(2, shape[2], *shape[:2]))
                assert logits.shape == (2, 7) and features[0].dim() == 2
                assert logits.isfinite().all()


def test_timms_models_take_small_images_and_any_classes(case: Case) -> None:
    for shape in [CIFAR, (28, 28, 1)]:
        for name in [
            "timm:resnet10t",
            "timm:test_vit",
            "timm:test_convnext",
            "timm:test_efficientnet",
        ]:
            with case(name=name, shape=shape):
                network = make_network(name, 5, shape, 0)
                assert network.training
                assert network(torch.randn(2, shape[2], *shape[:2])).shape == (2, 5)


def test_a_timm_resnet_keeps_its_resolution_on_small_images() -> None:
    network, sizes = make_network("timm:resnet18", 10, CIFAR, 0).eval(), []
    network.layer1.register_forward_hook(lambda *hooked: sizes.append(hooked[2].shape[2:]))
    network(torch.zeros(1, 3, 32, 32))
    assert sizes == [(32, 32)]


def test_a_timm_resnet_is_itself_on_large_images() -> None:
    import timm

    ours = make_network("timm:resnet18", 10, (224, 224, 3), 0)
    assert parameters(ours) == parameters(timm.create_model("resnet18", num_classes=10))


def test_the_seed_decides_the_weights_and_nothing_else_is_touched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = (
        make_network("cnn4", 10, (28, 28, 1), seed).head.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.rand(2), expected)


def test_an_unknown_timm_model_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        make_network("timm:resnet118", 10, CIFAR, 0)


def test_a_model_that_cannot_take_the_images_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="does not support 8x8 images") as caught:
        make_network("timm:inception_v3", 10, (8, 8, 1), 0)
    assert "\n" not in str(caught.value)


def test_a_model_is_a_name_alone(case: Case) -> None:
    for text in ["cnn8(width=3)", "cnn8 + mlp", ""]:
        with case(text=text), pytest.raises(LanguageError):
            canonical_backbone(text)


def test_the_list_of_backbones_needs_no_torch() -> None:
    code = "import sys, noisebench.experiments.backbones; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
