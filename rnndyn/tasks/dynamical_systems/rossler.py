"""Rössler's system: the simplest continuous chaos, one folded band."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.tasks.dynamical_systems.published import Published


class Rossler(eqx.Module):
    r"""The vector field of Rössler (1976), three variables, chaotic at its default parameters.

    $$\dot x = -y - z, \qquad \dot y = x + a y, \qquad \dot z = b + z (x - c)$$

    ??? cite "Reference"
        O. E. Rössler (1976), "An equation for continuous chaos", Physics Letters A 57, 397-398.
        Exponents: J. C. Sprott (2003), *Chaos and Time-Series Analysis*, Oxford University Press.
    """

    a: float = 0.2
    b: float = 0.2
    c: float = 5.7

    @property
    def state_size(self) -> int:
        """Three."""
        return 3

    @property
    def dt(self) -> float:
        """A time between samples, a thirtieth of a turn."""
        return 0.2

    @property
    def published(self) -> Published:
        """Of the default parameters."""
        return Published((0.0714, 0.0, -5.3943), 0.003, "Sprott (2003), Chaos and Time-Series Analysis", 2.0132, 0.001)

    def start(self, key: PRNGKeyArray) -> Float[Array, " 3"]:
        """A random state from which the attractor is reached."""
        return jnp.array([-5.0, 0.0, 0.0]) + 0.5 * jax.random.normal(key, (3,))

    def __call__(self, x: Float[Array, " 3"]) -> Float[Array, " 3"]:
        return jnp.stack([-x[1] - x[2], x[0] + self.a * x[1], self.b + x[2] * (x[0] - self.c)])
