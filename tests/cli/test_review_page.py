"""The review page: its data are those of the list, its images are whole, nothing in it can be
injected or fetched; and in a real browser a person's decisions become the labels of a training.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from noisebench.cli import main
from noisebench.datasets import Images, Shape, read_review
from noisebench.errors import DataError
from noisebench.labels.manifest import Manifest, read_manifest
from noisebench.reporting.review import Neighbour, ReviewItem, Section, write_review_page
from noisebench.runs.folder import run_folders
from tests.cli.test_page import EVIL, Tags, luminance
from tests.support.browser import Browser

COMMAND = "noisebench corrupt --manifest manifests/noisy.csv"
NAMES = ("=cat", 'a "dog", big', "<b>owl</b>", "قطة", "猫;\t犬", EVIL)
FILES = ("=cat/1.png", 'a "dog", big/1, 2.png', "<b>/'x'.png", "قطة/صورة.png", "猫/ 犬.png", f"{EVIL}/1.png")  # fmt: skip


def encoded(width: int, height: int, kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, kind, **options)
    return file.getvalue()


def write(path: Path, items: list[ReviewItem], **changes: Any) -> dict[str, Any]:
    """Writes a page and returns the data of its script."""
    given: dict[str, Any] = {"classes": NAMES, "picture": lambda index: encoded(8, 8)}
    options = {"sections": (), "title": "Review", "command": COMMAND, **given, **changes}
    write_review_page(path, items=items, **options)
    return data_of(path)


def data_of(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)  # type: ignore[no-any-return]


def hostile(count: int = len(FILES)) -> list[ReviewItem]:
    return [
        ReviewItem(k, FILES[k], k, (k + 1) % 6, k / 10, k < 2, (Neighbour(9, (k + 2) % 6, EVIL),))
        for k in range(count)
    ]


def image_of(source: str, page: Path) -> Image.Image:
    if source.startswith("data:"):
        return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    return Image.open(io.BytesIO((page.parent / unquote(source)).read_bytes()))


# The file


def test_the_page_has_the_items_in_order_with_their_values(tmp_path: Path) -> None:
    item = ReviewItem(7, "cat/1.png", 0, 1, 0.1234567, True, (Neighbour(3, 1, "dog/2.png"),))
    other = ReviewItem(2, "", 1, 0, 0.5)
    data = write(tmp_path / "r.html", [item, other], classes=("cat", "dog"))
    assert data["items"] == [
        {"index": 7, "file": "cat/1.png", "path": "cat/1.png", "given": 0, "suggested": 1,
         "quality": 0.123457, "confident": True, "neighbours": [[3, 1, "dog/2.png"]]},
        {"index": 2, "file": "no. 2", "path": "", "given": 1, "suggested": 0,
         "quality": 0.5, "confident": False, "neighbours": []},
    ]  # fmt: skip
    assert set(data["sources"]) == {"7", "2", "3"} and data["classes"] == ["cat", "dog"]


def test_the_key_changes_with_the_list_and_not_with_the_rest(tmp_path: Path) -> None:
    items = hostile()
    keys = [
        write(tmp_path / "r.html", items)["key"],
        write(tmp_path / "s.html", items, title="Other", picture=lambda index: None)["key"],
        write(tmp_path / "r.html", items[1:])["key"],
    ]
    assert keys[0] == keys[1] != keys[2]


def test_hostile_names_are_no_markup_and_nothing_is_fetched(tmp_path: Path) -> None:
    section = Section(EVIL, (EVIL,), (EVIL,), ((EVIL,),))
    write(tmp_path / "r.html", hostile(), sections=[section], title=EVIL, command=EVIL)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert EVIL not in text and "://" not in text and not re.search(r"url\(|@import", text)
    assert len(tags.named("script")) == 2 and len(tags.named("img")) == 1 and not tags.named("b")
    assert not [name for _, given in tags.found for name in given if name.startswith("on")]
    assert all(
        str(given[name]).startswith(("#", "data:"))
        for _, given in tags.found
        for name in ("src", "href")
        if name in given
    )


def test_images_are_whole_upright_and_scaled_down(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    exif[0x010F] = "maker"
    raw = {
        0: encoded(40, 10),
        1: encoded(2000, 500, "jpeg"),
        2: encoded(300, 1200, "webp"),
        3: encoded(60, 20, "jpeg", exif=exif),
        9: encoded(600, 300, "bmp"),  # a neighbour
    }
    page = tmp_path / "r.html"
    data = write(page, hostile(4), picture=raw.get)
    images = {int(index): image_of(source, page) for index, source in data["sources"].items()}
    sizes = {index: image.size for index, image in images.items()}
    assert sizes == {0: (40, 10), 1: (512, 128), 2: (128, 512), 3: (20, 60), 9: (128, 64)}
    assert not any(image.getexif() for image in images.values())
    assert np.array_equal(np.asarray(images[0]), np.asarray(Image.open(io.BytesIO(raw[0]))))


def test_a_missing_or_damaged_image_is_counted_and_not_fatal(tmp_path: Path) -> None:
    def picture(index: int) -> bytes | None:
        if index == 2:
            raise DataError("2.png cannot be read")
        return {0: None, 1: b"not an image"}.get(index, encoded(8, 8))

    data = write(tmp_path / "r.html", hostile(4), picture=picture)
    assert set(data["sources"]) == {"3", "9"}
    assert "cannot be read: 2." in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_many_images_are_files_beside_the_page_and_replaced_with_it(tmp_path: Path) -> None:
    page = tmp_path / "a #1?.html"
    (tmp_path / "a #1?-images-mine").mkdir()

    def folders() -> list[str]:
        return [f.name for f in tmp_path.iterdir() if re.search("images-[0-9a-f]{12}$", f.name)]

    before = write(page, hostile(), inline=0)["sources"]
    (first,) = folders()
    assert {image_of(source, page).size for source in before.values()} == {(8, 8)}
    assert write(page, hostile(), inline=0)["sources"] == before and folders() == [first]
    write(page, hostile(), inline=0, picture=lambda index: encoded(9, 9))
    (second,) = folders()
    assert second != first and len(list((tmp_path / second).iterdir())) == 7
    write(page, hostile())
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a #1?-images-mine", "a #1?.html"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    write(page, hostile(), inline=0)
    before = sorted((f, f.read_bytes()) for f in tmp_path.rglob("*") if f.is_file())

    def picture(index: int) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(page, hostile(), inline=0, picture=picture)
    assert sorted((f, f.read_bytes()) for f in tmp_path.rglob("*") if f.is_file()) == before
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write(tmp_path / "file" / "r.html", hostile())


# In a browser


def shown(browser: Browser) -> list[int]:
    """The positions of the shown items."""
    return browser.run(
        "[...document.querySelectorAll('.item:not([hidden])')].map(c => +c.dataset.position)"
    )  # type: ignore[no-any-return]


def states(browser: Browser) -> list[str]:
    return browser.run("[...document.querySelectorAll('.item')].map(c => c.dataset.decision)")  # type: ignore[no-any-return]


def choose(browser: Browser, field: str, value: str) -> None:
    """Sets a filter, as a person does."""
    browser.run(
        f"(f => {{ f.value = {value!r}; f.dispatchEvent(new Event('input')) }})"
        f"(document.getElementById('{field}'))"
    )


def button(position: int, action: str) -> str:
    return f"#list > :nth-child({position + 1}) [data-do={action}]"


def saved(browser: Browser, folder: Path, name: str) -> Path:
    """Saves the decisions; returns the file."""
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    (folder / name).unlink(missing_ok=True)
    browser.click("#save")
    while not any(
        e["method"] == "Page.downloadProgress" and e["params"]["state"] == "completed"
        for e in browser.events
    ):
        browser.run("0")  # receives events
    return folder / name


@pytest.fixture
def noisy(place: Path, digits: Images) -> Manifest:
    """A manifest of noisy digits and the page of thirty of them: twenty incorrect labels with the
    true one suggested, ten correct ones with the next class.
    """
    command = "-q corrupt digits --sym 0.4 --val-fraction 0.1 -o manifests/noisy.csv"
    assert main(command.split()) == 0
    manifest = read_manifest("manifests/noisy.csv")
    assert manifest.val is not None
    wrong = (manifest.labels != manifest.true_labels) & ~manifest.val
    right = (manifest.labels == manifest.true_labels) & ~manifest.val
    items = []
    for at in [*np.flatnonzero(wrong)[:20].tolist(), *np.flatnonzero(right)[:10].tolist()]:
        given, true = int(manifest.labels[at]), int(manifest.true_labels[at])
        suggested = (given + 1) % 10 if given == true else true
        near = Neighbour(at + 1, int(manifest.labels[at + 1]))
        items.append(
            ReviewItem(at, "", given, suggested, len(items) / 30, len(items) < 12, (near,))
        )

    def picture(index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(digits.train_images[index, ..., 0]).save(file, "png")
        return file.getvalue()

    write(Path("review.html"), items, classes=manifest.meta["classes"], picture=picture)
    return manifest


def test_in_a_browser_a_review_becomes_the_labels_of_a_training(
    browser: Browser, noisy: Manifest, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    browser.open(place / "review.html")
    items = data_of(place / "review.html")["items"]
    for position, action in enumerate(("keep", "drop", "relabel", "choose")):
        browser.click(button(position, action))
    browser.press("7" if items[3]["given"] != 7 else "8")
    browser.press("Enter")
    other = browser.run("decisions.get(3).label")
    assert other == (7 if items[3]["given"] != 7 else 8)
    assert states(browser)[:5] == ["keep", "drop", "relabel", "relabel", "undecided"]

    browser.press("ArrowRight")  # by keyboard, from the fourth
    for key in "rkdd":
        browser.press(key)
    browser.press("z")
    assert states(browser)[4:9] == ["relabel", "keep", "drop", "undecided", "undecided"]
    assert browser.run("document.activeElement.dataset.position") == "7"

    first = items[12]  # by filter, from the first of a pair of classes that is not confident
    browser.run("document.getElementById('confident').click()")
    assert shown(browser) == list(range(12))
    browser.run("document.getElementById('confident').click()")
    choose(browser, "pair", f"{first['given']} {first['suggested']}")
    choose(browser, "state", "undecided")
    pair = [
        k
        for k, item in enumerate(items)
        if (item["given"], item["suggested"]) == (first["given"], first["suggested"])
        and states(browser)[k] == "undecided"
    ]
    assert shown(browser) == pair and 12 in pair
    for position in pair:
        browser.click(button(position, "drop"))
    assert shown(browser) == pair, "a decided image stays until a filter changes"
    choose(browser, "quality", "0.2")
    assert set(shown(browser)).isdisjoint(pair) and max(shown(browser), default=0) <= 6
    browser.click("#reset")
    choose(browser, "search", f"no. {items[20]['index']}")
    assert 20 in shown(browser)
    browser.click("#reset")
    decided = 7 + len(pair)
    progress = f"{decided} of 30 decided"
    assert browser.run("document.getElementById('progress-text').textContent") == progress

    before = states(browser)
    browser.open(place / "review.html")
    assert states(browser) == before, "the browser keeps the decisions"
    path = saved(browser, place, "review-decisions.csv")
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    assert [row["decision"] for row in rows] == before
    assert [int(row["index"]) for row in rows] == [item["index"] for item in items]

    command = browser.run("document.getElementById('command').textContent").split()
    assert command[:2] == ["noisebench", "corrupt"] and main([*command[1:], "-o", "new.csv"]) == 0
    assert f"{30 - decided} of 30, which are undecided" in capsys.readouterr().err
    after = read_manifest("new.csv")
    labels, dropped = noisy.labels.copy(), np.zeros(len(noisy.labels), bool)
    for k, item in enumerate(items):
        if before[k] == "relabel":
            labels[item["index"]] = other if k == 3 else item["suggested"]
        dropped[item["index"]] = before[k] == "drop"
    np.testing.assert_array_equal(after.labels, labels)
    np.testing.assert_array_equal(~after.included, dropped)
    assert before.count("drop") == 2 + len(pair) and before.count("relabel") == 3

    assert main(["-q", "train", "--manifest", "new.csv", "--epochs", "1", "--loss", "ce"]) == 0
    (run,) = run_folders([place])
    arrays = run.read_arrays()
    np.testing.assert_array_equal(arrays["recorded_labels"], after.labels)
    np.testing.assert_array_equal(arrays["dropped"], dropped)


def test_in_a_browser_saved_decisions_are_loaded_and_names_come_back(
    browser: Browser, tmp_path: Path
) -> None:
    page = tmp_path / "names.html"
    write(page, hostile(), inline=0)
    browser.resize(1280, 3000)  # images out of sight are not loaded
    browser.open(page)
    browser.wait("[...document.images].every(i => i.complete && i.naturalWidth === 8)")
    assert browser.run("window.hit === undefined && document.querySelectorAll('b').length") == 0
    for position, action in enumerate(("keep", "drop", "relabel", "relabel", "relabel")):
        browser.click(button(position, action))
    path = saved(browser, tmp_path, "names-decisions.csv")
    examples, predicted, notes, decisions = read_review(path, Shape(6, NAMES, FILES), np.arange(6))
    assert examples.tolist() == list(range(6)) and notes == ()
    assert predicted is not None and predicted.tolist() == [1, 2, 3, 4, 5, 0]
    assert decisions is not None and decisions.tolist() == states(browser)

    text, before = path.read_text(encoding="utf-8"), states(browser)
    browser.run("localStorage.clear()")
    browser.open(page)
    assert set(states(browser)) == {"undecided"}
    rows = csv.reader(io.StringIO(text, newline=""))
    spreadsheet = io.StringIO(newline="")
    csv.writer(spreadsheet, delimiter=";").writerows(rows)
    contents: dict[str, bytes] = {
        "commas": text.encode(),
        "semicolons and UTF-16": spreadsheet.getvalue().encode("utf-16"),
        "a byte order mark": text.encode("utf-8-sig"),
    }
    for name, content in contents.items():
        browser.run("decide(items.map((item, position) => [position, undefined]))")
        (tmp_path / "load.csv").write_bytes(content)
        browser.upload("#file", tmp_path / "load.csv")
        browser.wait("document.getElementById('message').textContent.startsWith('Loaded 5')")
        assert states(browser) == before, name
    browser.run("undo()")
    assert set(states(browser)) == {"undecided"}
    mistakes = {
        text.replace("keep", "perhaps"): "row 1",
        text.replace('<b>owl</b>,"', 'x,"').replace("قطة,0", "mouse,0"): "mouse",
        "index,given_label\n0,x\n": "needs the columns",
    }
    for content, why in mistakes.items():
        (tmp_path / "load.csv").write_text(content, encoding="utf-8")
        browser.upload("#file", tmp_path / "load.csv")
        browser.wait(f"document.getElementById('message').textContent.includes({why!r})")
        assert set(states(browser)) == {"undecided"}


def test_in_a_browser_letters_act_on_the_list_and_not_in_a_field(
    browser: Browser, tmp_path: Path
) -> None:
    page = tmp_path / "keys.html"
    write(page, hostile())
    browser.open(page)
    browser.press("k")  # shows where the keys act, first
    assert set(states(browser)) == {"undecided"}
    browser.click("#search")
    browser.press("d")
    assert browser.run("document.getElementById('search').value") == "d"
    assert set(states(browser)) == {"undecided"}
    choose(browser, "search", "")
    browser.press("Escape")  # to the first whose name has a d
    browser.press("d")
    assert states(browser)[:3] == ["undecided", "drop", "undecided"]
    browser.run("document.getElementById('letters').click()")
    browser.press("k")
    assert states(browser)[:3] == ["undecided", "drop", "undecided"], "letters can be turned off"
    browser.run("document.getElementById('letters').click()")
    browser.press("n")
    browser.press("ArrowRight")
    assert browser.run("document.activeElement.dataset.position") == "4"
    browser.press("Tab")
    browser.press("Enter")  # its button Keep
    assert states(browser)[4] == "keep"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_every_text_has_contrast_and_fits_a_phone(
    browser: Browser, tmp_path: Path, scheme: str
) -> None:
    page = tmp_path / f"{scheme}.html"
    section = Section("Classes", ("Text.",), ("class", "images"), (("cat", "5"),))
    write(page, hostile(), sections=[section])
    browser.scheme(scheme)
    browser.resize(400, 800)
    browser.open(page)
    for position, action in enumerate(("keep", "drop", "relabel")):
        browser.click(button(position, action))
    assert browser.run("document.documentElement.scrollWidth") <= 400
    pairs = browser.run("""[...document.querySelectorAll('body *')].filter(e => e.textContent.trim() && e.checkVisibility() && !e.closest('noscript, script, :disabled')).map(e => {
      let back = e;
      while (back.parentElement && getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)') back = back.parentElement;
      return [getComputedStyle(e).color, getComputedStyle(back).backgroundColor];
    })""")
    assert len(pairs) > 50
    for text, paper in {tuple(pair) for pair in pairs}:
        low, high = sorted((luminance(text), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, paper)
    browser.resize(1280, 800)


def test_in_a_browser_a_screen_reader_finds_names_and_states(
    browser: Browser, tmp_path: Path
) -> None:
    page = tmp_path / "names.html"
    write(page, [ReviewItem(4, "cat/4.png", 0, 1, 0.2, True)], classes=("cat", "dog"))
    browser.open(page)
    plain = "replace(/[\\u2066-\\u2069]/g, '')"
    alt = browser.run(f"document.querySelector('.picture img').alt.{plain}")
    assert alt == "image cat/4.png, given cat, suggested dog"
    browser.click(button(0, "relabel"))
    label = browser.run(f"document.querySelector('.item').ariaLabel.{plain}")
    assert label == "cat/4.png, given cat, suggested dog, quality 0.200, confident, relabel: dog"
    assert browser.run("document.querySelector('[data-do=relabel]').ariaPressed") == "true"
    told = browser.run(f"document.querySelector('[role=status]').textContent.{plain}")
    assert told == "cat/4.png: relabel: dog. 1 of 1 decided."
    nameless = browser.run("""[...document.querySelectorAll('button, input:not([hidden]), select')]
      .filter(e => !e.textContent.trim() && !e.labels?.length && !e.ariaLabel).length""")
    assert nameless == 0 and browser.run("document.documentElement.lang") == "en"
