"""A data set and a noise give a manifest: noisy labels on disk."""
