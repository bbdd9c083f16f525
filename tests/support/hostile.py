"""Hostile files, each with the reader that meets it; `python -m tests.support.hostile FOLDER` tries
them all within a memory bound and prints the outcome of each as JSON.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from noisebench.cli import main
from noisebench.datasets import Shape, find_dataset, read_annotations, read_review
from noisebench.datasets.npz import read_arrays
from noisebench.errors import NoisebenchError
from noisebench.experiments.suite import read_suites
from noisebench.labels.manifest import read_manifest
from noisebench.metrics.predictions import read_teacher
from noisebench.noise.class_conditional import read_matrix
from noisebench.reporting import read_baseline, read_runs
from noisebench.reporting.runs_csv import runs_as_text
from noisebench.runs.folder import RunFolder
from noisebench.runs.result import load_predictions

MEMORY = 3 << 30  # bytes of address space, of which what is imported takes a good part
CLASSES = tuple(map(str, range(10)))
SHAPE = Shape(20, CLASSES, tuple(f"train/{at % 10}/{at}.png" for at in range(20)))
ROWS = b"index,label,clean_label\n" + b"".join(
    b"%d,%d,%d\n" % (at, at % 10, at % 10) for at in range(20)
)

Read = Callable[[Path], object]


def header(**changes: Any) -> bytes:
    meta = {"noisebench_manifest": 1, "dataset": "digits", "split": "train", "n": 20, "num_classes": 10, "classes": CLASSES,
            "noise": "symmetric(rate=0.4)", "noise_version": "1", "nominal_rate": 0.4, "realised_rate": 0.0, "per_class_rate": [0.0] * 10,
            "transition": None, "noise_seed": 0, "labels_sha256": "a" * 64, **changes}  # fmt: skip
    return b"".join(f"# {key}: {value if isinstance(value, str) and value[:1] in '[{*&!' else json.dumps(value)}\n".encode()
                    for key, value in meta.items())  # fmt: skip


def sealed(head: bytes, body: bytes = ROWS) -> bytes:
    return head + f"# sha256: {hashlib.sha256(head + body).hexdigest()}\n".encode() + body


def bomb(begin: bytes = b"", piece: bytes = b"0,0,0\n") -> bytes:
    """Four megabytes of gzip that hold four gigabytes: members one after the other."""
    member = gzip.compress(piece * (10_000_000 // len(piece)))
    return gzip.compress(begin) + member * (4_000_000 // len(member))


def npy(shape: object, dtype: str = "<f8", content: bytes = b"", order: object = False) -> bytes:
    head = repr({"descr": dtype, "fortran_order": order, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


def npz(members: dict[str, bytes], twice: int = 0, packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    """As .npz; `twice`: so many more names for the first member's bytes, which overlap."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
        first = archive.filelist[0]
        for number in range(twice):
            other = zipfile.ZipInfo(f"a{number}.npy")
            for fact in ("header_offset", "file_size", "compress_size", "CRC", "compress_type"):
                setattr(other, fact, getattr(first, fact))
            archive.filelist.append(other)
    return file.getvalue()


def lying(raw: bytes, size: int) -> bytes:
    """A zip whose members say in its directory that they are of another size."""
    at, changed = raw.find(b"PK\x01\x02"), bytearray(raw)
    while at >= 0:
        changed[at + 24 : at + 28] = struct.pack("<I", size)
        at = raw.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


