"""The files and the training session of one run, and the queue of a suite."""
