"""Streamed data sets: images in folders, tars and tables that are read during training."""
