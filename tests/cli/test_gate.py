"""The gate: what is a regression, what cannot be decided, and what is neither; by the exit code and
by cell.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from noisebench.cli import main
from noisebench.reporting import Check, Rules, TableLayout, check, report_of
from noisebench.reporting.ci import SUMMARY_LIMIT, error_lines, step_summary
from noisebench.reporting.stats import holm, moderated
from noisebench.runs.folder import RunFolder, run_folders
from tests.unit.test_report import ASYM, SYM, add

METHODS, SEEDS = ("ce", "gce", "el"), 4
VERSIONS = {"loss:ce": "1"}


def suite(
    root: Path, *, seeds: range = range(SEEDS), points: float = 0.0, chance: int = 0, **more: object
) -> Path:
    """Runs of three methods and two noises, standard deviation one point; EL at SYM is worse by
    `points`.
    """
    for noise in (SYM, ASYM):
        for method in METHODS:
            for seed in seeds:
                dice = random.Random(f"{noise} {method} {seed} {chance}")
                value = (
                    0.8
                    + dice.gauss(0, 0.01)
                    - (points / 100 if (method, noise) == ("el", SYM) else 0)
                )
                add(root, method, noise, seed, value, **{"versions": VERSIONS, **more})
    return root


def relabel(root: Path, sha: str) -> None:
    """Let every run have been trained on labels of this hash."""
    for folder in run_folders([root]):
        record = json.loads(folder.result.read_text())
        record["noise"]["manifest_sha256"] = sha
        folder.write_json(folder.result, record)


def content(root: Path, metric: str = "last") -> dict:
    return report_of(run_folders([root]), TableLayout(metric=metric)).document()


def judged(then: Path, now: Path, **rules: object) -> Check:
    return check(content(now), content(then), Rules(**rules))  # type: ignore[arg-type]


def code(found: Check) -> int:
    return found.error.exit_code if found.error else 0


def folder_of(root: Path, method: str, seed: int = 0) -> RunFolder:
    return next(
        f
        for f in run_folders([root])
        if f.record()["method"] == method and f.record()["seed"] == seed
    )


def test_the_same_results_pass(tmp_path: Path) -> None:
    found = judged(suite(tmp_path / "a"), suite(tmp_path / "b"))
    assert code(found) == 0 and len(found.of("ok")) == 6


def test_a_planted_drop_is_found_and_it_alone(tmp_path: Path) -> None:
    found = judged(suite(tmp_path / "a"), suite(tmp_path / "b", points=2))
    assert code(found) == 4 and [finding.names["method"] for finding in found.of("regressed")] == [
        "el"
    ]
    assert found.of("regressed")[0].drop == pytest.approx(2)


def test_a_planted_drop_is_found_amid_seed_noise(tmp_path: Path) -> None:
    assert code(judged(suite(tmp_path / "a"), suite(tmp_path / "b", points=15, chance=1))) == 4


def test_what_seeds_explain_is_no_regression(tmp_path: Path) -> None:
    found = judged(suite(tmp_path / "a"), suite(tmp_path / "b", chance=1))
    assert code(found) == 0 and max(finding.drop or 0 for finding in found.findings) > 0.1


def test_a_gain_is_no_regression(tmp_path: Path) -> None:
    assert code(judged(suite(tmp_path / "a", points=5), suite(tmp_path / "b"))) == 0


def test_a_drop_within_the_tolerance_is_none(tmp_path: Path) -> None:
    then, now = suite(tmp_path / "a"), suite(tmp_path / "b", points=0.4)
    assert (code(judged(then, now)), code(judged(then, now, tolerance=0.3))) == (0, 4)


def test_tolerance_0_compares_exactly_even_one_seed(tmp_path: Path) -> None:
    then, now, same = (
        suite(tmp_path / n, seeds=range(1), points=p) for n, p in (("a", 0), ("b", 0.01), ("c", 0))
    )
    assert (code(judged(then, now, tolerance=0)), code(judged(then, same, tolerance=0))) == (4, 0)


def test_one_seed_tells_nothing_of_noise(tmp_path: Path) -> None:
    found = judged(suite(tmp_path / "a", seeds=range(1)), suite(tmp_path / "b", seeds=range(1)))
    assert code(found) == 5 and "needs two seeds or more" in found.findings[0].text


def test_without_shared_seeds_the_cells_are_compared_unpaired(tmp_path: Path) -> None:
    then = suite(tmp_path / "a")
    assert code(judged(then, suite(tmp_path / "b", seeds=range(10, 14)))) == 0
    found = judged(then, suite(tmp_path / "c", seeds=range(10, 14), points=15))
    assert code(found) == 4 and "(unpaired" in found.of("regressed")[0].text
    assert code(judged(then, tmp_path / "c", tolerance=0)) == 5


def test_other_manifests_are_not_compared(tmp_path: Path) -> None:
    then, now = suite(tmp_path / "a"), suite(tmp_path / "b")
    relabel(now, "other")
    found = judged(then, now)
    assert code(found) == 5 and "another manifest" in found.findings[0].text


def test_a_changed_component_is_not_compared(tmp_path: Path) -> None:
    found = judged(suite(tmp_path / "a"), suite(tmp_path / "b", versions={"loss:ce": "2"}))
    assert code(found) == 5 and "component versions (loss:ce 1 -> 2)" in found.findings[0].text


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"recipe": {"name": "digits", "epochs": 40, "lr": 0.2}}, "lr 0.1 -> 0.2"),
        ({"precision": "bf16"}, "precision fp32 -> bf16"),
        ({"data": {"name": "digits", "sha256": "other"}}, "data changed"),
        ({"loss": "ce + mae"}, "the loss changed"),
    ],
    ids=str,
)
def test_other_settings_are_not_compared(other: dict, said: str, tmp_path: Path) -> None:
    found = judged(suite(tmp_path / "a"), suite(tmp_path / "b", **other))
    assert code(found) == 5 and said in found.findings[0].text


def test_a_missing_cell_is_5_unless_allowed_and_nothing_at_all_is_5_even_then(
    tmp_path: Path,
) -> None:
    then, now = suite(tmp_path / "a"), suite(tmp_path / "b")
    for seed in range(SEEDS):
        folder_of(now, "gce", seed).result.unlink()
    assert (code(judged(then, now)), code(judged(then, now, allow_missing=True))) == (5, 0)
    (tmp_path / "c").mkdir()
    assert code(judged(then, tmp_path / "c", allow_missing=True)) == 5


def fail(folder: RunFolder) -> None:
    record = folder.record()
    about = {"dataset": "digits", "noise": record["noise"]["text"], "realised_rate": 0.4, "noise_seed": record["noise"]["seed"],
             "model": "mlp", "recipe_name": "digits", "recipe": {"epochs": 40, "lr": 0.1}, "data_sha256": "d",
             **{key: record[key] for key in ("method", "seed", "oracle", "loss", "strategy", "precision")}}  # fmt: skip
    folder.result.unlink()
    folder.write_error(about, "RuntimeError", "broken")


def test_a_failed_run_is_3_even_beside_a_regression(tmp_path: Path) -> None:
    then, now = suite(tmp_path / "a"), suite(tmp_path / "b", points=2)
    fail(folder_of(now, "gce"))
    found = judged(then, now)
    assert (
        code(found) == 3
        and found.of("regressed")
        and ("1 cell with failed runs, 1 cell regressed") in str(found.error)
    )


def test_worse_means_higher_where_lower_is_better(tmp_path: Path) -> None:
    for place, nll in (("a", 1.0), ("b", 1.1)):
        for seed in range(3):
            more = {"metrics": {"test_acc": {"last": 0.5}, "test": {"nll": nll}}}
            add(tmp_path / place, "ce", SYM, seed, **more)
    now, then = (content(tmp_path / place, "nll") for place in ("b", "a"))
    assert (code(check(now, then, Rules())), code(check(then, now, Rules()))) == (4, 0)


def test_cells_that_moved_by_nothing_do_not_make_others_look_steady(tmp_path: Path) -> None:
    then, now = suite(tmp_path / "a"), suite(tmp_path / "b")
    for seed, change in enumerate((-0.05, 0.02, 0.02, -0.03)):
        folder = folder_of(now, "el", seed)
        record = json.loads(folder.result.read_text())
        record["metrics"]["test_acc"]["last"] += change
        folder.write_json(folder.result, record)
    assert code(judged(then, now)) == 0


def test_two_seeds_that_agree_on_one_image_are_no_regression(tmp_path: Path) -> None:
    from scipy import stats

    for place, last in (("a", 0.902), ("b", 0.9)):
        for seed in range(2):
            add(
                tmp_path / place,
                "ce",
                SYM,
                seed,
                metrics={"test_acc": {"last": last}, "test": {"n": 500}},
            )
    (found,) = judged(tmp_path / "a", tmp_path / "b", tolerance=0.1).findings
    assert found.status == "ok" and found.p_value == pytest.approx(
        stats.t.sf(1 / (1 / 2**0.5), 1)
    ), "a step of 1 image, by hand"
    assert "0.20 points worse" in found.text
    for place, last in (("c", 0.902), ("d", 0.9)):
        for seed in range(2):
            add(tmp_path / place, "ce", SYM, seed, last)
    assert code(judged(tmp_path / "c", tmp_path / "d", tolerance=0.1)) == 5, (
        "nobody knows of how many images"
    )


def test_drops_and_tolerances_are_in_the_metrics_own_unit(tmp_path: Path) -> None:
    for place, nll in (("a", 1.0), ("b", 1.5)):
        for seed in range(3):
            more = {
                "metrics": {
                    "test_acc": {"last": 0.5},
                    "test": {"nll": nll + 0.01 * seed * (place == "b"), "n": 500},
                }
            }
            add(tmp_path / place, "ce", SYM, seed, **more)
    then, now = content(tmp_path / "a", "nll"), content(tmp_path / "b", "nll")
    (found,) = check(now, then, Rules()).findings
    assert (found.status, found.drop) == (
        "regressed",
        pytest.approx(0.51),
    ) and "0.5100 nats worse" in found.text
    assert check(now, then, Rules()).document()["cells"][0]["unit"] == "nats"
    assert [code(check(now, then, Rules(size))) for size in (0.52, 0.5, {"nll": 0.6})] == [0, 4, 0]
    assert "by up to 0.5200 nats" in check(now, then, Rules(0)).findings[0].text


def test_a_cell_is_compared_with_that_of_its_own_code(tmp_path: Path) -> None:
    then, now = suite(tmp_path / "a", seeds=range(2, 4)), suite(tmp_path / "b", seeds=range(2, 4))
    suite(now, seeds=range(2), points=20, versions={"loss:ce": "2"})
    assert {cell["versions"] for cell in content(now)["cells"]} == {"loss:ce 1", "loss:ce 2"}
    assert [finding.status for finding in judged(then, now, tolerance=0).findings] == ["ok"] * 6


def test_junit_counts_what_the_verdict_counts(tmp_path: Path) -> None:
    """Each finding once, though two recipes, losses or versions share their names."""
    from xml.etree.ElementTree import fromstring

    for place, drop in (("a", 0), ("b", 20)):
        suite(tmp_path / place)
        suite(tmp_path / place, points=drop, recipe={"name": "other", "epochs": 3, "lr": 0.1})
    for shape in (TableLayout(), TableLayout("recipe,method"), TableLayout("loss")):
        reports = [report_of(run_folders([tmp_path / place]), shape) for place in "ab"]
        verdict = check(reports[1].document(), reports[0].document(), Rules())
        root = fromstring(reports[1].render("junit", verdict))
        assert root.get("failures") == str(len(verdict.of("regressed"))) != "0"
        assert root.get("errors") == "0" and root.find("testsuite[@name='baseline']") is None


# The command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    suite(tmp_path / "runs")
    assert main(["report", "--save-baseline", "base.json"]) == 0
    return tmp_path


GATE = ["report", "--check", "--baseline", "base.json"]


def redo(place: Path, **more: object) -> None:
    for folder in run_folders([place / "runs"]):
        folder.result.unlink()
    suite(place / "runs", **more)  # type: ignore[arg-type]


def test_what_is_said_of_a_cell_names_its_metric_and_regressions_come_first(tmp_path: Path) -> None:
    then, now = (
        content(suite(tmp_path / name, points=points), "best,last")
        for name, points in (("a", 0), ("b", 3))
    )
    for cell in now["cells"]:
        if cell["method"] == "ce":
            cell["values"] = {"0": cell["values"]["0"]}
    lines = check(now, then, Rules()).troubles
    assert [line.split(" on ")[0] for line in lines[:2]] == [
        "regressed: best of el",
        "regressed: last of el",
    ]
    assert len(lines) == len(set(lines)) == 6 and all(
        line.startswith("not comparable") for line in lines[2:]
    )


def test_the_exit_codes_of_the_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GATE) == 0 and "check: 6 ok" in capsys.readouterr().err
    redo(place, points=3)
    assert main(GATE) == 4
    err = capsys.readouterr().err
    assert (
        "regressed: last of el on digits" in err
        and "error: check: 1 cell regressed; 5 of 6 ok" in err
    )


def test_json_has_the_verdict_of_every_cell(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    redo(place, points=3)
    assert main([*GATE, "--json"]) == 4
    verdict = json.loads(capsys.readouterr().out)["check"]
    assert verdict["exit_code"] == 4 and sorted(cell["status"] for cell in verdict["cells"]) == [
        "ok"
    ] * 5 + ["regressed"]


@pytest.mark.parametrize("text", ["{", '{"schema": 99}', "[]", '{"schema": 1, "key": "x"}'])
def test_a_damaged_or_foreign_result_is_named_and_never_counted_and_the_check_is_5(
    text: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(place / "runs", "ce", 3)
    folder.result.write_text(text)
    assert main(["report", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "warning: skipped" in err and str(folder.result.relative_to(place)) in err
    assert {cell["n"] for cell in json.loads(out)["cells"]} == {3, 4}
    assert main(GATE) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist: create it"),
        ("{", "cannot be read"),
        ("{}", "not a baseline of schema"),
        ("[]", "not a baseline of schema"),
    ],
)
def test_without_a_baseline_nothing_can_be_decided(
    text: str | None, said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("base.json").unlink() if text is None else Path("base.json").write_text(text)
    assert main(GATE) == 5 and said in capsys.readouterr().err


def test_a_baseline_of_another_metric_is_not_compared(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*GATE, "--metric", "best"]) == 5 and "has --metric last" in capsys.readouterr().err


def test_a_check_without_runs_is_5(place: Path) -> None:
    assert main(["-C", "elsewhere", *GATE]) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--check"], "--check needs --baseline FILE"),
        (["--baseline", "base.json"], "--baseline has an effect with --check only"),
        (["--tolerance", "1"], "--tolerance has an effect with --check only"),
        (["--allow-missing"], "--allow-missing has an effect with --check only"),
        (["--check", "--baseline", "base.json", "--save-baseline", "new.json"], "check first"),
        (["--check", "--baseline", "base.json", "--alpha", "5"], "--alpha must be between 0 and 1"),
        (["--ranks", "--format", "csv"], "--ranks has no effect on csv"),
    ],
    ids=str,
)
def test_options_without_effect_are_refused(
    arguments: list[str], said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *arguments]) == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    "rows", ["loss", "strategy", "loss,strategy", "method,epochs", "noise,method"]
)
def test_a_baseline_of_any_rows_is_one(rows: str, place: Path) -> None:
    shape = ["--rows", rows, *(["--cols", "model"] if rows.startswith("noise") else [])]
    assert main(["report", *shape, "--save-baseline", "rows.json"]) == 0
    assert main(["report", *shape, "--check", "--baseline", "rows.json"]) == 0
    redo(place, points=40)
    assert main(["report", *shape, "--check", "--baseline", "rows.json"]) == 4


def test_a_tolerance_is_one_number_or_one_of_each_metric(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ["--metric", "last,nll", "--check", "--baseline", "two.json", "--tolerance"]
    assert main(["report", "--metric", "last,nll", "--save-baseline", "two.json"]) == 0
    assert [main(["report", *two, text]) for text in ("0", "last=1,nll=0.1", "nll=0.1")] == [
        0,
        0,
        0,
    ]
    for text in ("0.5", "-1", "nan", "inf", "much", "best=1", "last=1,last=2", "last=", "=1", ""):
        capsys.readouterr()
        assert main(["report", *two, text]) == 2 and "--tolerance" in capsys.readouterr().err


def test_github_is_told_in_nine_lines_and_a_summary(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "summary.md"))
    redo(place, points=3)
    assert main(GATE) == 4
    assert "::error title=noisebench::regressed: last of el on digits" in capsys.readouterr().err
    assert (
        "* check: 5 ok, 1 regressed" in (place / "summary.md").read_text()
        and "| el |" in (place / "summary.md").read_text()
    )
    lines = error_lines([f"100 %\n{n}" for n in range(12)])
    assert (
        len(lines) == 10
        and lines[0] == "::error title=noisebench::100 %25%0A0"
        and lines[-1] == "and 3 more"
    )


def test_a_summary_stays_below_the_limit_and_says_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SUMMARY_LIMIT <= 2**20, "GitHub's own limit"
    monkeypatch.setattr("noisebench.reporting.ci.SUMMARY_LIMIT", 20_000)
    add(tmp_path)
    table = report_of(run_folders([tmp_path]), TableLayout()).tables[0]
    text = step_summary([table] * 100, ["one"])
    assert 15_000 < len(text.encode()) < 20_000 and "parts omitted" in text
    assert step_summary([table], used=20_000) == ""


# The numbers


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_variances_are_drawn_towards_their_columns_and_keep_their_order() -> None:
    drawn = moderated([[(1.0, 3), (4.0, 3), (2.0, 3)], [(10.0, 3), (9.0, 3)]])
    values = [value for value, _ in drawn[0]]
    assert 1 < values[0] < values[2] < values[1] < 4 and all(freedom > 3 for _, freedom in drawn[0])
    assert moderated([[(2.0, 3)]]) == [[(2.0, 3.0)]], "one alone has nobody to learn from"
