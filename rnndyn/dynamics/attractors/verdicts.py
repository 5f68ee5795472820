"""What is said of an orbit in the long run, and why nothing is said."""

import equinox as eqx


class AttractorVerdict(eqx.Enumeration):
    """Whether an orbit was found to settle, or why that is not decided; `AttractorVerdict[result]` is the message."""

    attracting = "attracting: what the orbit settles on is verified"
    keeps_volume = "volume is kept: nothing attracts"
    unbounded = "unbounded: the orbit leaves the escape radius"
    unstable = "undecided: the orbit stays on a fixed point or cycle that is unstable"
    on_kink = "undecided: near a fixed point or cycle on a kink of the map"
    marginal = "undecided: near a fixed point or cycle with a multiplier on the unit circle"
    slow = "undecided: a fixed point or cycle is approached slowly or not at all; raise max_map_steps"
    growing = "undecided: the orbit still grows; raise max_map_steps or lower escape_radius"
    unsteady = "undecided: the exponent is positive, but it drifts or is correlated; raise max_map_steps"
    no_curve = "undecided: one exponent is zero and the next negative, but no curve solves for it"
    long_period = "undecided: a cycle longer than max_period?"
    torus = "undecided: quasi-periodic, but no attracting circle: a torus of more frequencies"
    neutral = "undecided: the exponent is too close to zero, and averages converge slowly; raise max_map_steps"
    not_settled = "undecided: not settled yet; raise max_map_steps"
    left_late = "undecided: the orbit came back once, and then left for infinity"
