"""Angles: coordinates that come back after a period, and differences, sums and comparisons that respect it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float


def on_torus(f: Callable[[Array], Array], period: ArrayLike) -> "TorusMap":
    r"""A map some or all of whose coordinates are angles, $x_i \equiv x_i + P_i$.

    Searches (`find_fixed_points`, `find_cycles`, `find_attractors`) of the result take differences modulo the
    periods, $x_i - y_i - P_i \operatorname{round}((x_i - y_i) / P_i)$, so that a state and its copy on the other side
    of the cut are one. Points they return lie in $[0, P_i)$.

    ```python
    cat = rd.on_torus(lambda x: jnp.array([[2.0, 1.0], [1.0, 1.0]]) @ x, 1.0)
    rd.find_cycles(cat, candidates, range(1, 8)).counts        # {1: 1, 2: 2, 3: 5, 4: 10, ...}
    ```

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`, with $F(x + P_i e_i) \equiv F(x)$. Whether it wraps its own result does not matter.
    - `period`: the periods $P_i$, one number for all or shape `(N,)`; `inf` for a coordinate that is no angle.

    **Returns:** a `TorusMap`: call it on states `(N,)`.

    **Raises:** `ValueError` for a period that is not positive, or none that is finite.
    """
    periods = np.asarray(period, np.float64)
    if periods.ndim > 1 or not np.all(periods > 0) or not np.isfinite(periods).any():
        raise ValueError(
            f"period: expected a positive number or one per coordinate, inf for what is no angle, got {period!r}."
        )
    return TorusMap(f, periods)


class TorusMap(eqx.Module):
    """A map on angles, $x \\mapsto F(x) \\bmod p$, made by `on_torus`: (N,) -> (N,), angles between 0 and their period.

    Drivers take differences of its angles the short way round, so that points on either side of the cut are one.
    `region` is the box of F without bounds for angles, or `None`. Periods that are no positive numbers, or do not fit
    the state, are a `ValueError` of `on_torus`. Units of angles are those of p (radians where p is 2 pi).

    Reference: A. Katok & B. Hasselblatt (1995), *Introduction to the modern theory of dynamical systems*.
    """

    f: Callable[[Array], Array]
    """F, (N,) -> (N,)."""
    period: Float[Array | np.ndarray, "*N"]
    """p: one period for all coordinates, or one for each; `inf` for a coordinate that is no angle."""

    @property
    def region(self) -> Any:
        """The box of `f`, if it has one, without the bounds of the angles."""
        region = getattr(self.f, "region", None)
        if region is None:
            return None
        is_angle = np.isfinite(self.period)
        lower, upper = (jnp.asarray(bound) for bound in region)
        return jnp.where(is_angle, -jnp.inf, lower), jnp.where(is_angle, jnp.inf, upper)

    def __call__(self, x: Array) -> Array:
        return wrapped(self.f(x), jnp.asarray(self.period, x.dtype))


def period_of(f: Any, size: int) -> Float[np.ndarray, " N"] | None:
    """The periods of the coordinates of a map that has angles, or `None`."""
    period = getattr(f, "period", None)
    if period is None:
        return None
    periods = np.asarray(period, np.float64)
    if periods.ndim and periods.shape != (size,):
        raise ValueError(f"period: expected one number or shape ({size},), one per entry, got shape {periods.shape}.")
    return np.broadcast_to(periods, (size,)).copy()


def wrapped(x: Any, period: Any) -> Any:
    """`x` with its angles in [0, P)."""
    if period is None:
        return x
    xp = jnp if isinstance(x, jax.Array) else np
    is_angle = xp.isfinite(period)
    divisor = xp.where(is_angle, period, 1)
    turned = x - divisor * xp.floor(x / divisor)
    # What lies below zero by less than the spacing of floats is rounded up to the period itself.
    return xp.where(is_angle, xp.where(turned >= divisor, 0, turned), x)


def difference(a: Any, b: Any, period: Any) -> Any:
    """a - b, for angles the shortest way round."""
    if period is None:
        return a - b
    xp = jnp if isinstance(a, jax.Array) or isinstance(b, jax.Array) else np
    apart = a - b
    is_angle = xp.isfinite(period)
    divisor = xp.where(is_angle, period, 1)
    return xp.where(is_angle, apart - divisor * xp.round(apart / divisor), apart)


def embedded(points: Float[np.ndarray, "*K N"], period: Float[np.ndarray, " N"] | None) -> Float[np.ndarray, "*K M"]:
    """The points with every angle as a point of a circle of circumference P: copies at the cut become one.

    Small distances are kept and none grows, so what is within a tolerance stays so.
    """
    if period is None:
        return points
    is_angle = np.isfinite(period)
    radius = period[is_angle] / (2 * np.pi)
    turn = points[..., is_angle] / radius
    return np.concatenate([points[..., ~is_angle], radius * np.cos(turn), radius * np.sin(turn)], axis=-1)
