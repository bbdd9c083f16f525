"""Making a manifest of any kind: held-out examples, images of another set, what papers meant, and
there and back.
"""

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import noisebench as nb
from noisebench.cli.options import NoiseOptions
from noisebench.datasets import DATASETS, HUMAN, Dataset, Labels, fingerprint, read_labels
from noisebench.datasets.raw import HumanColumn, HumanFile
from noisebench.errors import (
    ConfigError,
    LanguageError,
    ManifestError,
    NoisebenchError,
    UnknownName,
)
from noisebench.experiments.oracle import is_oracle
from noisebench.labels.build import DatasetInputs, LabelRequest, make_manifest, noise_for
from noisebench.labels.manifest import OPEN, Manifest, read_manifest
from noisebench.labels.rows import read_rows
from noisebench.losses import LOSSES
from noisebench.metrics.scores import memorised
from noisebench.noise import build_noise, is_class_conditional, noise_options
from noisebench.noise.conventions import CONVENTIONS, find_convention
from noisebench.runs.workspace import Workspace

LIGHT = settings(max_examples=60, deadline=None)
CAT, DOG = 3, 5
TOY = Dataset("toy", "", ("cat", "dog", "cow"), (8, 8, 1), 300, 10, "mlp", "digits")
EVEN = Labels(TOY, np.arange(300) % 3)
FILES = ["m.csv", "m.csv.gz", "m.parquet"]


def packaged(name):
    return read_labels(DATASETS[name], Path(), offline=True)


def rounded(share, n):
    """The expected number, rounded half up."""
    return np.floor(np.asarray(n) * share + 0.5 + 1e-9).astype(int)


def make(noise, data=EVEN, **wish):
    return make_manifest(data, LabelRequest(noise, **wish))


def written(manifest, folder, name="m.csv"):
    manifest.write(folder / name)
    return folder / name


def assert_same(one, other):
    assert (one.meta, one.ids, one.content_hash) == (other.meta, other.ids, other.content_hash)
    for name in ("labels", "clean_labels", "val", "source"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def save(path, n=50, value=200, labels=None):
    """A small set by path; every image is of one value and its own number."""
    labels = np.arange(n) % 4 if labels is None else labels
    images = np.full((n, 8, 8), value, np.uint8)
    images[:, 0, 0] = np.arange(n) % 256
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        train_images=images,
        train_labels=labels,
        test_images=images[:8],
        test_labels=labels[:8],
    )
    return path


# Held out


def test_the_expected_number_is_held_out_of_all_and_of_each_class_but_for_one(subtests):
    for fraction, when in product((0.1, 0.25, 0.5), ("before", "after")):
        with subtests.test(fraction=fraction, when=when):
            manifest = make("symmetric(0.4)", val_fraction=fraction, val_split=when)
            seen = EVEN.labels if when == "before" else manifest.labels
            held_out, counts = (
                np.bincount(seen[manifest.val], minlength=3),
                np.bincount(seen, minlength=3),
            )
            assert held_out.sum() == rounded(fraction, 300)
            assert (np.abs(held_out - fraction * counts) < 1).all()


def test_split_before_corruption_both_parts_have_exact_counts(subtests):
    for noise, held_out in product(
        ("symmetric(0.4)", "pairflip(0.3)", "symmetric(0.4, inclusive=True)"), (True, False)
    ):
        with subtests.test(noise=noise, held_out=held_out):
            manifest = make(noise, val_fraction=0.3, val_split="before")
            part = manifest.val == held_out
            wrong = np.bincount(EVEN.labels[part & (manifest.labels != EVEN.labels)], minlength=3)
            counts = np.bincount(EVEN.labels[part], minlength=3)
            np.testing.assert_array_equal(wrong, rounded(1 - np.diag(manifest.transition), counts))


@pytest.mark.parametrize("over", ["set", "pair"])
def test_split_before_corruption_each_part_is_exact_over_what_was_asked(over):
    data = packaged("cifar10")
    manifest = make(
        f"symmetric(0.4, exact_over='{over}')", data, val_fraction=0.1, val_split="before"
    )
    shares = [
        (manifest.labels != data.labels)[manifest.val == part].mean() for part in (True, False)
    ]
    assert shares == pytest.approx(
        [0.4, 0.4] if over == "set" else [10 * 9 * 22 / 5000, 10 * 9 * 200 / 45_000], abs=1e-12
    )


def test_split_after_corruption_the_labels_are_those_without_a_split():
    plain, split = make("symmetric(0.4)", seed=3), make("symmetric(0.4)", seed=3, val_fraction=0.2)
    np.testing.assert_array_equal(plain.labels, split.labels)


def test_split_before_corruption_the_split_does_not_depend_on_the_noise():
    one, other = (
        make(noise, val_fraction=0.2, val_split="before").val
        for noise in ("symmetric(0.4)", "pairflip(0.1)")
    )
    np.testing.assert_array_equal(one, other)


