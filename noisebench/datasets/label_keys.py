"""Matches rows of a label file to examples, by an index, a path or a file name in any column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from unicodedata import normalize

import numpy as np

TEST, NONE = -2, -1  # instead of a training example: a test image, or no example

# Columns are recognized by the words of their names: `label_noisy` is a label, `image_id` a key.
LABEL_WORDS = frozenset(
    ("label", "labels", "target", "targets", "class", "classes", "category", "recorded", "noisy")
) | {"given", "y"}
INDEX_WORDS = frozenset(("index", "idx", "i"))
PATH_WORDS = frozenset(("path", "file", "filename", "filepath"))
KEY_WORDS = INDEX_WORDS | PATH_WORDS | {"id", "image", "img", "name", "key", "unnamed"}

_SAMPLE = 64  # keys that are looked up first
_DEEPEST = 32  # leading folders that all keys share
_SHOWN, _LONGEST_SHOWN = 12, 100  # columns or classes in a sentence, characters of a cell


@dataclass(frozen=True)
class Shape:
    """The examples to be labelled: their number and classes; `ids`, their paths if they are files,
    and `test_ids`, those of the test images.
    """

    n: int
    classes: tuple[str, ...]
    ids: Sequence[str] = ()
    test_ids: Sequence[str] = ()


@dataclass(frozen=True)
class Match:
    """One interpretation of a column as keys: `how`, and the training example of each row (m,),
    TEST or NONE.
    """

    how: str
    examples: np.ndarray

    @property
    def number(self) -> int:
        """The number of rows that name an image."""
        return int((self.examples != NONE).sum())

    def complete(self, needed: np.ndarray) -> bool:
        """Whether every needed row (m,) names an image, and no training example has two rows."""
        training = self.examples[self.examples >= 0]
        return (
            bool(len(training))
            and not (self.examples[needed] == NONE).any()
            and len(np.unique(training)) == len(training)
        )


def words_of(name: str) -> set[str]:
    """The words of a column's name."""
    return set(re.findall("[a-z]+", name.lower())) or ({"unnamed"} if not name else set())


def join_names(names: Sequence[str]) -> str:
    """Columns or classes in a sentence."""
    shown = ", ".join(name or repr(name) for name in names[:_SHOWN])
    return shown + (" ..." if len(names) > _SHOWN else "")


def holds_classes(cells: Sequence[object], classes: Sequence[str]) -> bool:
    """Whether most cells are classes, by name or number."""
    numbers = range(len(classes))
    known = {*(name.strip() for name in classes), *map(str, numbers), *(f"{k}.0" for k in numbers)}
    return 2 * sum(str(cell).strip() in known for cell in cells) > len(cells)


def find_key(
    keys: Mapping[str, Sequence[str]], shape: Shape, needed: np.ndarray
) -> tuple[str, Match] | None:
    """The column that names the examples, regardless of its name; None if the rows are in the order
    of the examples.

    Raises ValueError if two columns or interpretations disagree, or if a column could be a key but
    does not name an example in each needed row (m,).
    """
    matches = {name: match_keys(cells, shape, needed, name) for name, cells in keys.items()}
    sure = [
        (name, match)
        for name, readings in matches.items()
        for match in readings
        if match.complete(needed) and _is_sure(name, keys[name], match, shape)
    ]
    by_name = [
        (name, match)
        for name, match in sure
        if match.how != "index" and not all(map(str.isdigit, keys[name]))
    ]
    sure = by_name or sure  # next to file names a number can mean anything
    for name, match in sure[1:]:
        if np.array_equal(match.examples, sure[0][1].examples):
            continue
        if name == sure[0][0]:
            raise ValueError(
                f"its column {name!r} could be indices or file names: rename it to index or file"
            )
        raise ValueError(
            f"its columns {sure[0][0]!r} and {name!r} name different examples: remove one of them"
        )
    if sure:
        return sure[0]
    unknown = []
    for name, cells in keys.items():
        words = words_of(name)
        is_label = words & LABEL_WORDS or holds_classes(cells, shape.classes)
        # other labels and row numbers do not contradict the order of the rows
        if not (is_label and not words & KEY_WORDS) and not (
            _counts_rows(cells) and len(cells) == shape.n
        ):
            unknown.append(name)
    if unknown:
        nearest = {name: matches[name][-1] for name in unknown if matches[name]}
        raise ValueError(_why_no_key(unknown, keys, nearest, shape, needed))
    return None


def match_keys(
    keys: Sequence[str], shape: Shape, needed: np.ndarray, name: str = ""
) -> list[Match]:
    """Every complete interpretation of keys as indices or paths; else the one that matches most
    rows.
    """
    words, matches = words_of(name), []
    if not words & PATH_WORDS:
        number = {str(at): at for at in range(shape.n)}
        examples = [number.get(key.removesuffix(".0"), NONE) for key in keys]
        matches.append(Match("index", np.array(examples, np.int64)))
    if shape.ids and not words & INDEX_WORDS:
        matches += _by_path(keys, shape, needed)
    complete = [match for match in matches if match.complete(needed)]
    return complete or sorted(matches, key=lambda match: -match.number)[:1]


