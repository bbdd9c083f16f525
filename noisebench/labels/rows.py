"""A manifest's rows: arrays -> CSV text, and back.

A manifest's text in a parquet file and back: the rows as columns, the `#` lines as the file's
metadata. Needs pyarrow.

"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files.untrusted import check_room
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


_HEADER = b"noisebench"
_ROWS = 1 << 20  # made into text at a time
_WORDS = ("id", "split", "source", "trusted")  # columns whose words stand once in a dictionary
_LEAST = 6  # bytes of a row as text
_SHOWN = 200  # letters of what pyarrow says


def to_parquet(text: bytes) -> bytes:
    """The file's bytes for a manifest's text. Raises ManifestError without pyarrow."""
    arrow = _pyarrow()
    start = text.rfind(b"\n#") + 1
    start = text.find(b"\n", start) + 1
    table = arrow.Table.from_pandas(
        read_table(text[start:]), preserve_index=False
    ).replace_schema_metadata({_HEADER: text[:start]})
    output = io.BytesIO()
    arrow.parquet.write_table(table, output)
    return output.getvalue()


def from_parquet(raw: bytes) -> bytes:
    """The manifest's text, byte for byte. Raises ManifestError for another file, one that holds
    more than it can, or without pyarrow.
    """
    arrow = _pyarrow()
    try:
        schema = arrow.parquet.read_schema(io.BytesIO(raw))
        check_columns(schema.names)
        _check_types(arrow, schema)
        header: bytes = schema.metadata[_HEADER]
        file = arrow.parquet.ParquetFile(
            io.BytesIO(raw), read_dictionary=[name for name in schema.names if name in _WORDS]
        )
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        check_room(
            [
                len(header),
                *(group.total_byte_size for group in groups),
                *(_LEAST * group.num_rows for group in groups),
            ],
            len(raw),
        )
        body = io.BytesIO()
        for part in file.iter_batches(_ROWS):
            check_room([body.tell(), _width(arrow, part)], len(raw))
            body.write(_text(arrow, part, header=not body.tell()))
    except ManifestError:
        raise
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"it is not a manifest in parquet ({' '.join(str(error).split())[:_SHOWN]})"
        ) from None
    return header + body.getvalue()


def _check_types(arrow: ModuleType, schema: Any) -> None:
    """Raises ManifestError for other columns than of numbers and words: a word may occur a
    million times, and have a million letters.
    """
    for name, kind in zip(schema.names, schema.types, strict=True):
        word = (
            arrow.types.is_string(kind)
            or arrow.types.is_large_string(kind)
            or arrow.types.is_dictionary(kind)
        )
        if not (word if name in _WORDS else arrow.types.is_integer(kind)):
            raise ManifestError(f"its column {name} is of {str(kind)[:_SHOWN]}")


def _width(arrow: ModuleType, part: Any) -> int:
    """Bytes of a batch's words, each of which may stand in the file once and occur a million
    times.
    """
    columns = [column for column in part.columns if arrow.types.is_dictionary(column.type)]
    lengths = [
        arrow.compute.take(arrow.compute.binary_length(column.dictionary), column.indices)
        for column in columns
    ]
    return sum(arrow.compute.sum(each).as_py() or 0 for each in lengths)


def _text(arrow: ModuleType, part: Any, *, header: bool) -> bytes:
    """A batch as CSV."""
    import pandas as pd

    plain = arrow.Table.from_batches([part]).replace_schema_metadata(None)
    table = plain.to_pandas(types_mapper={arrow.int64(): pd.Int64Dtype()}.get)
    return table.to_csv(index=False, lineterminator="\n", header=header).encode()


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise ManifestError(
            "a .parquet manifest needs pyarrow: pip install 'noisebench[parquet]', or write .csv.gz"
        ) from None
    return pyarrow
