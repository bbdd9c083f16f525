"""Manifests: what is written comes back, one changed byte is noticed, and `auto` is what the
manifest knows.
"""

import gzip
import hashlib
import os
import sys
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from noisebench.core.parameters import Auto, WrongShare
from noisebench.core.registry import Registry
from noisebench.datasets import DATASETS, Dataset, Labels, read_labels
from noisebench.datasets.image_folder import list_folder
from noisebench.errors import DataError, LanguageError, ManifestError
from noisebench.experiments.oracle import is_oracle, mask_true_values, resolve_auto, transitions
from noisebench.labels.build import LabelRequest, make_manifest
from noisebench.labels.manifest import Manifest, file_name, read_manifest
from noisebench.losses import LOSSES
from noisebench.noise import transition
from noisebench.strategies import STRATEGIES

LIGHT = settings(max_examples=60, deadline=None)
FORMATS = ("m.csv", "m.csv.gz", "m.parquet")
DATA = os.environ.get("NOISEBENCH_DATA")
with_data = pytest.mark.skipif(
    not DATA, reason="NOISEBENCH_DATA names no folder with cifar10.npz and fashionmnist.npz"
)
TOY = Dataset(
    "toy", "three classes", ("cat", "dog", "a, \"b\": 'c' #d"), (8, 8, 1), 60, 10, "mlp", "digits"
)
CLEAN = np.arange(60) % 3


def toy(noise="symmetric(0.4)", seed=0, *, labels=CLEAN, ids=(), classes=TOY.classes):
    dataset = Dataset("toy", "", classes, TOY.shape, len(labels), 10, "mlp", "digits")
    return make_manifest(Labels(dataset, np.asarray(labels), tuple(ids)), noise, seed)


def real(name, noise, seed=0):
    return make_manifest(read_labels(DATASETS[name], Path(), offline=True), noise, seed)


def digits_asymmetric():
    return real("digits", "asymmetric(0.4)")


def without_model():
    """As an imported labelling would be: recorded and clean labels, but no nominal rate and no T."""
    made = toy("symmetric(0.4, exact=False)")
    about = {"nominal_rate": None, "transition": None, "noise": "imported(file='own')"}
    return Manifest({**made.meta, **about}, made.labels, made.clean_labels)


def written(manifest, folder, name="m.csv"):
    path = folder / name
    manifest.write(path)
    return path


def assert_same(one, other):
    assert one.meta == other.meta
    assert one.ids == other.ids
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.clean_labels, other.clean_labels)


def assert_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# There and back


def test_a_manifest_comes_back_as_it_was_written(tmp_path, subtests):
    for noise, name in product(
        (
            "symmetric(0.4)",
            "pairflip(1e-05)",
            "symmetric(0)",
            "symmetric(0.3, inclusive=True, exact=False)",
        ),
        FORMATS,
    ):
        with subtests.test(noise=noise, name=name):
            manifest = toy(noise)
            assert_same(read_manifest(written(manifest, tmp_path, name)), manifest)


def test_anyone_reads_the_table_with_pandas(tmp_path, subtests):
    for name in FORMATS:
        with subtests.test(name=name):
            manifest = toy()
            path = written(manifest, tmp_path, name)
            table = (
                pd.read_parquet(path)
                if path.suffix == ".parquet"
                else pd.read_csv(path, comment="#")
            )
            assert table.columns.tolist() == ["index", "label", "clean_label"]
            np.testing.assert_array_equal(
                table.to_numpy().T, [np.arange(60), manifest.labels, CLEAN]
            )


def test_anyone_reads_the_header_as_yaml(tmp_path):
    manifest = toy("pairflip(1e-05)")
    lines = [
        line[2:]
        for line in written(manifest, tmp_path).read_text().splitlines()
        if line.startswith("# ")
    ]
    assert yaml.safe_load("\n".join(lines)) == {**manifest.meta, "sha256": manifest.sha256}


def test_a_small_rate_comes_back_as_a_number(tmp_path, subtests):
    for rate in ("1e-05", "1.5e-07", "0.1", "1e-10"):
        with subtests.test(rate=rate):
            assert read_manifest(written(toy(f"symmetric({rate})"), tmp_path)).meta[
                "nominal_rate"
            ] == float(rate)


