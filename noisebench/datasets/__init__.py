"""Which images and labels exist, how they are had, and how they are checked. Knows no noise."""

from .archive import fingerprint
from .catalogue import DATASETS, Dataset
from .reading import Images, Labels, find_dataset, read_images, read_labels

__all__ = ["DATASETS", "Dataset", "Images", "Labels", "find_dataset", "fingerprint", "read_images", "read_labels"]
