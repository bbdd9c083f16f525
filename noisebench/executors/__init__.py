"""Execute runs in local processes, on Ray or on Slurm. A run is a line of JSON and a directory,
never a pickle.
"""
