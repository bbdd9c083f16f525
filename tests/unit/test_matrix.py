"""Any transition matrix out of a file: every way of writing it means one T, and whatever is no T is
refused by its row.
"""

import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from noisebench.cli import main
from noisebench.datasets import DATASETS, Dataset, Labels
from noisebench.errors import DataError, LanguageError
from noisebench.labels.build import make_manifest
from noisebench.labels.manifest import read_manifest
from noisebench.noise import build_noise
from noisebench.noise.class_conditional import read_matrix

LIGHT = settings(max_examples=30, deadline=None)
CLASSES = ("cat", "dog", "a, \"b\": 'c' #d")
T = np.array([[0.7, 0.3, 0], [0, 1, 0], [1e-05, 0.2, 0.79999]])
CLEAN = np.arange(300) % 3


def csv(table, above=(), left=(), order=None):
    """Rows of numbers, with names above and at the left where given, in another order of the
    classes where given.
    """
    order = list(range(len(table)) if order is None else order)
    quoted = ['"' + str(name).replace('"', '""') + '"' for name in (*above, *left)]
    above, left = quoted[: len(above)], quoted[len(above) :]
    lines = [
        ",".join([*([left[k]] if left else []), *(repr(float(table[k, j])) for j in order)])
        for k in order
    ]
    head = [",".join([*([""] if left else []), *(above[j] for j in order)])] if above else []
    return ("\n".join([*head, *lines]) + "\n").encode()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


def mapping(table, names, order=None):
    order = range(len(table)) if order is None else order
    return {names[k]: {names[j]: float(table[k, j]) for j in order if table[k, j]} for k in order}


def dumped(content):
    return yaml.safe_dump(content, sort_keys=False).encode()


def forms(table, classes):
    """Every way of writing a table: file name -> bytes."""
    numbers, backwards = range(len(table)), range(len(table))[::-1]
    return {
        "bare.csv": csv(table),
        "header.csv": csv(table, classes),
        "names.csv": csv(table, classes, classes),
        "shuffled.csv": csv(table, classes, classes, backwards),
        "shuffled-header.csv": csv(table, classes, order=backwards),
        "numbered.csv": csv(table, numbers, numbers, backwards),
        "names-and-numbers.csv": csv(table, classes, numbers, backwards),
        "excel.csv": b"\xef\xbb\xbf" + csv(table, classes, classes).replace(b"\n", b"\r\n"),
        "blank-lines.csv": csv(table).replace(b"\n", b"\n\n"),
        "table.npy": npy(table),
        "columns.npy": npy(np.asfortranarray(table)),
        "rows.yaml": dumped(table.tolist()),
        "rows.json.yml": json.dumps(table.tolist()).encode(),
        "mapping.yaml": dumped(mapping(table, classes)),
        "mapping-numbers.yaml": dumped(mapping(table, numbers, backwards)),
    }


def read(folder, name, content, classes=CLASSES):
    path = folder / name
    path.write_bytes(content)
    return read_matrix(str(path), classes)


def toy(path, labels=CLEAN, extra=""):
    dataset = Dataset("toy", "", CLASSES, (8, 8, 1), len(labels), 10, "mlp", "digits")
    return make_manifest(Labels(dataset, labels), f"matrix(file={str(path)!r}{extra})")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "T.csv"
    path.write_bytes(csv(T, CLASSES, CLASSES))
    return path


# One T


def test_every_way_of_writing_a_matrix_means_the_same(tmp_path, case):
    for name, content in forms(T, CLASSES).items():
        with case(name):
            np.testing.assert_array_equal(read(tmp_path, name, content), T)


