"""What branches, bifurcations and tracks through training say of themselves."""

import equinox as eqx


class BranchVerdict(eqx.Enumeration):
    """Why a branch or a curve of bifurcations ends where it does; `BranchVerdict[result]` is the message.

    A branch has two ends and two verdicts. Ends that are what was asked for:

    - `left_interval`: the parameter reached an end of the span. The last point lies on it.
    - `left_box`: a state left the given `box`.
    - `closed`: the branch came back to its first point, so it is a closed curve (both ends say so).
    - `born`: the branch begins at a bifurcation of another one, which `parents` of the diagram names.
    - `period_divided`: the cycle shrank onto one of smaller period, as at the end of a doubled branch. Follow that.
    - `resonance_one`, `resonance_two`: a curve of Neimark-Sacker points ends where its two multipliers meet at 1 or
      -1; beyond, there are none.

    Ends for want of effort, which leave the rest unknown:

    - `out_of_points`: `max_points` were taken. Raise it, or `max_step`.
    - `step_too_small`: Newton's method did not converge even at the smallest step: at a jump or kink of the map, or
      where the derivative is singular twice. Look at the map there; lower `min_step` if it is smooth.
    """

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
    """How well a bifurcation is known; `BifurcationVerdict[result]` is the message.

    - `solved`: Newton's method converged for the equations that define it. Position and coefficient are known to
      rounding; `error` says to how much.
    - `bracketed`: the equations are singular there (several multipliers cross at once, or the map has a kink), so the
      point is enclosed between two neighbouring points of the branch instead, as near as rounding allows. The
      position is good, the coefficient is NaN.
    - `open`: the two points are farther apart than that, by `error`. The crossing is real, its position rough: follow
      the branch again with a smaller `max_step`.
    """

    solved = "solved: Newton's method for the defining system converged"
    bracketed = "bracketed: the point lies between two points of the branch that are as near as can be told"
    blurred = "not converged: the multiplier stays so close to the circle that the place is known to `error` only"
    open = "not converged: the point lies between two points of the branch farther apart than they should be"


class TrackVerdict(eqx.Enumeration):
    """Why a track through training begins or ends; `TrackVerdict[result]` is the message.

    A track has two ends and two verdicts. Between checkpoints the weights are taken along a straight line.

    - `first_checkpoint`, `last_checkpoint`: the object was there when the record began, or is there still.
    - `birth`: it came into being with a partner, at a fold between two checkpoints; the event names both.
    - `death`: it met a partner at a fold and is gone.
    - `flip`: it begins or ends as a cycle that splits from, or shrinks onto, one of half its period.
    - `found_late`: it was there before, but the search at the earlier checkpoint missed it. Add candidates.
    - `lost`: its branch ended for another reason, which the `reason` of the track names; raise `max_points`, or save
      checkpoints more often.
    """

    first_checkpoint = "first checkpoint"
    last_checkpoint = "last checkpoint"
    birth = "birth"
    death = "death"
    flip = "flip"
    found_late = "found late"
    lost = "lost"
