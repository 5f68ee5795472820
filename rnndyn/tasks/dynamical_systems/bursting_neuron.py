"""A bursting neuron: fast spikes that a slow variable switches on and off."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.tasks.dynamical_systems.published import Published


class HindmarshRose(eqx.Module):
    r"""The vector field of a bursting neuron, three variables: potential, recovery, slow adaptation.

    $$\dot x = y - a x^3 + b x^2 - z + I, \qquad \dot y = c - d x^2 - y, \qquad \dot z = r \bigl(s (x - x_0) - z\bigr)$$

    At the default current bursts of spikes come at chaotic times; at `current=2` they are regular. The exponents sum to
    the mean of $-3 a x^2 + 2 b x - 1 - r$.

    ??? cite "Reference"
        J. L. Hindmarsh & R. M. Rose (1984), "A model of neuronal bursting using three coupled first order differential
        equations", Proceedings of the Royal Society B 221, 87-102.
    """

    a: float = 1.0
    b: float = 3.0
    c: float = 1.0
    d: float = 5.0
    r: float = 0.006
    s: float = 4.0
    resting: float = -1.6
    current: float = 3.25

    @property
    def state_size(self) -> int:
        """Three."""
        return 3

    @property
    def dt(self) -> float:
        """A time between samples: some ten of them in a spike."""
        return 0.5

    @property
    def published(self) -> Published:
        """Of the default parameters; not printed anywhere that we know of, and computed here in plain NumPy."""
        return Published(
            (0.0136, 0.0, -8.390),
            0.001,
            "not published: 200 orbits over 1250 units of time, plain NumPy",
            2.0016,
            0.0002,
        )

    def start(self, key: PRNGKeyArray) -> Float[Array, " 3"]:
        """A random state from which the bursts are reached."""
        return jnp.array([-1.0, 0.0, 3.0]) + 0.2 * jax.random.normal(key, (3,))

    def __call__(self, x: Float[Array, " 3"]) -> Float[Array, " 3"]:
        potential, recovery, slow = x
        return jnp.stack(
            [
                recovery - self.a * potential**3 + self.b * potential**2 - slow + self.current,
                self.c - self.d * potential**2 - recovery,
                self.r * (self.s * (potential - self.resting) - slow),
            ]
        )
