"""A page for the review of label issues: a person decides about each listed image."""

from .page import Neighbour, ReviewItem, Section, write_review_page

__all__ = ["Neighbour", "ReviewItem", "Section", "write_review_page"]
