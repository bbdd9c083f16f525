"""What MkDocs adds to the pages of docs/: reference pages generated from the package, the pages of
results/ and the changelog. Links between files of the repository become links of the site, or to
the repository where the site does not hold the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from html import escape
from io import StringIO
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from noisebench.cli import main
from noisebench.cli.app import app

ROOT = Path(__file__).parents[1]
IMAGES = (".svg", ".png")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and those of results/."""
    generated = {
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "reference/cli.md": command_line(),
        "reference/losses.md": catalogue("losses", LOSSES),
        "reference/noises.md": catalogue("noises", NOISES),
        "reference/strategies.md": catalogue("strategies", STRATEGIES),
        "reference/methods.md": methods(),
    }
    for path in sorted((ROOT / "results").iterdir()):
        site = f"results/{'index' if path.stem == 'README' else path.stem}.md"
        if path.suffix == ".md":
            generated[site] = path.read_text(encoding="utf-8")
        elif path.suffix in IMAGES:
            files.append(File(f"results/{path.name}", str(ROOT), config.site_dir, False))
    for uri, content in generated.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point each relative link at the site's copy of the file, or at the repository's."""
    uri = page.file.src_uri
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]  # it has no other pages beside it
    here = repository_path(uri)

    def link(match: re.Match[str]) -> str:
        target, hash_sign, anchor = match[2].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = normpath(str(PurePosixPath(here).parent / target))
        site = site_path(path)
        file = files.get_file_from_path(site)
        if file and not file.inclusion.is_excluded():
            return f"{match[1]}{relpath(site, str(PurePosixPath(uri).parent))}{hash_sign}{anchor})"
        if not (ROOT / path).exists():
            raise PluginError(f"{here}: {match[2]} leads to no file")
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{match[1]}{config.repo_url}/{kind}/main/{path}{hash_sign}{anchor})"

    blocks = re.split(r"(^```.*?^```$|`[^`\n]*`(?!\]))", markdown, flags=re.S | re.M)
    blocks[::2] = [re.sub(r"(\]\()([^)\s]+)\)", link, text) for text in blocks[::2]]
    return "".join(blocks)


def repository_path(uri: str) -> str:
    """Where the source of a page lies in the repository."""
    if uri == "changelog.md":
        return "CHANGELOG.md"
    name = uri.replace("results/index.md", "results/README.md")
    return name if name.startswith("results/") and (ROOT / name).exists() else f"docs/{uri}"


def site_path(path: str) -> str:
    """Where the site holds a file of the repository."""
    names = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
    return names.get(path, path.removeprefix("docs/").replace("/README.md", "/index.md"))


def command_line() -> str:
    """Every command with its options, in the order and the panels of its help."""
    group: Any = typer.main.get_command(app)
    lines = [
        "# Command line",
        "Look up every command with all its options, as `--help` prints them.",
        "Options of the first section come before the command: `noisebench -C DIR train ...`.",
        "Exit codes: 0 success; 1 a bug; 2 wrong input; 3 a run failed; 4 a check found a "
        "regression; 5 a check cannot decide; 130 interrupted. Results go to stdout, progress and "
        "warnings to stderr; with `--json` stdout is one JSON document.",
        "On a terminal, everything that takes longer than about a second shows a progress bar, "
        "which is erased at the end. Elsewhere, what takes longer than ten seconds prints a line "
        "at most every ten seconds. `noisebench --quiet` hides both.",
        "## noisebench",
        *options_of(group, "Global options"),
    ]
    for name, command in group.commands.items():
        context = command.make_context(f"noisebench {name}", [], resilient_parsing=True)
        text = re.sub(r"^noisebench .*", r"```sh\n\g<0>\n```", str(command.help), flags=re.M)
        lines += [f"## {name}", text]
        lines += [f"```text\n{command.get_usage(context)}\n```"]
        lines += options_of(command, "Options")
    return "\n\n".join(lines) + "\n"


def options_of(command: Any, other: str) -> Iterator[str]:
    """A table of options for each panel."""
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if parameter.param_type_name != "option" or parameter.hidden:
            continue
        names = " / ".join([", ".join(parameter.opts), *parameter.secondary_opts])
        metavar = (
            "" if parameter.is_flag else f" {parameter.metavar or parameter.type.name.upper()}"
        )
        default = parameter.default
        shown = default not in (None, False, [], (), "") and parameter.show_default
        text = paragraphs(" ".join(str(parameter.help or "").split()))
        if shown:
            text += f" Default: `{default}`."
        panel = getattr(parameter, "rich_help_panel", None) or other
        panels.setdefault(panel, []).append(f"| {code(names + metavar)} | {cell(text)} |")
    for panel, rows in panels.items():
        yield f"**{panel}**"
        yield "\n".join(["| option | meaning |", "| --- | --- |", *rows])


def cell(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", "\\|")


LOSSES = (
    "Losses",
    "Look up the formula, the parameters and the source of every loss.\n\n"
    "p is the softmax probability of the class whose cost is computed, z are the logits, K is the "
    "number of classes. Each loss is a function `log_p (N, K) -> cost (N, K)`; combinators take a "
    "loss as first argument: `lsr(el(eps=0.4))`. Sums and products of losses are losses: "
    "`ce + 0.1*mae`.",
)
NOISES = (
    "Noises",
    "Look up every kind of label noise with its parameters and its source.\n\n"
    "Use one by its short option (`--sym 0.4`) or by `--noise TEXT`.",
)
STRATEGIES = (
    "Strategies",
    "Look up every training strategy with its parameters and its source.\n\n"
    "A strategy goes with any loss: `--loss el --strategy coteaching`.",
)


def catalogue(kind: str, opening: tuple[str, str]) -> str:
    """The entries of a registry, one in full each."""
    title, text = opening
    lines, maps = [f"# {title}", text], []
    for entry in sorted(listed("list", kind), key=lambda entry: str(entry["name"])):
        full = listed("list", kind, entry["name"])
        if "parameters" not in full:  # a map of asymmetric noise
            maps.append(f"| `{full['name']}` | {cell(full['summary'])} | {full.get('paper', '')} |")
            continue
        lines += [f"## {entry['name']}", f"`{full['text']}`", paragraphs(full["doc"])]
        lines += [f"* `{name}`: {text}" for name, text in full["parameters"].items()]
        lines += [f"Source: {full['paper']}."] if full.get("paper") else []
    if maps:
        head = "| map | what flips | source |\n| --- | --- | --- |"
        lines += ["## Maps of asymmetric noise", "\n".join([head, *maps])]
    return "\n\n".join(lines) + "\n"


def methods() -> str:
    """Methods of the literature: what each trains."""
    lines = [
        "# Methods",
        "Pick a method of the literature for `--method NAME`: a loss and a strategy with the "
        "settings of their source.",
        "Settings can depend on data set and noise; `noisebench list methods NAME` prints all "
        "settings of one.",
        "| method | loss | strategy | source |\n| --- | --- | --- | --- |\n"
        + "\n".join(
            f"| {m['name']} | {code(m.get('loss'))} | {code(m.get('strategy'))} "
            f"| {cell(str(m.get('paper') or ''))} |"
            for m in listed("list", "methods")
        ),
    ]
    return "\n\n".join(lines) + "\n"


def code(text: Any) -> str:
    """Code in a cell of a table: bars, asterisks and underscores are text."""
    plain = re.sub(r"[|*_]", lambda mark: f"&#{ord(mark[0])};", escape(str(text)))
    return f"<code>{plain}</code>" if text else ""


def paragraphs(doc: str) -> str:
    """A docstring as Markdown: its asterisks, underscores and angle brackets are text, powers are
    superscripts.
    """
    parts = re.split(r"(`[^`]*`)", doc)
    for i in range(0, len(parts), 2):
        plain = re.sub(r"([*_])", r"\\\1", escape(parts[i], quote=False))
        parts[i] = re.sub(r"\^(-?\w+)", r"<sup>\1</sup>", plain)
    return "".join(parts)


def listed(*words: str) -> Any:
    """What a command prints as JSON."""
    stream = StringIO()
    with redirect_stdout(stream):
        code_of_exit = main([*words, "--json"])
    if code_of_exit:
        raise PluginError(f"noisebench {' '.join(words)} ended with exit code {code_of_exit}")
    return json.loads(stream.getvalue())
