"""results/: each line is a run of its suite as it is planned today, each page and README.md show
their CSVs, and one run is made again.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from functools import cache, cached_property
from html import unescape
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from noisebench.cli import main
from noisebench.core.hardware import environment
from noisebench.datasets import find_dataset, read_images
from noisebench.experiments.backbones import InitialWeights
from noisebench.experiments.features import FeatureNetwork
from noisebench.experiments.suite import Suite
from noisebench.reporting import finished_runs
from noisebench.runs.queue import QueuedRun, plan_suite, where
from noisebench.runs.workspace import Workspace

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"results_{name}", RESULTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


claims, evidence, photos = (_script(name) for name in ("claims", "evidence", "photos"))
SUITES = evidence.suites()
WRITTEN = [name for name in evidence.EVIDENCE if (RESULTS / f"{name}.csv").exists()]


def suite(name: str) -> Suite:
    """With as many seeds as its table has."""
    return SUITES[name].with_defaults(seeds=evidence.EVIDENCE[name].seeds)


@pytest.fixture(scope="module")
def agenda(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[QueuedRun]]:
    """A suite's runs as they are planned today; skips the subtest whose images are not at hand."""
    place = tmp_path_factory.mktemp("evidence")

    @cache
    def planned(name: str) -> list[QueuedRun]:
        return plan_suite(workspace(place, name), suite(name))

    return planned


def workspace(place: Path, name: str) -> Workspace:
    """One with the suite's images; skips where they are not at hand."""
    dataset = str(SUITES[name].defaults.dataset)
    data = Path(os.environ.get("NOISEBENCH_DATA", "."))
    if dataset != "digits" and not (data / f"{dataset}.npz").exists():
        pytest.skip(f"needs {dataset}.npz in NOISEBENCH_DATA")
    if (
        any("human" in str(noise) for noise in SUITES[name].matrix["noise"])
        and not (data / "CIFAR-10_human.pt").exists()
    ):
        pytest.skip("needs CIFAR-10_human.pt in NOISEBENCH_DATA")
    return _Recorded(place, data, offline=True, suite=name)


