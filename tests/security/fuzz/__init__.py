"""Readers of untrusted files under random input: `python -m tests.security.fuzz TARGET --seconds
600`.

Whatever an input is, a reader takes it or says a NoisebenchError of one line, within seconds and
within the memory that it was given.
"""
