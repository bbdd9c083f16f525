"""`python -m noisebench`, and the console script."""

from __future__ import annotations

import os
import signal
import sys


def entry() -> None:
    """Run one command. During the imports there is nothing to save, and Ctrl-C ends the process at
    once, without a traceback.
    """
    # a closed stream leads nowhere; else the next file that is opened would take its number
    for name, mode in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, mode)  # the lowest number that is free
            os.set_inheritable(nowhere, True)  # as a worker's own
            setattr(sys, name, os.fdopen(nowhere, "r" if name == "stdin" else "w"))
    at_ctrl_c = signal.getsignal(signal.SIGINT)
    if at_ctrl_c is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main

    signal.signal(signal.SIGINT, at_ctrl_c)
    sys.exit(main())


if __name__ == "__main__":
    entry()
