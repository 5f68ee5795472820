"""How many programs XLA compiles inside a block, or in a whole run."""

import contextlib
from collections.abc import Callable, Iterator

import jax.monitoring

_EVENT = "/jax/core/compile/backend_compile_duration"
_LOWERING = "/jax/core/compile/jaxpr_to_mlir_module_duration"


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
    # Not above: tests/conftest.py needs this file before it can install the hook by which the library is imported.
    from rnndyn._programs import compiling

    return {key for key in compiling._kept._items if key[0] is function.__wrapped__}


class Watch:
    """The programs compiled since the watch began, and the seconds of that: of all, and for each name of a program."""

    def __init__(self) -> None:
        self.number, self.seconds, self._before = 0, 0.0, 0
        self.names: dict[str, tuple[int, float]] = {}
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def begin(self) -> None:
        """A test begins."""
        self._before = self.number

    def since_it_began(self) -> int:
        """The programs compiled since the test that began last."""
        return self.number - self._before

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event not in (_EVENT, _LOWERING):
            return
        compiled = event == _EVENT
        self.number += compiled
        self.seconds += duration_secs
        name = str(kwargs.get("fun_name", "without a name"))
        number, seconds = self.names.get(name, (0, 0.0))
        self.names[name] = number + compiled, seconds + duration_secs


def dearest(names: list[dict[str, tuple[int, float]]], shown: int = 10) -> list[str]:
    """Of the names that several processes have counted, a line for each of those that took most seconds in all."""
    together = {name: [counted.get(name, (0, 0.0)) for counted in names] for counted in names for name in counted}
    sums = {name: tuple(sum(column) for column in zip(*each, strict=True)) for name, each in together.items()}
    order = sorted(sums.items(), key=lambda item: -item[1][1])[:shown]
    return [f"{seconds:7.1f} s {number:5d} times {name}" for name, (number, seconds) in order]
