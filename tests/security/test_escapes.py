"""One table of hostile names through every output there is: each sink's law, where possible against
the same output of harmless names.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from noisebench.cli import main
from noisebench.core.sanitize import as_cell, from_cell
from noisebench.datasets import DATASETS, Labels
from noisebench.errors import NoisebenchError, printable
from noisebench.experiments.command import repro_command
from noisebench.labels.build import LabelRequest, make_manifest
from noisebench.labels.manifest import read_manifest
from noisebench.reporting import FORMATS, TableLayout, report_of
from noisebench.reporting.ci import error_lines, step_summary
from noisebench.reporting.figures.panels import Panel, PanelFigure, Series
from noisebench.reporting.page.page import inline_svg
from noisebench.reporting.render.text import fragment
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.workspace import Workspace
from tests.unit.test_report import SYM, add

HOSTILE = (
    "clear\x1b[2J\x1b[H", "\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\", "\x1b]0;title\x07", "c1\x9b2J\x85next", "back\b\b\bspace",
    "over\rwritten", "line\nerror: all is well", "\u202egnp.exe\u202c", "zero\u200bwidth\ufeff", "sep\u2028line\u2029", "half\udc80",
    "[red]x[/red]", "[/red]", "[link=http://example.org]x[/link]", ":skull:",
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</script><script>", "<!-- ", "]]>", "javascript:alert(1)", "{{ 7*7 }}",
    "&lt;b&gt;", "' onclick='x", "\\input{/etc/passwd}", "\\write18{id}", "50 % off", "a_b^c~d#e&f", "$x$", "$\\frac{", "{", "}", "[5pt]",
    "*", "=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "\uff1d1+1", "\"=1+1", "'=1", "a,\"b\"",
    "a|b", "a\\|b", "`code`", "[x](javascript:alert(1))", "![x](http://example.org/x.png)", "**bold**", "~~gone~~", "# head", "| a | b |",
    "::error::x", "  ::set-output name=a::b", "x\n::stop-commands::y", "::error file=a%0A::b", "##[error]x", "##vso[task.setvariable]x",
    "nul\0byte", "nochar\ufffe\uffff", "; rm -rf ~", "$(touch x)", "`touch x`", "'; touch x; '", "--log-to", "-x", "!!", "%s%n",
)  # fmt: skip
HARMLESS = tuple(f"name{number}" for number in range(len(HOSTILE)))
FEW = (
    HOSTILE[0],
    "\u202e\x9b\r\n::error::x##[y][/red]\udc80",
    "::set-output name=a::b",
    "--log-to",
)
ASCII = "\x1b]0;t\x07\r\n::error::x##[y]"  # a bit of everything


def seen(text: str) -> None:
    """The law of what a terminal is sent, beside Rich's own colours."""
    text = re.sub(r"\x1b\[[\d;]*m", "", text)
    bad = {
        letter
        for letter in text
        if letter != "\n" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }
    assert not bad, (bad, text)


def plain(text: str) -> None:
    """The law of what goes through a pipe, where a build's log may read it."""
    assert "\x1b" not in text
    seen(text)
    for line in text.split("\n"):
        assert not line.lstrip().startswith("::") and not re.search(r"##[\w-]*\[", line), line


# What is harmless


def test_harmless_is_one_line_seen_whole_and_its_own_form() -> None:
    for name in HOSTILE:
        assert printable(printable(name)) == printable(name) and "\n" not in printable(name)
        plain("x" + printable(name))


def test_what_can_be_read_stays_as_it_is() -> None:
    for name in (
        "96.12 ± 0.30 † ✗1",
        "naïve",
        "可爱的猫",
        "می\u200cخواهم",
        "👩\u200d🔬",
        "a\u00a0b",
        "symmetric(rate=0.4)",
        "a#b [c]",
    ):
        assert printable(name) == name


def test_an_error_is_as_many_lines_as_there_are_mistakes() -> None:
    assert str(NoisebenchError("a\nb", "c\x1b")) == "a\\nb\nc\\x1b"


# Finished and failed runs, whose every word is untrusted


