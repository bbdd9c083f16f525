"""The command line: parses options, calls the library, prints the result and sets the exit code.
No other package prints or exits.
"""

from .app import main

__all__ = ["main"]
