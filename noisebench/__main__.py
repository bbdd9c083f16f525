"""`python -m noisebench`, and the console script."""

from __future__ import annotations

import os
import signal
import sys


def entry() -> None:
    """Run one command. Ctrl-C during the imports ends the process at once, without a traceback."""
    # replace closed streams; otherwise the next opened file would get their descriptor
    for name, mode in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, mode)  # the lowest free descriptor
            os.set_inheritable(nowhere, True)  # so that workers have it too
            setattr(sys, name, os.fdopen(nowhere, "r" if name == "stdin" else "w"))
    at_ctrl_c = signal.getsignal(signal.SIGINT)
    if at_ctrl_c is signal.default_int_handler:  # not ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main

    signal.signal(signal.SIGINT, at_ctrl_c)
    sys.exit(main())


if __name__ == "__main__":
    entry()