def test_the_same_seed_holds_out_the_same_examples_and_another_seed_others():
    one, again, other = (
        make("symmetric(0.4)", seed=seed, val_fraction=0.2, val_split="before").val
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_who_is_held_out_has_nothing_to_do_with_whose_label_is_wrong():
    data = packaged("cifar10")
    for when in ("before", "after"):
        manifest = make("symmetric(0.4, exact=False)", data, val_fraction=0.2, val_split=when)
        wrong = manifest.labels != data.labels
        assert abs(wrong[manifest.val].mean() - 0.4) < 4 * np.sqrt(0.24 / 10_000)


@pytest.mark.parametrize("name", FILES)
def test_the_split_stands_in_the_header_and_in_every_row(name, tmp_path):
    manifest = make("symmetric(0.4)", val_fraction=0.2, val_split="before")
    back = read_manifest(written(manifest, tmp_path, name))
    assert (back.meta["val_fraction"], back.meta["val_split"]) == (0.2, "before")
    np.testing.assert_array_equal(back.val, manifest.val)
    np.testing.assert_array_equal(back.in_training, ~manifest.val)


def test_anyone_reads_the_split_with_pandas(tmp_path):
    manifest = make("symmetric(0.4)", val_fraction=0.2)
    column = pd.read_csv(written(manifest, tmp_path), comment="#")["split"]
    assert column.tolist() == ["val" if held_out else "train" for held_out in manifest.val]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_share_of_nothing_is_no_split(when):
    assert (
        make("symmetric(0.4)", val_fraction=0, val_split=when).content
        == make("symmetric(0.4)").content
    )
    assert make("symmetric(0.4)").val is None and make("symmetric(0.4)").in_training.all()


def test_a_share_that_is_none_is_refused(subtests):
    for fraction in (1, 1.5, -0.1, float("nan"), float("inf")):
        refused = pytest.raises(
            ConfigError,
            match=r"--val-fraction must be a share of the training "
            r"set in \[0, 1\)",
        )
        with subtests.test(fraction=fraction), refused:
            LabelRequest("symmetric(0.4)", val_fraction=fraction)


def test_a_share_that_leaves_one_side_empty_is_refused(subtests):
    for (fraction, left), when in product(
        ((1e-9, "all"), (0.001, "all"), (0.999, "no")), ("before", "after")
    ):
        with (
            subtests.test(fraction=fraction, when=when),
            pytest.raises(ConfigError, match=f"leaves {left} training examples"),
        ):
            make("symmetric(0)", val_fraction=fraction, val_split=when)


def test_a_time_of_splitting_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="--val-split must be one of after, before, got 'never'"):
        LabelRequest("symmetric(0.4)", val_fraction=0.1, val_split="never")


def test_the_seed_of_labels_that_are_not_drawn_is_that_of_the_split_alone():
    one, other = (make("imported(own)", seed=seed, val_fraction=0.2) for seed in (1, 2))
    assert (one.meta["noise_seed"], other.meta["noise_seed"]) == (1, 2)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert (one.val != other.val).any() and make("imported(own)", seed=1).meta["noise_seed"] == 0


# Images of another set


@pytest.fixture
def openly(tmp_path):
    """A function that makes open-set noise, with images of a small set by path or of fashionmnist."""

    def made(closed="", data=EVEN, *, size=None, place="other", extra="", **wish):
        source = str(save(tmp_path / place / "few.npz", size)) if size else "fashionmnist"
        text = f"openset({closed + ', ' if closed else ''}rate=0.3, source={source!r}{extra})"
        space = Workspace(tmp_path)
        return make_manifest(
            data,
            LabelRequest(text, **wish),
            outside=DatasetInputs(data, tmp_path, True, space.dataset),
        )

    return made


@pytest.mark.parametrize("n", [300, 301, 17])
def test_of_each_class_the_expected_number_of_images_is_replaced(n, openly):
    labels = np.arange(n) % 3
    replaced = openly(data=Labels(TOY, labels)).source >= 0
    np.testing.assert_array_equal(
        np.bincount(labels[replaced], minlength=3), rounded(0.3, np.bincount(labels))
    )


def test_each_image_is_replaced_by_itself_where_that_is_asked_for(openly):
    data = packaged("cifar10")
    replaced = openly(data=data, extra=", exact=False").source >= 0
    assert abs(replaced.mean() - 0.3) < 4 * np.sqrt(0.21 / 50_000)
    assert len(set(np.bincount(data.labels[replaced]).tolist())) > 1


def test_over_the_set_exactly_the_rate_of_all_images_is_replaced(openly):
    data = packaged("cifar10")
    replaced = openly(data=data, extra=", exact_over='set'").source >= 0
    assert replaced.sum() == 15_000
    assert len(set(np.bincount(data.labels[replaced]).tolist())) > 1


@pytest.mark.parametrize("held_out", [True, False])
def test_split_before_corruption_each_part_has_its_exact_number_of_replaced_images(
    held_out, openly
):
    manifest = openly(val_fraction=0.25, val_split="before")
    part = manifest.val == held_out
    replaced = np.bincount(EVEN.labels[part & (manifest.source >= 0)], minlength=3)
    np.testing.assert_array_equal(replaced, rounded(0.3, np.bincount(EVEN.labels[part])))


@pytest.mark.parametrize("size", [None, 90, 91])
def test_no_image_is_put_in_twice_while_they_last(size, openly):
    put_in = openly(size=size).source
    assert len(np.unique(put_in[put_in >= 0])) == 90


def test_too_few_images_are_put_in_as_evenly_as_possible(openly, subtests):
    for size in (89, 50, 45, 7, 4):
        with subtests.test(size=size):
            put_in = openly(size=size).source
            counts = np.bincount(put_in[put_in >= 0], minlength=size)
            assert counts.sum() == 90 and len(counts) == size and np.ptp(counts) <= 1


