"""benchmarks.yaml -> runs: what a file may say, every mistake at once, and what is left to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from noisebench.cli import main
from noisebench.errors import ConfigError, UnknownName
from noisebench.executors.job import ExecutorOptions, WorkerConfig, make_batches
from noisebench.executors.local import LocalPool
from noisebench.experiments.suite import expand, find_suite, read_suites
from noisebench.experiments.suite_file import packaged_suites
from noisebench.noise import normal_noise
from noisebench.runs.queue import plan_suite, select
from noisebench.runs.workspace import Workspace

GOOD = """\
version: 1
suites:
  tiny:
    defaults: {dataset: digits, epochs: 1, seeds: [0, 1]}
    matrix:
      noise: [symmetric(rate=0.2), symmetric(rate=0.4)]
      method: [ce, el]
    exclude: [{noise: symmetric(rate=0.2), method: el}]
    override: [{match: {method: el}, set: {lr: 0.05}}]
"""


def write(tmp_path: Path, text: str = GOOD) -> Path:
    path = tmp_path / "benchmarks.yaml"
    path.write_text(text)
    return path


def mistakes(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_suites(write(tmp_path, text))
    return str(caught.value)


def test_quick_is_eight_methods_by_seven_noises_by_four_seeds() -> None:
    runs = expand(read_suites(packaged_suites())["quick"])
    assert len(runs) == 8 * 7 * 4
    assert (
        len({run.settings["method"] for run in runs}) == 8
        and len({run.settings["noise"] for run in runs}) == 7
    )
    assert all(run.seed == run.noise_seed for run in runs)


def test_a_suite_unfolds_with_exclusions_and_overrides(tmp_path: Path) -> None:
    runs = expand(read_suites(write(tmp_path))["tiny"])
    cells = [
        (run.settings["noise"], run.settings["method"], run.settings.get("lr"), run.seed)
        for run in runs
    ]
    assert cells == [
        ("symmetric(rate=0.2)", "ce", None, 0), ("symmetric(rate=0.2)", "ce", None, 1),
        ("symmetric(rate=0.4)", "ce", None, 0), ("symmetric(rate=0.4)", "ce", None, 1),
        ("symmetric(rate=0.4)", "el", 0.05, 0), ("symmetric(rate=0.4)", "el", 0.05, 1),
    ]  # fmt: skip


def test_a_fixed_noise_seed_holds_for_every_seed(tmp_path: Path) -> None:
    text = GOOD.replace("seeds: [0, 1]", "seeds: [0, 1], noise_seed: 7")
    assert {run.noise_seed for run in expand(read_suites(write(tmp_path, text))["tiny"])} == {7}


SHORT = """\
version: 1
suites:
  tiny:
    defaults: {dataset: digits, noise: pair 0.2, epochs: 1, seeds: [0, 1]}
    matrix:
      noise: [sym 0.2, asym 0.3, sym 0.4 inclusive]
      loss: [ce, gce]
    exclude:
      - {noise: sym 0.2, loss: gce(q=0.7)}
      - {noise: "asym 0.3|symmetric(rate=0.4, inclusive=True)", seed: 1}
    override:
      - {match: {noise: [sym 0.2, asym 0.3], seed: 0}, set: {noise: sym 0.1, lr: 0.05}}
