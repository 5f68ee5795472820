"""Where a map moves slowly without being fixed: minima of the speed, and the slow manifold around them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float, Int

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.fixed_points._search import linearize_roots
from rnndyn.dynamics.fixed_points.slow_manifold import SlowManifold, describe_manifold, jacobians_at, relax_fast_modes
from rnndyn.dynamics.numerics.deduplication import group_points
from rnndyn.dynamics.numerics.drivers import double_precision, let_in, map_in_chunks
from rnndyn.dynamics.numerics.evaluation import images_of
from rnndyn.dynamics.numerics.evidence import robust_scale, rounding_floor
from rnndyn.results import Result

_UNFINISHED, _MINIMUM, _NO_MINIMUM, _ROOT = range(4)

RELAXATION_MARGIN = 3.0
"""Directions up to this factor faster than the slow ones are left alone too, so that the slow ones are never moved."""


def find_slow_points(
    f: Callable[[Array], Array],
    candidates: ArrayLike,
    *,
    slow_time: float = 20.0,
    num_samples: int = 64,
    max_steps: int = 200,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "SlowPoints":
    r"""Find local minima of the speed $q(x) = \tfrac12 |F(x) - x|^2$ that are not fixed points, and the slow manifold.

    *Minima.* From every candidate $q$ is minimised by a Newton method with exact Hessian and Levenberg damping, in
    float64. Ends where $F(x) = x$ to rounding are fixed points and only counted; the rest are slow points: ghosts of a
    bifurcation, or the slowest place of a drift.

    *Slow manifold.* Along an approximate line (or plane) attractor there are few minima and much to see. Each
    candidate is relaxed by Newton steps in the fast directions only: with the singular value decomposition
    $DG = U \Sigma V^\top$ of $G(x) = F(x) - x$, by $-\sum_{\sigma_i > 3 / \tau} v_i\, (u_i^\top G) / \sigma_i$, which
    settles what changes fast and does not move along what changes slowly. What the candidates then lie on is described
    by its dimension, slow modes, time constants and drift.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`.
    - `candidates`: starting points, shape `(K, N)`; see `sample_candidates`.
    - `slow_time`: the time constant $\tau$ beyond which a mode counts as slow; in units of time where the map has a
        `dt` (a time map, a leaky cell with its time step), else in steps.
    - `num_samples`: how many points of the slow manifold to linearise.
    - `max_steps`: of the minimisation.
    - `progress`: show a bar when it takes longer than two seconds.
    - `devices`: JAX devices, or a `jax.sharding.Mesh` of them, that share the work; also those of other processes
        (`jax.distributed`), which then all make this call. By default the default device.

    **Returns:** a `SlowPoints`.

    **Raises:** `ValueError` for bad candidates, a map that changes the shape or dtype of its state, or a `slow_time`
    that is not longer than one step.

    A mode counts as slow when $|1 - \mu| < dt / \tau$: it is nearly at rest. A rotation with $|\mu| \approx 1$ is not.
    Slow modes alone make no slow manifold: its points must stay, and how far they drift within $\tau$ is told.

    Reference: D. Sussillo & O. Barak (2013), *Opening the black box*; N. Maheswaranathan et al. (2019), *Reverse
    engineering recurrent networks for sentiment classification reveals line attractor dynamics*.
    """
    check_states("candidates", candidates)
    check_at_least("num_samples", num_samples, 1)
    given = getattr(f, "dt", None)
    dt = 1.0 if given is None else float(given)
    slow_steps = slow_time / dt
    if not slow_steps > 1:
        raise ValueError(f"slow_time: expected more than 1 step (of length {dt:g}), got {slow_time}.")
    with double_precision(devices):
        starts = np.asarray(candidates, np.float64)
        f = let_in(f, starts[0])
        bytes_per_item = 64 * starts.shape[1] ** 2
        scale = robust_scale(np.concatenate([starts, images_of(f, starts)]))
        relaxed, relaxed_speeds = map_in_chunks(
            lambda x: relax_fast_modes(f, x, np.asarray(RELAXATION_MARGIN / slow_steps)),
            starts,
            bytes_per_item=bytes_per_item,
            description="slow manifold",
            progress=progress,
        )

        def minimise(points: np.ndarray) -> list[np.ndarray]:
            found = map_in_chunks(
                lambda x: _minimise_speed(f, x, np.asarray(scale), max_steps),
                points,
                bytes_per_item=bytes_per_item,
                description="slow points",
                progress=progress,
                least_size=len(starts),
            )
            return [np.array(a) for a in found]

        ends, speeds, verdicts, downhill = minimise(starts)
        top = np.flatnonzero(verdicts == _NO_MINIMUM)
        if top.size:
            # Where the gradient vanishes but the Hessian has a negative eigenvalue, on along its eigenvector.
            again = minimise(ends[top] + 1e-3 * scale * downhill[top])
            ends[top], speeds[top], verdicts[top], _ = again
        finite = np.isfinite(relaxed).all(axis=1) & np.isfinite(relaxed_speeds)
        manifold = describe_manifold(f, relaxed[finite], relaxed_speeds[finite], slow_time, dt, num_samples)
        return _collect(f, ends, speeds, verdicts, scale, manifold)


class SlowPoints(Result):
    """Local minima of the speed that are not fixed points, slowest first, and the slow manifold.

    - `points`: the minima, `(K, N)`.
    - `speeds`: $|F(x) - x|_2$ there, in units of the state per step, `(K,)`.
    - `multipliers`: eigenvalues of DF by falling modulus, `(K, N)` complex.
    - `num_hits`: how many candidates ended at each, `(K,)`.
    - `num_fixed`: how many candidates ended at a fixed point instead.
    - `num_unconverged`: how many reached no minimum.
    - `manifold`: the description of the slow manifold; without points where every candidate ran into NaN.
    """

    points: Float[np.ndarray, "K N"]
    speeds: Float[np.ndarray, " K"]
    multipliers: Complex[np.ndarray, "K N"]
    num_hits: Int[np.ndarray, " K"]
    num_fixed: int
    num_unconverged: int
    manifold: "SlowManifold"

    def __len__(self) -> int:
        return len(self.points)

    def table(self) -> str:
        lines = [
            f"{len(self)} slow points; {self.num_fixed} candidates ended at fixed points, "
            f"{self.num_unconverged} at no minimum"
        ]
        if len(self):
            lines.append("  speed        largest |mu|  candidates")
            for k in range(min(len(self), 8)):
                largest = abs(self.multipliers[k, 0])
                lines.append(f"  {self.speeds[k]:<11.3g}  {largest:<12.5g}  {self.num_hits[k]}")
        lines.append(self.manifold.table())
        return "\n".join(lines)


@compiled
def _minimise_speed(
    f: Callable[[Array], Array], points: Any, scale: Any, max_steps: Any
) -> tuple[Array, Array, Array, Array]:
    """Local minima of q = |F(x) - x|^2 / 2 by Newton's method with Levenberg damping.

    Gives the ends, their speeds, what they are, and the direction of the least curvature of q there.
    """

    def q(x: Array) -> Array:
        return 0.5 * jnp.sum((f(x) - x) ** 2)

    def minimise(x0: Array) -> tuple[Array, Array, Array, Array]:
        eps = jnp.finfo(x0.dtype).eps

        def floor(x: Array) -> Array:
            return rounding_floor(jnp.maximum(jnp.max(jnp.abs(x)), scale), 0.0, x.dtype)

        def step(state: tuple) -> tuple:
            x, damping, num_steps, _ = state
            value, gradient = jax.value_and_grad(q)(x)
            hessian = jax.hessian(q)(x)
            size = jnp.max(jnp.sum(jnp.abs(hessian), axis=1))
            factor = jnp.linalg.cholesky(hessian + damping * size * jnp.eye(x.size))
            d = -jax.scipy.linalg.cho_solve((factor, True), gradient)
            new = x + d
            # Where the damped Hessian is not positive definite the factor is NaN, and the step is refused.
            accept = q(new) < value
            small = jnp.max(jnp.abs(d)) <= 64 * eps * jnp.maximum(jnp.max(jnp.abs(x)), 1e-3 * scale)
            # The gradient of q is DG^T G: below this it is rounding.
            flat = jnp.linalg.norm(gradient) <= 1e-12 * jnp.sqrt(2 * value * size)
            fixed = value <= floor(x) ** 2
            x = jnp.where(accept, new, x)
            damping = jnp.where(accept, damping / 10, jnp.maximum(10 * damping, 1e-12))
            return x, damping, num_steps + 1, small & jnp.isfinite(d).all() | flat | fixed | (damping > 1e8)

        start = (x0, jnp.asarray(1e-3, x0.dtype), 0, jnp.asarray(False))
        x, damping, _, done = jax.lax.while_loop(lambda s: ~s[3] & (s[2] < max_steps), step, start)
        gradient = jax.grad(q)(x)
        speed = jnp.linalg.norm(f(x) - x)
        # At a minimum the gradient DG^T G vanishes against |G|, to the square root of eps where DG is singular.
        level = jnp.linalg.norm(gradient) <= 1e-6 * speed
        at_root = speed <= jnp.sqrt(x.size) * floor(x)
        curvatures, directions = jnp.linalg.eigh(jax.hessian(q)(x))
        # Below this a negative curvature is rounding, or the error of the point.
        bent_down = curvatures[0] < -1e-6 * jnp.max(jnp.abs(curvatures))
        ended = done & (damping < 1e9)
        verdict = jnp.where(level, jnp.where(bent_down, _NO_MINIMUM, _MINIMUM), _UNFINISHED)
        verdict = jnp.where(at_root, _ROOT, verdict)
        return x, speed, jnp.where(ended, verdict, _UNFINISHED), directions[:, 0]

    return jax.vmap(minimise)(jnp.asarray(points))


def _collect(
    f: Callable[[Array], Array],
    ends: np.ndarray,
    speeds: np.ndarray,
    verdicts: Int[np.ndarray, " K"],
    scale: float,
    manifold: SlowManifold,
) -> SlowPoints:
    # A minimum of q where G is not zero has singular DG; one where G is rounding is a fixed point. Next to a fixed
    # point with singular DG the minimisation ends early: what is that slow is one for every purpose.
    sizes = np.maximum(np.max(np.abs(ends), axis=1), 1e-3 * scale)
    fixed = (verdicts == _ROOT) | (verdicts == _MINIMUM) & (speeds <= 1e-10 * sizes)
    slow = np.flatnonzero((verdicts == _MINIMUM) & ~fixed)
    # A minimum of q is known to about sqrt(eps) of its size only: q is flat to first order there.
    labels = group_points(ends[slow], 1e-6 * sizes[slow])
    first = np.array(
        [slow[labels == label][np.argmin(speeds[slow[labels == label]])] for label in np.unique(labels)], int
    )
    first = first[np.argsort(speeds[first])]
    hits = np.array([np.sum(labels == labels[np.flatnonzero(slow == k)[0]]) for k in first], int)
    points = ends[first]
    if len(points):
        jacobians = map_in_chunks(
            lambda x: jacobians_at(f, x),
            points,
            bytes_per_item=16 * points.shape[1] ** 2,
            description="",
            progress=False,
        )
        multipliers = linearize_roots(points, speeds[first], jacobians, hits, scale).multipliers
    else:
        multipliers = np.zeros(points.shape, complex)
    return SlowPoints(
        points, speeds[first], multipliers, hits, int(fixed.sum()), int(len(ends) - fixed.sum() - len(slow)), manifold
    )
