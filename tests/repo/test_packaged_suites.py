"""The suites that come with the package: how many of their cells the paper that they name has, and
which of its cells they leave out.
"""

from __future__ import annotations

import pytest

from noisebench.datasets import DATASETS
from noisebench.experiments.published import OurProtocol, PublishedMatch, cells_of, find_published
from noisebench.experiments.recipes import make_recipe, recipe_values
from noisebench.experiments.suite import Suite, SuiteRun, expand, read_suites
from noisebench.experiments.suite_file import packaged_suites
from noisebench.labels.build import noise_for

SUITES = read_suites(packaged_suites())


def _beside(suite: Suite, run: SuiteRun) -> PublishedMatch | None:
    told = run.settings
    noise = str(noise_for(DATASETS[told["dataset"]], told["noise"]))
    epochs = make_recipe(
        told["recipe"], told["dataset"], augment={}, changes=recipe_values(run.settings)
    ).epochs
    ours = OurProtocol(
        told["dataset"],
        told["model"],
        noise,
        told["method"],
        told["recipe"],
        epochs,
        suite.report.metric,
    )
    return find_published(str(suite.report.published), ours)


def _cells(name: str) -> list[PublishedMatch | None]:
    return [_beside(SUITES[name], run) for run in expand(SUITES[name]) if run.seed == 0]


CELLS = {  # of seed 0, and how many of them the paper has
    "el-cifar10": (56, 56),
    "el-cifar10-two-way": (24, 24),
    "el-cifar100": (56, 56),
    "sl-cifar10": (56, 56),
    "el-imagenet": (8, 8),
    "apl-cifar10": (135, 126),  # EL is in no table
    "apl-cifar100": (135, 126),
    "cifar10n": (65, 60),
    "cifar100n": (13, 11),  # AGCE is not published there
    "cifar10-short": (8, 8),
    "cifar10-short-two-way": (2, 2),
}


def test_a_suite_that_names_a_paper_has_its_cells(subtests: pytest.Subtests) -> None:
    assert set(CELLS) == {name for name, suite in SUITES.items() if suite.report.published}
    for name, expected in CELLS.items():
        with subtests.test(suite=name):
            found = _cells(name)
            assert (len(found), sum(beside is not None for beside in found)) == expected


def test_what_stands_beside_a_row_of_the_apl_suites_is_of_the_same_loss() -> None:
    """No remark says that the loss is another one; of one of them the code leaves open which it
    was.
    """
    remarks = {
        beside.cell.remark
        for name in ("apl-cifar10", "apl-cifar100")
        for beside in _cells(name)
        if beside is not None
    }
    assert remarks <= {"", "alpha 0.00125 in its code, perhaps 0.0125"}


def test_every_suite_says_what_it_takes() -> None:
    assert [name for name, suite in SUITES.items() if not (suite.takes and suite.summary)] == []


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("cifar10", "el-cifar10"), ("cifar100", "el-cifar100"), ("imagenet", "el-imagenet")],
)
def test_the_equal_loss_papers_tables_are_whole(dataset: str, name: str) -> None:
    """Each number that it prints of these data stands beside a cell of the suite."""
    there = {beside.cell for beside in _cells(name) if beside}
    assert there == {row for row in cells_of("equal-loss") if row.dataset == dataset}


@pytest.mark.parametrize("name", ["el-cifar10", "el-cifar100"])
def test_the_papers_own_row_differs_in_nothing_that_it_states(name: str) -> None:
    """But in the asymmetric noise of CIFAR-10, which its text makes both ways; the suite of that
    name does.
    """
    silent = {
        "paper's epochs unstated",
        "paper's selection unstated",
        "paper: which pairs not known",
    }
    own = [beside for beside in _cells(name) if beside and beside.cell.method == "el"]
    for beside in own:
        one_way = name == "el-cifar10" and beside.cell.kind == "asymmetric"
        assert {
            text for text in beside.mismatches if not text.startswith("paper's noise")
        } <= silent
        assert any(text.startswith("paper's noise") for text in beside.mismatches) == one_way


def test_both_ways_is_what_the_papers_text_says() -> None:
    own = [
        beside for beside in _cells("el-cifar10-two-way") if beside and beside.cell.method == "el"
    ]
    assert len(own) == 3
    assert not any(text.startswith("paper's noise") for beside in own for text in beside.mismatches)
