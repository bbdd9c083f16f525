"""The HTML page: its numbers are the document's, nothing in it can be injected or fetched, and a
real browser can use it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from noisebench.cli import main
from noisebench.reporting import Report, TableLayout, report_of
from noisebench.reporting.page.chart import round_ticks, thin
from noisebench.reporting.page.model import view_of
from noisebench.reporting.page.page import inline_svg
from noisebench.runs.folder import RunFolder, run_folders
from noisebench.runs.workspace import Workspace
from tests.support.browser import Browser
from tests.unit.test_report import ASYM, SYM, add

EVIL = "</script><img src=x onerror=\"alert('x')\">{{ 7*7 }}&amp;"
SUITE = """
version: 1
suites:
  tiny:
    defaults: {dataset: digits, epochs: 3, seeds: [0, 1], precision: fp32}
    matrix: {noise: [symmetric(rate=0.2), symmetric(rate=0.4), symmetric(rate=0.6)], method: [ce, el]}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of twelve real runs, two of them failed: one cell has a failed seed, one has no
    run.
    """
    place = tmp_path_factory.mktemp("trained")
    (place / "tiny.yaml").write_text(SUITE)
    assert main(["-q", "-C", str(place), "run", str(place / "tiny.yaml"), "--jobs", "1"]) == 0
    for folder in run_folders([place]):
        if "sym0.6-s1_mlp_ce" in folder.path.name:
            about = {key: value for key, value in folder.about().items() if key != "metrics"}
            folder.result.unlink()
            folder.write_error(about, "FloatingPointError", "the loss is nan")
        elif "sym0.2" in folder.path.name and "_el_" in folder.path.name:
            shutil.rmtree(folder.path)
    return place


def report(place: Path, metric: str = "last", **shape: object) -> Report:
    return report_of(
        run_folders([place]), TableLayout(metric=metric, **shape), workspace=Workspace(place)
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def text(trained: Path) -> str:
    return report(trained).render("html")


class Tags(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def test_every_cell_has_the_mean_of_the_json_document(trained: Path) -> None:
    made = report(trained, "last,memorised")
    shown = [
        c
        for t in view_of(made.tables, (), Workspace(trained)).tables
        for row in t.rows
        for c in row.cells
        if c
    ]
    cells = made.document()["cells"]
    assert [c.text.value for c in shown] == [cell["mean"] for cell in cells]
    assert [(c.n, c.text.failed, c.text.oracle) for c in shown] == [
        (cell["n"], cell["failed"], cell["oracle"]) for cell in cells
    ]


def test_a_cells_runs_are_those_that_its_mean_was_taken_of(trained: Path) -> None:
    made = report(trained)
    view = view_of(made.tables, (), Workspace(trained))
    runs = {r.id: r for r in view.runs}
    for cell, document in zip(
        [c for row in view.tables[0].rows for c in row.cells if c],
        made.document()["cells"],
        strict=True,
    ):
        last = [seed.numbers[0] for seed in runs[cell.runs].seeds if not seed.error]
        assert last == [f"{100 * value:.2f}" for value in document["values"].values()]
        assert runs[cell.runs].means[0] == cell.text.number + (
            f" {cell.text.spread}" if cell.text.spread else ""
        )


def test_metrics_of_the_same_runs_share_what_they_open_to(trained: Path) -> None:
    view = view_of(report(trained, "last,best,memorised").tables, (), Workspace(trained))
    assert (
        len({c.runs for row in view.tables[0].rows for c in row.cells if c}) == len(view.runs) == 5
    )


def test_a_damaged_history_is_named_and_its_run_stays(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    folder = next(run for run in run_folders([tmp_path]) if run.result.exists())
    folder.history.write_text("epoch\n1")
    view = view_of(report(tmp_path, "last,best").tables, (), Workspace(tmp_path))
    (line,) = view.damaged
    assert str(folder.history) in line and len(view.runs) == 5


def test_a_failed_seed_says_why_and_how_to_run_it_again(text: str) -> None:
    assert "✗ seed 1 failed:</strong> FloatingPointError: the loss is nan" in text
    assert (
        "--noise-seed 1 --loss ce --model mlp --recipe digits --epochs 3 --seed 1 --precision fp32"
        in text
    )


def test_an_oracle_says_what_it_was_told(text: str) -> None:
    assert "eps of el is the true noise rate" in text


def test_the_doubted_labels_have_their_own_pictures(trained: Path, digits: object) -> None:
    from PIL import Image

    view = view_of(report(trained).tables, (), Workspace(trained))
    doubt = view.runs[0].issues.shown[0]
    raw = base64.b64decode(view.images[doubt.image].partition(",")[2])
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(raw))), digits.train_images[doubt.index, ..., 0]
    )  # type: ignore[attr-defined]


def test_the_most_doubted_label_has_the_least_probability(trained: Path) -> None:
    runs = view_of(report(trained).tables, (), Workspace(trained)).runs[0]
    folder = RunFolder(trained / runs.seeds[0].folder)
    arrays = folder.read_arrays()
    at = np.arange(len(arrays["recorded_labels"]))
    assert (
        runs.issues.shown[0].index == arrays["train_log_p"][at, arrays["recorded_labels"]].argmin()
    )
    wrong = (arrays["clean_labels"] != arrays["recorded_labels"])[
        [d.index for d in runs.issues.shown]
    ]
    assert [d.status == "wrong" for d in runs.issues.shown] == wrong.tolist()


def test_other_labels_than_the_runs_give_no_pictures(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    for folder in run_folders([tmp_path]):
        if folder.result.exists():
            record = json.loads(folder.result.read_text())
            record["noise"]["labels_sha256"] = "0" * 64
            folder.write_json(folder.result, record)
    view = view_of(report(tmp_path).tables, (), Workspace(tmp_path))
    assert (
        view.images == {}
        and "differ from the run's" in view.runs[0].issues.missing
        and view.runs[0].issues.shown
    )


def test_a_run_without_its_files_still_has_a_page(tmp_path: Path) -> None:
    add(tmp_path)
    text = report(tmp_path).render("html")
    assert "predictions.npz" in text and "50.00" in text and "Learning curves" not in text


def test_foreign_names_cannot_be_markup(tmp_path: Path) -> None:
    record = {
        "data": {"name": EVIL, "sha256": EVIL, "classes": [EVIL]},
        "loss": EVIL,
        "strategy": EVIL,
        "model": {"name": EVIL},
    }
    folder = add(
        tmp_path,
        EVIL,
        EVIL,
        versions={EVIL: EVIL},
        environment={"torch": EVIL, "device": EVIL},
        **record,
    )
    folder.path.rename(folder.path.with_name("a'\"><b>&lt;__1"))
    text = report(tmp_path).render("html")
    assert "onerror=" not in {name for _, attributes in Tags(text).found for name in attributes}
    assert not Tags(text).named("b") and EVIL not in text and "49" not in Tags(text).named("title")
    assert html.escape(EVIL, quote=False).replace('"', "&#34;").replace("'", "&#39;") in text
    assert len(Tags(text).named("img")) == 0 and len(Tags(text).named("script")) == 2


def test_the_policy_names_the_hashes_of_what_is_inlined(text: str) -> None:
    policy = next(
        str(m["content"])
        for m in Tags(text).named("meta")
        if m.get("http-equiv") == "Content-Security-Policy"
    )
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (inlined,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert (
            f"{directive} "
            f"'sha256-{base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode()}'"
        ) in policy
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_nothing_in_the_page_is_fetched(text: str) -> None:
    addresses = [
        value
        for _, attributes in Tags(text).found
        for name, value in attributes.items()
        if name in ("src", "href", "srcset")
    ]
    assert addresses and all(str(value).startswith(("#", "data:")) for value in addresses)
    assert "://" not in text and "@import" not in text and not re.search(r"url\((?!#)", text)


def test_no_style_stands_at_an_element_where_the_policy_would_drop_it(text: str) -> None:
    assert not [
        tag
        for tag, attributes in Tags(text).found
        if "style" in attributes or any(name.startswith("on") for name in attributes)
    ]


def test_ids_are_unique_and_what_names_one_exists(text: str) -> None:
    tags = Tags(text).found
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for name in ("aria-labelledby", "aria-describedby", "data-runs"):
        assert {attributes[name] for _, attributes in tags if name in attributes} <= set(ids)


def test_a_reader_of_the_screen_finds_language_landmarks_and_heads(text: str) -> None:
    tags = Tags(text)
    assert (
        tags.named("html")[0]["lang"] == "en"
        and len(tags.named("main")) == len(tags.named("h1")) == 1
    )
    assert all("scope" in th for th in tags.named("th")) and tags.named("caption")
    assert all(
        svg.get("role") == "img" and svg.get("aria-label")
        for svg in tags.named("svg")
        if not svg.get("aria-hidden")
    )


def test_the_verdict_of_a_check_stands_on_the_page(trained: Path) -> None:
    from noisebench.reporting import Rules, check

    made = report(trained)
    better = json.loads(json.dumps(made.document()))
    for cell in better["cells"]:
        cell.update(values=dict.fromkeys(cell["values"], 1.0), mean=1.0)
    verdict = check(made.document(), better, Rules(tolerance=0))
    assert html.escape(verdict.troubles[0], quote=False)[:40] in made.render("html", verdict)


@pytest.mark.soak
def test_the_page_of_a_large_suite_is_small(trained: Path, tmp_path: Path) -> None:
    """56 cells of four seeds: what they add is far below 3 MB."""
    for number, (seed, folder) in enumerate(
        (seed, folder)
        for seed in range(28)
        for folder in run_folders([trained])
        if folder.result.exists()
    ):
        shutil.copytree(folder.path, tmp_path / f"{seed}__{number:08x}")
        record = json.loads((tmp_path / f"{seed}__{number:08x}" / "result.json").read_text())
        record.update(key=f"{number:064x}", seed=seed % 4, method=f"{record['method']} {seed // 4}")
        (tmp_path / f"{seed}__{number:08x}" / "result.json").write_text(json.dumps(record))
    assert len(report(tmp_path).render("html")) < 3_000_000


def test_a_page_loads_no_torch_and_other_formats_no_jinja(trained: Path, tmp_path: Path) -> None:
    report = ["-q", "-C", str(trained), "report", "-o"]
    script = f"""import sys