def make_runs(root: Path, names: Iterable[str]) -> Path:
    """A run for each name as a method, one whose every fact is that name, and a failed one."""
    for name in names:
        add(root, name)
        facts = {"data": {"name": name, "sha256": name, "classes": [name]}, "model": {"name": name},
                 "title": name, "key": name, "precision": name, "versions": {name: name}, "environment": {"torch": name, "device": name},
                 "init": {"text": name, "sha256": name}, "recipe": {"name": name, "epochs": 40, name: name}}  # fmt: skip
        add(root, name, name, **facts)
        about = add(root, name).about()
        failed = RunFolder(run_folders([root])[-1].path)
        failed.write_error({**about, "held_out": name}, name, name, name)
        failed.result.unlink()
    return root


@pytest.fixture(autouse=True, scope="module")
def readers_that_let_controls_in() -> Iterator[None]:
    """Records with control or half characters are refused as they are read: what shows them is
    tried all the same.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "noisebench.runs.folder.read_json", lambda path: json.loads(path.read_bytes())
        )
        patch.setattr("noisebench.core.files.schema._CONTROL", re.compile("(?!)"))
        yield


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("evil"), HOSTILE)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("good"), HARMLESS)


@cache  # a page of all these names takes a second
def rendered(place: Path, form: str) -> str:
    text = report_of(run_folders([place]), TableLayout(), workspace=Workspace(place)).render(form)
    text.encode()  # it can be printed
    return text


def like(form: str) -> Callable[[Callable[[str], Any]], Callable[[Path, Path], None]]:
    """A test that `structure` of a format is the same for hostile names as for harmless ones."""

    def decorate(structure: Callable[[str], Any]) -> Callable[[Path, Path], None]:
        def test(evil: Path, good: Path) -> None:
            found, expected = structure(rendered(evil, form)), structure(rendered(good, form))
            assert found == expected and found

        test.__doc__ = structure.__doc__
        return test

    return decorate


class Elements(HTMLParser):
    """How often each element stands there with which attributes, comments and all; addresses and
    scripts in full.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: Counter[Any] = Counter()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag, tuple(name for name, _ in attrs)] += 1
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("href", "src") or str(value).startswith(("#", "data:")), value

    def handle_comment(self, data: str) -> None:
        self.found["comment"] += 1

    def handle_decl(self, decl: str) -> None:
        self.found["declaration"] += 1


def test_no_format_holds_a_control_character_or_a_command_to_a_builds_log(
    evil: Path, subtests: pytest.Subtests
) -> None:
    for form in FORMATS:
        with subtests.test(form=form):
            plain(rendered(evil, form))


def test_every_format_has_its_law() -> None:
    """A new format needs a new test below."""
    assert set(FORMATS) == {"table", "md", "csv", "json", "html", "latex", "junit", "runs"}


def test_html_has_the_elements_of_harmless_names(evil: Path, good: Path) -> None:
    """But the box of a command where a noise cannot be read, and lines of words within a figure."""
    found, expected = (Elements(rendered(place, "html")).found for place in (evil, good))
    assert {tag for tag, _ in found - expected} <= {"text"}
    assert {tag for tag, _ in expected - found} <= {"text", "div", "pre", "code", "button"}


def test_a_notebooks_fragment_has_the_elements_of_harmless_names(evil: Path, good: Path) -> None:
    made = [
        fragment(report_of(run_folders([place]), TableLayout()).tables) for place in (evil, good)
    ]
    assert Elements(made[0]).found == Elements(made[1]).found
    plain(made[0])


@like("md")
def test_markdown_has_the_tokens_of_harmless_names(text: str) -> Any:
    return tokens(text)


def tokens(text: str) -> Counter[str]:
    parsed = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    found = Counter(token.type for block in parsed for token in [block, *(block.children or [])])
    return Counter(
        {kind: count for kind, count in found.items() if kind not in ("text", "softbreak")}
    )


@like("latex")
def test_latex_has_the_commands_of_harmless_names(text: str) -> Any:
    assert not re.search(r"(\\\\|rule)\s*[\[*]", text), "an argument of the end of the line before"
    bare = re.sub(r"\\text\w+\{\}|\\[&%$#_{}]|(?<![a-z}])\{\}", "", text)
    return Counter(re.findall(r"\\[a-zA-Z]+|\\.|[&%$#_{}^~]", bare.replace("\\\\", "\\!")))


@like("junit")
def test_junit_has_the_elements_of_harmless_names(text: str) -> Any:
    return Counter((node.tag, tuple(node.attrib)) for node in ElementTree.fromstring(text).iter())