def test_compressed_or_not_the_content_is_the_same(tmp_path):
    manifest = toy()
    plain, packed = written(manifest, tmp_path), written(manifest, tmp_path, "m.csv.gz")
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes() == manifest.content


def test_in_columns_unknown_labels_and_odd_names_survive_too(tmp_path):
    made = toy(labels=[0, 1], ids=["train/a, #1.png", 'b "2" %.png'])
    made = Manifest(made.meta, made.labels, np.array([-1, 1]), made.ids)
    assert_same(read_manifest(written(made, tmp_path, "m.parquet")), made)


def test_without_pyarrow_a_parquet_manifest_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ManifestError, match=r"pip install 'noisebench\[parquet\]'"):
        written(toy(), tmp_path, "m.parquet")


def test_writing_twice_gives_the_same_bytes(tmp_path):
    one, other = (written(toy(), tmp_path, name) for name in ("a.csv.gz", "b.csv.gz"))
    assert one.read_bytes() == other.read_bytes()


def test_an_unknown_clean_label_is_an_empty_field(tmp_path):
    made = toy()
    path = written(Manifest(made.meta, made.labels, np.where(CLEAN == 1, -1, CLEAN)), tmp_path)
    assert pd.read_csv(path, comment="#")["clean_label"].isna().tolist() == (CLEAN == 1).tolist()
    np.testing.assert_array_equal(read_manifest(path).clean_labels == -1, CLEAN == 1)


IDS = [
    "a#b",
    "a,b",
    'a"b',
    "50%",
    "%23",
    "a\nb",
    "a\rb",
    "a\r\nb",
    "NA",
    "",
    " a ",
    "7",
    "é",
    "日本",
    "it's",
    "a\tb",
    "\u2028",
    "\x85",
]


def test_an_id_survives(tmp_path, subtests):
    for name in IDS:
        with subtests.test(id=name):
            manifest = toy(labels=[0, 1, 2], ids=("first", name, "last"))
            assert read_manifest(written(manifest, tmp_path)).ids == ("first", name, "last")


@LIGHT
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
        min_size=3,
        max_size=3,
    )
)
def test_any_ids_survive(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("ids") / "m.csv"
    toy(labels=[0, 1, 2], ids=ids).write(path)
    assert read_manifest(path).ids == tuple(ids)


def test_a_file_whose_name_is_not_unicode_is_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Path(os.fsdecode(os.fsencode(tmp_path / folder) + b"/caf\xe9.png")).touch()
    with pytest.raises(DataError, match="name is not UTF-8"):
        list_folder(tmp_path)


def test_ids_with_special_characters_are_one_field_for_pandas(tmp_path):
    path = written(toy(labels=[0, 1, 2], ids=("a#b", "a,b", 'a"b\n')), tmp_path)
    assert pd.read_csv(path, comment="#")["id"].tolist() == ["a%23b", "a%2Cb", "a%22b%0A"]


CLASSES = [
    "a: b",
    "# sha256: x",
    "a\nb",
    "'",
    '"',
    "yes",
    "1",
    "~",
    "é",
    "\u2028",
    "\x85",
    "\x7f",
    "\\",
    "{a}",
    "😀",
]


def test_the_name_of_a_class_survives(tmp_path, subtests):
    for name in CLASSES:
        with subtests.test(name=name):
            manifest = toy(classes=("cat", name, "dog"))
            assert_same(read_manifest(written(manifest, tmp_path)), manifest)


# Damage


def test_one_changed_byte_anywhere_is_noticed(tmp_path, subtests):
    for flip in (1, 0x20, 0x80):
        with subtests.test(flip=flip):
            content, path = toy().content, tmp_path / "m.csv"
            for position in range(len(content)):
                assert_refused(
                    path,
                    content[:position]
                    + bytes([content[position] ^ flip])
                    + content[position + 1 :],
                )


@LIGHT
@given(st.data())
def test_any_byte_in_place_of_another_is_noticed(tmp_path_factory, data):
    content = toy().content
    position = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[position]))
    assert_refused(
        tmp_path_factory.mktemp("damage") / "m.csv",
        content[:position] + bytes([byte]) + content[position + 1 :],
    )


def test_a_file_cut_anywhere_is_noticed(tmp_path):
    content = toy().content
    for length in range(len(content)):
        assert_refused(tmp_path / "m.csv", content[:length])


