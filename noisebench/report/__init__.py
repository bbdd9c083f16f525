"""Records -> tables in every form that people paste or machines read."""

from .beside import put_beside
from .cells import AXES, METRICS, find_metric, read_rows, where
from .formats import FORMATS, document, render
from .table import Table, make_tables

__all__ = ["AXES", "FORMATS", "METRICS", "Table", "document", "find_metric", "make_tables", "put_beside", "read_rows", "render", "where"]