@like("csv")
def test_csv_has_the_cells_of_harmless_names(text: str) -> Any:
    rows = list(csv.reader(io.StringIO(text)))
    no_formulas(rows)
    return [len(row) for row in rows]


@like("runs")
def test_a_file_of_runs_has_the_cells_of_harmless_names(text: str) -> Any:
    rows = list(csv.reader(io.StringIO(text)))
    no_formulas(rows)
    assert all(cell.isprintable() for row in rows for cell in row)
    return [len(row) for row in rows]


def no_formulas(rows: Iterable[Iterable[str]]) -> None:
    begins = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
    assert not [
        cell
        for row in rows
        for cell in row
        if cell.startswith(begins) and not re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", cell)
    ]


def test_json_says_every_name_as_it_is_in_letters_that_command_nothing(evil: Path) -> None:
    text = rendered(evil, "json")
    plain(text)
    assert text.isascii() and {cell["method"] for cell in json.loads(text)["cells"]} == set(HOSTILE)


def test_a_table_says_all_names_in_one_line_each(evil: Path, good: Path) -> None:
    assert len(rendered(evil, "table").splitlines()) == len(rendered(good, "table").splitlines())


def test_a_word_comes_back_from_its_cell() -> None:
    no_formulas([map(as_cell, HOSTILE)])
    assert [from_cell(as_cell(name)) for name in HOSTILE] == list(HOSTILE)


def test_a_build_is_told_its_errors_and_nothing_else(evil: Path, good: Path) -> None:
    for name in HOSTILE:
        (line,) = error_lines([name])
        assert re.fullmatch(r"::error title=noisebench::[^\n\r]*", line) and not re.search(
            "%(?!25|0A)", line
        )
    summaries = [
        step_summary(report_of(run_folders([place]), TableLayout()).tables, names)
        for place, names in ((evil, HOSTILE), (good, HARMLESS))
    ]
    assert tokens(summaries[0]) == tokens(summaries[1])


def test_a_figure_is_valid_whatever_its_lines_are_called() -> None:
    def svg(names: tuple[str, ...]) -> str:
        line = np.arange(3.0)
        panel = Panel(
            names[0], names[1], names[2], tuple(Series(name, line, line) for name in names)
        )
        return PanelFigure("rates", "", ((panel,),)).picture("svg").decode()

    expected = {node.tag for node in ElementTree.fromstring(svg(HARMLESS[:6])).iter()}
    for start in range(0, len(HOSTILE) - 2, 6):
        made = svg(HOSTILE[start : start + 6])
        inline_svg(made, ASCII, "p-")
        seen(re.sub(r"\s+", " ", made))
        assert {node.tag for node in ElementTree.fromstring(made).iter()} == expected


# The command line


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def run_command(
    *arguments: str, stream: Callable[[], io.StringIO] = io.StringIO
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    out, err = stream(), stream()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


def lawful(*arguments: str) -> str:
    """stdout of a command that ends well, both through a pipe and on a terminal, where Rich's own
    colours are.
    """
    for stream in (Terminal, io.StringIO):
        code, out, err = run_command(*arguments, stream=stream)
        assert code == 0, err
        law = seen if stream is Terminal else plain
        law(out)
        law(err)
    return out


COMMANDS = (
    "list {}", "list losses {}", "train digits --loss {}", "train ./{}", "corrupt digits --noise {}", "evaluate {}",
    "report --filter method={}", "report --rows {}", "report -o {}", "run {}", "--plugin {} list env", "train {} {}",
)  # fmt: skip


def test_an_error_is_one_harmless_line(tmp_path: Path, subtests: pytest.Subtests) -> None:
    add(tmp_path / "runs")
    for command in COMMANDS:
        with subtests.test(command=command):
            for name in FEW:
                code, out, err = run_command(
                    "-C", str(tmp_path), *(word.replace("{}", name) for word in command.split())
                )
                plain(err)
                assert code in (2, 5) and err.count("\n") == 1 and not out, (name, err, out)


def test_a_bug_is_said_in_harmless_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError(ASCII)

    monkeypatch.setattr("noisebench.cli.options.Globals.open", fail)
    for more in ([], ["-v"]):
        code, _, err = run_command(*more, "list", "env")
        plain(err)
        assert code == 1 and "a bug in noisebench" in err


def test_lists_of_runs_and_a_damaged_one_are_harmless(tmp_path: Path) -> None:
    for name in HOSTILE:
        if "/" not in name and "\0" not in name:
            folder = tmp_path / "runs" / f"{name}__1"
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps({"schema": name}))
    assert lawful("-C", str(tmp_path), "list", "runs").count("damaged") > 50
    add(tmp_path / "runs" / "good")
    lawful("-C", str(tmp_path), "report", str(tmp_path / "runs"), str(tmp_path / "runs" / "good"))


