"""The command line: parses options, calls the library, prints the answer and exits. The only part
that prints and exits.
"""

from .app import main

__all__ = ["main"]
