"""Folders of images: manifests go by path, the test split is where one says, and what does not fit is refused."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import noisebench.arrays
from noisebench.cli import main
from noisebench.datasets import DATASETS, find_dataset, fit_images, image_rows, read_images, read_labels
from noisebench.datasets.foreign import describe_foreign
from noisebench.errors import DataError
from noisebench.manifest import read_manifest


def folder(place: Path, *parts: str, each: int = 6, size: tuple[int, int] = (8, 8)) -> Path:
    """Pictures of cats and dogs in `part/class/`; a part "" is the folder itself. Each is of one grey, but for its last pixel, which
    differs from part to part and folder to folder."""
    for part in parts:
        mark = zlib.crc32(f"{place.name}/{part}".encode()) % 256
        for k, name in enumerate(("cat", "dog")):
            (place / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                image = Image.new("L", size, 40 * k + number)
                image.putpixel((size[0] - 1, size[1] - 1), mark)
                image.save(place / part / name / f"{number}.png")
    return place


@pytest.mark.parametrize(
    ("parts", "expected"), [(("train", "test"), "test"), (("train", "val"), "val"), (("train", "val", "test"), "test")]
)
def test_the_test_split_is_test_else_val(parts, expected, tmp_path):
    place = folder(tmp_path, *parts)
    Image.new("L", (8, 8), 200).save(place / expected / "dog" / "extra.png")
    images = read_images(find_dataset(str(place)), tmp_path)
    assert (len(images.train_labels), images.test_labels.tolist()) == (12, [0] * 6 + [1] * 7)


@pytest.mark.parametrize("parts", [("train",), ("",)])
def test_the_test_split_may_lie_elsewhere(parts, tmp_path):
    place, elsewhere = folder(tmp_path / "a", *parts), folder(tmp_path / "b", "", each=2)
    dataset = find_dataset(str(place), test=elsewhere)
    images = read_images(dataset, tmp_path)
    assert images.test_labels.tolist() == [0, 0, 1, 1] and dataset.n_test == 4
    assert images.test_images[:, 0, 0, 0].tolist() == [0, 1, 40, 41]


def test_a_set_with_a_test_part_of_its_own_takes_no_other(tmp_path):
    with pytest.raises(DataError, match="has its own test set"):
        find_dataset("digits", test=tmp_path)
    np.savez(tmp_path / "x.npz", train_labels=[0, 1])
    with pytest.raises(DataError, match="has its own test arrays"):
        find_dataset(str(tmp_path / "x.npz"), test=tmp_path)


def test_a_folders_pictures_are_fetched_as_they_are_read_whole(tmp_path):
    place = folder(tmp_path, "train", "test")
    Image.new("L", (20, 14), 99).save(place / "train" / "cat" / "large.png")
    dataset = find_dataset(str(place))
    whole, which = read_images(dataset, tmp_path).train_images, np.array([12, 0, 6, 3])
    np.testing.assert_array_equal(image_rows(dataset, tmp_path)(which), whole[which])


def test_a_manifest_of_a_folder_names_every_example_by_its_path(tmp_path, monkeypatch, capsys):
    place = folder(tmp_path / "pets", "train", "test")
    monkeypatch.chdir(tmp_path)
    assert main(["corrupt", str(place), "--sym", "0.5", "--json"]) == 0
    manifest = read_manifest(json.loads(capsys.readouterr().out)["manifest"])
    assert manifest.ids[:2] == ("train/cat/0.png", "train/cat/1.png") and len(manifest.ids) == 12


def test_a_manifest_without_a_test_set_takes_one_and_keeps_it(tmp_path, monkeypatch):
    for name in ("pets", "clean", "others"):
        folder(tmp_path / name, "")
    monkeypatch.chdir(tmp_path)
    said = []
    for words in ([], ["--test", "clean"], [], ["--test", "others"]):
        assert main(["-q", "corrupt", "pets", "--sym", "0.5", *words]) == 0
        said.append(read_manifest(next(Path("manifests").glob("*.csv"))))
    assert [manifest.meta.get("test_path") for manifest in said] == [None, "clean", "clean", "others"]
    assert len({tuple(manifest.labels) for manifest in said}) == 1


def test_labels_by_path_in_any_order_train_with_a_test_folder(tmp_path, monkeypatch, capsys):
    place, elsewhere = folder(tmp_path / "pets", "", each=8), folder(tmp_path / "clean", "", each=3)
    rows = [f"{name}/{number}.png,{'dog' if number == 0 else name}" for name in ("dog", "cat") for number in reversed(range(8))]
    (tmp_path / "mine.csv").write_text("\n".join(["path,label", *rows]))
    monkeypatch.chdir(tmp_path)
    assert main(["corrupt", str(place), "--labels", "mine.csv", "--test", str(elsewhere)]) == 0
    assert main(["train", "--epochs", "1", "--batch-size", "8", "--json"]) == 0
    manifest, record = (
        read_manifest(next(Path("manifests").glob("*.csv"))),
        json.loads(capsys.readouterr().out.rpartition("\n{")[2].join(["{", ""])),
    )
    assert manifest.labels.tolist() == [1] + [0] * 7 + [1] * 8 and manifest.meta["realised_rate"] is None
    assert record["memorised"] is None


def test_another_file_in_the_folder_is_noticed(tmp_path, monkeypatch, capsys):
    place = folder(tmp_path / "pets", "train", "test")
    monkeypatch.chdir(tmp_path)
    assert main(["corrupt", str(place), "--sym", "0.5"]) == 0
    Image.new("L", (8, 8)).save(place / "train" / "cat" / "new.png")
    assert main(["train", "--epochs", "1"]) == 2
    assert "is for other data" in capsys.readouterr().err


# What else lies beside the data sets


def test_a_foreign_npz_is_described_without_reading_its_images(tmp_path, monkeypatch):
    shape = {"train_images": (6, 9, 7, 3), "test_images": (3, 9, 7, 3)}
    arrays = {name: np.zeros(size, np.uint8) for name, size in shape.items()}
    np.savez(tmp_path / "x.npz", train_labels=np.arange(6) % 3, test_labels=np.arange(3), **arrays)
    seen = []
    read = noisebench.arrays._of_member
    monkeypatch.setattr(noisebench.arrays, "_of_member", lambda archive, member: seen.append(member.filename) or read(archive, member))
    assert describe_foreign(tmp_path / "x.npz").shape == (9, 7, 3)
    assert set(seen) == {"train_labels.npy", "test_labels.npy"}


def test_cifar20_is_cifar100_by_superclass():
    fine, coarse = (read_labels(DATASETS[name], Path(), offline=True).labels for name in ("cifar100", "cifar20"))
    names = [DATASETS[name].classes for name in ("cifar100", "cifar20")]
    of = {names[0][a]: names[1][b] for a, b in zip(fine, coarse, strict=True)}
    assert np.bincount(coarse).tolist() == [2500] * 20
    assert (of["rose"], of["trout"], of["maple_tree"], of["lawn_mower"], of["boy"]) == ("flowers", "fish", "trees", "vehicles_2", "people")


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 12, 3), (5, 9, 1)])
def test_images_of_another_set_take_the_shape_of_this_one(shape):
    images = np.full((3, 10, 10, 3), 77, np.uint8)
    fitted = fit_images(images, shape)
    assert fitted.shape == (3, *shape) and (fitted == 77).all()
