"""Reads a manifest's rows from CSV text, and converts its text from and to parquet: the rows become
columns, the `#` lines the file's metadata. Parquet needs pyarrow.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files.untrusted import check_room
from ..errors import ManifestError

if TYPE_CHECKING:
    import pandas as pd

_ESCAPED = {ord(c): f"%{ord(c):02X}" for c in '%#,"\r\n'}
# at the beginning of a cell, which a spreadsheet would evaluate
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
_SHOWN, _LONGEST_SHOWN = 10, 200  # columns and characters in an error
_HEADER = b"noisebench"
_ROWS = 1 << 20  # rows converted at a time
_LEAST = 6  # smallest number of bytes of a row as text
SPLITS = ("train", "val", "dropped")
TRUSTED = ("", "yes")


def read_table(body: bytes) -> pd.DataFrame:
    """Parses rows of text; an unknown true label is NA. Raises ValueError if it is not a table of
    numbers.
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
            raise ValueError("a label is too large") from None


def check_columns(names: Sequence[str]) -> None:
    """Raises ManifestError for unknown columns or another order."""
    if tuple(names[:3]) != _NEEDED or list(names[3:]) != [
        name for name in _OPTIONAL if name in names
    ]:
        shown = ", ".join(names[:_SHOWN])[:_LONGEST_SHOWN]
        raise ManifestError(f"this version cannot read the columns {shown}")


def read_rows(body: bytes, n: int, source_name: str) -> dict[str, Any]:
    """The arrays and ids of a Manifest from its rows. Raises ManifestError if there are not n rows,
    ValueError if they are not a table of numbers.
    """
    end = body.find(b"\n") + 1 or len(body)
    check_columns(body[:end].decode().rstrip("\r\n").split(","))
    if (count := body.count(b"\n", end) + (len(body) > end and not body.endswith(b"\n"))) != n:
        raise ManifestError(f"it has {count} rows, but n in its header is {n}")
    import pandas as pd

    table = read_table(body)
    for wrong, problem in (
        (not isinstance(table.index, pd.RangeIndex), "its rows have more fields than columns"),
        (
            not np.array_equal(table["index"], np.arange(len(table))),
            "its index is not 0, 1, 2, ...",
        ),
        (
            (table["clean_label"] < 0).any(),
            "a clean label is negative: leave unknown ones empty",
        ),
    ):
        if wrong:
            raise ManifestError(problem)
    rows: dict[str, Any] = {
        "labels": table["label"].to_numpy(),
        "clean_labels": table["clean_label"].fillna(-1).to_numpy(np.int64),
    }
    if "id" in table:
        rows["ids"] = tuple(
            re.sub("%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), name)
            for name in table["id"]
        )
    for name, words in (("split", SPLITS), ("trusted", TRUSTED)):
        if name in table and not table[name].isin(words).all():
            choices = ", ".join(word or "empty" for word in words)
            raise ManifestError(f"a {name} must be one of {choices}")
    if "split" in table:
        val, dropped = ((table["split"] == part).to_numpy() for part in SPLITS[1:])
        rows["val"] = val if val.any() or not dropped.any() else None
        rows["dropped"] = dropped if dropped.any() else None
    if "source" in table:
        prefix = f"{escape(source_name)}:"
        pattern = re.compile(f"(?:{re.escape(prefix)}[0-9]{{1,12}})?")
        if not all(pattern.fullmatch(word) for word in table["source"]):
            raise ManifestError(f"a source must be empty or {prefix}NUMBER")
        numbers = [int(word[len(prefix) :]) if word else -1 for word in table["source"]]
        rows["source"] = np.array(numbers, np.int64)
    if "trusted" in table:
        rows["trusted"] = (table["trusted"] == "yes").to_numpy()
    return rows


def escape(name: str) -> str:
    """A name as a CSV cell that is not a formula; `read_rows` reverses it."""
    return name[:1].translate(_FIRST) + name[1:].translate(_ESCAPED)


def to_parquet(text: bytes) -> bytes:
    """Converts a manifest's text to parquet. Raises ManifestError without pyarrow."""
    arrow = _pyarrow()
    start = text.find(b"\n", text.rfind(b"\n#") + 1) + 1
    table = arrow.Table.from_pandas(
        read_table(text[start:]), preserve_index=False
    ).replace_schema_metadata({_HEADER: text[:start]})
    output = io.BytesIO()
    arrow.parquet.write_table(table, output)
    return output.getvalue()


def from_parquet(raw: bytes) -> bytes:
    """Converts parquet back to the same text. Raises ManifestError for another file, for an
    implausible size, or without pyarrow.
    """
    import pandas as pd

    arrow = _pyarrow()
    try:
        schema = arrow.parquet.read_schema(io.BytesIO(raw))
        check_columns(schema.names)
        # only numbers and texts: a text can occur a million times and have a million letters
        for name, kind in zip(schema.names, schema.types, strict=True):
            is_word = (
                arrow.types.is_string(kind)
                or arrow.types.is_large_string(kind)
                or arrow.types.is_dictionary(kind)
            )
            if not (is_word if name in _OPTIONAL else arrow.types.is_integer(kind)):
                raise ManifestError(f"its column {name} has the type {str(kind)[:_LONGEST_SHOWN]}")
        header: bytes = schema.metadata[_HEADER]
        words = [name for name in schema.names if name in _OPTIONAL]
        file = arrow.parquet.ParquetFile(io.BytesIO(raw), read_dictionary=words)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        sizes = [group.total_byte_size + _LEAST * group.num_rows for group in groups]
        check_room([len(header), *sizes], len(raw))
        body = io.BytesIO()
        for batch in file.iter_batches(_ROWS):
            # a text that is stored once can occur a million times
            lengths = [
                arrow.compute.take(arrow.compute.binary_length(column.dictionary), column.indices)
                for column in batch.columns
                if arrow.types.is_dictionary(column.type)
            ]
            width = sum(arrow.compute.sum(of_column).as_py() or 0 for of_column in lengths)
            check_room([body.tell(), width], len(raw))
            plain = arrow.Table.from_batches([batch]).replace_schema_metadata(None)
            table = plain.to_pandas(types_mapper={arrow.int64(): pd.Int64Dtype()}.get)
            text = table.to_csv(index=False, lineterminator="\n", header=not body.tell())
            body.write(text.encode())
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"it is not a manifest in parquet ({' '.join(str(error).split())[:_LONGEST_SHOWN]})"
        ) from None
    return header + body.getvalue()


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise ManifestError(
            "a .parquet manifest needs pyarrow: pip install 'noisebench[parquet]', or use .csv.gz"
        ) from None
    return pyarrow
