"""What is known of the data sets holds for the data, and whatever is not what it should be is
refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from noisebench.datasets import DATASETS, Images, find_dataset, read_images, read_labels
from noisebench.errors import DataError, UnknownName
from noisebench.noise import MAPS


def save(path: Path, **changes: object) -> Path:
    """A small valid .npz with some arrays changed or, where None, left out."""
    labels = np.arange(12, dtype=np.uint8) % 3
    arrays = {"train_images": np.zeros((12, 8, 8), np.uint8), "train_labels": labels,
              "test_images": np.zeros((6, 8, 8), np.uint8), "test_labels": labels[:6]}  # fmt: skip
    np.savez(
        path, **{key: value for key, value in {**arrays, **changes}.items() if value is not None}
    )
    return path


def test_the_embedded_digits_are_ucis_split_1297_and_500(digits: Images) -> None:
    assert digits.train_images.shape == (1297, 8, 8, 1) and digits.test_images.shape == (
        500,
        8,
        8,
        1,
    )
    counts = np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
    # the published class counts of the 1,797
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_embedded_digits_have_ucis_seventeen_grey_levels(digits: Images) -> None:
    levels = np.unique(np.concatenate([digits.train_images, digits.test_images]))
    assert levels.tolist() == [round(level * 255 / 16) for level in range(17)]


def test_no_digit_is_in_both_parts_of_the_split(digits: Images) -> None:
    train = {image.tobytes() for image in digits.train_images}
    assert not train & {image.tobytes() for image in digits.test_images}


def test_an_entry_names_a_map_recipe_and_model_that_exist(subtests: pytest.Subtests) -> None:
    for name in DATASETS:
        with subtests.test(dataset=name):
            from noisebench.experiments.backbones import canonical_backbone
            from noisebench.experiments.recipes import RECIPES

            entry = DATASETS[name]
            assert entry.map is None or MAPS[entry.map].num_classes == entry.num_classes
            assert entry.recipe in RECIPES and canonical_backbone(entry.model) == entry.model
            assert len(set(entry.classes)) == entry.num_classes


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashionmnist"])
def test_packaged_labels_need_no_data_and_are_balanced(name: str) -> None:
    labels = read_labels(DATASETS[name], Path("nowhere"), offline=True).labels
    assert len(labels) == DATASETS[name].n_train
    assert (
        np.bincount(labels).tolist()
        == [DATASETS[name].n_train // DATASETS[name].num_classes] * DATASETS[name].num_classes
    )


@pytest.mark.parametrize("name", ["cifar10", "fashionmnist"])
def test_the_real_images_are_what_the_catalogue_says(name: str, real_data: Path) -> None:
    images = read_images(DATASETS[name], real_data, offline=True)
    assert images.train_images.shape == (DATASETS[name].n_train, *DATASETS[name].shape)
    assert np.array_equal(images.train_labels, read_labels(DATASETS[name], Path("nowhere")).labels)


def test_real_images_with_one_other_label_are_refused(real_data: Path, tmp_path: Path) -> None:
    with np.load(real_data / "fashionmnist.npz") as archive:
        arrays = dict(archive)
    arrays["train_labels"] = arrays["train_labels"].copy()
    arrays["train_labels"][0] = (arrays["train_labels"][0] + 1) % 10
    np.savez(tmp_path / "fashionmnist.npz", **arrays)
    with pytest.raises(DataError, match="is not fashionmnist: its training labels differ"):
        read_images(DATASETS["fashionmnist"], tmp_path)


def test_a_foreign_npz_tells_its_classes_and_shape(tmp_path: Path) -> None:
    entry = find_dataset(str(save(tmp_path / "mine.npz")))
    assert (entry.num_classes, entry.shape, entry.n_train, entry.n_test, entry.model) == (
        3,
        (8, 8, 1),
        12,
        6,
        "mlp",
    )


def test_a_relative_path_is_found_in_the_workspace(tmp_path: Path) -> None:
    save(tmp_path / "mine.npz")
    assert find_dataset("mine.npz", tmp_path).path == tmp_path / "mine.npz"


WRONG_NPZ = [
    (
        {"test_labels": None},
        "lacks test_labels; it has train_images, train_labels, test_images: expected "
        "train_images, .* or Keras' x_train",
    ),
    ({"train_labels": np.zeros((12, 2), np.uint8)}, "labels must be one class number"),
    ({"train_labels": np.full(12, -1)}, "labels must be one class number"),
    ({"train_labels": np.full(12, 0.5)}, "labels must be one class number"),
    ({"train_labels": np.arange(11) % 3}, "12 train images but 11 train labels"),
    ({"train_images": np.zeros((12, 8, 8), np.float32)}, "images must be uint8"),
    ({"train_images": np.zeros((12, 8, 8, 4), np.uint8)}, "images must be uint8"),
    ({"test_images": np.zeros((6, 9, 8), np.uint8)}, "test images"),
    ({"train_labels": np.array([{}] * 12, dtype=object)}, "cannot be read as .npz"),
]


def test_a_wrong_npz_is_refused_saying_what_is_wrong(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for changes, what in WRONG_NPZ:
        with subtests.test(what=what):
            path = save(tmp_path / "mine.npz", **changes)
            with pytest.raises(DataError, match=what):
                read_images(find_dataset(str(path)), tmp_path)


def test_an_npz_with_keras_names_is_the_same_set(tmp_path: Path) -> None:
    arrays = dict(np.load(save(tmp_path / "mine.npz")))
    path = tmp_path / "keras" / "mine.npz"
    path.parent.mkdir()
    names = {
        "x_train": "train_images",
        "y_train": "train_labels",
        "x_test": "test_images",
        "y_test": "test_labels",
    }
    np.savez(path, **{own: arrays[name] for own, name in names.items()})
    ours, keras = (
        read_images(find_dataset(str(each)), tmp_path) for each in (tmp_path / "mine.npz", path)
    )
    assert (keras.dataset.name, keras.fingerprint) == (ours.dataset.name, ours.fingerprint)
    np.savez(
        path,
        x_train=arrays["train_images"],
        y_train=arrays["train_labels"],
        x_test=arrays["test_images"],
    )
    with pytest.raises(DataError, match="lacks y_test; it has x_train, y_train, x_test: expected"):
        find_dataset(str(path))


def test_arrays_beside_those_of_a_data_set_are_named(tmp_path: Path) -> None:
    arrays = dict(np.load(save(tmp_path / "mine.npz")))
    np.savez(
        tmp_path / "toy.npz",
        **arrays,
        val_images=arrays["test_images"],
        val_labels=arrays["test_labels"],
    )
    assert find_dataset(str(tmp_path / "toy.npz")).decisions == (
        "skipped: unknown arrays: val_images, val_labels",
    )
    np.savez(tmp_path / "four.npz", **arrays)
    assert find_dataset(str(tmp_path / "four.npz")).decisions == ()


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_a_truncated_npz_is_refused(keep: int, tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="may be truncated"):
        find_dataset(str(path))


def test_an_unknown_name_names_its_neighbours() -> None:
    with pytest.raises(
        UnknownName,
        match=r"unknown dataset 'cifar11': did you mean "
        r"'cifar10'.*noisebench list datasets",
    ):
        find_dataset("cifar11")


def test_data_that_cannot_be_had_say_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar100 is not in .*put cifar100.npz there"):
        read_images(DATASETS["cifar100"], tmp_path, offline=True)


def test_a_folder_of_images_is_read_by_name_and_resized(tmp_path: Path) -> None:
    from PIL import Image

    for part, name, size in (
        ("train", "cat", (20, 30)),
        ("train", "dog", (16, 16)),
        ("test", "dog", (40, 40)),
    ):
        (tmp_path / part / name).mkdir(parents=True)
        Image.new("RGB", size, "white").save(tmp_path / part / name / "one, #1.png")
    entry = find_dataset(str(tmp_path))
    images = read_images(entry, tmp_path)
    assert entry.classes == ("cat", "dog") and images.ids == (
        "train/cat/one, #1.png",
        "train/dog/one, #1.png",
    )
    assert images.train_images.shape == (2, 18, 18, 3) and images.test_labels.tolist() == [1]


def test_a_folder_without_test_images_can_be_corrupted_but_not_trained_on(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "x.png")
    entry = find_dataset(str(tmp_path))
    assert read_labels(entry, tmp_path).labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="has no test images"):
        read_images(entry, tmp_path)


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"x.png cannot be read as an image"):
        find_dataset(str(tmp_path))
