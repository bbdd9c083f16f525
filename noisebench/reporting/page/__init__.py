"""A report as one self-contained HTML file with the details of every number."""

from .page import page

__all__ = ["page"]