def parquet_bomb(column: str) -> bytes:
    """A word of 10,000 letters that stands in the file once and in three million rows of a column."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    n, out = 3_000_000, io.BytesIO()
    words = arrow.DictionaryArray.from_arrays(
        arrow.array(np.zeros(n, np.int32)), arrow.array(["x" * 10_000])
    )
    numbers = arrow.array(np.zeros(n, np.int64))
    table = arrow.table(
        {**dict.fromkeys(("index", "label", "clean_label"), numbers), column: words}
    )
    parquet.write_table(
        table.replace_schema_metadata({b"noisebench": sealed(header(n=n), b"")}), out
    )
    return out.getvalue()


def memo_bomb() -> bytes:
    """A pickle of a few bytes that asks for a memo of 32 GB."""
    return npy((), "|O", b"\x80\x04]r\xff\xff\xff\x7f.")


def list_bomb() -> bytes:
    """Lists of one list, nine deep, ten wide: a kilobyte that says a billion numbers."""
    content: list[Any] = [1] * 10
    for _ in range(8):
        content = [content] * 10
    return npy((), "|O", pickle.dumps({"label": content}))


def record(**changes: Any) -> bytes:
    content = json.loads((Path(__file__).parents[1] / "data" / "records" / "v1.json").read_text())
    return json.dumps({**content, **changes}).encode()


def predictions(**changes: Any) -> bytes:
    """What a run of four examples leaves, but for some arrays."""
    file, classes, log_p = (
        io.BytesIO(),
        np.tile(np.arange(5, dtype=np.uint16), (4, 1)),
        np.full((4, 10), -2.3, np.float16),
    )
    arrays = {
        f"{name}_labels": np.arange(4, dtype=np.int32) for name in ("recorded", "clean", "test")
    }
    arrays |= {f"{part}_classes": classes for part in ("train", "test")} | {
        f"{part}_log_p": log_p for part in ("train", "test")
    }
    np.savez(file, **{**arrays, **changes})
    return file.getvalue()


def runs(*more: bytes, change: tuple[bytes, bytes] = (b"", b"")) -> bytes:
    """A file of one run, changed, and lines more."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "result.json").write_bytes(record())
        text = runs_as_text([RunFolder(Path(place))]).encode()
    return text.replace(*change) + b"".join(more)


def run_of(name: str, read: Callable[[RunFolder], object]) -> tuple[str, Read]:
    return name, lambda path: read(RunFolder(path.parent))


_RECORD = run_of("result.json", lambda run: run.about())
_FAILURE = run_of("error.json", lambda run: run.about())
_HISTORY = run_of("metrics.csv", lambda run: run.read_history())
_CONFIG = run_of("config.yaml", lambda run: run.configuration())
_PREDICTIONS = run_of("predictions.npz", lambda run: load_predictions(run, 10).arrays)
_DYNAMICS = run_of("dynamics.npz", lambda run: run.read_dynamics())
_MANIFEST: tuple[str, Read] = ("m.csv", read_manifest)
_PACKED: tuple[str, Read] = ("m.csv.gz", read_manifest)
_COLUMNS: tuple[str, Read] = ("m.parquet", read_manifest)
_SUITE: tuple[str, Read] = ("s.yaml", read_suites)
_ARRAYS: tuple[str, Read] = ("a.npz", lambda path: read_arrays(path, ("a",)))
_ALL: tuple[str, Read] = ("a.npz", read_arrays)
_DATA: tuple[str, Read] = ("data.npz", lambda path: find_dataset(str(path)))
_TEACHER: tuple[str, Read] = ("t.npz", lambda path: read_teacher(path, 20, 10, "a" * 64))
_LABELS: tuple[str, Read] = ("l.csv", lambda path: read_annotations(str(path), SHAPE))
_LINES: tuple[str, Read] = ("l.txt", lambda path: read_annotations(str(path), SHAPE))
_OBJECTS: tuple[str, Read] = ("l.npy", lambda path: read_annotations(str(path), SHAPE))
_JSON: tuple[str, Read] = ("l.json", lambda path: read_annotations(str(path), SHAPE))
_NPZ: tuple[str, Read] = ("l.npz", lambda path: read_annotations(str(path), SHAPE))
_ISSUES: tuple[str, Read] = (
    "r.json",
    lambda path: read_review(path, SHAPE, np.zeros(20, np.int64)),
)
_REVIEW: tuple[str, Read] = ("r.csv", lambda path: read_review(path, SHAPE, np.zeros(20, np.int64)))
_MATRIX: tuple[str, Read] = ("t.csv", lambda path: read_matrix(str(path), CLASSES))
_TABLE: tuple[str, Read] = ("t.yaml", lambda path: read_matrix(str(path), CLASSES))
_NUMBERS: tuple[str, Read] = ("t.npy", lambda path: read_matrix(str(path), CLASSES))
_RUNS: tuple[str, Read] = ("runs.csv", read_runs)
_BASELINE: tuple[str, Read] = ("b.json", lambda path: read_baseline(path, "last"))
_YAML_BOMB = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c]\n" % (c, c, c - 1, c - 1, c - 1) for c in range(98, 122)
)
_DEEP = 100_000

