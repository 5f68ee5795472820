"""Oscillators of one degree of freedom: Duffing's, with a force, and van der Pol's, without."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.tasks.dynamical_systems.published import Published


class Duffing(eqx.Module):
    r"""The vector field of the forced Duffing oscillator, with the phase of the force as third variable.

    $$\dot x = v, \qquad \dot v = -\delta v - \alpha x - \beta x^3 + \gamma \cos\theta, \qquad \dot\theta = \omega$$

    By default that of Ueda: no linear force, chaotic. `alpha=-1, delta=0.25, gamma=0.4` has two wells. The phase grows
    without bound; to learn from samples, take `observe=(0, 1)`, or a function that gives its cosine and sine. The
    exponents sum to $-\delta$.

    ??? cite "Reference"
        Y. Ueda (1979), "Randomly transitional phenomena in the system governed by Duffing's equation", Journal of
        Statistical Physics 20, 181-196. Exponents: J. C. Sprott (2003), *Chaos and Time-Series Analysis*.
    """

    delta: float = 0.05
    alpha: float = 0.0
    beta: float = 1.0
    gamma: float = 7.5
    omega: float = 1.0

    @property
    def state_size(self) -> int:
        """Three, the phase of the force among them."""
        return 3

    @property
    def dt(self) -> float:
        """A time between samples, about a thirtieth of a period of the force."""
        return 0.2

    @property
    def published(self) -> Published:
        """Of the default parameters."""
        return Published((0.1034, 0.0, -0.1534), 0.005, "Sprott (2003), Chaos and Time-Series Analysis", 2.6741, 0.02)

    def start(self, key: PRNGKeyArray) -> Float[Array, " 3"]:
        """A random state at phase 0."""
        return jnp.array([2.5, 0.0, 0.0]) + jnp.array([0.5, 0.5, 0.0]) * jax.random.normal(key, (3,))

    def __call__(self, x: Float[Array, " 3"]) -> Float[Array, " 3"]:
        position, velocity, phase = x
        force = self.gamma * jnp.cos(phase) - self.alpha * position - self.beta * position**3
        # Of the dtype of the state, whatever the frequency is.
        return jnp.stack([velocity, force - self.delta * velocity, self.omega + 0 * phase])


class VanDerPol(eqx.Module):
    r"""The vector field of van der Pol's oscillator: one stable limit cycle around an unstable equilibrium.

    $$\dot x = v, \qquad \dot v = \mu (1 - x^2)\, v - x$$

    The largest exponent is 0, as of every limit cycle; the period at the default $\mu = 1$ is 6.663.

    ??? cite "Reference"
        B. van der Pol (1926), "On relaxation-oscillations", Philosophical Magazine 2, 978-992.
    """

    mu: float = 1.0

    @property
    def state_size(self) -> int:
        """Two."""
        return 2

    @property
    def dt(self) -> float:
        """A time between samples, about a thirtieth of a period."""
        return 0.2

    @property
    def published(self) -> Published:
        """Exact for the first exponent."""
        return Published((0.0,), 0.002, "exact: the direction along a limit cycle")

    def start(self, key: PRNGKeyArray) -> Float[Array, " 2"]:
        """A random state."""
        return 2 * jax.random.normal(key, (2,))

    def __call__(self, x: Float[Array, " 2"]) -> Float[Array, " 2"]:
        return jnp.stack([x[1], self.mu * (1 - x[0] ** 2) * x[1] - x[0]])