def test_another_seed_replaces_others_by_others(openly):
    one, again, other = (openly(seed=seed).source for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert ((one >= 0) != (other >= 0)).any() and (
        one[(one >= 0) & (other >= 0)] != other[(one >= 0) & (other >= 0)]
    ).any()


@pytest.mark.parametrize("closed", ["", "symmetric(0.5)", "pairflip(0.9, exact=False)"])
def test_the_labels_of_replaced_images_stay(closed, openly):
    manifest = openly(closed)
    replaced = manifest.source >= 0
    np.testing.assert_array_equal(manifest.labels[replaced], EVEN.labels[replaced])


@pytest.mark.parametrize("closed", ["symmetric(0.2)", "pairflip(0.45)"])
def test_the_images_that_stay_have_exact_counts_of_wrong_labels(closed, openly):
    manifest = openly(closed)
    stays = manifest.source < 0
    wrong = np.bincount(EVEN.labels[stays & (manifest.labels != EVEN.labels)], minlength=3)
    np.testing.assert_array_equal(
        wrong, rounded(1 - np.diag(manifest.transition), np.bincount(EVEN.labels[stays]))
    )


@pytest.mark.parametrize(
    ("closed", "rate", "nominal"), [("", 0.3, 0.3), ("symmetric(0.2)", 0.3 + 0.7 * 0.2, None)]
)
def test_a_label_of_a_replaced_image_counts_as_wrong(closed, rate, nominal, openly):
    manifest = openly(closed)
    assert manifest.meta["realised_rate"] == pytest.approx(rate)
    assert manifest.meta["per_class_rate"] == pytest.approx([rate] * 3)
    assert manifest.meta["nominal_rate"] == nominal


def test_a_replaced_image_has_no_clean_label_and_its_recorded_one_is_memorised_or_not(openly):
    manifest = openly()
    replaced = manifest.source >= 0
    assert (manifest.clean_labels[replaced] == -1).all() and (
        manifest.true_labels[replaced] == OPEN
    ).all()
    np.testing.assert_array_equal(manifest.true_labels[~replaced], EVEN.labels[~replaced])
    assert memorised(manifest.labels, manifest.labels, manifest.true_labels) == 1


def test_the_counted_transition_is_that_of_the_images_that_stay(openly):
    manifest = openly("symmetric(0.2)")
    np.testing.assert_allclose(np.diag(manifest.empirical_transition), 0.8, atol=1e-12)
    assert manifest.confusion.sum(1).tolist() == [70, 70, 70]


@pytest.mark.parametrize("name", FILES)
def test_which_images_are_put_in_comes_back(name, openly, tmp_path):
    manifest = openly("symmetric(0.2)", size=40)
    assert_same(read_manifest(written(manifest, tmp_path, name)), manifest)


def test_anyone_reads_with_pandas_which_images_are_put_in(openly, tmp_path):
    manifest = openly()
    table = pd.read_csv(written(manifest, tmp_path), comment="#")
    assert table["source"].dropna().tolist() == [
        f"fashionmnist:{at}" for at in manifest.source[manifest.source >= 0]
    ]
    assert (
        table["source"].notna().tolist()
        == table["clean_label"].isna().tolist()
        == (manifest.source >= 0).tolist()
    )


def test_the_images_of_a_set_by_path_are_the_same_wherever_it_lies(openly):
    here, there = openly(size=40, place="here"), openly(size=40, place="there")
    np.testing.assert_array_equal(here.source, there.source)
    assert here.content_hash == there.content_hash and here.meta["noise"] == there.meta["noise"]


def test_a_matrix_within_knows_the_classes_and_not_where_it_lies(openly, tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "T.yaml").write_text("cat: {dog: 0.25, cat: 0.75}\n")
    here, there = (
        openly(f"matrix(file={str(tmp_path / place / 'T.yaml')!r})") for place in ("here", "there")
    )
    np.testing.assert_array_equal(here.transition, [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1]])
    assert here.content == there.content and str(tmp_path) not in here.content.decode()


def test_noise_within_takes_the_map_of_the_data(openly):
    assert (
        openly("asymmetric(0.4)", packaged("cifar10"))
        .meta["noise"]
        .startswith("openset(asymmetric(rate=0.4, map='cifar10'), rate=0.3")
    )


@pytest.mark.parametrize(
    "closed", ["pdn(0.2)", "human(worse)", "imported(own)", "openset(rate=0.1, source='mnist')"]
)
def test_noise_by_example_does_not_stand_within(closed, openly):
    with pytest.raises(LanguageError, match="noise for the other images must be class-conditional"):
        openly(closed)


@pytest.mark.parametrize("by_path", [False, True])
def test_images_of_the_data_set_itself_are_refused(by_path, tmp_path):
    space = Workspace(tmp_path)
    name = str(save(tmp_path / "mine.npz")) if by_path else "digits"
    data = space.labels(space.dataset(name))
    with pytest.raises(LanguageError, match="is the data set itself: choose another"):
        make_manifest(
            data,
            f"openset(rate=0.3, source={name!r})",
            outside=DatasetInputs(data, tmp_path, True, space.dataset),
        )


@pytest.mark.parametrize(
    "text",
    [
        "openset(rate=0.3)",
        "openset(source='mnist')",
        "openset(rate=1, source='mnist')",
        "openset(3)",
    ],
)
def test_an_open_set_without_rate_and_source_is_refused(text):
    with pytest.raises(LanguageError):
        make(text)


def test_a_source_that_is_not_there_names_what_is_near(tmp_path):
    outside = DatasetInputs(EVEN, tmp_path, True, Workspace(tmp_path).dataset)
    with pytest.raises(UnknownName, match="did you mean 'fashionmnist'"):
        make_manifest(EVEN, "openset(rate=0.3, source='fashionmnits')", outside=outside)


def test_a_source_of_fewer_images_than_then_is_refused(openly, tmp_path):
    manifest = openly(size=40)
    labels = np.load(tmp_path / "other" / "few.npz")["train_labels"]
    np.savez(tmp_path / "other" / "few.npz", train_images=np.zeros((20, 8, 8), np.uint8), train_labels=labels[:20],
             test_images=np.ones((4, 8, 8), np.uint8), test_labels=np.arange(4))  # fmt: skip
    with pytest.raises(ManifestError):
        Workspace(tmp_path).source_of(manifest)


# What papers meant


def of_conventions():
    """(paper, kind, data set) of every text in the table."""
    for name, paper in CONVENTIONS.items():
        for kind, texts in paper.texts.items():
            for dataset in (
                texts
                if "" not in texts
                else ("digits", "mnist", "cifar10", "cifar20", "cifar100", "fashionmnist")
            ):
                yield name, kind, dataset


