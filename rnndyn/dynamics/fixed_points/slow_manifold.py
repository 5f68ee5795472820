"""The slow manifold: what is left when fast modes have relaxed, its modes, time constants and drift."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from rnndyn._programs import compiled
from rnndyn.dynamics.fixed_points.verdicts import SlowVerdict
from rnndyn.dynamics.numerics.deduplication import farthest_points
from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.results import Judged, first_verdict, is_verdict

RELAXATION_STEPS = 12
"""Newton steps in the fast directions; they converge quadratically, but which ones are fast changes on the way."""


class SlowManifold(Judged):
    """The set onto which fast modes relax, from a sample of points on it.

    - `dimension`: the median number of slow modes over the sample.
    - `slow_time`: the time constant beyond which a mode counts as slow, in units of `dt`.
    - `dt`: the time of one step; 1 where the map does not tell.
    - `points`: the sample, spread out, `(M, N)`.
    - `drift`: the speed $|F(x) - x|_2$ along the manifold at the sample, `(M,)`.
    - `multipliers`: eigenvalues of DF at the sample, nearest to 1 first, `(M, N)` complex.
    - `modes`: right eigenvectors of the first `dimension` multipliers, `(M, N, dimension)` complex.
    - `selection`: their left eigenvectors, scaled so that left times right is the identity, `(M, dimension, N)`: what a
        perturbation moves along the manifold.
    - `variance_fractions`: shares of the variance of all relaxed candidates along their principal components, `(N,)`.
    """

    dimension: int
    slow_time: float
    dt: float
    points: Float[np.ndarray, "M N"]
    drift: Float[np.ndarray, " M"]
    multipliers: Complex[np.ndarray, "M N"]
    modes: Complex[np.ndarray, "M N D"]
    selection: Complex[np.ndarray, "M D N"]
    variance_fractions: Float[np.ndarray, " N"]

    @property
    def time_constants(self) -> Float[np.ndarray, "M D"]:
        """dt / |ln |mu|| of the slow modes."""
        with np.errstate(divide="ignore"):
            return self.dt / np.abs(np.log(np.abs(self.multipliers[:, : self.dimension])))

    @property
    def num_slow(self) -> Int[np.ndarray, " M"]:
        """The number of slow modes at each point of the sample."""
        return np.sum(np.abs(1 - self.multipliers) < self.dt / self.slow_time, axis=1)

    @property
    def travel(self) -> float:
        """How far the points drift within `slow_time`, as a fraction of the extent of the sample: the median.

        Infinite for a sample without extent that moves.
        """
        if len(self.points) == 0:
            return float("nan")
        way = float(np.median(self.drift)) * self.slow_time / self.dt
        extent = float(np.linalg.norm(np.ptp(self.points, axis=0)))
        return way / extent if extent > 0 else (np.inf if way > 0 else 0.0)

    @property
    def result(self) -> Any:
        """Whether there is one, a `SlowVerdict`: slow modes, and a drift within `slow_time` below the extent."""
        return first_verdict(
            (len(self.points) == 0, SlowVerdict.not_finite),
            (self.dimension == 0, SlowVerdict.no_slow_modes),
            (not self.travel < 1, SlowVerdict.drifting),
            otherwise=SlowVerdict.slow,
        )

    @property
    def is_slow(self) -> bool:
        """Whether there is a slow manifold, as `result` says."""
        return is_verdict(self.result, SlowVerdict.slow)

    def table(self) -> str:
        unit = "steps" if self.dt == 1 else "units of time"
        if is_verdict(self.result, SlowVerdict.not_finite):
            return f"  slow manifold {self.message}"
        if self.dimension == 0:
            return f"  no slow manifold: most points have no mode slower than {self.slow_time:g} {unit}"
        if not self.is_slow:
            return (
                f"  no slow manifold: {self.dimension} modes are slower than {self.slow_time:g} {unit}, but in that "
                f"time the points drift by {self.travel:.2g} of their extent"
            )
        times = np.median(self.time_constants, axis=0)
        shares = ", ".join(f"{100 * share:.1f} %" for share in self.variance_fractions[: self.dimension + 1])
        return (
            f"  slow manifold of dimension {self.dimension} ({len(self.points)} points): median time constants "
            + ", ".join(f"{time:.3g}" for time in times)
            + f" {unit}, drift within {self.slow_time:g} {unit} {self.travel:.2g} of the extent\n"
            + f"  variance along its principal components: {shares}, ..."
        )


@compiled
def relax_fast_modes(f: Callable[[Array], Array], points: Any, threshold: Array | np.ndarray) -> tuple[Array, Array]:
    """Newton steps along the singular directions of DG beyond `threshold`."""

    def relax(x: Array) -> tuple[Array, Array]:
        def step(_: Any, x: Array) -> Array:
            g = f(x) - x
            u, sizes, vt = jnp.linalg.svd(jax.jacfwd(f)(x) - jnp.eye(x.size))
            fast = sizes > threshold
            rest = jnp.where(fast, u.T @ g, 0)
            move = -vt.T @ (rest / jnp.where(fast, sizes, 1))
            # Judged by what is to be settled: the fast part of G. A step that overshoots is halved, twice at most;
            # where even that is worse, the point stays.
            left = lambda y: jnp.linalg.norm(jnp.where(fast, u.T @ (f(y) - y), 0))
            shares = jnp.array([1.0, 0.5, 0.25, 0.0])
            worse = jax.vmap(lambda share: ~(left(x + share * move) <= jnp.linalg.norm(rest)))(shares[:-1])
            return x + shares[jnp.sum(jnp.cumprod(worse))] * move

        x = jax.lax.fori_loop(0, RELAXATION_STEPS, step, x)
        return x, jnp.linalg.norm(f(x) - x)

    return jax.vmap(relax)(jnp.asarray(points))


@compiled
def jacobians_at(f: Callable[[Array], Array], points: Any) -> Array:
    """DF at each of several points, `(K, N, N)`."""
    return jax.vmap(jax.jacfwd(f))(jnp.asarray(points))


def describe_manifold(
    f: Callable[[Array], Array], relaxed: np.ndarray, speeds: np.ndarray, slow_time: float, dt: float, num_samples: int
) -> SlowManifold:
    """The slow manifold that relaxed candidates lie on; without points where there are none."""
    if len(relaxed) == 0:
        none = np.zeros((0, relaxed.shape[1]))
        modes = np.zeros((0, relaxed.shape[1], 0), complex)
        return SlowManifold(
            0,
            float(slow_time),
            dt,
            none,
            np.zeros(0),
            none.astype(complex),
            modes,
            modes.swapaxes(1, 2),
            np.zeros(relaxed.shape[1]),
        )
    chosen = farthest_points(relaxed, num_samples)
    points = relaxed[chosen]
    jacobians = map_in_chunks(
        lambda x: jacobians_at(f, x), points, bytes_per_item=16 * points.shape[1] ** 2, description="", progress=False
    )
    values, right = np.linalg.eig(jacobians)
    order = np.argsort(np.abs(1 - values), axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1).astype(complex)
    right = np.take_along_axis(right, order[:, None, :], axis=2).astype(complex)
    dimension = int(np.median(np.sum(np.abs(1 - values) < dt / slow_time, axis=1)))
    left = np.linalg.pinv(right)
    centred = relaxed - relaxed.mean(axis=0)
    variances = np.zeros(points.shape[1])
    singular = np.linalg.svd(centred, compute_uv=False) ** 2
    variances[: len(singular)] = singular / max(singular.sum(), np.finfo(float).tiny)
    return SlowManifold(
        dimension,
        float(slow_time),
        dt,
        points,
        speeds[chosen],
        values,
        right[:, :, :dimension],
        left[:, :dimension, :],
        variances,
    )