FILES: dict[str, tuple[tuple[str, Read], Callable[[], bytes]]] = {
    "manifest: 4 GB of gzip behind an honest header": (_PACKED, lambda: bomb(sealed(header()))),
    "manifest: half a gzip": (_PACKED, lambda: gzip.compress(sealed(header()))[:-20]),
    "manifest: 30 GB in a parquet": (_COLUMNS, lambda: parquet_bomb("id")),
    "manifest: 30 GB for the numbers of a parquet": (_COLUMNS, lambda: parquet_bomb("label")),
    "manifest: no parquet": (_COLUMNS, lambda: sealed(header())),
    "manifest: held out, and not in the header": (_MANIFEST, lambda: sealed(header(), ROWS.replace(b"\n", b",train\n").replace(
        b"clean_label,train", b"clean_label,split").replace(b"3,3,3,train", b"3,3,3,val"))),
    "manifest: a million columns": (_MANIFEST, lambda: sealed(header(), b",".join(b"c%d" % at for at in range(1_000_000)) + b"\n1\n")),
    "manifest: one line of 30 MB": (_MANIFEST, lambda: sealed(header(), b"index,label,clean_label\n" + b"1" * 30_000_000)),
    "manifest: 2 million rows and a header that says 20": (_MANIFEST, lambda: sealed(header(), ROWS + b"1,1,1\n" * 2_000_000)),
    "manifest: n of 10^15": (_MANIFEST, lambda: sealed(header(n=10**15))),
    "manifest: 10^12 classes": (_MANIFEST, lambda: sealed(header(num_classes=10**12))),
    "manifest: more classes than names": (_MANIFEST, lambda: sealed(header(num_classes=60_000))),
    "manifest: a number of 5,000 digits": (_MANIFEST, lambda: sealed(header().replace(b"n: 20", b"n: " + b"9" * 5000))),
    "manifest: a rate that is not a number": (_MANIFEST, lambda: sealed(header(nominal_rate="[.nan]".strip("[]")))),
    "manifest: a rate of every class too many": (_MANIFEST, lambda: sealed(header(per_class_rate=[0.0] * 11))),
    "manifest: rates of the classes that are texts": (_MANIFEST, lambda: sealed(header(per_class_rate=["0.1"] * 10))),
    "manifest: a noise that is a number": (_MANIFEST, lambda: sealed(header(noise=0.5))),
    "manifest: a seed that is a text": (_MANIFEST, lambda: sealed(header(noise_seed="nan"))),
    "manifest: a transition that is no square": (_MANIFEST, lambda: sealed(header(transition=[[0.5], [1, 0]]))),
    "manifest: a header of a million values": (_MANIFEST, lambda: sealed(header(more="[" + "1," * 1_000_000 + "1]"))),
    "manifest: a header of 9 MB": (_MANIFEST, lambda: sealed(header(more="a" * 9_000_000))),
    "manifest: a header of aliases": (_MANIFEST, lambda: sealed(header(more="[&a [1, 1], *a]"))),
    "manifest: merged keys": (_MANIFEST, lambda: sealed(header(more="{<<: {a: 1}, b: *x}"))),
    "manifest: nested a thousand deep": (_MANIFEST, lambda: sealed(header(more="[" * 1000 + "]" * 1000))),
    "manifest: a Python object": (_MANIFEST, lambda: sealed(header(more="!!python/object/apply:os.system ['x']"))),
    "manifest: a date for a name": (_MANIFEST, lambda: sealed(header(dataset="!!timestamp 2001-01-01"))),
    "manifest: zeros": (_MANIFEST, lambda: b"\0" * 1000),
    "manifest: NUL among its rows": (_MANIFEST, lambda: sealed(header(), ROWS.replace(b"3,3,3", b"3,\x003,3"))),
    "manifest: half a character": (_MANIFEST, lambda: sealed(header(dataset="\ud800"))),
    "manifest: not UTF-8": (_MANIFEST, lambda: sealed(header() + b"# more: \xff\xfe\n")),
    "manifest: a mark before it": (_MANIFEST, lambda: b"\xef\xbb\xbf" + sealed(header())),
    "manifest: a label of 30 digits": (_MANIFEST, lambda: sealed(header(), ROWS.replace(b"3,3,3", b"3,3," + b"9" * 30))),
    "manifest: a field too many": (_MANIFEST, lambda: sealed(header(), b"index,label,clean_label\n" + b"7,0,0,0\n" * 20)),
    "manifest: empty": (_MANIFEST, lambda: b""),
    "suite: aliases of aliases": (_SUITE, lambda: b"version: 1\nsuites:\n x: 1\n" + _YAML_BOMB),
    "suite: nested 100,000 deep": (_SUITE, lambda: b"version: 1\nsuites: " + b"[" * _DEEP),
    "suite: 10^18 runs": (_SUITE, lambda: json.dumps({"version": 1,
    "suites": {"x": {"matrix": {axis: [f"a{at}" for at in range(1000)] for axis in (
        "noise", "method", "model", "recipe", "dataset", "init")}}}}).encode()),
    "suite: 900 KB of values": (_SUITE, lambda: b"version: 1\nsuites: [" + b"1," * 450_000 + b"]"),
    "suite: 10 MB": (_SUITE, lambda: b"#" * 10_000_000),
    "suite: an object": (_SUITE, lambda: b"!!python/object/apply:os.system ['x']"),
    "suite: zeros": (_SUITE, lambda: b"\0" * 100),
    "suite: not UTF-8": (_SUITE, lambda: b"\xff\xfe\xff"),
    "record: nested 100,000 deep": (_RECORD, lambda: b'{"schema": 1, "key": ' + b"[" * _DEEP + b"]" * _DEEP + b"}"),
    "record: a number of 100,000 digits": (_RECORD, lambda: record().replace(b'"seed": 0', b'"seed": ' + b"9" * 100_000)),
    "record: NaN": (_RECORD, lambda: record(seconds=float("nan"))),
    "record: an infinite accuracy": (_RECORD, lambda: record(metrics={"test_acc": {"last": float("inf")}})),
    "record: 1e400": (_RECORD, lambda: record().replace(b'"mean_last10": 0.458', b'"mean_last10": 1e400')),
    "record: 20 MB": (_RECORD, lambda: record(more="a" * 20_000_000)),
    "record: 10^12 classes": (_RECORD, lambda: record(data={"name": "digits", "num_classes": 10**12, "classes": []})),
    "record: a list for a mapping": (_RECORD, lambda: record(noise=[1, 2])),
    "record: a text for a recipe": (_RECORD, lambda: record(recipe="ab")),
    "record: epochs that are a text": (_RECORD, lambda: record(recipe={"name": "digits", "epochs": "9" * 100})),
    "record: a metric that is a text": (_RECORD, lambda: record(metrics={"test_acc": {"last": "1"}})),
    "record: a control character in a name": (_RECORD, lambda: record(method="e\0l")),
    "record: an escape in a setting": (_RECORD, lambda: record(recipe={"name": "digits", "epochs": 1, "schedule": "\x1b[2J"})),
    "record: a mapping for a loss": (_RECORD, lambda: record(loss={"ce": 1})),
    "record: flags for seeds": (_RECORD, lambda: record(seed=False)),
    "record: no accuracy": (_RECORD, lambda: record(metrics={"test_acc": 3})),
    "record: seconds that are a text": (_RECORD, lambda: record(seconds="1")),
    "record: half a character": (_RECORD, lambda: record(title="\ud800")),
    "record: a list": (_RECORD, lambda: b"[]"),
    "record: zeros": (_RECORD, lambda: b"\0" * 100),
    "record: not UTF-8": (_RECORD, lambda: b"\xff\xfe"),
    "record: empty": (_RECORD, lambda: b""),
    "failure: says nothing": (_FAILURE, lambda: b'{"schema": 1, "about": {}, "message": "x"}'),
    "failure: a number for what it is about": (_FAILURE, lambda: b'{"schema": 1, "about": 3, '
                                                                 b'"message": "x"}'),
    "predictions: of other examples than their labels": (_PREDICTIONS, lambda: predictions(train_classes=np.zeros((8, 5), np.uint16))),
    "predictions: one number": (_PREDICTIONS, lambda: predictions(train_log_p=np.float16(0))),
    "predictions: without what is needed": (_PREDICTIONS, lambda: npz({"train_log_p": npy((1,), content=bytes(8))})),
    "predictions: a negative class": (_PREDICTIONS, lambda: predictions(train_classes=np.full((4, 5), -1))),
    "predictions: probabilities above 1": (_PREDICTIONS, lambda: predictions(test_log_p=np.full((4, 10), 9, np.float16))),
    "predictions: early ones of other examples": (_PREDICTIONS, lambda: predictions(early_classes=np.zeros((9, 5), np.uint16),
                                                                                   early_log_p=np.zeros((9, 10), np.float16))),
    "predictions: dropped by numbers": (_PREDICTIONS, lambda: predictions(dropped=np.zeros(4, np.int64))),
    "dynamics: of other bins": (_DYNAMICS, lambda: npz({name: npy((1, 3, 7), content=bytes(168)) for name in ("counts", "gradients")})),
    "history: a million columns": (_HISTORY, lambda: b"epoch" + b",a" * 1_000_000 + b"\n1\n"),
    "history: 20 MB": (_HISTORY, lambda: b"epoch,loss\n" + b"1,2\n" * 5_000_000),
    "history: words": (_HISTORY, lambda: b"epoch,loss\n1,much\n"),
    "history: NUL": (_HISTORY, lambda: b"epoch,loss\n1,\0\n"),
    "configuration: aliases of aliases": (_CONFIG, lambda: _YAML_BOMB),
    "configuration: nested 100,000 deep": (_CONFIG, lambda: b"[" * _DEEP),
    "configuration: an object": (_CONFIG, lambda: b"a: !!python/object/apply:os.system ['x']"),
    "npz: 270 MB of zeros in 1 MB": (_ARRAYS, lambda: npz({"a": npy((33_750_000,), content=bytes(270_000_000))})),
    "npz: a thousand names for 20 MB": (_ALL, lambda: npz({"a": npy((2_500_000,), content=bytes(20_000_000))}, twice=1000)),
    "npz: a member that says 4 GB": (_ARRAYS, lambda: lying(npz({"a": npy((10,), content=bytes(80))}), (1 << 32) - 2)),
    "npz: a member that says 200 MB": (_ARRAYS, lambda: lying(npz({"a": npy((10,), content=bytes(80))}), 200_000_000)),
    "npz: a shape of 10^12": (_ARRAYS, lambda: npz({"a": npy((10**12,), content=bytes(80))})),
    "npz: a shape of 0 and 10^18": (_ARRAYS, lambda: npz({"a": npy((0, 10**18))})),
    "npz: a negative shape": (_ARRAYS, lambda: npz({"a": npy((-1, -10), content=bytes(80))})),
    "npz: letters by the gigabyte": (_ARRAYS, lambda: npz({"a": npy((4,), "<U500000000")})),
    "npz: objects": (_ARRAYS, lambda: npz({"a": npy((1,), "|O", pickle.dumps(os.getcwd))})),
    "npz: a header that is code": (_ARRAYS, lambda: npz({"a": b"\x93NUMPY\x01\x00\x10\x00__import__('os')"})),
    "npz: a header of brackets": (_ARRAYS, lambda: npz({"a": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000})),
    "npz: a header without an end": (_ARRAYS, lambda: npz({"a": b"\x93NUMPY\x01\x00\x02\x00{'"})),
    "npz: a header of no shape": (_ARRAYS, lambda: npz({"a": npy(False, content=bytes(8))})),
    "npz: a header of no length": (_ARRAYS, lambda: npz({"a": b"\x93NUMPY\x01\x00"})),
    "npz: no array but text": (_ARRAYS, lambda: npz({"a": b"hello"})),
    "npz: packed by LZMA": (_ARRAYS, lambda: npz({"a": npy((10,), content=bytes(80))}, packing=zipfile.ZIP_LZMA)),
    "npz: dates": (_ARRAYS, lambda: npz({"a": npy((1,), "<M8[s]", bytes(8))})),
    "npz: truncated": (_ARRAYS, lambda: npz({"a": npy((10,), content=bytes(80))})[:60]),
    "npz: empty": (_ARRAYS, lambda: b""),
    "data: texts for labels": (_DATA, lambda: npz({f"{part}_{what}": npy((2,), "<U1", b"a\0\0\0b\0\0\0") for part in ("train", "test")
                                                   for what in ("images", "labels")})),
    "data: a label of 10^12": (_DATA, lambda: npz({f"{part}_{what}": npy((2,), "<i8", struct.pack("<qq", 0,
    10**12)) for part in ("train", "test")
                                                   for what in ("images", "labels")})),
    "teacher: larger than its data": (_TEACHER, lambda: npz({name: npy((200_000,), content=bytes(1_600_000)) for name in (
        "classes", "p", "labels_sha256")})),
    "labels: a million columns": (_LABELS, lambda: b"index,label" + b",c" * 1_000_000 + b"\n"),
    "labels: one line of 20 MB": (_LABELS, lambda: b"label\n" + b"1" * 20_000_000),
    "labels: 1 MB of rows for 20 examples": (_LABELS, lambda: b"label\n" + b"1\n" * 600_000),
    "labels: a word of 100,000 letters": (_LABELS, lambda: b"index,label\n" + b"".join(b"%d,%s\n" % (at,
    b"x" * 100_000) for at in range(20))),
    "labels: JSON nested 100,000 deep": (_JSON, lambda: b"[" * _DEEP + b"]" * _DEEP),
    "labels: 1 MB of JSON for 20 examples": (_JSON, lambda: b"[" + b"1," * 600_000 + b"1]"),
    "labels: JSON of lists of no width": (_JSON, lambda: b"[[], []]"),
    "labels: 40 GB in an npz": (_NPZ, lambda: npz({"label": npy((5 * 10**9,), content=b"")})),
    "labels: an npz of nothing": (_NPZ, lambda: npz({"label": npy((0,))})),
    "labels: a path of a million folders": (_LABELS, lambda: b"path,label\n" + b"/" * 60_000 + b"a,1\n" + b"/" * 60_000 + b"b,2\n"),
    "labels: not UTF-8": (_LABELS, lambda: b"label\n\xff\xfe\n"),
    "labels: 300,000 lines": (_LINES, lambda: b"1\n" * 300_000),
    "labels: a pickle that takes 32 GB": (_OBJECTS, memo_bomb),
    "labels: lists of lists of lists": (_OBJECTS, list_bomb),
    "labels: a function": (_OBJECTS, lambda: npy((), "|O", pickle.dumps({"label": os.system}))),
    "review: a million columns": (_REVIEW, lambda: b"index,recorded,suggested" + b",c" * 1_000_000 + b"\n"),
    "review: 2 million lines": (_REVIEW, lambda: b"index,recorded,suggested\n" + b"1,0,1\n" * 2_000_000),
    "review: JSON of everything": (_ISSUES, lambda: b'[1, [2], {"a": null}, "x", 1e308]'),
    "review: 1 MB of indices": (_ISSUES, lambda: b"[" + b"1," * 600_000 + b"1]"),
    "review: zeros": (_REVIEW, lambda: b"\0" * 100),
    "matrix: 10 MB": (_MATRIX, lambda: b"1,0\n" * 2_500_000),
    "matrix: a million columns": (_MATRIX, lambda: b"1" + b",0" * 400_000),
    "matrix: infinite": (_MATRIX, lambda: b"\n".join([b",".join([b"1e400"] * 10)] * 10)),
    "matrix: nested 100,000 deep": (_TABLE, lambda: b"[" * _DEEP),
    "matrix: a mapping in a list": (_TABLE, lambda: b"[{cat: 1}, [0, 1]]"),
    "matrix: aliases": (_TABLE, lambda: _YAML_BOMB),
    "matrix: a shape of 10^12": (_NUMBERS, lambda: npy((10**12,), content=bytes(80))),
    "runs: 100 MB of a line": (_RUNS, lambda: runs() + runs().splitlines()[1] * 60_000),
    "runs: a million columns": (_RUNS, lambda: runs(change=(b"dataset,", b"dataset," + b"c," * 1_000_000))),
    "runs: a million times the same column": (_RUNS, lambda: runs(change=(b"dataset,", b"dataset," * 1_000_000))),
    "runs: 60 MB of empty lines": (_RUNS, lambda: runs(b"\n" * 60_000_000)),
    "runs: a quote without an end": (_RUNS, lambda: runs(b'"' + b"a\n" * 20_000_000)),
    "runs: 10,000 honest lines, and one that is not": (_RUNS, lambda: runs(runs().partition(b"\n")[2] * 10_000, b"x\n")),
    "runs: a JSON cell nested 60,000 deep": (_RUNS, lambda: runs(b"\n", change=(b'"{', b'"' + b"[" * 60_000))),
    "runs: an accuracy of 100,000 digits": (_RUNS, lambda: runs(change=(b",0.458,", b"," + b"9" * 100_000 + b","))),
    "runs: an infinite accuracy": (_RUNS, lambda: runs(change=(b",0.458,", b",1e400,"))),
    "runs: an escape in a name": (_RUNS, lambda: runs(change=(b"\ndigits,", b"\n\x1b[2J,"))),
    "runs: NUL": (_RUNS, lambda: runs(change=(b"\ndigits,", b"\n\0,"))),
    "runs: not UTF-8": (_RUNS, lambda: runs(b"\xff\xfe\n")),
    "runs: a manifest": (_RUNS, lambda: sealed(header())),
    "runs: a manifest's rows": (_RUNS, lambda: ROWS),
    "runs: zeros": (_RUNS, lambda: b"\0" * 100),
    "runs: empty": (_RUNS, lambda: b""),
    "baseline: nested 100,000 deep": (_BASELINE, lambda: b"[" * _DEEP),
    "baseline: an infinite value": (_BASELINE, lambda: b'{"schema": 1, "metric": "last", "cells": '
                                                       b'[{"values": {"0": Infinity}}]}'),
    "baseline: a list for a value": (_BASELINE, lambda: json.dumps({"schema": 1, "metric": "last", "cells": [{
        **dict.fromkeys(("dataset", "model", "recipe", "precision", "noise", "method"), "x"), "metric": "last", "values": {"0": [1]},
        "inputs": {}, "settings": {}, "failed": 0}]}).encode()),
    "baseline: a number for a cell": (_BASELINE, lambda: b'{"schema": 1, "metric": "last", '
                                                         b'"cells": [3]}'),
    "baseline: a metric that is none": (_BASELINE, lambda: b'{"schema": 1, "metric": "last", '
                                                           b'"cells": [{"metric": "x"}]}'),
}  # fmt: skip
READERS: dict[str, tuple[str, Read]] = {
    name.partition(":")[0] + " " + reader[0]: reader for name, (reader, _) in FILES.items()
}  # one of each: a special file is none of them