def test_every_text_of_a_convention_is_a_noise_on_its_data(subtests):
    for (name, kind, dataset), rate in product(of_conventions(), (0.1, 0.45)):
        with subtests.test(convention=name, kind=kind, dataset=dataset, rate=rate):
            call = noise_for(DATASETS[dataset], find_convention(name).text(kind, rate, dataset))
            assert dict(call.kwargs)["rate"] == rate
            if is_class_conditional(call):
                T = build_noise(call, DATASETS[dataset].num_classes).transition
                np.testing.assert_allclose(T.sum(1), 1, atol=1e-12)


OVERALL = [
    ("sl2019", "asym", 0.4, "cifar10", 0.2), ("sl2019", "asym", 0.4, "cifar100", 0.16), ("sl2019", "sym", 0.4, "cifar100", 0.4),
    ("el2023", "asym", 0.4, "cifar10", 0.32), ("el2023", "asym", 0.4, "cifar100", 0.16), ("el2023", "sym", 0.4, "cifar10", 0.4),
    ("apl2020", "asym", 0.4, "cifar10", 0.184), ("apl2020", "asym", 0.4, "cifar100", 0.4), ("alf2021", "asym", 0.4, "cifar10", 0.184),
    ("elr2020", "asym", 0.4, "cifar10", 0.184), ("patrini2017", "asym", 0.4, "cifar10", 0.2), ("jocor2020", "asym", 0.4, "cifar10", 0.2),
    ("dividemix2020", "sym", 0.5, "cifar10", 0.45), ("dividemix2020", "sym", 0.5, "cifar100", 0.495),
    ("dividemix2020", "asym", 0.4, "cifar10", 0.2), ("gjs2021", "asym", 0.4, "cifar100", 0.4),
    ("gjs2021", "sym", 0.4, "cifar10", 0.36), ("gjs2021", "asym", 0.4, "cifar10", 0.184), ("gjs2021", "sym", 0.4, "cifar100", 0.396),
    ("jal2025", "asym", 0.4, "cifar10", 0.2), ("jal2025", "asym", 0.4, "cifar100", 0.4),
    ("epssoftmax2024", "asym", 0.4, "cifar10", 0.184), ("epssoftmax2024", "sym", 0.4, "cifar10", 0.4),
    ("logitclip2023", "asym", 0.4, "cifar10", 0.2), ("logitclip2023", "asym", 0.4, "cifar100", 0.4),
    ("cleanlab2021", "pair", 0.4, "cifar10", 0.4), ("d2l2018", "sym", 0.4, "cifar100", 0.4),
    ("lnltoolbox", "sym", 0.4, "cifar10", 0.4),
    ("coteaching2018", "pair", 0.45, "cifar10", 0.45),
]  # fmt: skip


def test_the_overall_rate_is_what_the_paper_meant(subtests):
    for name, kind, rate, dataset, overall in OVERALL:
        with subtests.test(convention=name, kind=kind, dataset=dataset):
            text = find_convention(name).text(kind, rate, dataset)
            manifest = make(text, packaged(dataset))
            by_chance = "exact=False" in text or "exact_over='set'" in text
            assert 1 - np.diag(manifest.transition).mean() == pytest.approx(overall)
            assert manifest.meta["realised_rate"] == pytest.approx(
                overall, abs=4 * np.sqrt(0.25 / 50_000) if by_chance else 1e-9
            )


def test_counts_rounded_down_by_pair_lose_what_the_paper_lost(subtests):
    for name, (dataset, rate, realised) in product(
        ("anl2023", "jal2025", "cleanlab2021"),
        (("cifar100", 0.1, 0.0), ("cifar10", 0.2, 0.1998), ("cifar100", 0.2, 0.198)),
    ):
        with subtests.test(convention=name, dataset=dataset, rate=rate):
            text = find_convention(name).text("sym", rate, dataset)
            assert make(text, packaged(dataset)).meta["realised_rate"] == pytest.approx(
                realised, abs=1e-12
            )


def test_over_the_set_exactly_the_rate_is_wrong_and_the_classes_differ():
    for name in ("lnltoolbox", "d2l2018", "logitclip2023"):
        manifest = make(find_convention(name).text("sym", 0.4, "cifar10"), packaged("cifar10"))
        assert (
            manifest.meta["realised_rate"] == 0.4 and len(set(manifest.meta["per_class_rate"])) > 1
        )


# MNIST's classes differ in size, which shows what counts are exact over.
MNIST_SIZES = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])


UNEQUAL = [
    ("sl2019", "sym", np.full(10, 2400)),
    ("apl2020", "sym", np.full(10, 2400)),
    ("sl2019", "asym", [0, 0, 2383, 2452, 0, 2168, 2367, 2506, 0, 0]),
    ("cleanlab2021", "sym", 9 * (MNIST_SIZES * 0.4 / 9).astype(int)),
    ("apl2020", "asym", None),
    ("alf2021", "sym", None),
]


def test_counts_on_classes_of_unequal_sizes_are_those_of_the_papers_code(subtests):
    for name, kind, counts in UNEQUAL:
        with subtests.test(convention=name, kind=kind):
            clean = np.repeat(np.arange(10), MNIST_SIZES)
            model = build_noise(find_convention(name).text(kind, 0.4, "mnist"), 10)
            wrong = np.bincount(clean[model.sample(clean, 0) != clean], minlength=10)
            if counts is None:  # each label by chance
                share = 1 - np.diag(model.transition)
                off = np.abs(wrong - MNIST_SIZES * share)
                assert (
                    off <= 4 * np.sqrt(MNIST_SIZES * share * (1 - share))
                ).all() and off.max() > 1
            else:
                assert wrong.tolist() == list(counts)


