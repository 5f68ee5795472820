"""What a measurement of growth says of itself."""

import equinox as eqx


class GrowthVerdict(eqx.Enumeration):
    """Whether a measured rate of growth can be believed; `GrowthVerdict[result]` is the message.

    Where several hold, the last one in this list is given; the numbers are what was measured in any case.

    - `converged`: none of the others.
    - `singular`: nothing stands against the finite exponents; the others are -inf, because a step destroys directions:
      DF is singular there, exactly, or as far as this precision tells (slopes below its smallest number; a saturating
      function other than tanh and the logistic one, whose derivative JAX computes from its value).
    - `correlated`: the longest blocks of the window are still correlated, so the error bars are too small. Raise
      `num_steps`.
    - `drifting`: the first quarter of the window differs from its last half: the transient was not over. Raise
      `num_transient`.
    - `ill_conditioned`: between two decompositions the frame lost more than half of its digits. See `rounding_error`;
      lower `qr_every`, leave it to the schedule, or use float64.
    - `unsettled`: covariant vectors from two random starts differ. Raise `num_transient` and `num_backward`.
    - `no_gradient`: a loss depends on no state, so there is nothing to carry back. Look at the loss.
    - `not_finite`: the trajectory or its derivative left the floating-point range; every rate is NaN.
    """

    converged = "converged"
    drifting = "drifting: the start of the window differs from its end; raise num_transient"
    correlated = "correlated: the window is too short for its error bars; raise num_steps"
    ill_conditioned = (
        "ill-conditioned: the frame lost more than half of its digits; see rounding_error, "
        "lower qr_every or use float64"
    )
    not_finite = "not finite: the trajectory or its derivative left the floating-point range"
    no_gradient = "no gradient: the loss depends on no state, so there is nothing to carry back"
    unsettled = "unsettled: answers from two random starts differ; raise num_transient and num_backward"
    singular = (
        "converged, with exponents of -inf: the Jacobian is singular at some step, exactly or as far as this precision "
        "tells (saturated units)"
    )


class ChaosVerdict(eqx.Enumeration):
    """Whether a signal, or an orbit, is chaotic; `ChaosVerdict[result]` is the message.

    - `regular`: the statistic is close to 0: periodic or quasi-periodic.
    - `chaotic`: it is close to 1.
    - `unclear`: it is between. Take a longer signal, fewer samples of a flow per turn, or one with less noise.
    - `not_finite`: the signal holds NaN or infinity.
    """

    regular = "regular"
    chaotic = "chaotic"
    unclear = "unclear: too short, oversampled or noisy to tell"
    not_finite = "not finite: it holds NaN or infinity"
