"""What interval proofs say they have shown, or what stood in the way."""

import equinox as eqx


class ProofVerdict(eqx.Enumeration):
    """What was proved about a point or cycle; `ProofVerdict[result]` is the message.

    Proved:

    - `certified`: there is exactly one near the given one, and the number of its unstable directions is right.
    - `stability_open`: there is exactly one, but a multiplier is too close to the unit circle for intervals to tell.

    Not proved, and nothing is disproved by it:

    - `not_finite`: f is NaN or infinite at the point itself.
    - `jumps`: f may be discontinuous within the box around the point (a comparison, a remainder, a rounding).
    - `undefined`: an operation may leave its domain within the box (a root or logarithm of what may be negative).
    - `singular`: I - DF has no inverse at the point: it is degenerate, and contraction cannot prove it.
    - `too_far`: no box around it is mapped into itself. Polish the point first (`find_fixed_points`); nearly
      degenerate ones, and points where there is nothing, end here too.
    - `shorter_period`: a cycle is there, but its points cannot be told apart: ask for the shorter period.
    """

    certified = "certified: it exists, is the only one nearby, and its unstable directions are counted"
    stability_open = "certified: it exists and is the only one nearby; how many directions are unstable is open"
    not_finite = "not certified: f is NaN or infinite at the point, or leaves its domain there"
    jumps = "not certified: f may jump at or near the point"
    undefined = "not certified: an operation of f may leave its domain near the point"
    singular = "not certified: I - DF cannot be inverted at the point"
    too_far = "not certified: too far from a fixed point, nearly degenerate, or none there"
    shorter_period = "not certified: the points may repeat a cycle of shorter period"
