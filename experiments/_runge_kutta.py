"""A flow of many units as a map of short steps, all of which are products of matrices."""

from collections.abc import Callable

import equinox as eqx
import jax


class RungeKutta(eqx.Module):
    """A step of length dt of dx/dt = v(x), or v(x, u) with u held, by the method of Runge and Kutta of order 4.

    `rnndyn.time_map` keeps a tolerance instead, with steps of its own for each state: where many states of large
    networks go side by side, and averages over chaos are wanted, equal steps are quicker and good enough.
    """

    field: Callable[..., jax.Array]
    dt: float = eqx.field(static=True)

    def __call__(self, x: jax.Array, *inputs: jax.Array) -> jax.Array:
        h, v = self.dt, self.field
        first = v(x, *inputs)
        second = v(x + h / 2 * first, *inputs)
        third = v(x + h / 2 * second, *inputs)
        fourth = v(x + h * third, *inputs)
        return x + h / 6 * (first + 2 * second + 2 * third + fourth)
