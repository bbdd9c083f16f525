"""Anyone's own labels: every way of writing them means the same ones, and whatever does not fit the
data is refused.
"""

import hashlib
import io
import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from noisebench.cli import main
from noisebench.datasets import DATASETS, Dataset, Labels, Shape, read_annotations
from noisebench.errors import DataError, LanguageError
from noisebench.labels.build import LabelRequest, make_manifest
from noisebench.labels.manifest import read_manifest
from noisebench.metrics.scores import memorised

LIGHT = settings(max_examples=30, deadline=None)
CLASSES = ("cat", "dog", "sea, deep", "3")
IDS = tuple(f"train/{'cat' if k % 2 else 'dog'}/{k}.png" for k in range(8))
LABELS = np.array([0, 1, 2, 3, 0, 0, 1, 2])
CLEAN = np.array([0, 1, 2, 3, 1, 0, 1, -1])  # example 4 is wrong, of example 7 nobody knows
BACKWARDS = np.arange(8)[::-1]
KEYS = [str(k) for k in range(8)]
NAMES = [CLASSES[k] for k in LABELS]
CLEAN_NAMES = [CLASSES[k] if k >= 0 else "" for k in CLEAN]
SHAPE, FILES = Shape(8, CLASSES), Shape(8, CLASSES, IDS)


def quoted(cell):
    return f'"{cell}"' if set(str(cell)) & set(', "') else str(cell)


def csv(head, *columns, order=range(8)):
    """Columns under names, or without; the rows in an order."""
    rows = [[column[i] for column in columns] for i in order]
    return "".join(
        ",".join(map(quoted, row)) + "\n" for row in ([head.split(",")] if head else []) + rows
    ).encode()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def pt(content):
    """Tensors and plain values; arrays become tensors."""
    if isinstance(content, dict):
        content = {
            key: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
            for key, value in content.items()
        }
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def read(folder, name, content, shape=SHAPE, column="", sha256=None):
    path = folder / name
    path.write_bytes(content)
    found = read_annotations(f"{path}{column}", shape, sha256)
    return found.labels, found.clean


# One meaning

PLAIN = {
    "a column of numbers": ("l.csv", csv("label", LABELS), ""),
    "a column of names": ("l.csv", csv("label", NAMES), ""),
    "a column without a name": ("l.csv", csv("", NAMES), ""),
    "by index": ("l.csv", csv("index,label", KEYS, LABELS), ""),
    "by index, shuffled": ("l.csv", csv("index,label", KEYS, NAMES, order=BACKWARDS), ""),
    "by index without names, shuffled": ("l.csv", csv("", KEYS, LABELS, order=BACKWARDS), ""),
    "the label first": ("l.csv", csv("noisy_label,id", LABELS, KEYS, order=BACKWARDS), ""),
    "a named column of many": (
        "l.csv",
        csv("idx,label,mine,other", KEYS, LABELS[::-1], NAMES, LABELS),
        ":mine",
    ),
    "a spreadsheet's": (
        "l.csv",
        b"\xef\xbb\xbf" + csv("Index, Label", KEYS, LABELS).replace(b"\n", b"\r\n"),
        "",
    ),
    "with comments": ("l.csv", b"# by hand\n" + csv("label", LABELS) + b"# end\n", ""),
    "floats that are whole": ("l.csv", csv("label", LABELS / 1), ""),
    "lines of numbers": ("l.txt", b"".join(b"%d\n" % k for k in LABELS), ""),
    "lines of names": ("l.txt", "\n".join(NAMES).encode(), ""),
    "lines of an index and a number": (
        "l.txt",
        "".join(f"{i} {LABELS[i]}\n" for i in BACKWARDS).encode(),
        "",
    ),
    "int64": ("l.npy", npy(LABELS), ""),
    "uint8 in a column": ("l.npy", npy(LABELS.astype(np.uint8)[:, None]), ""),
    "float32": ("l.npy", npy(LABELS.astype(np.float32)), ""),
    "words": ("l.npy", npy(np.array(NAMES)), ""),
    "several arrays": ("l.npz", npz(label=LABELS, classes=np.array(CLASSES)), ""),
    "a tensor": ("l.pt", pt(torch.from_numpy(LABELS)), ""),
    "a tensor of bytes": ("l.pth", pt(torch.from_numpy(LABELS).to(torch.uint8)), ""),
    "a list": ("l.pt", pt(LABELS.tolist()), ""),
    "a dict": ("l.pt", pt({"noisy_label": torch.from_numpy(LABELS)}), ""),
    "a column of a dict": ("l.pt", pt({"label": LABELS[::-1].copy(), "worse": LABELS}), ":worse"),
    "one of several arrays": ("l.npz", npz(label=LABELS[::-1], worse=LABELS), ":worse"),
    "a tensor that would learn": ("l.pt", pt(torch.from_numpy(LABELS / 1).requires_grad_()), ""),
}


