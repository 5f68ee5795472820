"""The two systems of Lorenz: convection in three modes, and a ring of weather stations."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.dynamical_systems.published import Published


class Lorenz63(eqx.Module):
    r"""The vector field of Lorenz (1963), three variables, chaotic at its default parameters.

    $$\dot x = \sigma (y - x), \qquad \dot y = x (\rho - z) - y, \qquad \dot z = x y - \beta z$$

    Equilibria for $\rho > 1$: the origin and $(\pm c, \pm c, \rho - 1)$ with $c = \sqrt{\beta (\rho - 1)}$; at the
    default parameters all three are saddles, with one, two and two unstable directions. The exponents sum to
    $-(\sigma + 1 + \beta)$.

    ??? cite "Reference"
        E. N. Lorenz (1963), "Deterministic nonperiodic flow", Journal of the Atmospheric Sciences 20, 130-141.
        Exponents: J. C. Sprott (2003), *Chaos and Time-Series Analysis*, Oxford University Press.
    """

    sigma: float = 10.0
    rho: float = 28.0
    beta: float = 8 / 3

    @property
    def state_size(self) -> int:
        """Three."""
        return 3

    @property
    def dt(self) -> float:
        """A time between samples at which most studies take them."""
        return 0.05

    @property
    def published(self) -> Published:
        """Of the default parameters."""
        return Published((0.9056, 0.0, -14.5723), 0.002, "Sprott (2003), Chaos and Time-Series Analysis", 2.062, 0.001)

    @property
    def equilibria(self) -> Float[Array, "3 3"]:
        """The origin and the middles of the two wings, rows; for rho > 1."""
        c = jnp.sqrt(self.beta * (self.rho - 1))
        return jnp.array([[0.0, 0.0, 0.0], [c, c, self.rho - 1], [-c, -c, self.rho - 1]])

    def start(self, key: PRNGKeyArray) -> Float[Array, " 3"]:
        """A random state from which the attractor is reached."""
        return jnp.array([0.0, 0.0, 25.0]) + 5 * jax.random.normal(key, (3,))

    def __call__(self, x: Float[Array, " 3"]) -> Float[Array, " 3"]:
        return jnp.stack(
            [
                self.sigma * (x[1] - x[0]),
                x[0] * (self.rho - x[2]) - x[1],
                x[0] * x[1] - self.beta * x[2],
            ]
        )


class Lorenz96(eqx.Module):
    r"""The vector field of Lorenz (1996), N sites on a ring, driven by a constant force.

    $$\dot x_i = (x_{i+1} - x_{i-2})\, x_{i-1} - x_i + F, \qquad i \text{ modulo } N$$

    Chaotic at the default force. The exponents sum to $-N$. `published` holds for 40 sites only.

    ??? cite "Reference"
        E. N. Lorenz (1996), "Predictability: a problem partly solved", ECMWF Seminar on Predictability; E. N. Lorenz &
        K. A. Emanuel (1998), "Optimal sites for supplementary weather observations", Journal of the Atmospheric
        Sciences 55, 399-414.
    """

    num_sites: int = eqx.field(static=True, default=40)
    force: float = 8.0

    def __check_init__(self) -> None:
        check_at_least("num_sites", self.num_sites, 4)

    @property
    def state_size(self) -> int:
        """N."""
        return self.num_sites

    @property
    def dt(self) -> float:
        """A time between samples: 6 hours, where the unit of time is 5 days."""
        return 0.05

    @property
    def published(self) -> Published | None:
        """Of 40 sites: a doubling time of 2.1 days, ln 2 / 0.42 = 1.65, and the dimension."""
        if self.num_sites != 40:
            return None
        return Published((1.65,), 0.05, "Lorenz & Emanuel (1998): errors double in 2.1 days", 27.1, 0.5)

    def start(self, key: PRNGKeyArray) -> Float[Array, " N"]:
        """A random state from which the attractor is reached."""
        return self.force + jax.random.normal(key, (self.num_sites,))

    def __call__(self, x: Float[Array, " N"]) -> Float[Array, " N"]:
        return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + self.force
