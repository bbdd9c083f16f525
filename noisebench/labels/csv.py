"""A manifest's rows: arrays -> CSV text, and back."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ManifestError

if TYPE_CHECKING:
    import pandas as pd

_ESCAPED = {ord(c): f"%{ord(c):02X}" for c in '%#,"\r\n'}
# at the beginning of a cell, where a spreadsheet would compute it
_FIRST = {**_ESCAPED, **{ord(c): f"%{ord(c):02X}" for c in "=+-@\t"}}
_DTYPES: Any = {
    "index": "int64",
    "label": "int64",
    "clean_label": "Int64",
    "id": str,
    "split": str,
    "source": str,
    "trusted": str,
}
_NEEDED, _OPTIONAL = ("index", "label", "clean_label"), ("id", "split", "source", "trusted")
_SHOWN, _LONGEST_SHOWN = 10, 200  # columns that an error names, and its letters
SPLITS = ("train", "val", "dropped")
TRUSTED = ("", "yes")


@dataclass(frozen=True)
class Rows:
    """One row an example (N): given and true labels (-1 unknown); and where they apply ids (paths),
    which examples are held out for validation, which image of another set replaces an example's own
    (-1 none), which labels were verified, and which examples are dropped: not in the subset, or by
    a review.
    """

    labels: np.ndarray
    clean_labels: np.ndarray
    ids: tuple[str, ...] = ()
    val: np.ndarray | None = None
    source: np.ndarray | None = None
    trusted: np.ndarray | None = None
    dropped: np.ndarray | None = None

    @property
    def split(self) -> np.ndarray | None:
        """Which of SPLITS (N,); None where all are trained on."""
        if self.val is None and self.dropped is None:
            return None
        split = np.zeros(len(self.labels), np.uint8)
        for number, part in ((1, self.val), (2, self.dropped)):
            if part is not None:
                split[part] = number
        return split


def text_of(rows: Rows, source_name: str = "") -> bytes:
    """The rows as CSV, the column names first."""
    columns: dict[str, Iterable[str]] = {
        "index": map(str, range(len(rows.labels))),
        "label": map(str, rows.labels.tolist()),
        "clean_label": ("" if k < 0 else str(k) for k in rows.clean_labels.tolist()),
    }
    if rows.ids:
        columns["id"] = map(_escape, rows.ids)
    if (split := rows.split) is not None:
        columns["split"] = (SPLITS[number] for number in split.tolist())
    if rows.source is not None:
        prefix = f"{_escape(source_name)}:"
        columns["source"] = (f"{prefix}{at}" if at >= 0 else "" for at in rows.source.tolist())
    if rows.trusted is not None:
        columns["trusted"] = (TRUSTED[verified] for verified in rows.trusted.tolist())
    lines = map(",".join, zip(*columns.values(), strict=True))
    return "".join(f"{line}\n" for line in (",".join(columns), *lines)).encode()


def read_table(body: bytes) -> pd.DataFrame:
    """Rows of text as a table, an unknown true label missing. Raises ValueError for what is no
    table of numbers.
    """
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return pd.read_csv(
                io.BytesIO(body),
                dtype=_DTYPES,
                keep_default_na=False,
                na_values={"clean_label": [""]},
            )
        except RuntimeWarning:
            raise ValueError("a label has more digits than a number can") from None


def check_columns(names: Sequence[str]) -> None:
    """Raises ManifestError for other columns than a manifest has, or in another order."""
    if tuple(names[:3]) != _NEEDED or list(names[3:]) != [
        name for name in _OPTIONAL if name in names
    ]:
        shown = ", ".join(names[:_SHOWN])[:_LONGEST_SHOWN]
        raise ManifestError(f"this version does not understand the columns {shown}")


def read_rows(body: bytes, n: int, source_name: str = "") -> Rows:
    """Rows back from their text. Raises ManifestError where they are not n, or ValueError for what
    is no table of numbers.
    """
    end = body.find(b"\n") + 1 or len(body)
    check_columns(body[:end].decode().rstrip("\r\n").split(","))
    if (count := body.count(b"\n", end) + (len(body) > end and not body.endswith(b"\n"))) != n:
        raise ManifestError(f"it has {count} rows, its header says {n}")
    import pandas as pd

    table = read_table(body)
    if not isinstance(table.index, pd.RangeIndex):
        raise ManifestError("its rows have more fields than columns")
    if not np.array_equal(table["index"], np.arange(len(table))):
        raise ManifestError("its index does not count 0, 1, 2, ...")
    if (table["clean_label"] < 0).any():
        raise ManifestError("a clean label is negative: an unknown one is empty")
    split = _read_words("split", table["split"], SPLITS) if "split" in table else {}
    return Rows(
        table["label"].to_numpy(),
        table["clean_label"].fillna(-1).to_numpy(np.int64),
        tuple(_unescape(name) for name in table["id"]) if "id" in table else (),
        split["val"] if split and (split["val"].any() or not split["dropped"].any()) else None,
        _read_source(table["source"], source_name) if "source" in table else None,
        _read_words("trusted", table["trusted"], TRUSTED)["yes"] if "trusted" in table else None,
        split["dropped"] if split and split["dropped"].any() else None,
    )


def _escape(name: str) -> str:
    """A name as one cell that is no formula; `_unescape` reads it."""
    return name[:1].translate(_FIRST) + name[1:].translate(_ESCAPED)


def _unescape(name: str) -> str:
    return re.sub("%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), name)


def _read_words(name: str, column: pd.Series[str], words: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Where (N,) a column has each word but the first."""
    if not column.isin(words).all():
        raise ManifestError(
            f"a {name} is neither {' nor '.join(word or 'empty' for word in words)}"
        )
    return {word: (column == word).to_numpy() for word in words[1:]}


def _read_source(column: pd.Series[str], name: str) -> np.ndarray:
    prefix = f"{_escape(name)}:"
    pattern = re.compile(f"(?:{re.escape(prefix)}[0-9]{{1,12}})?")
    if not all(pattern.fullmatch(word) for word in column):
        raise ManifestError(f"a source is neither empty nor {prefix}NUMBER")
    return np.array([int(word[len(prefix) :]) if word else -1 for word in column], np.int64)
