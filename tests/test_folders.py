"""Folders of images: manifests go by path, the test split is where one says, and what does not fit is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import noisebench.arrays
from noisebench.cli import main
from noisebench.datasets import DATASETS, Images, find_dataset, fit_images, image_rows, read_images, read_labels
from noisebench.datasets.foreign import describe_foreign
from noisebench.errors import DataError
from noisebench.manifest import Manifest, read_manifest
from noisebench.workspace import Workspace


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


# Which files and classes there are


NAMES = ("zero", "one", "two")


def scene(place: Path, images: Images, *, flat: bool) -> Path:
    """A folder as people have them: images of several sizes, modes and suffixes, some of them turned by EXIF, an icon, and what a Mac
    leaves beside them. With class folders `Train/` and `Val/`; or flat, with labels.csv, whose column split marks the test images."""
    rows = ["file,category,split"]
    for part, source, each in (("Train", "train", 12), ("Val", "test", 4)):
        pixels, labels = (getattr(images, f"{source}_{what}") for what in ("images", "labels"))
        for k, name in enumerate(NAMES):
            for number, at in enumerate(np.flatnonzero(labels == k)[:each]):
                image = Image.fromarray(pixels[at, ..., 0]).resize((40 + number % 3, 36 + number % 2))
                suffix = (".png", ".JPG", ".jpeg", ".PNG")[number % 4]
                file = f"{source}_{name}_{number}{suffix}"
                path = place / ("" if flat else f"{part}/{name}") / file
                path.parent.mkdir(parents=True, exist_ok=True)
                exif = Image.Exif()
                exif[0x0112] = 6 if number == 1 else 1
                if number == 4:
                    Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path)
                else:
                    image.save(path, exif=exif)
                rows.append(f"{file},{name},{source}")
    first = place / ("" if flat else "Train/zero")
    Image.fromarray(images.train_images[0, ..., 0]).resize((9, 7)).save(first / "icon.png")
    (first / "._icon.png").write_bytes(b"\0\5\x16\7")
    (first / ".thumbnails").mkdir()
    Image.new("L", (8, 8)).save(first / ".thumbnails" / "icon.png")
    (place / "__MACOSX" / "zero").mkdir(parents=True)
    (place / "__MACOSX" / "zero" / "._icon.png").write_bytes(b"\0\5\x16\7")
    (place / ".DS_Store").write_bytes(b"\0")
    (first / "holiday.heic").write_bytes(b"\0")
    (first / "notes.txt").write_text("mine")
    if flat:
        (place / "labels.csv").write_text("\n".join([rows[0], *sorted(rows[1:], key=lambda row: zlib.crc32(row.encode()))]))
    else:
        (place / "Train" / "empty").mkdir()
    return place


def corrupted(capsys: pytest.CaptureFixture[str], *words: str) -> Manifest:
    """The manifest that `corrupt` makes."""
    capsys.readouterr()
    assert main(["corrupt", *words, "--force", "--json"]) == 0, capsys.readouterr().err
    return read_manifest(json.loads(capsys.readouterr().out)["manifest"])


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert main([*words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def counts(manifest: Manifest) -> dict[str, int]:
    """What was passed over, by the first word that says what it is."""
    lines = [line.removeprefix("passed over: ") for line in manifest.meta["decisions"] if line.startswith("passed over: ")]
    kinds = {"hidden": "hidden", "not read": "unread", "without an image's": "other", "without a row": "unlabelled", "no class": "empty"}
    return {next(kind for words, kind in kinds.items() if words in line): int(line.split()[0]) for line in lines}


@pytest.mark.parametrize("prefix", ["", "folder:"])
@pytest.mark.parametrize("flat", [False, True])
def test_a_folder_as_people_have_them_goes_all_the_way(flat, prefix, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scene(tmp_path / "photos", digits, flat=flat)
    words = [f"{prefix}photos", "--labels", "photos/labels.csv" if flat else "own"]
    manifest = corrupted(capsys, *words)
    assert manifest.meta["classes"] == sorted(NAMES)
    named = [manifest.meta["classes"][k] for k in manifest.labels]
    assert len(named) == (36 if flat else 37) and all(
        name in path or "icon" in path for name, path in zip(named, manifest.ids, strict=True)
    )
    passed = {"hidden": 4, "unread": 1, "other": 1}
    assert counts(manifest) == {**passed, **({"unlabelled": 1} if flat else {"empty": 1})}
    assert main(["corrupt", *words, "--force"]) == 0
    assert re.search(r"passed over +4 hidden .*\.DS_Store", capsys.readouterr().out)
    network = ["--model", "mlp", "--epochs", "2", "--batch-size", "12", *(["--size", "16", "--workers", "0"] if prefix else [])]
    assert main(["train", *words, *network, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "passed over: 1 image of a format that is not read" in err and "holiday.heic" in err
    assert main(["evaluate", json.loads(out)["run"], "--suspects", "list.csv"]) == 0
    with Path("list.csv").open(newline="") as file:
        listed = [row["path"] for row in csv.DictReader(file)]
    assert listed and set(listed) <= set(manifest.ids)
    assert read_images(find_dataset(words[0], labels=words[2] if flat else None), tmp_path).test_labels.tolist() == sorted(
        manifest.meta["classes"].index(name) for name in NAMES for _ in range(4)
    )


def test_parts_are_found_by_their_names_in_memory_and_streamed(tmp_path):
    for number, (parts, expected) in enumerate(
        [(("Train", "Test"), "Test"), (("train", "validation"), "validation"), (("TRAIN", "Valid", "val"), "val"),
         (("training", "testing"), "testing"), (("train", "val", "test"), "test")]
    ):  # fmt: skip
        place = folder(tmp_path / str(number), *parts)
        for name in (str(place), f"folder:{place}"):
            dataset = find_dataset(name)
            assert (dataset.classes, dataset.n_train, dataset.n_test) == (("cat", "dog"), 12, 12)
            assert {path.partition("/")[0] for path in dataset.listed.test.names} == {expected}
            unused = [part for part in parts[1:] if part != expected]
            assert [line for line in dataset.decisions if line.startswith("passed")] == [
                f"passed over: 1 folder beside the training and the test part ({part}/)" for part in unused
            ]
    vehicles = tmp_path / "vehicles"
    folder(vehicles, "").joinpath("cat").rename(vehicles / "Train")
    assert find_dataset(str(vehicles)).classes == ("Train", "dog")


def test_what_leaves_the_parts_or_the_classes_open_is_refused(tmp_path):
    def flattened(place: Path) -> None:
        for file in list(place.glob("*/*/*.png")):
            file.rename(file.parent.parent / f"{file.parent.name}{file.name}")
        for empty in place.glob("*/*/"):
            empty.rmdir()

    places = {what: tmp_path / str(number) for number, what in enumerate(
        ("rename the one that is not", "move the class folders into", r"name .*/inner", "no class folders in", "one class only")
    )}  # fmt: skip
    two, beside, wrapped, parts, one = places.values()
    folder(folder(two, "train"), "Train")
    folder(beside, "", "test")
    folder(wrapped / "inner", "train")
    flattened(folder(parts, "train", "test"))
    shutil.rmtree(folder(one, "") / "dog")
    for what, place in places.items():
        for name in (str(place), f"folder:{place}"):
            with pytest.raises(DataError, match=what):
                find_dataset(name)


def test_a_class_without_training_images_is_refused_where_it_has_test_images_and_else_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("own", "elsewhere"):
        folder(tmp_path / name, "train", "test")
        for part in ("train", "test"):
            (tmp_path / name / part / "horse").mkdir()
    for door in (["own"], ["folder:own"], ["own/train", "--test", "elsewhere/test"], ["folder:own/train", "--test", "elsewhere/test"]):
        manifest = corrupted(capsys, *door, "--sym", "0.5")
        assert manifest.meta["classes"] == ["cat", "dog"] and manifest.labels.max() == 1 and counts(manifest)["empty"] == 2
    for name in ("own", "elsewhere"):
        Image.new("L", (8, 8), 7).save(tmp_path / name / "test" / "horse" / "0.png")
    for door in (["own"], ["folder:own"], ["own/train", "--test", "elsewhere/test"], ["folder:own/train", "--test", "elsewhere/test"]):
        assert "1 class (horse) without training images" in refused(capsys, "corrupt", *door, "--sym", "0.5")


def test_classes_of_an_npz_are_those_of_its_training_labels(tmp_path, capsys):
    images = {f"{part}_images": np.random.default_rng(k).integers(0, 255, (6, 8, 8), np.uint8) for k, part in enumerate(("train", "test"))}
    for train, test, what in (([0, 2, 0, 2, 0, 2], [0] * 6, "no training label is 1"), ([0, 1] * 3, [0, 1, 2] * 2, "2 test labels are 2")):
        np.savez(tmp_path / "x.npz", **images, train_labels=train, test_labels=test)
        assert what in refused(capsys, "corrupt", str(tmp_path / "x.npz"), "--sym", "0.5")


def test_a_manifest_with_a_class_that_the_data_do_not_have_is_refused(tmp_path, monkeypatch, capsys):
    """As one for a folder whose empty class folder counted."""
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "pets", "train", "test")
    now = corrupted(capsys, "pets", "--sym", "0.5")
    classes = {"num_classes": 3, "classes": ["cat", "dog", "zebra"], "per_class_rate": [0.5, 0.5, None], "transition": None}
    replace(now, meta={**now.meta, **classes}).write(Path("old.csv"))
    for words in (["train", "pets", "--manifest", "old.csv"], ["corrupt", "pets", "--labels", "old.csv"]):
        assert "3 classes (cat, dog, zebra ...)" in refused(capsys, *words)


def test_links_are_followed_once_and_what_lies_deeper_belongs_to_the_class_above(tmp_path):
    place, other = folder(tmp_path / "a", "train", "test"), folder(tmp_path / "b", "", each=2)
    (place / "train" / "zebra").symlink_to(other / "cat")
    (place / "train" / "cat" / "more").symlink_to(other / "dog")
    (place / "train" / "cat" / "loop").symlink_to(place / "train")
    Image.new("L", (8, 8)).save(place / "train" / "stray.PNG")
    for name in (str(place), f"folder:{place}"):
        dataset = find_dataset(name)
        assert dataset.classes == ("cat", "dog", "zebra") and np.bincount(dataset.listed.train_labels).tolist() == [8, 6, 2]
        said = "\n".join(dataset.decisions)
        for what in ("1 link to a folder that is read already (train/cat/loop)", "1 image beside the class folders",
                     "2 images in folders below them (train/cat/more/0.png", "test set: without 1 class (zebra)"):  # fmt: skip
            assert what in said


def test_images_that_cannot_be_read_are_named_by_corrupt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place = folder(tmp_path / "pets", "train", "test")
    raw = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(raw, "jpeg")
    (place / "train" / "cat" / "cut.jpg").write_bytes(raw.getvalue()[:900])
    (place / "test" / "dog" / "page.png").write_bytes(b"<html>")
    with tarfile.open("pets.tar", "w") as tar:
        tar.add(place, ".")
    for name in ("pets", "folder:pets", "tar:pets.tar"):
        error = refused(capsys, "corrupt", name, "--sym", "0.5")
        assert "train/cat/cut.jpg" in error
    (place / "train" / "cat" / "cut.jpg").unlink()
    assert "test/dog/page.png" in refused(capsys, "corrupt", "pets", "--sym", "0.5")
    (place / "test" / "dog" / "page.png").unlink()
    assert len(corrupted(capsys, "pets", "--sym", "0.5").labels) == 12


def test_test_images_that_are_training_images_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place, other = folder(tmp_path / "pets", "train", "test"), folder(tmp_path / "other", "")
    shutil.copy(place / "train" / "cat" / "0.png", other / "cat" / "again.png")
    shutil.copytree(place / "train", tmp_path / "copy")
    for prefix in ("", "folder:"):
        for words in (["pets", "--test", "pets/train"], ["pets/train", "--test", "copy"], ["pets", "--test", "other"]):
            error = refused(capsys, "corrupt", f"{prefix}{words[0]}", *words[1:], "--sym", "0.5")
            assert ("1 of 13 test images" if "other" in words else "12 of 12 test images") in error and "cat/0.png" in error
    corrupted(capsys, "pets", "--sym", "0.5")
    assert "12 of 12 test images" in refused(capsys, "train", "pets", "--test", "copy")


def test_few_test_images_in_the_training_set_are_named_and_so_are_copies_under_another_class(tmp_path, capsys):
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 255, (n, 8, 8), np.uint8) for n in (40, 200))
    train[5], test[7] = train[4], train[9]
    np.savez(tmp_path / "x.npz", train_images=train, train_labels=np.arange(40) % 2, test_images=test, test_labels=np.arange(200) % 2)
    assert corrupted(capsys, str(tmp_path / "x.npz"), "--sym", "0.5", "--out", str(tmp_path / "m.csv")).meta["decisions"] == [
        "duplicates: 1 training image with an earlier copy in the training set (train 5 = train 4)",
        "duplicates: 1 of them with another label than the earlier one (train 5 = train 4): one of the two is incorrect",
        "duplicates: 1 of 200 test images in the training set too (test 7 = train 9)",
    ]
    np.savez(tmp_path / "x.npz", train_images=test, train_labels=np.arange(200) % 2, test_images=test[:9], test_labels=np.arange(9) % 2)
    assert "9 of 9 test images" in refused(capsys, "corrupt", str(tmp_path / "x.npz"), "--sym", "0.5")


# Folders with a label file


def test_a_label_file_names_images_by_path_file_name_or_stem_and_its_labels_are_the_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place = folder(tmp_path / "photos", "")
    files = sorted(place.rglob("*.png"))
    for at, file in enumerate(files):
        (place / "deep").mkdir(exist_ok=True)
        file.rename(place / ("deep" if at % 2 else "") / f"{file.parent.name}_{file.name}")
    for name in ("cat", "dog"):
        (place / name).rmdir()
    paths = [path.relative_to(place).as_posix() for path in sorted(place.rglob("*.png"))]
    keys = {"path": paths, "file": [Path(path).name for path in paths], "image_id": [Path(path).stem for path in paths],
            "path ": [f"photos/{path}" for path in paths]}  # fmt: skip
    made = []
    for at, (column, names) in enumerate(keys.items()):
        rows = [f"{name},{'10' if 'dog' in name else '9'}" for name in reversed(names)]
        Path("mine.csv").write_text("\n".join([f"{column},label", *rows]))
        manifest = corrupted(capsys, "photos", "--labels", "mine.csv")
        assert manifest.meta["classes"] == ["9", "10"] and manifest.meta["labels_path"] == "mine.csv"
        assert [int("dog" in path) for path in manifest.ids] == manifest.labels.tolist() and at < 4
        made.append(manifest.meta["labels_sha256"])
    assert len(set(made)) == 1
    for content, what in (("path,label\n" + paths[0] + ",9", "every row has the label '9'"), ("label\n9\n10\n9", "no column"),
                          ("path,label\nnone.png,9\na.png,10\nb.png,9", "none.png|none of the examples"), ("", "empty")):  # fmt: skip
        Path("mine.csv").write_text(content)
        assert re.search(what, refused(capsys, "corrupt", "photos", "--labels", "mine.csv"))
    assert "--labels FILE" in refused(capsys, "corrupt", "photos", "--sym", "0.5")


def test_the_test_set_beside_a_label_file(tmp_path, monkeypatch, capsys):
    """A column that marks it, a part of its own, or a folder elsewhere; found again from the manifest."""
    monkeypatch.chdir(tmp_path)
    flat = {}
    for name, part in (("photos", "train"), ("photos", "test"), ("clean", "")):
        files = sorted(folder(tmp_path / "made" / name, part).glob(f"{part or '.'}/*/*.png"))
        (tmp_path / name / part).mkdir(parents=True, exist_ok=True)
        for file in files:
            flat[f"{part}/{file.parent.name}{file.name}".removeprefix("/")] = file.parent.name
            shutil.copy(file, tmp_path / name / part / f"{file.parent.name}{file.name}")
    rows = [(path, label) for path, label in flat.items() if "/" in path]
    Path("parts.csv").write_text("\n".join(["path,label", *(f"{path},{label}" for path, label in rows)]))
    Path("marked.csv").write_text("\n".join(["path,label,is_valid", *(f"{path},{label},{'0.png' in path}" for path, label in rows)]))
    Path("clean/labels.csv").write_text("\n".join(["path,label", *(f"{path},{label}" for path, label in flat.items() if "/" not in path)]))
    Path("half.csv").write_text("\n".join(["path,label", *(f"{path},{label}" for path, label in rows if "train" in path)]))
    for words, sizes in ((["parts.csv"], (12, 12)), (["marked.csv"], (20, 4)), (["half.csv", "--test", "clean"], (12, 12))):
        manifest = corrupted(capsys, "photos", "--labels", *words)
        dataset = Workspace(".").dataset_of(manifest)
        assert (len(manifest.labels), dataset.n_train, dataset.n_test) == (sizes[0], *sizes)
        assert [name in path for path, k in zip(dataset.listed.test.names, dataset.listed.test_labels, strict=True)
                for name in [dataset.classes[k]]] == [True] * sizes[1]  # fmt: skip
        assert main(["train", "--model", "mlp", "--epochs", "1", "--batch-size", "8", "--json"]) == 0


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
