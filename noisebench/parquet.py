"""A manifest's text in a parquet file and back: the rows as columns, the `#` lines as the file's metadata. Needs pyarrow."""

from __future__ import annotations

import io
from types import ModuleType

from .errors import ManifestError
from .rows import read_table

_HEADER = b"noisebench"


def to_parquet(text: bytes) -> bytes:
    """The file's bytes for a manifest's text. Raises ManifestError without pyarrow."""
    arrow = _pyarrow()
    start = text.rfind(b"\n#") + 1
    start = text.find(b"\n", start) + 1
    table = arrow.Table.from_pandas(read_table(text[start:]), preserve_index=False).replace_schema_metadata({_HEADER: text[:start]})
    output = io.BytesIO()
    arrow.parquet.write_table(table, output)
    return output.getvalue()


def from_parquet(raw: bytes) -> bytes:
    """The manifest's text, byte for byte. Raises ManifestError for another file, or without pyarrow."""
    import pandas as pd

    arrow = _pyarrow()
    try:
        table = arrow.parquet.read_table(io.BytesIO(raw))
        header: bytes = table.schema.metadata[_HEADER]
    except (arrow.ArrowException, OSError, KeyError, TypeError) as error:
        raise ManifestError(f"it is not a manifest in parquet ({' '.join(str(error).split())})") from None
    body: str = (
        table.replace_schema_metadata(None)
        .to_pandas(types_mapper={arrow.int64(): pd.Int64Dtype()}.get)
        .to_csv(index=False, lineterminator="\n")
    )
    return header + body.encode()


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ManifestError("a .parquet manifest needs pyarrow: pip install 'noisebench[parquet]', or write .csv.gz") from None
    return pyarrow
