"""A results CSV: read, it holds the facts of the runs; its tables are those of their directories;
a stranger's is read within bounds.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import noisebench as nb
from noisebench.cli import main
from noisebench.errors import DataError
from noisebench.reporting import (
    FORMATS,
    METRICS,
    TableLayout,
    finished_runs,
    read_runs,
    report_of,
    runs_at,
)
from noisebench.reporting.metrics import RECORDED
from noisebench.reporting.runs_csv import COLUMNS, read_word, word_of
from noisebench.runs.folder import RunFolder, run_folders
from tests.unit.test_report import ASYM, SYM, add

# formats that need no more of a run than a line says
SAME = ("table", "md", "csv", "json", "latex", "junit", "runs")
_SHORT = ("--subset", "160", "--model", "mlp", "--epochs", "2", "--precision", "fp32")
KINDS = (
    ("--sym", "0.4"),
    ("--sym", "0.4", "--seed", "1"),
    ("--sym", "0.4", "--loss", "el", "--eps", "estimated"),
    ("--sym", "0.4", "--loss", "10*normalized(ce) + 0.1*mae", "--val-fraction", "0.2"),
    ("--asym", "0.3", "--map", "digits", "--strategy", "coteaching(rate=0.25)", "--clip", "1.5"),
    ("--pair", "0.3", "--method", "el", "--trusted", "0.1"),
    ("--sym", "0", "--init-weights", "FIRST", "--recipe", "finetune"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of real runs of every kind, the last of which failed."""
    place = tmp_path_factory.mktemp("kinds")
    for words in KINDS:
        first = next((path.name for path in place.glob("runs/*_ce_seed0__*")), "")
        assert (
            main(
                [
                    "-q",
                    "-C",
                    str(place),
                    "train",
                    "digits",
                    *_SHORT,
                    *(first if word == "FIRST" else word for word in words),
                ]
            )
            == 0
        )
    assert (
        main(
            [
                "-q",
                "-C",
                str(place),
                "train",
                "digits",
                *_SHORT,
                "--sym",
                "0.4",
                "--seed",
                "2",
                "--lr",
                "1e30",
            ]
        )
        == 3
    )
    return place


