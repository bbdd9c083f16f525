"""What to run, resolved: methods, recipes, suites, keys. No torch, no run folders."""
