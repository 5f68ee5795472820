"""What interval proofs say they have shown, or what stood in the way."""

import equinox as eqx


class ProofVerdict(eqx.Enumeration):
    """What was proved about a point or cycle; `ProofVerdict[result]` is the message."""

    certified = "certified: it exists, is the only one nearby, and its unstable directions are counted"
    stability_open = "certified: it exists and is the only one nearby; how many directions are unstable is open"
    not_finite = "not certified: f is NaN or infinite at the point, or leaves its domain there"
    jumps = "not certified: f may jump at or near the point"
    undefined = "not certified: an operation of f may leave its domain near the point"
    singular = "not certified: I - DF cannot be inverted at the point"
    too_far = "not certified: too far from a fixed point, nearly degenerate, or none there"
    shorter_period = "not certified: the points may repeat a cycle of shorter period"
