"""`run --filter` and `--time-limit`: a part of a suite, within a time limit; and what a suite costs,
before it is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from noisebench.cli import main
from noisebench.cli.console import GridProgress, images
from noisebench.core.signals import TimeLimit
from noisebench.errors import ConfigError
from noisebench.experiments.suite import AXES, images_of, read_suites
from noisebench.reporting import finished_runs
from noisebench.runs.queue import QueuedRun, make_packs, plan_suite, where
from noisebench.runs.workspace import Workspace

SUITE = """\
version: 1
suites:
  wide:
    defaults: {dataset: digits, epochs: 1, seeds: [0, 1], precision: fp32}
    matrix:
      noise: [symmetric(rate=0.4), "symmetric(rate=0.4, inclusive=True)", asymmetric(rate=0.3)]
      model: [mlp, cnn4]
      subset: [300, 1297]
      strategy: [standard, bootstrap]
      loss: [ce, el, gce(q=0.50)]
  long:
    defaults: {dataset: digits, subset: 300, epochs: 8, seeds: [0], precision: fp32}
    matrix: {noise: [symmetric(rate=0.4), asymmetric(rate=0.4)], method: [ce, el]}
  broken:
    defaults: {dataset: digits, epochs: 40, noise: symmetric(rate=0.4), precision: fp32}
    matrix: {method: [el, ce]}
    override: [{match: {method: el}, set: {lr: 1.0e+30}}]