COMMANDS: dict[str, tuple[dict[str, Callable[[], bytes]], list[str], int]] = {
    "list manifests": ({"manifests/m.csv": lambda: sealed(header(n=10**15)), "manifests/b.csv.gz": bytes}, ["list", "manifests"], 0),
    "list runs": ({"runs/a__1/result.json": lambda: record(metrics=3)}, ["list", "runs"], 0),
    "train": ({"m.csv": lambda: sealed(header(num_classes=10**12))}, ["train", "--manifest", "m.csv"], 2),
    "train on a bomb": ({"m.csv.gz": bomb}, ["train", "--manifest", "m.csv.gz"], 2),
    "run": ({"s.yaml": lambda: b"version: 1\nsuites: [*a]"}, ["run", "s.yaml"], 2),
    "report": ({"runs/a__1/result.json": lambda: record(recipe="ab")}, ["report", "."], 2),
    "report of a file of runs": ({"r.csv": lambda: runs(b"x\n")}, ["report", "r.csv"], 2),
    "report --check": ({"b.json": lambda: b"[" * _DEEP, "runs/a__1/result.json": record}, ["report", "--check", "--baseline", "b.json"], 5),
    "evaluate": ({"runs/a__1/result.json": record, "runs/a__1/predictions.npz": lambda: npz({"a": npy((10**12,))})},
                 ["evaluate", "runs/a__1"], 2),
    "evaluate without a record": ({"runs/a__1/result.json": lambda: b"[]"}, ["evaluate", "runs/a__1"], 2),
    "corrupt by labels": ({"l.npy": memo_bomb}, ["corrupt", "digits", "--labels", "l.npy"], 2),
    "corrupt by a matrix": ({"t.yaml": lambda: b"[" * _DEEP}, ["corrupt", "digits", "--matrix", "t.yaml"], 2),
    "corrupt a set of 65,536 classes": (
        {"d.npz": lambda: npz({name: npy((2, 4, 4), "|u1", bytes(32)) if "images" in name else npy((2,), "<i8", struct.pack("<qq", 0,
        65_535))
                               for name in ("train_images", "train_labels", "test_images", "test_labels")})},
        ["corrupt", "./d.npz", "--sym", "0.4"], 2),
    "figure": ({"manifests/current": lambda: b"\xff\xfe"}, ["train", "--epochs", "1"], 2),
}  # fmt: skip