from noisebench.cli import main
assert main([*{report!r}, {str(tmp_path / "t.md")!r}]) == 0 and not {{"jinja2", "PIL", "torch", "torchvision"}} & set(sys.modules)
assert main([*{report!r}, {str(tmp_path / "t.html")!r}]) == 0 and not {{"torch", "torchvision"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([22.4, 97.6], (20, 40, 60, 80, 100)),
        ([0, 3], (0, 1, 2, 3)),
        ([0.5, 0.5], None),
        ([0, 1e-7], None),
    ],
)
def test_ticks_are_few_and_round_and_span_the_values(
    values: list[float], ticks: tuple[float, ...] | None
) -> None:
    found = round_ticks(values)
    assert found[0] <= min(values) and found[-1] >= max(values) and 2 <= len(found) <= 6
    assert ticks is None or found == ticks


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    found = thin(list(range(1001)))  # type: ignore[arg-type]
    assert len(found) <= 201 and (found[0], found[-1]) == (0, 1000) and thin([]) == ()


def test_a_figure_is_inlined_without_style_script_or_shared_ids() -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure = Figure()
        figure.subplots().plot([1, 2], label=EVIL)
        figure.axes[0].set_title(EVIL)
        figure.savefig(drawn, format="svg")
    first, second = (str(inline_svg(drawn.getvalue(), "a <title>", f"f{n}-")) for n in (1, 2))
    for text in (first, second):
        assert (
            not re.search(r"<(style|script|metadata|img)|\sstyle=|http", text)
            and 'role="img"' in text
            and "a &lt;title&gt;" in text
        )
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    assert (
        set(re.findall(r"url\(#([^)]+)\)", first)) <= ids[0]
        and set(re.findall(r'href="#([^"]+)"', first)) <= ids[0]
    )


