"""What the searches for circles, limit cycles and phase shifts say of themselves."""

import equinox as eqx


class CircleVerdict(eqx.Enumeration):
    """What became of the search for an invariant circle; `CircleVerdict[result]` is the message."""

    converged = "converged: the curve turns like a rotation"
    locked = "locked: the orbit settles on a cycle or a fixed point instead"
    escaped = "escaped: the orbit leaves for infinity or becomes NaN"
    no_line = "not regular: the orbit has no line in its spectrum"
    too_few_modes = "too few modes: the curve needs more; raise max_modes"
    no_solution = "no circle solves the equation: chaos, several circles in turn, a long cycle, or not settled yet"
    not_settled = "not settled: the orbit spirals to a fixed point; raise num_transient"


class LimitCycleVerdict(eqx.Enumeration):
    """What became of the search for a limit cycle; `LimitCycleVerdict[result]` is the message."""

    converged = "converged: the orbit closes"
    escaped = "escaped: the trajectory leaves for infinity"
    equilibrium = "settled: the trajectory ends on an equilibrium; see find_equilibria"
    no_return = "no return: the trajectory does not come back to itself in time; raise duration"
    not_solved = "not solved: Newton's method stopped before the orbit closed; start closer, or raise num_segments"
    collapsed = "collapsed: Newton's method went to an equilibrium; see find_equilibria"
    inaccurate = "inaccurate: the multiplier along the flow is not 1, so the others are not known; change coordinates"


class PhaseVerdict(eqx.Enumeration):
    """Whether a perturbed state came back to the curve; `PhaseVerdict[result]` is the message."""

    returned = "returned"
    away = "still away from the curve: it has left the basin, or raise max_map_steps"
    not_finite = "not finite: the state left for infinity"
