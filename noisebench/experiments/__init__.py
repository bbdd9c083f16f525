"""Resolves what to run: methods, recipes, suites, keys. Uses no torch and no run directories."""
