"""Which images and labels exist, how they are had, and how they are checked. Knows no noise."""

from .catalogue import DATASETS, Dataset, find_dataset
from .reading import Images, Labels, fingerprint, read_images, read_labels

__all__ = ["DATASETS", "Dataset", "Images", "Labels", "find_dataset", "fingerprint", "read_images", "read_labels"]
