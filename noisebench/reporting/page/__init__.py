"""A report as one HTML file that explains every number in it and asks no network."""

from .page import page

__all__ = ["page"]
