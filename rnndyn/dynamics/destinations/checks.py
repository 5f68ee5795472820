"""A second opinion on certificates of basins, connections and transitions: NumPy, and the equations of the cells.

Nothing is shared with the proofs but the theorem: no jaxpr, no interval rules, no norms of theirs.
"""

from typing import Any

import numpy as np

from rnndyn.dynamics.destinations import _checker_intervals as iv
from rnndyn.dynamics.destinations._checker_branches import manifold_fails, pieces_fail
from rnndyn.dynamics.destinations._checker_cells import CellStep
from rnndyn.dynamics.destinations._checker_sets import (
    advance,
    arrivals_fail,
    balls_fail,
    is_inside,
    rows_of,
    states_arrive,
)
from rnndyn.dynamics.destinations.certified_basins import CertifiedBasins
from rnndyn.dynamics.destinations.connections import CertifiedConnections
from rnndyn.dynamics.destinations.transitions import CertifiedTransitions
from rnndyn.dynamics.proofs.recheck import Recheck


def check_basins(basins: CertifiedBasins, cell: Any, input: Any = None) -> Recheck:
    """Check a certificate of `certify_basins` again, with a program that shares nothing with the proof.

    **Arguments:**

    - `basins`: the certificate.
    - `cell`: the vanilla (tanh), GRU (reset after the product) or LSTM cell that it is about, or anything with its
        `weight_ih`, `weight_hh`, `bias` and `bias_n`.
    - `input`: the input held, (I,); zero by default.

    **Returns:** a `Recheck`. Claims that are true may be refused where they were proved with less to spare than
    rounding takes here; false ones are not accepted.

    **Raises:** `ValueError` for another cell.

    The trapping inequalities are evaluated as they are claimed, and the larger balls around them followed into them;
    each labelled state is followed for the claimed number of steps, as an ellipsoid known by its covariance, and
    where that is too wide as a box, disc and ellipsoid with a factor; it must then lie in the claimed ball.
    """
    with np.errstate(all="ignore"):
        step = CellStep(cell, input)
        reason = balls_fail(basins.balls, step)
        reason = reason or arrivals_fail(basins.balls, basins.multiples, basins.settling, step)
        if reason:
            return _said(reason)
        rows = np.flatnonzero(basins.labels >= 0)
        entered = basins.entered[rows]
        known = (entered >= 0) & (entered < len(basins.balls.radii))
        entered = np.where(known, entered, 0)
        known &= (basins.balls.owners[entered] == basins.labels[rows]) & (basins.balls.radii[entered] > 0)
        if not known.all():
            k = rows[np.argmin(known)]
            return _said(f"state {k}: label {basins.labels[k]} is not the memory of the ball it is to enter.")
        inside = states_arrive(step, basins.states[rows], basins.steps[rows], entered, basins.balls, basins.multiples)
        if not inside.all():
            k = rows[np.argmin(inside)]
            return _said(f"state {k}: after {basins.steps[k]} steps it is not in ball {basins.entered[k]}.")
        return _said("")


def check_connections(connections: CertifiedConnections, cell: Any, input: Any = None) -> Recheck:
    """Check a certificate of `certify_connections` again, with a program that shares nothing with the proof.

    **Arguments:** the certificate, the cell and the input held as for `check_basins`.

    **Returns:** a `Recheck`. **Raises:** `ValueError` for another cell.

    Of each saddle with a branch that is claimed: its derivative is bounded over the claimed set and compared with the
    claimed bounds; from these the covering and cone conditions follow, and how far the manifold strays; the pieces of
    each branch must join from the inner to the outer distance without a gap, and each, followed as an ellipsoid of
    either kind for the claimed number of steps, must lie in a ball of the memory that is claimed.
    """
    with np.errstate(all="ignore"):
        step = CellStep(cell, input)
        balls = connections.balls
        reason = balls_fail(balls, step) or arrivals_fail(balls, connections.multiples, connections.settling, step)
        for k in np.flatnonzero((connections.labels >= 0).any(axis=1)):
            reason = reason or manifold_fails(connections, int(k), step)
        reason = reason or pieces_fail(connections, step)
        return _said(reason)


def check_transitions(transitions: CertifiedTransitions, cell: Any) -> Recheck:
    """Check a certificate of `certify_transitions` again, with a program that shares nothing with the proof.

    **Arguments:** the certificate, and the cell as for `check_basins`.

    **Returns:** a `Recheck`. **Raises:** `ValueError` for another cell.

    Every ball is followed through every pulse as an ellipsoid; within the claimed number of steps at rest it must come
    to lie in a ball of the memory that is claimed.
    """
    with np.errstate(all="ignore"):
        balls, share = transitions.balls, transitions.share
        reach = iv.up(balls.offsets + iv.up(balls.rates * iv.up(balls.radii * share)))
        if not (0 < share <= 1 and np.all((reach <= iv.down(balls.radii * share)) | (balls.radii == 0))):
            return _said(f"the balls of share {share} are not taken into themselves.")
        at_rest = CellStep(cell, transitions.rest)
        reason = balls_fail(balls, at_rest)
        if reason:
            return _said(reason)
        for s, pulse in enumerate(transitions.inputs):
            steps = [CellStep(cell, u) for u in pulse]
            claimed = transitions.labels[balls.owners, s]
            rows = np.flatnonzero(claimed >= 0)
            if not (balls.radii[rows] > 0).all():
                return _said(f"pulse {s}: it starts from a memory without a trapping ball.")
            sets = (balls.centers[rows], balls.factors[rows], balls.radii[rows] * share)
            for step in steps:
                sets = advance(step, *sets)
            there = np.zeros(len(rows), bool)
            for t in range(int(transitions.steps[balls.owners[rows], s].max(initial=0)) + 1):
                for j in np.flatnonzero(balls.radii > 0):
                    meant = (claimed[rows] == balls.owners[j]) & ~there
                    meant &= t <= transitions.steps[balls.owners[rows], s]
                    if meant.any():
                        which = np.full(meant.sum(), j)
                        there[meant] = is_inside(*rows_of(sets, meant), balls, which, share)
                if there.all():
                    break
                sets = advance(at_rest, *sets)
            if not there.all():
                k = balls.owners[rows[np.argmin(there)]]
                return _said(f"pulse {s} from memory {k}: it is not seen to lead to {transitions.labels[k, s]}.")
        return _said("")


def _said(reason: str) -> Recheck:
    """Accepted where there is no reason against it."""
    return Recheck(not reason, (reason,) if reason else ())
