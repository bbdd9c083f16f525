"""Data sets: images and labels, where they come from and how they are checked. Independent of
noise."""

from .checks import check_arrays, check_files, number_in
from .images import FITS, Fitting, LazyImages
from .issue_lists import UNDECIDED, read_review
from .label_files import (
    Annotations,
    LabelTable,
    read_annotations,
    read_label_table,
    split_column,
)
from .label_keys import Shape
from .load import (
    ImageArray,
    Images,
    Labels,
    at_hand,
    describe_fitting,
    find_dataset,
    fit_images,
    fit_set,
    image_rows,
    images_fingerprint,
    read_images,
    read_labels,
)
from .npz import fingerprint
from .raw import HUMAN, check_column, read_human
from .registry import DATASETS, Dataset
from .user_data import split_reader

__all__ = [
    "DATASETS",
    "FITS",
    "HUMAN",
    "UNDECIDED",
    "Annotations",
    "Dataset",
    "Fitting",
    "ImageArray",
    "Images",
    "LabelTable",
    "Labels",
    "LazyImages",
    "Shape",
    "at_hand",
    "check_arrays",
    "check_column",
    "check_files",
    "describe_fitting",
    "find_dataset",
    "fingerprint",
    "fit_images",
    "fit_set",
    "image_rows",
    "images_fingerprint",
    "number_in",
    "read_annotations",
    "read_human",
    "read_images",
    "read_label_table",
    "read_labels",
    "read_review",
    "split_column",
    "split_reader",
]
