"""How many programs XLA compiles inside a block, or in a whole run."""

import contextlib
from collections.abc import Callable, Iterator

import jax.monitoring

from rnndyn._programs import compiling

_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def count_compilations() -> Iterator[Callable[[], int]]:
    """`with count_compilations() as count: ...` and then `count()`: the programs compiled in the block.

    A program that comes from the persistent cache counts too: JAX reports it under the same event.
    """
    seen: list[str] = []
    active = True

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if active and event == _EVENT:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: len(seen)
    finally:
        active = False
        jax.monitoring.unregister_event_duration_listener(listen)


def programs(function: Callable) -> set:
    """The programs of one function of the library (`compiled`) that are kept: one for each structure of arguments.

    Nothing new was compiled where they are a subset of those before; some may have been forgotten for want of room.
    """
    return {key for key in compiling._kept._items if key[0] is function.__wrapped__}


class Watch:
    """The programs compiled since the watch began, and the seconds that took."""

    def __init__(self) -> None:
        self.number, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _EVENT:
            self.number += 1
            self.seconds += duration_secs
