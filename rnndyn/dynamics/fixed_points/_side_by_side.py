"""Several searches at once, of maps of one program: what they wait for is done for as many of them as wait for it."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

from rnndyn.dynamics.fixed_points._family import Family
from rnndyn.dynamics.fixed_points._pieces import NewtonRuns
from rnndyn.dynamics.fixed_points._work import Found, Piece, Work


def side_by_side(works: Sequence[Work[Found]], family: Family) -> list[Found]:
    """The results of computations, that of number i on map i of the family.

    Newton's method, the dearest, waits until all that are not done wait for it; until then what most of them wait for
    is done next. So those that took a longer way are caught up with.
    """
    results: list[Any] = [None] * len(works)
    waiting: dict[tuple[type, Hashable], list[tuple[int, Piece]]] = defaultdict(list)

    def go_on(i: int, answer: Any) -> None:
        try:
            piece = works[i].send(answer)
        except StopIteration as end:
            results[i] = end.value
        else:
            waiting[type(piece), piece.kind].append((i, piece))

    for i in range(len(works)):
        go_on(i, None)
    while waiting:
        most = max(waiting, key=lambda kind: (kind[0] is not NewtonRuns, len(waiting[kind])))
        members, pieces = zip(*waiting.pop(most))
        for i, answer in zip(members, pieces[0].together(pieces, members, family)):
            go_on(i, answer)
    return results
