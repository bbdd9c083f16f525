"""Published numbers: what the papers say and no more, and beside ours every way in which theirs was
another experiment.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import noisebench as nb
from noisebench.cli import main
from noisebench.datasets import DATASETS
from noisebench.errors import UnknownName
from noisebench.experiments.backbones import BACKBONES
from noisebench.experiments.methods import METHODS
from noisebench.experiments.published import (
    PAPERS,
    SELECTIONS,
    OurProtocol,
    cells_of,
    find_published,
    read_published,
)
from noisebench.experiments.recipes import RECIPES
from noisebench.labels.build import check_noise
from noisebench.noise import normal_noise
from noisebench.noise.conventions import CONVENTIONS
from noisebench.reporting import METRICS
from tests.conftest import Case
from tests.unit.test_report import add

ROWS = read_published()
KINDS = {"symmetric", "asymmetric", "pairflip", "dependent", "human", "clean", "as-is"}


def test_no_row_is_lost_or_stands_twice() -> None:
    assert len(ROWS) == 994 and {row.paper for row in ROWS} == set(PAPERS)
    assert Counter(row.paper for row in ROWS)["equal-loss"] == 120
    keys = Counter(
        (row.paper, row.dataset, row.backbone, row.kind, row.rate, row.noise, row.name)
        for row in ROWS
    )
    assert set(keys.values()) == {1}


def test_numbers_are_shares_in_their_ranges() -> None:
    for row in ROWS:
        assert 0 < row.mean < 1 and (row.std is None or 0 <= row.std < 0.1), row
        assert (
            0 <= row.rate < 1
            and (row.runs is None or 1 <= row.runs <= 10)
            and (row.epochs is None or 100 <= row.epochs <= 200)
        ), row


def test_every_row_says_where_it_is_from() -> None:
    assert all(row.source and row.name and row.backbone for row in ROWS)


def test_words_that_are_ours_are_ours() -> None:
    theirs = {
        "resnet50",
        "inception",
        "cnn9",
        "resnet34 or preact_resnet18",
        "timm:resnet50",
        "timm:resnet101",
        "resnet101",
    }
    assert {row.backbone for row in ROWS} - set(BACKBONES) == theirs
    assert {row.dataset for row in ROWS} <= set(DATASETS)
    assert {row.method for row in ROWS} - {""} <= set(METHODS)
    assert {row.kind for row in ROWS} == KINDS and {row.selection for row in ROWS} <= set(
        SELECTIONS
    )
    assert set(SELECTIONS) - {""} <= set(METRICS)
    assert {"apl", "el", "sl"} <= {row.recipe for row in ROWS} & set(RECIPES)


def test_noises_are_canonical_and_of_the_stated_kind_and_rate() -> None:
    for row in ROWS:
        if not row.noise:
            assert row.convention, row  # why it is not known
            continue
        call = normal_noise(row.noise)
        assert str(call) == row.noise
        assert call.name == {"clean": "symmetric", "as-is": "imported"}.get(row.kind, row.kind)
        assert row.kind in ("human", "as-is") or dict(call.kwargs)["rate"] == row.rate


def test_noises_can_be_made_of_the_data_of_their_row() -> None:
    """A column or a map that nobody can ask for would stand beside no run."""
    for dataset, noise in sorted(
        {(row.dataset, row.noise) for row in ROWS if row.noise and row.dataset in DATASETS}
    ):
        check_noise(DATASETS[dataset], noise)


def test_a_convention_that_is_named_makes_the_noise_that_stands_there() -> None:
    words = {"symmetric": "sym", "asymmetric": "asym", "pairflip": "pair", "dependent": "idn"}
    named = [row for row in ROWS if row.convention in CONVENTIONS]
    assert len(named) > 450
    for row in named:
        text = CONVENTIONS[row.convention].text(words[row.kind], row.rate, row.dataset)
        assert str(normal_noise(text)) == row.noise, row


def test_the_equal_loss_paper_says_so(case: Case) -> None:
    """Its Table 1."""
    for dataset, kind, rate, name, percent in [
        ("cifar10", "symmetric", 0.2, "EL", 88.59),
        ("cifar10", "symmetric", 0.4, "EL", 82.42),
        ("cifar10", "symmetric", 0.6, "EL", 81.50),
        ("cifar10", "symmetric", 0.8, "EL", 54.89),
        ("cifar10", "asymmetric", 0.2, "EL", 89.37),
        ("cifar10", "asymmetric", 0.3, "EL", 86.89),
        ("cifar10", "asymmetric", 0.4, "EL", 82.36),
        ("cifar10", "symmetric", 0.2, "CE", 82.96),
        ("cifar10", "asymmetric", 0.4, "Forward", 85.73),
        ("cifar10", "symmetric", 0.8, "D2L", 19.83),
        ("cifar100", "symmetric", 0.4, "EL", 55.33),
        ("cifar100", "symmetric", 0.8, "EL", 19.06),
        ("cifar100", "asymmetric", 0.3, "EL", 66.23),
        ("cifar100", "symmetric", 0.8, "Bootstrap", 1.00),
        ("cifar100", "asymmetric", 0.4, "GCE", 61.69),
        ("cifar100", "symmetric", 0.2, "SL", 60.01),
    ]:
        with case(dataset=dataset, kind=kind, rate=rate, name=name, percent=percent):
            (row,) = [
                r
                for r in cells_of("equal-loss")
                if (r.dataset, r.kind, r.rate, r.name) == (dataset, kind, rate, name)
            ]
            assert row.mean == pytest.approx(percent / 100)


def test_the_equal_loss_paper_says_so_of_imagenet(case: Case) -> None:
    """Its Table 2, mean and deviation."""
    for backbone, numbers in [
        (
            "timm:resnet50",
            {
                "CE": (76.80, 0.09),
                "EL": (77.65, 0.09),
                "LSR": (77.06, 0.11),
                "LSR+EL": (77.74, 0.15),
            },
        ),
        (
            "timm:resnet101",
            {
                "CE": (77.98, 0.09),
                "EL": (78.72, 0.08),
                "LSR": (78.15, 0.10),
                "LSR+EL": (78.82, 0.11),
            },
        ),
    ]:
        with case(backbone=backbone, numbers=numbers):
            found = {
                r.name: (100 * r.mean, 100 * r.std)
                for r in cells_of("equal-loss")
                if r.backbone == backbone and r.std is not None
            }
            assert found == {name: pytest.approx(pair) for name, pair in numbers.items()}


def test_the_means_over_rates_are_those_that_equal_loss_prints() -> None:
    """The last column of its Table 1: a mistyped cell would move it."""
    printed = {
        "CE": 73.01,
        "LSR": 73.10,
        "Bootstrap": 75.46,
        "Forward": 78.31,
        "SL": 80.16,
        "D2L": 67.84,
        "GCE": 74.89,
        "EL": 80.86,
    }
    for name, percent in printed.items():
        means = [
            row.mean
            for row in cells_of("equal-loss")
            if (row.dataset, row.name) == ("cifar10", name)
        ]
        assert len(means) == 7 and 100 * sum(means) / 7 == pytest.approx(percent, abs=0.006), name


def test_equal_losss_baselines_are_copied_and_its_own_rows_are_not() -> None:
    for row in cells_of("equal-loss"):
        own = row.method in ("el", "lsr_el") or row.dataset == "imagenet"
        assert bool(row.copied_from) != own
    theirs = {(r.kind, r.rate, r.name): r.mean for r in cells_of("sl")}
    copies = [r for r in cells_of("equal-loss") if r.copied_from == "sl"]
    assert len(copies) == 21
    assert all(theirs[r.kind, r.rate, r.name] == r.mean for r in copies)


def ours(**changes: object) -> OurProtocol:
    facts = {"dataset": "cifar10", "backbone": "cnn8", "noise": "symmetric(rate=0.4)", "method": "el", "recipe": "el", "epochs": 120,
             "selection": "last", **changes}  # fmt: skip
    return OurProtocol(**facts)  # type: ignore[arg-type]


def test_each_difference_of_protocol_is_named(case: Case) -> None:
    for changes, expected in [
        ({}, ("paper's epochs unstated", "paper's selection unstated")),
        (
            {"recipe": "apl"},
            ("paper's recipe el", "paper's epochs unstated", "paper's selection unstated"),
        ),
        (
            {"method": "gce", "recipe": "sl", "noise": "symmetric(rate=0.2)"},
            (
                "copied from sl (not verified)",
                "paper also decays the learning rate per step, shifts images by a fifth",
                "paper's number of runs unstated",
            ),
        ),
        (
            {"backbone": "resnet18"},
            ("paper's network cnn8", "paper's epochs unstated", "paper's selection unstated"),
        ),
        (
            {"noise": "asymmetric(rate=0.4, map='cifar10')"},
            (
                "paper's noise asymmetric(rate=0.4, map='cifar10-two-way')",
                "paper's epochs unstated",
                "paper's selection unstated",
            ),
        ),
    ]:
        with case(changes=changes, expected=expected):
            beside = find_published("equal-loss", ours(**changes))
            assert beside is not None and beside.mismatches == expected


def test_where_all_is_alike_nothing_is_named() -> None:
    beside = find_published("eps-softmax", ours(method="ce", recipe="apl"))
    assert (
        beside is not None
        and beside.mismatches == ()
        and beside.cell.mean == pytest.approx(0.5846, abs=0.005)
    )


def test_a_method_that_is_the_same_by_name_only_says_so(case: Case) -> None:
    for paper, changes, remark in [
        ("elr", {"method": "forward", "backbone": "resnet34"}, "true or estimated T not known"),
        ("equal-loss", {"method": "bootstrap"}, "soft or hard not known"),
        (
            "sl",
            {"method": "lsr", "dataset": "cifar100"},
            "targets of the authors' code sum to 1.89",
        ),
        (
            "eps-softmax",
            {"method": "eps_ce_mae", "dataset": "cifar100", "noise": "symmetric(rate=0.6)"},
            "alpha 0.00125 in its code, perhaps 0.0125",
        ),
        ("sce-reproduce", {"method": "sl", "dataset": "cifar100"}, "beta 1"),
        (
            "coteaching",
            {"method": "coteaching", "noise": "symmetric(rate=0.5)"},
            "tested on 9984 of 10000 images",
        ),
        ("jal", {"method": "anl_ce"}, "weight decay 0, pmin 1e-8"),
        (
            "equal-loss",
            {
                "method": "el",
                "dataset": "cifar100",
                "noise": ("asymmetric(rate=0.4, map='superclass-pair', pairs_seed=0)"),
            },
            "which pairs not known",
        ),
    ]:
        with case(paper=paper, changes=changes, remark=remark):
            beside = find_published(paper, ours(**changes))
            assert beside is not None and beside.mismatches[-1] == f"paper: {remark}"


def test_a_recipe_that_lacks_a_part_of_its_papers_says_so() -> None:
    beside = find_published(
        "eps-softmax",
        ours(method="ce", recipe="apl", dataset="cifar100", backbone="resnet34", epochs=200),
    )
    assert beside is not None and beside.mismatches == ("paper also rotates images",)


def test_human_noise_is_joined_by_its_column() -> None:
    for column in ("aggre_label", "worse_label"):
        beside = find_published(
            "cifar-n",
            ours(
                method="ce",
                noise=f"human(column='{column}')",
                backbone="resnet34",
                selection="best",
            ),
        )
        assert beside is not None and beside.cell.noise == f"human(column='{column}')"


def test_what_the_paper_did_not_do_has_nothing_beside_it(case: Case) -> None:
    for changes in [
        {"dataset": "digits"},
        {"method": "agce"},
        {"noise": "symmetric(rate=0.41)"},
        {"noise": "not ours("},
    ]:
        with case(changes=changes):
            assert find_published("equal-loss", ours(**changes)) is None


def test_another_paper_says_what_is_near() -> None:
    with pytest.raises(UnknownName, match="did you mean 'equal-loss'"):
        cells_of("equal-los")


@pytest.fixture
def two_runs(tmp_path: Path) -> Path:
    """A run of a method that the paper has, and one of another; their records made, since CIFAR-10
    takes hours.
    """
    about = {
        "data": {"name": "cifar10", "sha256": "d"},
        "model": {"name": "cnn8"},
        "recipe": {"name": "el", "epochs": 10, "lr": 0.1},
    }
    for method in ("el", "mentornet"):
        add(tmp_path / "runs", method, last=0.8, **about)
    return tmp_path


def test_a_report_puts_the_paper_beside_each_cell(
    two_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(two_runs), "report", "--published", "equal-loss", "--format", "md"]) == 0
    text = capsys.readouterr().out
    assert "| el | 80.00" in text and "[82.42, -2.42 a]" in text and "| mentornet | 80.00 |" in text
    assert "a: paper's epochs unstated; paper's selection unstated." in text


APL = {"epochs": 120, "batch_size": 128, "lr": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4, "schedule": "cosine",
       "clip": 5.0, "crop": 4, "flip": True}  # fmt: skip


def test_what_a_run_changed_of_its_recipe_is_a_difference(tmp_path: Path, case: Case) -> None:
    cases = [
        ({}, "", []),
        ({"epochs": 10}, "", ["paper's epochs 120"]),
        ({"lr": 1.0, "weight_decay": 0.0}, "", ["ours with lr 1, weight decay 0"]),
        (
            {"flip": False, "nesterov": True, "schedule": "constant"},
            "",
            [("ours with nesterov, schedule constant, no flip")],
        ),
        ({}, "0.1 held out after corruption", ["ours with 0.1 held out after corruption"]),
    ]
    for number, (changes, held_out, expected) in enumerate(cases):
        with case(changes=changes, held_out=held_out):
            noise = {
                "text": "symmetric(rate=0.4)",
                "seed": 0,
                "realised_rate": 0.4,
                "held_out": held_out,
            }
            recipe = {"name": "apl", **APL, **changes}
            folder = add(
                tmp_path / str(number),
                data={"name": "cifar10", "sha256": "d"},
                model={"name": "cnn8"},
                recipe=recipe,
            )
            folder.write_json(
                folder.result, {**json.loads(folder.result.read_text()), "noise": noise}
            )
            (cell,) = nb.report(tmp_path / str(number), published="eps-softmax").document()["cells"]
            assert cell["published"]["mismatches"] == expected


def test_a_document_says_it_in_numbers(two_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-C", str(two_runs), "report", "--published", "equal-loss", "--json"]) == 0
    cells = {cell["method"]: cell for cell in json.loads(capsys.readouterr().out)["cells"]}
    published = cells["el"]["published"]
    assert cells["mentornet"]["published"] is None
    assert (
        published["difference"] == pytest.approx(-0.0242)
        and published["mean"] == pytest.approx(0.8242)
        and published["n"] == 4
    )
    assert (
        published["mismatches"] == ["paper's epochs unstated", "paper's selection unstated"]
        and "Table 1" in published["source"]
    )


def test_a_paper_that_nobody_knows_is_exit_2(
    two_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(two_runs), "report", "--published", "equal-los"]) == 2
    assert (
        "unknown published paper 'equal-los': did you mean 'equal-loss'? (noisebench list "
        "published)"
    ) in capsys.readouterr().err


def test_the_list_of_papers_has_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "published", "--json"]) == 0
    papers = json.loads(capsys.readouterr().out)
    assert sum(len(paper["cells"]) for paper in papers) == 994
    assert {paper["name"]: paper["selection"] for paper in papers}["equal-loss"] == [
        "last",
        "unstated",
    ]


def test_a_paper_in_full_is_its_own_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "published", "equal-loss"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "cifar10, cnn8" in lines and "cifar100, resnet44" in lines
    # The paper's Table 1.
    assert (
        "EL 61.56 ± 0.12 55.33 ± 0.07 44.65 ± 0.10 19.06 ± 0.44 66.69 ± 0.13 66.23 ± 0.18 "
        "64.29 ± 0.27"
    ) in lines


def test_every_paper_shows_every_number(capsys: pytest.CaptureFixture[str], case: Case) -> None:
    for paper in PAPERS:
        with case(paper=paper):
            assert main(["list", "published", paper]) == 0
            words = Counter(capsys.readouterr().out.split())
            assert not Counter(f"{100 * cell.mean:.2f}" for cell in cells_of(paper)) - words