"""


def test_a_suite_takes_noise_in_short_and_selects_as_where_does(tmp_path: Path) -> None:
    runs = [
        (
            str(normal_noise(run.settings["noise"])),
            run.settings["loss"],
            run.seed,
            run.settings.get("lr"),
        )
        for run in expand(read_suites(write(tmp_path, SHORT))["tiny"])
    ]
    inclusive = "symmetric(rate=0.4, inclusive=True)"
    assert runs == [
        ("symmetric(rate=0.1)", "ce", 0, 0.05), ("symmetric(rate=0.2)", "ce", 1, None),
        ("symmetric(rate=0.1)", "ce", 0, 0.05), ("symmetric(rate=0.1)", "gce", 0, 0.05),
        (inclusive, "ce", 0, None), (inclusive, "gce", 0, None),
    ]  # fmt: skip
    assert "9:9: exclude matches no run" in mistakes(
        tmp_path, SHORT.replace("{noise: sym 0.2, loss", "{noise: sym 0.3, loss")
    )
    assert "6:15: unknown noise 'symm'" in mistakes(
        tmp_path, SHORT.replace("[sym 0.2", "[symm 0.2")
    )
    assert "rate must be a number in [0, 1)" in mistakes(
        tmp_path, SHORT.replace("pair 0.2", "pair 2")
    )


def test_a_suite_in_short_makes_the_same_runs(tmp_path: Path) -> None:
    texts = {
        "short": "[sym 0.2, asym 0.3]",
        "long": ("[symmetric(rate=0.2), \"asymmetric(rate=0.3, map='digits')\"]"),
        "one": "asym 0.3",
    }
    keys = {}
    for name, noise in texts.items():
        write(tmp_path, "version: 1\nsuites:\n  tiny:\n    defaults: {dataset: digits, epochs: "
                        "1}\n"
                        f"    matrix: {{noise: {noise}, method: ce}}\n")  # fmt: skip
        keys[name] = [
            item.run.key
            for item in plan_suite(Workspace(tmp_path), find_suite("tiny", tmp_path)[1])
        ]
    assert keys["short"] == keys["long"] and keys["one"] == keys["short"][1:]


def test_what_is_said_beside_a_suite_changes_its_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # what it takes is measured
    write(tmp_path, GOOD.replace("dataset: digits,", "dataset: digits, subset: 100,"))
    plan = ["-q", "-C", str(tmp_path), "run", "tiny", "--dry-run", "--json"]

    def planned(*options: str) -> list[dict]:
        assert main([*plan, *options]) == 0
        return json.loads(capsys.readouterr().out)["runs"]

    assert [run["epochs"] for run in planned("--epochs", "3")] == [3] * 6
    keys = {
        options: tuple(run["key"] for run in planned(*options))
        for options in ((), ("--crop", "1"), ("--hflip",))
    }
    assert len(set(keys.values())) == 3
    refused = {
        ("--lr", "0.1"): "--lr 0.1: the suite sets lr in its matrix or an override", ("--epochs", "0"): ("epochs must "
                                                                                          "be at least 1"),
        ("--recipe", "appl"): "unknown recipe 'appl'", ("--weight-decay", "-1"): ("weight_decay "
                                                                                 "must be at least 0"),
    }  # fmt: skip
    for options, why in refused.items():
        assert main([*plan, *options]) == 2
        assert why in capsys.readouterr().err


MISTAKES = [
    (
        "epochs: 1",
        "epochs: 1, epohcs: 2",
        "4:44: defaults.epohcs: unknown key: did you mean 'epochs'?",
    ),
    ("epochs: 1", "epochs: 1, epochs: 2", "4:44: duplicate key 'epochs'"),
    ("epochs: 1", "lr: 1e-3", "4:37: YAML reads 1e-3 as text: write 1.0e-3"),
    ("epochs: 1", "epochs: two", "defaults.epochs: Input should be a valid integer"),
    ("epochs: 1", "epochs: 1.5", "defaults.epochs: Input should be a valid integer"),
    ("epochs: 1", "nesterov: 1", "defaults.nesterov: Input should be a valid boolean"),
    ("epochs: 1", "model: cnn9", "unknown model 'cnn9': did you mean 'cnn8'"),
    ("epochs: 1", "recipe: appl", "unknown recipe 'appl': did you mean 'apl'"),
    ("epochs: 1", "precision: fp16", "precision must be one of auto, fp32, bf16"),
    ("dataset: digits", "dataset: digit", "unknown dataset 'digit': did you mean 'digits'"),
    ("[ce, el]", "[ce, ell]", "7:20: unknown method 'ell': did you mean 'el'"),
    ("[ce, el]", "[]", "7:7: axis method is empty"),
    ("method: [ce, el]", "methd: [ce, el]", "unknown axis 'methd'"),
    ("symmetric(rate=0.4)]", "symmetric(rate=4)]", "rate must be a number in [0, 1)"),
    ("method: el}]\n    override", "method: gce}]\n    override", "8:15: exclude matches no run"),
    ("match: {method: el}", "match: {method: gce}", "override matches no run"),
    ("seeds: [0, 1]", "seeds: []", "defaults.seeds: List should have at least 1 item"),
    ("seeds: [0, 1]", "seeds: [-1]", "4:44: a seed must be a whole number from 0"),
    ("epochs: 1", "epochs: 0", "epochs must be at least 1 and below 2147483648, got 0"),
    ("dataset: digits", "dataset: digits, loss: ce", "a method includes a loss and a strategy"),
    ("symmetric(rate=0.4)]", "'asymmetric(rate=0.4, map=block5-next)']", "cannot read"),
    (
        "symmetric(rate=0.4)]",
        "\"asymmetric(rate=0.4, map='block5-next')\"]",
        "6:7: map 'block5-next' is for 100 classes",
    ),
    ("epochs: 1", "summary: !foo x", "defaults.summary"),
    (
        "epochs: 1",
        "recipe: 2024-99-99",
        "cannot read '2024-99-99' as timestamp: put it in quotes",
    ),
    ("version: 1", "version: 2", "needs `version: 1`"),
    ("version: 1", "version: 1\nsuits: {}", "2:1: unknown key 'suits'"),
    ("suites:", "suites: &a", None),
    ("    exclude", "  exclude", "9:5: not valid YAML"),
    (
        "    exclude",
        "    report: {published: equal-los}\n    exclude",
        "8:14: unknown published paper 'equal-los': did you mean",
    ),
]


def test_a_mistake_is_said_with_its_line_and_column(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for old, new, message in MISTAKES:
        with subtests.test(new=new):
            text = GOOD.replace(old, new, 1)
            assert text != GOOD
            if message is None:
                assert read_suites(write(tmp_path, text))
            else:
                assert message in mistakes(tmp_path, text)


def test_an_empty_matrix_is_a_mistake(tmp_path: Path) -> None:
    assert "the matrix is empty" in mistakes(
        tmp_path, "version: 1\nsuites:\n  a:\n    matrix: {}\n"
    )


def test_all_mistakes_are_said_at_once_in_order(tmp_path: Path) -> None:
    text = (
        GOOD.replace("epochs: 1", "epohcs: 1")
        .replace("[ce, el]", "[ce, ell]")
        .replace("lr: 0.05", "lr: 5e-2")
    )
    lines = mistakes(tmp_path, text).splitlines()
    assert [line.partition("benchmarks.yaml:")[2].split(":")[0] for line in lines] == sorted(
        line.partition("benchmarks.yaml:")[2].split(":")[0] for line in lines
    )
    assert len(lines) >= 2 and "epohcs" in lines[0] and "5e-2" in lines[-1]


def test_a_file_that_is_no_suite_file_is_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for text in (
        "",
        "just text",
        "[1, 2]",
        "a: [",
        "version: 1\nsuites: {a: &x {matrix: {noise: []}}, b: *x}",
        "\x00",
    ):
        with subtests.test(text=text):
            assert mistakes(tmp_path, text)


def test_a_suite_of_the_workspace_goes_before_a_packaged_one(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("tiny", "quick"))
    name, suite = find_suite("quick", tmp_path)
    assert name == "quick" and len(expand(suite)) == 6
    assert find_suite("smoke", tmp_path)[0] == "smoke"


def test_a_file_may_be_named_with_its_suite(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + GOOD.partition("suites:\n")[2].replace("tiny", "other"))
    assert find_suite(f"{path}:other", tmp_path)[0] == "other"
    with pytest.raises(ConfigError, match="contains 2 suites: give one"):
        find_suite(str(path), tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'quick'"):
        find_suite("quik", tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace where the tiny suite has been run; tests read it, or copy it."""
    place = tmp_path_factory.mktemp("finished")
    write(place, GOOD.replace("dataset: digits,", "dataset: digits, subset: 200,"))
    workspace = Workspace(place)
    run_all(workspace)
    return workspace


