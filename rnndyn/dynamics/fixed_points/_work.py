"""A search as a coroutine: where it needs the map it hands out a piece of work, and goes on with what comes back.

What a search does next hangs on what it found; what it waits for is the same few loops over many states. As a coroutine
it runs alone, each piece computed as it comes, or beside the searches of other maps, of which the same pieces are
computed at once (`_side_by_side`): its decisions are the same code both times.
"""

from collections.abc import Generator, Hashable, Sequence
from typing import Any, Protocol, TypeVar

Found = TypeVar("Found")


class Piece(Protocol):
    """Work that a search waits for. What is of the same class and `kind` can be done together."""

    @property
    def kind(self) -> Hashable:
        """The settings that it is done with."""
        ...

    def alone(self) -> Any:
        """The answer, for one map."""
        ...

    @staticmethod
    def together(pieces: Sequence[Any], members: Sequence[int], family: Any) -> Sequence[Any]:
        """The answers to several pieces, each for one of the maps of a `Family`."""
        ...


Work = Generator[Piece, Any, Found]
"""A computation that hands out pieces of work and ends with a result."""


def alone(work: Work[Found]) -> Found:
    """The result of a computation, whose pieces are done one after another."""
    answer = None
    while True:
        try:
            piece = work.send(answer)
        except StopIteration as end:
            return end.value
        answer = piece.alone()