@pytest.fixture(scope="module")
def page(trained: Path, text: str) -> Path:
    path = trained / "page.html"
    path.write_text(text, encoding="utf-8")
    return path


ROWS = "[...document.querySelectorAll('table.results tbody th')].map(th => th.textContent)"
OPEN = "document.getElementById('panel').open"


def test_in_a_browser_a_head_sorts_reverses_and_restores(browser: Browser, page: Path) -> None:
    browser.open(page)
    # at 0.4 EL is better than CE; it has no run at 0.2
    head = "table.results thead th:nth-child(3) button"
    orders = []
    for _ in range(3):
        browser.click(head)
        orders.append(
            (
                browser.run(ROWS),
                browser.run(
                    f"document.querySelector('{head}').closest('th').getAttribute('aria-sort')"
                ),
            )
        )
    better = browser.run(
        "[...document.querySelectorAll('table.results tbody "
        "td:nth-child(3)')].map(td => Number(td.dataset.value))"
    )
    best_first = ["ce", "el"] if better[0] > better[1] else ["el", "ce"]
    assert orders == [
        (best_first, "descending"),
        (best_first[::-1], "ascending"),
        (["ce", "el"], None),
    ]
    for direction in ("descending", "ascending"):
        browser.click("table.results thead th:nth-child(2) button")
        assert browser.run(ROWS) == ["ce", "el"], f"a missing cell stays last, {direction}"


@pytest.mark.soak
def test_in_a_browser_differences_sort_by_themselves_and_fit_a_phone(
    browser: Browser, trained: Path
) -> None:
    made = report_of(
        run_folders([trained]), TableLayout(against="el"), workspace=Workspace(trained)
    )
    (trained / "less.html").write_text(made.render("html"), encoding="utf-8")
    browser.resize(400, 800)
    browser.open(trained / "less.html")
    assert browser.run("document.documentElement.scrollWidth") <= 400
    browser.resize(1280, 800)
    heads = (
        "[...document.querySelectorAll('th')].filter(th => th.ariaSort).map(th => "
        "th.closest('table').querySelector('caption').textContent)"
    )
    browser.click("table[aria-describedby=table1-less-caption] thead th:nth-child(3) button")
    assert browser.run(heads) == [
        "digits, mlp, digits, 3 epochs, difference from el: method by column"
    ]
    shown = browser.run(
        "[...document.querySelectorAll('[aria-describedby=table1-less-caption] "
        "td')].map(td => Number(td.dataset.value))"
    )
    assert shown[1:] == [
        made.tables[0].differences["ce", f"symmetric(rate={rate})"].mean for rate in (0.4, 0.6)
    ], "EL has no run at 0.2"


