"""What slow manifolds and the manifolds of saddles say of themselves."""

import equinox as eqx


class SlowVerdict(eqx.Enumeration):
    """Whether there is a slow manifold; `SlowVerdict[result]` is the message."""

    slow = "slow: modes slower than slow_time, along which the points stay within that time"
    no_slow_modes = "no slow manifold: most points have no mode slower than slow_time"
    drifting = "no slow manifold: within slow_time the points drift farther than their extent"
    not_finite = "not known: every candidate ran into NaN or infinity"


class ManifoldVerdict(eqx.Enumeration):
    """Why a branch of a manifold of a saddle ends; `ManifoldVerdict[result]` is the message."""

    left_box = "left the box"
    shrank = "shrank to a point: it runs into another invariant set"
    torn = "torn: a preimage is missing or another one took over, since the map folds the plane"
    out_of_images = "out of images: it goes on; raise num_images"
    absent = "absent: the map flattens the plane along its direction, and nothing comes before"


class PathVerdict(eqx.Enumeration):
    """How a path of the homotopy from a constant map ended; `PathVerdict[result]` is the message."""

    arrived = "arrived at a fixed point"
    out_of_steps = "out of steps: the path goes on; one from another start may be shorter"
    lost = "lost: no step along the path converged, the map may have a kink or a jump there"
