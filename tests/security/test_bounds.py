"""Untrusted files: whatever they hold, a reader says within seconds, within a memory bound and
in one line why it refuses them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import pytest
from typing_extensions import TypedDict

from noisebench.core.classes import check_table
from noisebench.core.files.schema import Number, check_form, check_plain
from noisebench.core.files.untrusted import (
    check_room,
    free_memory,
    open_regular,
    parse_json,
    read_bytes,
)
from noisebench.core.hardware import cpu_count
from noisebench.datasets.label_files import read_annotations
from noisebench.datasets.npz import read_arrays
from noisebench.errors import ConfigError, DataError
from noisebench.experiments.suite import expand, read_suites
from noisebench.labels.manifest import read_manifest
from noisebench.runs.folder import RunFolder
from noisebench.runs.result import load_predictions
from tests.support.hostile import (
    COMMANDS,
    FILES,
    READERS,
    SHAPE,
    header,
    predictions,
    record,
    sealed,
)

_SECONDS = 30  # where it would be minutes and gigabytes; a machine may be busy


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How readers and commands ended in one process that has MEMORY bytes: `files`, `special` files
    and `commands`.
    """
    folder = tmp_path_factory.mktemp("hostile")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "tests.support.hostile", str(folder)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def why_not(outcome: dict[str, Any]) -> str:
    """What is wrong with how a file was refused; empty if nothing is."""
    if outcome["error"] is None:
        return "it was taken"
    if not outcome["ours"]:
        return f"{outcome['error']}: {outcome['output']}"
    if "\n" in outcome["output"] or len(outcome["output"]) > 2100:
        return f"more than a line: {outcome['output']}"
    return "" if outcome["seconds"] < _SECONDS else f"{outcome['seconds']:.0f} s"


def test_hostile_files_are_refused_in_one_line_within_the_bounds(
    outcomes: dict[str, dict[str, Any]],
) -> None:
    found = outcomes["files"]
    assert set(found) == set(FILES)
    assert not {name: wrong for name, outcome in found.items() if (wrong := why_not(outcome))}


def test_what_is_no_file_is_refused_and_never_waited_for(
    outcomes: dict[str, dict[str, Any]],
) -> None:
    found = outcomes["special"]
    assert set(found) == {
        f"{name} is a {kind}"
        for name in READERS
        for kind in ("pipe", "device", "folder", "loop", "nothing")
    }
    assert not {name: wrong for name, outcome in found.items() if (wrong := why_not(outcome))}


def test_commands_that_meet_hostile_files_end_by_their_code_and_say_one_line(
    outcomes: dict[str, dict[str, Any]],
) -> None:
    found = outcomes["commands"]
    assert {name: outcome["code"] for name, outcome in found.items()} == {
        name: code for name, (_, _, code) in COMMANDS.items()
    }
    for outcome in found.values():
        errors = [
            line[:7] for line in outcome["output"].splitlines() if not line.startswith("warning: ")
        ]
        assert errors == (["error: "] if outcome["code"] else []), outcome["output"]
        assert "a bug in" not in outcome["output"] and outcome["seconds"] < _SECONDS


def test_an_honest_manifest_that_packs_well_is_read(tmp_path: Path) -> None:
    n, long = 60_000, "train/" + "the_same_long_folder_for_all/" * 4
    rows = b"index,label,clean_label,id\n" + b"".join(
        b"%d,0,0,%s%d.png\n" % (at, long.encode(), at) for at in range(n)
    )
    import gzip

    packed = gzip.compress(sealed(header(n=n), rows))
    (tmp_path / "m.csv.gz").write_bytes(packed)
    assert len(rows) > 15 * len(packed)
    assert len(read_manifest(tmp_path / "m.csv.gz").labels) == n


def test_what_a_packed_file_may_hold_grows_with_it() -> None:
    for packed, largest in ((10, 1 << 28), (1000, 1 << 28), (1 << 30, 100 << 30)):
        check_room([largest - 1, 1], packed)
        with pytest.raises(ValueError, match="which is not plausible"):
            check_room([largest, 1], packed)


