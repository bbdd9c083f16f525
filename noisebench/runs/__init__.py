"""One run on disk and in time, and the queue of a suite."""
