"""The review page in a headless Chromium: time until it can be used, frame times while scrolling,
and the time of a decision. python tests/perf/bench_review.py [IMAGES ...]
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from noisebench.reporting.review import Neighbour, ReviewItem, Section, write_review_page
from tests.support.browser import Browser

REPEATS = 3
CLASSES = [f"class {k}" for k in range(100)]
READY = "performance.getEntriesByType('navigation')[0].domInteractive"
# scrolls by 150 pixels per frame; the times between frames in milliseconds
SCROLL = """new Promise((done) => {
  const times = [];
  list.scrollIntoView({ behavior: "instant" });
  let last = performance.now();
  const step = (now) => {
    times.push(now - last);
    last = now;
    scrollBy({ top: 150, behavior: "instant" });
    if (times.length < 300) requestAnimationFrame(step); else done(times.slice(1));
  };
  requestAnimationFrame(step);
})"""
# keys that relabel and move on, from the key to the frame after it has been shown
DECIDE = """(async () => {
  const times = [];
  moveTo(0);
  for (let count = 0; count < 200; count++) {
    const start = performance.now();
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "r", code: "KeyR", bubbles: true, cancelable: true }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  return times;
})()"""
FILTER = """(async () => {
  const times = [];
  for (let count = 0; count < 20; count++) {
    const start = performance.now();
    byId("search").value = count % 2 ? "" : "7";
    byId("search").dispatchEvent(new Event("input"));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  return times;
})()"""


def photograph(index: int) -> bytes:
    """A smooth image of about the size of a scaled photograph."""
    rng = np.random.default_rng(index)
    small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
    file = io.BytesIO()
    small.resize((512, 384), Image.Resampling.BICUBIC).save(file, "jpeg", quality=85)
    return file.getvalue()


def make_page(path: Path, count: int) -> float:
    rng = np.random.default_rng(0)
    items = []
    for index in range(count):
        given, suggested = rng.choice(len(CLASSES), 2, replace=False).tolist()
        near = rng.integers(count, 2 * count, 3).tolist()
        neighbours = tuple(Neighbour(n, suggested, f"photos/{n}.jpg") for n in near)
        items.append(
            ReviewItem(
                index,
                f"photos/{index}.jpg",
                given,
                suggested,
                index / count,
                index < count / 4,
                neighbours,
            )
        )
    start = time.perf_counter()
    sections = [Section("Summary", ("A measurement.",))]
    command = "noisebench corrupt --manifest manifests/photos.csv"
    write_review_page(path, sections, items, CLASSES, photograph, title="Review", command=command)
    return time.perf_counter() - start


def main() -> None:
    """Prints a line for each number of images."""
    for count in map(int, sys.argv[1:] or ["200", "2000"]):
        with tempfile.TemporaryDirectory() as place:
            page = Path(place, "review.html")
            seconds = make_page(page, count)
            browser = Browser(Path(place, "profile"))
            browser.resize(1280, 900)
            measured: dict[str, list[float]] = {}
            for _ in range(REPEATS):
                browser.open(page)
                measured.setdefault("interactive", []).append(browser.run(READY))
                for name, script in (("scroll", SCROLL), ("decide", DECIDE), ("filter", FILTER)):
                    measured.setdefault(name, []).extend(browser.run(script))
            browser.close()
            rows = {
                name: {
                    "n": len(values),
                    "median": round(float(np.median(values)), 1),
                    "p95": round(float(np.quantile(values, 0.95)), 1),
                    "max": round(max(values), 1),
                }
                for name, values in measured.items()
            }
            size = sum(file.stat().st_size for file in Path(place).glob("review*/*"))
            print(count, f"{seconds:.1f} s to write", f"{size / 1e6:.0f} MB", json.dumps(rows))


if __name__ == "__main__":
    main()
