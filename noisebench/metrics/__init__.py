"""Metrics of predictions: the only part that compares a network's output with true labels."""