def test_equal_counts_are_equal_in_each_part_and_refused_where_a_class_is_too_small():
    clean, parts = np.repeat([0, 1, 2], [30, 40, 50]), np.arange(120) % 4 // 3
    model = build_noise("symmetric(rate=0.5, exact_over='equal')", 3)
    wrong = model.sample(clean, 0, parts) != clean
    assert np.bincount(3 * parts[wrong] + clean[wrong]).tolist() == [15, 15, 15, 5, 5, 5]
    with pytest.raises(
        LanguageError, match="needs 36 incorrect labels in each class, but class 0 has 30"
    ):
        build_noise("symmetric(rate=0.9, exact_over='equal')", 3).sample(clean, 0)


@pytest.mark.parametrize(("name", "rate"), [("dividemix2020", 0.5), ("gjs2021", 0.4)])
def test_over_the_set_exactly_the_rate_is_drawn_anew(name, rate):
    kind, dataset = ("sym", "cifar10") if name == "dividemix2020" else ("asym", "cifar100")
    manifest, data = (
        make(find_convention(name).text(kind, rate, dataset), packaged(dataset)),
        packaged(dataset),
    )
    wrong = (manifest.labels != data.labels).sum()
    assert (
        wrong == 20_000 if name == "gjs2021" else abs(wrong - 22_500) < 4 * np.sqrt(25_000 * 0.09)
    )


def test_cats_that_became_dogs_flip_back(subtests):
    for rate, cats, overall in (
        (0.1, 0.09, 0.049),
        (0.2, 0.16, 0.096),
        (0.3, 0.21, 0.141),
        (0.4, 0.24, 0.184),
    ):
        with subtests.test(rate=rate):
            manifest = make(
                f"asymmetric({rate}, map='cifar10', flip_back=True)", packaged("cifar10")
            )
            assert manifest.transition[CAT, DOG] == pytest.approx(cats) and manifest.transition[
                DOG, CAT
            ] == pytest.approx(rate)
            assert manifest.meta["per_class_rate"][CAT] == pytest.approx(cats, abs=1e-9)
            assert manifest.meta["realised_rate"] == pytest.approx(overall, abs=1e-9)


def test_the_header_says_whose_noise_it_is_and_the_identity_does_not_depend_on_it(tmp_path):
    text = find_convention("sl2019").text("sym", 0.4, "toy")
    plain, named = make(text), make(text, convention="sl2019")
    assert (
        read_manifest(written(named, tmp_path)).meta["convention"] == "sl2019"
        and "convention" not in plain.meta
    )
    assert named.content_hash == plain.content_hash and named.sha256 != plain.sha256


def wish(dataset="cifar10", **options):
    short = {name: options.pop(name) for name in [*options] if name in noise_options()}
    return NoiseOptions(short, **options).request(dataset)


def test_a_convention_says_all_of_the_noise_but_its_rate():
    assert wish(asym=0.4, convention="sl2019", dataset="cifar100").noise == (
        "asymmetric(rate=0.4, map='block5-pair', exact=False)"
    )
    assert wish(idn=0.2, convention="pdn2020").noise == "pdn(rate=0.2, pixels='bytes')"
    assert wish(idn=0.2).noise == "pdn(rate=0.2)"
    assert wish(idn=0.2, convention="jal2025").noise == "dependent(rate=0.2)"


def test_a_convention_holds_out_what_its_paper_did_unless_told_otherwise():
    told, silent = (
        wish(sym=0.4, convention="elr2020", val_fraction=0.0),
        wish(sym=0.4, convention="elr2020"),
    )
    assert (silent.val_fraction, silent.val_split, silent.convention) == (0.1, "before", "elr2020")
    assert told.val_fraction == 0 and wish(sym=0.4, convention="sl2019").val_fraction == 0
    for later in (wish(sym=0.4, convention="patrini2017"), wish(idn=0.4, convention="pdn2020")):
        assert (later.val_fraction, later.val_split) == (0.1, "after")


CONTRADICTING = [
    ({"pair": 0.4, "convention": "sl2019"}, "sl2019 has no --pair noise; it has --sym, --asym"),
    (
        {"asym": 0.4, "convention": "sl2019", "dataset": "fashionmnist"},
        "sl2019 has no --asym noise on fashionmnist, only on mnist",
    ),
    ({"sym": 0.4, "convention": "sl2018"}, "unknown convention 'sl2018': did you mean 'sl2019'"),
    (
        {"asym": 0.4, "convention": "sl2019", "map": "cifar10"},
        "defines all of the noise but its rate",
    ),
    (
        {"sym": 0.4, "convention": "sl2019", "bernoulli": True},
        "defines all of the noise but its rate",
    ),
    (
        {"human": "worse", "convention": "sl2019"},
        "--convention has an effect with --sym, --asym, --pair and --idn only",
    ),
    (
        {"human": "worse", "noise_seed": 3},
        "--noise-seed has no effect: the labels of --human are not sampled",
    ),
    (
        {"labels": "l.csv", "noise_seed": 3},
        "--noise-seed has no effect: the labels of --labels are not sampled",
    ),
    ({"sym": 0.4, "val_split": "before"}, "--val-split has an effect with --val-fraction only"),
    ({"openset": 0.4}, "--openset needs --source DATASET"),
    ({"sym": 0.4, "source": "mnist"}, "--source has an effect with --openset only"),
    ({"matrix": "T.csv", "human": "worse"}, "name one noise only, got --matrix and --human"),
]


def test_options_that_contradict_or_have_no_effect_are_refused(subtests):
    for options, said in CONTRADICTING:
        with subtests.test(options=options), pytest.raises(NoisebenchError, match=said):
            wish(**options)


