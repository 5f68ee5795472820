"""Two maps of the plane: Hénon's and Ikeda's."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.tasks.dynamical_systems.published import Published


class Henon(eqx.Module):
    r"""Hénon's map, chaotic at its default parameters.

    $$x' = 1 - a x^2 + y, \qquad y' = b x$$

    The exponents sum to $\ln |b|$.

    ??? cite "Reference"
        M. Hénon (1976), "A two-dimensional mapping with a strange attractor", Communications in Mathematical Physics
        50, 69-77. Exponents: J. C. Sprott (2003), *Chaos and Time-Series Analysis*, Oxford University Press.
    """

    a: float = 1.4
    b: float = 0.3

    @property
    def state_size(self) -> int:
        """Two."""
        return 2

    @property
    def dt(self) -> None:
        """`None`: a map."""

    @property
    def published(self) -> Published:
        """Of the default parameters, per step."""
        return Published((0.41922, -1.62319), 0.001, "Sprott (2003), Chaos and Time-Series Analysis", 1.25827, 0.001)

    def start(self, key: PRNGKeyArray) -> Float[Array, " 2"]:
        """A random state in the basin of the attractor."""
        return 0.1 * jax.random.uniform(key, (2,), minval=-1.0)

    def __call__(self, x: Float[Array, " 2"]) -> Float[Array, " 2"]:
        return jnp.stack([1 - self.a * x[0] ** 2 + x[1], self.b * x[0]])


class Ikeda(eqx.Module):
    r"""Ikeda's map of light in a ring cavity, chaotic at its default parameters.

    $$z' = a + b z \exp\Bigl(i \bigl(\kappa - \frac{p}{1 + |z|^2}\bigr)\Bigr), \qquad z = x + i y$$

    The exponents sum to $2 \ln |b|$.

    ??? cite "Reference"
        K. Ikeda (1979), "Multiple-valued stationary state and its instability of the transmitted light by a ring
        cavity system", Optics Communications 30, 257-261. Exponents: J. C. Sprott (2003), *Chaos and Time-Series
        Analysis*, Oxford University Press.
    """

    a: float = 1.0
    b: float = 0.9
    kappa: float = 0.4
    p: float = 6.0

    @property
    def state_size(self) -> int:
        """Two."""
        return 2

    @property
    def dt(self) -> None:
        """`None`: a map."""

    @property
    def published(self) -> Published:
        """Of the default parameters, per step."""
        return Published((0.5076, -0.71832), 0.003, "Sprott (2003), Chaos and Time-Series Analysis", 1.7066, 0.003)

    def start(self, key: PRNGKeyArray) -> Float[Array, " 2"]:
        """A random state in the basin of the attractor."""
        return 0.1 * jax.random.uniform(key, (2,), minval=-1.0)

    def __call__(self, x: Float[Array, " 2"]) -> Float[Array, " 2"]:
        phase = self.kappa - self.p / (1 + x @ x)
        turned = jnp.stack(
            [jnp.cos(phase) * x[0] - jnp.sin(phase) * x[1], jnp.sin(phase) * x[0] + jnp.cos(phase) * x[1]]
        )
        return jnp.stack([self.a + self.b * turned[0], self.b * turned[1]])