@LIGHT
@given(st.integers(2, 5), st.data())
def test_any_distributions_come_back_from_every_way_of_writing(tmp_path_factory, num_classes, data):
    cells = st.one_of(st.just(0.0), st.floats(0, 1, allow_subnormal=False))
    rows = st.lists(cells, min_size=num_classes, max_size=num_classes).filter(
        lambda row: sum(row) > 1e-3
    )
    table = np.array(data.draw(st.lists(rows, min_size=num_classes, max_size=num_classes)))
    table, classes = table / table.sum(1, keepdims=True), tuple("abcde"[:num_classes])
    folder = tmp_path_factory.mktemp("T")
    for name, content in forms(table, classes).items():
        np.testing.assert_allclose(
            read(folder, name, content, classes), table, atol=1e-12, err_msg=name
        )


def test_a_class_without_a_row_stays_clean(tmp_path):
    np.testing.assert_array_equal(
        read(tmp_path, "T.yaml", b"cat: {dog: 0.25, cat: 0.75}"),
        [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1]],
    )


def test_an_empty_mapping_leaves_every_class_clean(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, "T.yaml", b"{}"), np.eye(3))


def test_the_name_of_a_class_wins_over_its_number(tmp_path):
    np.testing.assert_array_equal(
        read(tmp_path, "T.yaml", b"'1': {'0': 1}", ("1", "0")), [[0, 1], [0, 1]]
    )


def test_a_row_may_miss_one_by_rounding(tmp_path, case):
    for last in [0.3 + 9e-7, 0.3 - 9e-7]:
        with case(last=last):
            assert (
                read(tmp_path, "T.csv", csv(np.array([[0.7, last], [0, 1]])), ("a", "b"))[0, 1]
                == last
            )


# What is no T


def changed(row, *values):
    table = T.copy()
    table[row] = values
    return table


