"""`python -m noisebench`, and the console script."""

from __future__ import annotations

import os
import signal
import sys


def entry() -> None:
    """Run one command. During the imports there is nothing to save, and Ctrl-C ends the process at
    once, without a traceback.
    """
    # a closed stdin, stdout or stderr: the next file that is opened would take its number
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    at_ctrl_c = signal.getsignal(signal.SIGINT)
    if at_ctrl_c is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main

    signal.signal(signal.SIGINT, at_ctrl_c)
    sys.exit(main())


if __name__ == "__main__":
    entry()
