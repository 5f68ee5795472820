"""What one orbit does in the long run: a fixed point, a cycle, an invariant circle, chaos, escape, or not decided."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.attractors._judge import Judge
from rnndyn.dynamics.attractors._orbits import SEGMENT, LongOrbit
from rnndyn.dynamics.attractors._segments import skip
from rnndyn.dynamics.attractors.classified_attractor import ClassifiedAttractor, unbounded_orbit
from rnndyn.dynamics.flows import TimeMap
from rnndyn.dynamics.numerics.drivers import double_precision, let_in


def classify_attractor(
    f: Callable[[Array], Array],
    x0: ArrayLike,
    *,
    max_map_steps: int = 2**18,
    max_period: int = 256,
    escape_radius: float | None = None,
) -> "ClassifiedAttractor":
    r"""Say what the orbit $x_{t+1} = F(x_t)$ of a state settles on, with the evidence.

    What is named is verified, or it is "undecided" with a reason:

    - *fixed point*, *cycle*: Newton's method finds it next to the orbit, all multipliers lie inside the unit circle,
        and the orbit has come within $\min(10^{-6}, (1 - \rho) / 100)$ of it (as a fraction of the scale of the
        states, $\rho$ the spectral radius): deep inside the region where the linear part decides. The period is
        minimal.
    - *chaotic*: the largest Lyapunov exponent exceeds zero by five standard errors over the last half of the orbit,
        and again `max_map_steps` steps later, which sorts out chaotic transients shorter than that. Where volume is
        kept (all exponents sum to zero within their error) nothing attracts, and `is_attractor` is false.
    - *invariant circle*: weighted Birkhoff averages agree to 8 digits, the exponent along the motion vanishes, the next
        one is negative; up to 16 entries the curve itself is solved for (`find_invariant_circle`). Several circles
        that are visited in turn show in their number, `num_circles`: $F^k$ then takes each into itself. An attracting
        periodic orbit of a flow, seen by a `time_map`, is an invariant circle with a `limit_cycle`; a time map has no
        attracting cycles, because along the flow nothing attracts.
    - *unbounded*: the orbit leaves the ball of `escape_radius`.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`. An `equinox.Module` shares its compilation with all others of its structure.
    - `x0`: the initial state, shape `(N,)`.
    - `max_map_steps`: after how many steps an orbit without a verdict is undecided; they are doubled from 4096.
    - `max_period`: the longest period that is recognised.
    - `escape_radius`: by default $10^{10}$ times the largest entry of the state and its image, or of one if larger.

    **Returns:** a `ClassifiedAttractor`.

    **Raises:** `ValueError` for a bad state, a map that changes its shape or dtype, or options out of range.

    No finite run tells an attractor from a transient that lasts longer, nor a circle from a locked state of a period
    beyond `max_period` whose exponent is below $10^{-6}$. At a bifurcation ($|\mu| = 1$ up to $10^{-6}$) nothing is
    decided. Motion on a torus of two or more frequencies has two zero exponents and is undecided, as is conservative
    motion.

    Reference: S. Das, Y. Saiki, E. Sander & J. A. Yorke (2017), *Quantitative quasiperiodicity*; G. Benettin et al.
    (1980), *Lyapunov characteristic exponents*; H. Flyvbjerg & R. G. Petersen (1989) (error bars).
    """
    check_state("x0", x0)
    start = np.asarray(x0, np.float64)
    if not np.isfinite(start).all():
        raise ValueError("x0: it holds NaN or infinity. Look at where it comes from.")
    check_at_least("max_map_steps", max_map_steps, SEGMENT)
    check_options(max_period, escape_radius)
    with double_precision():
        flow = f if isinstance(f, TimeMap) else None
        f = let_in(f, start)
        radius = escape_distance(f, start[None], escape_radius)
        return classify(f, start, max_map_steps=max_map_steps, max_period=max_period, radius=radius, flow=flow)


def check_options(max_period: int, escape_radius: float | None) -> None:
    """Raise unless the options that all classifications share are in range."""
    check_at_least("max_period", max_period, 1)
    if max_period > SEGMENT // 4:
        raise ValueError(f"max_period: expected at most {SEGMENT // 4}, got {max_period}.")
    if escape_radius is not None and not escape_radius > 0:
        raise ValueError(f"escape_radius: expected a positive radius, got {escape_radius}.")


def escape_distance(f: Callable, starts: np.ndarray, given: float | None) -> float:
    """The size of state at which an orbit counts as escaped."""
    if given is not None:
        return float(given)
    image = np.asarray(skip(f, jnp.asarray(starts[0]), jnp.asarray(1)))
    sizes = np.abs(np.concatenate([starts, image[None]]))
    return 1e10 * max(1.0, float(np.max(sizes[np.isfinite(sizes)])))


def classify(
    f: Callable, start: np.ndarray, *, max_map_steps: int, max_period: int, radius: float, flow: TimeMap | None = None
) -> ClassifiedAttractor:
    """`classify_attractor` inside of double precision, arguments checked; `flow` where f is the time map of one."""
    first = _classify_once(f, start, max_map_steps, max_period, radius, flow)
    if first.kind != "chaotic":
        return first
    # A chaotic transient shows the same exponent until it ends.
    later = np.asarray(skip(f, jnp.asarray(first.final_state), jnp.asarray(max_map_steps)))
    if not np.max(np.abs(later)) <= radius:
        return unbounded_orbit(later, first.num_steps + max_map_steps)
    return _classify_once(f, later, max_map_steps, max_period, radius, flow, taken=first.num_steps + max_map_steps)


def _classify_once(
    f: Callable,
    start: np.ndarray,
    max_map_steps: int,
    max_period: int,
    radius: float,
    flow: TimeMap | None,
    taken: int = 0,
) -> ClassifiedAttractor:
    orbit = LongOrbit(f, start, radius)
    judge = Judge(f, orbit, max_period, flow, taken)
    while True:
        orbit.extend(max(1, orbit.num_steps // SEGMENT))
        if orbit.escaped_after is not None:
            return unbounded_orbit(orbit.x, taken + orbit.escaped_after)
        verdict = judge.verdict()
        if verdict is not None:
            return verdict
        if 2 * orbit.num_steps > max_map_steps:
            return judge.undecided()
