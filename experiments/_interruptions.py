"""Ctrl-C ends a study, wherever the interruption falls."""

import os
import signal
import sys
import threading
from typing import Any


def end_on_interruption() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` in whatever a study does; a handler of somebody's own is kept."""
    # `rnndyn.fit` takes Ctrl-C as the wish for what is trained so far, where the handler is Python's own. A study would
    # go on with it, and its result be taken for that of the whole training.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    signal.signal(signal.SIGINT, _interrupt)
    others = sys.unraisablehook

    def again(unraisable: Any) -> None:
        # What is raised in a finaliser or during garbage collection, where JAX has a callback, has nobody to go to:
        # Python drops it, and the study would go on.
        if unraisable.exc_type is KeyboardInterrupt:
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            timer.daemon = True
            timer.start()
        else:
            others(unraisable)

    sys.unraisablehook = again


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
