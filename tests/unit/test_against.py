"""By how much a row is better than another: the interval's laws and its coverage, and the same
numbers in every format.
"""

from __future__ import annotations

import csv
import io
import json
import math
import random
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import noisebench as nb
from noisebench.cli import main
from noisebench.errors import ConfigError
from noisebench.reporting import Report, TableLayout, report_of
from noisebench.reporting.aggregate import Cell
from noisebench.reporting.comparison import difference_table
from noisebench.reporting.page import page
from noisebench.reporting.render.terminal import draw_table
from noisebench.reporting.stats import (
    Difference,
    difference,
    significantly_better,
)
from noisebench.runs.folder import run_folders
from noisebench.runs.workspace import Workspace
from tests.cli.test_page import Tags
from tests.conftest import Case
from tests.unit.test_budget import trained
from tests.unit.test_report import ASYM, HARD, SYM, add

CE, EL = (0.7, 0.72, 0.71), (0.9, 0.93, 0.91)
GAPS = [20.0, 21.0, 20.0]  # EL less CE, in points


def cell(*values: float, labels: str = "l") -> Cell:
    """A cell of the seeds 0, 1 ..., all on labels of this name."""
    seeds = [str(seed) for seed in range(len(values))]
    return Cell(
        dict(zip(seeds, values, strict=True)), inputs={seed: {"labels": labels} for seed in seeds}
    )


def of(own: Cell, other: Cell) -> Difference:
    found = difference(own, other)
    assert found is not None
    return found


def mirrored(found: Difference) -> tuple[float | None, ...]:
    assert found.low is not None and found.high is not None
    return -found.mean, -found.high, -found.low, found.pairs


def random_cells(seed: int, labels: tuple[str, str]) -> tuple[Cell, Cell]:
    """Two cells of three to nine seeds each."""
    chance = random.Random(seed)
    values = [[chance.gauss(0.8, 0.02) for _ in range(chance.randint(3, 9))] for _ in labels]
    return cell(*values[0], labels=labels[0]), cell(*values[1], labels=labels[1])


BOTH = pytest.mark.parametrize("labels", [("l", "l"), ("l", "m")], ids=["paired", "unpaired"])


def test_the_interval_of_pairs_is_students_and_else_it_is_welchs(case: Case) -> None:
    for seed in range(5):
        with case(seed=seed):
            own, other = random_cells(seed, ("l", "l"))
            shared = sorted({*own.values} & {*other.values})
            theirs = stats.ttest_rel(
                [own.values[name] for name in shared], [other.values[name] for name in shared]
            ).confidence_interval(0.95)
            found = of(own, other)
            assert (found.low, found.high, found.pairs) == (
                pytest.approx(theirs.low),
                pytest.approx(theirs.high),
                len(shared),
            )

            own, other = random_cells(seed, ("l", "m"))
            theirs = stats.ttest_ind(
                list(own.values.values()), list(other.values.values()), equal_var=False
            ).confidence_interval(0.95)
            found = of(own, other)
            assert (found.low, found.high, found.pairs) == (
                pytest.approx(theirs.low),
                pytest.approx(theirs.high),
                0,
            )


def test_intervals_of_three_to_forty_pairs_are_students() -> None:
    chance = random.Random(0)
    for n in range(3, 41):
        values = [[chance.gauss(0.8, 0.02) for _ in range(n)] for _ in range(2)]
        expected = stats.ttest_rel(*values).confidence_interval(0.95)
        found = of(cell(*values[0]), cell(*values[1]))
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_the_other_way_round_it_is_mirrored(case: Case) -> None:
    for seed in range(5):
        for labels in [("l", "l"), ("l", "m")]:
            with case(labels=labels, seed=seed):
                own, other = random_cells(seed, labels)
                there, back = of(own, other), of(other, own)
                assert (back.mean, back.low, back.high, back.pairs) == mirrored(there)