def tried(path: Path, reader: Read) -> dict[str, Any]:
    """What became of one file."""
    began = time.monotonic()
    try:
        reader(path)
        outcome: dict[str, Any] = {"error": None, "output": ""}
    except Exception as error:  # every one is what a test looks at
        outcome = {
            "error": type(error).__name__,
            "ours": isinstance(error, NoisebenchError),
            "output": str(error)[:3000],
        }
    return {**outcome, "seconds": time.monotonic() - began}


def _put(folder: Path, files: dict[str, Callable[[], bytes]]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content())


def _all_files(root: Path) -> dict[str, Any]:
    found = {}
    for number, (name, ((file, reader), content)) in enumerate(FILES.items()):
        folder = root / f"file{number}"
        _put(folder, {file: content})
        if file == "error.json":
            _put(folder, {"config.yaml": bytes})
        found[name] = tried(folder / file, reader)
        (folder / file).unlink()
    return found


def _all_special(root: Path) -> dict[str, Any]:
    """A pipe, a device without end, a folder and a link to itself in the place of each file."""
    found = {}
    for number, (name, (file, reader)) in enumerate(READERS.items()):
        for kind in ("pipe", "device", "folder", "loop", "nothing"):
            path = root / f"special{number}{kind}" / file
            path.parent.mkdir()
            if kind == "pipe":
                os.mkfifo(path)
            elif kind == "folder":
                path.mkdir()
            elif kind != "nothing":
                path.symlink_to("/dev/zero" if kind == "device" else path)
            found[f"{name} is a {kind}"] = tried(path, reader)
    return found


def _all_commands(root: Path) -> dict[str, Any]:
    found = {}
    for number, (name, (files, words, _)) in enumerate(COMMANDS.items()):
        folder = root / f"command{number}"
        _put(folder, files)
        os.chdir(folder)
        out, err, began = io.StringIO(), io.StringIO(), time.monotonic()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["-q", "--offline", *words])
        found[name] = {
            "code": code,
            "output": err.getvalue()[:3000],
            "seconds": time.monotonic() - began,
        }
    return found


if __name__ == "__main__":
    import pandas
    import yaml  # noqa: F401

    del pandas
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    place = Path(sys.argv[1]).absolute()
    print(
        json.dumps(
            {
                "files": _all_files(place),
                "special": _all_special(place),
                "commands": _all_commands(place),
            }
        )
    )
