"""Labels by people: the published layout read whichever way it lies, checked before use, and the
published rates.
"""

import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from noisebench.core.classes import SUPERCLASS
from noisebench.datasets import DATASETS, HUMAN, download, read_human, read_labels
from noisebench.errors import DataError
from noisebench.labels.build import DatasetInputs, LabelRequest, make_manifest
from noisebench.noise import normal_noise
from tests.support.hosting import hosting

TEN = ("aggre_label", "random_label1", "random_label2", "random_label3", "worse_label")
COLUMNS = [
    *((name, "cifar10") for name in TEN),
    ("noisy_label", "cifar100"),
    ("noisy_coarse_label", "cifar20"),
]
FILE = {"cifar10": "CIFAR-10_human", "cifar100": "CIFAR-100_human", "cifar20": "CIFAR-100_human"}


@pytest.fixture(scope="session")
def clean():
    """The packaged labels of each set."""
    return {
        name: read_labels(DATASETS[name], Path(), offline=True)
        for name in ("cifar10", "cifar100", "cifar20")
    }


def wrong_by(labels, step, num_classes):
    """Every step-th label the next class."""
    return (labels + (np.arange(len(labels)) % step == 0)) % num_classes


@pytest.fixture(scope="session")
def published(clean):
    """Data set -> what its published file holds, with labels of our own making."""
    ten, hundred, twenty = (clean[name].labels for name in ("cifar10", "cifar100", "cifar20"))
    by_ten = {name: wrong_by(ten, step, 10) for step, name in enumerate(TEN, 3)}
    by_hundred = {"clean_label": hundred, "noisy_label": wrong_by(hundred, 3, 100), "clean_coarse_label": twenty,
                  "noisy_coarse_label": wrong_by(twenty, 4, 20)}  # fmt: skip
    return {
        "cifar10": {"clean_label": ten, **by_ten},
        "cifar100": by_hundred,
        "cifar20": by_hundred,
    }


