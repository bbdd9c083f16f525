"""A report as one HTML file that explains every number in it and loads nothing."""

from .page import page

__all__ = ["page"]
