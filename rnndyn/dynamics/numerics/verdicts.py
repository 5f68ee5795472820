"""What searches say of what they did, of what they found, and of what they may have missed."""

import equinox as eqx


class NewtonVerdict(eqx.Enumeration):
    """How Newton's method ended; `NewtonVerdict[result]` is the message.

    - `converged`: the residual is what rounding leaves of it.
    - `stalled`: it came to rest at a minimum of the residual that is not zero: a slow point (`find_slow_points`).
    - `out_of_steps`: the residual was still falling. Raise `max_steps`.
    - `not_finite`: the map gave NaN or infinity. Choose candidates within its domain.
    """

    converged = "converged: the residual is at its rounding floor"
    stalled = "stalled at a local minimum of the residual; a slow point, see find_slow_points"
    out_of_steps = "out of steps: the residual was still falling; raise max_steps"
    not_finite = "not finite: the map gave NaN or infinity"


class PointVerdict(eqx.Enumeration):
    """What a fixed point or cycle that was found is worth; `PointVerdict[result]` is the message.

    - `regular`: isolated, and its multipliers say whether it is stable.
    - `degenerate`: I - DF is singular as far as it is known: at a bifurcation, or on a continuum, of which this is
      one sample. Its index is undefined.
    - `near_jump`: the map jumps within rounding of it, so a step to the other side is no fixed point. The multipliers
      are those of this side.
    - `on_kink`: the derivative jumps at the point. Stability is that of the growth in the long run over both sides,
      not of the multipliers, which are of one.
    - `on_border`: it is as close to the border of its linear region as rounding is large; the slightest change of the
      weights may remove it.
    - `undecided`: on a kink, and whether it is stable hangs on rounding.
    """

    regular = "regular: isolated, and its multipliers say whether it is stable"
    degenerate = "degenerate: I - DF is singular as far as it is known, so that the index is undefined"
    near_jump = "next to a jump of the map: the multipliers hold on one side only"
    on_kink = "on a kink of the map: stable or not by growth in the long run, the multipliers are those of one side"
    on_border = "on a border between linear regions, within rounding: a change of the weights may remove it"
    undecided = "on a kink of the map: whether it is stable hangs on rounding"


class CompletenessVerdict(eqx.Enumeration):
    """Whether a list holds all there is; `CompletenessVerdict[completeness]` is the message.

    - `proved`: every region was searched, or excluded by an interval test: nothing is missing.
    - `balanced`: the indices sum to what topology asks for. Pairs of opposite index may be missing all the same.
    - `incomplete`: they do not, so something is missing. Add candidates.
    - `unknown`: nothing says what the sum should be, or a point has no index.
    - `sampled`: regions were drawn at random because `max_tests` was reached; raise it.
    - `out_of_boxes`: `max_boxes` was reached with boxes left; raise it, or search a smaller box.
    - `undecided`: boxes are left in which neither existence nor absence could be shown, as around degenerate points.
    """

    proved = "proved complete"
    balanced = "not proved: the index sum is what it should be, nothing need be missing"
    incomplete = "incomplete: the index sum is not what it should be, some are missing; add candidates"
    unbalanced = "perhaps incomplete: the index sum is not 1 in a box that the map is seen, not proved, to keep"
    unknown = "not known: nothing tells what the indices sum to, or some of them are undefined"
    sampled = "not proved: a sample, since the work limit was reached; raise max_tests"
    out_of_boxes = "not proved: max_boxes was reached; raise it, or search a smaller box"
    undecided = "not proved: regions are left that may hold more"


class ParallelVerdict(eqx.Enumeration):
    """How the states of a sequence were found; `ParallelVerdict[result]` is the message.

    The states are right with every verdict; what differs is how long they took.

    - `converged`: all at once, by Newton's method on the whole sequence.
    - `chaotic`: one after the other, without trying. A positive exponent over the first steps says that the method
        would take about as many iterations as there are steps.
    - `out_of_steps`: one after the other, as the method did not converge in `max_steps` iterations.
    """

    converged = "converged: all states at once, by Newton's method"
    chaotic = (
        "chaotic: the largest exponent over the first steps is above 0, so that Newton's method would take about as "
        "many iterations as there are steps; iterated one after the other"
    )
    out_of_steps = "out of steps: Newton's method did not converge; iterated one after the other"
