"""What a measurement of growth says of itself."""

import equinox as eqx


class GrowthVerdict(eqx.Enumeration):
    """Whether a measured rate of growth can be believed; `GrowthVerdict[result]` is the message."""

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


class ChaosVerdict(eqx.Enumeration):
    """Whether a signal, or an orbit, is chaotic; `ChaosVerdict[result]` is the message."""

    regular = "regular"
    chaotic = "chaotic"
    unclear = "unclear: too short, oversampled or noisy to tell"
    not_finite = "not finite: it holds NaN or infinity"