def test_a_missing_byte_anywhere_is_noticed(tmp_path):
    content = toy().content
    for position in range(len(content)):
        assert_refused(tmp_path / "m.csv", content[:position] + content[position + 1 :])


def test_anything_added_is_noticed(tmp_path, subtests):
    for more in (b"\n", b" ", b"60,0,0\n", b"# note: x\n", b"\0"):
        with subtests.test(more=more):
            content = toy().content
            assert_refused(tmp_path / "m.csv", content + more)
            assert_refused(tmp_path / "m.csv", more + content)


def test_windows_line_ends_are_noticed(tmp_path):
    assert_refused(tmp_path / "m.csv", toy().content.replace(b"\n", b"\r\n"))


def test_a_changed_byte_in_a_compressed_file_never_gives_other_labels(tmp_path):
    manifest, path = toy(), tmp_path / "m.csv.gz"
    content = written(manifest, tmp_path, path.name).read_bytes()
    for position in range(len(content)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        try:
            # a byte of gzip's own header may mean nothing
            assert_same(read_manifest(path), manifest)
        except ManifestError:
            continue


NO_MANIFESTS = (
    b"", b"\n", b"\0" * 100, bytes(range(256)), b"index,label\n0,1\n", b"# noisebench_manifest: 1\n", b"\x89PNG\r\n\x1a\n",
)  # fmt: skip


def test_what_is_no_manifest_is_refused(tmp_path, subtests):
    for content, name in product(NO_MANIFESTS, FORMATS):
        with subtests.test(content=content[:20], name=name):
            assert_refused(tmp_path / name, content)


def test_a_truncated_archive_is_refused(tmp_path):
    content = written(toy(), tmp_path, "m.csv.gz").read_bytes()
    for length in range(0, len(content), 7):
        assert_refused(tmp_path / "m.csv.gz", content[:length])


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ManifestError):
            read_manifest(path)


def sealed(content):
    """Content with a checksum that fits, as one would get by editing both."""
    head, rest = content.split(b"# sha256: ")
    body = rest.partition(b"\n")[2]
    return head + b"# sha256: " + hashlib.sha256(head + body).hexdigest().encode() + b"\n" + body


EDITS = {
    "another format": (b"manifest: 1\n", b"manifest: 99\n"),
    "no noise": (b"# noise: ", b"# loud: "),
    "no number of classes": (b"# num_classes: ", b"# num: "),
    "a word for a number": (b"# num_classes: 3", b"# num_classes: three"),
    "another number of rows": (b"# n: 60\n", b"# n: 61\n"),
    "no YAML": (b"# n: 60\n", b"# n: [60\n"),
    "another column": (b"index,label,clean_label", b"index,label,weight"),
    "a label out of range": (b"\n0,", b"\n0,9,0\n#"),
    "a negative label": (b"\n7,", b"\n7,-"),
    "a label that is no number": (b"\n7,", b"\n7,x"),
    "an index that does not count": (b"\n7,", b"\n8,"),
    "a row too many fields": (b"\n7,", b"\n7,1,1,1,"),
    "no rows": (b"\n0,", b"\nx"),
    "a clean label that is negative": (b",2\n", b",-2\n"),
    "not UTF-8": (b'"cat"', b'"c\xffat"'),
}


def test_nonsense_under_a_fitting_checksum_is_refused(tmp_path, subtests):
    for name, (old, new) in EDITS.items():
        with subtests.test(edit=name):
            content = toy().content
            assert content.count(old) >= 1
            assert_refused(tmp_path / "m.csv", sealed(content.replace(old, new, 1)))


# Whose data


def test_a_manifest_belongs_to_the_data_it_was_made_for(tmp_path):
    assert read_manifest(written(toy(), tmp_path)).verify(CLEAN) is None


def test_other_data_are_refused(subtests):
    for other in (
        CLEAN[::-1],
        CLEAN[:-1],
        np.append(CLEAN, 0),
        np.where(np.arange(60) == 30, (CLEAN + 1) % 3, CLEAN),
    ):
        with subtests.test(n=len(other)), pytest.raises(ManifestError, match="other data"):
            toy().verify(other)


