"""No wrong answer from a cache: whatever changes a result is in the key, nothing else is, and
changed data are read again.

Fields, parameters and options are enumerated, so that a new one fails here until its side is
declared.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from noisebench.cli import main
from noisebench.cli.app import app
from noisebench.core import plugins
from noisebench.core.expressions import Call, parse
from noisebench.core.parameters import Interval, OneOf, Parameter
from noisebench.core.plugins import code_of, load_plugins
from noisebench.core.registry import Registry
from noisebench.datasets import DATASETS, Images, find_dataset, fingerprint, read_images
from noisebench.errors import ConfigError, DataError, LanguageError
from noisebench.executors.job import EventFile, Job, JobBatch, WorkerConfig
from noisebench.executors.worker import work_on
from noisebench.experiments import resolve
from noisebench.experiments.backbones import BACKBONES, InitialWeights, initial_of
from noisebench.experiments.features import FeatureNetwork
from noisebench.experiments.recipes import Recipe
from noisebench.experiments.resolve import RunConfig, RunRequest, resolve_run
from noisebench.experiments.suite import find_suite
from noisebench.labels.build import LabelRequest
from noisebench.labels.manifest import Manifest
from noisebench.losses import LOSSES
from noisebench.noise import FILES, NOISES, noise_options
from noisebench.runs.queue import plan_suite
from noisebench.runs.workspace import Workspace
from noisebench.strategies import STRATEGIES, normal_strategy
from tests.conftest import Case

ROOT = Path(__file__).parents[2]
FEW = 60  # images of a set that is changed byte by byte


def small(images: Images) -> Images:
    return replace(
        images, train_images=images.train_images[:FEW].copy(), train_labels=images.train_labels[:FEW].copy(),
        test_images=images.test_images[:FEW].copy(), test_labels=images.test_labels[:FEW].copy(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def images() -> Images:
    return small(read_images(DATASETS["digits"], Path("unused")))


def planned(
    images: Images, wish: LabelRequest = LabelRequest("symmetric(rate=0.4)"), **wishes: Any
) -> RunConfig:
    workspace = Workspace(".")
    manifest, _ = workspace.make(images.dataset, wish)
    return resolve_run(
        RunRequest(**{"precision": "fp32", **wishes}), images.dataset, manifest, images.fingerprint
    )


@pytest.fixture(scope="module")
def base(images: Images) -> RunConfig:
    return planned(images)


def differ(one: RunConfig, other: RunConfig) -> bool:
    return one.key != other.key


# The run itself


RECIPE: dict[str, Any] = {
    "epochs": 41, "batch_size": 65, "lr": 0.11, "momentum": 0.91, "nesterov": False, "weight_decay": 6e-4, "schedule": "constant",
    "clip": 5.0, "crop": 1, "flip": True, "freeze": 1, "layer_decay": 0.5, "size": 64, "area": 0.5, "centre": 0.9,
    "fit": "pad",
}  # fmt: skip


def test_every_value_of_a_recipe_is_in_the_key(base: RunConfig, case: Case) -> None:
    for field in dataclasses.fields(Recipe):
        with case(field=field.name):
            assert field.name in RECIPE, (
                f"Recipe.{field.name} is new: give RECIPE another value "
                "of it, and see that it changes the key"
            )
            changed = replace(base.recipe, **{field.name: RECIPE[field.name]})
            assert getattr(changed, field.name) != getattr(base.recipe, field.name)
            assert differ(base, replace(base, recipe=changed))


FEATURES = FeatureNetwork("timm:test_resnet", InitialWeights("some.safetensors", "1" * 64))
RUN: dict[str, Callable[[RunConfig], Any]] = {  # what decides the result
    "manifest": lambda run: with_label(run.manifest, 3),
    "data_sha256": lambda run: "0" * 64,
    "source_sha256": lambda run: "0" * 64,
    "loss": lambda run: LOSSES.normal("gce"),
    "strategy": lambda run: normal_strategy("bootstrap"),
    "model": lambda run: "cnn4",
    "recipe": lambda run: replace(run.recipe, epochs=7),
    "seed": lambda run: 1,
    "precision": lambda run: "bf16",
    "init": lambda run: InitialWeights("some.safetensors", "0" * 64),
    "features": lambda run: FEATURES.at(64, "crop", "fp32"),
}
NAMES: dict[str, Any] = {  # what only says how it is called, or is read off the rest
    "dataset": replace(
        DATASETS["digits"],
        name="other",
        path=Path("elsewhere"),
        summary="",
        recipe="apl",
        model="cnn4",
    ),
    "method": "another name",
    "recipe_name": "another",
    "oracle": True,
}


def test_every_field_of_a_run_is_in_the_key_or_a_name(base: RunConfig, case: Case) -> None:
    for field in dataclasses.fields(RunConfig):
        with case(field=field.name):
            assert (field.name in RUN) != (field.name in NAMES), (
                f"Run.{field.name} is new: say in RUN or NAMES whether it changes the result"
            )
            changed = RUN[field.name](base) if field.name in RUN else NAMES[field.name]
            assert differ(base, replace(base, **{field.name: changed})) == (field.name in RUN)


WISH: dict[str, dict[str, Any]] = {
    "method": {"method": "gce"}, "loss": {"loss": "mae"}, "strategy": {"strategy": "d2l"}, "model": {"model": "cnn8"},
    "recipe": {"recipe": "apl"}, "changes": {"changes": {"lr": 0.2}}, "seed": {"seed": 5}, "precision": {"precision": "bf16"},
    "budget": {"budget": "compute", "strategy": "coteaching"}, "init": {"init": InitialWeights("some.safetensors", "1" * 64)},
    "features": {"features": FEATURES, "model": "mlp", "recipe": "digits", "changes": {"size": 32}},
}  # fmt: skip


def test_every_wish_is_in_the_key_but_the_device(images: Images, case: Case) -> None:
    assert len({planned(images, device=device).key for device in ("auto", "cpu", "cuda:3")}) == 1
    for field in (field for field in dataclasses.fields(RunRequest) if field.name != "device"):
        with case(field=field.name):
            assert field.name in WISH, f"Wish.{field.name} is new: give WISH an example of it"
            without = {
                name: value for name, value in WISH[field.name].items() if name != field.name
            }
            assert differ(planned(images, **without), planned(images, **WISH[field.name]))


LABELS: dict[str, dict[str, Any]] = {
    "noise": {"noise": "symmetric(rate=0.41)"}, "seed": {"seed": 1}, "val_fraction": {"val_fraction": 0.1}, "trusted": {"trusted": 0.1},
    "val_split": {"val_split": "before", "val_fraction": 0.1}, "subset": {"subset": 200},
}  # fmt: skip


def test_every_wish_for_labels_is_in_the_key_but_whose_convention_it_is(
    images: Images, case: Case
) -> None:
    run = planned(images)
    told = replace(run.manifest, meta={**run.manifest.meta, "convention": "some paper's"})
    # it changes the noise's text, which is in the key, or nothing
    assert not differ(run, replace(run, manifest=told))
    for field in (
        field for field in dataclasses.fields(LabelRequest) if field.name != "convention"
    ):
        with case(field=field.name):
            assert field.name in LABELS, (
                f"LabelWish.{field.name} is new: give LABELS an example of it"
            )
            without = {
                name: value for name, value in LABELS[field.name].items() if name != field.name
            }
            plain, changed = (
                {"noise": "symmetric(rate=0.4)", **wish} for wish in (without, LABELS[field.name])
            )
            assert differ(
                planned(images, LabelRequest(**plain)), planned(images, LabelRequest(**changed))
            )


# The language


def others(parameter: Parameter, value: Any) -> Iterator[Any]:
    """Values that a parameter may take in place of one."""
    if isinstance(parameter.allowed, OneOf):
        yield from parameter.allowed.words
    if isinstance(value, bool):
        yield not value
    low, high = (
        (float(end) for end in parameter.allowed.text[1:-1].split(","))
        if isinstance(parameter.allowed, Interval)
        else (0.0, 10.0)
    )
    yield from (
        each
        for each in (low, (low + min(high, low + 1)) / 2, low + 1, low + 2, high)
        if np.isfinite(each)
    )


TEXTS: dict[tuple[str, str], tuple[str, str]] = {  # where a value has a meaning only beside another
    ("mentornet", "width"): ("mentornet(kind='predefined', width=2)", "mentornet(kind='predefined', width=3)"),
    ("mentornet", "burn_in"): ("mentornet(kind='data_driven', burn_in=0.1)", "mentornet(kind='data_driven', burn_in=0.2)"),
    ("mentornet", "percentile"): ("mentornet(percentile=0.5)", "mentornet(percentile=0.6)"),
    ("mentornet", "decay"): ("mentornet(decay=0.5)", "mentornet(decay=0.6)"),
    ("matrix", "sha256"): ("matrix(file='a', sha256='0')", "matrix(file='a', sha256='1')"),
    ("matrix", "file"): ("matrix(file='a')", "matrix(file='b')"),
    ("matrix", "exact"): ("matrix(file='a')", "matrix(file='a', exact=False)"),
    ("matrix", "exact_over"): ("matrix(file='a')", "matrix(file='a', exact_over='pair')"),
    ("plc", "predictions"): ("plc(predictions='a', rate=0.2)", "plc(predictions='b', rate=0.2)"),
    ("plc", "kind"): ("plc(predictions='a', rate=0.2)", "plc(predictions='a', kind='II', rate=0.2)"),
    ("plc", "rate"): ("plc(predictions='a', rate=0.2)", "plc(predictions='a', rate=0.3)"),
    ("plc", "factor"): ("plc(predictions='a', factor=0.2)", "plc(predictions='a', factor=0.3)"),
    ("plc", "sha256"): ("plc(predictions='a', rate=0.2, sha256='0')", "plc(predictions='a', "
                                                                      "rate=0.2, sha256='1')"),
    ("human", "column"): ("human(column='worse')", "human(column='aggre')"),
    ("imported", "file"): ("imported(file='a')", "imported(file='b')"),
    ("imported", "sha256"): ("imported(file='a', sha256='0')", "imported(file='a', sha256='1')"),
    ("asymmetric", "map"): ("asymmetric(rate=0.2, map='cifar10')", "asymmetric(rate=0.2, "
                                                                   "map='digits')"),
    ("asymmetric", "pairs_seed"): (
        "asymmetric(rate=0.2, map='pairs_in_superclass', pairs_seed=0)", "asymmetric(rate=0.2, "
                                                                         "map='pairs_in_superclass', pairs_seed=1)"),
    ("openset", "rate"): ("openset(rate=0.1, source='cifar10')", "openset(rate=0.2, "
                                                                 "source='cifar10')"),
    ("openset", "source"): ("openset(rate=0.1, source='cifar10')", "openset(rate=0.1, "
                                                                   "source='cifar100')"),
    ("openset", "exact"): ("openset(rate=0.1, source='cifar10')", "openset(rate=0.1, "
                                                                  "source='cifar10', exact=False)"),
    ("openset", "exact_over"): ("openset(rate=0.1, source='cifar10')", "openset(rate=0.1, "
                                                                       "source='cifar10', "
                                                                       "exact_over='set')"),
    ("reviewed", "action"): (
        "reviewed(symmetric(rate=0.1), action='drop', suspects='a')", "reviewed(symmetric(rate=0.1), action='relabel', suspects='a')"),
    ("reviewed", "suspects"): (
        "reviewed(symmetric(rate=0.1), action='drop', suspects='a')", "reviewed(symmetric(rate=0.1), action='drop', suspects='b')"),
    ("reviewed", "sha256"): (
        "reviewed(symmetric(rate=0.1), action='drop', suspects='a', sha256='0')",
        "reviewed(symmetric(rate=0.1), action='drop', suspects='a', sha256='1')"),
}  # fmt: skip


def two_texts(registry: Registry, name: str, parameter: Parameter) -> tuple[str, str]:
    """An entry with two values of a parameter."""
    if (name, parameter.name) in TEXTS:
        return TEXTS[name, parameter.name]
    entry, inner = registry[name], parse("ce" if registry is LOSSES else "symmetric(rate=0.1)")
    args = tuple(inner for p in entry.parameters if p.is_expression and p.required)
    given = {p.name: 0.2 for p in entry.parameters if p.required and not p.is_expression}
    start = given.get(parameter.name, parameter.default)
    first = str(Call(name, args, tuple(given.items())))
    for value in others(parameter, start):
        try:
            second = str(Call(name, args, tuple({**given, parameter.name: value}.items())))
            if registry.canonical(second) != registry.canonical(first):
                return first, second
        except LanguageError:
            continue
    raise AssertionError(
        f"{name} has a parameter {parameter.name} without an example: give TEXTS two texts"
    )


def parameters_of(registry: Registry) -> list[tuple[str, Parameter]]:
    ours = [entry for entry in registry if entry.build.__module__.startswith("noisebench.")]
    return [(entry.name, p) for entry in ours for p in entry.parameters if not p.is_expression]


def test_every_parameter_of_a_loss_is_in_the_key(base: RunConfig, case: Case) -> None:
    for name, parameter in parameters_of(LOSSES):
        with case(f"{name}, {parameter.name}"):
            one, other = (
                replace(base, loss=LOSSES.normal(text))
                for text in two_texts(LOSSES, name, parameter)
            )
            assert differ(one, other)


def test_every_parameter_of_a_strategy_is_in_the_key(base: RunConfig, case: Case) -> None:
    for name, parameter in parameters_of(STRATEGIES):
        with case(f"{name}, {parameter.name}"):
            one, other = (
                replace(base, strategy=normal_strategy(text))
                for text in two_texts(STRATEGIES, name, parameter)
            )
            assert differ(one, other)


def test_every_parameter_of_a_noise_is_in_the_key(base: RunConfig, case: Case) -> None:
    def noisy(text: str) -> RunConfig:
        return replace(
            base,
            manifest=replace(
                base.manifest, meta={**base.manifest.meta, "noise": NOISES.canonical(text)}
            ),
        )

    for name, parameter in parameters_of(NOISES):
        with case(f"{name}, {parameter.name}"):
            assert differ(*map(noisy, two_texts(NOISES, name, parameter)))


def test_where_a_file_lies_is_in_no_key_once_its_bytes_are(base: RunConfig) -> None:
    for entry in NOISES:
        for p in entry.parameters:
            if p.name in FILES and entry.name != "plc":
                one, other = (
                    text.replace("suspects=", "suspects=")
                    for text in two_texts(NOISES, entry.name, p)
                )
                sealed = [NOISES.canonical(text[:-1] + ", sha256='0')") for text in (one, other)]
                keys = {
                    replace(
                        base,
                        manifest=replace(base.manifest, meta={**base.manifest.meta, "noise": text}),
                    ).key
                    for text in sealed
                }
                assert len(keys) == 1, sealed


def test_two_spellings_of_one_meaning_are_one_key(images: Images, case: Case) -> None:
    for one, other in [
        ("sl", "sce(beta=1, alpha=0.10)"),
        ("10*nce+rce", " 10 * normalized( ce ) + rce(A=-9.21)"),
        ("el(eps=0.4)", "el(0.4)"),
        ("gce(q=1)", "gce(q=1.0)"),
        ("ce + mae", "ce+1*mae"),
    ]:
        with case(one=one, other=other):
            assert planned(images, loss=one).key == planned(images, loss=other).key


def test_a_method_is_its_loss_and_strategy_and_auto_what_it_stands_for(images: Images) -> None:
    assert planned(images, method="sl").key == planned(images, loss="sl").key
    assert (
        planned(images, loss="el").key
        == planned(images, loss="el(eps=0.4)").key
        == planned(images, method="el").key
    )


# Versions


def newer(registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry[name]
    monkeypatch.setitem(registry._entries, entry.name, replace(entry, version=entry.version + 1))


@pytest.mark.parametrize("registry", [LOSSES, STRATEGIES], ids=["losses", "strategies"])
def test_the_version_of_every_part_is_in_the_key(
    registry: Registry, base: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in [entry for entry in registry if entry.build.__module__.startswith("noisebench.")]:
        required = [p for p in entry.parameters if p.required]
        args = tuple(parse("ce") for p in required if p.is_expression)
        text = str(
            Call(entry.name, args, tuple((p.name, 0.2) for p in required if not p.is_expression))
        )
        run = replace(base, **{registry.kind: registry.normal(text)})
        before = run.key
        newer(registry, entry.name, monkeypatch)
        assert replace(run).key != before, entry.name


def test_an_inner_parts_version_is_in_the_key(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = replace(base, loss=LOSSES.normal("lsr(normalized(focal)) + 0.1*mae"))
    assert before.key and base.key  # which are remembered
    newer(LOSSES, "focal", monkeypatch)
    assert differ(before, replace(before)) and not differ(base, replace(base))


def test_the_versions_of_noises_networks_estimates_weights_and_the_protocol_are_in_the_key(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in list(NOISES):
        if entry.name in ("symmetric", "pairflip"):
            before = planned(images, LabelRequest(f"{entry.name}(rate=0.3)"))
            newer(NOISES, entry.name, monkeypatch)
            assert differ(before, planned(images, LabelRequest(f"{entry.name}(rate=0.3)")))
    for name, entry in list(BACKBONES.items()):
        wish = {"features": FEATURES, "changes": {"size": 32}} if name == "knn" else {}
        before = planned(images, model=name, **wish)
        assert before.key
        monkeypatch.setitem(BACKBONES, name, replace(entry, version=entry.version + 1))
        assert differ(before, planned(images, model=name, **wish)), name
    for constant, wish in (
        ("PROTOCOL", {}),
        ("ESTIMATES_VERSION", {"loss": "el(eps=estimated)"}),
        ("INITIAL_VERSION", WISH["init"]),
    ):
        before = planned(images, **wish)
        assert before.key
        monkeypatch.setattr(resolve, constant, 99)
        assert differ(before, planned(images, **wish)), constant


# Data and labels


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["train_images", "train_labels", "test_images", "test_labels"]),
    st.integers(0, FEW * 64 - 1),
    st.integers(1, 255),
)
def test_every_byte_of_the_data_is_in_the_key(name: str, place: int, by: int) -> None:
    before = small(read_images(DATASETS["digits"], Path("unused")))
    changed = getattr(before, name).copy()
    changed.reshape(-1).view(np.uint8)[place % changed.nbytes] ^= by
    assert replace(before, **{name: changed}).fingerprint != before.fingerprint


def test_the_shape_and_the_order_of_data_are_in_the_key(images: Images) -> None:
    turned = [
        replace(images, train_images=images.train_images[::-1].copy()),
        replace(images, train_labels=images.train_labels[::-1].copy()),
    ]
    flat = replace(images, train_images=images.train_images.reshape(FEW, 4, 16, 1))
    moved = replace(
        images,
        train_images=np.concatenate([images.train_images, images.test_images[:1]]),
        test_images=images.test_images[1:],
    )
    assert len({images.fingerprint, *(each.fingerprint for each in (*turned, flat, moved))}) == 5
    again = replace(
        images,
        train_images=np.asfortranarray(images.train_images),
        train_labels=images.train_labels.astype(np.int64),
    )
    assert again.fingerprint == images.fingerprint


def with_label(manifest: Manifest, place: int, *, clean: bool = False) -> Manifest:
    name = "clean_labels" if clean else "labels"
    labels = getattr(manifest, name).copy()
    labels[place % len(labels)] = (labels[place % len(labels)] + 1) % 10
    return replace(manifest, **{name: labels})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1296), st.booleans())
def test_every_label_recorded_or_clean_is_in_the_key(place: int, clean: bool) -> None:
    manifest, _ = Workspace(".").make(DATASETS["digits"], LabelRequest("symmetric(rate=0.4)"))
    assert with_label(manifest, place, clean=clean).content_hash != manifest.content_hash


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1296), st.sampled_from(["val", "trusted", "dropped", "source"]))
def test_what_is_set_apart_or_replaced_is_in_the_key(place: int, name: str) -> None:
    manifest, _ = Workspace(".").make(DATASETS["digits"], LabelRequest("symmetric(rate=0.4)"))
    column = np.full(1297, -1) if name == "source" else np.zeros(1297, bool)
    meta = {**manifest.meta, **({"source": "cifar10"} if name == "source" else {})}
    before = replace(manifest, meta=meta, **{name: column})
    column = column.copy()
    column[place] = 7 if name == "source" else True
    assert replace(before, **{name: column}).content_hash != before.content_hash


def test_a_fact_of_the_labels_is_in_the_key(base: RunConfig, case: Case) -> None:
    for name in ["num_classes", "classes", "labels_sha256", "noise_version", "images_sha256"]:
        with case(name=name):
            value = (
                11
                if name == "num_classes"
                else [*map(str, range(9)), "ten"]
                if name == "classes"
                else "changed"
            )
            assert differ(
                base,
                replace(
                    base, manifest=replace(base.manifest, meta={**base.manifest.meta, name: value})
                ),
            )


def test_where_data_lay_is_in_no_key(base: RunConfig, case: Case) -> None:
    for name in ["path", "test_path", "source_path", "convention"]:
        with case(name=name):
            assert not differ(
                base,
                replace(
                    base,
                    manifest=replace(base.manifest, meta={**base.manifest.meta, name: "elsewhere"}),
                ),
            )


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["a", "b"]), st.integers(0, 5))
def test_every_element_of_initial_weights_is_in_the_key(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: int
) -> None:
    place_of = tmp_path_factory.mktemp("weights")
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    save_file(tensors, place_of / "one.safetensors")
    other = {key: value.clone() for key, value in tensors.items()}
    other[name].view(-1)[place] = torch.nextafter(other[name].view(-1)[place], torch.tensor(1e9))
    save_file(other, place_of / "other.safetensors")
    one, changed = (
        initial_of(str(path), path)
        for path in (place_of / "one.safetensors", place_of / "other.safetensors")
    )
    assert one.sha256 != changed.sha256


def test_where_and_how_weights_lie_is_in_no_key_but_their_names_shapes_and_types_are(
    tmp_path: Path,
) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    save_file(tensors, tmp_path / "one.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in tensors.items()}},
        tmp_path / "two.pt",
    )
    same = {initial_of(name, tmp_path / name).sha256 for name in ("one.safetensors", "two.pt")}
    assert len(same) == 1
    for number, change in enumerate(({"c": tensors["a"], "b": tensors["b"]}, {**tensors, "a": tensors["a"].view(2, 3)},
                                     {**tensors, "a": tensors["a"].double()})):  # fmt: skip
        save_file(change, tmp_path / f"{number}.safetensors")
        assert initial_of("x", tmp_path / f"{number}.safetensors").sha256 not in same


# The command line


def key_of(
    capsys: pytest.CaptureFixture[str], root: Path, *words: str, before: tuple[str, ...] = ()
) -> str:
    capsys.readouterr()
    code = main(["-q", "-C", str(root), *before, "train", *words, "--dry-run", "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return str(json.loads(captured.out)["key"])


PLAIN = ("digits", "--sym", "0.4", "--precision", "fp32")
# options that change a result, and an example of each in place of PLAIN
RESULT: dict[str, tuple[str, ...]] = {
    "words": ("other.npz", "--sym", "0.4", "--precision", "fp32"),
    "sym": ("digits", "--sym", "0.3", "--precision", "fp32"), "asym": ("digits", "--asym", "0.4", "--map", "digits", "--precision", "fp32"),
    "pair": ("digits", "--pair", "0.4", "--precision", "fp32"), "idn": ("digits", "--idn", "0.4", "--precision", "fp32"),
    "labels": ("digits", "--labels", "own", "--precision", "fp32"), "noise": ("digits", "--noise", "pairflip(rate=0.1)"),
    "inclusive": (*PLAIN, "--inclusive"), "bernoulli": (*PLAIN, "--bernoulli"), "val_fraction": (*PLAIN, "--val-fraction", "0.1"),
    "val_split": (*PLAIN, "--val-fraction", "0.1", "--val-split", "before"), "trusted": (*PLAIN, "--trusted", "0.1"),
    "subset": (*PLAIN, "--subset", "300"), "noise_seed": (*PLAIN, "--noise-seed", "1"), "loss": (*PLAIN, "--loss", "mae"),
    "strategy": (*PLAIN, "--strategy", "d2l"), "method": (*PLAIN, "--method", "gce"), "model": (*PLAIN, "--model", "cnn4"),
    "recipe": (*PLAIN, "--recipe", "apl"), "epochs": (*PLAIN, "--epochs", "3"),
    "budget": (*PLAIN, "--budget", "compute", "--strategy", "jocor"),
    "batch_size": (*PLAIN, "--batch-size", "65"), "lr": (*PLAIN, "--lr", "0.2"), "momentum": (*PLAIN, "--momentum", "0.8"),
    "nesterov": (*PLAIN, "--no-nesterov"), "weight_decay": (*PLAIN, "--weight-decay", "0.1"),
    "schedule": (*PLAIN, "--schedule", "constant"),
    "clip": (*PLAIN, "--clip", "1"), "crop": (*PLAIN, "--crop", "1"), "hflip": (*PLAIN, "--hflip"), "freeze": (*PLAIN, "--freeze", "1"),
    "layer_decay": (*PLAIN, "--layer-decay", "0.5"), "seed": (*PLAIN, "--seed", "1"),
    "precision": ("digits", "--sym", "0.4", "--precision", "bf16"), "img_size": (*PLAIN, "--img-size", "16"),
}  # fmt: skip
NO_RESULT: dict[str, tuple[str, ...]] = {  # that change none
    "device": ("--device", "cpu"), "no_resume": ("--no-resume",), "force": ("--force",), "accumulate": ("--accumulate", "2"),
    "log_to": ("--log-to", "tensorboard"),
}  # fmt: skip
# options that are tried on other data in this file or another, or say no more than what is shown
ELSEWHERE = {
    "manifest", "human", "matrix", "openset", "source", "map", "convention", "predictions", "test", "init_weights", "features", "feature_weights", "fit", "scale", "crop_pct",
    "sync_bn", "dry_run", "workers", "json",
}  # fmt: skip
GLOBAL = {
    "workspace",
    "data_dir",
    "offline",
    "plugin",
    "quiet",
    "verbose",
    "version",
    "install_completion",
    "show_completion",
}


def options_of(command: str | None) -> set[str]:
    found: Any = typer.main.get_command(app)
    params = (found.commands[command] if command else found).params
    # without those of plugins that other tests have loaded
    added = {
        name
        for name, entry in noise_options().items()
        if not entry.build.__module__.startswith("noisebench.")
    }
    return {parameter.name for parameter in params} - added


def test_every_option_stands_on_one_side() -> None:
    sides = (set(RESULT), set(NO_RESULT), ELSEWHERE)
    known = set().union(*sides)
    new = options_of("train") ^ known
    assert not new and sum(map(len, sides)) == len(known), (
        f"say in RESULT, NO_RESULT or ELSEWHERE whether {sorted(new)} change a result"
    )
    assert options_of(None) == GLOBAL, "say what a new global option does to a key"


def test_an_option_that_changes_the_result_changes_the_key(
    tmp_path: Path,
    digits: Images,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: Case,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(
        "other.npz",
        **{
            f"{part}_{what}": getattr(digits, f"{part}_{what}")
            for part in ("train", "test")
            for what in ("images", "labels")
        },
    )
    extra = {"budget": ("--strategy", "jocor"), "val_split": ("--val-fraction", "0.1")}
    plain = {words: key_of(capsys, tmp_path, *PLAIN, *words) for words in ((), *extra.values())}
    for option, words in RESULT.items():
        with case(option=option):
            assert key_of(capsys, tmp_path, *words) != plain[extra.get(option, ())]


def test_an_option_that_changes_no_result_changes_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    plain = key_of(capsys, tmp_path, *PLAIN)
    for option, words in NO_RESULT.items():
        with case(option=option):
            assert key_of(capsys, tmp_path, *PLAIN, *words) == plain


def test_places_order_threads_and_loudness_change_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {key_of(capsys, tmp_path / place, *PLAIN) for place in ("a", "b")}
    keys.add(key_of(capsys, tmp_path, "--precision", "fp32", "--sym", "0.40", "digits"))
    keys.add(
        key_of(
            capsys,
            tmp_path,
            *PLAIN,
            before=("--data-dir", str(tmp_path / "data"), "--offline", "-v"),
        )
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    keys.add(key_of(capsys, tmp_path, *PLAIN))
    assert len(keys) == 1


def test_executors_jobs_and_devices_change_no_key_of_a_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(
        "version: 1\nsuites: {own: {defaults: {dataset: digits, precision: fp32, epochs: 2, "
        "seeds: [0, 1]}, "
        "matrix: {noise: ['symmetric(rate=0.4)'], method: [ce, el]}}}\n"
    )

    def keys(*words: str) -> list[str]:
        capsys.readouterr()
        assert (
            main(
                [
                    "-q",
                    "-C",
                    str(tmp_path),
                    "run",
                    str(tmp_path / "own.yaml"),
                    *words,
                    "--dry-run",
                    "--json",
                ]
            )
            == 0
        )
        return [run["key"] for run in json.loads(capsys.readouterr().out)["runs"]]

    plain = keys()
    assert len(set(plain)) == 4
    together = (
        "--jobs",
        "2",
        "--device",
        "cpu",
        "--fail-fast",
        "--no-resume",
        "--log-to",
        "tensorboard",
        "--rerun",
        "all",
    )
    assert keys(*together) == plain
    suite = find_suite(str(tmp_path / "own.yaml"), tmp_path)[1]
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        assert [
            item.run.key for item in plan_suite(Workspace(tmp_path / place, workers=3), suite)
        ] == plain


# Data that change between two commands


def as_npz(path: Path, images: Images) -> Path:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(path, **{name: getattr(images, name) for name in names})  # type: ignore[arg-type]
    return path


def test_one_pixel_that_changed_on_disk_is_another_run(
    tmp_path: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(as_npz(tmp_path / "own.npz", images)), "--sym", "0.4", "--epochs", "1")
    assert main(["-q", "-C", str(tmp_path), "train", *words]) == 0
    before = key_of(capsys, tmp_path, *words)
    pixels = images.train_images.copy()
    pixels[5, 3, 3, 0] ^= 1
    as_npz(tmp_path / "own.npz", replace(images, train_images=pixels))
    assert key_of(capsys, tmp_path, *words) != before
    assert main(["-q", "-C", str(tmp_path), "train", *words]) == 0
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 2


def folder_of(place: Path, images: Images) -> Path:
    for part in ("train", "test"):
        for number in range(8):
            path = place / part / f"class{number % 2}" / f"{number}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.train_images[number, ..., 0]).save(path)
    return place


def test_an_image_in_memory_is_in_the_key_bit_by_bit_and_a_streamed_one_by_name_and_size(
    tmp_path: Path, images: Images
) -> None:
    """A million images are not read to name a run."""
    place, prints = folder_of(tmp_path / "set", images), {}
    for state in ("before", "same size", "another size", "another name", "another class"):
        path = place / "train" / "class0" / "2.bmp"
        if state == "same size":
            Image.fromarray(255 - images.train_images[2, ..., 0]).save(path)
        if state == "another size":
            Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
        if state == "another name":
            path.rename(path.with_name("3.bmp"))
        if state == "another class":
            path.with_name("3.bmp").rename(place / "train" / "class1" / "4.bmp")
        for reader in ("", "folder:"):
            dataset = find_dataset(f"{reader}{place}", tmp_path)
            if state != "another size" or reader:  # in memory all are of one size
                prints[reader, state] = read_images(dataset, tmp_path).fingerprint
        if state == "another size":
            Image.fromarray(images.train_images[2, ..., 0]).save(path)
    assert len({prints["", state] for state in ("before", "same size", "another class")}) == 3
    assert prints["folder:", "same size"] == prints["folder:", "before"]
    assert (
        len(
            {
                prints["folder:", state]
                for state in ("before", "another size", "another name", "another class")
            }
        )
        == 4
    )


def test_what_a_tar_holds_is_looked_for_again_where_the_tar_changed(
    tmp_path: Path, images: Images
) -> None:
    """The listing that is kept is of a tar's size and time."""
    place = folder_of(tmp_path / "set", images)

    def packed() -> str:
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            for path in sorted(place.rglob("*.bmp")):
                tar.add(path, path.relative_to(place))
        dataset = find_dataset(f"tar:{tmp_path / 'set.tar'}", tmp_path)
        return read_images(dataset, tmp_path).fingerprint

    first = packed()
    assert packed() == first and list((tmp_path / "listings").glob("*.npz"))
    (place / "train" / "class0" / "2.bmp").rename(place / "train" / "class0" / "9.bmp")
    assert packed() != first


