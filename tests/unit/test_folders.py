"""Folders of images: manifests go by path, the test split is where one says, and what does not fit
is refused.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import struct
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from noisebench.cli import main
from noisebench.datasets import (
    DATASETS,
    FITS,
    Fitting,
    Images,
    find_dataset,
    fit_images,
    image_rows,
    read_images,
    read_labels,
)
from noisebench.datasets.images import decoded, opener
from noisebench.datasets.user_data import describe_user_data
from noisebench.errors import DataError
from noisebench.experiments.command import repro_command
from noisebench.labels.manifest import Manifest, read_manifest
from noisebench.runs.folder import RunFolder
from noisebench.runs.workspace import Workspace
from noisebench.training.images import Normalisation, StreamTransform
from noisebench.training.inference import source_of


def folder(place: Path, *parts: str, each: int = 6, size: tuple[int, int] = (8, 8)) -> Path:
    """Pictures of cats and dogs in `part/class/`; a part "" is the folder itself. Each is of one
    grey, but for its last pixel, which differs from part to part and folder to folder.
    """
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
    ("parts", "expected"),
    [(("train", "test"), "test"), (("train", "val"), "val"), (("train", "val", "test"), "test")],
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
    with pytest.raises(DataError, match="has its own test part"):
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
    assert [manifest.meta.get("test_path") for manifest in said] == [
        None,
        "clean",
        "clean",
        "others",
    ]
    assert len({tuple(manifest.labels) for manifest in said}) == 1


def test_labels_by_path_in_any_order_train_with_a_test_folder(tmp_path, monkeypatch, capsys):
    place, elsewhere = folder(tmp_path / "pets", "", each=8), folder(tmp_path / "clean", "", each=3)
    rows = [
        f"{name}/{number}.png,{'dog' if number == 0 else name}"
        for name in ("dog", "cat")
        for number in reversed(range(8))
    ]
    (tmp_path / "mine.csv").write_text("\n".join(["path,label", *rows]))
    monkeypatch.chdir(tmp_path)
    assert main(["corrupt", str(place), "--labels", "mine.csv", "--test", str(elsewhere)]) == 0
    assert main(["train", "--epochs", "1", "--batch-size", "8", "--json"]) == 0
    manifest, record = (
        read_manifest(next(Path("manifests").glob("*.csv"))),
        json.loads(capsys.readouterr().out.rpartition("\n{")[2].join(["{", ""])),
    )
    assert (
        manifest.labels.tolist() == [1] + [0] * 7 + [1] * 8
        and manifest.meta["realised_rate"] is None
    )
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
    """A folder as people have them: images of several sizes, modes and suffixes, some of them
    turned by EXIF, an icon, and what a Mac leaves beside them. With class folders `Train/` and
    `Val/`; or flat, with labels.csv, whose column split marks the test images.
    """
    rows = ["file,category,split"]
    for part, source, each in (("Train", "train", 12), ("Val", "test", 4)):
        pixels, labels = (getattr(images, f"{source}_{what}") for what in ("images", "labels"))
        for k, name in enumerate(NAMES):
            for number, at in enumerate(np.flatnonzero(labels == k)[:each]):
                image = Image.fromarray(pixels[at, ..., 0]).resize(
                    (40 + number % 3, 36 + number % 2)
                )
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
        (place / "labels.csv").write_text(
            "\n".join([rows[0], *sorted(rows[1:], key=lambda row: zlib.crc32(row.encode()))])
        )
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
    """What was skipped, by the first word that says what it is."""
    lines = [
        line.removeprefix("skipped: ")
        for line in manifest.meta["decisions"]
        if line.startswith("skipped: ")
    ]
    kinds = {
        "hidden": "hidden",
        "unsupported": "unread",
        "without an image's": "other",
        "without a row": "unlabelled",
        "not a class": "empty",
    }
    return {
        next(kind for words, kind in kinds.items() if words in line): int(line.split()[0])
        for line in lines
    }


@pytest.mark.parametrize("prefix", ["", "folder:"])
@pytest.mark.parametrize("flat", [False, True])
def test_a_folder_as_people_have_them_goes_all_the_way(
    flat, prefix, digits, tmp_path, monkeypatch, capsys
):
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
    changed = {
        line.split(": ")[1]: line.split(": ")[2].split()[0]
        for line in manifest.meta["decisions"]
        if line.startswith("images: ")
    }
    assert changed == {
        "rotated by the EXIF orientation": "6",
        ("more than 8 bits per channel reduced to the highest 8"): "3",
    }
    assert main(["corrupt", *words, "--force"]) == 0
    assert re.search(r"skipped +4 hidden .*\.DS_Store", capsys.readouterr().out)
    network = [
        "--model",
        "mlp",
        "--epochs",
        "2",
        "--batch-size",
        "12",
        *(["--img-size", "16", "--workers", "0"] if prefix else []),
    ]
    assert main(["train", *words, *network, "--json"]) == 0
    out, err = capsys.readouterr()
    assert ("icon.png (7x9)" in err) == (not flat)
    assert "skipped: 1 image in an unsupported format" in err and "holiday.heic" in err
    assert main(["evaluate", json.loads(out)["run"], "--suspects", "list.csv"]) == 0
    with Path("list.csv").open(newline="") as file:
        listed = [row["path"] for row in csv.DictReader(file)]
    assert listed and set(listed) <= set(manifest.ids)
    assert read_images(
        find_dataset(words[0], labels=words[2] if flat else None), tmp_path
    ).test_labels.tolist() == sorted(
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
            assert [line for line in dataset.decisions if line.startswith("skipped")] == [
                f"skipped: 1 folder next to the training and the test part ({part}/)"
                for part in unused
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
        ("rename the one that is not", "move the class folders into", r"use .*/inner", "no class folders in", "one class only")
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


def test_a_class_without_training_images_is_refused_where_it_has_test_images_and_else_left_out(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("own", "elsewhere"):
        folder(tmp_path / name, "train", "test")
        for part in ("train", "test"):
            (tmp_path / name / part / "horse").mkdir()
    for door in (
        ["own"],
        ["folder:own"],
        ["own/train", "--test", "elsewhere/test"],
        ["folder:own/train", "--test", "elsewhere/test"],
    ):
        manifest = corrupted(capsys, *door, "--sym", "0.5")
        assert (
            manifest.meta["classes"] == ["cat", "dog"]
            and manifest.labels.max() == 1
            and counts(manifest)["empty"] == 2
        )
    for name in ("own", "elsewhere"):
        Image.new("L", (8, 8), 7).save(tmp_path / name / "test" / "horse" / "0.png")
    for door in (
        ["own"],
        ["folder:own"],
        ["own/train", "--test", "elsewhere/test"],
        ["folder:own/train", "--test", "elsewhere/test"],
    ):
        assert "1 class (horse) without training images" in refused(
            capsys, "corrupt", *door, "--sym", "0.5"
        )


def test_classes_of_an_npz_are_those_of_its_training_labels(tmp_path, capsys):
    images = {
        f"{part}_images": np.random.default_rng(k).integers(0, 255, (6, 8, 8), np.uint8)
        for k, part in enumerate(("train", "test"))
    }
    for train, test, what in (
        ([0, 2, 0, 2, 0, 2], [0] * 6, "no training label is 1"),
        ([0, 1] * 3, [0, 1, 2] * 2, "2 test labels are 2"),
    ):
        np.savez(tmp_path / "x.npz", **images, train_labels=train, test_labels=test)
        assert what in refused(capsys, "corrupt", str(tmp_path / "x.npz"), "--sym", "0.5")


def test_a_manifest_with_a_class_that_the_data_do_not_have_is_refused(
    tmp_path, monkeypatch, capsys
):
    """As one for a folder whose empty class folder counted."""
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "pets", "train", "test")
    now = corrupted(capsys, "pets", "--sym", "0.5")
    classes = {
        "num_classes": 3,
        "classes": ["cat", "dog", "zebra"],
        "per_class_rate": [0.5, 0.5, None],
        "transition": None,
    }
    replace(now, meta={**now.meta, **classes}).write(Path("old.csv"))
    for words in (
        ["train", "pets", "--manifest", "old.csv"],
        ["corrupt", "pets", "--labels", "old.csv"],
    ):
        assert "3 classes (cat, dog, zebra ...)" in refused(capsys, *words)


def test_links_are_followed_once_and_what_lies_deeper_belongs_to_the_class_above(tmp_path):
    place, other = folder(tmp_path / "a", "train", "test"), folder(tmp_path / "b", "", each=2)
    (place / "train" / "zebra").symlink_to(other / "cat")
    (place / "train" / "cat" / "more").symlink_to(other / "dog")
    (place / "train" / "cat" / "loop").symlink_to(place / "train")
    Image.new("L", (8, 8)).save(place / "train" / "stray.PNG")
    for name in (str(place), f"folder:{place}"):
        dataset = find_dataset(name)
        assert dataset.classes == ("cat", "dog", "zebra") and np.bincount(
            dataset.listed.train_labels
        ).tolist() == [8, 6, 2]
        said = "\n".join(dataset.decisions)
        for what in ("1 link to a folder that is already read (train/cat/loop)", "1 image next to "
                                                                                 "the class folders",
                     "2 images in subfolders of them (train/cat/more/0.png", "test set: no images of 1 class (zebra)"):  # fmt: skip
            assert what in said


def test_images_that_cannot_be_read_are_named_by_corrupt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place = folder(tmp_path / "pets", "train", "test")
    raw = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        raw, "jpeg"
    )
    (place / "train" / "cat" / "cut.jpg").write_bytes(raw.getvalue()[:900])
    (place / "test" / "dog" / "page.png").write_bytes(b"<html>")
    with tarfile.open("pets.tar", "w") as tar:
        tar.add(place, ".")
    for name in ("pets", "folder:pets", "tar:pets.tar"):
        error = refused(capsys, "corrupt", name, "--sym", "0.5")
        assert "train/cat/cut.jpg" in error
    (place / "train" / "cat" / "empty.png").touch()
    (place / "train" / "dog" / "gone.png").symlink_to("nowhere.png")
    error = refused(capsys, "corrupt", "pets", "--sym", "0.5")
    assert all(name in error for name in ("cat/cut.jpg", "cat/empty.png", "dog/gone.png"))
    (place / "train" / "cat" / "empty.png").unlink()
    (place / "train" / "dog" / "gone.png").unlink()
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
        for words in (
            ["pets", "--test", "pets/train"],
            ["pets/train", "--test", "copy"],
            ["pets", "--test", "other"],
        ):
            error = refused(capsys, "corrupt", f"{prefix}{words[0]}", *words[1:], "--sym", "0.5")
            assert (
                "1 of 13 test images" if "other" in words else "12 of 12 test images"
            ) in error and "cat/0.png" in error
    corrupted(capsys, "pets", "--sym", "0.5")
    assert "12 of 12 test images" in refused(capsys, "train", "pets", "--test", "copy")
    for file in list(Path("copy").rglob("*.png")):  # the same pixels in other files
        Image.open(file).save(file.with_name(f"renamed_{file.stem}.bmp"))
        file.unlink()
    assert "12 of 12 test images" in refused(capsys, "train", "pets", "--test", "copy")


def test_evaluate_says_how_many_images_the_run_was_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place, other = folder(tmp_path / "pets", "train", "test"), folder(tmp_path / "other", "train")
    shutil.copytree(place / "train", other / "test")
    shutil.copy(other / "train" / "dog" / "3.png", other / "test" / "dog" / "new.png")
    for file in list((other / "train").rglob("3.png")):
        file.unlink()
    assert (
        main(
            [
                "train",
                "pets",
                "--sym",
                "0",
                "--model",
                "mlp",
                "--epochs",
                "1",
                "--batch-size",
                "8",
                "--json",
            ]
        )
        == 0
    )
    (run,) = Path("runs").iterdir()
    capsys.readouterr()
    assert main(["evaluate", run.name, "--eval-on", "pets", "--eval-on", "other", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]["on"]
    assert [(found[name]["trained_on"], found[name]["expected"]) for name in ("pets", "other")] == [
        (0, 12),
        (12, 13),
    ]


def test_few_test_images_in_the_training_set_are_named_and_so_are_copies_under_another_class(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 255, (n, 8, 8), np.uint8) for n in (40, 200))
    train[5], test[7] = train[4], train[9]
    np.savez(
        tmp_path / "x.npz",
        train_images=train,
        train_labels=np.arange(40) % 2,
        test_images=test,
        test_labels=np.arange(200) % 2,
    )
    assert corrupted(
        capsys, str(tmp_path / "x.npz"), "--sym", "0.5", "--out", str(tmp_path / "m.csv")
    ).meta["decisions"] == [
        "duplicates: 1 training image with an earlier copy in the training set (train 5 = train 4)",
        (
            "duplicates: 1 of them with another label than the earlier copy (train 5 = train 4): one "
            "of the two is incorrect"
        ),
        "duplicates: 1 of 200 test images also in the training set (test 7 = train 9)",
    ]
    np.savez(
        tmp_path / "x.npz",
        train_images=test,
        train_labels=np.arange(200) % 2,
        test_images=test[:9],
        test_labels=np.arange(9) % 2,
    )
    assert "9 of 9 test images" in refused(
        capsys, "corrupt", str(tmp_path / "x.npz"), "--sym", "0.5"
    )


# Folders with a label file


def test_a_label_file_names_images_by_path_file_name_or_stem_and_its_labels_are_the_classes(
    tmp_path, monkeypatch, capsys
):
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
        assert (
            manifest.meta["classes"] == ["9", "10"] and manifest.meta["labels_path"] == "mine.csv"
        )
        assert [int("dog" in path) for path in manifest.ids] == manifest.labels.tolist() and at < 4
        made.append(manifest.meta["labels_sha256"])
    assert len(set(made)) == 1
    for content, what in (("path,label\n" + paths[0] + ",9", "every row has the label '9'"), ("label\n9\n10\n9", "no column"),
                          ("path,label\nnone.png,9\na.png,10\nb.png,9", "none.png|none "
                                                                        "of the examples"), ("", "empty")):  # fmt: skip
        Path("mine.csv").write_text(content)
        assert re.search(what, refused(capsys, "corrupt", "photos", "--labels", "mine.csv"))
    assert "--labels FILE" in refused(capsys, "corrupt", "photos", "--sym", "0.5")


def test_the_test_set_beside_a_label_file(tmp_path, monkeypatch, capsys):
    """A column that marks it, a part of its own, or a folder elsewhere; found again from the
    manifest.
    """
    monkeypatch.chdir(tmp_path)
    flat = {}
    for name, part in (("photos", "train"), ("photos", "test"), ("clean", "")):
        files = sorted(folder(tmp_path / "made" / name, part).glob(f"{part or '.'}/*/*.png"))
        (tmp_path / name / part).mkdir(parents=True, exist_ok=True)
        for file in files:
            flat[f"{part}/{file.parent.name}{file.name}".removeprefix("/")] = file.parent.name
            shutil.copy(file, tmp_path / name / part / f"{file.parent.name}{file.name}")
    rows = [(path, label) for path, label in flat.items() if "/" in path]
    Path("parts.csv").write_text(
        "\n".join(["path,label", *(f"{path},{label}" for path, label in rows)])
    )
    Path("marked.csv").write_text(
        "\n".join(
            ["path,label,is_valid", *(f"{path},{label},{'0.png' in path}" for path, label in rows)]
        )
    )
    Path("clean/labels.csv").write_text(
        "\n".join(
            ["path,label", *(f"{path},{label}" for path, label in flat.items() if "/" not in path)]
        )
    )
    Path("half.csv").write_text(
        "\n".join(["path,label", *(f"{path},{label}" for path, label in rows if "train" in path)])
    )
    for words, sizes in (
        (["parts.csv"], (12, 12)),
        (["marked.csv"], (20, 4)),
        (["half.csv", "--test", "clean"], (12, 12)),
    ):
        manifest = corrupted(capsys, "photos", "--labels", *words)
        dataset = Workspace(".").dataset_of(manifest)
        assert (len(manifest.labels), dataset.n_train, dataset.n_test) == (sizes[0], *sizes)
        assert [name in path for path, k in zip(dataset.listed.test.names, dataset.listed.test_labels, strict=True)
                for name in [dataset.classes[k]]] == [True] * sizes[1]  # fmt: skip
        assert (
            main(["train", "--model", "mlp", "--epochs", "1", "--batch-size", "8", "--json"]) == 0
        )


def test_a_label_file_in_the_folder_may_hold_true_labels_and_names_what_it_does_not_use(
    tmp_path, monkeypatch, capsys
):
    """Test images take the true label; noise is never drawn on top of given labels; classes by case
    are named.
    """
    monkeypatch.chdir(tmp_path)
    place = folder(tmp_path / "photos", "")
    files = sorted(place.rglob("*.png"))
    rows = []
    for at, file in enumerate(files):
        true = file.parent.name
        file.rename(place / f"{true}{file.name}")
        given = {"cat": "dog", "dog": "cat"}[true] if at % 4 == 0 else true
        rows.append(f"{true}{file.name},{given},{true},0.9,{at % 2 == 1}")
    for name in ("cat", "dog"):
        (place / name).rmdir()
    table = "\n".join(["# by hand", "file,label,clean_label,confidence,is_valid", *rows])
    (place / "labels.csv").write_text(table)
    for prefix in ("", "folder:"):
        manifest = corrupted(capsys, f"{prefix}photos", "--labels", "own")
        assert (
            manifest.meta["realised_rate"] == 0.5
            and "not used: confidence" in manifest.meta["decisions"][0]
        )
        assert [manifest.meta["classes"][k] for k in manifest.clean_labels] == [
            name[:3] for name in manifest.ids
        ]
        listed = Workspace(".").dataset_of(manifest).listed
        assert [listed.classes[k] for k in listed.test_labels] == [
            name[:3] for name in listed.test.names
        ]
        assert "given and true labels" in refused(
            capsys, "corrupt", f"{prefix}photos", "--sym", "0.5"
        )
    (place / "labels.csv").write_text(table.replace("cat2.png,cat", "cat2.png,Cat"))
    decisions = corrupted(capsys, "photos", "--labels", "own").meta["decisions"]
    assert "classes: 2 names that differ in upper and lower case only (Cat, cat)" in decisions


# One size for all images of a set


def striped(width: int, height: int) -> Image.Image:
    """Black on the left, white on the right."""
    return Image.fromarray(
        np.tile(np.where(np.arange(width) < width / 2, 0, 255).astype(np.uint8), (height, 1))
    )


def test_crop_pad_and_squash_bring_an_image_to_these_pixels():
    wide = striped(16, 8)
    crop, pad, squash = (np.asarray(Fitting(8, 8, fit)(wide)) for fit in FITS)
    # the middle, with no pixel resampled
    np.testing.assert_array_equal(crop, np.tile([0] * 4 + [255] * 4, (8, 1)))
    assert (
        (pad[:2] == 0).all()
        and (pad[6:] == 0).all()
        and (pad[2:6, :2] == 0).all()
        and (pad[2:6, 6:] == 255).all()
    )
    assert (
        (squash[:, :2] == 0).all() and (squash[:, 6:] == 255).all() and (squash == squash[0]).all()
    )
    for fit in FITS:
        assert Fitting(8, 16, fit)(wide) is wide and Fitting(5, 7, fit)(wide).size == (7, 5)
    np.testing.assert_array_equal(
        np.asarray(Fitting(4, 4, centre=0.5)(striped(8, 8))), np.tile([0, 0, 255, 255], (4, 1))
    )


def mixed(place: Path) -> Path:
    """Ten images of 20 to 29 pixels and an icon of 9 x 7 in each class; those of the test are
    inverted, so that none is in both parts.
    """

    def drawn(width: int, height: int, part: str) -> Image.Image:
        image = striped(width, height)
        return image if part == "train" else ImageOps.invert(image)

    for part in ("train", "test"):
        for k, name in enumerate(("cat", "dog")):
            (place / part / name).mkdir(parents=True)
            for number in range(10):
                drawn(30 + number, 20 + number, part).rotate(90 * k, expand=True).save(
                    place / part / name / f"{number}.png"
                )
            drawn(9, 7, part).save(place / part / name / "icon.png")
    return place


def test_images_of_different_sizes_take_the_median_and_no_icon_decides(
    tmp_path, monkeypatch, capsys
):
    place = mixed(tmp_path / "pets")
    dataset = find_dataset(str(place))
    assert dataset.shape == (24, 24, 3)  # the shorter sides are 7, 20, 21, ... 29
    images = read_images(dataset, tmp_path)
    assert images.train_images.shape == (22, 24, 24, 3) and images.test_images.shape == (
        22,
        24,
        24,
        3,
    )
    said = "22 of 22 training images: resized to 24x24 pixels (crop)"
    small = (
        "2 of 22 are less than half as large and are enlarged: train/cat/icon.png (7x9), "
        "train/dog/icon.png (7x9)"
    )
    assert said in images.changed and f"training images: {small}" in images.changed
    monkeypatch.chdir(tmp_path)
    assert main(["corrupt", "pets", "--sym", "0.2"]) == 0
    err = capsys.readouterr().err
    assert (
        "the shorter side 7 to 29 pixels, median 24; resized to 24x24 pixels (crop); change with "
        "--img-size and --fit"
        in err
        and small in err
    )
    assert (
        read_manifest(next(Path("manifests").glob("*.csv"))).meta["images"]
        == "used at 24x24 pixels (crop)"
    )
    assert main(["train", "--epochs", "1", "--batch-size", "8"]) == 0
    captured = capsys.readouterr()
    assert said in captured.err and small in captured.err
    record = RunFolder(next(Path("runs").glob("*"))).record()
    assert (
        record["data"]["shape"] == [24, 24, 3]
        and record["recipe"]["size"] == 24
        and said in record["data"]["preprocessing"]
    )


def test_every_fit_makes_the_same_pixels_in_memory_and_streamed(tmp_path):
    place = mixed(tmp_path)
    for fit in FITS:
        fitting = Fitting(16, 16, fit)
        whole = read_images(find_dataset(str(place)), tmp_path, fitting=fitting).train_images
        streamed = read_images(
            find_dataset(f"folder:{place}"), tmp_path, fitting=fitting, workers=0
        ).train_images
        np.testing.assert_array_equal(whole, np.asarray(streamed))
        normalise = Normalisation.of(streamed)
        (plain,) = source_of(
            streamed, normalise, torch.device("cpu"), StreamTransform(16, 1.0, fit=fit)
        ).eval_batches()
        assert torch.equal(plain, normalise(torch.from_numpy(whole)))


def test_images_of_one_size_stay_as_they_are_square_or_not(tmp_path):
    for size in ((8, 8), (12, 7)):
        place = folder(tmp_path / str(size), "train", "test", size=size)
        dataset, images = find_dataset(str(place)), read_images(find_dataset(str(place)), tmp_path)
        assert (
            dataset.shape == (*size[::-1], 3)
            and images.changed == ()
            and "size" not in dataset.augmentation
        )
        assert images.train_images[:, 0, 0, 0].tolist() == [
            0,
            1,
            2,
            3,
            4,
            5,
            40,
            41,
            42,
            43,
            44,
            45,
        ]


def test_the_key_moves_with_size_and_fit_and_only_then(tmp_path, monkeypatch, capsys):
    folder(tmp_path / "same", "train", "test")
    mixed(tmp_path / "mixed")
    monkeypatch.chdir(tmp_path)

    def key(name: str, *words: str) -> str:
        assert (
            main(
                [
                    "-q",
                    "train",
                    name,
                    "--sym",
                    "0.2",
                    "--epochs",
                    "1",
                    "--dry-run",
                    "--json",
                    *words,
                ]
            )
            == 0
        )
        return str(json.loads(capsys.readouterr().out)["key"])

    sizes = [
        [],
        ["--img-size", "16"],
        ["--img-size", "16", "--fit", "pad"],
        ["--img-size", "16", "--fit", "squash"],
        ["--img-size", "32"],
    ]
    for name in ("same", "mixed", "folder:mixed", "digits"):
        assert len({key(name, *words) for words in sizes}) == len(sizes), name
    assert key("same") == key("same", "--img-size", "8") and key("mixed") == key(
        "mixed", "--img-size", "24", "--fit", "crop"
    )
    assert key("mixed", "--img-size", "16") == key("mixed", "--img-size", "16")
    for words in (["same", "--fit", "pad"], ["digits", "--img-size", "8", "--fit", "pad"]):
        assert main(["train", *words, "--sym", "0.2", "--dry-run"]) == 2
        assert "fit has no effect on" in capsys.readouterr().err


def test_a_run_at_another_size_is_reproduced_and_rechecked(tmp_path, monkeypatch, capsys):
    """Of noise that looked at the images too, in the data set's own size."""
    mixed(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    words = [
        "pets",
        "--idn",
        "0.2",
        "--img-size",
        "12",
        "--fit",
        "pad",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--precision",
        "fp32",
    ]
    assert main(["-q", "train", *words]) == 0
    run = RunFolder(next(Path("runs").glob("*")))
    assert run.record()["data"]["shape"] == [12, 12, 3]
    assert main(["-q", "evaluate", str(run.path), "--verify"]) == 0
    command = repro_command(run.about()).words
    assert (
        command[(at := command.index("--img-size")) : at + 2] == ("--img-size", "12")
        and "pad" in command
    )
    capsys.readouterr()
    assert main([*command[1:], "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == run.record()["key"]


# What else lies beside the data sets


def test_a_foreign_npz_is_described_without_reading_its_images(tmp_path):
    images = np.full((600, 9, 7, 3), 7, np.uint8)
    np.savez(
        tmp_path / "x.npz",
        train_images=images,
        test_images=images[:3],
        train_labels=np.arange(600) % 3,
        test_labels=np.arange(3),
    )
    raw = bytearray((tmp_path / "x.npz").read_bytes())
    raw[raw.index(bytes([7]) * 100) + 50_000] ^= 1  # far behind the head of the first array
    (tmp_path / "x.npz").write_bytes(raw)
    assert describe_user_data(tmp_path / "x.npz").shape == (9, 7, 3)
    with pytest.raises(DataError, match="CRC"):
        read_images(find_dataset(str(tmp_path / "x.npz")), tmp_path)


def test_cifar20_is_cifar100_by_superclass():
    fine, coarse = (
        read_labels(DATASETS[name], Path(), offline=True).labels for name in ("cifar100", "cifar20")
    )
    names = [DATASETS[name].classes for name in ("cifar100", "cifar20")]
    of = {names[0][a]: names[1][b] for a, b in zip(fine, coarse, strict=True)}
    assert np.bincount(coarse).tolist() == [2500] * 20
    assert (of["rose"], of["trout"], of["maple_tree"], of["lawn_mower"], of["boy"]) == (
        "flowers",
        "fish",
        "trees",
        "vehicles_2",
        "people",
    )


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 12, 3), (5, 9, 1)])
def test_images_of_another_set_take_the_shape_of_this_one(shape):
    images = np.full((3, 10, 10, 3), 77, np.uint8)
    fitted = fit_images(images, Fitting(*shape[:2], "squash"), shape[2])
    assert fitted.shape == (3, *shape) and (fitted == 77).all()


