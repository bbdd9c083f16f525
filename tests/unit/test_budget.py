"""The same compute instead of the same epochs: how many epochs that is, whose run it is, and the
table that shows it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisebench.cli import main
from noisebench.errors import ConfigError
from noisebench.experiments.methods import METHODS
from noisebench.experiments.recipes import Recipe
from noisebench.experiments.resolve import (
    RelativeCost,
    RunConfig,
    RunRequest,
    at_budget,
    price_of,
    resolve_run,
)
from noisebench.experiments.suite import find_suite, read_suites
from noisebench.losses import LOSSES
from noisebench.reporting import Report, TableLayout, make_tables, read_rows, report_of
from noisebench.reporting.aggregate import by_compute
from noisebench.runs.folder import run_folders
from noisebench.runs.queue import plan_suite
from noisebench.runs.workspace import Workspace
from noisebench.strategies import STRATEGIES, Strategy, normal_strategy, register_strategy
from tests.unit.test_report import ASYM, SYM, add
from tests.unit.test_suite import GOOD, mistakes, write

PRICES = st.builds(RelativeCost, st.floats(1, 12), st.booleans())
BUDGETS = st.integers(1, 400)
TEN = {"budget": "compute", "changes": {"epochs": 10}}


@given(PRICES, BUDGETS)
def test_a_budget_buys_an_epoch_at_least_and_else_its_work_to_half_an_epoch(
    price: RelativeCost, budget: int
) -> None:
    epochs = price.epochs(budget)
    assert epochs >= 1
    # and the epochs of the estimate are whole ones too
    half = (price.share + price.estimates / 4) / 2 + price.estimates / 2
    assert epochs == 1 or abs(price.work(epochs) - budget) <= half + 1e-9


@given(BUDGETS)
def test_plain_training_keeps_its_epochs(budget: int) -> None:
    assert RelativeCost(1).epochs(budget) == budget == RelativeCost(1).work(budget)


def test_every_method_and_strategy_that_comes_with_the_package_has_a_price() -> None:
    names = [entry.name for entry in STRATEGIES if entry.build.__module__.startswith("noisebench.")]
    for loss, strategy in [
        *((m.loss, m.strategy) for m in METHODS.values()),
        *(("ce", name) for name in names),
    ]:
        assert (
            price_of(loss, strategy).epochs(1) == 1 <= price_of(loss, strategy).epochs(120) <= 120
        )


def test_what_estimates_its_noise_pays_for_that() -> None:
    assert price_of("el(eps=estimated)", "standard") == RelativeCost(1, True)
    assert price_of("ce", "coteaching(rate=estimated)") == RelativeCost(2, True)
    assert RelativeCost(1, True).epochs(40) == 32 and RelativeCost(1, True).work(32) == 40
    assert price_of("el(eps=0.4)", "coteaching(rate=0.4)") == RelativeCost(2)


def test_a_strategy_that_says_no_cost_cannot_be_budgeted() -> None:
    if "test_free_of_price" not in STRATEGIES:

        @register_strategy(name="test_free_of_price")
        class Free(Strategy):
            """Says no cost."""

    with pytest.raises(ConfigError, match="'test_free_of_price' has no registered cost"):
        price_of("ce", "test_free_of_price")


def test_a_schedule_that_counts_epochs_goes_with_no_budget_of_compute() -> None:
    ce, twice = LOSSES.normal("ce"), normal_strategy("coteaching(rate=0.4)")
    steps = Recipe(120, schedule="step(40, 80)")
    assert at_budget(steps, "epochs", ce, twice) == steps
    assert at_budget(replace(steps, schedule="cosine"), "compute", ce, twice).epochs == 60
    with pytest.raises(ConfigError, match="lists epochs"):
        at_budget(steps, "compute", ce, twice)
    with pytest.raises(ConfigError, match="budget must be one of epochs, compute"):
        at_budget(steps, "time", ce, twice)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory):
    """A run of a wish on digits."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    dataset = workspace.dataset("digits")
    from noisebench.labels.build import LabelRequest

    manifest, _ = workspace.make(dataset, LabelRequest("symmetric(rate=0.4)"))
    return lambda **wish: resolve_run(RunRequest(**wish), dataset, manifest, "sha")