def test_a_file_that_grows_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "grows"
    path.write_bytes(b"12345")
    with open_regular(path) as file:
        assert file.read() == b"12345"
    with pytest.raises(ValueError, match="it is too large: 5 bytes, the limit is 4"):
        read_bytes(path, 4)


def test_json_that_no_writer_of_ours_writes_is_refused(subtests: pytest.Subtests) -> None:
    for raw in (
        b"NaN",
        b"[-Infinity]",
        b"1e400",
        b"9" * 400,
        b'"\\ud800"',
        b"[" * 100_000,
        b"{}x",
        b"\xff",
    ):
        with subtests.test(raw=raw[:20]), pytest.raises(ValueError):
            parse_json(raw)


def test_json_with_a_mark_and_a_whole_character_in_halves_is_read() -> None:
    assert parse_json('\ufeff{"a": "\\ud83d\\ude00", "b": 1e308}'.encode()) == {
        "a": "😀",
        "b": 1e308,
    }


Inner = TypedDict("Inner", {"d": Number})
Outer = TypedDict("Outer", {"a": str, "b": NotRequired[dict[str, Number | None]], "c": list[Inner]})


def test_a_form_names_the_first_value_that_is_wrong() -> None:
    check_form({"a": "x", "b": {"y": None, "z": 1}, "c": [{"d": 0.5, "more": 1}]}, Outer)
    for wrong, message in (
        ({"c": []}, "it lacks a"),
        ({"a": 1, "c": []}, "a must be a valid string, not 1"),
        ({"a": "", "c": {}}, "c must be a valid list, not a mapping"),
        ({"a": "", "c": [{"d": True}]}, r"c\[0\].d must be a valid number, not True"),
        ({"a": "", "b": {"y": float("nan")}, "c": []}, "b.y must be a finite number, not nan"),
        ({"a": "", "c": [], "b": {"y": 10**400}}, "not a number of 1329 bits"),
    ):
        with pytest.raises(ValueError, match=message):
            check_form(wrong, Outer)


def test_plain_content_is_texts_numbers_lists_and_mappings_by_texts() -> None:
    check_plain({"a": [1, 2.5, None, True, {"b": "c"}]})
    nested: list[Any] = []
    for _ in range(30):
        nested = [nested]
    for wrong in ({1: 2}, {"a": {3, 4}}, [float("inf")], [b"x"], nested):
        with pytest.raises(ValueError):
            check_plain(wrong)


def test_tables_of_classes_by_classes_are_refused_where_they_do_not_fit() -> None:
    check_table(2048)
    with pytest.raises(
        DataError,
        match=r"a table of 10000000 x 10000000 classes needs 2400000.0 "
        r"GB of memory, but",
    ):
        check_table(10_000_000)


def test_a_suite_of_more_runs_than_anybody_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    few = {
        "defaults": {"dataset": "digits", "seeds": list(range(9))},
        "matrix": {"noise": ["symmetric(rate=0.2)"], "method": ["ce"]},
    }
    path.write_text(json.dumps({"version": 1, "suites": {"x": few}}))
    assert len(expand(read_suites(path)["x"])) == 9
    many = {
        "noise": [f"symmetric(rate=0.{at:03d})" for at in range(1, 400)],
        "method": ["ce"] * 300,
    }
    path.write_text(json.dumps({"version": 1, "suites": {"x": {"matrix": many}}}))
    with pytest.raises(
        ConfigError,
        match="the suite has 119700 runs, more than 100000: split it into several suites",
    ):
        read_suites(path)


