"""Ctrl-C during training: a wish to stop, which is granted between two blocks of steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """Notes Ctrl-C while it is entered; a second one interrupts at once, as usual.

    Signals reach the main thread only; elsewhere there is nothing to note.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        # Whoever has set a handler of their own keeps it.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
