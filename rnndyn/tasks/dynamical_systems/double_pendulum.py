"""The double pendulum: chaos without friction."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._validation import check_at_least


class DoublePendulum(eqx.Module):
    r"""The vector field of two equal point masses on two equal rods, state $(\theta_1, \theta_2, p_1, p_2)$.

    With angles from the vertical and $p_i$ the conjugate momenta over $m l^2$, $\Delta = \theta_1 - \theta_2$,
    $D = 1 + \sin^2\Delta$ and $g$ over the length of a rod,

    $$\dot\theta_1 = \frac{p_1 - p_2 \cos\Delta}{D}, \qquad \dot\theta_2 = \frac{2 p_2 - p_1 \cos\Delta}{D}, \qquad
    \dot p_1 = -\dot\theta_1 \dot\theta_2 \sin\Delta - 2 g \sin\theta_1, \qquad
    \dot p_2 = \dot\theta_1 \dot\theta_2 \sin\Delta - g \sin\theta_2$$

    Hamiltonian: `energy` is conserved and exponents come in pairs $\pm\lambda$; how chaotic it is depends on the start,
    so there are no published exponents. Angles are not wrapped: after a full turn they differ by $2\pi$
    (`rnndyn.on_torus`, or observe sines and cosines).

    ??? cite "Reference"
        T. Shinbrot, C. Grebogi, J. Wisdom & J. A. Yorke (1992), "Chaos in a double pendulum", American Journal of
        Physics 60, 491-499.
    """

    gravity: float = 1.0
    start_angle: float = 2.0
    """Of both rods, at rest, give or take a tenth: 2 is above the horizontal and chaotic."""

    def __check_init__(self) -> None:
        check_at_least("gravity", self.gravity, 0)

    @property
    def state_size(self) -> int:
        """Four."""
        return 4

    @property
    def dt(self) -> float:
        """A time between samples, about a thirtieth of a small swing."""
        return 0.2

    @property
    def published(self) -> None:
        """None: the exponents are those of an orbit, not of the system."""

    def start(self, key: PRNGKeyArray) -> Float[Array, " 4"]:
        """Both rods at about `start_angle`, at rest."""
        angles = self.start_angle + 0.1 * jax.random.normal(key, (2,))
        return jnp.concatenate([angles, jnp.zeros_like(angles)])

    def energy(self, x: Float[Array, " 4"]) -> Float[Array, ""]:
        """The energy over $m l^2$, conserved."""
        angle1, angle2, p1, p2 = x
        difference = angle1 - angle2
        kinetic = (p1**2 + 2 * p2**2 - 2 * p1 * p2 * jnp.cos(difference)) / (2 * (1 + jnp.sin(difference) ** 2))
        return kinetic - self.gravity * (2 * jnp.cos(angle1) + jnp.cos(angle2))

    def __call__(self, x: Float[Array, " 4"]) -> Float[Array, " 4"]:
        # Hamilton's equations of `energy`: what it conserves cannot disagree with it.
        slope = jax.grad(self.energy)(x)
        return jnp.concatenate([slope[2:], -slope[:2]])
