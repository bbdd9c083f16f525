"""What a run took, as numbers of a table: by the clock and in passes; no regression, and no
comparison of packs with single runs.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noisebench.cli import main
from noisebench.reporting import METRICS, Rules, Table, TableLayout, check, report_of
from noisebench.runs.folder import run_folders
from noisebench.strategies import STRATEGIES, ComputeCost
from tests.unit.test_report import SYM, add, report, tables

COSTS = ("per_minute", "minutes", "work")


def environment(packed: int = 1, threads: int = 1) -> dict:
    return {"device": "cpu", "threads": threads, "packed": packed}


def test_the_numbers_are_those_of_their_formulas(tmp_path: Path) -> None:
    add(
        tmp_path,
        last=0.9,
        seconds=180.0,
        strategy="coteaching(rate=0.4)",
        environment=environment(),
    )
    cells = {cell.metric: cell for cell in tables(tmp_path, ",".join(COSTS))[0].cells.values()}
    assert {name: cell.mean for name, cell in cells.items()} == pytest.approx(
        {"per_minute": 0.3, "minutes": 3.0, "work": 80.0}
    )
    assert "| ce | 30.00 | 3.0000 | 80.00 |" in report(tmp_path, ",".join(COSTS)).render("md")


def test_what_estimates_its_noise_is_charged_for_it(tmp_path: Path) -> None:
    add(tmp_path, loss="el(eps=estimated)")
    # 40 epochs and a quarter of them
    assert tables(tmp_path, "work")[0].cells["ce", SYM].mean == 50


def test_what_nobody_knows_is_no_number(tmp_path: Path) -> None:
    add(tmp_path, strategy="of_a_plugin", seconds=0.0)
    for name in COSTS:
        assert tables(tmp_path, name)[0].cells["ce", SYM].values == {}


def test_the_caption_says_what_a_time_is_and_on_what(tmp_path: Path) -> None:
    add(tmp_path, environment=environment(threads=2))
    text = report(tmp_path, "per_minute").render("md")
    assert "Test accuracy per minute of training (%), last epoch, wall-clock time" in text
    assert "Wall-clock times on cpu, 2 threads; they depend on the machine's other load." in text
    assert "clock" not in report(tmp_path, "last").render("md")


def timed(root: Path, packed: tuple[int, int] = (1, 1), threads: tuple[int, int] = (1, 1)) -> Table:
    """Two methods of which the second is ten times as fast, three seeds."""
    for method, seconds, width, count in zip(
        ("ce", "gce"), (10.0, 1.0), packed, threads, strict=True
    ):
        for seed in range(3):
            add(
                root,
                method,
                seed=seed,
                seconds=seconds + seed / 100,
                environment=environment(width, count),
            )
    return tables(root, "minutes")[0]


def test_times_of_one_machine_compare(tmp_path: Path) -> None:
    table = timed(tmp_path)
    assert table.significant_best == {("gce", SYM)} and table.rank("gce", SYM) == 1
    assert "not comparable" not in report(tmp_path, "minutes").render("md")


def test_times_of_packs_and_of_single_runs_do_not(tmp_path: Path) -> None:
    table = timed(tmp_path, packed=(16, 1))
    assert not table.significant_best and table.rank("gce", SYM) is None
    said = (
        "trained together as one network (ce), others alone (gce): their times are not comparable."
    )
    assert said in report(tmp_path, "minutes").render("md") and said in report(
        tmp_path, "last,per_minute"
    ).render("md")
    assert report(tmp_path, "last").tables[0].rank("gce", SYM) is not None


def test_within_a_cell_they_do_not_either(tmp_path: Path) -> None:
    for seed, width in enumerate((1, 16)):
        add(tmp_path, seed=seed, environment=environment(width))
    assert "trained together as one network, others alone: their times" in report(
        tmp_path, "minutes"
    ).render("md")


def test_times_of_several_machines_do_not(tmp_path: Path) -> None:
    assert not timed(tmp_path, threads=(1, 2)).significant_best
    assert "cpu, 1 thread; cpu, 2 threads (not comparable)" in report(tmp_path, "minutes").render(
        "md"
    )


def test_a_mean_rank_is_of_results_alone(tmp_path: Path) -> None:
    timed(tmp_path)
    table = report(tmp_path, "last,minutes").tables[0]
    assert [col.rpartition(", ")[2] for col in table.ranked] == [
        "last"
    ] and "over 1 of 1 columns" in table.caption(ranks=True)


def content(root: Path, metric: str) -> dict:
    return report_of(run_folders([root]), TableLayout(metric=metric)).document()


def test_time_is_no_regression(tmp_path: Path) -> None:
    for name, seconds in (("then", 1.0), ("now", 100.0)):
        for seed in range(3):
            add(tmp_path / name, seed=seed, last=0.5 + seed / 100, seconds=seconds)
    for tolerance in (0, 0.5):
        found = check(
            content(tmp_path / "now", "last,per_minute"),
            content(tmp_path / "then", "last,per_minute"),
            Rules(tolerance),
        )
        assert found.error is None and [finding.names["metric"] for finding in found.findings] == [
            "last"
        ]


def test_a_check_of_costs_alone_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path / "runs")
    saved = str(tmp_path / "base.json")
    where = ["report", str(tmp_path), "--metric"]
    assert main([*where, "per_minute,work", "--save-baseline", saved]) == 0
    assert main([*where, "per_minute,work", "--check", "--baseline", saved]) == 2
    assert "per_minute,work measures cost" in capsys.readouterr().err
    assert main([*where, "last,work", "--save-baseline", saved]) == 0
    assert main([*where, "last,work", "--check", "--baseline", saved, "--tolerance", "0"]) == 0


def test_costs_are_told_apart_from_results_and_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert {name for name, metric in METRICS.items() if metric.spent} == set(COSTS)
    assert {name for name, metric in METRICS.items() if metric.clocked} == {"per_minute", "minutes"}
    for name in COSTS:
        assert main(["list", "metrics", name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["doc"]


def test_a_list_of_strategies_says_their_work_beside_ce(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "strategies", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["standard"]["cost"], rows["coteaching"]["cost"], rows["cleannet"]["cost"]) == (
        "1 x CE",
        "2 x CE",
        "1.33 x CE",
    )
    for entry in STRATEGIES:
        if isinstance(passes := entry.facts.get("cost"), ComputeCost):
            assert rows[entry.name]["passes"] == str(passes) and float(
                rows[entry.name]["cost"].split()[0]
            ) == pytest.approx(passes.share, rel=0.01)