DEEP = b"[" * 200 + b"]" * 200
REFUSED = {
    "a row that sums to 0.9": (
        "T.csv",
        csv(changed(1, 0.4, 0.5, 0)),
        "row 'dog' sums to 0.9, not to 1: divide each row by its sum",
    ),
    "an empty row": (
        "T.csv",
        csv(changed(1, 0, 0, 0)),
        "row 'dog' sums to 0, not to 1: a class that never flips has 1",
    ),
    "a negative share": (
        "T.npy",
        npy(changed(1, -0.1, 1.1, 0)),
        "row 'dog' has a negative probability, -0.1",
    ),
    "a NaN": ("T.csv", csv(changed(0, np.nan, 1, 0)), "row 'cat' has a value that is not finite"),
    "an infinity": (
        "T.npy",
        npy(changed(0, np.inf, 0, 0)),
        "row 'cat' has a value that is not finite",
    ),
    "counts": (
        "T.csv",
        csv(changed(1, 3, 40, 7)),
        "row 'dog' sums to 50, not to 1: divide each row by its sum",
    ),
    "a row that sums to 0.9 in a mapping": ("T.yaml", b"dog: {dog: 0.9}", "row 'dog' sums to 0.9"),
    "too few rows": ("T.csv", csv(T[:2, :2]), r"shape \(2, 2\); the data have 3 classes"),
    "too many": ("T.npy", npy(np.eye(4)), r"shape \(4, 4\); the data have 3 classes"),
    "a vector": ("T.npy", npy(np.ones(3)), r"shape \(3,\)"),
    "a number": ("T.yaml", b"1", "must be a list of rows"),
    "rows of different lengths": ("T.csv", b"1,0,0\n0,1\n0,0,1\n", "is not a matrix of numbers"),
    "a short row under names": (
        "T.csv",
        b"cat,dog,2\n1,0,0\n0,1\n0,0,1\n",
        "row 'dog' has 2 numbers for 3 classes",
    ),
    "an unknown class": (
        "T.csv",
        csv(T, ("cat", "dog", "cow")),
        "'cow' is not a class: classes are cat, dog",
    ),
    "an unknown class in a mapping": ("T.yaml", b"cow: {dog: 1}", "'cow' is not a class"),
    "an unknown recorded class": ("T.yaml", b"dog: {cow: 1}", "'cow' is not a class"),
    "a number that is no class": ("T.yaml", b"3: {dog: 1}", "'3' is not a class"),
    "a class twice above": (
        "T.csv",
        csv(T, ("cat", "dog", "cat"), CLASSES),
        "a class occurs twice in cat, dog, cat",
    ),
    "a class twice at the left": (
        "T.csv",
        csv(T, CLASSES, ("cat", "dog", "cat")),
        "a class occurs twice in",
    ),
    "a class by name and by number": (
        "T.csv",
        csv(T, CLASSES, ("cat", "dog", "0")),
        "a class occurs twice in",
    ),
    "a row twice in a mapping": ("T.yaml", b"cat: {dog: 1}\ncat: {cat: 1}\n", "twice|once"),
    "a row by name and by number in a mapping": (
        "T.yaml",
        b"cat: {dog: 1}\n0: {cat: 1}\n",
        "twice|once",
    ),
    "a recorded class twice": ("T.yaml", b"cat: {dog: 0.5, cat: 0.5, 0: 0}\n", "twice|once"),
    "words": ("T.csv", b"a,b,c\nd,e,f\ng,h,i\n", "is not a matrix of numbers"),
    "a row that is no mapping": ("T.yaml", b"cat: [1, 0, 0]", "row 'cat' must map"),
    "a list for a share": ("T.yaml", b"cat: {cat: [1]}", "is not a matrix of numbers"),
    "a number too large": (
        "T.yaml",
        b"cat: {cat: 1" + b"0" * 400 + b"}",
        "row 'cat' has a value that is not finite",
    ),
    "complex numbers": ("T.npy", npy(np.eye(3) * (1 + 1j)), "is not a matrix of numbers"),
    "nothing": ("T.csv", b"", "it is empty"),
    "blank lines": ("T.csv", b"\n , \n\n", "it is empty"),
    "an empty array file": ("T.npy", b"", "is not a matrix of numbers"),
    "an empty mapping file": ("T.yaml", b"", "T.yaml"),
    "a picture": ("T.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not a matrix of numbers"),
    "line ends of an old machine": ("T.csv", b"1,0,0\r0,1\r", r"T\.csv"),
    "one endless cell": ("T.csv", b"1" * 200_000, "is not a matrix of numbers"),
    "binary": ("T.npy", bytes(range(256)), "is not a matrix of numbers"),
    "binary for YAML": ("T.yaml", bytes(range(256)), "is not a matrix of numbers"),
    "what begins as an archive": ("T.npy", b"PK\x03\x04 and no more", "is not a matrix of numbers"),
    "a cut array": ("T.npy", npy(T)[:-3], "is not a matrix of numbers"),
    "objects": ("T.npy", npy(np.array([[{}]])), "is not a matrix of numbers"),
    "broken YAML": ("T.yaml", b"cat: {dog: 1", "not YAML"),
    "code in YAML": ("T.yaml", b"!!python/object/apply:os.getcwd []", "shape"),
    "nesting": ("T.yaml", DEEP, "is not a matrix of numbers"),
    "another suffix": ("T.txt", b"1", "a matrix must be a .csv, .npy or .yaml"),
}