def _by_path(keys: Sequence[str], shape: Shape, needed: np.ndarray) -> list[Match]:
    """Matches keys as paths, with or without their first folder, or file names, each with or
    without suffix, after leading folders that all keys share. Stops at the first complete match.
    """
    matches = []
    keys = [normalize("NFC", key).replace("\\", "/").removeprefix("./") for key in keys]
    first, last = min(keys), max(keys)
    same = takewhile(lambda at: first[at] == last[at], range(min(len(first), len(last))))
    ends = [at + 1 for at in same if first[at] == "/"][:_DEEPEST]  # of the shared folders
    number_of = cache(lambda view: _numbered(shape, view))
    for prefix in ("", *(first[:end] for end in ends)):
        rest = [key[len(prefix) :] for key in keys]
        sample = rest[:: max(1, len(rest) // _SAMPLE)]
        for how, view in _VIEWS:
            number = number_of(view)
            if any(key in number for key in sample):
                examples = np.array([number.get(key, NONE) for key in rest], np.int64)
                match = Match(how + (f" after {prefix}" if prefix else ""), examples)
                matches.append(match)
                if match.complete(needed):
                    return [match]
    return matches


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


_VIEWS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("path", lambda path: path),
    ("path below its first folder", lambda path: path.partition("/")[2]),
    ("file name", lambda path: path.rpartition("/")[2]),
    ("path without suffix", _stem),
    ("path below its first folder, without suffix", lambda path: _stem(path).partition("/")[2]),
    ("file name without suffix", lambda path: _stem(path).rpartition("/")[2]),
)


def _numbered(shape: Shape, view: Callable[[str], str]) -> dict[str, int]:
    """The example of each name, without names shared by two training examples."""
    # macOS writes NFD
    number = {view(normalize("NFC", path)): TEST for path in shape.test_ids}
    names = [view(normalize("NFC", path)) for path in shape.ids]
    number |= {name: at for at, name in enumerate(names)}
    shared = {"", *(name for name, count in Counter(names).items() if count > 1)}
    return {name: example for name, example in number.items() if name not in shared}


def _counts_rows(cells: Sequence[str]) -> bool:
    """Whether a column only numbers the rows from 0 or 1, like a table's own index."""
    return list(cells[:1]) in (["0"], ["1"]) and all(
        cell == str(at) for at, cell in enumerate(cells, int(cells[0]))
    )


def _is_sure(name: str, cells: Sequence[str], match: Match, shape: Shape) -> bool:
    """Whether a matching column is a key, by its name or its content: row numbers are not a key;
    numbers are indices in a table's shuffled index, or if each index occurs once.
    """
    words = words_of(name)
    if words & (INDEX_WORDS | PATH_WORDS | {"id", "key"}):
        return True
    by_index = "unnamed" in words or len(cells) == shape.n
    return (match.how != "index" or by_index) and not _counts_rows(cells)


def _why_no_key(
    names: list[str],
    keys: Mapping[str, Sequence[str]],
    matches: dict[str, Match],
    shape: Shape,
    needed: np.ndarray,
) -> str:
    """What is wrong with the column that is most likely a key, and what to do."""
    name = max(
        names,
        key=lambda name: (
            matches[name].number if name in matches else 0,
            bool(words_of(name) & KEY_WORDS),
        ),
    )
    cells = keys[name]
    match = matches.get(name, Match("path", np.full(len(cells), NONE)))
    if not match.number and not (words_of(name) & KEY_WORDS and shape.ids):
        columns = (
            f"column {name!r} names" if len(names) == 1 else f"columns {join_names(names)} name"
        )
        ways = "indices, paths or file names" if shape.ids else "which have indices but no paths"
        return (
            f"its {columns} none of the examples ({ways}), so rows are not matched by order: "
            "remove the column, or add a column index"
        )
    if (strange := needed & (match.examples == NONE)).any():
        row, what = int(strange.argmax()), name
        if not name or name.startswith("column "):
            what = "index" if match.how == "index" else "key"
        hint = f"; indices are 0 to {shape.n - 1}" if match.how == "index" else ""
        return (
            f"row {row} has the {what} {cells[row][:_LONGEST_SHOWN]!r}, "
            "which no training example has "
            f"({match.number} of {len(cells)} rows name an example{hint})"
        )
    counts = np.bincount(match.examples[match.examples >= 0], minlength=shape.n)
    if (counts > 1).any():
        row = int((match.examples == counts.argmax()).argmax())
        return f"{cells[row][:_LONGEST_SHOWN]!r} has more than one row in {name!r}"
    return (
        f"its column {name!r} could be indices of {len(cells)} of the {shape.n} examples: "
        "rename it to index if it is, else remove it"
    )
