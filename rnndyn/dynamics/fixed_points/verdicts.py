"""What slow manifolds and the manifolds of saddles say of themselves."""

import equinox as eqx


class SlowVerdict(eqx.Enumeration):
    """Whether there is a slow manifold; `SlowVerdict[result]` is the message.

    - `slow`: most points have modes slower than `slow_time`, and within that time they drift less than their extent.
    - `no_slow_modes`: `dimension` is 0. Lower `slow_time` to ask for less, or there is none.
    - `drifting`: there are slow modes, but within `slow_time` the points travel farther than they lie apart: what
      looks like a manifold is a piece of the way. `travel` has the ratio.
    - `not_finite`: every candidate left the floating-point range. Take candidates from states that the network
      visits.
    """

    slow = "slow: modes slower than slow_time, along which the points stay within that time"
    no_slow_modes = "no slow manifold: most points have no mode slower than slow_time"
    drifting = "no slow manifold: within slow_time the points drift farther than their extent"
    not_finite = "not known: every candidate ran into NaN or infinity"


class ManifoldVerdict(eqx.Enumeration):
    """Why a branch of a manifold of a saddle ends; `ManifoldVerdict[result]` is the message.

    - `left_box`: it crossed the border of the box. Pass a larger one to see more.
    - `shrank`: the next images add no length, so it runs into another invariant set, such as a sink.
    - `torn`: a point of it has no preimage, or one on another sheet, because the map folds the plane. The manifold
      goes on elsewhere, but not as one curve.
    - `out_of_images`: it was still growing after `num_images`; raise that.
    - `absent`: its multiplier is 0. The map flattens the plane along that direction, so a stable branch has no
      preimages to be grown from.
    """

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
    constant = "ended at the constant map: the fixed point that it began at is the one that the map comes from"
