"""The table of conventions in the documentation: the share of incorrect labels that each makes of a
rate of 0.4, on the real labels of CIFAR-10 and CIFAR-100. `python -m tests.repo.test_conventions`
writes it again.
"""

from __future__ import annotations

import re

from noisebench.datasets import find_dataset
from noisebench.datasets.load import read_labels
from noisebench.errors import ConfigError
from noisebench.labels.build import make_manifest
from noisebench.noise.conventions import CONVENTIONS
from tests.support.pages import ROOT, read

PAGE = ROOT / "docs" / "explanation" / "noise-rates.md"
BETWEEN = re.compile(r"(?<=<!-- conventions -->\n).*?(?=<!-- end of conventions -->)", re.S)


def table() -> str:
    columns = [(name, kind) for name in ("cifar10", "cifar100") for kind in ("sym", "asym")]
    labels = {
        name: read_labels(find_dataset(name), ROOT, offline=True)
        for name in ("cifar10", "cifar100")
    }
    rows = []
    for convention in CONVENTIONS.values():
        shares = []
        for name, kind in columns:
            try:
                manifest = make_manifest(labels[name], convention.text(kind, 0.4, name))
                shares.append(f"{100 * manifest.meta['realised_rate']:.1f}")
            except ConfigError:
                shares.append("–")
        if set(shares) != {"–"}:
            rows.append(f"| `{convention.name}` | {convention.paper} | {' | '.join(shares)} |")
    head = [
        "| convention | source | CIFAR-10 sym | CIFAR-10 asym | CIFAR-100 sym | CIFAR-100 asym |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*head, *rows]) + "\n"


def test_the_table_is_what_conventions_make_today() -> None:
    shown = BETWEEN.search(read(PAGE))
    assert shown
    assert shown[0] == table()


if __name__ == "__main__":
    PAGE.write_text(BETWEEN.sub(table().replace("\\", r"\\"), read(PAGE)), encoding="utf-8")