def test_what_is_no_matrix_is_refused_in_one_line_that_names_the_file(tmp_path, case):
    for number, (what, (name, content, message)) in enumerate(REFUSED.items()):
        with case(what):
            folder = tmp_path / str(number)
            folder.mkdir()
            with pytest.raises(DataError, match=message) as caught:
                read(folder, name, content)
            assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_that_promises_too_much_is_refused(tmp_path):
    head = (
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }".ljust(117)
        + b"\n"
    )
    with pytest.raises(DataError, match="is not a matrix of numbers"):
        read(tmp_path, "T.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)


def test_endless_nesting_is_refused_and_does_not_take_the_process_down(tmp_path):
    program = """
from pathlib import Path; from noisebench.errors import DataError; from noisebench.noise.class_conditional import read_matrix
for text in ('[' * 100_000, '[' * 100_000 + ']' * 100_000, '{a: ' * 50_000 + '}' * 50_000):
    Path('T.yaml').write_text(text)
    try: read_matrix('T.yaml', ('a', 'b'))
    except DataError: print('refused')
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "refused\n" * 3), done.stderr[-300:]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        read_matrix(str(tmp_path / "none.csv"), CLASSES)


def test_a_folder_is_no_matrix(tmp_path):
    (tmp_path / "T.csv").mkdir()
    with pytest.raises(DataError, match=r"T\.csv cannot be read"):
        read_matrix(str(tmp_path / "T.csv"), CLASSES)


# The noise


def test_the_labels_are_wrong_as_the_matrix_says(file):
    manifest = toy(file, np.repeat([0, 1, 2], 100_000))
    np.testing.assert_allclose(manifest.empirical_transition[:2], T[:2], atol=1e-12)
    np.testing.assert_allclose(manifest.empirical_transition[2], T[2], atol=4 * np.sqrt(1e-5 / 1e5))


def test_the_matrix_stands_in_the_header_and_comes_back(file, tmp_path):
    manifest = toy(file)
    manifest.write(tmp_path / "m.csv")
    np.testing.assert_array_equal(read_manifest(tmp_path / "m.csv").transition, T)
    assert (manifest.meta["nominal_rate"], manifest.meta["realised_rate"]) == pytest.approx(
        ((30 + 20 + 0.001) / 300, (30 + 20) / 300), abs=1e-5
    )


def test_exact_counts_are_the_default_and_each_label_by_itself_is_asked_for(file):
    exact, alone = toy(file), toy(file, extra=", exact=False")
    assert exact.meta["per_class_rate"] == [0.3, 0, 0.2]
    assert alone.meta["noise"].endswith("exact=False)") and (exact.labels != alone.labels).any()


@LIGHT
@given(
    st.integers(0, 2**31),
    st.lists(
        st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any), min_size=3, max_size=3
    ),
)
def test_labels_go_only_where_a_matrix_allows(tmp_path_factory, seed, counts):
    table = np.array(counts) / np.sum(counts, 1, keepdims=True)
    path = tmp_path_factory.mktemp("T") / "T.npy"
    np.save(path, table)
    model = build_noise(f"matrix(file={str(path)!r})", 3)
    assert (table[CLEAN, model.sample(CLEAN, seed)] > 0).all()


def test_the_same_matrix_from_another_place_is_the_same_manifest(file, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "T.csv"
    other.write_bytes(file.read_bytes())
    assert toy(other).content == toy(file).content
    assert str(tmp_path) not in toy(file).content.decode()


def test_the_header_names_the_file_and_its_checksum(file):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    assert toy(file).meta["noise"] == f"matrix(file='T.csv', sha256='{digest}')"


def test_a_file_changed_since_is_refused(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    text = toy(file).meta["noise"]
    np.testing.assert_array_equal(build_noise(text, 3, CLASSES).transition, T)
    file.write_bytes(csv(np.eye(3), CLASSES, CLASSES))
    with pytest.raises(DataError, match="has changed: its sha256 begins with"):
        build_noise(text, 3, CLASSES)


def test_names_need_the_classes_of_the_data(file):
    with pytest.raises(DataError, match="is not a class: classes are 0, 1, 2"):
        build_noise(f"matrix(file={str(file)!r})", 3)


def test_a_text_without_a_file_is_refused(case):
    for text in ["matrix()", "matrix(file=1)", "matrix('T.csv', rate=0.4)"]:
        with case(text=text), pytest.raises(LanguageError):
            build_noise(text, 3)


def test_the_command_line_takes_a_matrix_by_class_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats.yaml").write_text(
        "cat: {dog: 0.3, cat: 0.7}\ntruck: {automobile: 0.1, truck: 0.9}\n"
    )
    assert main(["corrupt", "cifar10", "--matrix", "cats.yaml", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert dict(zip(DATASETS["cifar10"].classes, made["per_class_rate"], strict=True)) == {
        **dict.fromkeys(DATASETS["cifar10"].classes, 0), "cat": 0.3, "truck": 0.1,
    }  # fmt: skip