def test_what_is_added_to_all_seeds_of_both_changes_nothing(case: Case) -> None:
    for seed in range(5):
        for labels in [("l", "l"), ("l", "m")]:
            with case(labels=labels, seed=seed):
                plain = random_cells(seed, labels)
                moved = [
                    cell(*(value + 0.1 for value in one.values.values()), labels=name)
                    for one, name in zip(plain, labels, strict=True)
                ]
                before, after = of(*plain), of(*moved)
                assert (after.mean, after.low, after.high) == tuple(
                    pytest.approx(value) for value in (before.mean, before.low, before.high)
                )


def test_what_a_seed_adds_to_both_widens_no_interval_of_pairs() -> None:
    plain, moved = of(cell(*EL), cell(*CE)), of(cell(0.9, 0.43, 0.61), cell(0.7, 0.22, 0.41))
    assert (moved.low, moved.high) == (pytest.approx(plain.low), pytest.approx(plain.high))


def of_images(m: int, *differences: int, labels: str = "l") -> Difference:
    """Of a cell with so many images of m more than another of m // 2, seed by seed."""
    own, other = (cell(*((m // 2 + more) / m for more in counts), labels=name)
                  for counts, name in ((differences, labels), ([0] * len(differences), "l")))  # fmt: skip
    own.num_examples = other.num_examples = m
    return of(own, other)


def test_seeds_that_agree_have_an_interval_as_wide_as_the_test_set_makes_it() -> None:
    """One image is one step, more are a binomial number of examples: the standard deviation of seed
    differences, by hand.
    """
    cases = (
        (500, 1, 2, 1 / 500),
        (500, 0, 2, 1 / 500),
        (500, -1, 3, 1 / 500),
        (500, 10, 2, math.sqrt(0.02 * 0.98 / 500)),
        (500, 10, 3, math.sqrt(0.02 * 0.98 / 500 / 2)),
        (10_000, 100, 2, math.sqrt(0.01 * 0.99 / 10_000)),
    )
    for m, more, n, deviation in cases:
        reach = stats.t.isf(0.025, n - 1) * deviation / math.sqrt(n)
        for labels in "lm":  # paired, and not
            found = of_images(m, *[more] * n, labels=labels)
            assert found.floored and found.pairs == (n if labels == "l" else 0)
            assert (found.low, found.high) == (
                pytest.approx(more / m - reach),
                pytest.approx(more / m + reach),
            )
    spread = of_images(500, 3, -5, 9, 0)
    theirs = stats.ttest_1samp([0.006, -0.01, 0.018, 0], 0).confidence_interval(0.95)
    assert not spread.floored and (spread.low, spread.high) == (
        pytest.approx(theirs.low),
        pytest.approx(theirs.high),
    )


def test_few_seeds_that_agree_on_few_images_are_not_bold(tmp_path: Path) -> None:
    for n in (2, 3, 4, 5):
        for m in (500, 10_000):
            assert of_images(m, *[1] * n).low < 0 and of_images(m, *[1] * n, labels="m").low < 0  # type: ignore[operator]
    for seed in range(2):
        for method, value in (("ce", 0.9), ("el", 0.902)):
            add(
                tmp_path,
                method,
                seed=seed,
                metrics={"test_acc": {"last": value}, "test": {"n": 500}},
            )
    (table,) = report(tmp_path).tables
    assert not table.significant_best
    reach = 100 * stats.t.isf(0.025, 1) * 0.002 / math.sqrt(2)
    assert f"| el | +0.20 [{0.2 - reach:+.2f}, {0.2 + reach:+.2f}] |" in below(report(tmp_path))


def test_without_the_number_of_images_no_interval_is_of_no_width_or_of_two_seeds(
    case: Case,
) -> None:
    for labels in [("l", "l"), ("l", "m")]:
        with case(labels=labels):
            own, other = (
                cell(value, value, value, labels=name)
                for value, name in zip((0.75, 0.5), labels, strict=True)
            )
            assert (of(own, other).mean, of(own, other).low) == (
                0.25,
                None,
            ) and not significantly_better(own, other)
            assert (
                of(cell(0.75, 0.8, labels=labels[0]), cell(0.5, 0.6, labels=labels[1])).low is None
            )


def test_what_is_no_count_does_not_repeat_by_chance() -> None:
    own, other = cell(1.0, 2.0), cell(1.5, 2.5)
    own.metric = other.metric = "nll"
    assert (
        of(own, other).low is None
        and significantly_better(own, other, higher_is_better=False)
        and not significantly_better(own, other)
    )
    assert not significantly_better(own, own) and not significantly_better(
        own, own, higher_is_better=False
    )


def test_one_pair_has_a_difference_and_no_interval() -> None:
    assert of(cell(0.75), cell(0.5)) == Difference(0.25, None, None, 1, False)
    assert of(cell(0.75, labels="m"), cell(0.5, 0.25)) == Difference(0.375, None, None, 0, False)
    assert of(cell(0.75), cell(0.5, 0.1, 0.9)) == Difference(0.25, None, None, 1, False), (
        "the seed that both have, alone"
    )
    assert difference(cell(0.75), cell()) is None and difference(cell(), cell(0.75)) is None


def test_a_cell_beats_another_where_the_interval_is_on_its_side(case: Case) -> None:
    for seed in range(20):
        with case(seed=seed):
            own, other = random_cells(seed, ("l", "l"))
            found = of(own, other)
            assert found.low is not None and found.high is not None
            assert significantly_better(own, other) == (found.low > 0) and significantly_better(
                own, other, higher_is_better=False
            ) == (found.high < 0)
            for by, wins in ((-0.001, False), (0.001, True)):
                assert (
                    significantly_better(
                        cell(
                            *(value - found.low + by for value in own.values.values()), labels="l"
                        ),
                        other,
                    )
                    == wins
                )


def test_nineteen_intervals_of_twenty_hold_the_true_difference(case: Case) -> None:
    for labels in [("l", "l"), ("l", "m")]:
        with case(labels=labels):
            chance, suites, n, truth, held = random.Random(0), 1000, 5, 0.03, 0
            for _ in range(suites):
                # a hard draw is hard for both
                seeds = [chance.gauss(0, 0.02) if labels[0] == labels[1] else 0 for _ in range(n)]
                own, other = (
                    [level + seed + chance.gauss(0, 0.01) for seed in seeds]
                    for level in (0.8 + truth, 0.8)
                )
                found = of(cell(*own, labels=labels[0]), cell(*other, labels=labels[1]))
                held += (
                    found.low is not None
                    and found.high is not None
                    and found.low <= truth <= found.high
                )
            error = math.sqrt(0.95 * 0.05 / suites)
            assert abs(held / suites - 0.95) < (3 if labels[0] == labels[1] else 4) * error, (
                "Welch's t is an approximation"
            )


def test_they_do_where_accuracies_are_counts_of_few_images_too() -> None:
    """Networks that differ in few images, of which one is right alone in `b` and the other in `c`;
    without a floor 5 to 95 % hold it.
    """
    chance = np.random.default_rng(0)
    for m, b, c in (
        (500, 0.05, 0.0),
        (500, 1.0, 1.0),
        (500, 2.0, 1.0),
        (500, 30.0, 20.0),
        (10_000, 6.0, 4.0),
    ):
        for n in (2, 3, 5):
            counts = chance.poisson(b, (400, n)) - chance.poisson(c, (400, n))
            intervals = [of_images(m, *row) for row in counts.tolist()]
            held = sum(found.low <= (b - c) / m <= found.high for found in intervals)  # type: ignore[operator]
            assert held / 400 > 0.95 - 2.5 * math.sqrt(0.95 * 0.05 / 400), (m, b, c, n)


def fill(
    root: Path,
    *,
    noise: str = SYM,
    ce: tuple[float, ...] = CE,
    el: tuple[float, ...] = EL,
    **more: object,
) -> Path:
    for method, values in (("ce", ce), ("el", el)):
        for seed, value in enumerate(values):
            add(root, method, noise, seed, value, **more)
    return root


def report(root: Path, against: str = "ce", **shape: object) -> Report:
    return report_of(run_folders([root]), TableLayout(against=against, **shape))  # type: ignore[arg-type]


def below(made: Report, number: int = 0) -> str:
    """The table of differences and its caption, as markdown."""
    return Report([made.tables[number]]).render("md").partition(", difference from ")[2]


def test_the_second_table_has_the_differences_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    theirs = stats.ttest_1samp(GAPS, 0).confidence_interval(0.95)
    shown = f"+{statistics.fmean(GAPS):.2f} [+{theirs.low:.2f}, +{theirs.high:.2f}]"
    text = report(tmp_path).render("md")
    assert (
        "**digits, mlp, digits, 40 epochs, difference from ce**" in text
        and f"| el | {shown} |" in text
        and shown == "+20.33 [+18.90, +21.77]"
    )
    assert "| ce |" not in below(report(tmp_path)) and "±" not in below(report(tmp_path)), (
        "nothing differs from itself"
    )


def test_every_format_says_the_same(tmp_path: Path) -> None:
    fill(tmp_path)
    made = report(tmp_path)
    assert "+20.33 [+18.90, +21.77]" in str(made)
    assert r"el & +20.33\,{\scriptsize [+18.90, +21.77]} \\" in made.render("latex")
    assert "<td>+20.33 <small>[+18.90, +21.77]</small></td>" in made._repr_html_()
    shown = page(made.tables, Workspace(tmp_path))
    assert (
        '">+20.33 <span class="spread">[+18.90, +21.77]</span></td>' in shown
        and "40 epochs, difference from ce</h3>" in shown
    )
    for text in (made.render("md"), made.render("latex"), made._repr_html_(), str(made), shown):
        assert text.count("Each row minus ce, in points: mean difference") == 1


def test_a_document_has_the_numbers_and_without_being_asked_none(tmp_path: Path) -> None:
    fill(tmp_path)
    plain = report_of(run_folders([tmp_path]), TableLayout()).render("json")
    found = {
        cell["method"]: cell["difference"]
        for cell in json.loads(report(tmp_path).render("json"))["cells"]
    }
    assert "difference" not in plain and found["ce"] is None
    assert set(found["el"]) == {"from", "mean", "low", "high", "pairs"} and (
        found["el"]["from"],
        found["el"]["pairs"],
    ) == ("ce", 3)
    theirs = stats.ttest_rel(EL, CE).confidence_interval(0.95)
    numbers = [found["el"][name] for name in ("mean", "low", "high")]
    assert numbers == [
        pytest.approx(value) for value in (statistics.fmean(GAPS) / 100, theirs.low, theirs.high)
    ]
    row = list(csv.DictReader(io.StringIO(report(tmp_path).render("csv"))))[1]
    assert json.loads(row["difference"]) == found["el"]


def test_from_python_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "runs")
    assert "difference from ce" in str(nb.report(tmp_path / "runs", against="ce"))
    assert main(["-C", str(tmp_path), "report", "--compare-to", "ce", "--format", "md"]) == 0
    assert "+20.33 [+18.90, +21.77]" in capsys.readouterr().out
    for options, said in (
        (["--compare-to", "gce"], "no row 'gce'"),
        (
            ["--compare-to", "ce", "--format", "junit"],
            "--format junit needs --check, whose findings it contains",
        ),
        (
            ["--compare-to", "ce", "--figure", "rates"],
            "--compare-to has no effect on the figure rates",
        ),
    ):
        assert main(["-C", str(tmp_path), "report", *options]) == 2
        assert said in capsys.readouterr().err


def test_a_name_that_is_no_row_is_refused_with_the_rows_there_are(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(ConfigError, match=r"no row 'cee': did you mean 'ce'\? \(rows: ce; el\)"):
        report(tmp_path, "cee")
    with pytest.raises(ConfigError, match="the rows are noise: choose another"):
        report(tmp_path, rows="noise", cols="method")


def test_a_row_without_rivals_says_that_it_has_no_differences(tmp_path: Path) -> None:
    add(tmp_path, "ce")
    text = report(tmp_path).render("md")
    assert "No differences from ce:" in text and ", difference from ce" not in text


def test_a_folder_without_runs_has_no_row_to_miss(tmp_path: Path) -> None:
    assert report(tmp_path).tables == []


def of_500(last: float) -> dict:
    """The numbers of a run whose test set has 500 images."""
    return {"test_acc": {"last": last}, "test": {"n": 500}}


def test_a_loss_is_known_by_its_meaning(tmp_path: Path) -> None:
    for seed in range(2):
        add(tmp_path, "a", seed=seed, loss="gce(q=0.7)", metrics=of_500(0.5))
        add(
            tmp_path,
            "b",
            seed=seed,
            loss="10*normalized(ce) + 0.1*mae",
            metrics=of_500(0.6 + 0.01 * seed),
        )
    for name, mean in (
        ("gce( q = 0.70 )", "| 10\\*normalized(ce) + 0.1\\*mae | +10.50 ["),
        ("0.1*mae + 10*normalized(ce)", "| gce(q=0.7) | -10.50 ["),
    ):
        assert mean in below(report(tmp_path, name, rows="loss"))


def test_other_parts_of_a_row_are_the_same(tmp_path: Path) -> None:
    for data, rise in (("digits", 0.0), ("mnist", 0.05)):
        fill(tmp_path, el=tuple(value + rise for value in EL), data={"name": data, "sha256": data})
    (table,) = report(tmp_path, rows="dataset,method").tables
    assert {row: 100 * found.mean for (row, _), found in table.differences.items() if found} == {
        "digits, el": pytest.approx(20 + 1 / 3), "mnist, el": pytest.approx(25 + 1 / 3),
    }  # fmt: skip
    strategies = [add(tmp_path / "s", loss=loss, strategy=name, last=last)
                  for loss, name, last in (("ce", "standard", 0.5), ("ce", "cores2", 0.75), ("mae", "cores2", 0.5))]  # fmt: skip
    (table,) = report(tmp_path / "s", rows="loss,strategy").tables
    assert len(strategies) == 3
    assert {row: found.mean for (row, _), found in table.differences.items() if found} == {
        "mae, cores2": -0.25
    }
    (table,) = report(tmp_path / "s", "standard", rows="loss,strategy").tables
    assert {row: found and found.mean for (row, _), found in table.differences.items()} == {
        "ce, cores2": 0.25,
        "mae, cores2": None,
    }


def test_unlike_pairs_say_so(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, noise=ASYM, el=EL[:2])
    add(tmp_path, "gce", seed=7, last=0.5)
    add(tmp_path, "gce", seed=8, last=0.6)
    text = below(report(tmp_path))
    assert "(2) |" in text and "n = 3 (otherwise in brackets): Student's t." in text
    row = next(line for line in text.splitlines() if line.startswith("| gce"))
    assert (
        row.endswith("‡ | – |")
        and ("‡ unpaired, as no seed has the same labels in both: Welch's t over all seeds.")
        in text
    )
    assert "–: one of the two has no value." in text and r"$^\ddagger$ & -- \\" in report(
        tmp_path
    ).render("latex")


def test_one_seed_has_no_interval_and_the_caption_counts_none(tmp_path: Path) -> None:
    fill(tmp_path, ce=CE[:1], el=EL[:1])
    text = below(report(tmp_path))
    assert (
        "| el | +20.00 |" in text
        and "No intervals: these need two pairs, or two seeds of each." in text
    )


def test_the_caption_counts_the_intervals_and_corrects_for_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    assert "One interval." in below(report(tmp_path))
    fill(tmp_path, noise=ASYM)
    assert (
        "2 intervals, not corrected for multiple comparisons: about one in twenty misses the true difference."
        in below(report(tmp_path))
    )


def test_an_oracle_is_marked_in_its_differences(tmp_path: Path) -> None:
    fill(tmp_path, ce=CE, el=())
    for seed, value in enumerate(EL):
        add(tmp_path, "el", seed=seed, last=value, oracle=True)
    text = below(report(tmp_path))
    assert "+21.77]† |" in text and "† oracle: one of the two uses" in text


def test_each_metric_is_by_itself_with_its_own_sign_and_what_runs_took_is_left_out(
    tmp_path: Path,
) -> None:
    values = {
        "ce": ((0.5, 2.0), (0.5, 2.0), (0.5, 2.0)),
        "el": ((0.75, 1.5), (0.8, 1.25), (0.75, 1.5)),
    }
    for method, runs in values.items():
        for seed, (last, nll) in enumerate(runs):
            add(
                tmp_path,
                method,
                seed=seed,
                metrics={"test_acc": {"last": last}, "test": {"nll": nll}},
            )
    text = below(report(tmp_path, metric="last,nll,work"))
    cells = []
    for gaps, scale, digits in (((0.25, 0.3, 0.25), 100, 2), ((-0.5, -0.75, -0.5), 1, 4)):
        ends = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
        cells.append(
            f"{scale * statistics.fmean(gaps):+.{digits}f} "
            f"[{scale * ends.low:+.{digits}f}, {scale * ends.high:+.{digits}f}]"
        )
    assert f"| el | {' | '.join(cells)} |\n" in text and "work" not in text
    (table,) = report(tmp_path, metric="last,work", rows="method,metric").tables
    assert {row for row, _ in table.differences} == {"el, last"}
    assert (
        "in points for percentages" in text
        and ("Lower is better for nll: improvements are negative.") in text
    )
    with pytest.raises(ConfigError, match="--compare-to compares results, but work is a cost"):
        report(tmp_path, metric="work")


def test_runs_of_the_same_compute_differ_in_their_epochs_too(tmp_path: Path) -> None:
    for seed, (ce, coteaching) in enumerate([(0.5, 0.6), (0.5, 0.7)]):
        trained(tmp_path, "ce", 40, seed=seed, last=ce)
        trained(
            tmp_path,
            "coteaching",
            20,
            "coteaching(rate=0.4, ramp=0.25, power=1)",
            seed=seed,
            last=coteaching,
        )
        trained(
            tmp_path,
            "coteaching",
            40,
            "coteaching(rate=0.4, ramp=0.25, power=1)",
            seed=seed,
            last=coteaching,
        )
    first, second = report(tmp_path, budget="compute").tables
    found = first.differences["coteaching, 20", SYM]
    assert found is not None and (found.mean, found.pairs) == (pytest.approx(0.15), 2)
    assert difference_table(second) is None and "No differences from ce:" in report(
        tmp_path, budget="compute"
    ).render("md")
    assert second.title.endswith("80 epochs of CE")
    (table,) = report(tmp_path, rows="method,epochs").tables
    assert {row for (row, _), each in table.differences.items() if each} == {"coteaching, 40"}, (
        "there the epochs are what one asked for"
    )


def test_published_numbers_are_left_out(tmp_path: Path) -> None:
    about = {
        "data": {"name": "cifar10", "sha256": "d"},
        "model": {"name": "cnn8"},
        "recipe": {"name": "el", "epochs": 10, "lr": 0.1},
    }
    made = report(fill(tmp_path, **about), published="equal-loss")
    assert (
        "[82.42, " in made.render("md")
        and "| el | +20.33 [+18.90, +21.77] |" in below(made)
        and "published" not in below(made)
    )


def test_a_narrow_terminal_has_fewer_digits(tmp_path: Path) -> None:
    from rich.console import Console

    (table,) = report(fill(tmp_path)).tables
    console = Console(file=io.StringIO(), width=31)
    console.print(draw_table(table, 31))
    assert "+20.3 [+18.9, +21.8]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_on_the_page_ids_are_unique_and_hostile_names_do_nothing(tmp_path: Path) -> None:
    for method in (HARD, "ce"):
        for seed in range(2):
            add(tmp_path, method, seed=seed)
    tags = Tags(page(report(tmp_path, HARD).tables, Workspace(tmp_path)))
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids)) and not tags.named("i")
    assert {
        attributes.get("aria-describedby")
        for attributes in tags.named("table")
        if "aria-describedby" in attributes
    } <= set(ids)
    assert (
        r"a\_b \& [c] 100\% \textless{}i\textgreater{} 10*x \textbar{} y"
        in report(tmp_path, HARD).render("latex").partition(", difference from ")[2]
    )


def test_a_baseline_may_have_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "runs")
    options = ["-C", str(tmp_path), "report", "--compare-to", "ce"]
    assert main([*options, "--save-baseline", str(tmp_path / "b.json")]) == 0
    assert main([*options, "--check", "--baseline", str(tmp_path / "b.json")]) == 0
    assert "check: 2 ok" in capsys.readouterr().err