def test_of_many_mistakes_a_hundred_are_said(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(json.dumps({"version": 1, "suites": {f"s{at}": {} for at in range(130)}}))
    with pytest.raises(ConfigError, match=r"30 more mistakes$") as caught:
        read_suites(path)
    assert len(str(caught.value).splitlines()) == 101


def test_an_endless_line_is_cut() -> None:
    assert str(DataError("x" * 1_000_000)) == "x" * 2000 + "..."


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {"a": np.arange(12, dtype=np.float16).reshape(3, 4), "b": np.asfortranarray(np.arange(6).reshape(2, 3)),
              "c": np.array(["x", "yz"]),
              "d": np.zeros((0, 3), np.uint8), "e": np.float64(2.5), "f": np.array([True, False]), "g": np.bytes_(b"abc")}  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
        found = read_arrays(tmp_path / "a.npz")
        with np.load(tmp_path / "a.npz") as expected:
            assert list(found) == expected.files
            for name, array in found.items():
                assert array.dtype == expected[name].dtype
                np.testing.assert_array_equal(array, expected[name])
                assert array.flags.writeable


def test_a_changed_byte_of_an_array_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(1000))
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[-2000] ^= 1
    (tmp_path / "a.npz").write_bytes(raw)
    with pytest.raises(DataError, match="Bad CRC-32"):
        read_arrays(tmp_path / "a.npz")


def test_a_torch_file_that_says_the_same_number_a_billion_times_is_refused(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "l.pt"
    torch.save({"label": torch.zeros(1, dtype=torch.int64).expand(10**9)}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"l\.pt is refused"):
        read_annotations(str(path), SHAPE)


def test_a_torch_file_that_is_packed_is_refused(tmp_path: Path) -> None:
    import zipfile

    import torch

    torch.save({"label": torch.zeros(1_000_000, dtype=torch.int64)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "l.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    with pytest.raises(DataError, match="it is compressed"):
        read_annotations(str(tmp_path / "l.pt"), SHAPE)


def test_what_a_run_leaves_is_none_of_them(tmp_path: Path) -> None:
    """The honest twin of what is refused above."""
    (tmp_path / "predictions.npz").write_bytes(predictions())
    parts = {f"{part}_{what}" for part in ("train", "test") for what in ("classes", "log_p")}
    assert set(load_predictions(RunFolder(tmp_path), 10).arrays) == {
        *parts,
        "recorded_labels",
        "clean_labels",
        "test_labels",
    }
    (tmp_path / "result.json").write_bytes(record())
    assert RunFolder(tmp_path).about()["metrics"]["test_acc"]["last"] == 0.458
    (tmp_path / "m.csv").write_bytes(sealed(header()))
    assert len(read_manifest(tmp_path / "m.csv").labels) == 20


def test_containers_limit_memory(tmp_path: Path) -> None:
    """By limits of version 1 and 2, of the process's own group or one around it, called as in the
    container or as outside of it.
    """
    GB = 1 << 30
    cases: list[tuple[str, dict[str, str], int]] = [
        ("0::/", {}, 8 * GB),
        ("0::/", {"memory.max": "max", "memory.current": f"{GB}"}, 8 * GB),
        ("0::/", {"memory.max": f"{3 * GB}", "memory.current": f"{GB}"}, 2 * GB),
        ("0::/a/b", {"a/b/memory.max": f"{4 * GB}", "a/b/memory.current": f"{3 * GB}",
                     "a/b/memory.stat": f"anon 5\ninactive_file {2 * GB}\n"}, 3 * GB),
        ("0::/docker/0123", {"memory.max": f"{GB}", "memory.current": f"{2 * GB}"}, 0),
        ("4:cpu,cpuacct:/a\n3:memory:/a\n0::/", {
         "memory/a/memory.limit_in_bytes": f"{2 * GB}", "memory/a/memory.usage_in_bytes": f"{GB}",
         "memory/memory.limit_in_bytes": str(2**63 - 4096),
         "memory/memory.usage_in_bytes": "0",
         "memory/a/memory.stat": f"total_inactive_file {GB // 2}\n"}, 3 * GB // 2),
        ("0::/../..", {"memory.max": "much", "memory.current": "1"}, 8 * GB),
        ("no line of one", {"memory.max": f"{GB}", "memory.current": "0"}, 8 * GB),
    ]  # fmt: skip
    for number, (own, files, memory) in enumerate(cases):
        root = tmp_path / str(number)
        contents = {
            "proc/self/cgroup": own + "\n",
            "proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * GB // 1024} kB\n",
            **{f"sys/fs/cgroup/{name}": text + "\n" for name, text in files.items()},
        }
        for name, text in contents.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        assert free_memory(root) == memory, own


def test_this_process_has_a_processor() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
