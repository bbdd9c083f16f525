"""Predictions against labels: the only part where true labels meet a network's output."""