class _Recorded(Workspace):
    """Plans runs on features by the hash of the weights in a suite's CSV, without the file."""

    def __init__(self, *args: Any, suite: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._file = RESULTS / f"{suite}.csv"

    @cached_property
    def _weights(self) -> InitialWeights:
        sha256 = {"0" * 64}
        if self._file.exists():
            runs = finished_runs(self._file).values()
            sha256 = {run.about()["features"]["weights_sha256"] for run in runs}
        (one,) = sha256
        return InitialWeights("file", one)

    def feature_network(self, model: str | None, text: str | None) -> FeatureNetwork | None:
        return None if model is None else FeatureNetwork(model, self._weights)


def test_every_line_is_a_run_of_its_suite_as_it_is_planned_today(
    agenda: Callable[[str], list[QueuedRun]], subtests: pytest.Subtests
) -> None:
    """By its key, a hash of all that changes a result, under the same name and with the same oracle
    mark.
    """
    for name in WRITTEN:
        with subtests.test(suite=name):
            planned = {item.run.key: (item.run.method, item.run.oracle) for item in agenda(name)}
            written = finished_runs(RESULTS / f"{name}.csv")
            assert {
                key: (run.about()["method"], run.about()["oracle"]) for key, run in written.items()
            }.items() <= planned.items()


def test_every_page_shows_its_file(subtests: pytest.Subtests) -> None:
    for name in WRITTEN:
        with subtests.test(suite=name):
            assert (RESULTS / f"{name}.md").read_text(encoding="utf-8") == evidence.page(name)


def test_the_page_on_neighbours_shows_its_file() -> None:
    script = _script("neighbours")
    page = (RESULTS / "neighbours.md").read_text(encoding="utf-8")
    assert page == script.page(script.read())


def test_the_readmes_verdicts_claims_and_figure_are_those_of_the_csvs() -> None:
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert page == claims.readme(page)
    assert claims.description(RESULTS) in unescape(
        (RESULTS / "el-forest.svg").read_text(encoding="utf-8")
    )


def test_a_verdict_follows_from_the_csv(tmp_path: Path) -> None:
    """Where EL and CE exchange their names, the first claim becomes its opposite."""
    claim = claims.PAPER[0]
    assert (claim.text, claim.file) == (claims.CE_SYM, "quick")
    text = (RESULTS / "quick.csv").read_text(encoding="utf-8")
    names = {",el,": ",ce,", ",ce,": ",el,"}
    exchanged = re.sub(r"(?<=\)),(?:el|ce),", lambda match: names[match[0]], text)
    (tmp_path / "quick.csv").write_text(exchanged, encoding="utf-8")
    assert claim.verdict(claim.gaps(RESULTS)) == "holds"
    assert claim.verdict(claim.gaps(tmp_path)) == "does not hold"


def test_verdicts_by_the_rule(subtests: pytest.Subtests) -> None:
    better, level = claims.Claim("", ""), claims.Claim("", "", margin=1)
    above, below, around = (1, 3), (-3, -1.5), (-0.5, 0.4)
    for claim, ends, verdict in (
        (better, [above], "holds"),
        (better, [above, around], "partly"),
        (better, [above, below], "partly"),
        (better, [around, below], "does not hold"),
        (better, [around], "does not hold"),
        (better, [(-2, 2)], "undecided"),
        (better, [(None, None)], "no interval"),
        (better, [(None, None), above], "holds"),
        (better, [], "not tried"),
        (level, [around], "holds"),
        (level, [around, below], "partly"),
        (level, [(1.5, 3), (-2, 2)], "does not hold"),
        (level, [(-2, 2), (-2, 0)], "undecided"),
    ):
        with subtests.test(verdict, ends=ends):
            gaps = [claims.Gap("sym 0.4", 0.0, low, high, 2) for low, high in ends]
            assert claim.verdict(gaps) == verdict


def test_the_second_command_of_a_page_is_one_of_its_runs(
    agenda: Callable[[str], list[QueuedRun]], subtests: pytest.Subtests
) -> None:
    for name in WRITTEN:
        with subtests.test(suite=name):
            page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
            words = shlex.split(page.partition("```sh\n")[2].splitlines()[1])
            selected = [word for flag, word in pairwise(words) if flag == "--filter"]
            (item,) = where(agenda(name), selected)
            assert item.run.key in finished_runs(RESULTS / f"{name}.csv")


def test_pieces_are_the_whole_suite_each_run_once(
    agenda: Callable[[str], list[QueuedRun]], subtests: pytest.Subtests
) -> None:
    for name, table in evidence.EVIDENCE.items():
        with subtests.test(suite=name):
            pieces = [where(agenda(name), piece) for piece in table.pieces]
            assert sorted(item.run.key for piece in pieces for item in piece) == sorted(
                item.run.key for item in agenda(name)
            )


def test_readmes_table_is_that_of_the_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("\u00a0", " ")
    table = evidence.page("quick").split("**\n\n", 1)[1].partition("\n\n")[0]
    assert table in readme


def test_the_table_beside_the_papers_numbers_is_that_of_the_page() -> None:
    """Ours, the paper's, the difference."""
    rows = r"^\| (\w+) †? ?\| ([\d.]+) \| ([\d.]+) ± [^|]*\| ([+-][\d.]+) \|"
    text = (ROOT / "docs" / "results" / "equal-loss.md").read_text(encoding="utf-8")
    shown = re.findall(rows, text, re.M)
    page = evidence.page("el-cifar10").split("**\n\n", 1)[1].partition("\n\n")[0]
    assert (
        shown == re.findall(r"^\| (\w+) \| ([\d.]+)†? \[([\d.]+), ([+-][\d.]+) \w\]", page, re.M)
        and len(shown) == 7
    )


def rows_of(name: str) -> list[dict[str, str]]:
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_shares_of_intervals_that_hold_the_true_rate_are_those_of_the_csv() -> None:
    """In the table of the page on the estimate, and in the sentence of the guarantees."""
    held: dict[str, list[bool]] = {}
    for row in rows_of("estimates"):
        low, truth, high = (float(row[name]) for name in ("low", "truth", "high"))
        held.setdefault(row["data"], []).append(low <= truth <= high)
    page = (ROOT / "docs/explanation/noise-estimation.md").read_text(encoding="utf-8")
    shown = re.findall(r"\| (\d+) of (\d+) \|$", page, re.M)
    assert shown == [(str(sum(flags)), str(len(flags))) for flags in held.values()]
    digits, others = held.pop("digits"), [flag for flags in held.values() for flag in flags]
    guarantees = (ROOT / "docs/reference/guarantees.md").read_text(encoding="utf-8")
    assert re.findall(r"in (\d+) of (\d+) (?:runs on digits|others)", guarantees) == [
        (str(sum(flags)), str(len(flags))) for flags in (digits, others)
    ]


def test_the_methods_that_the_pages_call_the_best_are_so_by_the_csvs() -> None:
    """By mean over the columns, among the methods that use no true noise rate in any of them."""
    columns: dict[str, dict[str, float]] = {}
    oracles = set()
    for name in ("field-digits", "field-fashion"):
        for row in rows_of(name):
            if row["metric"] == "last":
                columns.setdefault(f"{name} {row['noise']}", {})[row["method"]] = float(row["mean"])
                oracles |= {row["method"]} if row["oracle"] == "True" else set()

    def best(*left_out: str) -> str:
        means = [column for name, column in columns.items() if not name.endswith(left_out)]
        methods = set.intersection(*map(set, means)) - oracles
        return max(methods, key=lambda method: sum(column[method] for column in means))

    assert len(columns) == 4
    assert best("never") == "joint"
    assert best("symmetric(rate=0.8)") == "elr_plus"


@pytest.mark.soak  # writes 7,000 images
def test_readmes_photos_are_those_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,000 of which 41.9 % are wrong; each picture is the one of its number, in the folder of the
    label that people gave.
    """
    data = workspace(tmp_path, "cifar10n-short").data_dir
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISEBENCH_DATA", str(data))
    assert photos.main() == 0
    dataset = find_dataset("cifar10")
    images, given = read_images(dataset, data), {}
    for path in Path("photos/train").glob("*/*.png"):
        assert (np.asarray(Image.open(path)) == images.train_images[int(path.stem)]).all()
        given[int(path.stem)] = dataset.classes.index(path.parent.name)
    assert (
        sorted(given) == list(range(5000))
        and sum(given[i] != images.train_labels[i] for i in given) == 2093
    )
    right = {
        int(path.stem): dataset.classes.index(path.parent.name)
        for path in Path("photos/test").glob("*/*.png")
    }
    assert [right[i] for i in range(2000)] == images.test_labels[:2000].tolist()


def test_one_line_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit where versions, processor and threads are those of the line, else within the
    spread over seeds.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked = [
        "--seeds",
        "10",
        "--filter",
        "noise=symmetric(rate=0.4)",
        "--filter",
        "method=el",
        "--filter",
        "seed=0",
    ]
    assert main(["-q", "-C", str(tmp_path), "run", "quick", *asked, "--jobs", "1", "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    with (RESULTS / "quick.csv").open(encoding="utf-8", newline="") as lines:
        column = [
            row
            for row in csv.DictReader(lines)
            if row["method"] == "el" and row["noise"] == "symmetric(rate=0.4)"
        ]
    (line,) = (row for row in column if row["seed"] == "0")
    known = finished_runs(RESULTS / "quick.csv")[line["key"]].about()["environment"]
    alike = all(
        known[name] == value
        for name, value in environment().items()
        if name in ("processor", "torch", "numpy")
    )
    if alike and cell["precision"] == line["precision"]:
        assert cell["values"]["0"] == float(line["last"])
    else:
        values = [float(row["last"]) for row in column]
        assert min(values) - 0.03 <= cell["values"]["0"] <= max(values) + 0.03
