"""A manifest's text in a parquet file and back: the rows as columns, the `#` lines as the file's
metadata. Needs pyarrow.
"""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

from ..core.files.untrusted import check_room
from ..errors import ManifestError
from .csv import check_columns, read_table

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
