"""Chua's circuit: chaos of a piecewise-linear resistor."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.tasks.dynamical_systems.published import Published


class Chua(eqx.Module):
    r"""The vector field of Chua's circuit, three variables, piecewise linear: a double scroll by default.

    $$\dot x = \alpha (y - x - g(x)), \qquad \dot y = x - y + z, \qquad \dot z = -\beta y, \qquad
    g(x) = m_1 x + \tfrac12 (m_0 - m_1) (|x + 1| - |x - 1|)$$

    Equilibria by default: the origin and $(\pm 1.5, 0, \mp 1.5)$, from $g(x) = -x$.

    ??? cite "Reference"
        T. Matsumoto, L. O. Chua & M. Komuro (1985), "The double scroll", IEEE Transactions on Circuits and Systems 32,
        797-818. Exponents: J. C. Sprott (2003), *Chaos and Time-Series Analysis*, Oxford University Press.
    """

    alpha: float = 9.0
    beta: float = 100 / 7
    m0: float = -8 / 7
    m1: float = -5 / 7

    @property
    def state_size(self) -> int:
        """Three."""
        return 3

    @property
    def dt(self) -> float:
        """A time between samples, a twenty-fifth of a turn."""
        return 0.1

    @property
    def published(self) -> Published:
        """Of the default parameters."""
        return Published((0.3271, 0.0, -2.5197), 0.02, "Sprott (2003), Chaos and Time-Series Analysis", 2.1298, 0.005)

    def start(self, key: PRNGKeyArray) -> Float[Array, " 3"]:
        """A random state from which the attractor is reached."""
        return jnp.array([0.1, 0.0, 0.0]) + 0.02 * jax.random.normal(key, (3,))

    def __call__(self, x: Float[Array, " 3"]) -> Float[Array, " 3"]:
        current = self.m1 * x[0] + 0.5 * (self.m0 - self.m1) * (jnp.abs(x[0] + 1) - jnp.abs(x[0] - 1))
        return jnp.stack([self.alpha * (x[1] - x[0] - current), x[0] - x[1] + x[2], -self.beta * x[1]])