def test_every_way_of_writing_labels_means_the_same(tmp_path, subtests):
    for way, (name, content, column) in PLAIN.items():
        with subtests.test(way=way):
            recorded, clean = read(tmp_path, name, content, column=column)
            np.testing.assert_array_equal(recorded, LABELS)
            assert clean is None and recorded.dtype == np.int64


WITH_CLEAN = {
    "in order": ("l.csv", csv("label,clean_label", LABELS, CLEAN_NAMES)),
    "shuffled": (
        "l.csv",
        csv("index,label,clean_label", KEYS, NAMES, CLEAN_NAMES, order=BACKWARDS),
    ),
    "-1 where unknown": ("l.csv", csv("i,y,true", KEYS, LABELS, CLEAN)),
    "-1 in an array": ("l.npz", npz(label=LABELS, clean_label=CLEAN)),
    "NaN in an array": (
        "l.npz",
        npz(label=LABELS, clean=np.where(CLEAN < 0, np.nan, CLEAN)),
    ),
    "a tensor": (
        "l.pt",
        pt({"label": torch.from_numpy(LABELS), "ground_truth": torch.from_numpy(CLEAN)}),
    ),
}


def test_every_way_of_writing_clean_labels_means_the_same(tmp_path, subtests):
    for way, (name, content) in WITH_CLEAN.items():
        with subtests.test(way=way):
            recorded, clean = read(tmp_path, name, content)
            np.testing.assert_array_equal(recorded, LABELS)
            np.testing.assert_array_equal(clean, CLEAN)


BY_PATH = {
    "with names": ("l.csv", csv("path,label", IDS, NAMES, order=BACKWARDS)),
    "the label first": ("l.csv", csv("label,filename", NAMES, IDS, order=BACKWARDS)),
    "without names": ("l.csv", csv("", IDS, LABELS, order=BACKWARDS)),
    "without the folder of the training part": (
        "l.csv",
        csv("image,label", [i.removeprefix("train/") for i in IDS], LABELS, order=BACKWARDS),
    ),
    "from here": ("l.csv", csv("path,label", [f"./{i}" for i in IDS], LABELS, order=BACKWARDS)),
    "with the other slashes": (
        "l.csv",
        csv("path,label", [i.replace("/", "\\") for i in IDS], LABELS, order=BACKWARDS),
    ),
    "in lines": ("l.txt", "".join(f"{IDS[i]} {LABELS[i]}\n" for i in BACKWARDS).encode()),
    "by index all the same": ("l.csv", csv("index,label", KEYS, LABELS, order=BACKWARDS)),
    "in order": ("l.npy", npy(LABELS)),
}


def test_every_way_of_naming_files_means_the_same(tmp_path, subtests):
    for way, (name, content) in BY_PATH.items():
        with subtests.test(way=way):
            recorded, clean = read(tmp_path, name, content, FILES)
            np.testing.assert_array_equal(recorded, LABELS)
            assert clean is None