@pytest.mark.parametrize("method", ["ce", "gce", "coteaching", "el_estimated", "joint"])
def test_the_same_run_has_one_key_however_it_was_asked_for(method: str, plan) -> None:
    budgeted: RunConfig = plan(method=method, **TEN)
    typed: RunConfig = plan(method=method, changes={"epochs": budgeted.recipe.epochs})
    assert budgeted.recipe.epochs == {"coteaching": 5, "el_estimated": 8}.get(method, 10)
    assert (budgeted.key, budgeted.config, budgeted.folder_name) == (
        typed.key,
        typed.config,
        typed.folder_name,
    )
    other: RunConfig = plan(method=method, changes={"epochs": 10})
    assert (budgeted.key == other.key) == (budgeted.recipe.epochs == 10)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 1", "budget: time", "4:33: budget must be one of epochs, compute, got 'time'"),
        (
            "epochs: 1",
            "budget: compute, schedule: 'step(2, 4)'",
            "4:5: schedule step(2, 4) lists epochs",
        ),
        ("lr: 0.05", "budget: compute", "override.0.set.budget: unknown key"),
    ],
)
def test_a_mistake_in_a_budget_is_said_with_its_place(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert message in mistakes(tmp_path, GOOD.replace(old, new, 1))


def test_a_suite_gives_all_its_runs_the_budget(tmp_path: Path) -> None:
    text = GOOD.replace("epochs: 1", "epochs: 4").replace("[ce, el]", "[el, coteaching]")
    plain = read_suites(write(tmp_path, text))["tiny"]
    written = read_suites(write(tmp_path, text.replace("epochs: 4", "epochs: 4, budget: compute")))[
        "tiny"
    ]
    assert (
        plain.with_defaults(budget="compute") == written
        and written.with_defaults(budget="epochs").defaults.budget == "epochs"
    )
    epochs = {
        item.run.method: item.run.recipe.epochs for item in plan_suite(Workspace(tmp_path), written)
    }
    assert epochs == {"el": 4, "coteaching": 2}
    assert {item.run.recipe.epochs for item in plan_suite(Workspace(tmp_path), plain)} == {4}


def trained(
    root: Path, method: str, epochs: int, strategy: str = "standard", **more: object
) -> None:
    """A finished run of so many epochs."""
    recipe = {"name": "digits", "epochs": epochs, "lr": 0.1}
    add(root, method, strategy=strategy, recipe=recipe, **more)  # type: ignore[arg-type]


def compute_report(root: Path, **shape: str) -> Report:
    return report_of(run_folders([root]), TableLayout(budget="compute", **shape))  # type: ignore[arg-type]


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """CE for 40 epochs, co-teaching for as many and for as many as do that work, CleanNet for
    these, and estimates.
    """
    for noise in (SYM, ASYM):
        trained(tmp_path, "ce", 40, noise=noise, last=0.5)
        trained(
            tmp_path,
            "coteaching",
            20,
            "coteaching(rate=0.4, ramp=0.25, power=1)",
            noise=noise,
            last=0.6,
        )
        trained(
            tmp_path,
            "coteaching",
            40,
            "coteaching(rate=0.4, ramp=0.25, power=1)",
            noise=noise,
            last=0.9,
        )
        trained(
            tmp_path, "cleannet", 30, "cleannet(threshold=0.1, wait=0.1)", noise=noise, last=0.7
        )
        trained(tmp_path, "el_estimated", 32, loss="el(eps=estimated)", noise=noise, last=0.8)
    return tmp_path


def test_methods_of_the_same_work_stand_in_one_table_with_their_epochs(unequal: Path) -> None:
    first, second = compute_report(unequal).tables
    assert first.title == "digits, mlp, digits, same compute as 40 epochs of CE"
    assert first.rows == ("ce, 40", "coteaching, 20", "cleannet, 30", "el_estimated, 32")
    assert [first.cells[row, SYM].mean for row in first.rows] == [0.5, 0.6, 0.7, 0.8]
    assert second.title.endswith("80 epochs of CE") and second.rows == ("coteaching, 40",)
    text = compute_report(unequal).render("md")
    assert "| method, epochs |" in text and "| coteaching, 20 epochs | 60.00 | 60.00 |" in text
    assert (
        "Epochs: same compute as 40 epochs of CE, counted in forward and backward passes." in text
    )


def test_without_a_budget_runs_of_other_epochs_stand_in_other_tables(unequal: Path) -> None:
    found = {
        table.title: table.rows for table in report_of(run_folders([unequal]), TableLayout()).tables
    }
    assert found["digits, mlp, digits, 40 epochs"] == ("ce", "coteaching") and found[
        ("digits, mlp, digits, 20 epochs")
    ] == ("coteaching",)


def test_epochs_stand_beside_the_methods_wherever_these_are(unequal: Path) -> None:
    (table, _) = compute_report(unequal, rows="noise", cols="method").tables
    assert table.cols == (
        "ce, 40",
        "coteaching, 20",
        "cleannet, 30",
        "el_estimated, 32",
    ) and table.rows == (SYM, ASYM)
    (table, _) = compute_report(unequal, rows="epochs,method").tables
    assert table.rows == ("20, coteaching", "30, cleannet", "32, el_estimated", "40, ce")


def test_epochs_are_an_axis_without_a_budget_too(unequal: Path) -> None:
    (table,) = report_of(run_folders([unequal]), TableLayout(rows="method,epochs")).tables
    assert (
        table.title == "digits, mlp, digits"
        and "coteaching, 20" in table.rows
        and "coteaching, 40" in table.rows
    )
    assert [cell.compute for cell in table.cells.values()] == [None] * 10


def test_a_cell_keeps_its_own_epochs_for_a_gate(unequal: Path) -> None:
    cells = compute_report(unequal).document()["cells"]
    assert {(cell["method"], cell["settings"]["epochs"], cell["epochs"]) for cell in cells if cell["noise"] == SYM} == {
        ("ce", 40, 40), ("coteaching", 20, 20), ("coteaching", 40, 40), ("cleannet", 30, 30), ("el_estimated", 32, 32),
    }  # fmt: skip


def test_a_budget_that_epochs_cannot_meet_says_by_how_much(tmp_path: Path) -> None:
    trained(tmp_path, "ce", 5)
    trained(tmp_path, "coteaching", 2, "coteaching(rate=0.4)")
    (table,) = compute_report(tmp_path).tables
    assert (
        "same compute as 5 epochs" in table.title
        and "counted in forward and backward passes, within 20 %."
        in compute_report(tmp_path).render("md")
    )


def test_runs_that_differ_otherwise_do_not_share_a_budget(tmp_path: Path) -> None:
    trained(tmp_path, "ce", 40)
    add(
        tmp_path,
        "coteaching",
        strategy="coteaching(rate=0.4)",
        recipe={"name": "digits", "epochs": 20, "lr": 0.2},
    )
    assert [len(table.cells) for table in compute_report(tmp_path).tables] == [1, 1]


def test_a_run_of_unknown_price_is_named(tmp_path: Path) -> None:
    trained(tmp_path, "mine", 40, "of_a_plugin")
    with pytest.raises(
        ConfigError,
        match=r"'of_a_plugin'.*load the --plugin, or exclude these runs with --filter",
    ):
        compute_report(tmp_path)
    with pytest.raises(ConfigError, match="budget must be one of"):
        make_tables([], budget="money")


STRATEGY_TEXTS = [
    "standard",
    "coteaching(rate=0.4)",
    "cleannet",
    "coteaching(rate=estimated)",
    "joint",
]


@given(budget=st.integers(1, 300), chosen=st.sets(st.sampled_from(STRATEGY_TEXTS), min_size=1))
def test_whatever_a_budget_plans_its_table_finds_together(
    budget: int, chosen: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (row,) = SOME.get("row") or SOME.setdefault("row", one_row(tmp_path_factory.mktemp("run")))
    rows = []
    for text in ("standard", *sorted(chosen)):
        epochs = price_of("ce", text).epochs(budget)
        rows.append(
            replace(
                row,
                axes={**row.axes, "epochs": str(epochs)},
                inputs={**row.inputs, "strategy": text},
            )
        )
    found = by_compute(rows)
    assert {each.comparable["budget"] for each in found} == {budget} and [
        each.epochs for each in found
    ] == [each.epochs for each in rows]


SOME: dict[str, list] = {}


def one_row(root: Path) -> list:
    add(root)
    return read_rows(run_folders([root]), ["last"])


TINY = """\
version: 1
suites:
  tiny:
    defaults: {dataset: digits, subset: 200, epochs: 4, seeds: [0, 1], precision: fp32, budget: compute}
    matrix: {noise: [symmetric(rate=0.4)], method: [ce, coteaching]}
"""


def test_a_suite_at_the_same_compute_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, TINY)
    assert main(["run", "tiny", "--dry-run"]) == 0
    assert "mlp, seed 0, 2 epochs: new" in capsys.readouterr().out
    assert main(["run", "tiny", "--dry-run", "--json"]) == 0
    assert [run["epochs"] for run in json.loads(capsys.readouterr().out)["runs"]] == [4, 4, 2, 2]
    assert main(["run", "tiny", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert (
        "same compute as 4 epochs of CE" in out
        and "coteaching, 2 epochs" in out
        and "ce, 4 epochs" in out
    )
    assert (
        main(
            [
                "train",
                "digits",
                "--subset",
                "200",
                "--sym",
                "0.4",
                "--method",
                "coteaching",
                "--epochs",
                "2",
                "--precision",
                "fp32",
            ]
        )
        == 0
    )
    assert "is finished already" in capsys.readouterr().err
    assert main(["run", "tiny", "--budget", "epochs", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == [
        "done",
        "done",
        "run",
        "run",
    ] and "epochs" not in lines[0]
    assert main(["report", "--budget", "compute", "--metric", "last,work"]) == 0
    assert " 4.00 ± 0.00" in capsys.readouterr().out
    assert (
        main(["run", "tiny", "--budget", "money", "--dry-run"]) == 2
        and main(["report", "--budget", "money"]) == 2
    )
    assert main(["report", "--figure", "curves", "--budget", "compute"]) == 2
    assert find_suite("tiny", tmp_path)[1].defaults.budget == "compute"