# From a file to 8-bit RGB


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    bits: int, colour: int, *values: int, others: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """One row of pixels, of so many bits a channel (8 or 16) and a colour type of PNG's."""
    row = b"\0" + struct.pack(f">{len(values)}{'H' if bits == 16 else 'B'}", *values)
    width = len(values) // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    head = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    body = [(b"IHDR", head), *others, (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in body)


def tiff(bits: int, photometric: int, row: bytes, width: int, sample_format: int = 1) -> bytes:
    """One row of one channel, uncompressed; photometric 0: 0 is white."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8 + 2 + 12 * 9 + 4), (277, 1), (279, len(row)),
            (339, sample_format)]  # fmt: skip
    entries = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + row


def saved(image: Image.Image, form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def in_modes() -> dict[str, tuple[bytes, list[Any]]]:
    """Files of every mode, and their pixels worked out by hand: a row of (r, g, b), or one number
    for a grey.
    """
    u16, keyed, quarter = (
        struct.pack("<2H", 0x1234, 0x8000),
        (b"tRNS", struct.pack(">H", 0x1234)),
        Image.Exif(),
    )
    # the stored row stands upright when it is turned to the right: its left pixel is on top
    quarter[0x0112] = 6
    frames = [Image.new("L", (1, 1), value) for value in (5, 200)]
    palette = (b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    return {
        "grey.png": (png(8, 0, 0, 7, 255), [0, 7, 255]),
        "grey16.png": (png(16, 0, 0, 0x0100, 0x1234, 0x80FF, 0xFFFF), [0, 1, 0x12, 0x80, 255]),
        "grey16 with a transparent value.png": (
            png(16, 0, 0x1234, 0x1235, others=(keyed,)),
            [255, 0x12],
        ),
        "grey with a transparent value.png": (
            png(8, 0, 7, 9, others=((b"tRNS", b"\0\x07"),)),
            [255, 9],
        ),
        "rgb16.png": (png(16, 2, 0x1234, 0x8000, 0xFFFF), [(0x12, 0x80, 255)]),
        "rgb with a transparent colour.png": (
            png(8, 2, 1, 2, 3, 4, 5, 6, others=((b"tRNS", b"\0\1\0\2\0\3"),)),
            [255, (4, 5, 6)],
        ),
        "la.png": (png(8, 4, 100, 255, 100, 0, 0, 51), [100, 255, 204]),
        "la16.png": (png(16, 4, 0x6400, 0xFFFF, 0x6400, 0), [100, 255]),
        "rgba.png": (
            png(8, 6, 1, 2, 3, 255, 1, 2, 3, 0, 0, 50, 100, 102),
            [(1, 2, 3), 255, (153, 173, 193)],
        ),
        "rgba16.png": (png(16, 6, 0x0102, 0x0203, 0x0304, 0xFFFF, 0, 0, 0, 0), [(1, 2, 3), 255]),
        "palette.png": (png(8, 3, 0, 1, others=(palette,)), [(10, 20, 30), (40, 50, 60)]),
        "palette with alpha.png": (
            png(8, 3, 0, 1, others=(palette, (b"tRNS", b"\0\xff"))),
            [255, (40, 50, 60)],
        ),
        "bits.png": (
            saved(Image.frombytes("1", (8, 1), b"\xa0"), "PNG"),
            [255, 0, 255, 0, 0, 0, 0, 0],
        ),
        "16.tif": (tiff(16, 1, u16, 2), [0x12, 0x80]),
        "16 where 0 is white.tif": (tiff(16, 0, u16, 2), [255 - 0x12, 255 - 0x80]),
        "12.tif": (tiff(12, 1, b"\xff\xf8\x00", 2), [255, 0x80]),
        "big endian.tif": (
            saved(Image.fromarray(np.array([[0x1234, 0x8000]], ">u2")), "TIFF"),
            [0x12, 0x80],
        ),
        "cmyk.tif": (saved(Image.new("CMYK", (1, 1), (0, 255, 51, 0)), "TIFF"), [(255, 0, 204)]),
        "lab.tif": (saved(Image.new("LAB", (2, 1), (255, 128, 128)), "TIFF"), [255, 255]),
        "grey16.pgm": (b"P5 2 1 4095\n" + struct.pack(">2H", 4095, 0), [255, 0]),
        "rgb16.ppm": (b"P6 1 1 65535\n" + struct.pack(">3H", 65535, 0, 257), [(255, 0, 1)]),
        "frames.gif": (saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), [5]),
        "frames.tif": (saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), [5]),
        "turned.png": (
            saved(
                Image.fromarray(np.array([[9], [70]], np.uint8)).rotate(90, expand=True),
                "PNG",
                exif=quarter,
            ),
            [9, 70],
        ),
    }


def test_every_mode_is_decoded_to_the_same_rgb_in_memory_and_streamed(tmp_path):
    """Nothing is clipped: 16 bits keep their high byte, what is transparent is white, and EXIF's
    orientation is applied.
    """
    for number, (name, (raw, row)) in enumerate(in_modes().items()):
        place = tmp_path / str(number)
        for part in ("train", "test"):
            for class_name in ("a", "b"):
                (place / part / class_name).mkdir(parents=True)
                (place / part / class_name / name).write_bytes(raw)
        expected = [(value,) * 3 if isinstance(value, int) else value for value in row]
        in_memory = read_images(find_dataset(str(place)), tmp_path).train_images
        atol = 1 if name == "lab.tif" else 0  # whose white is a hair off in 8 bits
        np.testing.assert_allclose(
            in_memory[0].reshape(-1, 3).astype(int), expected, rtol=0, atol=atol, err_msg=name
        )
        pictures = read_images(find_dataset(f"folder:{place}"), tmp_path).train_images
        streamed = np.asarray(decoded(opener(pictures.listing), pictures.listing, 0))
        np.testing.assert_array_equal(streamed, in_memory[0], err_msg=name)


def test_pixels_of_an_unknown_range_are_refused_by_name(tmp_path):
    refused = {
        "int32.tif": saved(Image.fromarray(np.array([[5, 70_000]], np.int32)), "TIFF"),
        "signed16.tif": tiff(16, 1, struct.pack("<2h", -5, 300), 2, sample_format=2),
        "float.tif": saved(Image.fromarray(np.array([[0.5, 1.0]], np.float32)), "TIFF"),
        "float.ppm": b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5),
        "colour16 with a transparent one.png": png(
            16, 2, 1, 2, 3, others=((b"tRNS", b"\0\1\0\2\0\3"),)
        ),
    }
    place = folder(tmp_path, "train", "test")
    for name, raw in refused.items():
        path = place / "train" / "cat" / name
        path.write_bytes(raw)
        with pytest.raises(
            DataError, match=f"{name} cannot be read as an image .*: save it with 8"
        ):
            read_images(find_dataset(str(place)), tmp_path)
        with pytest.raises(
            DataError, match=f"{name} cannot be read as an image .*: save it with 8"
        ):
            np.asarray(read_images(find_dataset(f"folder:{place}"), tmp_path).train_images)
        path.unlink()