@pytest.fixture(scope="module")
def kept(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of all of them."""
    return written(trained, tmp_path_factory.mktemp("kept") / "runs.csv")


def written(place: Path, path: Path, *options: str) -> Path:
    """The file of the runs in a workspace."""
    assert main(["-q", "report", str(place), "--format", "runs", "-o", str(path), *options]) == 0
    return path


def told(about: dict[str, Any]) -> dict[str, Any]:
    """What a table asks of a run: of its numbers those that are metrics, and no title."""
    known = {key: value for key, value in about.items() if key not in ("title", "metrics")}
    numbers = {name: METRICS[name].value(about) for name in RECORDED}
    return known if about.get("metrics") is None else {**known, "metrics": numbers}


def test_what_is_read_is_what_was_known_of_every_kind_of_run(trained: Path, kept: Path) -> None:
    lines = {line.name: line for line in read_runs(kept)}
    folders = run_folders([trained])
    assert len(folders) == len(lines) == len(KINDS) + 1
    for folder in folders:
        line = lines[folder.name]
        assert told(line.known) == told(folder.about())
        assert list(line.known["recipe"].items()) == list(folder.about()["recipe"].items()), (
            "in its order"
        )
        assert line.ended == folder.ended and bool(line.failed) == folder.error.exists()
        assert {name: type(value) for name, value in line.known.items()} == {
            name: type(folder.about()[name]) for name in line.known
        }


def test_the_rows_say_first_what_a_reader_asks(trained: Path, kept: Path) -> None:
    text = kept.read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS and COLUMNS[:11] == ("dataset", "subset", "model", "recipe", "epochs", "noise", "method", "loss",
                                                         "strategy", "seed", "noise_seed")  # fmt: skip
    assert {name for name in METRICS if name in COLUMNS} == set(RECORDED)
    assert not {name for name, metric in METRICS.items() if metric.spent} & set(COLUMNS)
    records = {
        folder.name: folder.record() for folder in run_folders([trained]) if folder.result.exists()
    }
    for row in rows:
        if row["failed"]:
            assert (
                row["failed"] == "RunFailed"
                and row["last"] == row["seconds"] == ""
                and row["run"] not in records
            )
            continue
        record = records[row["run"]]
        assert row["key"] == record["key"] and row["last"] == repr(
            record["metrics"]["test_acc"]["last"]
        )
        assert row["processor"] == record["environment"]["processor"] and "core" in row["processor"]
        assert float(row["nll"]) == record["metrics"]["test"]["nll"] and row["seconds"] == repr(
            record["seconds"]
        )
    assert rows == sorted(
        rows, key=lambda row: (row["recipe"], row["noise"], row["method"], int(row["seed"]))
    )


def test_a_rows_command_makes_a_run_of_its_key(
    trained: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in csv.DictReader(io.StringIO(kept.read_text(encoding="utf-8"))):
        capsys.readouterr()
        assert (
            main(["-C", str(trained), *shlex.split(row["command"])[1:], "--dry-run", "--json"]) == 0
        )
        assert json.loads(capsys.readouterr().out)["key"] == row["key"]


@pytest.mark.parametrize("shape", [TableLayout(), TableLayout("method,epochs", "noise", "last,best,nll", ranks=True), TableLayout(metric="minutes,work"),
                                   TableLayout(budget="compute"), TableLayout(published="equal-loss")], ids=str)  # fmt: skip
def test_tables_of_the_file_are_those_of_the_folders_letter_by_letter(
    shape: TableLayout, trained: Path, kept: Path
) -> None:
    one, other = (report_of(runs_at([place]), shape) for place in (trained, kept))
    assert one.document() == other.document() and len(one.document()["cells"]) > 4
    for form in SAME:
        assert one.render(form) == other.render(form), form


def test_every_format_but_the_page_is_made_of_a_line(trained: Path, kept: Path) -> None:
    assert set(FORMATS) - set(SAME) == {"html"}
    page = nb.report(kept).render("html")
    assert (
        f"{len(KINDS)} finished, 1 failed" in page
        and "cpu" in page
        and "<h3>Seeds</h3>" not in page
    )
    assert page.count('class="cell"') == len(nb.report(trained).document()["cells"]) > 4


def test_the_order_of_tables_and_rows_is_that_of_the_folders(tmp_path: Path) -> None:
    for number, method in enumerate(("zeta", "alpha", "my own", "beta")):
        add(tmp_path / "runs", method, SYM, number, 0.5)
        add(tmp_path / "runs", method, ASYM, number, 0.5, model={"name": f"m{9 - number}"})
    path = written(tmp_path, tmp_path / "a.csv")
    for form in SAME:
        assert nb.report(path).render(form) == nb.report(tmp_path).render(form), form


def test_the_gate_the_conditions_and_the_rates_take_a_file(
    trained: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "b.json"
    assert (
        main(["-q", "report", str(trained), "--filter", "seed=0", "--save-baseline", str(base)])
        == 0
    )
    assert (
        main(
            [
                "-q",
                "report",
                str(kept),
                "--filter",
                "seed=0",
                "--check",
                "--baseline",
                str(base),
                "--tolerance",
                "0",
            ]
        )
        == 0
    )
    said = []
    for place in (trained, kept):
        capsys.readouterr()
        assert main(["-q", "report", str(place), "--figure", "rates", "--filter", "method=ce"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "sym" in said[0]


@pytest.mark.parametrize("figure", ["curves", "reliability", "gradient", "density"])
def test_a_figure_that_needs_folders_says_so_in_a_line(
    figure: str, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-q", "report", str(kept), "--figure", figure]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: this needs run directories") and "pass its run directory" in line


def test_a_file_grows_by_the_runs_of_another_place(tmp_path: Path) -> None:
    for place, seeds in (("one", (0, 1)), ("two", (2, 3))):
        for seed in seeds:
            add(tmp_path / place, seed=seed, last=0.5 + seed / 100)
    file, whole = tmp_path / "all.csv", tmp_path / "whole.csv"
    written(tmp_path / "one", file)
    assert (
        main(
            ["-q", "report", str(file), str(tmp_path / "two"), "--format", "runs", "-o", str(file)]
        )
        == 0
    )
    assert (
        main(
            [
                "-q",
                "report",
                str(tmp_path / "one"),
                str(tmp_path / "two"),
                "--format",
                "runs",
                "-o",
                str(whole),
            ]
        )
        == 0
    )
    assert file.read_bytes() == whole.read_bytes() and len(read_runs(file)) == 4
    again = file.read_bytes()
    assert (
        main(
            [
                "-q",
                "report",
                str(file),
                str(tmp_path / "one"),
                str(file),
                "--format",
                "runs",
                "-o",
                str(file),
            ]
        )
        == 0
    )
    assert file.read_bytes() == again, "the same run from two places counts once"


def _failed(run: RunFolder) -> RunFolder:
    about = {key: value for key, value in run.about().items() if key != "metrics"}
    run.write_error(about, "RunFailed", "the cost became nan")
    run.result.unlink()
    return run


def _at(run: RunFolder, seconds: float) -> RunFolder:
    os.utime(run.result if run.result.exists() else run.error, (seconds, seconds))
    return run


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("place", ["file", "folders"])
def test_of_the_same_run_the_later_counts_and_a_finished_one_before_a_failed_one(
    order: tuple[int, int], place: str, tmp_path: Path
) -> None:
    places = [tmp_path / "a", tmp_path / "b"]
    (
        _at(add(places[0], seed=0, last=0.1, key="same"), 1000.0),
        _at(add(places[1], seed=0, last=0.2, key="same"), 2000.0),
    )
    (
        _at(add(places[0], seed=1, last=0.3, key="tried"), 1000.0),
        _at(_failed(add(places[1], seed=1, key="tried")), 2000.0),
    )
    given_ = [
        written(folder, tmp_path / f"{folder.name}.csv") if place == "file" else folder
        for folder in places
    ]
    made = report_of(runs_at([given_[at] for at in order]), TableLayout())
    (cell,) = made.tables[0].cells.values()
    assert cell.values == {"0": 0.2, "1": 0.3} and cell.failed == 0 and len(made.runs) == 2


def test_of_a_line_and_its_folder_the_folder_is_taken(trained: Path, kept: Path) -> None:
    for order in ((kept, trained), (trained, kept)):
        assert all(
            isinstance(run, RunFolder) for run in report_of(runs_at(order), TableLayout()).runs
        )


def test_finished_runs_are_found_by_key(trained: Path, kept: Path) -> None:
    finished = {
        folder.record()["key"] for folder in run_folders([trained]) if folder.result.exists()
    }
    assert set(finished_runs(kept)) == finished and len(finished) == len(KINDS)
    (failed,) = (line.key for line in read_runs(kept) if line.failed)
    assert failed and failed not in finished


def test_the_format_is_given_by_name_and_what_lays_out_tables_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path / "runs")
    assert main(["-q", "report", str(tmp_path), "-o", str(tmp_path / "cells.csv")]) == 0
    assert (tmp_path / "cells.csv").read_text().startswith("dataset,model,recipe,noise,method")
    assert (
        written(tmp_path, tmp_path / "runs.csv")
        .read_text()
        .startswith("dataset,subset,model,recipe,epochs")
    )
    for words in (["--metric", "best"], ["--rows", "method"], ["--cols", "noise"], ["--budget", "compute"], ["--published", "el2025"],
                  ["--compare-to", "ce"]):  # fmt: skip
        capsys.readouterr()
        assert main(["-q", "report", str(tmp_path), "--format", "runs", *words]) == 2
        assert f"{words[0]} has no effect on --format runs" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["-q", "report", str(tmp_path), "--format", "runs", "--filter", "method=ce"]) == 0
    assert capsys.readouterr().out == (tmp_path / "runs.csv").read_text()


@settings(max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_every_word_comes_back_and_is_no_formula(word: str) -> None:
    if word.isprintable() or word.isascii():
        cell = word_of(word)
        assert read_word(cell) == word and cell.isprintable()
        assert not cell.startswith(("=", "+", "@")) and cell[:2] != "::"


def changed(path: Path, change: Callable[[list[dict[str, str]]], object]) -> Path:
    """The file with its rows changed, as another program would write it."""
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    change(rows)
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # as a spreadsheet does
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    for seed in range(3):
        add(tmp_path / "runs", seed=seed)
    return written(tmp_path, tmp_path / "a.csv")


def test_another_programs_quotes_line_ends_mark_and_order_of_columns_change_nothing(
    simple: Path, tmp_path: Path
) -> None:
    before = nb.report(simple).render("runs")

    def turned(rows: list[dict[str, str]]) -> None:
        rows[:] = [
            {
                name: {"true": "TRUE", "false": "FALSE"}.get(row[name], row[name])
                for name in reversed(row)
            }
            for row in reversed(rows)
        ]

    assert nb.report(changed(simple, turned)).render("runs") == before


def test_a_key_that_was_filled_down_is_no_second_run(simple: Path) -> None:
    def filled(rows: list[dict[str, str]]) -> None:
        for row in rows[1:]:
            row["key"] = rows[0]["key"]

    with pytest.raises(DataError, match="line 3: it repeats the key of line 2"):
        read_runs(changed(simple, filled))


WRONG_CELLS = (
    ("last", "much", "last: "), ("last", "NaN", "last: expected a number"), ("last", "1e999", "finite number"),
    ("last", "[1]", "last: expected a number"), ("seed", "", "seed must be a valid integer"),
    ("method", "", "method: empty"),
    ("seed", "0.5", "seed must be a valid integer"), ("oracle", "maybe", "oracle: "), ("epochs", "41", "epochs: 41 here, but 40"),
    ("settings", "{", "settings: "), ("settings", "[]", "settings: it must be a valid dict"), ("run", "\x01", "control"),
    ("data", '{"home": 1}', "data: unknown key 'home'"), ("data", "", "lacks data_sha256"), ("realised_rate", "40", "less than or equal to 1, not 40"),
    ("finished", "yesterday", "finished must be a time"), ("finished", "2026-01-01 00:00", "of which zone"),
    ("method", "e\x1bl", "control"), ("failed", "RunFailed", "must be empty for a failed run"),
    ("threads", "0", "environment.threads must be"), ("data", "[" * 90_000, "recursion limit"), ("versions", '{"a": 1}', "versions.a must be"),
    ("method", '"\\ud800"', "method: "), ("last", "3.5", "last: expected a share between 0 and 1, got 3.5"),
)  # fmt: skip


def test_a_cell_that_cannot_be_read_is_named_with_its_line(
    simple: Path, subtests: pytest.Subtests
) -> None:
    honest = simple.read_bytes()
    for column, cell, message in WRONG_CELLS:
        with subtests.test(column=column, cell=cell[:30]):
            simple.write_bytes(honest)
            changed(simple, lambda rows, change={column: cell}: rows[1].update(change))
            with pytest.raises(DataError) as error:
                read_runs(simple)
            assert f"{simple}, line 3: " in str(error.value) and message in str(error.value), str(
                error.value
            )
            assert "\n" not in str(error.value) and "--format runs" in str(error.value)


OTHER_FILES = (
    (b"", "it is empty"), (b"\xff\xfe", "utf-8"), (b"# noisebench_manifest: 1\n", "it is a manifest"),
    (b"index,label,clean_label\n0,1,1\n", "a manifest's rows"), (b'{"schema": 2}', "has none of the columns"),
    (b"dataset;subset;model\n", "commas"),
    (b"dataset,model,recipe,noise,method,precision,metric\n", "the cells of tables"), (b'"', "not a results CSV"),
    (b"\0\n", "has none of the columns"),
    (b"dataset,subset\n", "it lacks the columns model"),
)  # fmt: skip


def test_another_file_is_refused_by_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    path = tmp_path / "x.csv"
    for content, message in OTHER_FILES:
        with subtests.test(content=content[:30]):
            path.write_bytes(content)
            assert main(["-q", "report", str(path)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert (
                "is not a results CSV" in line
                and message in line
                and ("--format runs -o FILE.csv creates one") in line
            )


def test_columns_that_are_missing_twice_or_unknown_are_refused_but_a_younger_number_may_be_missing(
    simple: Path,
) -> None:
    text = simple.read_text()
    for old, new, said in (("dataset,", "note,", "lacks the column dataset"), ("dataset,", "dataset,note,", "'note' is repeated, or"),
                           ("dataset,", "dataset,seed,", "'seed' is repeated")):  # fmt: skip
        simple.write_text(text.replace(old, new, 1))
        with pytest.raises(DataError, match=said):
            read_runs(simple)
    simple.write_text(text)
    changed(simple, lambda rows: [row.pop("precision_at_100") for row in rows])
    assert len(read_runs(simple)) == 3


def test_a_missing_place_is_said_with_what_may_stand_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "none.csv")]) == 2
    assert "does not exist" in capsys.readouterr().err