def test_suites_are_harmless(tmp_path: Path) -> None:
    suite = {
        "defaults": {"dataset": "digits"},
        "matrix": {"noise": ["symmetric(rate=0.4)"], "method": ["ce"]},
    }
    names = [name for name in HOSTILE if name.isprintable()]  # of YAML
    (tmp_path / "benchmarks.yaml").write_text(
        json.dumps({"version": 1, "suites": {n: {**suite, "summary": n} for n in names}})
    )
    assert lawful("-C", str(tmp_path), "list", "suites").count("\n") >= len(names)
    lawful("-C", str(tmp_path), "run", "--dry-run", names[0])
    (tmp_path / "wrong.yaml").write_text(
        json.dumps(
            {"version": 1, "suites": {n: {**suite, n: n, "exclude": [{n: n}]} for n in names}}
        )
    )
    code, _, err = run_command("run", str(tmp_path / "wrong.yaml"))
    plain(err)
    assert code == 2 and all("wrong.yaml:" in line for line in err.splitlines())


def test_what_a_plugin_says_of_itself_is_harmless(tmp_path: Path) -> None:
    code = f"""
from noisebench.losses import register_loss

@register_loss(paper={ASCII!r})
def untrusted(log_p):
    return -log_p

untrusted.__doc__ = {ASCII!r}
"""
    path = tmp_path / "plugin_of_a_stranger.py"
    path.write_text(code)
    script = f"""
from noisebench.cli import main
for command in (["list", "losses"], ["list", "losses", "untrusted"]):
    assert main(["--plugin", {str(path)!r}, *command]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    plain(done.stdout + done.stderr)
    assert done.stdout.count("untrusted") > 1


# Data and labels


def test_manifests_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "manifests" / "m.csv"
    names = [name for name in HOSTILE if "\udc80" not in name]  # which no manifest can hold
    for few in (names[::8], names):
        labels = Labels(
            replace(DATASETS["digits"], classes=tuple(few)), np.arange(3 * len(few)) % len(few)
        )
        made = make_manifest(labels, LabelRequest("symmetric(rate=0.4)"))
        replace(
            made, meta={**made.meta, "dataset": few[0], "convention": few[1], "path": few[2]}
        ).write(path)
        assert read_manifest(path).meta["classes"] == few
        lawful("report", "--figure", "transition", str(path))
    lawful("report", "--figure", "transition", "--json", str(path))
    lawful("-C", str(tmp_path), "list", "manifests")
    for form in ("svg", "csv"):
        assert (
            run_command(
                "report", "--figure", "transition", str(path), "-o", str(tmp_path / f"t.{form}")
            )[0]
            == 0
        )
    ElementTree.parse(tmp_path / "t.svg")
    no_formulas(csv.reader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))


CLASSES = [
    name
    for name in HOSTILE
    if "/" not in name and "\0" not in name and "\udc80" not in name and name not in ("*", ".")
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a trained run on a folder whose classes and files have hostile names, wrong
    labels among them.
    """
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 1)):
        for number, name in enumerate(CLASSES):
            folder = root / "set" / part / name
            folder.mkdir(parents=True)
            for copy in range(count):
                pixels = np.full((8, 8, 3), number, np.uint8) + rng.integers(
                    0, 9, (8, 8, 3), np.uint8
                )
                Image.fromarray(pixels).save(folder / f"{name[:40]}{copy}.png")
    command = [
        "-C",
        str(root),
        "train",
        str(root / "set"),
        "--sym",
        "0.4",
        "--loss",
        "ce",
        "--model",
        "mlp",
        "--epochs",
        "2",
        "--seed",
        "0",
    ]
    code, out, err = run_command(*command)
    assert code == 0, err
    plain(out + err)
    return root