def agenda(workspace: Workspace) -> list:
    return plan_suite(Workspace(workspace.root), find_suite("tiny", workspace.root)[1])


def run_all(workspace: Workspace, device: str = "cpu") -> list:
    items = agenda(workspace)
    pool = LocalPool(
        WorkerConfig(str(workspace.root), str(workspace.data_dir), True, (), device),
        ExecutorOptions(1),
    )
    return [event for event in pool.run(make_batches(items, items)) if event.kind != "progress"]


def test_workers_finish_every_run_and_the_agenda_knows(finished: Workspace) -> None:
    assert [item.status for item in agenda(finished)] == ["done"] * 6
    assert select(agenda(finished), None) == []
    assert len(select(agenda(finished), "all")) == 6


def test_an_unfinished_a_failed_and_a_stale_run_are_told_apart(
    finished: Workspace, tmp_path: Path
) -> None:
    copied = Workspace(shutil.copytree(finished.root, tmp_path / "copy"))
    items = agenda(copied)
    shutil.rmtree(items[0].folder.path)
    items[1].folder.result.unlink()
    items[1].folder.write_error({}, "ValueError", "it broke")
    items[2].folder.result.unlink()
    items[2].folder.resume.write_bytes(b"")
    stale = items[3].folder.path
    config = yaml.safe_load((stale / "config.yaml").read_text())
    config["versions"]["loss:ce"] = "0"
    (stale / "config.yaml").write_text(yaml.safe_dump(config))
    stale.rename(stale.parent / (stale.name[:-8] + "00000000"))
    found = [(item.status, item.reason) for item in agenda(copied)]
    assert found[:3] == [("run", "new"), ("failed: retry", "it broke"), ("resume", "interrupted")]
    assert found[3][0] == "stale" and found[3][1].startswith("versions changed since")
    assert [len(select(agenda(copied), which)) for which in (None, "failed", "stale", "all")] == [
        4,
        1,
        1,
        6,
    ]