OPTIONS = [
    ({"human": "worse"}, "human(column='worse')"),
    ({"human": "worse", "noise_seed": 3, "val_fraction": 0.1}, "human(column='worse')"),
    ({"matrix": "my T.csv", "bernoulli": True}, "matrix(file='my T.csv', exact=False)"),
    ({"labels": "own"}, "imported(file='own')"),
    ({"idn": 0.3, "predictions": "t.npz"}, "plc(predictions='t.npz', rate=0.3)"),
    ({"openset": 0.3, "source": "mnist"}, "openset(rate=0.3, source='mnist')"),
    (
        {"noise": "sym 0.1", "openset": 0.3, "source": "mnist"},
        "openset(symmetric(rate=0.1), rate=0.3, source='mnist')",
    ),
    ({"noise": "plc 0.2", "predictions": "p.npy"}, "plc(rate=0.2, predictions='p.npy')"),
    (
        {"openset": 0.3, "source": "mnist", "bernoulli": True},
        "openset(rate=0.3, source='mnist', exact=False)",
    ),
    (
        {"openset": 0.3, "source": "mnist", "pair": 0.2},
        "openset(pairflip(rate=0.2), rate=0.3, source='mnist')",
    ),
    (
        {"noise": "plc(kind='II', rate=0.2)", "predictions": "t.npy"},
        "plc(kind='II', rate=0.2, predictions='t.npy')",
    ),
]


def test_options_are_a_noise_in_the_language(subtests):
    for options, noise in OPTIONS:
        with subtests.test(options=options):
            assert wish(**options).noise == noise


# Every kind there and back

KINDS = {
    "symmetric": "symmetric(0.4)",
    "asymmetric": "asymmetric(0.3)",
    "pair": "pairflip(0.45, exact=False)",
    "flip back": "asymmetric(0.4, flip_back=True)",
    "over the set": "symmetric(0.4, inclusive=True, exact_over='set')",
    "over pairs": "symmetric(0.4, exact_over='pair')",
    "matrix": "matrix(file='T.csv')",
    "equal counts": "symmetric(0.4, exact_over='equal')",
    "matrix by pairs": "matrix(file='T.csv', exact_over='pair')",
    "pdn": "pdn(0.4)",
    "pdn of bytes": "pdn(0.4, pixels='bytes')",
    "dependent": "dependent(0.4)",
    "plc": "plc(predictions='teacher.npy', kind='III', rate=0.35)",
    "plc by factor": "plc(predictions='teacher.npy', factor=1.3)",
    "human": "human(worse)",
    "openset": "openset(rate=0.3, source='few.npz')",
    "openset with noise": "openset(symmetric(0.2), rate=0.3, source='fashionmnist', exact=False)",
    "imported": "imported('partly.csv')",
    "own": "imported(own)",
}


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory, digits):
    """A function from a kind to its manifest on the digits, made once; held out before corruption
    where asked.
    """
    folder, clean = tmp_path_factory.mktemp("kinds"), digits.train_labels
    np.savetxt(folder / "T.csv", 0.9 * np.eye(10) + 0.01, "%.17g", ",")
    scores = np.random.default_rng(0).random((1297, 10)) + np.eye(10)[clean]
    np.save(folder / "teacher.npy", scores / scores.sum(1, keepdims=True))
    known = np.where(np.arange(1297) % 3, clean.astype(str), "")
    lines = [f"{i},{(k + (i % 4 == 0)) % 10},{known[i]}" for i, k in enumerate(clean)]
    (folder / "partly.csv").write_text("\n".join(["index,label,clean_label", *lines]))
    save(folder / "few.npz", 60)
    torch.save(
        {"clean_label": clean, "worse_label": (clean + (np.arange(1297) % 3 == 0)) % 10},
        folder / "h.pt",
    )
    md5 = hashlib.md5((folder / "h.pt").read_bytes(), usedforsecurity=False).hexdigest()
    space, made = Workspace(folder, folder, offline=True), {}

    def make(kind, fraction=0.0):
        if (kind, fraction) not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setitem(
                    HUMAN,
                    "worse_label",
                    HumanColumn("digits", HumanFile("h.pt", md5, "", ""), ("worse_label",)),
                )
                made[kind, fraction] = space.make(
                    DATASETS["digits"], LabelRequest(KINDS[kind], 3, fraction, "before")
                )[0]
        return made[kind, fraction]

    return make


def test_a_manifest_of_every_kind_comes_back_as_it_was_written(of_kind, tmp_path, subtests):
    for kind, fraction, name in product(KINDS, (0, 0.1), FILES):
        with subtests.test(kind=kind, fraction=fraction, name=name):
            manifest = of_kind(kind, fraction)
            back = read_manifest(written(manifest, tmp_path, name))
            assert_same(back, manifest)
            assert back.content == manifest.content and manifest.matches_file(tmp_path / name)


def test_the_rates_of_every_kind_are_those_of_a_recount(of_kind, digits, subtests):
    for kind in KINDS:
        with subtests.test(kind=kind):
            manifest = of_kind(kind)
            known = manifest.true_labels != -1
            wrong = (manifest.labels != manifest.true_labels)[known]
            rates = (
                [wrong[digits.train_labels[known] == k].mean() for k in range(10)]
                if known.any()
                else [None] * 10
            )
            assert manifest.meta["realised_rate"] == (
                pytest.approx(wrong.mean()) if known.any() else None
            )
            assert manifest.meta["per_class_rate"] == (
                pytest.approx(rates) if known.any() else rates
            )


def test_the_text_in_the_header_of_every_kind_is_in_its_one_form(of_kind, subtests):
    for kind in KINDS:
        with subtests.test(kind=kind):
            text = of_kind(kind).meta["noise"]
            assert str(noise_for(DATASETS["digits"], text)) == text


def test_every_kind_belongs_to_its_data(of_kind, digits, subtests):
    for kind in KINDS:
        with subtests.test(kind=kind):
            of_kind(kind).verify(
                digits.train_labels, images_sha256=fingerprint(digits.train_images)
            )
            with pytest.raises(ManifestError, match="for other data"):
                of_kind(kind).verify(digits.train_labels[::-1])


