"""Figures: their numbers are the runs', in every form; closed forms and published values where
there are some.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from noisebench.cli import main
from noisebench.errors import ConfigError
from noisebench.metrics.dynamics import BINS
from noisebench.metrics.predictions import Predictions
from noisebench.metrics.scores import ece
from noisebench.noise import transition
from noisebench.reporting import TableLayout, report_of
from noisebench.reporting.figures import FIGURES
from noisebench.reporting.figures.equal_loss import respond
from noisebench.reporting.figures.optimum import likeliest_wrong, optimum
from noisebench.reporting.figures.panels import Panel, PanelFigure, Series, line_styles
from noisebench.reporting.figures.progress import Ranking, critical_difference
from noisebench.runs.folder import RunFolder, run_folders
from tests.support.suites import reseal

SUITE = """
version: 1
suites:
  small:
    defaults: {dataset: digits, model: mlp, recipe: digits, epochs: 4, precision: fp32, seeds: [0, 1]}
    matrix:
      noise: [symmetric(rate=0.2), symmetric(rate=0.4), "asymmetric(rate=0.4, map='digits')"]
      method: [ce, el]
"""
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("figures")
    (root / "small.yaml").write_text(SUITE)
    assert main(["-q", "-C", str(root), "run", str(root / "small.yaml")]) == 0
    assert main(["-q", "-C", str(root), "corrupt", "digits", "--sym", "0.4"]) == 0
    return root


@pytest.fixture
def drawn(place: Path, tmp_path: Path) -> Callable[..., Rows]:
    """The CSV of a figure."""

    def rows(name: str, *options: str) -> Rows:
        path = tmp_path / "figure.csv"
        assert main(["-C", str(place), "report", "--figure", name, *options, "-o", str(path)]) == 0
        return list(csv.DictReader(path.read_text().splitlines()))

    return rows


def of(rows: Rows, panel: str, series: str, column: str = "y") -> np.ndarray:
    return np.array(
        [float(row[column]) for row in rows if (row["panel"], row["series"]) == (panel, series)]
    )


def folders(place: Path, method: str, noise: str) -> list[RunFolder]:
    found = [folder for folder in run_folders([place]) if folder.record()["method"] == method]
    return [folder for folder in found if folder.record()["noise"]["text"] == noise]


WORDS = {
    "transition": "true class",
    "ranks": "mean rank",
    "rates": "%",
    "curves": "%",
    "reliability": "%",
}


def test_every_figure_is_a_picture_with_words_a_csv_and_a_document(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for name, kind in FIGURES.items():
        with subtests.test(figure=name):
            command = ["-C", str(place), "report", "--figure", name]
            for suffix in ("svg", "csv"):
                assert main([*command, "-o", str(tmp_path / f"f.{suffix}")]) == 0
            assert WORDS.get(name, "p") in "".join(
                ET.fromstring((tmp_path / "f.svg").read_bytes()).itertext()
            )
            rows = list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))
            assert len(rows) > 1
            capsys.readouterr()
            assert main([*command, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)
            if kind.of != "manifests":  # without a file the numbers go to stdout
                assert main(command) == 0
                assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == rows


def test_a_figure_is_a_png_or_pdf_too(place: Path, tmp_path: Path) -> None:
    for suffix in ("png", "pdf"):
        assert (
            main(
                [
                    "-C",
                    str(place),
                    "report",
                    "--figure",
                    "rates",
                    "-o",
                    str(tmp_path / f"f.{suffix}"),
                ]
            )
            == 0
        )
    assert min(Image.open(io.BytesIO((tmp_path / "f.png").read_bytes())).size) > 200
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_picture_is_the_same_bytes(place: Path, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        assert (
            main(["-C", str(place), "report", "--figure", "rates", "-o", str(tmp_path / name)]) == 0
        )
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_rates_are_the_means_of_the_table(place: Path, drawn: Callable) -> None:
    (table,) = report_of(run_folders([place]), TableLayout()).tables
    cells = [table.cells["el", f"symmetric(rate={rate})"] for rate in (0.2, 0.4)]
    rows = drawn("rates")
    assert of(rows, "digits, symmetric", "el", "x") == pytest.approx([20, 40])
    assert of(rows, "digits, symmetric", "el") == pytest.approx([100 * cell.mean for cell in cells])
    assert of(rows, "digits, symmetric", "el", "high") == pytest.approx(
        [100 * (cell.mean + cell.std) for cell in cells]
    )
    assert of(rows, "digits, asymmetric", "ce", "x") == pytest.approx([40])


def test_rates_are_of_any_metric(drawn: Callable, place: Path) -> None:
    (table,) = report_of(run_folders([place]), TableLayout(metric="nll")).tables
    assert of(drawn("rates", "--metric", "nll"), "digits, symmetric", "ce")[0] == pytest.approx(
        table.cells["ce", "symmetric(rate=0.2)"].mean
    )


def test_curves_are_the_means_of_the_runs_epochs(place: Path, drawn: Callable) -> None:
    rows = drawn("curves")
    histories = [folder.read_history() for folder in folders(place, "ce", "symmetric(rate=0.4)")]
    for name, panel in (("test_acc", 0), ("memorised", 1)):
        expected = [
            np.mean([100 * history[epoch][name] for history in histories]) for epoch in range(4)
        ]
        assert of(rows, "digits, sym 0.4", "ce").reshape(2, 4)[panel] == pytest.approx(expected)


def test_a_damaged_history_is_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "runs", tmp_path / "runs")
    folder = folders(tmp_path, "el", "symmetric(rate=0.2)")[0]
    folder.history.write_text("hello\n")
    reseal(folder)
    assert (
        main(["-C", str(tmp_path), "report", "--figure", "curves", "-o", str(tmp_path / "c.svg")])
        == 2
    )
    assert (
        f"{folder.history} cannot be read (it contains no epochs)" in capsys.readouterr().err
        and not (tmp_path / "c.svg").exists()
    )


def test_the_density_of_p_is_that_of_all_seeds_together(place: Path, drawn: Callable) -> None:
    rows = drawn("density", "--epoch", "3")
    counts = sum(
        folder.read_dynamics().counts[2] for folder in folders(place, "el", "symmetric(rate=0.4)")
    )
    for number, name in enumerate(("correct labels", "incorrect labels")):
        assert of(rows, "el, digits, sym 0.4, epoch 3", name) == pytest.approx(
            BINS * counts[number] / counts[number].sum()
        )


def test_right_and_wrong_labels_lie_apart(drawn: Callable) -> None:
    rows = drawn("density", "--epoch", "4", "--filter", "noise=symmetric(rate=0.4)")
    mean = {
        name: (
            of(rows, "el, digits, sym 0.4, epoch 4", name)
            * of(rows, "el, digits, sym 0.4, epoch 4", name, "x")
        ).mean()
        for name in ("correct labels", "incorrect labels")
    }
    assert mean["correct labels"] > 0.7 and mean["incorrect labels"] < 0.3


def test_el_pulls_less_where_p_is_small(drawn: Callable) -> None:
    rows = drawn("gradient", "--epoch", "2")
    ce, el = (of(rows, "digits, sym 0.4, epoch 2", name)[:10].sum() for name in ("ce", "el"))
    assert el < 0.5 * ce


def test_reliability_holds_the_calibration_error(place: Path, drawn: Callable) -> None:
    name = "digits, sym 0.4"
    rows = drawn("reliability")
    parts = [folder.read_arrays() for folder in folders(place, "ce", "symmetric(rate=0.4)")]
    labels = np.concatenate([arrays["test_labels"] for arrays in parts]).astype(int)
    log_p = np.concatenate([arrays["test_log_p"] for arrays in parts]).astype(np.float32)
    test = Predictions.of(log_p, labels, labels)
    bins = np.ceil(np.exp(test.log_p[:, 0].astype(float)) * 15)
    counts = np.array([(bins == bin_).sum() for bin_ in range(1, 16)])
    gap = np.abs(of(rows, name, "ce") - of(rows, name, "ce", "x")) / 100
    assert len(gap) == (counts >= 10).sum()
    assert (counts[counts >= 10] * gap).sum() / len(labels) == pytest.approx(
        ece(test.log_p[:, 0], test.predicted == labels), abs=0.02
    )


def dots(rows: Rows, panel: str, row: str) -> dict[str, dict[str, str]]:
    return {
        found["series"]: found for found in rows if (found["panel"], found["row"]) == (panel, row)
    }


def test_the_optimum_stands_beside_what_networks_say_of_images_of_classes_that_flip(
    place: Path, drawn: Callable
) -> None:
    noise = "asymmetric(rate=0.4, map='digits')"
    flips = {int(a): int(b) for a, b in np.argwhere(np.isclose(transition(noise, 10), 0.4))}
    right, wrong = [], []
    for folder in folders(place, "el", noise):
        arrays = folder.read_arrays()
        p = np.exp(arrays["test_log_p"].astype(float))
        pairs = [(n, label) for n, label in enumerate(arrays["test_labels"]) if label in flips]
        right.append(np.mean([p[n, label] for n, label in pairs]))
        wrong.append(np.mean([p[n, flips[label]] for n, label in pairs]))
    found = dots(drawn("optimum"), "asym 0.4", "el")
    for series, values, limit in (
        ("correct class", right, 0.68),
        ("likeliest other class (sym: all)", wrong, 0.32),
    ):
        said = {name: float(found[series][name]) for name in ("mean", "std", "n", "expected")}
        assert said == pytest.approx(
            {"mean": np.mean(values), "std": np.std(values, ddof=1), "n": 2, "expected": limit}
        )


def test_what_is_expected_is_known_in_closed_form(drawn: Callable) -> None:
    rows = drawn("optimum")
    for noise, row, right in (
        ("sym 0.2", "ce", 0.8),
        ("sym 0.4", "ce", 0.6),
        ("sym 0.4", "el", 1),
        ("asym 0.4", "ce", 0.6),
    ):
        found = dots(rows, noise, row)
        expected = [
            float(found[series]["expected"])
            for series in ("correct class", "likeliest other class (sym: all)")
        ]
        assert expected == pytest.approx([right, 1 - right]), (noise, row)


def test_under_symmetric_noise_all_other_classes_together_are_the_wrong_one(
    drawn: Callable,
) -> None:
    found = dots(drawn("optimum"), "sym 0.2", "ce")
    assert sum(float(dot["mean"]) for dot in found.values()) == pytest.approx(1)


def test_the_wrong_class_is_what_a_class_is_recorded_as_most_often() -> None:
    table = np.array([[0.6, 0.3, 0.1, 0], [0, 1, 0, 0], [0.1, 0.1, 0.7, 0.1], [0.9, 0.1, 0, 0]])
    assert likeliest_wrong(table).astype(int).tolist() == [
        [0, 1, 0, 0],
        [0, 0, 0, 0],
        [1, 1, 0, 1],
        [1, 0, 0, 0],
    ]


def test_of_a_strategy_or_a_loss_without_a_closed_form_nothing_is_expected(tmp_path: Path) -> None:
    for options in (["--method", "mixup"], ["--loss", "js"], ["--loss", "gce"]):
        assert (
            main(
                [
                    "-q",
                    "-C",
                    str(tmp_path),
                    "train",
                    "digits",
                    "--sym",
                    "0.4",
                    "--epochs",
                    "1",
                    *options,
                ]
            )
            == 0
        )
    (panel,) = optimum(report_of(run_folders([tmp_path]), TableLayout()).tables).flat
    assert {dot.row: dot.expected is not None for dot in panel.points} == {
        "mixup": False,
        "js": False,
        "gce": True,
    }


def test_a_noise_whose_text_says_no_matrix_has_no_optimum(tmp_path: Path) -> None:
    assert (
        main(
            [
                "-q",
                "-C",
                str(tmp_path),
                "train",
                "digits",
                "--noise",
                "pdn(rate=0.3)",
                "--epochs",
                "1",
            ]
        )
        == 0
    )
    assert main(["-q", "-C", str(tmp_path), "train", "digits", "--sym", "0", "--epochs", "1"]) == 0
    tables = report_of(run_folders([tmp_path]), TableLayout()).tables
    assert tables
    with pytest.raises(ConfigError, match="noise with a known transition matrix"):
        optimum(tables)


NORMS = {
    "ce": lambda p: 2 * (1 - p),
    "el(eps=0.4)": lambda p: 1.4 * p / (p + 0.4) * 2 * (1 - p),
    "0.5*mae": lambda p: 2 * p * (1 - p),
    "gce(q=0.7)": lambda p: p**0.7 * 2 * (1 - p),
}
COSTS = {
    "ce": lambda p: -np.log(p),
    "el(eps=0.4)": lambda p: -1.4 * np.log((p + 0.4) / 1.4),
    "0.5*mae": lambda p: 1 - p,
    "gce(q=0.7)": lambda p: (1 - p**0.7) / 0.7,
}


@pytest.mark.parametrize("text", NORMS)
def test_losses_have_their_closed_forms(text: str) -> None:
    p = (np.arange(400) + 0.5) / 400
    response = respond(text)
    np.testing.assert_allclose(response.cost, COSTS[text](p), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(response.norm, NORMS[text](p), rtol=1e-3, atol=1e-5)


def test_the_ratio_of_el_rises_from_nothing_to_one(drawn: Callable) -> None:
    ratio = of(
        drawn("norm", "--loss", "el(eps=0.4)"), "gradient norm relative to CE", "el(eps=0.4)"
    )
    assert (
        ratio[0] < 0.01
        and ratio[-1] == pytest.approx(1, abs=1e-2)
        and (np.diff(ratio) > -1e-4).all()
    )


def test_the_critical_difference_is_the_published_one() -> None:
    # Demšar 2006, Table 5a
    published = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)
    for k, quantile in enumerate(published, 2):
        scale = math.sqrt(k * (k + 1) / 60)
        assert critical_difference(k, 10) == pytest.approx(quantile * scale, abs=1e-3)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)  # his example, section 3.2.2


def test_bars_join_what_is_not_told_apart_and_no_bar_lies_in_another() -> None:
    ranking = Ranking("", ("a", "b", "c", "d", "e"), (1.0, 1.5, 2.4, 2.6, 5.0), 10, 1.5)
    assert ranking.cliques == [(0, 2), (1, 3)]


def test_ranks_are_the_tables(place: Path, drawn: Callable) -> None:
    (table,) = report_of(run_folders([place]), TableLayout()).tables
    assert {row["method"]: float(row["mean_rank"]) for row in drawn("ranks")} == {
        row: table.mean_rank(row) for row in table.rows
    }


def test_the_papers_figures_are_of_symmetric_noise_of_two_fifths(drawn: Callable) -> None:
    panels = {row["panel"] for row in drawn("paper", "--epoch", "2")}
    assert panels == {"1a: CE, digits, sym 0.4, epoch 2", "EL, digits, sym 0.4, epoch 2", ("1b: digits, "
                                                                                          "sym 0.4, epoch 2"), "2: loss",
                      "3a: gradient", "3b: gradient, ratio to CE's"}  # fmt: skip


NOT_DRAWN = (
    (["--figure", "rate"], "unknown figure 'rate': did you mean 'rates'?"),
    (["--figure", "rates", "-o", "f.gif"], "unknown format of a figure: f.gif"),
    (["--figure", "rates", "--epoch", "2"], "--epoch has no effect on the figure rates"),
    (["--figure", "curves", "--metric", "best"], "--metric has no effect on the figure curves"),
    (["--figure", "curves", "--rows", "model"], "--rows has no effect on the figure curves"),
    (["--figure", "loss", "--filter", "method=ce"], "--filter has no effect on the figure loss"),
    (["--figure", "density", "--epoch", "5"], "--epoch 5: the runs have 4 epochs"),
    (["--figure", "loss", "--loss", "gcee"], "unknown loss 'gcee'"),
    (["--figure", "loss", "--loss", "el"], "give a value, e.g. el(eps=0.4)"),
    (
        ["--figure", "paper", "--filter", "method=ce"],
        "needs runs of ce and el on the same noise",
    ),
    (["--figure", "ranks", "--filter", "method=ce"], "has 1 methods"),
    (["--loss", "ce"], "--loss has no effect without --figure"),
    (["--epoch", "1"], "--epoch has no effect without --figure"),
)


def test_what_cannot_be_drawn_is_said(
    place: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for options, what in NOT_DRAWN:
        with subtests.test(options=" ".join(options)):
            assert main(["-C", str(place), "report", *options]) == 2
            assert what in capsys.readouterr().err


def test_where_there_is_nothing_to_draw_it_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["-q", "-C", str(tmp_path), "train", "digits", "--epochs", "1", "--batch-size", "512"]
    assert main([*short, "--sym", "0.2", "--lr", "1e9"]) == 3
    for name in ("rates", "curves", "reliability", "density", "gradient", "optimum"):
        capsys.readouterr()
        assert main(["-C", str(tmp_path), "report", "--figure", name]) == 2
        assert "none of these runs has finished" in capsys.readouterr().err, name
    assert main([*short, "--noise", "imported(file='own')"]) == 0
    assert (
        main(
            [
                "-C",
                str(tmp_path),
                "report",
                "--figure",
                "rates",
                "--filter",
                "noise=imported(file='own')",
            ]
        )
        == 2
    )
    assert "it needs noise with a rate, and these runs have imported own" in capsys.readouterr().err


def test_a_figure_that_nobody_could_read_is_refused() -> None:
    panel = Panel("t", "x", "y", (Series("s", np.zeros(2), np.zeros(2)),))
    with pytest.raises(ConfigError, match="would have 49 panels"):
        PanelFigure("density", "", ((panel,) * 49,))
    with pytest.raises(ConfigError, match="nothing to draw"):
        PanelFigure("density", "", ())


def test_thirty_lines_look_differently_without_colour_too() -> None:
    found = list(line_styles(map(str, range(30))).values())
    assert len({(look.color, str(look.dash)) for look in found}) == 30
    assert len({(str(look.dash), look.mark) for look in found[:24]}) == 24