def test_in_a_browser_a_cell_opens_by_mouse_and_keyboard_and_escape_closes_it(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    browser.click("#ce_sym-0.4".replace(".", r"\."))
    assert (
        browser.run(OPEN)
        and browser.run("document.getElementById('panel-title').textContent") == "ce, sym 0.4"
    )
    assert "noisebench train digits" in browser.run(
        "document.getElementById('panel-body').textContent"
    )
    assert browser.run(
        "[...document.querySelectorAll('#panel img')].every(i => i.complete && "
        "i.naturalWidth === 8)"
    )
    browser.press("Escape")
    browser.wait(f"!{OPEN} && location.hash === ''")
    assert browser.run("document.activeElement.id") == "ce_sym-0.4"
    browser.press("Enter")
    assert browser.run(OPEN) and browser.run("decodeURIComponent(location.hash)") == "#ce_sym-0.4"


def test_in_a_browser_a_cells_address_opens_it(browser: Browser, page: Path) -> None:
    browser.open(page, "#el_sym-0.6")
    assert (
        browser.run(OPEN)
        and browser.run("document.getElementById('panel-title').textContent") == "el, sym 0.6"
    )


def test_in_a_browser_a_phone_shows_it_without_scrolling_sideways(
    browser: Browser, page: Path
) -> None:
    browser.resize(400, 800)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= 400
    assert browser.run("(e => e.scrollWidth > e.clientWidth)(document.querySelector('.scroll'))"), (
        "the table scrolls within its own box"
    )
    browser.run("document.querySelector('.cell').click()")
    assert browser.run(
        "(p => p.scrollWidth <= p.clientWidth && p.getBoundingClientRect().width "
        "<= 400)(document.getElementById('panel'))"
    )
    browser.resize(1280, 800)


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True)
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_every_text_has_contrast(browser: Browser, page: Path, scheme: str) -> None:
    browser.scheme(scheme)
    browser.open(page, "#el_sym-0.6")
    paper = luminance(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    texts = browser.run("[...new Set([...document.querySelectorAll('body *')].filter(e => "
                        "e.textContent && !e.closest('svg'))"
                        ".map(e => getComputedStyle(e).color))]")  # fmt: skip
    for colour in texts:
        low, high = sorted((paper, luminance(colour)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def test_in_a_browser_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    add(tmp_path, EVIL, SYM, data={"name": "digits", "classes": [EVIL]}, loss=EVIL)
    add(tmp_path, "ce", ASYM)
    (tmp_path / "page.html").write_text(report(tmp_path).render("html"), encoding="utf-8")
    browser.open(tmp_path / "page.html")
    browser.run("document.querySelector('.cell').click()")
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert EVIL in browser.run("document.getElementById('panel-title').textContent")


def test_a_browser_would_have_said_so(chromium: Browser, page: Path, tmp_path: Path) -> None:
    """The policy stops a script that somebody put in, and what is asserted of every page above can
    fail.
    """
    bad = "<img src=x onerror='window.hit = 1'><script>window.hit = 1</script>"
    (tmp_path / "page.html").write_text(
        page.read_text(encoding="utf-8").replace("</main>", bad), encoding="utf-8"
    )
    chromium.events.clear()
    chromium.open(tmp_path / "page.html")
    assert chromium.run("window.hit === undefined")
    assert sum(e["method"] == "Log.entryAdded" for e in chromium.events) >= 2


def test_a_figure_of_matplotlib_keeps_its_look_under_the_policy(
    browser: Browser, trained: Path, tmp_path: Path
) -> None:
    from noisebench.reporting.page import page as make_page

    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt"><path id="p" '
        'style="fill: #ff0000"/></svg>'
    )
    made = make_page(
        report(trained).tables,
        Workspace(trained),
        figures=[("One", "of it", svg), ("Two", "of it", svg)],
    )
    (tmp_path / "page.html").write_text(made, encoding="utf-8")
    browser.open(tmp_path / "page.html")
    assert (
        browser.run("getComputedStyle(document.getElementById('figure2-p')).fill")
        == "rgb(255, 0, 0)"
    )
    assert browser.run("document.querySelector('.card svg').getAttribute('width')") == "96"
