"""Checks of a report for CI: a baseline, GitHub annotations, JUnit."""