"""


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[QueuedRun]:
    """The agenda of the suite `wide`, 144 runs."""
    place = tmp_path_factory.mktemp("wide")
    (place / "s.yaml").write_text(SUITE)
    return plan_suite(Workspace(place), read_suites(place / "s.yaml")["wide"])


VALUES = {
    "dataset": ["digits"],
    "subset": ["300", "all"],
    "model": ["mlp", "cnn4"],
    "init": ["none"],
    "features": ["none"],
    "recipe": ["digits"],
    "noise": ["sym 0.4", "symmetric(0.40, inclusive=True)", "asymmetric(rate=.3)"],
    "method": ["ce", "el", "gce(q=0.5)", "bootstrap", "el, bootstrap", "gce(q=0.5), bootstrap"],
    "loss": ["ce", "el", "gce(0.5)"],
    "strategy": ["standard", "bootstrap(kind=hard)"],
    "seed": ["0", "1"],
    "noise_seed": ["0", "01"],
}


def keys(items: list[QueuedRun]) -> list[str]:
    return [item.run.key for item in items]


def test_the_values_of_each_axis_partition_the_suite(
    items: list[QueuedRun], subtests: pytest.Subtests
) -> None:
    assert set(VALUES) == {*AXES, "seed", "noise_seed"}
    for axis, values in VALUES.items():
        with subtests.test(axis):
            parts = [where(items, [f"{axis}={value}"]) for value in values]
            assert all(parts) and sorted(key for part in parts for key in keys(part)) == sorted(
                keys(items)
            )
            assert where(items, [f"{axis}={'|'.join(values)}"]) == items


def test_several_conditions_leave_what_meets_them_all_in_the_suites_order(
    items: list[QueuedRun],
) -> None:
    one, two = "noise=asym 0.3|sym 0.4", "loss=gce(q=0.5)|ce"
    both = where(items, [one, two])
    assert (
        both
        == where(items, [two, one])
        == [item for item in where(items, [one]) if item in where(items, [two])]
    )
    assert len(both) == 144 * 2 // 3 * 2 // 3 and where(both, [one, two]) == both
    with pytest.raises(ConfigError, match=r"no run matches; seed is one of 0$"):
        where(items, ["seed=0", "seed=1"])


SPELLINGS = [
    ("noise", ["symmetric(rate=0.4)", "symmetric(0.4)", "symmetric( rate=.40 )", "sym 0.4"]),
    ("noise", ["asymmetric(rate=0.3, map='digits')", "asymmetric(rate=0.3)", "asym 0.3"]),
    ("loss", ["gce(q=0.5, k=None)", "gce(q=0.50)", "gce(0.5)", "1*gce(q=0.5)"]),
    ("loss", ["el(eps=auto)", "el", "el(eps=0.4)|el(0.3)"]),
    ("strategy", ["bootstrap", "bootstrap(kind='hard')", "bootstrap(kind=hard)"]),
    ("subset", ["all", "1297", "1_297"]),
    ("seed", ["1", "01"]),
]


def test_every_spelling_of_a_value_selects_the_same_runs(
    items: list[QueuedRun], subtests: pytest.Subtests
) -> None:
    for axis, texts in SPELLINGS:
        first = keys(where(items, [f"{axis}={texts[0]}"]))
        assert 0 < len(first) < len(items)
        for text in texts[1:]:
            with subtests.test(f"{axis}={text}"):
                assert keys(where(items, [f"{axis}={text}"])) == first


REFUSED = [
    (
        "colour=red",
        r"--filter must be axis=value with axis one of dataset, subset, model, init, features, recipe, noise, "
        r"method, loss, strategy, seed, noise",
    ),
    ("seed", r"--filter must be axis=value .*; got 'seed'"),
    ("seed=7", r"--filter seed=7: no run matches; seed is one of 0, 1$"),
    ("seed=0|7", r"--filter seed=0\|7: no run matches 7; seed is one of 0, 1$"),
    ("seed=0|", r"--filter seed=0\|: a value next to \| is empty$"),
    (
        "noise=symmetric(rate=0.5)",
        r"noise is one of \"asymmetric\(rate=0.3, map='digits'\)\", "
        r"symmetric\(rate=0.4\)",
    ),
    ("loss=el(0.5)", r"no run matches; loss is one of ce, el\(eps=0.3"),
]


def test_a_condition_that_leaves_no_run_is_refused_with_the_values_of_its_axis(
    items: list[QueuedRun], subtests: pytest.Subtests
) -> None:
    for condition, message in REFUSED:
        with subtests.test(condition), pytest.raises(ConfigError, match=message):
            where(items, [condition])


@pytest.mark.parametrize(
    "conditions",
    [["seed=1"], ["seed=1", "noise=sym 0.4", "loss=el", "subset=300", "strategy=standard"]],
)
def test_which_runs_are_packed_is_decided_by_the_whole_suite(
    conditions: list[str], items: list[QueuedRun]
) -> None:
    width = {item.run.key: load.width for load in make_packs(items, items) for item in load.items}
    chosen = where(items, conditions)
    assert {
        item.run.key: load.width for load in make_packs(items, chosen) for item in load.items
    } == {key: width[key] for key in keys(chosen)}
    assert {width[key] for key in keys(chosen)} == {1, 16}


@pytest.fixture
def place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the suites above in s.yaml; a dry run trains nothing to estimate the time."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("noisebench.runs.queue.estimate_suite_seconds", lambda *_: 0.0)
    (place / "s.yaml").write_text(SUITE)
    return place


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return (code, *capsys.readouterr())

    return run


def results(place: Path) -> dict[str, tuple[bytes, object]]:
    """Of each finished run its weights, and what they are worth."""
    return {
        path.parent.name: (
            (path.parent / "model.safetensors").read_bytes(),
            json.loads(path.read_text())["metrics"],
        )
        for path in (place / "runs").glob("*/result.json")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite `long`, run in one go."""
    place = tmp_path_factory.mktemp("whole")
    (place / "s.yaml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main(["-C", str(place), "run", f"{place}/s.yaml:long", "--jobs", "1"]) == 0
    return place


def test_a_part_of_a_suite_is_bit_for_bit_what_it_is_in_the_whole(
    whole: Path, place: Path, call: Call
) -> None:
    part = ["--filter", "noise=asym 0.4", "--filter", "method=el"]
    planned = json.loads(call("run", "s.yaml:long", *part, "--dry-run", "--json")[1])
    assert [run["title"].partition(",")[0] for run in planned["runs"]] == [
        "el on digits"
    ] and planned["to_run"] == planned["packs"] == 1
    code, out, err = call("run", "s.yaml:long", *part, "--jobs", "1", "--json")
    assert (
        code == 0 and "1/1 runs" in err and [cell["n"] for cell in json.loads(out)["cells"]] == [1]
    )
    assert (
        len(results(place)) == 1
        and len(results(whole)) == 4
        and results(place).items() <= results(whole).items()
    )
    for command in (["-C", str(whole), "run", "s.yaml:long"], ["report"], ["report", str(whole)]):
        assert json.loads(call(*command, *part, "--json")[1])["cells"] == json.loads(out)["cells"]


def test_what_a_file_of_runs_has_is_not_run_again(whole: Path, place: Path, call: Call) -> None:
    """Begun on one machine, gone on with on another: the file is all that travels."""
    begun = ["--filter", "method=ce"]
    assert call("report", str(whole), *begun, "--format", "runs", "-o", "begun.csv")[0] == 0
    planned = json.loads(
        call("run", "s.yaml:long", "--completed", "begun.csv", "--dry-run", "--json")[1]
    )
    assert planned["to_run"] == 2 and {run["reason"] for run in planned["runs"]} == {
        "new",
        "finished, in begun.csv",
    }
    code, out, _ = call("run", "s.yaml:long", "--completed", "begun.csv", "--jobs", "1", "--json")
    assert (
        code == 0 and len(results(place)) == 2 and results(place).items() <= results(whole).items()
    )
    assert (
        json.loads(out)["cells"]
        == json.loads(call("-C", str(whole), "run", "s.yaml:long", "--json")[1])["cells"]
    )
    assert (
        "nothing to do, all 4 runs are finished"
        in call("run", "s.yaml:long", "--completed", "begun.csv")[2]
    )
    assert call("report", "begun.csv", ".", "--format", "runs", "-o", "begun.csv")[0] == 0
    assert set(finished_runs(place / "begun.csv")) == {
        json.loads(path.read_text())["key"] for path in whole.glob("runs/*/result.json")
    }


def test_seeds_n_are_the_seeds_below_n(place: Path, call: Call) -> None:
    planned = json.loads(
        call(
            "run", "s.yaml:long", "--seeds", "3", "--filter", "noise=sym 0.4", "--dry-run", "--json"
        )[1]
    )
    kept = json.loads(
        call("run", "s.yaml:long", "--filter", "noise=sym 0.4", "--dry-run", "--json")[1]
    )
    assert [run["title"].rpartition(" ")[2] for run in planned["runs"]] == ["0", "1", "2"] * 2
    assert {run["key"] for run in kept["runs"]} < {run["key"] for run in planned["runs"]}


def test_shards_and_reruns_are_of_what_is_selected(place: Path, call: Call) -> None:
    command = [
        "run",
        "s.yaml:long",
        "--filter",
        "seed=0",
        "--dry-run",
        "--json",
        "--rerun",
        "all",
        "--shard",
    ]
    shards = [json.loads(call(*command, f"{number}/3")[1])["runs"] for number in (1, 2, 3)]
    selected = [run["key"] for shard in shards for run in shard if run["selected"]]
    assert [len(shard) for shard in shards] == [4, 4, 4] and sorted(selected) == sorted(
        run["key"] for run in shards[0]
    )
    assert call("run", "s.yaml:long", "--filter", "seed=0", "--rerun", "failed", "--dry-run")[
        1
    ].endswith("; 0 to run; estimated runtime: none\n")


def stop_after(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is up once a run says this, whatever the clock says."""
    heard: list[str] = []
    update = GridProgress.update

    def listen(self: GridProgress, event: object) -> None:
        heard.append(event.kind)  # type: ignore[attr-defined]
        update(self, event)  # type: ignore[arg-type]

    monkeypatch.setattr(GridProgress, "update", listen)
    monkeypatch.setattr(TimeLimit, "up", property(lambda self: kind in heard))


def test_when_the_time_is_up_it_stops_and_the_same_command_goes_on(
    whole: Path, place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["run", "s.yaml:long", "--jobs", "1", "--time-limit"]
    code, out, err = call(*command, "0.0001")
    assert (
        code == 0
        and out == ""
        and err.endswith("time is up: 0 of 4 runs are finished; the same command resumes\n")
    )
    assert not (place / "runs").exists()
    with monkeypatch.context() as patch:
        stop_after("progress", patch)
        code, _, err = call(*command, "60")
    assert code == 0 and "time is up: 0 of 4 runs are finished; the same command resumes" in err
    assert (
        not results(place)
        and len(list(place.glob("runs/*/resume.pt"))) == 4
        and not list(place.glob("runs/*/claim"))
    )
    code, out, err = call(*command, "60")
    assert code == 0 and "time is up" not in err
    assert len(results(place)) == 4 and results(place) == results(whole)


def test_a_run_that_failed_before_the_time_was_up_is_exit_3(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after("failed", monkeypatch)
    code, out, err = call("run", "s.yaml:broken", "--jobs", "1", "--time-limit", "60")
    assert code == 3 and "✗1" in out
    assert (
        "time is up: 0 of 2 runs are finished; the same command resumes\n" in err
        and "error: 1 run failed" in err
    )


IMPOSSIBLE = [
    (["--time-limit", "0"], "--time-limit must be a number above 0, got 0"),
    (["--time-limit", "-1"], "--time-limit must be a number above 0, got -1"),
    (["--time-limit", "nan"], "--time-limit must be a number above 0, got nan"),
    (["--time-limit", "inf"], "--time-limit must be a number above 0, got inf"),
    (["--time-limit", "1", "--rerun", "all"], "--rerun all starts from the beginning each time"),
    (
        ["--time-limit", "1", "--executor", "slurm", "--detach"],
        "--time-limit has no effect with --detach",
    ),
    (["--completed", "s.yaml"], "s.yaml"),
    (
        ["--seeds", "25001"],
        "--seeds 25001: the suite has 100004 runs, more than 100000",
    ),
    (["--seeds", "9" * 30], "more than 100000"),
    (["--completed", "none.csv"], "none.csv"),
    (["--filter", "seed=9"], "--filter seed=9: no run matches; seed is one of 0"),
]


def test_an_option_that_is_wrong_is_one_line_and_exit_2(
    place: Path, call: Call, subtests: pytest.Subtests
) -> None:
    for arguments, message in IMPOSSIBLE:
        with subtests.test(" ".join(arguments)):
            code, out, err = call("run", "s.yaml:long", *arguments)
            assert (
                code == 2
                and out == ""
                and message in err
                and err.startswith("error: ")
                and err.count("\n") == 1
            )
            assert [path.name for path in place.iterdir()] == ["s.yaml"]


COSTS = """\
version: 1
suites:
  plain: {{defaults: {{dataset: digits, epochs: 5, seeds: [0, 1]}}, matrix: {{noise: [symmetric(rate=0.4)], method: [ce, el, gce]}}}}
  twice: {{defaults: {{dataset: digits, epochs: 40{more}}}, matrix: {{noise: [symmetric(rate=0.4)], method: [ce, coteaching]}}}}
  some:
    defaults: {{dataset: digits, epochs: 7, val_fraction: 0.1, method: ce}}
    matrix: {{noise: [symmetric(rate=0.4)], subset: [300, 600]}}
  guess: {{defaults: {{dataset: digits, epochs: 8}}, matrix: {{noise: [symmetric(rate=0.4)], loss: [el(eps=estimated)]}}}}
  own: {{defaults: {{epochs: 8}}, matrix: {{noise: [symmetric(rate=0.4)], loss: [ce]}}}}
  folder: {{defaults: {{epochs: 8, method: ce, noise: symmetric(rate=0.4)}}, matrix: {{dataset: [digits, folder:pictures]}}}}
"""
COST = {
    "plain": 6 * 1297 * 5,
    "twice": 1297 * 40 * 3,
    "some": 900 * 7,
    "guess": 1297 * (8 + 2),
    "own": None,
    "folder": None,
}


def test_the_images_of_a_suite_are_epochs_of_ce_over_all_its_runs(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(COSTS.format(more=""))
    assert {name: images_of(suite) for name, suite in read_suites(path).items()} == COST
    path.write_text(COSTS.format(more=", budget: compute"))
    assert images_of(read_suites(path)["twice"]) == 2 * 1297 * 40


def test_list_suites_says_runs_cost_and_what_it_takes(place: Path, call: Call) -> None:
    (place / "benchmarks.yaml").write_text(
        COSTS.format(more="").replace("plain: {", "plain: {takes: 5 h on one H100, ")
    )
    rows = {row["name"]: row for row in json.loads(call("list", "suites", "--json")[1])}
    assert {name: rows[name]["images"] for name in COST} == COST and rows["smoke"][
        "images"
    ] == 8 * 1297 * 5
    assert (rows["plain"]["runs"], rows["plain"]["takes"], rows["own"]["takes"]) == (
        6,
        "5 h on one H100",
        "",
    )
    lines = {
        line.split()[0]: line for line in call("list", "suites")[1].splitlines() if line.strip()
    }
    assert lines["name"].split() == ["name", "runs", "images", "runtime", "summary"]
    assert [" ".join(lines[name].split()) for name in ("plain", "own")] == [
        ("plain 6 39 k images 5 h on one H100"),
        "own 1 –",
    ]
    shown = call("list", "suites", "plain")[1]
    assert all(
        part in shown
        for part in (
            "39 k images",
            "runtime   5 h on one H100",
            "method: ce, el, gce",
            "seeds: 0, 1",
        )
    )


@pytest.mark.parametrize("field", ["summary", "takes"])
def test_a_suites_summary_and_runtime_are_one_line_each(field: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for text in ('"two\\nlines"', "x" * 301):
        path.write_text(SUITE.replace("  long:\n", f"  long:\n    {field}: {text}\n"))
        with pytest.raises(
            ConfigError,
            match=rf"s.yaml:12:5: {field}: must be one line of at most 300 "
            r"characters$",
        ):
            read_suites(path)
    path.write_text(SUITE.replace("  long:\n", f"  long:\n    {field}: >\n      one\n      line\n"))
    assert getattr(read_suites(path)["long"], field) == "one line"


def test_counts_are_shown_with_two_digits() -> None:
    shown = {
        None: "–",
        0: "0 images",
        999: "1 k images",
        51_880: "52 k images",
        999_600: "1 M images",
        4_099_734_400: "4.1 G images",
    }
    assert {count: images(count) for count in shown} == shown
