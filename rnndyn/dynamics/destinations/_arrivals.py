"""Larger sets around trapping balls, all of whose states come to lie in the ball."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rnndyn.dynamics.destinations import _journeys as journeys
from rnndyn.dynamics.destinations._sets import Balls, Ellipsoids
from rnndyn.dynamics.destinations.trapping_balls import TrappingBalls

_MULTIPLES = 2.0 ** np.arange(0.5, 3.5, 0.5)
"""Tried of the radius of every ball, all at once."""
LONGEST_SETTLING = 30
"""Steps that such sets are followed for."""


class Arrivals(NamedTuple):
    """Where orbits may be left: balls {|x - c|_Q <= m r} that are mapped into the trapping balls.

    - `targets`: these larger balls, of the B rows `rows` of the trapping balls.
    - `multiples`: m, 1 where nothing larger was proved, of all M trapping balls.
    - `settling`: after how many steps the larger ball lies in a trapping ball, of all M.
    """

    targets: Balls
    rows: Int[np.ndarray, " B"]
    multiples: Float[np.ndarray, " M"]
    settling: Int[np.ndarray, " M"]


def find_arrivals(f: Callable, balls: TrappingBalls, max_steps: int) -> Arrivals:
    """The largest multiples of the trapping balls that are seen to enter them; call it inside `interval_precision`.

    A trapping ball is taken into itself in one step and in one metric; a larger one may be deformed on its way there,
    as an ellipsoid that is fitted again after every step. An orbit that creeps along the slowest direction of its
    memory enters it many steps earlier.
    """
    targets, rows = balls.targets()
    multiples, settling = np.ones(len(balls.radii)), np.zeros(len(balls.radii), int)
    which = np.repeat(np.arange(len(rows)), len(_MULTIPLES))
    tried = np.tile(_MULTIPLES, len(rows))
    sets = Ellipsoids(balls.centers[rows[which]], balls.factors[rows[which]], tried * targets.radii[which])
    found = journeys.follow_sets(f, sets, targets, max_steps, progress=False)
    for k in np.flatnonzero(found.ends == journeys.ARRIVED):
        row = rows[which[k]]
        # In a cycle the ball that is entered has to be the one of that phase.
        expected = row
        for _ in range(found.steps[k]):
            expected = balls.successors[expected]
        if rows[found.balls[k]] == expected and tried[k] > multiples[row]:
            multiples[row], settling[row] = tried[k], found.steps[k]
    return Arrivals(targets._replace(radii=targets.radii * multiples[rows]), rows, multiples, settling)
