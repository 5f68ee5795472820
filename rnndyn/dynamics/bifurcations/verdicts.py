"""What branches, bifurcations and tracks through training say of themselves."""

import equinox as eqx


class BranchVerdict(eqx.Enumeration):
    """Why a branch or a curve of bifurcations ends where it does; `BranchVerdict[result]` is the message."""

    out_of_points = "reached max_points"
    left_interval = "left the interval"
    left_box = "left the box"
    step_too_small = "step too small"
    closed = "closed"
    period_divided = "met a cycle of smaller period"
    born = "born at a bifurcation"
    resonance_one = "ends at the resonance 1:1"
    resonance_two = "ends at the resonance 1:2"


class BifurcationVerdict(eqx.Enumeration):
    """How well a bifurcation is known; `BifurcationVerdict[result]` is the message."""

    solved = "solved: Newton's method for the defining system converged"
    bracketed = "bracketed: the point lies between two points of the branch that are as near as can be told"
    blurred = "not converged: the multiplier stays so close to the circle that the place is known to `error` only"
    open = "not converged: the point lies between two points of the branch farther apart than they should be"


class TrackVerdict(eqx.Enumeration):
    """Why a track through training begins or ends; `TrackVerdict[result]` is the message."""

    first_checkpoint = "first checkpoint"
    last_checkpoint = "last checkpoint"
    birth = "birth"
    death = "death"
    flip = "flip"
    found_late = "found late"
    lost = "lost"
