"""Which images and labels exist, how they are had, and how they are checked. Knows no noise."""

from .annotations import Shape, read_annotations, split_column
from .archive import fingerprint
from .catalogue import DATASETS, Dataset
from .human import HUMAN, check_column, read_human
from .reading import Images, Labels, at_hand, find_dataset, fit_images, image_rows, read_images, read_labels
from .reviews import read_review

__all__ = [
    "DATASETS",
    "HUMAN",
    "Dataset",
    "Images",
    "Labels",
    "Shape",
    "at_hand",
    "check_column",
    "find_dataset",
    "fingerprint",
    "fit_images",
    "image_rows",
    "read_annotations",
    "read_human",
    "read_images",
    "read_labels",
    "read_review",
    "split_column",
]
