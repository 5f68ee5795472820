"""What the searches for circles, limit cycles and phase shifts say of themselves."""

import equinox as eqx


class CircleVerdict(eqx.Enumeration):
    """What became of the search for an invariant circle; `CircleVerdict[result]` is the message.

    - `converged`: a smooth closed curve solves the equation of invariance to `tol`, and the map turns it like a
      rotation.
    - `locked`: the orbit settles on a cycle or fixed point, which is returned as `cycle`; the circle, if there is
      one, is in a tongue of resonance.
    - `escaped`: the orbit left the floating-point range. Start elsewhere.
    - `no_line`: its spectrum holds no line to take the rotation from. It is chaotic, or constant.
    - `too_few_modes`: the residual is small at the nodes but the Fourier coefficients have not fallen. Raise
      `max_modes`; close to the break-up of a circle no number is enough.
    - `no_solution`: Newton's method does not converge. The orbit is chaotic, visits several circles in turn (take an
      iterate of the map), is locked to a long cycle (raise `max_period`), or has not settled (raise `num_transient`).
    - `not_settled`: the curve that solves is far smaller than the orbit, which spirals to a fixed point. Raise
      `num_transient`.
    """

    converged = "converged: the curve turns like a rotation"
    locked = "locked: the orbit settles on a cycle or a fixed point instead"
    escaped = "escaped: the orbit leaves for infinity or becomes NaN"
    no_line = "not regular: the orbit has no line in its spectrum"
    too_few_modes = "too few modes: the curve needs more; raise max_modes"
    no_solution = "no circle solves the equation: chaos, several circles in turn, a long cycle, or not settled yet"
    not_settled = "not settled: the orbit spirals to a fixed point; raise num_transient"


class LimitCycleVerdict(eqx.Enumeration):
    """What became of the search for a limit cycle; `LimitCycleVerdict[result]` is the message.

    - `converged`: the orbit closes to `tol`, and the multiplier along the flow is 1 to 1e-4.
    - `escaped`: the trajectory left the floating-point range. Start elsewhere.
    - `equilibrium`: it ends on an equilibrium (`find_equilibria` has its eigenvalues). Start elsewhere, or on an
      unstable orbit with `transient=0` and a guess of `period`.
    - `no_return`: it neither came back nor settled. Raise `duration`; chaos comes back closely only after long times.
    - `not_solved`: a close return was found, but Newton's method stopped before the orbit closed. Start closer, pass
      `period`, or raise `num_segments` for a strongly unstable orbit.
    - `collapsed`: Newton's method shrank the orbit onto an equilibrium. Pass a better guess of `period`.
    - `inaccurate`: the orbit closes, but the multiplier along the flow is not 1, so the others are as wrong. Change
      to coordinates in which no component nearly vanishes.
    """

    converged = "converged: the orbit closes"
    escaped = "escaped: the trajectory leaves for infinity"
    equilibrium = "settled: the trajectory ends on an equilibrium; see find_equilibria"
    no_return = "no return: the trajectory does not come back to itself in time; raise duration"
    not_solved = "not solved: Newton's method stopped before the orbit closed; start closer, or raise num_segments"
    collapsed = "collapsed: Newton's method went to an equilibrium; see find_equilibria"
    inaccurate = "inaccurate: the multiplier along the flow is not 1, so the others are not known; change coordinates"


class PhaseVerdict(eqx.Enumeration):
    """Whether a perturbed state came back to the curve; `PhaseVerdict[result]` is the message.

    - `returned`: it is within `tol` of the curve again, and its shift of phase is known.
    - `away`: it was not after `max_map_steps`, and the shift is NaN. The kick led out of the basin, or the curve
      attracts slowly: raise `max_map_steps`, or kick less.
    - `not_finite`: the state left the floating-point range. Kick less.
    """

    returned = "returned"
    away = "still away from the curve: it has left the basin, or raise max_map_steps"
    not_finite = "not finite: the state left for infinity"