@LIGHT
@given(
    st.permutations(range(8)),
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_the_order_of_the_rows_does_not_matter(tmp_path_factory, order, labels, by_path, named):
    shown = [CLASSES[k] for k in labels] if named else labels
    content = csv(
        "path,label" if by_path else "index,label", IDS if by_path else KEYS, shown, order=order
    )
    np.testing.assert_array_equal(
        read(tmp_path_factory.mktemp("l"), "l.csv", content, FILES)[0], labels
    )


NUMBERED = Shape(8, ("2", "0", "1"))


def test_words_that_could_be_names_or_numbers_are_refused(tmp_path):
    with pytest.raises(DataError, match="could be names or numbers"):
        read(tmp_path, "l.csv", csv("", ["2", "0", "1"] * 2 + ["2", "0"]), NUMBERED)


@pytest.mark.parametrize(
    ("kind", "expected"), [(str, [0, 1, 2, 0, 1, 2, 0, 1]), (int, [2, 0, 1, 2, 0, 1, 2, 0])]
)
def test_of_an_npy_words_are_names_and_integers_are_numbers(kind, expected, tmp_path):
    assert (
        read(tmp_path, "l.npy", npy(np.array([2, 0, 1, 2, 0, 1, 2, 0]).astype(kind)), NUMBERED)[
            0
        ].tolist()
        == expected
    )


def test_numbers_that_are_not_all_names_are_numbers(tmp_path):
    shape = Shape(6, ("1", "2", "3"))
    assert read(tmp_path, "l.csv", b"0\n0\n1\n1\n2\n2\n", shape)[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert read(tmp_path, "l.csv", b"1\n1\n2\n2\n3\n3\n", shape)[0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_class_named_like_a_column_is_no_column(tmp_path):
    recorded, _ = read(
        tmp_path, "l.csv", csv("", ["label", "class"] * 4), Shape(8, ("label", "class"))
    )
    assert recorded.tolist() == [0, 1] * 4


# By whichever column is a key: a folder of images, from the command line


PETS = ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder with `pets/`, 24 training and 6 test images whose names say nothing of their order."""
    root = tmp_path_factory.mktemp("pets")
    for at, name in enumerate(np.random.default_rng(1).permutation(30)):
        image(
            root / "pets" / ("test" if at >= 24 else "train") / PETS[at % 3] / f"img{name:03d}.png",
            at,
        )
    return root


def image(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(path)


def paths_of(root, part):
    return sorted(
        path.relative_to(root / "pets").as_posix() for path in (root / "pets" / part).rglob("*.png")
    )


def corrupt(root, frame, column="", name="l.csv", **how):
    """What `corrupt --labels` makes of a table: its exit code, the label of each path that is
    trained on, the true labels.
    """
    if frame is not None:
        frame.to_csv(root / name, **{"index": False, **how})
    (root / "m.csv").unlink(missing_ok=True)
    code = main(
        [
            "corrupt",
            str(root / "pets"),
            "--labels",
            f"{root / name}{column}",
            "--out",
            str(root / "m.csv"),
        ]
    )
    if code:
        assert not (root / "m.csv").exists()
        return code, {}, ()
    made = read_manifest(root / "m.csv")
    kept = {
        path: PETS[k]
        for path, k, here in zip(made.ids, made.labels, made.in_training, strict=True)
        if here
    }
    return code, kept, tuple(made.clean_labels)


def table_of(root, *parts):
    """Paths with true labels and given ones, of which a third is wrong, in no order; the index is
    that of the image.
    """
    paths, rng = [path for part in parts for path in paths_of(root, part)], np.random.default_rng(0)
    true = [path.split("/")[1] for path in paths]
    given = [PETS[(PETS.index(name) + (rng.random() < 1 / 3)) % 3] for name in true]
    return pd.DataFrame({"path": paths, "true": true, "given": given}).sample(
        frac=1, random_state=0
    )


def expected_of(frame, column="given"):
    return dict(zip(frame["path"], frame[column], strict=True))


def test_whatever_the_key_is_called_and_however_it_is_written_each_image_gets_its_label(
    pets, capsys, subtests
):
    frame = table_of(pets, "train")
    expected, names = expected_of(frame), frame["path"].str.split("/").str[-1]
    keys = {
        "Kaggle's image_id, without suffix": ("image_id", names.str.removesuffix(".png")),
        "file names": ("photo", names),
        "relative paths": ("where", frame["path"].str.removeprefix("train/")),
        "another folder before them": ("x", "/data/pets/" + frame["path"]),
        "a drive before them": ("x", "C:\\pets\\" + frame["path"].str.replace("/", "\\")),
        "paths without suffix": ("x", frame["path"].str.removesuffix(".png")),
        "indices in a column of any name": ("n", frame.index),
    }
    for name, (head, cells) in keys.items():
        for suffix, mark in ((".csv", ","), (".CSV", ";"), (".tsv", "\t")):
            with subtests.test(f"{name}, {suffix}, {mark}"):
                written = pd.DataFrame({"label": frame["given"], head: cells, "width": 4.5})
                assert corrupt(pets, written, name=f"l{suffix}", sep=mark)[:2] == (0, expected)
                err = capsys.readouterr().err
                assert (
                    f"labels from 'label', examples by '{head}'" in err and "not used: width" in err
                )
    given = frame.rename(columns={"given": "label"})[["path", "label"]]
    with subtests.test("pandas' own index, which has no name"):
        assert corrupt(pets, given[["label"]], index=True)[:2] == (0, expected)
    with subtests.test("pandas' own index that only counts the rows, beside a path"):
        assert corrupt(pets, given.reset_index(drop=True), index=True)[:2] == (0, expected)
    with subtests.test("a number of its author's beside a path"):
        numbered = given.assign(index=np.random.default_rng(2).permutation(24))
        assert (
            corrupt(pets, numbered)[:2] == (0, expected)
            and "not used: index" in capsys.readouterr().err
        )
    with subtests.test("pandas' own index alone, where the rows are in the images' order"):
        assert corrupt(pets, given.sort_index()[["label"]], index=True)[:2] == (0, expected)
        assert "by row order; not used: ''" in capsys.readouterr().err
    with subtests.test("in UTF-16"):
        assert corrupt(pets, given, encoding="utf-16")[:2] == (0, expected)


def test_what_could_be_a_key_and_is_not_one_in_every_row_is_refused(pets, capsys, subtests):
    frame = table_of(pets, "train").rename(columns={"given": "label"})
    names, labels = frame["path"].str.split("/").str[-1], frame[["label"]]
    cases = {
        "a key of other images": (
            labels.assign(image_id=[f"x{at}" for at in range(24)]),
            "image_id",
        ),
        "one row of another image": (labels.assign(file=[*names[:-1], "img999.png"]), "img999.png"),
        "one image twice": (labels.assign(file=[*names[:-1], names.iloc[0]]), names.iloc[0]),
        "counted from 1": (labels.assign(index=frame.index + 1), "'24'"),
        "a column that is no key": (labels.assign(score=np.linspace(0.1, 0.9, 24)), "score"),
        "rows numbered, and a key of other images": (
            labels.assign(n=range(24), image_id=names + "x"),
            "image_id",
        ),
        "two keys that differ": (labels.assign(file=names, other=names.to_numpy()[::-1]), "other"),
        "some rows, numbered only": (labels[:20].assign(n=range(20)), "'n'"),
    }
    for name, (table, said) in cases.items():
        with subtests.test(name):
            assert corrupt(pets, table)[0] == 2
            err = capsys.readouterr().err
            assert said in err and err.count("\n") == 1


def test_a_number_that_is_an_index_and_another_images_name_is_refused_until_the_column_says_which(
    tmp_path, capsys
):
    for at in range(12):
        image(tmp_path / "pets" / "train" / PETS[at % 2] / f"{at}.png", at)
    keys = np.random.default_rng(0).permutation(12)
    labels = [PETS[key % 2] for key in keys]
    assert corrupt(tmp_path, pd.DataFrame({"id": keys, "label": labels}))[0] == 2
    assert "rename it to index or file" in capsys.readouterr().err
    kept = corrupt(tmp_path, pd.DataFrame({"file": keys, "label": labels}))[1]
    assert len(kept) == 12 and all(label == path.split("/")[1] for path, label in kept.items())
    kept = corrupt(tmp_path, pd.DataFrame({"index": keys, "label": labels}))[1]
    assert kept == {
        path: labels[keys.tolist().index(at)] for at, path in enumerate(paths_of(tmp_path, "train"))
    }


def test_of_two_columns_that_could_be_the_label_none_is_guessed(pets, capsys):
    frame = table_of(pets, "train")
    expected, true = expected_of(frame), [path.split("/")[1] for path in paths_of(pets, "train")]
    two = frame.rename(columns={"true": "label", "given": "label_noisy"})
    assert corrupt(pets, two)[0] == 2
    err = capsys.readouterr().err
    assert "label, label_noisy" in err and "FILE:COLUMN" in err
    assert corrupt(pets, two, ":label_noisy") == (0, expected, (-1,) * 24)
    assert "not used: label\n" in capsys.readouterr().err
    for clean in ("true", "clean_label", "gt", "true_label", "label_true", "ground_truth"):
        code, kept, truth = corrupt(
            pets, frame.rename(columns={"true": clean, "given": "label_noisy"})
        )
        assert (code, kept) == (0, expected) and [PETS[k] for k in truth] == true


def test_rows_of_test_images_are_passed_over_and_images_without_a_row_left_out(
    pets, capsys, subtests
):
    everything = table_of(pets, "train", "test").rename(columns={"given": "label"})
    of_test = everything["path"].str.startswith("test/")
    training = everything[~of_test]
    for marks in (
        {},
        {"is_valid": of_test},
        {"split": np.where(of_test, "val", "train")},
        {"is_train": (~of_test).astype(int)},
    ):
        with subtests.test(str(list(marks))):
            assert corrupt(pets, everything[["path", "label"]].assign(**marks))[:2] == (
                0,
                expected_of(training, "label"),
            )
            assert "6 rows of test images skipped" in capsys.readouterr().err
    part = training[["path", "label"]][:15]
    with subtests.test("a part"):
        assert corrupt(pets, part)[:2] == (0, expected_of(part, "label"))
        assert (
            "9 of 24 training images have no row and are excluded from training"
            in capsys.readouterr().err
        )
        manifest = read_manifest(pets / "m.csv")
        assert (
            manifest.dropped.sum() == 9 and "9 of 24 training images" in manifest.meta["label_file"]
        )
    with subtests.test("rows that a column marks"):
        assert corrupt(
            pets, training[["path", "label"]].assign(is_valid=[at < 5 for at in range(24)])
        )[1] == expected_of(training[5:], "label")
        assert "5 rows skipped that 'is_valid' marks as not for training" in capsys.readouterr().err
    with subtests.test("what is left out is not held out for validation"):
        assert corrupt(pets, part)[0] == 0
        for when in ("after", "before"):
            options = [
                "--labels",
                str(pets / "l.csv"),
                "--val-fraction",
                "0.5",
                "--val-split",
                when,
                "--out",
                str(pets / f"{when}.csv"),
            ]
            assert main(["corrupt", str(pets / "pets"), *options]) == 0
            manifest = read_manifest(pets / f"{when}.csv")
            listed = np.isin(manifest.ids, part["path"])
            np.testing.assert_array_equal(manifest.included, listed)
            assert 0 < manifest.val.sum() < 15 and not manifest.val[~listed].any()


def test_labels_alone_are_taken_in_the_order_of_the_images_in_their_number_only(
    pets, capsys, subtests
):
    labels = [PETS[at % 3] for at in range(24)]
    expected = dict(zip(paths_of(pets, "train"), labels, strict=True))
    np.savez(pets / "l.npz", np.array(labels))
    texts = {
        "l.json": json.dumps(labels),
        "k.json": json.dumps([{"label": label} for label in labels]),
        "l.txt": "\n".join(labels),
    }
    for name in (*texts, "l.npz"):
        with subtests.test(name):
            if name in texts:
                (pets / name).write_text(texts[name])
            assert corrupt(pets, None, name=name)[:2] == (0, expected)
            assert "by row order" in capsys.readouterr().err
    (pets / "l.json").write_text(json.dumps(labels[:-1]))
    assert corrupt(pets, None, name="l.json")[0] == 2
    assert "it has 23 labels, the data set has 24 examples" in capsys.readouterr().err


def test_a_mapping_in_json_names_the_images(pets):
    frame = table_of(pets, "train").rename(columns={"given": "label"})[["path", "label"]]
    (pets / "a.json").write_text(json.dumps(expected_of(frame, "label")))
    frame.to_json(pets / "b.json")
    frame.to_json(pets / "c.json", orient="records")
    for name, source in (("d.json", "b.json"), ("e.json", "c.json")):  # keys in another order
        content = json.loads((pets / source).read_text())
        last = content["label"] if name == "d.json" else content[-1]
        for key in reversed(list(last)):
            last[key] = last.pop(key)
        (pets / name).write_text(json.dumps(content))
    for name in ("a.json", "b.json", "c.json", "d.json", "e.json"):
        assert corrupt(pets, None, name=name)[:2] == (0, expected_of(frame, "label"))


def test_a_manifest_taken_for_labels_keeps_what_it_drops(pets, capsys):
    frame = table_of(pets, "train").rename(columns={"given": "label"})
    _, expected, _ = corrupt(pets, frame[["path", "label"]][:15])
    first = read_manifest(pets / "m.csv")
    for name in ("again.csv.gz", "again.parquet", "again.csv"):
        first.write(pets / name)
        assert corrupt(pets, None, name=name)[:2] == (0, expected)
        assert "9 training images that it drops are excluded" in capsys.readouterr().err


# In a manifest


def foreign(path, labels=CLEAN, ids=()):
    """A manifest for a set of which nobody knows whether its labels are clean."""
    dataset = Dataset("mine", "", CLASSES, (8, 8, 1), 8, 4, "mlp", "digits", path=Path("mine.npz"))
    return make_manifest(Labels(dataset, np.abs(labels), ids), f"imported({str(path)!r})")


@pytest.fixture
def file(tmp_path):
    """A function that writes a file and gives its path."""

    def write(content, name="l.csv"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def test_without_clean_labels_nobody_knows_the_rates(file):
    manifest = foreign(file(csv("label", LABELS)))
    assert manifest.meta["realised_rate"] is None and manifest.meta["per_class_rate"] == [None] * 4
    assert manifest.clean_labels.tolist() == [-1] * 8
    assert (
        manifest.rate is None and memorised(LABELS, manifest.labels, manifest.true_labels) is None
    )


def test_partly_known_clean_labels_give_the_rates_of_the_known_ones(file):
    manifest = foreign(file(csv("label,clean", LABELS, CLEAN)))
    np.testing.assert_array_equal(manifest.clean_labels, CLEAN)
    assert manifest.meta["realised_rate"] == pytest.approx(1 / 7)
    assert manifest.meta["per_class_rate"] == pytest.approx([0, 1 / 3, 0, 0])


def test_a_class_that_nobody_knows_has_no_rate(file):
    assert foreign(file(csv("label,clean", LABELS, [0, 0, 0, 0, "", "", "", ""]))).meta[
        "per_class_rate"
    ] == [0.75, None, None, None]


@pytest.mark.parametrize("name", ["m.csv", "m.csv.gz", "m.parquet"])
def test_unknown_clean_labels_stay_unknown_in_a_manifest(name, file, tmp_path):
    manifest = foreign(file(csv("label,clean", LABELS, CLEAN)))
    manifest.write(tmp_path / name)
    back = read_manifest(tmp_path / name)
    np.testing.assert_array_equal(back.clean_labels, CLEAN)
    assert back.meta == manifest.meta and back.content == manifest.content


def test_own_labels_are_recorded_as_they_are_and_nobody_knows_which_are_wrong():
    manifest = foreign("own", LABELS)
    np.testing.assert_array_equal(manifest.labels, LABELS)
    assert (manifest.meta["noise"], manifest.meta["realised_rate"]) == (
        "imported(file='own')",
        None,
    )


def digits_with(path, digits, seed=0):
    return make_manifest(
        Labels(DATASETS["digits"], digits.train_labels),
        LabelRequest(f"imported({str(path)!r})", seed),
    )


def test_the_labels_of_a_catalogues_set_are_its_clean_ones(file, digits):
    recorded = digits.train_labels.copy()
    recorded[:100] = (recorded[:100] + 1) % 10
    manifest = digits_with(file(npy(recorded), "l.npy"), digits)
    np.testing.assert_array_equal(manifest.clean_labels, digits.train_labels)
    assert manifest.meta["realised_rate"] == pytest.approx(100 / 1297)


def test_clean_labels_that_contradict_a_catalogues_set_are_refused(file, digits):
    clean = digits.train_labels.copy()
    clean[[5, 900]] = (clean[[5, 900]] + 1) % 10
    with pytest.raises(
        DataError,
        match=r"differ from those of digits: example 5 is "
        rf"{digits.train_labels[5]}, not {clean[5]}",
    ):
        digits_with(file(pt({"label": digits.train_labels, "clean_label": clean}), "l.pt"), digits)


def test_clean_labels_that_the_file_leaves_out_are_those_of_the_catalogue(file, digits):
    clean = np.where(np.arange(1297) % 2, digits.train_labels, -1)
    manifest = digits_with(file(npz(label=digits.train_labels, clean_label=clean), "l.npz"), digits)
    np.testing.assert_array_equal(manifest.clean_labels, digits.train_labels)
    assert manifest.meta["realised_rate"] == 0


def test_a_manifest_is_labels_too(file, digits):
    made = make_manifest(Labels(DATASETS["digits"], digits.train_labels), "symmetric(0.4)", 3)
    manifest = digits_with(file(made.content), digits)
    np.testing.assert_array_equal(manifest.labels, made.labels)
    np.testing.assert_array_equal(manifest.clean_labels, made.clean_labels)


def test_a_seed_has_no_effect_on_labels_that_are_not_drawn(file, digits):
    path = file(npy(digits.train_labels), "l.npy")
    assert digits_with(path, digits, 5).content == digits_with(path, digits, 0).content


def test_the_header_names_the_file_and_its_checksum_not_its_place(file, tmp_path):
    path = file(pt({"worse": LABELS}), "l.pt")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    manifest = foreign(f"{path}:worse")
    assert manifest.meta["noise"] == f"imported(file='l.pt:worse', sha256='{digest}')"
    assert str(tmp_path) not in manifest.content.decode()


def test_a_file_changed_since_is_refused(tmp_path):
    digest = hashlib.sha256(csv("label", LABELS)).hexdigest()[:16]
    assert (
        read(tmp_path, "l.csv", csv("label", LABELS), sha256=digest)[0].tolist() == LABELS.tolist()
    )
    with pytest.raises(DataError, match="has changed: its sha256"):
        read(tmp_path, "l.csv", csv("label", LABELS[::-1]), sha256=digest)


# What is refused


def changed(values, at, value):
    return [value if i == at else old for i, old in enumerate(values)]


def bomb():
    """A .npy whose header promises more than any memory holds."""
    head = (
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    )
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


SHORT, LONG = LABELS[:7], np.append(LABELS, 0)
REFUSED = {
    "too few": (
        "l.csv",
        csv("label", SHORT, order=range(7)),
        "it has 7 labels, the data set has 8 examples",
    ),
    "too many": ("l.npy", npy(LONG), "it has 9 labels, the data set has 8 examples"),
    "too few lines": ("l.txt", b"0\n1\n", "it has 2 labels"),
    "no rows": ("l.csv", b"index,label\n", "it has no rows"),
    "an empty file": ("l.csv", b"", "it is empty"),
    "an empty file of lines": ("l.txt", b"", "it has 0 labels|is empty"),
    "an empty npy": ("l.npy", b"", "is refused: it is damaged"),
    "an empty pt": ("l.pt", b"", "is refused: it is damaged"),
    "an index twice": (
        "l.csv",
        csv("index,label", changed(KEYS, 3, "2"), LABELS),
        "'2' has more than one row",
    ),
    "an index too large": (
        "l.csv",
        csv("index,label", changed(KEYS, 3, "8"), LABELS),
        "row 3 has the index '8', which no training",
    ),
    "a negative index": (
        "l.csv",
        csv("index,label", changed(KEYS, 3, "-1"), LABELS),
        "row 3 has the index '-1'",
    ),
    "an index that is none": (
        "l.csv",
        csv("index,label", changed(KEYS, 3, "x"), LABELS),
        "row 3 has the index 'x'",
    ),
    "an index that is empty": (
        "l.csv",
        csv("index,label", changed(KEYS, 3, ""), LABELS),
        "row 3 has the index ''",
    ),
    "an index of odd digits": (
        "l.csv",
        csv("index,label", changed(KEYS, 3, "³"), LABELS),
        "row 3 has the index '³'",
    ),
    "an endless index": (
        "l.csv",
        csv("index,label", changed(KEYS, 3, "1" * 5000), LABELS),
        "row 3 has the index '111",
    ),
    "no index and no names": (
        "l.csv",
        csv("", changed(KEYS, 3, "9"), LABELS),
        "row 3 has the index '9', which no training",
    ),
    "a class out of range": (
        "l.csv",
        csv("label", changed(LABELS, 3, 4)),
        "label of row 3 is wrong: '4' is not a class: classes are cat",
    ),
    "a number out of range": (
        "l.npy",
        npy(np.array(changed(LABELS, 3, 4))),
        "label of row 3 is wrong: '4' is not a class",
    ),
    "a negative class": (
        "l.npy",
        npy(np.array(changed(LABELS, 3, -1))),
        "label of row 3 is wrong: '-1' is not a class",
    ),
    "an unknown name": (
        "l.csv",
        csv("label", changed(NAMES, 3, "cow")),
        "label of row 3 is wrong: 'cow' is not a class",
    ),
    "a NaN": (
        "l.npy",
        npy(np.array(changed(LABELS / 1, 3, np.nan))),
        "label of row 3 is wrong: 'nan' is not a class",
    ),
    "an infinity": (
        "l.npy",
        npy(np.array(changed(LABELS / 1, 3, np.inf))),
        "label of row 3 is wrong: 'inf' is not a class",
    ),
    "a fraction": (
        "l.csv",
        csv("label", changed(LABELS, 3, 0.5)),
        "label of row 3 is wrong: '0.5' is not a class",
    ),
    "an empty label": (
        "l.csv",
        csv("index,label", KEYS, changed(LABELS, 3, "")),
        "the label of row 3 is empty",
    ),
    "a clean label out of range": (
        "l.csv",
        csv("label,clean", LABELS, changed(CLEAN, 3, 4)),
        "clean label of row 3 is wrong: '4'",
    ),
    "too few clean labels": (
        "l.npz",
        npz(label=LABELS, clean_label=CLEAN[:7]),
        "clean label",
    ),
    "too many clean labels": (
        "l.pt",
        pt({"label": LABELS, "clean_label": np.append(CLEAN, 0)}),
        "clean label",
    ),
    "a short row": ("l.csv", b"index,label\n0,1\n1\n", "row 2 has 1 fields, the first has 2"),
    "a long row": ("l.csv", b"label\n0\n1,2\n", "row 2 has 2 fields, the first has 1"),
    "a line without a label": ("l.txt", b"0 cat\n1 dog\n2\n3 cat\n", "line 2 has no label"),
    "a first line without a label": ("l.txt", b"0\n1 dog\n2 dog\n3 cat\n", "line 0 has no label"),
    "a column twice": ("l.csv", b"label,label\n0,1\n", "a column's name occurs twice"),
    "no column of labels": (
        "l.csv",
        b"index,truth\n0,1\n",
        "it has no column 'label'; it has index, truth: name one as FILE:COLUMN",
    ),
    "four columns without names": (
        "l.csv",
        csv("", KEYS, LABELS, CLEAN, LABELS),
        "its 4 columns have no names, and 3 of them could be",
    ),
    "no label in a dict": (
        "l.pt",
        pt({"foo": LABELS + 0.5, "bar": LABELS + 0.5}),
        "it has no column 'label'; it has foo, bar: name",
    ),
    "only true labels in a dict": (
        "l.pt",
        pt({"clean_label": LABELS}),
        "it has no column 'label'; it has clean_label: name one as",
    ),
    "a table": (
        "l.npy",
        npy(LABELS.reshape(2, 4)),
        r"expected one label per example, got shape "
        r"\(2, 4\)",
    ),
    "one number": ("l.pt", pt(3), "expected one label per example"),
    "nothing at all": ("l.pt", pt(None), "expected one label per example"),
    "True and False": ("l.npy", npy(LABELS > 0), "is not a class"),
    "dicts in dicts": ("l.pt", pt({"label": {"a": 1}}), "expected one label per example"),
    "bytes for a csv": ("l.csv", bytes(range(256)), r"l\.csv"),
    "bytes for lines": ("l.txt", bytes(range(256)), r"l\.txt"),
    "bytes for an npy": ("l.npy", bytes(range(256)), "is refused: it is damaged"),
    "bytes for a pt": ("l.pt", bytes(range(256)), "is refused: it is damaged"),
    "a cut npy": ("l.npy", npy(LABELS)[:-3], "is refused: it is damaged"),
    "a cut pt": ("l.pt", pt(LABELS)[:-50], "is refused: it is damaged"),
    "a header that promises too much": ("l.npy", bomb(), "is refused: it is damaged"),
    "an endless field": ("l.csv", b'"' + b"1" * 200_000, r"l\.csv: field larger"),
    "another suffix": (
        "l.xlsx",
        b"",
        "a label file must be one of .csv, .tsv, .txt, .json, .jsonl, .npy, .npz, .pt, .pth",
    ),
}


def test_labels_that_do_not_fit_are_refused_in_one_line_that_names_the_file(tmp_path, subtests):
    for what, (name, content, said) in REFUSED.items():
        with subtests.test(what=what):
            with pytest.raises(DataError, match=said) as caught:
                read(tmp_path, name, content)
            assert name in str(caught.value) and "\n" not in str(caught.value)


PATHS = {
    "a path twice": (
        csv("path,label", changed(IDS, 3, IDS[2]), LABELS),
        rf"{IDS[2]}' has "
        r"more than one row",
    ),
    "a path that is not there": (
        csv("path,label", changed(IDS, 3, "train/cow/3.png"), LABELS),
        "row 3 has the path 'train/cow/3.png'",
    ),
    "paths of another set": (
        csv("path,label", [f"other/cow/{i}.jpg" for i in KEYS], LABELS),
        "row 0 has the path 'other/cow/0.jpg'",
    ),
}


def test_paths_that_do_not_fit_are_refused(tmp_path, subtests):
    for what, (content, said) in PATHS.items():
        with subtests.test(what=what):
            with pytest.raises(DataError, match=said) as caught:
                read(tmp_path, "l.csv", content, FILES)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [csv("path,label", IDS, LABELS), csv("", IDS, LABELS)], ids=["with names", "without"]
)
def test_paths_for_data_without_paths_are_refused(content, tmp_path):
    with pytest.raises(DataError, match=r"l\.csv"):
        read(tmp_path, "l.csv", content, SHAPE)


NO_COLUMN = [
    ("l.csv", csv("index,label", KEYS, LABELS), "it has no column 'foo'"),
    ("l.csv", csv("", LABELS), "its columns have no names: omit :foo"),
    ("l.pt", pt({"label": LABELS}), "it has no column 'foo'; it has label"),
    ("l.npy", npy(LABELS), "its columns have no names: omit :foo"),
    ("l.txt", b"0\n" * 8, "its columns have no names: omit :foo"),
]


def test_a_column_that_is_not_there_is_named(tmp_path, subtests):
    for name, content, said in NO_COLUMN:
        with subtests.test(name=name, said=said), pytest.raises(DataError, match=said):
            read(tmp_path, name, content, column=":foo")


def test_lines_that_hold_no_label_are_said_or_refused(tmp_path):
    lines = ["# by hand", *map(str, LABELS)]
    for name in ("l.txt", "l.csv"):
        assert read(tmp_path, name, "\n".join(lines).encode())[0].tolist() == LABELS.tolist()
        assert (
            "1 line beginning with # skipped" in read_annotations(str(tmp_path / name), SHAPE).notes
        )
        # the labels behind it would be other images'
        with pytest.raises(DataError, match="line 4 is empty"):
            read(tmp_path, name, "\n".join([*lines[1:4], "", *lines[4:]]).encode())
        with pytest.raises(DataError, match="UTF-16 without byte order mark"):
            read(tmp_path, name, "\n".join(lines).encode("utf-16-le"))


def test_tables_of_spreadsheets_macs_and_hubs(tmp_path):
    table = csv("file,label", [IDS[k] for k in BACKWARDS], LABELS[BACKWARDS]).decode()
    records = "".join(
        json.dumps({"file_name": IDS[k], "label": int(LABELS[k])}) + "\n" for k in BACKWARDS
    )
    for name, content in (("l.csv", "sep=;\r\n" + table.replace(",", ";")), ("l.jsonl", records)):
        np.testing.assert_array_equal(read(tmp_path, name, content.encode(), FILES)[0], LABELS)
    shape = Shape(2, ("u\u0308ber", "dog"), ("train/u\u0308ber/o\u0308.png", "train/dog/1.png"))
    labels, _ = read(
        tmp_path, "l.csv", "file,label\n1.png,dog\n\u00f6.png,\u00fcber\n".encode(), shape
    )
    assert labels.tolist() == [0, 1]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        read_annotations(str(tmp_path / "none.csv"), SHAPE)


class Evil:
    """What a pickle can do to whoever trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_in_a_file_is_refused_and_not_run(tmp_path, subtests):
    for name, wrap in product(
        ("l.pt", "l.npy", "l.pth"),
        (lambda evil: evil, lambda evil: {"label": evil}, lambda evil: [evil]),
    ):
        with subtests.test(name=name):
            evil = wrap(Evil(tmp_path / "ran"))
            with pytest.raises(DataError, match=r"is refused: .*could run code"):
                read(tmp_path, name, npy(np.array(evil, object)) if name == "l.npy" else pt(evil))
            assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["imported()", "imported(3)", "imported('l.csv', rate=0.4)"])
def test_a_text_without_a_file_is_refused(text):
    with pytest.raises(LanguageError):
        make_manifest(Labels(DATASETS["digits"], LABELS), text)


def test_numpy_objects_are_refused_with_what_to_do(tmp_path, subtests):
    for name, content in (
        ("l.pt", pt(LABELS)),
        ("l.npy", npy(np.array(NAMES, object))),
        ("l.npy", npy({"label": LABELS})),
    ):
        with subtests.test(name=name), pytest.raises(DataError) as caught:
            read(tmp_path, name, content)
        message = str(caught.value)
        assert "is refused" in message and "save tensors" in message and "\n" not in message


def test_arrays_of_every_kind_of_number_are_read(tmp_path, subtests):
    for dtype in ("i1", "u2", "<i4", ">i8", "f4", ">f8"):
        with subtests.test(dtype=dtype):
            for name, content in (
                ("l.pt", pt({"label": LABELS.astype(dtype.replace(">", "<"))})),
                ("l.npy", npy(LABELS.astype(dtype))),
            ):
                np.testing.assert_array_equal(read(tmp_path, name, content)[0], LABELS)
