"""Networks, batches and the training loop. Does not depend on suites and prints nothing."""