def test_other_files_with_the_same_labels_are_refused():
    manifest = toy(labels=[0, 1, 2], ids=("a", "b", "c"))
    manifest.verify(np.array([0, 1, 2]), ("a", "b", "c"))
    with pytest.raises(ManifestError, match="other data"):
        manifest.verify(np.array([0, 1, 2]), ("a", "c", "b"))


def test_a_manifest_lies_where_it_was_written_and_nowhere_else(tmp_path):
    path = written(toy(), tmp_path)
    assert toy().matches_file(path)
    assert not toy(seed=1).matches_file(path)
    assert not toy().matches_file(tmp_path / "none.csv")


# What it says


def test_the_realised_rates_are_those_of_a_recount(subtests):
    for noise in (
        "symmetric(0.4)",
        "symmetric(0.4, exact=False)",
        "pairflip(0.2)",
        "symmetric(0.3, inclusive=True)",
    ):
        with subtests.test(noise=noise):
            manifest = toy(noise)
            wrong = manifest.labels != CLEAN
            assert manifest.meta["realised_rate"] == pytest.approx(wrong.mean())
            assert manifest.meta["per_class_rate"] == pytest.approx(
                [wrong[k == CLEAN].mean() for k in range(3)]
            )


def test_a_class_without_examples_has_no_rate():
    assert toy("pairflip(0.5)", labels=[0, 0, 2, 2]).meta["per_class_rate"] == [0.5, None, 0.5]


@pytest.mark.parametrize("noise", ["symmetric(rate=0.4)", "pairflip(rate=0.3)"])
def test_the_transition_is_that_of_the_noise(noise, tmp_path):
    np.testing.assert_array_equal(
        read_manifest(written(toy(noise), tmp_path)).transition, transition(noise, 3)
    )