def test_what_is_said_of_a_strangers_classes_is_harmless(pictures: Path) -> None:
    (run,) = run_folders([pictures])
    (manifest,) = (pictures / "manifests").glob("*.csv")
    lawful("-C", str(pictures), "evaluate", str(run.path))
    lawful("-C", str(pictures), "evaluate", str(run.path), "--json")
    lawful("-C", str(pictures), "list", "manifests")
    lawful("-C", str(pictures), "report", "--figure", "transition", str(manifest))
    lawful(
        "-C",
        str(pictures),
        "train",
        str(pictures / "set"),
        "--manifest",
        str(manifest),
        "--dry-run",
    )
    page = report_of(run_folders([pictures]), TableLayout(), workspace=Workspace(pictures)).render(
        "html"
    )
    plain(page)
    assert Elements(page).found["img", ("alt", "data-image")] == 12, (
        "the label issues are shown with their classes"
    )


def test_a_list_of_doubted_labels_is_safe_to_open_and_can_be_reviewed(
    pictures: Path, tmp_path: Path
) -> None:
    (run,) = run_folders([pictures])
    (manifest,) = (pictures / "manifests").glob("*.csv")
    listed = tmp_path / "suspects.csv"
    lawful("-C", str(pictures), "evaluate", str(run.path), "--suspects", str(listed))
    rows = list(csv.reader(io.StringIO(listed.read_bytes().decode(), newline="")))
    no_formulas(rows)
    assert {from_cell(row[rows[0].index("given_label")]) for row in rows[1:]} <= set(CLASSES)
    known = [
        row
        for row in rows
        if "\\" not in str(row) and all(from_cell(cell).strip() == from_cell(cell) for cell in row)
    ]  # a backslash is Windows'
    with listed.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(known)
    lawful(
        "-C",
        str(tmp_path),
        "corrupt",
        str(pictures / "set"),
        "--manifest",
        str(manifest),
        "--suspects",
        str(listed),
        "--relabel",
    )
    assert len(known) > 20


def test_a_manifests_rows_are_no_formulas_and_one_line_each(pictures: Path) -> None:
    (manifest,) = (pictures / "manifests").glob("*.csv")
    body = [
        line
        for line in manifest.read_text(encoding="utf-8").split("\n")
        if line and not line.startswith("#")
    ]
    no_formulas(csv.reader(body))
    assert len(body) == 1 + len(read_manifest(manifest).labels)


def test_ids_that_begin_as_formulas_come_back(tmp_path: Path) -> None:
    ids = tuple(f"{name}/x.png" for name in ("=a", "+a", "-a", "@a", "\ta"))
    labels = Labels(DATASETS["digits"], np.arange(5), ids)
    made = make_manifest(labels, LabelRequest("symmetric(rate=0.4, exact=False)"))
    made.write(tmp_path / "m.csv")
    body = [
        line
        for line in (tmp_path / "m.csv").read_text(encoding="utf-8").split("\n")
        if line and not line.startswith("#")
    ]
    no_formulas(csv.reader(body))
    assert read_manifest(tmp_path / "m.csv").ids == ids


# A command to copy


def about(name: str) -> dict[str, Any]:
    return {"dataset": name, "path": name, "test_path": name, "noise": SYM, "noise_seed": name, "held_out": f"{name} trusted", "loss": "ce",
            "strategy": "standard", "model": name, "recipe_name": name, "recipe": {"epochs": name, "lr": name, name: name, "log_to": name},
            "init": {"text": name, "sha256": name}, "seed": name, "precision": name}  # fmt: skip


def test_a_shell_reads_each_word_of_a_command_as_it_is(tmp_path: Path) -> None:
    names = [name for name in HOSTILE if "\0" not in name and "\udc80" not in name]
    made = [repro_command(about(name)) for name in names]
    assert all(shlex.split(each.command) == list(each.words) for each in made)
    script = "\n".join(f"printf '%s\\0' {each.command}" for each in made)
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == [
        word for each in made for word in each.words
    ] and not list(tmp_path.iterdir())


def test_a_record_adds_no_option_to_its_command() -> None:
    known = {
        "--test",
        "--noise",
        "--noise-seed",
        "--trusted",
        "--loss",
        "--model",
        "--init-weights",
        "--epochs",
        "--lr",
        "--seed",
        "--precision",
    }
    for name in HOSTILE:
        words = repro_command(about(name)).words
        options = [word for at, word in enumerate(words[3:]) if at % 2 == 0]
        assert not words[2].startswith("-") and set(options) <= known, name