def names_of(folder, wishes):
    """The manifests' names of some wishes on the digits."""
    space = Workspace(folder, folder, offline=True)
    return [
        space.make(DATASETS["digits"], LabelRequest(text, **wish))[1].name for text, wish in wishes
    ]


SAME_BUT = {
    "kind": [(f"plc('t.npy', kind='{kind}', rate=0.35)", {}) for kind in ("I", "II", "III")],
    "deviation": [(f"pdn(0.4, std={std})", {}) for std in (0.1, 0.2)],
    "pixels": [(text, {}) for text in ("pdn(0.4)", "pdn(0.4, pixels='bytes')", "dependent(0.4)")],
    "column": [(f"imported('l.npz:{column}')", {}) for column in ("one", "two")],
    "source": [
        (f"openset(rate=0.3, source='{source}')", {})
        for source in ("mnist", "fashionmnist", "cifar10")
    ],
    "source under a convention": [
        (f"openset(symmetric(0.2), rate=0.3, source='{source}')", {"convention": "sl2019"})
        for source in ("mnist", "cifar10")
    ],
    "rate under a convention": [
        (f"openset(symmetric({rate}), rate=0.3, source='mnist')", {"convention": "sl2019"})
        for rate in (0.2, 0.4)
    ],
    "noise within": [
        (f"openset({within}rate=0.3, source='mnist')", {})
        for within in ("", "symmetric(0.2), ", "pairflip(0.2), ")
    ],
    "rate within": [
        (f"openset(symmetric({rate}), rate=0.3, source='mnist')", {}) for rate in (0.1, 0.2)
    ],
    "over what": [
        (f"symmetric(0.4{over})", {})
        for over in (
            "",
            ", exact_over='set'",
            ", exact_over='pair'",
            ", exact_over='equal'",
            ", exact=False",
        )
    ],
    "flip back": [(f"asymmetric(0.4{back})", {}) for back in ("", ", flip_back=True")],
    "convention": [
        ("symmetric(0.4)", wish)
        for wish in ({}, {"convention": "sl2019"}, {"convention": "apl2020"})
    ],
    "split": [
        ("symmetric(0.4)", wish) for wish in ({}, {"val_fraction": 0.1}, {"val_fraction": 0.2})
    ]
    + [("symmetric(0.4)", {"val_fraction": 0.1, "val_split": "before"})],
    "seed of a split": [("imported(own)", {"val_fraction": 0.1, "seed": seed}) for seed in (0, 1)],
}


def test_manifests_that_differ_have_names_that_differ(tmp_path, monkeypatch, digits, subtests):
    for what, wishes in SAME_BUT.items():
        with subtests.test(what=what):
            monkeypatch.chdir(tmp_path)
            np.save("t.npy", np.eye(10)[digits.train_labels])
            np.savez("l.npz", one=digits.train_labels, two=digits.train_labels[::-1])
            assert len(set(names_of(tmp_path, wishes))) == len(wishes)


def test_a_changed_file_gives_another_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for share in (0.8, 0.9):
        np.save("T.npy", share * np.eye(10) + (1 - share) / 10)
        names += names_of(tmp_path, [("matrix(file='T.npy')", {})])
    assert names[0] != names[1]


def full():
    """A small manifest with every column."""
    names = tuple(f"train/{'cat, dog'}/{i} #{i % 7}.png" for i in range(36))
    data = Labels(replace(TOY, n_train=36), np.arange(36) % 3, names)
    return make_manifest(
        data,
        LabelRequest("openset(symmetric(0.4), rate=0.3, source='fashionmnist')", 1, 0.25, "before"),
    )


def test_the_small_manifest_has_every_column():
    assert b"\nindex,label,clean_label,id,split,source\n" in full().content


@LIGHT
@given(st.data())
def test_any_changed_byte_of_any_column_is_noticed(tmp_path_factory, data):
    content, path = full().content, tmp_path_factory.mktemp("damage") / "m.csv"
    position = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[position]))
    path.write_bytes(content[:position] + bytes([byte]) + content[position + 1 :])
    with pytest.raises(ManifestError, match=r"m\.csv"):
        read_manifest(path)


NONSENSE = [
    (b",val,", b",both,"),
    (b",fashionmnist:", b",mnist:"),
    (b",fashionmnist:", b",fashionmnist:-"),
    (b",fashionmnist:", b",fashionmnist:9999999999999999999999"),
    (b",fashionmnist:", "fashionmnist:²".encode()),
    (b"id,split,source\n", b"id,source,split\n"),
    (b"id,split,source\n", b"id,split,weight\n"),
    (b"# source: ", b"# sauce: "),
]


def test_nonsense_in_the_columns_under_a_fitting_checksum_is_refused(tmp_path, subtests):
    for old, new in NONSENSE:
        with subtests.test(new=new):
            head, rest = full().content.replace(old, new, 1).split(b"# sha256: ")
            body = rest.partition(b"\n")[2]
            (tmp_path / "m.csv").write_bytes(
                head
                + b"# sha256: "
                + hashlib.sha256(head + body).hexdigest().encode()
                + b"\n"
                + body
            )
            with pytest.raises(ManifestError, match=r"m\.csv") as caught:
                read_manifest(tmp_path / "m.csv")
            assert "\n" not in str(caught.value)


