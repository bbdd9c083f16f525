"""Published sets as their authors lay them out, in small: a few lines of each list, as they are
published.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from noisebench.cli import main
from noisebench.datasets import DATASETS, Images, find_dataset, read_images, read_labels
from noisebench.datasets.published import LAYOUTS
from noisebench.datasets.registry import IMAGENET, WNIDS
from noisebench.errors import DataError
from noisebench.labels.manifest import read_manifest
from noisebench.runs.workspace import Workspace


def picture(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0]).resize((80, 70)).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_imagenet(root: Path, images: np.ndarray) -> None:
    for number, wnid in enumerate((WNIDS[0], WNIDS[134], WNIDS[517])):
        picture(root / "train" / wnid / f"{wnid}_10.JPEG", images[number])
        picture(root / "val" / wnid / f"ILSVRC2012_val_0000000{number}.JPEG", images[number])


def write_clothing1m(root: Path, images: np.ndarray) -> None:
    keys = [f"images/{number}/00/{number}.jpg" for number in range(6)]
    for key, image in zip(keys, images, strict=False):
        picture(root / key, image)
    text(root / "noisy_train_key_list.txt", *keys[:4])
    text(root / "noisy_label_kv.txt", *(f"{key} {number}" for number, key in enumerate(keys[:4])))
    text(root / "clean_test_key_list.txt", *keys[4:])
    text(root / "clean_label_kv.txt", f"{keys[4]} 13", f"{keys[5]} 0", f"{keys[1]} 7")


def write_webvision(root: Path, images: np.ndarray) -> None:
    for number in range(3):
        picture(root / "google" / "q0001" / f"{number}.jpg", images[number])
        picture(root / "val_images_256" / f"val00000{number}.jpg", images[number])
    text(
        root / "info" / "train_filelist_google.txt",
        "google/q0001/0.jpg 0",
        "google/q0001/1.jpg 49",
        "google/q0001/2.jpg 50",
    )
    text(
        root / "info" / "val_filelist.txt",
        "val000000.jpg 3",
        "val000001.jpg 999",
        "val000002.jpg 49",
    )


def write_animal10n(root: Path, images: np.ndarray) -> None:
    for number in range(4):
        picture(root / "training" / f"{number * 3}_{number}.jpg", images[number])
    picture(root / "testing" / "9_1.jpg", images[0])


def write_food101n(root: Path, images: np.ndarray) -> None:
    keys = ["apple_pie/a.jpg", "waffles/b.jpg", "waffles/c.jpg"]
    for key, image in zip(keys, images, strict=False):
        picture(root / "images" / key, image)
    text(root / "meta" / "imagelist.tsv", "class_name/key", *keys)
    text(
        root / "meta" / "verified_train.tsv",
        "class_name/key\tverification_label",
        "waffles/b.jpg\t1",
        "waffles/c.jpg\t0",
    )
    text(root / "meta" / "verified_val.tsv", "class_name/key\tverification_label")
    picture(root.parent / "food-101" / "images" / "sushi" / "1.jpg", images[0])
    text(root.parent / "food-101" / "meta" / "test.txt", "sushi/1")


def write_tinyimagenet(root: Path, images: np.ndarray) -> None:
    for number, wnid in enumerate(("n02", "n01")):
        picture(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", images[number])
        picture(root / "val" / "images" / f"val_{number}.JPEG", images[number])
    text(root / "wnids.txt", "n02", "n01")
    text(root / "words.txt", "n01\tgoldfish, Carassius auratus", "n02\tpop bottle, soda bottle")
    text(
        root / "val" / "val_annotations.txt",
        "val_0.JPEG\tn01\t0\t32\t44\t62",
        "val_1.JPEG\tn02\t0\t32\t44\t62",
    )


WRITERS = {"imagenet": write_imagenet, "clothing1m": write_clothing1m, "webvision": write_webvision, "animal10n": write_animal10n,
           "food101n": write_food101n, "tinyimagenet": write_tinyimagenet}  # fmt: skip
EXPECTED = {  # training labels, what is known of them, test labels, the name of the first picture
    "imagenet": ([0, 134, 517], None, [0, 134, 517], "train/n01440764/n01440764_10.JPEG"),
    "clothing1m": ([0, 1, 2, 3], [-1, 7, -1, -1], [13, 0], "images/0/00/0.jpg"),
    "webvision": ([0, 49], None, [3, 49], "google/q0001/0.jpg"),
    "animal10n": ([0, 3, 6, 9], None, [9], "training/0_0.jpg"),
    "food101n": ([0, 100, 100], [-1, 100, -1], [95], "images/apple_pie/a.jpg"),
    "tinyimagenet": ([0, 1], None, [1, 0], "train/n02/images/n02_0.JPEG"),
}


@pytest.fixture(params=WRITERS)
def laid_out(request: pytest.FixtureRequest, tmp_path: Path, digits: Images) -> str:
    name: str = request.param
    WRITERS[name](tmp_path / "data" / name, digits.train_images * 16)
    return name


def test_pictures_labels_and_what_is_verified_are_the_published_ones(laid_out, tmp_path):
    dataset = find_dataset(laid_out, tmp_path / "data")
    labels, images = (
        read_labels(dataset, tmp_path / "data"),
        read_images(dataset, tmp_path / "data", workers=0),
    )
    train, clean, test, first = EXPECTED[laid_out]
    assert (
        labels.labels.tolist() == train
        and images.test_labels.tolist() == test
        and labels.ids[0] == first
    )
    assert (None if labels.clean is None else labels.clean.tolist()) == clean
    assert np.asarray(images.train_images).shape == (len(train), *dataset.shape)
    assert np.asarray(images.test_images).shape == (len(test), *dataset.shape)


def test_without_a_noise_the_labels_are_taken_as_they_are(laid_out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--data-dir", "data", "corrupt", laid_out, "--json"]) == 0
    manifest = read_manifest(json.loads(capsys.readouterr().out)["manifest"])
    assert (
        manifest.meta["noise"] == "imported(file='own')"
        and manifest.labels.tolist() == EXPECTED[laid_out][0]
    )
    # one is known, and wrong; Food-101N's known ones are right because one left the others out
    known = {"clothing1m": 1.0}
    assert manifest.meta["realised_rate"] == known.get(laid_out) and "path" not in manifest.meta
    assert main(["--data-dir", "data", "train", laid_out, "--model", "mlp", "--img-size", "8", "--epochs", "1", "--loss", "mae", "--batch-size",
                 "2", "--workers", "0"]) == 0  # fmt: skip


def test_a_list_that_names_a_picture_which_is_not_there_is_said(tmp_path, digits):
    write_clothing1m(tmp_path / "clothing1m", digits.train_images * 16)
    (tmp_path / "clothing1m" / "images/2/00/2.jpg").unlink()
    with pytest.raises(DataError, match=r"images/2/00/2\.jpg is listed but cannot be read"):
        read_images(find_dataset("clothing1m", tmp_path), tmp_path)


def test_other_copies_of_the_published_layouts_are_read_too(tmp_path, digits):
    images = digits.train_images * 16
    write_tinyimagenet(tmp_path / "tinyimagenet" / "tiny-imagenet-200", images)
    write_clothing1m(tmp_path / "clothing1m", images)
    (tmp_path / "clothing1m" / "annotations").mkdir()
    for path in (tmp_path / "clothing1m").glob("*.txt"):
        shutil.move(path, tmp_path / "clothing1m" / "annotations" / path.name)
    kaggle = tmp_path / "imagenet" / "ILSVRC" / "Data" / "CLS-LOC"
    picture(kaggle / "train" / WNIDS[3] / "a.JPEG", images[0])
    picture(kaggle / "val" / "ILSVRC2012_val_1.JPEG", images[0])
    text(
        tmp_path / "imagenet" / "LOC_val_solution.csv",
        "ImageId,PredictionString",
        f"ILSVRC2012_val_1,{WNIDS[7]} 85 1 499 272",
    )
    found = {
        name: find_dataset(name, tmp_path).listed
        for name in ("tinyimagenet", "clothing1m", "imagenet")
    }
    assert [listed.test_labels.tolist() for listed in found.values()] == [[1, 0], [13, 0], [7]]
    assert found["tinyimagenet"].classes == ("pop bottle", "goldfish")


def test_a_set_that_is_not_at_hand_says_where_it_belongs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in LAYOUTS:
        assert main(["--data-dir", "data", "corrupt", name]) == 2
        assert capsys.readouterr().err.strip() == (
            f"error: {name} is not in data: put it into data/{name}/ in its authors' layout, "
            "or use another --data-dir"
        )


def test_a_folder_that_is_no_class_is_said(tmp_path, digits):
    write_imagenet(tmp_path / "imagenet", digits.train_images * 16)
    picture(tmp_path / "imagenet" / "train" / "cats" / "1.JPEG", digits.train_images[0] * 16)
    with pytest.raises(DataError, match="cats is not a class of this data set"):
        find_dataset("imagenet", tmp_path)


def test_imagenets_classes_are_a_thousand_and_in_their_order():
    assert len(set(IMAGENET)) == len(WNIDS) == 1000 and list(WNIDS) == sorted(WNIDS)
    assert (IMAGENET[0], IMAGENET[134], IMAGENET[517], IMAGENET[999]) == (
        "tench", "crane (n02012849)", "crane (n03126707)", "toilet tissue")  # fmt: skip
    assert {name for name, entry in DATASETS.items() if entry.reader} == set(LAYOUTS)


def test_the_papers_methods_have_the_papers_eps_on_imagenet(tmp_path, digits):
    from noisebench.experiments.resolve import RunRequest, resolve_run
    from noisebench.labels.build import LabelRequest

    write_imagenet(tmp_path / "imagenet", digits.train_images * 16)
    workspace = Workspace(tmp_path / "w", tmp_path)
    dataset = workspace.dataset("imagenet")
    manifest, _ = workspace.make(dataset, LabelRequest("imported(file='own')"))
    runs = [
        resolve_run(RunRequest(method=name), dataset, manifest, "")
        for name in ("ce", "el", "lsr", "lsr_el")
    ]
    assert [str(run.loss) for run in runs] == [
        "ce",
        "el(eps=0.1)",
        "lsr(ce, alpha=0.1)",
        "lsr(el(eps=0.1), alpha=0.1)",
    ]
    assert [run.method for run in runs] == ["ce", "el", "lsr", "lsr_el"] and not any(
        run.oracle for run in runs
    )
    assert {
        (run.model, run.recipe_name, run.recipe.batch_size, run.recipe.size) for run in runs
    } == {("timm:resnet50", "el-imagenet", 2048, 224)}


def test_no_noise_is_drawn_on_top_of_labels_that_are_wrong_already(
    laid_out, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code = main(["--data-dir", "data", "corrupt", laid_out, "--sym", "0.4"])
    if laid_out in ("imagenet", "tinyimagenet"):
        assert code == 0
        return
    said = (
        f"error: {laid_out} already has incorrect labels, so the rate after symmetric would be "
        "unknown: "
    )
    assert (
        code == 2
        and capsys.readouterr().err.startswith(said)
        and not (tmp_path / "manifests").exists()
    )