def test_shards_split_the_runs_without_rest(finished: Workspace) -> None:
    items = agenda(finished)
    parts = [select(items, "all", f"{number}/4") for number in (1, 2, 3, 4)]
    assert sorted(item.run.key for part in parts for item in part) == sorted(
        item.run.key for item in items
    )
    with pytest.raises(ConfigError, match="--shard must be i/n"):
        select(items, None, "5/4")


def test_a_worker_that_dies_fails_its_run_alone(tmp_path: Path) -> None:
    plugin = tmp_path / "deadly.py"
    plugin.write_text(
        "import os\nimport noisebench as nb\n@nb.register_loss\ndef deadly(log_p):\n    'Kills "
        "its process.'\n    os.abort()\n"
    )
    text = GOOD.replace("method: [ce, el]", "loss: [ce, deadly]").replace(
        "method: el", "loss: deadly"
    )
    from noisebench.core.plugins import load_plugins
    from noisebench.losses import LOSSES

    if "deadly" not in LOSSES:
        load_plugins([str(plugin)])
    write(tmp_path, text)
    workspace = Workspace(tmp_path)
    items = plan_suite(workspace, find_suite("tiny", tmp_path)[1])
    pool = LocalPool(
        WorkerConfig(str(tmp_path), str(workspace.data_dir), True, (str(plugin),), "cpu"),
        ExecutorOptions(1),
    )
    kinds = {
        event.number: event.kind
        for event in pool.run(make_batches(items, items))
        if event.kind != "progress"
    }
    assert kinds == {0: "done", 1: "done", 2: "done", 3: "done", 4: "failed", 5: "failed"}
    assert "died (SIGABRT)" in items[4].folder.error.read_text()
