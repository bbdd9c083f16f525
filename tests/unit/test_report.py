"""Records -> tables: what is averaged, marked, bold; and the same numbers in every format."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import statistics
from pathlib import Path

import pytest

import noisebench as nb
from noisebench.errors import ConfigError, DataError, UnknownName
from noisebench.reporting import Report, TableLayout, find_metric, read_rows, report_of, where
from noisebench.reporting.aggregate import Cell
from noisebench.reporting.stats import significantly_better
from noisebench.runs.folder import RunFolder, run_folders

SYM, ASYM = "symmetric(rate=0.4)", "asymmetric(rate=0.4, map='digits')"


def add(
    root: Path,
    method: str = "ce",
    noise: str = SYM,
    seed: int = 0,
    last: float = 0.5,
    **more: object,
) -> RunFolder:
    """A finished run's folder with the one number that matters; `more` replaces parts of the
    record.
    """
    number = len(list(root.glob("*__*")))
    folder = RunFolder(root / f"run__{number:08d}")
    folder.path.mkdir(parents=True)
    record = {
        "schema": 1, "key": hashlib.sha256(str(folder.path).encode()).hexdigest(), "title": "t", "seconds": 1.0,
        "method": method, "loss": "ce", "strategy": "standard",
        "precision": "fp32", "seed": seed, "oracle": False, "data": {"name": "digits", "sha256": "d"}, "model": {"name": "mlp"},
        "recipe": {"name": "digits", "epochs": 40, "lr": 0.1},
        "noise": {"text": noise, "seed": seed, "realised_rate": 0.4},
        "metrics": {"test_acc": {"last": last, "best": last + 0.1}, "memorised": None}, **more,
    }  # fmt: skip
    folder.write_json(folder.result, record)
    return folder


ABOUT = {
    "dataset": "digits", "noise": SYM, "realised_rate": 0.4, "noise_seed": 1, "method": "ce", "model": "mlp", "recipe_name": "digits",
    "seed": 1, "oracle": False, "loss": "ce", "strategy": "standard", "precision": "fp32", "recipe": {"epochs": 40, "lr": 0.1},
    "data_sha256": "d",
}  # fmt: skip


def report(root: Path, metric: str = "last", rows: str = "method", cols: str = "noise") -> Report:
    return report_of(run_folders([root]), TableLayout(rows, cols, metric))


def tables(root: Path, metric: str = "last", rows: str = "method", cols: str = "noise") -> list:
    return report(root, metric, rows, cols).tables


def test_a_cell_is_mean_sample_deviation_and_n(tmp_path: Path) -> None:
    values = [0.5, 0.6, 0.8]
    for seed, value in enumerate(values):
        add(tmp_path, seed=seed, last=value)
    cell = tables(tmp_path)[0].cells["ce", SYM]
    assert (cell.mean, cell.std, cell.n) == (
        pytest.approx(statistics.mean(values)),
        pytest.approx(statistics.stdev(values)),
        3,
    )
    assert "63.33 ± 15.28" in report(tmp_path).render("md")


def test_one_run_has_no_deviation(tmp_path: Path) -> None:
    add(tmp_path)
    assert tables(tmp_path)[0].cells["ce", SYM].std is None
    assert "| ce | 50.00 |" in report(tmp_path).render("md")


@pytest.mark.parametrize(
    "other",
    [
        {"data": {"name": "mnist"}},
        {"model": {"name": "cnn4"}},
        {"recipe": {"name": "digits", "epochs": 40, "lr": 0.2}},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_runs_that_are_not_alike_are_never_averaged(other: dict, tmp_path: Path) -> None:
    add(tmp_path, seed=0)
    add(tmp_path, seed=1, **other)
    assert [table.cells["ce", SYM].n for table in tables(tmp_path)] == [1, 1]


def test_runs_of_different_code_stand_in_a_row_each(tmp_path: Path) -> None:
    """An edited plugin, a new version of a part or of the noise; a run that failed stands with the
    latest.
    """
    old, new = "1:" + "a" * 64, "1:" + "b" * 64
    add(tmp_path, "mine", seed=0, last=0.7, versions={"loss:mine": old})
    for seed in (1, 2):
        add(tmp_path, "mine", seed=seed, last=0.9, versions={"loss:mine": new})
    for seed in range(3):
        add(tmp_path, "ce", seed=seed, last=0.5 + 0.01 * seed, versions={"loss:ce": "1"})
    failed = add(tmp_path, "mine", seed=3)
    failed.result.unlink()
    failed.write_error(
        ABOUT | {"method": "mine", "seed": 3, "noise_seed": 3}, "RuntimeError", "broken"
    )
    (table,) = tables(tmp_path)
    found = {row: table.cells[row, SYM] for row in table.rows}
    assert {(cell.n, cell.mean, cell.failed) for cell in found.values()} == {
        (3, 0.51, 0),
        (1, 0.7, 0),
        (2, 0.9, 1),
    }
    text = report(tmp_path).render("md")
    assert (
        "| mine, loss:mine 1:aaaaaaaa | 70.00" in text
        and ("| mine, loss:mine 1:bbbbbbbb | 90.00") in text
        and "| ce | 51.00" in text
    )
    assert "runs of different versions are not averaged" in text and "3.00" not in text, (
        "no mean of 70 and 90"
    )
    path = tmp_path / "runs.csv"
    path.write_text(report(tmp_path).render("runs"))
    assert nb.report(path).render("md") == text
    (table,) = report_of(run_folders([tmp_path]), TableLayout(against="ce")).tables
    assert sorted(row for (row, _), each in table.differences.items() if each) == sorted(
        row for row in table.rows if row[:4] == "mine"
    )
    noise = {"text": SYM, "realised_rate": 0.4}
    for seed, version in enumerate(("1", "2")):
        add_raw(tmp_path / "noise", seed, {"noise": {**noise, "seed": seed, "version": version}})
    assert {cell.n for cell in tables(tmp_path / "noise")[0].cells.values()} == {1}


def test_cells_of_different_code_are_said_to_be_so(tmp_path: Path) -> None:
    """Also where no cell mixes them: one noise before an update of the package, one after it."""
    for noise, version in ((SYM, "1"), (ASYM, "2")):
        add(tmp_path, noise=noise, versions={"protocol": version, "loss:ce": "1"})
    (table,) = tables(tmp_path)
    assert (
        table.rows == ("ce",)
        and "runs of different code versions: protocol 1, 2." in table.caption().lower()
    )


def test_what_seeds_of_a_cell_differ_in_is_said(tmp_path: Path) -> None:
    for seed, eps in enumerate((0.4, 0.41)):
        add(tmp_path, "el", seed=seed, loss=f"el(eps={eps})")
    assert (
        "el: the seeds of a cell differ in their loss: el(eps=0.4); el(eps=0.41)."
        in tables(tmp_path)[0].caption()
    )


def test_a_cells_rate_is_that_of_its_own_runs(tmp_path: Path) -> None:
    for data, rate in (("digits", 0.202), ("mnist", 0.167)):
        for seed in range(2):
            more = {
                "data": {"name": data, "sha256": data},
                "noise": {"text": SYM, "seed": seed, "realised_rate": rate + 0.001 * seed},
            }
            add_raw(tmp_path, seed, more)
    for rows, cols in (("dataset,method", "noise"), ("noise,method", "dataset")):
        made = report(tmp_path, rows=rows, cols=cols)
        found = {cell["dataset"]: cell["realised_rate"] for cell in made.document()["cells"]}
        assert found == {"digits": pytest.approx(0.2025), "mnist": pytest.approx(0.1675)}
        lines = csv.DictReader(io.StringIO(made.render("csv")))
        assert {line["dataset"]: float(line["realised_rate"]) for line in lines} == found
    assert "sym 0.4 (16.8 to 20.2 % wrong)" in report(tmp_path, rows="dataset,method").render("md")
    assert "sym 0.4 (20.2 % wrong)" in report(tmp_path).render("md")


def add_raw(root: Path, seed: int, more: dict) -> None:
    """As `add`, with any part of the record replaced, the noise too."""
    folder = add(root, seed=seed)
    folder.write_json(folder.result, {**json.loads(folder.result.read_text()), **more})


def test_one_seed_has_the_standard_error_of_so_many_images(tmp_path: Path) -> None:
    for method, last in (("ce", 0.81), ("el", 0.5), ("gce", 1.0)):
        add_raw(
            tmp_path,
            0,
            {
                "method": method,
                "metrics": {"test_acc": {"last": last}, "test": {"n": 600, "nll": 1.0}},
            },
        )
    error = [100 * math.sqrt(p * (1 - p) / 600) for p in (0.5 / 600, 0.81, 0.5)]
    text = report(tmp_path).render("md")
    assert (
        f"standard error of a share of 600 images is {error[0]:.1f} to {error[2]:.1f} points"
    ) in text
    assert "standard error" not in report(tmp_path, "nll").render("md")
    cells = tables(tmp_path)[0].cells
    assert [cells[name, SYM].standard_error for name in ("gce", "ce", "el")] == [
        pytest.approx(each / 100) for each in error
    ]


def test_the_mean_of_the_last_ten_of_a_shorter_run_says_of_how_many(tmp_path: Path) -> None:
    metrics = {"test_acc": {"last": 0.5, "mean_last10": 0.5}}
    for place, epochs, said in (
        ("a", 1, "the only epoch"),
        ("b", 3, "mean of all 3 epochs"),
        ("c", 10, "mean of the last ten epochs"),
    ):
        add(tmp_path / place, recipe={"name": "digits", "epochs": epochs}, metrics=metrics)
        made = report(tmp_path / place, "mean_last10")
        assert all(
            f"Test accuracy (%), {said};" in made.render(form).replace(r"\%", "%")
            for form in ("md", "latex")
        )
        assert (
            made.document()["selection"] == said
            and said in made.render("junit")
            and said in made._repr_html_()
        )


def test_several_precisions_are_all_named(tmp_path: Path) -> None:
    add(tmp_path)
    assert [table.title for table in tables(tmp_path)] == ["digits, mlp, digits, 40 epochs"]
    add(tmp_path, seed=1, precision="bf16")
    assert sorted(table.title for table in tables(tmp_path)) == [
        (f"digits, mlp, digits, 40 epochs, {name}") for name in ("bf16", "fp32")
    ]


def test_seeds_are_listed_as_they_are(tmp_path: Path) -> None:
    for seed in (0, 3):
        add_raw(tmp_path, 0, {"noise": {"text": SYM, "seed": seed, "realised_rate": 0.4}})
    assert "seed 0; noise seeds 0, 3." in tables(tmp_path)[0].caption()


def test_columns_stand_by_kind_of_noise_then_rate(tmp_path: Path) -> None:
    for noise in (ASYM, "symmetric(rate=0.8)", SYM, "asymmetric(rate=0.2, map='digits')"):
        add(tmp_path, noise=noise)
    assert tables(tmp_path)[0].cols == (
        SYM,
        "symmetric(rate=0.8)",
        "asymmetric(rate=0.2, map='digits')",
        ASYM,
    )


def test_losses_and_strategies_stand_as_registered_and_then_by_number(tmp_path: Path) -> None:
    wanted = [
        "ce",
        "gce(q=0.7, k=None)",
        "el(eps=0.4)",
        "el(eps=2)",
        "el(eps=10)",
        "el(eps=estimated)",
        "lsr(ce)",
        "1.4*agce(a=0.4, q=0.1)",
    ]
    for text in reversed(wanted):
        add(tmp_path, loss=text)
    assert tables(tmp_path, rows="loss")[0].rows == tuple(wanted)
    add(tmp_path / "more", strategy="coteaching(ramp=0.25)")
    add(tmp_path / "more", strategy="standard")
    assert tables(tmp_path / "more", rows="strategy")[0].rows == (
        "standard",
        "coteaching(ramp=0.25)",
    )


def test_a_failed_run_is_counted_and_left_out_of_the_mean(tmp_path: Path) -> None:
    add(tmp_path, seed=0, last=0.5)
    failed = add(tmp_path, seed=1)
    failed.result.unlink()
    failed.write_error(ABOUT, "RuntimeError", "broken")
    text = report(tmp_path).render("md")
    assert "50.00 ✗1" in text and "failed runs, excluded from the mean" in text


def test_oracles_and_missing_cells_are_marked_and_explained(tmp_path: Path) -> None:
    add(tmp_path, "el", SYM, oracle=True)
    add(tmp_path, "ce", ASYM)
    text = report(tmp_path).render("md")
    assert (
        "50.00†" in text
        and "† oracle: uses, or was tuned with, the true noise rate or transition matrix." in text
    )
    assert "| – |" in text and "–: no run with this value." in text


def test_the_caption_states_metric_selection_spread_and_what_varied(tmp_path: Path) -> None:
    for seed in range(2):
        add(tmp_path, seed=seed)
    caption = tables(tmp_path)[0].caption()
    for part in (
        "Test accuracy (%)",
        "last epoch",
        "sample standard deviation",
        "n = 2;",
        "seeds 0, 1, each with its own noise",
    ):
        assert part in caption


def test_the_best_epoch_on_test_is_called_optimistic(tmp_path: Path) -> None:
    add(tmp_path, last=0.5)
    assert tables(tmp_path, "best")[0].cells["ce", SYM].mean == pytest.approx(0.6)
    assert "best epoch on the test set (optimistic)" in tables(tmp_path, "best")[0].caption()


def test_bold_is_for_more_than_noise(tmp_path: Path) -> None:
    for seed, (a, b) in enumerate([(0.80, 0.70), (0.83, 0.72), (0.79, 0.71)]):
        add(tmp_path, "el", SYM, seed, a)
        add(tmp_path, "ce", SYM, seed, b)
        add(tmp_path, "el", ASYM, seed, 0.5 + 0.1 * seed)
        add(tmp_path, "ce", ASYM, seed, 0.7 - 0.1 * seed)
    table = tables(tmp_path)[0]
    assert table.significant_best == {("el", SYM)}
    assert "**60.00" not in report(tmp_path).render("md") and "**80.67 ± 2.08**" in report(
        tmp_path
    ).render("md")


def test_a_gap_that_seeds_explain_is_no_gap() -> None:
    noisy, steady = Cell({"0": 0.9, "1": 0.5, "2": 0.8}), Cell({"0": 0.6, "1": 0.6, "2": 0.6})
    assert not significantly_better(noisy, steady)
    assert significantly_better(Cell({"0": 0.7, "1": 0.71, "2": 0.7}), steady)
    assert significantly_better(
        steady, Cell({"0": 0.7, "1": 0.71, "2": 0.7}), higher_is_better=False
    )


def test_the_paired_test_is_students(tmp_path: Path) -> None:
    from scipy import stats

    for shift in (0.005, 0.01, 0.02, 0.03):
        a, b = [0.81, 0.84, 0.80, 0.85], [0.81 - shift, 0.83 - shift, 0.81 - shift, 0.84 - shift]
        p = stats.ttest_rel(a, b).pvalue
        cells = (Cell(dict(zip("0123", values, strict=True))) for values in (a, b))
        assert significantly_better(*cells) == (p < 0.05)


def test_the_same_seeds_twice_count_once_and_the_later_one(tmp_path: Path) -> None:
    import os

    old, new = add(tmp_path, last=0.1), add(tmp_path, last=0.9)
    os.utime(old.result, (1, 1))
    os.utime(new.result, (2, 2))
    assert tables(tmp_path)[0].cells["ce", SYM].values == {"0": 0.9}
    assert (
        "Excluded: 1 run, replaced by a later run with the same seeds."
        in tables(tmp_path)[0].caption()
    )


def test_json_has_the_promised_fields_at_full_precision(tmp_path: Path) -> None:
    add(tmp_path, last=1 / 3)
    content = json.loads(report(tmp_path).render("json"))
    assert set(content) == {"schema", "metric", "selection", "cells"}
    cell = content["cells"][0]
    assert {
        "dataset",
        "model",
        "noise",
        "method",
        "n",
        "mean",
        "std",
        "values",
        "oracle",
        "failed",
        "published",
    } <= set(cell)
    assert (cell["mean"], cell["values"], cell["noise"], cell["published"]) == (
        1 / 3,
        {"0": 1 / 3},
        SYM,
        None,
    )


def test_csv_says_the_same_as_json(tmp_path: Path) -> None:
    for seed in range(3):
        add(tmp_path, seed=seed, last=seed / 7)
    row = next(csv.DictReader(io.StringIO(report(tmp_path).render("csv"))))
    cell = json.loads(report(tmp_path).render("json"))["cells"][0]
    assert (
        math.isclose(float(row["mean"]), cell["mean"])
        and json.loads(row["values"]) == cell["values"]
    )


def test_where_keeps_what_it_says_and_names_what_there_is(tmp_path: Path) -> None:
    add(tmp_path, "ce")
    add(tmp_path, "el", seed=1)
    rows = read_rows(run_folders([tmp_path]), ["last"])
    assert [row.axes["method"] for row in where(rows, ["method=el"])] == ["el"]
    assert [row.seed for row in where(rows, ["seed=0"])] == [0]
    with pytest.raises(ConfigError, match="method is one of ce, el"):
        where(rows, ["method=gce"])
    with pytest.raises(ConfigError, match="--filter must be axis=value"):
        where(rows, ["colour=red"])


def test_any_two_axes_make_a_table(tmp_path: Path) -> None:
    for model in ("mlp", "cnn4"):
        for noise in (SYM, ASYM):
            add(tmp_path, noise=noise, model={"name": model})
    table = tables(tmp_path, rows="model", cols="noise")[0]
    assert set(table.cells) == {
        (model, noise) for model in ("mlp", "cnn4") for noise in (SYM, ASYM)
    }
    assert tables(tmp_path, rows="noise", cols="model")[0].rows == (SYM, ASYM)
    with pytest.raises(ConfigError, match="choose two"):
        tables(tmp_path, rows="noise", cols="noise")
    with pytest.raises(ConfigError, match="unknown axis"):
        tables(tmp_path, rows="colour")


def test_wrong_names_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'last'"):
        find_metric("lst")
    with pytest.raises(DataError, match="nothing is not a directory"):
        run_folders([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="repeated metric"):
        report(tmp_path, "last,last")


def test_text_of_users_does_not_become_markup(tmp_path: Path) -> None:
    from rich.console import Console

    from noisebench.reporting.render.terminal import draw_table

    add(tmp_path, "[red]evil[/red] | method")
    console = Console(file=io.StringIO(), width=200)
    console.print(draw_table(tables(tmp_path)[0]))
    assert "[red]evil[/red] | method" in console.file.getvalue()
    assert "\\[red\\]evil\\[/red\\] \\| method" in report(tmp_path).render("md")


RECORDS = Path(__file__).parents[1] / "data" / "records"


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_of_every_schema_is_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "run__1").mkdir()
    (tmp_path / "run__1" / "result.json").write_text(path.read_text())
    cell = report(tmp_path).document()["cells"][0]
    assert (cell["method"], cell["n"], cell["values"]["0"]) == ("el", 1, 0.458) and cell["inputs"][
        "0"
    ]["versions"]


def test_the_schema_that_is_written_has_a_record_here() -> None:
    from noisebench.runs.folder import SCHEMA

    assert (RECORDS / f"v{SCHEMA}.json").exists()


def test_metrics_stand_side_by_side(tmp_path: Path) -> None:
    add(tmp_path)
    table = tables(tmp_path, "last,best,nll")[0]
    assert [col.rpartition(", ")[2] for col in table.cols] == ["last", "best", "nll"]
    text = report(tmp_path, "last,best").render("md")
    assert (
        "| ce | 50.00 | 60.00 |" in text
        and ("best: test accuracy (%), best epoch on the test set (optimistic)") in text
    )
    assert tables(tmp_path, "last,best", cols="metric")[0].cols == ("last", "best")


def test_an_axis_may_be_several(tmp_path: Path) -> None:
    for data in ("digits", "mnist"):
        for method in ("ce", "el"):
            add(tmp_path, method, data={"name": data, "sha256": data})
    (table,) = tables(tmp_path, rows="dataset,method")
    assert [table.rank(row, SYM) for row in table.rows] == [1.5, 1.5, 1.5, 1.5], (
        "no set is better than another"
    )
    assert table.rows == ("digits, ce", "digits, el", "mnist, ce", "mnist, el")
    with pytest.raises(ConfigError, match="repeated axis"):
        tables(tmp_path, rows="method,method")


def test_ranks_are_over_the_columns_that_every_row_has(tmp_path: Path) -> None:
    for method, last in (("ce", 0.5), ("gce", 0.7), ("el", 0.7)):
        add(tmp_path, method, SYM, last=last)
    add(tmp_path, "ce", ASYM, last=0.9)
    table = tables(tmp_path)[0]
    assert [table.rank(row, SYM) for row in ("ce", "gce", "el")] == [3, 1.5, 1.5]
    assert table.ranked == (SYM,) and table.mean_rank("ce") == 3
    text = report_of(run_folders([tmp_path]), TableLayout(ranks=True)).render("md")
    assert "mean rank" in text and "over 1 of 2 columns" in text


def test_seeds_pair_only_on_the_same_labels() -> None:
    values = {"0": 0.80, "1": 0.90, "2": 0.70}
    better = {seed: value + 0.01 + 0.0001 * int(seed) for seed, value in values.items()}
    same, other = ({seed: {"labels": name} for seed in values} for name in ("one", "two"))
    assert significantly_better(Cell(better, inputs=same), Cell(values, inputs=same))
    assert not significantly_better(Cell(better, inputs=same), Cell(values, inputs=other))


HARD = "a_b & [c] 100% <i> 10*x | y"


def test_latex_escapes_and_marks(tmp_path: Path) -> None:
    add(tmp_path, HARD, oracle=True)
    text = report(tmp_path).render("latex")
    for part in (
        r"\toprule",
        r"a\_b \& [c] 100\% \textless{}i\textgreater{} 10*x \textbar{} y & 50.00\rlap{$^\dagger$} \\",
        r"\end{table}",
    ):
        assert part in text


def test_a_notebooks_view_escapes_and_needs_nothing_else(tmp_path: Path) -> None:
    add(tmp_path, HARD)
    text = report(tmp_path)._repr_html_()
    assert (
        "a_b &amp; [c] 100% &lt;i&gt; 10*x | y" in text
        and "http" not in text
        and "<script" not in text
    )


def test_junit_has_a_case_for_each_cell(tmp_path: Path) -> None:
    from xml.etree.ElementTree import fromstring

    add(tmp_path, HARD, SYM)
    add(tmp_path, "ce", ASYM)
    root = fromstring(report(tmp_path).render("junit"))
    assert (root.get("tests"), root.get("skipped"), root.get("failures"), root.get("errors")) == (
        "4",
        "2",
        "0",
        "0",
    )


def test_markdown_does_not_turn_products_into_italics(tmp_path: Path) -> None:
    add(tmp_path, "10*normalized(ce) + 0.1*mae", data={"name": "_my_ photos_"})
    text = report(tmp_path).render("md")
    assert r"10\*normalized(ce) + 0.1\*mae" in text and r"**\_my\_ photos\_, mlp" in text


def test_latex_names_the_packages_of_its_commands(tmp_path: Path) -> None:
    """All that is not of LaTeX itself."""
    packages = {
        "checkmark": "amssymb",
        "toprule": "booktabs",
        "cmidrule": "booktabs",
        "resizebox": "graphicx",
    }
    add(tmp_path, "✓ → 'a' ‡ | ~ ^ < > # $ {}")
    text = report(tmp_path, "last,best").render("latex")
    needed = text.partition("\n")[0]
    kernel = (
        "begin end centering caption smallskip ifdim width linewidth else fi midrule "
        "bottomrule scriptsize pm times dagger ddagger to "
    )
    kernel += (
        "textquotesingle textasciitilde textasciicircum textless textgreater textbar "
        "multicolumn rlap textbf"
    )
    for name in set(re.findall(r"\\([a-zA-Z]+)", text.partition("\n")[2])) - set(kernel.split()):
        assert packages[name] in needed, name


def test_from_python_a_report_is_a_table_object(tmp_path: Path) -> None:
    folder = add(tmp_path)
    made = nb.report(tmp_path, metric="last,best", where=["method=ce"])
    assert (
        "<table>" in made._repr_html_()
        and "sym 0.4, best" in str(made)
        and made.render("json").startswith("{")
    )
    assert "\x1b" not in str(made) and all(line == line.rstrip() for line in str(made).splitlines())
    folder.result.write_text("{")
    with pytest.warns(UserWarning, match="damaged"):
        assert nb.report(tmp_path).tables == []


def test_tables_of_one_name_say_in_what_they_differ(tmp_path: Path) -> None:
    plain = {"name": "digits", "epochs": 40, "lr": 0.1, "crop": 0, "flip": False}
    for recipe in (plain, {**plain, "crop": 2, "flip": True}):
        add(tmp_path, recipe=recipe)
    assert sorted(table.title for table in tables(tmp_path)) == [
        "digits, mlp, digits, 40 epochs, crop 0, flip False",
        "digits, mlp, digits, 40 epochs, crop 2, flip True",
    ]
    add(tmp_path, recipe={**plain, "epochs": 20})
    assert "digits, mlp, digits, 20 epochs" in [table.title for table in tables(tmp_path)]