def as_pt(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A function that puts a .pt into a data directory of its own as if it were the published one."""

    def put(content, dataset="cifar10", *, trusted=True):
        path = tmp_path / f"{FILE[dataset]}.pt"
        path.write_bytes(content if isinstance(content, bytes) else as_pt(content))
        trust(monkeypatch, path.read_bytes() if trusted else b"another file", dataset)
        return tmp_path

    return put


def trust(monkeypatch, content, dataset="cifar10"):
    """Take these bytes for the published file."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    for name, column in list(HUMAN.items()):
        if column.dataset == dataset:
            monkeypatch.setitem(HUMAN, name, replace(column, file=replace(column.file, md5=md5)))


# The published layout


def test_a_column_of_the_published_file_is_read(place, published, clean, subtests):
    for column, dataset in COLUMNS:
        with subtests.test(column=column):
            folder = place(published[dataset], dataset)
            recorded = read_human(column, dataset, clean[dataset].labels, folder, offline=True)
            np.testing.assert_array_equal(recorded, published[dataset][column])


def in_tensorflows_order(folder, content, monkeypatch):
    """The .npy of lists and its order, as if they were the published ones."""
    order = np.random.default_rng(0).permutation(50_000)
    names = {"clean_label": "clean_label", "noisy_label": "noise_label"}
    lists = {theirs: list(content[ours][order]) for ours, theirs in names.items()}
    files = []
    for name, array in (("CIFAR-100_human_ordered.npy", lists), ("image_order_c100.npy", order)):
        np.save(folder / name, array, allow_pickle=True)
        raw = (folder / name).read_bytes()
        files.append((name, hashlib.md5(raw, usedforsecurity=False).hexdigest()))
    column = HUMAN["noisy_label"]
    file = replace(column.file, ordered=files[0], order=files[1])
    monkeypatch.setitem(HUMAN, "noisy_label", replace(column, file=file))


def test_tensorflows_order_gives_the_same_labels(tmp_path, published, clean, monkeypatch):
    in_tensorflows_order(tmp_path, published["cifar100"], monkeypatch)
    labels = clean["cifar100"].labels
    given = read_human("noisy_label", "cifar100", labels, tmp_path, offline=True)
    np.testing.assert_array_equal(given, published["cifar100"]["noisy_label"])


def test_code_in_a_file_that_is_not_the_published_one_is_not_run(
    published, place, clean, tmp_path, monkeypatch
):
    in_tensorflows_order(tmp_path, published["cifar100"], monkeypatch)
    evil = np.array([Evil(tmp_path / "ran")], object)
    np.save(tmp_path / "CIFAR-100_human_ordered.npy", evil, allow_pickle=True)
    folder = place({"worse_label": Evil(tmp_path / "ran")}, trusted=False)
    for column, dataset in (("noisy_label", "cifar100"), ("worse_label", "cifar10")):
        with pytest.raises(DataError, match="is not the published file: its md5 is"):
            read_human(column, dataset, clean[dataset].labels, folder)
    assert not (tmp_path / "ran").exists()


class Evil:
    """What a pickle can do to whoever trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_tensors_and_small_numbers_are_labels_too(place, published, clean):
    content = {
        name: torch.from_numpy(values.astype(np.uint8))
        for name, values in published["cifar10"].items()
    }
    recorded = read_human("worse_label", "cifar10", clean["cifar10"].labels, place(content))
    np.testing.assert_array_equal(recorded, published["cifar10"]["worse_label"])


SHORT_NAMES = [
    ("aggre", "aggre_label"),
    ("random1", "random_label1"),
    ("rand1", "random_label1"),
    ("rand3", "random_label3"),
    ("worse", "worse_label"),
    ("worst", "worse_label"),
    ("noisy100", "noisy_label"),
    ("noisy", "noisy_label"),
    ("noisy_coarse", "noisy_coarse_label"),
    ("random_label2", "random_label2"),
]


def test_a_column_has_a_short_name(subtests):
    for short, column in SHORT_NAMES:
        with subtests.test(short=short):
            assert str(normal_noise(f"human({short})")) == f"human(column='{column}')"


def test_a_manifest_of_human_labels_counts_their_mistakes(place, published, clean):
    data = clean["cifar10"]
    outside = DatasetInputs(data, place(published["cifar10"]), True, DATASETS.__getitem__)
    manifest = make_manifest(data, LabelRequest("human(aggre)", 5), outside=outside)
    np.testing.assert_array_equal(manifest.clean_labels, data.labels)
    assert manifest.meta["realised_rate"] == pytest.approx(1 / 3, abs=1e-5)
    assert (manifest.meta["nominal_rate"], manifest.meta["noise_seed"], manifest.transition) == (
        None,
        0,
        None,
    )


# What is refused


def read_ten(folder, clean, column="worse_label", **how):
    return read_human(column, "cifar10", clean["cifar10"].labels, folder, **how)


def test_another_file_than_the_published_one_is_refused(place, published, clean):
    with pytest.raises(DataError, match="is not the published file: its md5 is"):
        read_ten(place(published["cifar10"], trusted=False), clean)


@pytest.mark.parametrize(
    "change",
    [lambda labels: labels[::-1], lambda labels: labels[:-1], lambda labels: (labels + 1) % 10],
)
def test_other_clean_labels_are_refused(change, place, published, clean):
    content = {
        **published["cifar10"],
        "clean_label": change(published["cifar10"]["clean_label"]).copy(),
    }
    with pytest.raises(DataError, match="its clean labels differ from those of cifar10"):
        read_ten(place(content), clean)


@pytest.mark.parametrize("missing", ["worse_label", "clean_label"])
def test_a_missing_column_is_named_with_those_there(missing, place, published, clean):
    content = {name: values for name, values in published["cifar10"].items() if name != missing}
    with pytest.raises(DataError, match=rf"has no column '{missing}'; it has .*aggre_label"):
        read_ten(place(content), clean)


IMPOSSIBLE = {
    "short": np.zeros(49_999, int),
    "class 10": np.full(50_000, 10),
    "negative": np.full(50_000, -1),
    "fractions": np.full(50_000, 0.5),
    "NaN": np.full(50_000, np.nan),
    "a table": np.zeros((2, 25_000)),
}


def test_recorded_labels_that_cannot_be_are_refused(place, published, clean, subtests):
    for what, values in IMPOSSIBLE.items():
        with subtests.test(what=what), pytest.raises(DataError):
            read_ten(place({**published["cifar10"], "worse_label": values}), clean)


OTHER_SETS = [
    (
        "worse_label",
        "cifar100",
        r"'worse_label' are for cifar10, not cifar100; cifar100 has "
        r"noisy_label$",
    ),
    (
        "noisy_label",
        "cifar10",
        r"are for cifar100, not cifar10; cifar10 has aggre_label, "
        r".*worse_label$",
    ),
    ("noisy_coarse_label", "digits", r"are for cifar20, not digits$"),
]


def test_the_labels_of_another_data_set_are_refused(tmp_path, subtests):
    for column, dataset, said in OTHER_SETS:
        with subtests.test(column=column, dataset=dataset), pytest.raises(DataError, match=said):
            read_human(column, dataset, np.zeros(3, int), tmp_path)


def test_an_unknown_column_is_refused_naming_those_there_are(tmp_path):
    with pytest.raises(DataError, match=r"'worse_labels'; available: aggre_label, .*worse_label"):
        read_human("worse_labels", "cifar10", np.zeros(3, int), tmp_path)


# The download


@pytest.fixture
def host(monkeypatch):
    """A mirror of one's own, without the file so far; nobody else has it."""
    monkeypatch.setattr(download, "HUMAN_HOSTS", ("http://127.0.0.1:9/",))
    with hosting() as host:
        monkeypatch.setenv("NOISEBENCH_MIRROR", host.address)
        yield host


def test_offline_says_where_to_put_the_file(host, clean, tmp_path):
    with pytest.raises(
        DataError,
        match=r"CIFAR-10_human\.pt does not exist: put CIFAR-10_human\.pt "
        r"from https://\S+ there .*--offline",
    ):
        read_ten(tmp_path, clean, offline=True)
    assert host.asked == []


def test_the_published_file_is_fetched_once_and_kept(host, published, clean, tmp_path, monkeypatch):
    content = as_pt(published["cifar10"])
    trust(monkeypatch, content)
    host.files = {"/human/CIFAR-10_human.pt": content}
    for _ in range(2):
        np.testing.assert_array_equal(
            read_ten(tmp_path, clean), published["cifar10"]["worse_label"]
        )
    assert host.asked == [("/human/CIFAR-10_human.pt", "")]
    assert {path.name: path.read_bytes() == content for path in tmp_path.iterdir()} == {
        "CIFAR-10_human.pt": True
    }


def test_the_published_file_lies_at_its_authors():
    assert download.human_file("CIFAR-10_human.pt", "").hosts == (
        "https://github.com/UCSC-REAL/cifar-10-100n/raw/main/data/",
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>no such page</html>", as_pt({"worse_label": np.zeros(3)})],
    ids=["none", "page", "other"],
)
def test_other_bytes_than_the_published_are_not_kept(content, host, clean, tmp_path):
    host.files = {"/human/CIFAR-10_human.pt": content}
    with pytest.raises(
        DataError,
        match=r"wrong checksum.*: put "
        r"CIFAR-10_human\.pt",
    ):
        read_ten(tmp_path, clean)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails_says_where_to_put_the_file(host, clean, tmp_path):
    with pytest.raises(
        DataError,
        match=r"CIFAR-10_human\.pt cannot be downloaded \(.*404 .*refused\): put "
        r"CIFAR-10_human\.pt from https",
    ) as caught:
        read_ten(tmp_path, clean)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# The real files


@pytest.fixture(scope="session")
def real_labels(clean):
    """Column -> recorded labels of the published files."""
    folder = Path(os.environ.get("NOISEBENCH_DATA") or "nowhere").expanduser()
    if not (folder / "CIFAR-10_human.pt").exists() or not (folder / "CIFAR-100_human.pt").exists():
        pytest.skip(
            "needs the published files: NOISEBENCH_DATA names no folder with "
            "CIFAR-10_human.pt and CIFAR-100_human.pt"
        )
    return {
        column: read_human(column, dataset, clean[dataset].labels, folder, offline=True)
        for column, dataset in COLUMNS
    }


RATES = {"aggre_label": 9.01, "random_label1": 17.23, "random_label2": 18.12, "random_label3": 17.64, "worse_label": 40.21,
         "noisy_label": 40.20, "noisy_coarse_label": 26.40}  # fmt: skip


def test_the_share_of_wrong_labels_is_the_published_one(real_labels, clean, subtests):
    for column, dataset in COLUMNS:
        with subtests.test(column=column):
            assert (
                round(100 * (real_labels[column] != clean[dataset].labels).mean(), 2)
                == RATES[column]
            )


def test_all_three_people_are_seldom_wrong_about_the_same_image(real_labels, clean):
    wrong = [real_labels[f"random_label{i}"] != clean["cifar10"].labels for i in (1, 2, 3)]
    assert round(100 * np.logical_and.reduce(wrong).mean(), 2) == 2.13


def test_people_are_worst_at_cats_and_deer(real_labels, clean):
    wrong = real_labels["random_label1"] != clean["cifar10"].labels
    rates = {
        name: round(wrong[clean["cifar10"].labels == k].mean(), 3)
        for k, name in enumerate(DATASETS["cifar10"].classes)
    }
    assert sorted(rates.items(), key=lambda item: -item[1])[:2] == [("cat", 0.257), ("deer", 0.24)]


def test_the_coarse_labels_are_of_the_superclasses(real_labels, clean):
    np.testing.assert_array_equal(
        clean["cifar20"].labels, np.array(SUPERCLASS)[clean["cifar100"].labels]
    )
    assert len(np.unique(real_labels["noisy_coarse_label"])) == 20
