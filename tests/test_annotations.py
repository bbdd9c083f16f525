"""Anyone's own labels: every way of writing them means the same ones, and whatever does not fit the data is refused."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisebench.datasets import DATASETS, Dataset, Labels, Shape, read_annotations
from noisebench.errors import DataError, LanguageError
from noisebench.labelling import LabelWish, make_manifest
from noisebench.manifest import read_manifest
from noisebench.metrics import memorised

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
    return "".join(",".join(map(quoted, row)) + "\n" for row in ([head.split(",")] if head else []) + rows).encode()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def pt(content):
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
    "a named column of many": ("l.csv", csv("idx,label,mine,other", KEYS, LABELS[::-1], NAMES, LABELS), ":mine"),
    "a spreadsheet's": ("l.csv", b"\xef\xbb\xbf" + csv("Index, Label", KEYS, LABELS).replace(b"\n", b"\r\n"), ""),
    "with comments": ("l.csv", b"# by hand\n" + csv("label", LABELS) + b"# end\n", ""),
    "floats that are whole": ("l.csv", csv("label", LABELS / 1), ""),
    "lines of numbers": ("l.txt", b"".join(b"%d\n" % k for k in LABELS), ""),
    "lines of names": ("l.txt", "\n".join(NAMES).encode(), ""),
    "lines of an index and a number": ("l.txt", "".join(f"{i} {LABELS[i]}\n" for i in BACKWARDS).encode(), ""),
    "int64": ("l.npy", npy(LABELS), ""),
    "uint8 in a column": ("l.npy", npy(LABELS.astype(np.uint8)[:, None]), ""),
    "float32": ("l.npy", npy(LABELS.astype(np.float32)), ""),
    "words": ("l.npy", npy(np.array(NAMES)), ""),
    "words as objects": ("l.npy", npy(np.array(NAMES, object)), ""),
    "a dict in an npy": ("l.npy", npy({"label": LABELS, "classes": list(CLASSES)}), ""),
    "a tensor": ("l.pt", pt(torch.from_numpy(LABELS)), ""),
    "a tensor of bytes": ("l.pth", pt(torch.from_numpy(LABELS).to(torch.uint8)), ""),
    "an ndarray": ("l.pt", pt(LABELS), ""),
    "a list": ("l.pt", pt(LABELS.tolist()), ""),
    "a dict": ("l.pt", pt({"noisy_label": torch.from_numpy(LABELS)}), ""),
    "a column of a dict": ("l.pt", pt({"label": LABELS[::-1].copy(), "worse": LABELS}), ":worse"),
    "a column of a dict in an npy": ("l.npy", npy({"label": LABELS[::-1], "worse": LABELS}), ":worse"),
    "a tensor that would learn": ("l.pt", pt(torch.from_numpy(LABELS / 1).requires_grad_()), ""),
}


@pytest.mark.parametrize(("name", "content", "column"), PLAIN.values(), ids=PLAIN)
def test_every_way_of_writing_labels_means_the_same(name, content, column, tmp_path):
    recorded, clean = read(tmp_path, name, content, column=column)
    np.testing.assert_array_equal(recorded, LABELS)
    assert clean is None and recorded.dtype == np.int64


WITH_CLEAN = {
    "in order": ("l.csv", csv("label,clean_label", LABELS, CLEAN_NAMES)),
    "shuffled": ("l.csv", csv("index,label,clean_label", KEYS, NAMES, CLEAN_NAMES, order=BACKWARDS)),
    "-1 where unknown": ("l.csv", csv("i,y,true", KEYS, LABELS, CLEAN)),
    "-1 in an array": ("l.npy", npy({"label": LABELS, "clean_label": CLEAN})),
    "NaN in an array": ("l.npy", npy({"label": LABELS, "clean": np.where(CLEAN < 0, np.nan, CLEAN)})),
    "a tensor": ("l.pt", pt({"label": torch.from_numpy(LABELS), "ground_truth": torch.from_numpy(CLEAN)})),
}


@pytest.mark.parametrize(("name", "content"), WITH_CLEAN.values(), ids=WITH_CLEAN)
def test_every_way_of_writing_clean_labels_means_the_same(name, content, tmp_path):
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
    "with the other slashes": ("l.csv", csv("path,label", [i.replace("/", "\\") for i in IDS], LABELS, order=BACKWARDS)),
    "in lines": ("l.txt", "".join(f"{IDS[i]} {LABELS[i]}\n" for i in BACKWARDS).encode()),
    "by index all the same": ("l.csv", csv("index,label", KEYS, LABELS, order=BACKWARDS)),
    "in order": ("l.npy", npy(LABELS)),
}


@pytest.mark.parametrize(("name", "content"), BY_PATH.values(), ids=BY_PATH)
def test_every_way_of_naming_files_means_the_same(name, content, tmp_path):
    recorded, clean = read(tmp_path, name, content, FILES)
    np.testing.assert_array_equal(recorded, LABELS)
    assert clean is None


@LIGHT
@given(st.permutations(range(8)), st.lists(st.integers(0, 3), min_size=8, max_size=8), st.booleans(), st.booleans())
def test_the_order_of_the_rows_does_not_matter(tmp_path_factory, order, labels, by_path, named):
    shown = [CLASSES[k] for k in labels] if named else labels
    content = csv("path,label" if by_path else "index,label", IDS if by_path else KEYS, shown, order=order)
    np.testing.assert_array_equal(read(tmp_path_factory.mktemp("l"), "l.csv", content, FILES)[0], labels)


NUMBERED = Shape(8, ("2", "0", "1"))


def test_words_that_could_be_names_or_numbers_are_refused(tmp_path):
    with pytest.raises(DataError, match="could be names or numbers"):
        read(tmp_path, "l.csv", csv("", ["2", "0", "1"] * 2 + ["2", "0"]), NUMBERED)


@pytest.mark.parametrize(("kind", "expected"), [(str, [0, 1, 2, 0, 1, 2, 0, 1]), (int, [2, 0, 1, 2, 0, 1, 2, 0])])
def test_of_an_npy_words_are_names_and_integers_are_numbers(kind, expected, tmp_path):
    assert read(tmp_path, "l.npy", npy(np.array([2, 0, 1, 2, 0, 1, 2, 0]).astype(kind)), NUMBERED)[0].tolist() == expected


def test_numbers_that_are_not_all_names_are_numbers(tmp_path):
    shape = Shape(6, ("1", "2", "3"))
    assert read(tmp_path, "l.csv", b"0\n0\n1\n1\n2\n2\n", shape)[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert read(tmp_path, "l.csv", b"1\n1\n2\n2\n3\n3\n", shape)[0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_class_named_like_a_column_is_no_column(tmp_path):
    recorded, _ = read(tmp_path, "l.csv", csv("", ["label", "class"] * 4), Shape(8, ("label", "class")))
    assert recorded.tolist() == [0, 1] * 4


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
    assert manifest.rate is None and memorised(LABELS, manifest.labels, manifest.truth) is None


def test_partly_known_clean_labels_give_the_rates_of_the_known_ones(file):
    manifest = foreign(file(csv("label,clean", LABELS, CLEAN)))
    np.testing.assert_array_equal(manifest.clean_labels, CLEAN)
    assert manifest.meta["realised_rate"] == pytest.approx(1 / 7)
    assert manifest.meta["per_class_rate"] == pytest.approx([0, 1 / 3, 0, 0])


def test_a_class_that_nobody_knows_has_no_rate(file):
    assert foreign(file(csv("label,clean", LABELS, [0, 0, 0, 0, "", "", "", ""]))).meta["per_class_rate"] == [0.75, None, None, None]


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
    assert (manifest.meta["noise"], manifest.meta["realised_rate"]) == ("imported(file='own')", None)


def digits_with(path, digits, seed=0):
    return make_manifest(Labels(DATASETS["digits"], digits.train_labels), LabelWish(f"imported({str(path)!r})", seed))


def test_the_labels_of_a_catalogues_set_are_its_clean_ones(file, digits):
    recorded = digits.train_labels.copy()
    recorded[:100] = (recorded[:100] + 1) % 10
    manifest = digits_with(file(npy(recorded), "l.npy"), digits)
    np.testing.assert_array_equal(manifest.clean_labels, digits.train_labels)
    assert manifest.meta["realised_rate"] == pytest.approx(100 / 1297)


def test_clean_labels_that_contradict_a_catalogues_set_are_refused(file, digits):
    clean = digits.train_labels.copy()
    clean[[5, 900]] = (clean[[5, 900]] + 1) % 10
    with pytest.raises(DataError, match=rf"not those of digits: example 5 is {digits.train_labels[5]}, not {clean[5]}"):
        digits_with(file(pt({"label": digits.train_labels, "clean_label": clean}), "l.pt"), digits)


def test_clean_labels_that_the_file_leaves_out_are_those_of_the_catalogue(file, digits):
    clean = np.where(np.arange(1297) % 2, digits.train_labels, -1)
    manifest = digits_with(file(npy({"label": digits.train_labels, "clean_label": clean}), "l.npy"), digits)
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
    path = file(npy({"worse": LABELS}), "l.npy")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    manifest = foreign(f"{path}:worse")
    assert manifest.meta["noise"] == f"imported(file='l.npy:worse', sha256='{digest}')"
    assert str(tmp_path) not in manifest.content.decode()


def test_a_file_changed_since_is_refused(tmp_path):
    digest = hashlib.sha256(csv("label", LABELS)).hexdigest()[:16]
    assert read(tmp_path, "l.csv", csv("label", LABELS), sha256=digest)[0].tolist() == LABELS.tolist()
    with pytest.raises(DataError, match="is another file than before"):
        read(tmp_path, "l.csv", csv("label", LABELS[::-1]), sha256=digest)


# What is refused


def changed(values, at, value):
    return [value if i == at else old for i, old in enumerate(values)]


def bomb():
    """A .npy whose header promises more than any memory holds."""
    head = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


SHORT, LONG = LABELS[:7], np.append(LABELS, 0)
REFUSED = {
    "too few": ("l.csv", csv("label", SHORT, order=range(7)), "it has 7 labels, the data have 8 examples"),
    "too many": ("l.npy", npy(LONG), "it has 9 labels, the data have 8 examples"),
    "too few lines": ("l.txt", b"0\n1\n", "it has 2 labels"),
    "no rows": ("l.csv", b"index,label\n", "it has no rows"),
    "an empty file": ("l.csv", b"", "it is empty"),
    "an empty file of lines": ("l.txt", b"", "it has 0 labels|is empty"),
    "an empty npy": ("l.npy", b"", "is refused: it is damaged"),
    "an empty pt": ("l.pt", b"", "is refused: it is damaged"),
    "an index twice": ("l.csv", csv("index,label", changed(KEYS, 3, "2"), LABELS), "'2' has more than one row"),
    "an index too large": ("l.csv", csv("index,label", changed(KEYS, 3, "8"), LABELS), "row 3 has the index '8', which no training"),
    "a negative index": ("l.csv", csv("index,label", changed(KEYS, 3, "-1"), LABELS), "row 3 has the index '-1'"),
    "an index that is none": ("l.csv", csv("index,label", changed(KEYS, 3, "x"), LABELS), "row 3 has the index 'x'"),
    "an index that is empty": ("l.csv", csv("index,label", changed(KEYS, 3, ""), LABELS), "row 3 has the index ''"),
    "an index of odd digits": ("l.csv", csv("index,label", changed(KEYS, 3, "³"), LABELS), "row 3 has the index '³'"),
    "an endless index": ("l.csv", csv("index,label", changed(KEYS, 3, "1" * 5000), LABELS), "row 3 has the index '111"),
    "no index and no names": ("l.csv", csv("", changed(KEYS, 3, "9"), LABELS), "row 3 has the index '9', which no training"),
    "a class out of range": ("l.csv", csv("label", changed(LABELS, 3, 4)), "label of row 3 is wrong: '4' is no class: classes are cat"),
    "a negative class": ("l.npy", npy(np.array(changed(LABELS, 3, -1))), "label of row 3 is wrong: '-1' is no class"),
    "an unknown name": ("l.csv", csv("label", changed(NAMES, 3, "cow")), "label of row 3 is wrong: 'cow' is no class"),
    "a NaN": ("l.npy", npy(np.array(changed(LABELS / 1, 3, np.nan))), "label of row 3 is wrong: 'nan' is no class"),
    "an infinity": ("l.npy", npy(np.array(changed(LABELS / 1, 3, np.inf))), "label of row 3 is wrong: 'inf' is no class"),
    "a fraction": ("l.csv", csv("label", changed(LABELS, 3, 0.5)), "label of row 3 is wrong: '0.5' is no class"),
    "an empty label": ("l.csv", csv("index,label", KEYS, changed(LABELS, 3, "")), "the label of row 3 is empty"),
    "a clean label out of range": ("l.csv", csv("label,clean", LABELS, changed(CLEAN, 3, 4)), "clean label of row 3 is wrong: '4'"),
    "too few clean labels": ("l.npy", npy({"label": LABELS, "clean_label": CLEAN[:7]}), "clean label"),
    "too many clean labels": ("l.pt", pt({"label": LABELS, "clean_label": np.append(CLEAN, 0)}), "clean label"),
    "a short row": ("l.csv", b"index,label\n0,1\n1\n", "row 2 has 1 fields, the first has 2"),
    "a long row": ("l.csv", b"label\n0\n1,2\n", "row 2 has 2 fields, the first has 1"),
    "a line without a label": ("l.txt", b"0 cat\n1 dog\n2\n3 cat\n", "line 2 has no label"),
    "a first line without a label": ("l.txt", b"0\n1 dog\n2 dog\n3 cat\n", "line 0 has no label"),
    "a column twice": ("l.csv", b"label,label\n0,1\n", "a column's name stands twice"),
    "no column of labels": ("l.csv", b"index,truth\n0,1\n", "it has no column 'label'; it has index, truth: name one as FILE:COLUMN"),
    "four columns without names": ("l.csv", csv("", KEYS, LABELS, CLEAN, LABELS), "its 4 columns have no names, and 3 of them could be"),
    "no label in a dict": (
        "l.pt",
        pt({"foo": LABELS + 0.5, "bar": LABELS + 0.5}),
        "it has no column 'label'; it has foo, bar: name",
    ),
    "only true labels in a dict": ("l.pt", pt({"clean_label": LABELS}), "it has no column 'label'; it has clean_label: name one as"),
    "a table": ("l.npy", npy(LABELS.reshape(2, 4)), r"expected one label an example, got shape \(2, 4\)"),
    "one number": ("l.pt", pt(3), "expected one label an example"),
    "nothing at all": ("l.pt", pt(None), "expected one label an example"),
    "True and False": ("l.npy", npy(LABELS > 0), "is no class"),
    "dicts in dicts": ("l.pt", pt({"label": {"a": 1}}), "expected one label an example"),
    "bytes for a csv": ("l.csv", bytes(range(256)), r"l\.csv"),
    "bytes for lines": ("l.txt", bytes(range(256)), r"l\.txt"),
    "bytes for an npy": ("l.npy", bytes(range(256)), "is refused: it is damaged"),
    "bytes for a pt": ("l.pt", bytes(range(256)), "is refused: it is damaged"),
    "a cut npy": ("l.npy", npy(LABELS)[:-3], "is refused: it is damaged"),
    "a cut pt": ("l.pt", pt(LABELS)[:-50], "is refused: it is damaged"),
    "a header that promises too much": ("l.npy", bomb(), "is refused: it is damaged"),
    "an endless field": ("l.csv", b'"' + b"1" * 200_000, r"l\.csv: field larger"),
    "another suffix": ("l.xlsx", b"", "labels are a .csv, .tsv, .txt, .json, .npy, .npz, .pt, .pth"),
}


@pytest.mark.parametrize(("name", "content", "said"), REFUSED.values(), ids=REFUSED)
def test_labels_that_do_not_fit_are_refused_in_one_line_that_names_the_file(name, content, said, tmp_path):
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, name, content)
    assert name in str(caught.value) and "\n" not in str(caught.value)


PATHS = {
    "a path twice": (csv("path,label", changed(IDS, 3, IDS[2]), LABELS), rf"{IDS[2]}' has more than one row"),
    "a path that is not there": (csv("path,label", changed(IDS, 3, "train/cow/3.png"), LABELS), "row 3 has the path 'train/cow/3.png'"),
    "paths of another set": (csv("path,label", [f"other/cow/{i}.jpg" for i in KEYS], LABELS), "row 0 has the path 'other/cow/0.jpg'"),
}


@pytest.mark.parametrize(("content", "said"), PATHS.values(), ids=PATHS)
def test_paths_that_do_not_fit_are_refused(content, said, tmp_path):
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, "l.csv", content, FILES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [csv("path,label", IDS, LABELS), csv("", IDS, LABELS)], ids=["with names", "without"])
def test_paths_for_data_without_paths_are_refused(content, tmp_path):
    with pytest.raises(DataError, match=r"l\.csv"):
        read(tmp_path, "l.csv", content, SHAPE)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.csv", csv("index,label", KEYS, LABELS), "it has no column 'foo'"),
        ("l.csv", csv("", LABELS), "its labels have no names: leave :foo out"),
        ("l.pt", pt({"label": LABELS}), "it has no column 'foo'; it has label"),
        ("l.npy", npy(LABELS), "its labels have no names: leave :foo out"),
        ("l.txt", b"0\n" * 8, "its labels have no names: leave :foo out"),
    ],
)
def test_a_column_that_is_not_there_is_named(name, content, said, tmp_path):
    with pytest.raises(DataError, match=said):
        read(tmp_path, name, content, column=":foo")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        read_annotations(str(tmp_path / "none.csv"), SHAPE)


class Evil:
    """What a pickle can do to whoever trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["l.pt", "l.npy", "l.pth"])
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"label": evil}, lambda evil: [evil]], ids=["alone", "dict", "list"])
def test_code_in_a_file_is_refused_and_not_run(name, wrap, tmp_path):
    evil = wrap(Evil(tmp_path / "ran"))
    with pytest.raises(DataError, match=r"is refused: .*could run code"):
        read(tmp_path, name, npy(np.array(evil, object)) if name == "l.npy" else pt(evil))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["imported()", "imported(3)", "imported('l.csv', rate=0.4)"])
def test_a_text_without_a_file_is_refused(text):
    with pytest.raises(LanguageError):
        make_manifest(Labels(DATASETS["digits"], LABELS), text)


# What a pickle must not do


class Buffer:
    """Would make numpy take these bytes for the addresses of objects."""

    def __reduce__(self):
        return np.ndarray, ((8,), np.dtype("O"), b"A" * 64)


def object_npy(content):
    """A .npy whose content is pickled by hand."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return file.getvalue() + pickle.dumps(content, protocol=2)


@pytest.mark.parametrize(("name", "write"), [("l.pt", pt), ("l.npy", object_npy)])
def test_bytes_are_never_taken_for_objects(name, write, tmp_path):
    with pytest.raises(DataError, match="is refused: it is damaged, or holds more than arrays") as caught:
        read(tmp_path, name, write({"label": Buffer()}))
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["i1", "u2", "<i4", ">i8", "f4", ">f8"])
def test_arrays_of_every_kind_of_number_are_read(dtype, tmp_path):
    for name, content in (("l.pt", pt({"label": LABELS.astype(dtype)})), ("l.npy", npy({"label": LABELS.astype(dtype)}))):
        np.testing.assert_array_equal(read(tmp_path, name, content)[0], LABELS)