def test_the_empirical_transition_is_the_share_of_each_recorded_class():
    manifest = toy()
    expected = [[np.mean(manifest.labels[i == CLEAN] == j) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(manifest.empirical_transition, expected)


def test_a_class_without_examples_counts_as_clean_in_the_empirical_transition():
    np.testing.assert_array_equal(
        toy("pairflip(0.5)", labels=[0, 0, 2, 2]).empirical_transition[1], [0, 1, 0]
    )


@pytest.mark.parametrize(
    ("noise", "seed"),
    [("symmetric(0.4)", 1), ("symmetric(0.41)", 0), ("symmetric(0.4, exact=False)", 0)],
)
def test_another_noise_or_seed_is_another_manifest(noise, seed):
    assert toy(noise, seed).sha256 != toy().sha256


@pytest.mark.parametrize(
    "other", ["symmetric(rate=0.40)", ("symmetric(0.4, exact=True, inclusive=False)")]
)
def test_one_meaning_is_one_manifest(other):
    assert toy(other).content == toy().content


# A published manifest must be the same bytes on every platform and numpy, for good: whoever moves
# one of these checksums makes everybody's manifests another data set. They were computed once, by
# this code, and are not meant to be recomputed.
GOLDEN = {
    (
        "digits",
        "symmetric(0.4)",
    ): "a25fee6aeeaa777c50b45b25b2141a89f583455b2113e064d36a5a40bb37b139",
    (
        "cifar10",
        "asymmetric(0.3)",
    ): "fed76c5431b02c4e6650b15260678d5ada785e7a5574ba4a974b63f244dc670e",
    (
        "cifar100",
        "pairflip(0.45)",
    ): "baf87a9ddc142f5bdb3b76d88f1fe029ffcf9c291ca42ff9e6acfa888f070c02",
}


@pytest.mark.parametrize(("name", "noise"), GOLDEN)
def test_a_closed_form_manifest_never_changes_a_byte(name, noise):
    assert real(name, noise).sha256 == GOLDEN[name, noise]


def test_the_checksum_is_that_of_every_other_byte():
    content = toy().content
    seal = b"# sha256: " + toy().sha256.encode() + b"\n"
    assert content.count(seal) == 1
    assert hashlib.sha256(content.replace(seal, b"")).hexdigest() == toy().sha256


@pytest.mark.parametrize(
    ("name", "noise", "rate"),
    [
        ("cifar10", "asymmetric(0.3)", 0.15),
        ("cifar100", "symmetric(0.1)", 0.1),
        ("cifar100", "asymmetric(0.4)", 0.4),
    ],
)
def test_the_realised_rate_on_real_labels_is_exact(name, noise, rate):
    assert real(name, noise).meta["realised_rate"] == pytest.approx(rate, abs=1e-12)


def test_asymmetric_noise_takes_the_map_of_the_data_where_none_is_named():
    assert real("cifar10", "asymmetric(0.3)").meta["noise"] == (
        "asymmetric(rate=0.3, map='cifar10')"
    )


def test_asymmetric_noise_on_data_without_a_map_asks_for_one():
    with pytest.raises(LanguageError, match="needs a map"):
        toy("asymmetric(0.3)")


# File names


def name_of(dataset, noise, seed=0):
    return file_name(real(dataset, noise, seed), DATASETS[dataset])


NAMED = [
    ("digits", "symmetric(0.4)", 0, "digits-sym0.4-s0.csv"),
    ("digits", "symmetric(0.40)", 3, "digits-sym0.4-s3.csv"),
    ("digits", "asymmetric(0.3)", 0, "digits-asym0.3-s0.csv"),
    ("digits", "asymmetric(0.3, map='digits')", 0, "digits-asym0.3-s0.csv"),
    ("cifar10", "asymmetric(0.3)", 0, "cifar10-asym0.3-s0.csv"),
    ("cifar100", "pairflip(0.45)", 0, "cifar100-pair0.45-s0.csv"),
    ("digits", "symmetric(0)", 0, "digits-sym0-s0.csv"),
]


def test_a_file_is_named_by_data_noise_and_seed(subtests):
    for dataset, noise, seed, name in NAMED:
        with subtests.test(name=name, noise=noise):
            assert name_of(dataset, noise, seed) == name


NOT_DEFAULT = [
    ("digits", "symmetric(0.4, inclusive=True)", "inclusive"),
    ("digits", "symmetric(0.4, exact=False)", "bernoulli"),
    ("cifar10", "asymmetric(0.3, map='cifar10-two-way')", "cifar10-two-way"),
    ("cifar100", "asymmetric(0.3, map='block5-pair')", "block5-pair"),
    ("cifar100", "asymmetric(0.3, map='block5-pair', pairs_seed=2)", "pairs_seed2"),
]


def test_what_is_not_the_default_stands_in_the_name(subtests):
    for dataset, noise, word in NOT_DEFAULT:
        with subtests.test(noise=noise):
            assert f"-{word}-" in name_of(dataset, noise)


def test_manifests_that_differ_have_names_that_differ():
    switches = ["", ", inclusive=True", ", exact=False", ", inclusive=True, exact=False"]
    names = {
        name_of("digits", f"symmetric({rate}{switch})", seed)
        for rate in (0.1, 1e-05)
        for switch in switches
        for seed in (0, 1)
    }
    assert len(names) == 16


def test_a_manifest_is_named_after_its_data_set(tmp_path):
    dataset = Dataset(
        "x", "", TOY.classes, TOY.shape, 60, 10, "mlp", "digits", path=tmp_path / "my set (2).npz"
    )
    assert file_name(toy(), dataset) == "x-sym0.4-s0.csv"


def test_a_path_is_no_part_of_the_identity_of_a_manifest(tmp_path):
    here, there = (
        Manifest({**toy().meta, "path": place}, toy().labels, toy().clean_labels)
        for place in ("a/x.npz", "b/x.npz")
    )
    assert (
        here.content_hash == there.content_hash == toy().content_hash
        and here.sha256 != there.sha256
    )
    assert here.matches_file(written(there, tmp_path))


# Real data


@with_data
@pytest.mark.parametrize("name", ["cifar10", "fashionmnist"])
def test_the_packaged_labels_are_those_of_the_real_data(name):
    with np.load(Path(DATA).expanduser() / f"{name}.npz") as archive:
        np.testing.assert_array_equal(
            read_labels(DATASETS[name], Path(), offline=True).labels, archive["train_labels"]
        )


def test_the_packaged_labels_have_every_class_and_every_example(subtests):
    for name in ("cifar10", "cifar100", "fashionmnist"):
        with subtests.test(name=name):
            labels = read_labels(DATASETS[name], Path(), offline=True).labels
            assert len(labels) == DATASETS[name].n_train
            assert len(set(labels.tolist())) == DATASETS[name].num_classes


# auto


AUTO = [
    ("el", "el(eps=0.4)"),
    ("lsr(el)", "lsr(el(eps=0.4), alpha=0.1)"),
    ("ce + 2*normalized(el)", "2*normalized(el(eps=0.4)) + ce"),
    ("el + el(eps=0.4)", "2*el(eps=0.4)"),
    ("forward(ce)", "forward(ce, T='true')"),
    ("forward(el)", "forward(el(eps=0.4), T='true')"),
    ("forward(ce, T=empirical)", "forward(ce, T='empirical')"),
    ("el(eps=0.2)", "el(eps=0.2)"),
    ("gce", "gce(q=0.7)"),
]


def test_auto_becomes_what_the_manifest_knows(subtests):
    for text, resolved in AUTO:
        with subtests.test(text=text):
            assert str(resolve_auto(LOSSES, text, toy())) == resolved


def test_resolving_twice_is_resolving_once():
    once = resolve_auto(LOSSES, "forward(lsr(el) + mae)", toy())
    assert resolve_auto(LOSSES, once, toy()) == once


def test_the_rate_is_the_nominal_one_not_the_overall_one():
    assert str(resolve_auto(LOSSES, "el", real("cifar10", "asymmetric(0.4)"))) == "el(eps=0.4)"


def test_without_a_nominal_rate_it_is_the_realised_one():
    manifest = without_model()
    assert (
        dict(resolve_auto(LOSSES, "el", manifest).kwargs)["eps"] == manifest.meta["realised_rate"]
    )


def test_a_rate_that_nobody_knows_is_refused():
    made = toy()
    manifest = Manifest(
        {**made.meta, "nominal_rate": None, "realised_rate": None}, made.labels, np.full(60, -1)
    )
    with pytest.raises(LanguageError, match="which this manifest does not have"):
        resolve_auto(LOSSES, "el", manifest)


ORACLES = [
    ("el", True),
    ("el(eps=0.4)", True),
    ("el(eps=0.3)", False),
    ("lsr(el)", True),
    ("lsr(normalized(el(eps=0.4)))", True),
    ("lsr(el(eps=0.1))", False),
    ("10*ce + 0.1*el", True),
    ("10*ce + 0.1*el(eps=0.9)", False),
    ("forward(ce)", True),
    ("forward(ce, T='true')", True),
    ("forward(ce, T='empirical')", True),
    ("backward(ce, T=[[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]])", True),
    ("lsr(forward(ce, T=[[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]))", True),
    ("forward(ce, T=[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])", False),
    ("lsr(gce(q=0.4), alpha=0.4)", False),
    ("gce", False),
]


def test_a_loss_that_holds_the_truth_is_an_oracle(subtests):
    for text, oracle in ORACLES:
        with subtests.test(text=text):
            manifest = toy()
            assert is_oracle(LOSSES, resolve_auto(LOSSES, text, manifest), manifest) is oracle


def test_the_share_of_incorrect_labels_as_people_type_it_is_the_truth_too(subtests):
    for eps, oracle in (
        (0.2, True),
        (0.202, True),
        (0.2020, True),
        (0.21, False),
        (0.19, False),
        (0.3, False),
    ):
        with subtests.test(eps=eps):
            manifest = digits_asymmetric()
            assert manifest.meta["realised_rate"] == pytest.approx(0.20200463)
            assert is_oracle(LOSSES, LOSSES.normal(f"el(eps={eps})"), manifest) is oracle
            assert (
                is_oracle(STRATEGIES, STRATEGIES.normal(f"coteaching(rate={eps})"), manifest)
                is oracle
            )
            assert not is_oracle(LOSSES, LOSSES.normal("el(eps=inf)"), manifest)


def test_auto_is_the_rate_for_el_and_the_share_of_incorrect_labels_for_strategies_that_keep_a_share():
    manifest, expected = digits_asymmetric(), {}
    clean = np.bincount(manifest.clean_labels, minlength=10)
    share = round(1 - clean @ np.diag(manifest.transition) / clean.sum(), 6)
    assert share == pytest.approx(0.2, abs=0.01) and manifest.expected_share == share
    for registry, text, key in [
        (LOSSES, "el", "eps"),
        (LOSSES, "el(eps=overall)", "eps"),
        *(
            (STRATEGIES, name, "rate")
            for name in ("coteaching", "coteaching_plus", "jocor", "curriculum")
        ),
        (STRATEGIES, "jocor(rate=overall)", "rate"),
    ]:
        resolved = resolve_auto(registry, text, manifest)
        expected[text] = dict(resolved.kwargs)[key]
        assert is_oracle(registry, resolved, manifest)
        assert mask_true_values(registry, resolved, manifest) == registry.canonical(text).replace(
            "rate=overall", "rate=auto"
        )
    assert expected.pop("el") == 0.4 and set(expected.values()) == {share}


@pytest.mark.parametrize(
    ("noise", "share"),
    [
        ("symmetric(0.4)", 0.4),
        ("symmetric(0.4, inclusive=True)", 0.4 * 2 / 3),
        ("pairflip(0.45)", 0.45),
        ("symmetric(0)", 0),
    ],
)
def test_the_expected_share_is_that_of_the_transition_matrix(noise, share):
    assert toy(noise).expected_share == pytest.approx(share, abs=1e-6)


def test_a_share_without_a_transition_matrix_is_the_realised_one():
    manifest = without_model()
    assert manifest.transition is None and manifest.expected_share == manifest.meta["realised_rate"]


def test_the_expected_share_counts_verified_labels_as_correct_and_rounded_down_counts_as_they_are():
    data = read_labels(DATASETS["digits"], Path(), offline=True)
    verified = make_manifest(data, LabelRequest("asymmetric(0.4)", trusted=0.5))
    assert verified.expected_share == pytest.approx(verified.meta["realised_rate"], abs=0.01)
    assert verified.expected_share < 0.6 * digits_asymmetric().expected_share
    rounded = make_manifest(data, "symmetric(0.4, exact_over='pair')")
    assert (
        rounded.expected_share == rounded.meta["realised_rate"] == pytest.approx(0.361, abs=0.001)
    )
    hundred = toy(
        "symmetric(0.1, exact_over='pair')",
        labels=np.arange(5000) % 100,
        classes=tuple(map(str, range(100))),
    )
    assert hundred.expected_share == 0 and hundred.meta["nominal_rate"] == 0.1


def test_a_transition_typed_to_some_digits_is_the_truth_too():
    ten, typed = real("digits", "symmetric(0.4)"), {}
    for digits in (2, 3, 4):
        off = round(0.4 / 9, digits)
        rows = [
            [round(1 - 9 * off, digits) if i == j else off for j in range(10)] for i in range(10)
        ]
        typed[digits] = is_oracle(LOSSES, LOSSES.normal(f"forward(ce, T={rows})"), ten)
    assert typed == {2: False, 3: True, 4: True}  # 0.04 and 0.64 are the matrix of another rate
    little = toy("symmetric(0.008)", labels=np.arange(6000) % 3)
    assert not is_oracle(LOSSES, LOSSES.normal(f"forward(ce, T={np.eye(3).tolist()})"), little)


def test_what_a_plugin_declares_of_its_rate_is_filled_in_and_known_to_be_the_truth():
    registry = Registry("strategy", "strategies")

    def keep(rate: WrongShare = "auto", eps: Annotated[float, Auto("rate")] = 0.1): ...

    registry.register(keep)
    resolved = resolve_auto(registry, "keep(eps=auto)", digits_asymmetric())
    assert dict(resolved.kwargs) == {"rate": digits_asymmetric().expected_share, "eps": 0.4}
    assert is_oracle(registry, resolved, digits_asymmetric())
    with pytest.raises(LanguageError, match="'rate', 'share' or 'transition'"):
        Auto("overall")


def test_a_typed_empirical_transition_is_the_truth_too():
    manifest = toy("symmetric(0.4, exact=False)")
    text = f"forward(ce, T={manifest.empirical_transition.tolist()})"
    assert is_oracle(LOSSES, LOSSES.normal(text), manifest)


def test_the_transitions_of_a_manifest_are_the_models_and_the_counted_one():
    tables = transitions(toy(), LOSSES.normal("forward(ce)"))
    np.testing.assert_array_equal(tables["true"], transition("symmetric(0.4)", 3))
    np.testing.assert_array_equal(tables["empirical"], toy().empirical_transition)
    assert transitions(toy(), LOSSES.normal("ce")) == {}
