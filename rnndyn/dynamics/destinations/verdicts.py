"""What is proved of where states end, or what stood in the way."""

import equinox as eqx


class BallVerdict(eqx.Enumeration):
    """Whether a stable point or cycle has a trapping ball; `BallVerdict[result]` is the message.

    - `proved`: every state of the ball ends in the point or cycle.
    - `not_contracting`: no ball passed, however small: a multiplier is too close to the unit circle for any metric
      tried, the point is too far off, or the map jumps or leaves its domain there. Polish the point; see what
      `certify_fixed_point` says of it.
    """

    proved = "proved: every state of the ball ends there"
    not_contracting = "not proved: no ball around it is taken into itself, however small"


class DestinationVerdict(eqx.Enumeration):
    """Whether it is proved where a state, branch or pulse leads; `DestinationVerdict[result]` is the message.

    - `proved`: it ends in the memory that the label names.
    - `not_arrived`: it is in no ball after `max_steps`. Raise that; or it ends elsewhere, or in a memory not given.
    - `blurred`: the enclosure grew until nothing could be said, as on the boundary of two basins or near a saddle.
    - `not_finite`: f is NaN or infinite on the way, leaves its domain, or may jump.
    - `no_branch`: for a saddle: its unstable direction was not enclosed.
    """

    proved = "proved: it ends in the memory that the label names"
    not_arrived = "not proved: in no trapping ball after max_steps"
    blurred = "not proved: the enclosure of the orbit grew too wide, as near a boundary of basins"
    not_finite = "not proved: f is not finite, leaves its domain or may jump on the way"
    no_branch = "not proved: the unstable direction of the saddle was not enclosed"