def test_a_header_that_nests_endlessly_is_refused_and_does_not_take_the_process_down(tmp_path):
    content = make("symmetric(0.4)").content.replace(
        b"# classes: ", b"# depth: " + b"[" * 50_000 + b"]" * 50_000 + b"\n# classes: "
    )
    head, rest = content.split(b"# sha256: ")
    body = rest.partition(b"\n")[2]
    (tmp_path / "m.csv").write_bytes(
        head + b"# sha256: " + hashlib.sha256(head + body).hexdigest().encode() + b"\n" + body
    )
    program = (
        "from noisebench.labels.manifest import *\ntry: read_manifest('m.csv')\nexcept "
        "ManifestError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr[-300:]


def test_a_manifest_without_training_examples_is_refused(tmp_path):
    made = make("symmetric(0.4)", val_fraction=0.5)
    written(Manifest(made.meta, made.labels, made.clean_labels, val=np.ones(300, bool)), tmp_path)
    with pytest.raises(ManifestError, match="every example is dropped"):
        read_manifest(tmp_path / "m.csv")


# The rows' text


def naive(table, source):
    """The rows' text, one after the other."""
    escapes = {c: f"%{ord(c):02X}" for c in '%#,"\r\n'}
    head = [
        "index",
        "label",
        "clean_label",
        *["id"] * bool(table.ids),
        *["split"] * (table.val is not None),
        "source",
    ]
    lines = [",".join(head[: len(head) - (table.source is None)])]
    for i, (label, clean) in enumerate(
        zip(table.labels.tolist(), table.clean_labels.tolist(), strict=True)
    ):
        cells = [str(i), str(label), str(clean) if clean >= 0 else ""]
        cells += ["".join(escapes.get(c, c) for c in table.ids[i])] if table.ids else []
        cells += [] if table.val is None else ["val" if table.val[i] else "train"]
        cells += (
            []
            if table.source is None
            else [f"{source}:{table.source[i]}" if table.source[i] >= 0 else ""]
        )
        lines.append(",".join(cells))
    return "".join(line + "\n" for line in lines).encode()


def text_of(manifest):
    """The rows alone, behind the checksum's line."""
    return manifest.content.partition(f"# sha256: {manifest.sha256}\n".encode())[2]


def random_rows(n, num_classes, seed, *, ids=False, val=False, source=False):
    random = np.random.default_rng(seed)
    return Manifest(
        {"num_classes": num_classes, "dataset": "", "source": "a, #set"},
        random.integers(0, num_classes, n),
        random.integers(-1, num_classes, n),
        tuple(f"{'a%#é'[: i % 5]}{i}" for i in range(n)) if ids else (),
        random.random(n) < 0.3 if val else None,
        random.integers(-1, 20_000, n) if source else None,
    )


@LIGHT
@given(
    st.integers(0, 1105), st.sampled_from([3, 10, 11, 101, 1000]), st.integers(0, 2**32),
    st.fixed_dictionaries({name: st.booleans() for name in ("ids", "val", "source")}),
)  # fmt: skip
def test_the_text_is_that_of_row_after_row(n, num_classes, seed, columns):
    table = random_rows(n, num_classes, seed, **columns)
    table.meta["source"] = "mnist"
    assert text_of(table) == naive(table, "mnist")


@LIGHT
@given(
    st.integers(1, 300), st.sampled_from([3, 10, 11, 1000]), st.integers(0, 2**32),
    st.fixed_dictionaries({name: st.booleans() for name in ("ids", "val", "source")}),
)  # fmt: skip
def test_rows_come_back_from_their_text(n, num_classes, seed, columns):
    table = random_rows(n, num_classes, seed, **columns)
    back = read_rows(text_of(table), n, "a, #set")
    assert back.get("ids", ()) == table.ids
    for name in ("labels", "clean_labels", "val", "source"):
        np.testing.assert_array_equal(back.get(name), getattr(table, name))


def test_every_paper_of_the_table_is_named_once():
    assert max(Counter(row.paper for row in CONVENTIONS.values()).values()) == 1
    assert all(row.note and row.texts and name == row.name for name, row in CONVENTIONS.items())


# Whose data, from where


def test_a_file_under_another_name_is_the_same_labels(tmp_path):
    manifests = []
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, EVEN.labels)
        manifests.append(make_manifest(EVEN, f"imported({str(tmp_path / name)!r})"))
    assert (
        manifests[0].content_hash == manifests[1].content_hash
        and manifests[0].sha256 != manifests[1].sha256
    )


def test_the_same_images_under_another_name_are_no_other_set():
    with pytest.raises(LanguageError, match="is the data set itself"):
        make_manifest(packaged("cifar100"), "openset(rate=0.2, source='cifar20')")


def test_from_python_open_set_noise_says_that_it_changes_no_label():
    with pytest.raises(LanguageError, match="replaces images"):
        nb.corrupt(np.arange(10), "openset(rate=0.3, source='cifar100')", num_classes=10)


@pytest.mark.parametrize(("loss", "oracle"), [("el(eps=0.4)", True), ("el(eps=0.3)", False)])
def test_a_matrix_that_is_symmetric_noise_is_the_truth_too(loss, oracle, tmp_path):
    np.save(tmp_path / "T.npy", nb.transition("symmetric(0.4)", 3))
    manifest = make_manifest(EVEN, f"matrix({str(tmp_path / 'T.npy')!r})")
    assert (
        manifest.meta["nominal_rate"] == pytest.approx(0.4)
        and is_oracle(LOSSES, LOSSES.normal(loss), manifest) is oracle
    )


@pytest.mark.parametrize(("eps", "oracle"), [(0.3, True), (0.2, True), (0.44, True), (0.25, False)])
def test_both_rates_of_open_and_closed_noise_are_the_truth(eps, oracle):
    manifest = make_manifest(
        packaged("cifar10"), "openset(symmetric(0.2), rate=0.3, source='cifar100')"
    )
    assert is_oracle(LOSSES, LOSSES.normal(f"el(eps={eps})"), manifest) is oracle


def test_what_was_not_drawn_has_no_noise_seed():
    assert make_manifest(EVEN, "imported('own')", 5).noise_seed is None
    assert make_manifest(EVEN, "symmetric(0.2)", 5).noise_seed == 5
