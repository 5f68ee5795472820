"""What is said of an orbit in the long run, and why nothing is said."""

import equinox as eqx


class AttractorVerdict(eqx.Enumeration):
    """Whether an orbit was found to settle, or why that is not decided; `AttractorVerdict[result]` is the message.

    Decided, one way or the other:

    - `attracting`: the orbit settles on a fixed point or cycle whose multipliers lie inside the unit circle, on a
      circle that solves its equation and contracts, or on chaos: an exponent that is positive by many standard
      errors, twice.
    - `keeps_volume`: the exponents sum to zero within their errors. Whatever the motion is, nothing attracts it.
    - `unbounded`: the orbit left the escape radius. Raise `escape_radius` where states may be that large.

    Undecided. The first five name what is near, and often are the answer:

    - `unstable`: the orbit came to a fixed point or cycle that repels and stays on it, as from a start on its stable
      manifold. Start elsewhere.
    - `on_kink`: near a fixed point or cycle on a kink of the map, where multipliers do not decide; see `on_kink` of
      its `PointVerdict`.
    - `marginal`: near one with a multiplier on the unit circle, at a bifurcation or on a continuum. More steps will
      not help; see `find_slow_points` for a continuum, and continue in a parameter for a bifurcation.
    - `slow`: near a stable one that is still some way off. Raise `max_map_steps`.
    - `no_curve`: the exponents are those of a circle, but no smooth curve solves for one: it breaks up, or needs more
      modes. Look at `find_invariant_circle` with more of them.
    - `long_period`: regular and contracting, so probably a cycle longer than `max_period`; raise that.
    - `torus`: quasi-periodic with more than one frequency. There is no test for a torus here; more steps change
      nothing.
    - `growing`: bounded so far, but larger in the second half than in the first. Raise `max_map_steps`, or lower
      `escape_radius` if such states mean nothing.
    - `unsteady`: a positive exponent whose blocks drift or are correlated. Raise `max_map_steps`.
    - `neutral`: an exponent within its error of zero. Raise `max_map_steps`; near a bifurcation no number is enough.
    - `not_settled`: the orbit never came back to itself in `max_map_steps`; raise that.
    - `left_late`: the orbit came back once, as near a saddle, and then left for infinity. It is unbounded, found
      late.
    """

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
