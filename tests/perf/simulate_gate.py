"""How often the gate cries wolf, and how often it sees one: `python tests/perf/simulate_gate.py
[SUITES]`.

Suites of eight methods and seven noises, their standard deviations over seeds those of the README's
first table (0.47 to 6.72 points), their accuracies shares of 500 test images. A false alarm:
nothing changed but chance, every run drawn anew, and yet a cell is regressed. Power: one cell, each
in turn, is worse by a point; `paired` says how much of a seed's luck (its labels, its first
weights) then and now share.
"""

from __future__ import annotations

import random
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from noisebench.reporting import Rules, check

SPREADS = [
    [float(text) for text in re.findall(r"±\s(\d+\.\d+)", line)]
    for line in (Path(__file__).parent.parent.parent / "README.md")
    .read_text(encoding="utf-8")
    .splitlines()
    if line.count("±") == 7
]
STEADY = 1.0  # points
IMAGES = 500  # of the test set


def shares(values: list[float]) -> dict[str, float]:
    """Percentages as shares of the test images, by seed."""
    return {str(seed): round(IMAGES * value / 100) / IMAGES for seed, value in enumerate(values)}


def document(values: dict[tuple[int, int], list[float]]) -> dict[str, Any]:
    """A report's document with these accuracies in percent."""
    shared = {
        "dataset": "d",
        "model": "m",
        "recipe": "r",
        "precision": "fp32",
        "metric": "last",
        "failed": 0,
        "settings": {},
        "inputs": {},
    }
    shared["num_examples"] = IMAGES
    cells = [
        {**shared, "noise": f"n{col}", "method": f"m{row}", "values": shares(found)}
        for (row, col), found in values.items()
    ]
    return {"schema": 2, "metric": "last", "cells": cells}


def pair(
    dice: random.Random, seeds: int, paired: float, worse: tuple[int, int] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A suite then and now."""
    then, now = {}, {}
    for row, spreads in enumerate(SPREADS):
        for col, spread in enumerate(spreads):
            luck = [dice.gauss(0, spread * paired**0.5) for _ in range(seeds)]
            own = spread * (1 - paired) ** 0.5
            then[row, col] = [70 + each + dice.gauss(0, own) for each in luck]
            now[row, col] = [
                70 + each + dice.gauss(0, own) - ((row, col) == worse) for each in luck
            ]
    return document(then), document(now)


def regressed(then: dict[str, Any], now: dict[str, Any]) -> set[tuple[str, str]]:
    """The cells the gate names, by its defaults."""
    return {
        (found.names["method"], found.names["noise"])
        for found in check(now, then, Rules()).of("regressed")
    }


def main() -> None:
    """Print one line a number of seeds and a share that pairs."""
    suites = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    places = [(row, col) for row, spreads in enumerate(SPREADS) for col in range(len(spreads))]
    steady = [place for place in places if SPREADS[place[0]][place[1]] < STEADY]
    print(
        f"{len(places)} cells, {len(steady)} of them below {STEADY:.0f} point; {suites} suites "
        "a line"
    )
    print(
        "| seeds | shared luck | false alarms a suite | power at 1 point | of steady cells |\n| "
        "---: | ---: | ---: | ---: | ---: |"
    )
    for seeds in (3, 4, 5):
        for paired in (0.0, 0.5, 0.9):
            dice = random.Random(f"{seeds} {paired}")
            alarms = sum(bool(regressed(*pair(dice, seeds, paired, None))) for _ in range(suites))
            seen: dict[tuple[int, int], list[bool]] = {place: [] for place in places}
            for number in range(suites):
                row, col = place = places[number % len(places)]
                seen[place].append(
                    (f"m{row}", f"n{col}") in regressed(*pair(dice, seeds, paired, place))
                )
            power = [
                statistics.fmean(100 * statistics.fmean(seen[place]) for place in which)
                for which in (places, steady)
            ]
            print(
                f"| {seeds} | {paired:.0%} | {100 * alarms / suites:.1f} % | {power[0]:.0f} % | "
                f"{power[1]:.0f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