def test_a_worker_whose_data_have_changed_trains_nothing(tmp_path: Path, images: Images) -> None:
    """It reads for itself, and compares the key that follows with the one that was planned."""
    as_npz(tmp_path / "own.npz", images)
    (tmp_path / "own.yaml").write_text(
        "version: 1\nsuites: {own: {defaults: {dataset: own.npz, recipe: digits, model: mlp, "
        "precision: fp32, epochs: 1, seeds: [0]}, "
        "matrix: {noise: ['symmetric(rate=0.4)'], method: [ce]}}}\n"
    )
    (item,) = plan_suite(Workspace(tmp_path), find_suite(str(tmp_path / "own.yaml"), tmp_path)[1])
    (tmp_path / "bundle").write_text(
        WorkerConfig(str(tmp_path), str(tmp_path), True).line()
        + JobBatch((Job.of(0, item),)).line()
    )
    for changed, kind in ((True, "failed"), (False, "done")):
        as_npz(
            tmp_path / "own.npz",
            replace(images, test_images=images.test_images // (2 if changed else 1)),
        )
        events = EventFile(tmp_path / f"events of {kind}")
        work_on(tmp_path / "bundle", events.path)
        last = list(events.read())[-1]
        assert last.kind == kind and item.folder.result.exists() != changed
        assert not changed or "changed while the suite was running" in last.content["message"]


def test_a_folder_that_holds_another_run_answers_for_none(
    tmp_path: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-q", "-C", str(tmp_path), "train", *PLAIN, "--epochs", "1"]) == 0
    (done,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    assert (
        main(
            [
                "-q",
                "-C",
                str(tmp_path),
                "train",
                *PLAIN,
                "--epochs",
                "1",
                "--lr",
                "0.3",
                "--dry-run",
                "--json",
            ]
        )
        == 0
    )
    done.rename(Path(json.loads(capsys.readouterr().out)["run"]))
    assert main(["-q", "-C", str(tmp_path), "train", *PLAIN, "--epochs", "1", "--lr", "0.3"]) == 2
    assert "holds the run" in capsys.readouterr().err


# Plugins


LOSS = (
    "import noisebench as nb\n{more}\n\n@nb.register_loss\ndef {name}(log_p, power=0.5):\n    "
    "return -({factor} * log_p)\n"
)


def test_a_plugins_code_and_what_it_imports_of_its_own_is_its_hash(tmp_path: Path) -> None:
    def written(**files: str) -> str:
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return code_of(str(tmp_path / "mine.py"))

    hashes = [
        written(
            mine="import helper\n\ndef later():\n    from deep import inner\n",
            helper="X = 1\n",
            unrelated="Y = 1\n",
        ),
        written(helper="X = 2\n"),
        written(**{"deep/inner": "Z = 1\n"}),
        written(**{"deep/inner": "from ..helper import X\nZ = 2\n"}),
        written(mine="import helper\n\ndef later():\n    from deep import inner  # again\n"),
    ]
    assert len(set(hashes)) == 5 and all(len(each) == 16 for each in hashes)
    assert written(unrelated="Y = 2\n", **{"deep/other": ""}) == hashes[-1]


def test_a_packages_own_modules_are_its_code_and_no_others(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "theirs"
    (package / "sub").mkdir(parents=True)
    for name, text in {"__init__": "", "losses": ("import numpy\nfrom .sub import tools\nfrom "
                                                 "theirs import more\n"), "more": "A = 1\n",
                       "sub/__init__": "", "sub/tools": "B = 1\n", "unasked": "C = 1\n"}.items():  # fmt: skip
        (package / f"{name}.py").write_text(text)
    (tmp_path / "site-packages" / "numpy.py").write_text("others = 1\n")

    def code() -> str:
        return code_of(str(package / "losses.py"))

    first = code()
    for name, own in (
        ("more", True),
        ("sub/tools", True),
        ("sub/__init__", True),
        ("unasked", False),
        ("../numpy", False),
    ):
        (package / f"{name}.py").write_text("changed = 1\n")
        assert (code() != first) == own, name
        first = code()


def key_under(tmp_path: Path, plugin: Path, loss: str) -> str:
    command = [
        sys.executable,
        "-m",
        "noisebench",
        "-q",
        "-C",
        str(tmp_path),
        "--plugin",
        str(plugin),
        "train",
        *PLAIN,
        "--loss",
        loss,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--dry-run", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return str(json.loads(done.stdout)["key"])


def test_a_plugin_that_was_edited_is_another_run(tmp_path: Path) -> None:
    plugin, keys = tmp_path / "mine.py", []
    for factor in ("1.0", "2.0"):
        plugin.write_text(LOSS.format(name="test_edited", factor=factor, more=""))
        keys.append(key_under(tmp_path, plugin, "test_edited"))
    assert keys[0] != keys[1]


def test_a_plugin_that_was_edited_in_a_session_is_refused_and_its_key_stays_that_of_what_is_computed(
    tmp_path: Path, base: RunConfig
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(LOSS.format(name="test_in_session", factor="1.0", more=""))
    load_plugins([str(plugin)])
    before = replace(base, loss=LOSSES.normal("test_in_session"))
    assert before.key and code_of(str(plugin)) in str(before.config["versions"])
    load_plugins([str(plugin)])
    plugin.write_text(LOSS.format(name="test_in_session", factor="2.0", more=""))
    with pytest.raises(
        ConfigError, match="its code has changed since it was loaded: restart Python"
    ):
        load_plugins([str(plugin)])
    assert not differ(before, replace(before))


def test_a_loss_that_was_typed_in_has_no_key(base: RunConfig) -> None:
    scope: dict[str, Any] = {"__name__": "typed_in"}
    exec(
        "import noisebench as nb\n@nb.register_loss\ndef test_typed_in(log_p):\n    return "
        "-log_p\n",
        scope,
    )
    with pytest.raises(
        LanguageError,
        match="test_typed_in is not defined in a file, so its code cannot be part",
    ):
        assert replace(base, loss=LOSSES.normal("test_typed_in")).key


def test_our_own_code_is_told_by_its_versions_alone(base: RunConfig) -> None:
    """Keys outlive a change that changes no number; where one does, the version is raised."""
    assert base.config["versions"] == {"loss:ce": "1", "strategy:standard": "1", "model:mlp": "1"}
    assert plugins.code_of(None) == plugins.code_of("<stdin>") == ""
    assert fingerprint(np.arange(3)) != fingerprint(np.arange(4))


def test_weights_that_changed_where_they_lay_are_not_begun_from(tmp_path: Path) -> None:
    from noisebench.experiments.backbones import read_initial

    save_file({"a": torch.zeros(3)}, tmp_path / "w.safetensors")
    workspace = Workspace(tmp_path)
    first = workspace.initial("w.safetensors", "mlp")
    save_file({"a": torch.ones(3)}, tmp_path / "w.safetensors")
    # of this process: and then
    assert first is not None and workspace.initial("w.safetensors", "mlp") == first
    with pytest.raises(DataError, match="have changed"):
        read_initial(first)
    assert Workspace(tmp_path).initial("w.safetensors", "mlp") != first
