"""Images as batches: sets in memory, and sets that are read during training."""
