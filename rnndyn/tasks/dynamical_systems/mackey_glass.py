"""The delay equation of Mackey and Glass, as a map of the values that it remembers."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.dynamical_systems.published import Published


class MackeyGlass(eqx.Module):
    r"""The delay equation of Mackey & Glass (1977) on a grid, as a map of `num_delay` + 1 values, the newest last.

    $$\dot x(t) = \beta \frac{x(t - \tau)}{1 + x(t - \tau)^n} - \gamma x(t)$$

    One step advances time by $h = \tau / d$, with $d$ = `num_delay`. The decay is solved exactly and the delayed
    drive $g$ is taken as linear between grid points, of which both are known, so that no step is implicit:

    $$x_{k+1} = e^{-\gamma h} x_k +
    \int_0^h e^{-\gamma (h - s)} \Bigl(g_{k-d} + \frac sh (g_{k-d+1} - g_{k-d})\Bigr) ds, \quad
    g_j = \beta \frac{x_j}{1 + x_j^n}$$

    The error is of order $h^2$. Observe the newest value, `observe=[-1]`.

    ??? cite "Reference"
        M. C. Mackey & L. Glass (1977), "Oscillation and chaos in physiological control systems", Science 197, 287-289.
        Dimension: J. D. Farmer (1982), "Chaotic attractors of an infinite-dimensional dynamical system", Physica D 4,
        366-393.
    """

    beta: float = 0.2
    gamma: float = 0.1
    power: float = 10.0
    delay: float = 17.0
    num_delay: int = eqx.field(static=True, default=34)

    def __check_init__(self) -> None:
        check_at_least("num_delay", self.num_delay, 1)
        for name, value in (("delay", self.delay), ("gamma", self.gamma)):
            if not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}.")

    @property
    def state_size(self) -> int:
        """`num_delay` + 1."""
        return self.num_delay + 1

    @property
    def dt(self) -> None:
        """`None`: a map."""

    @property
    def time_step(self) -> float:
        """The time of one step, $h$; pass it as `dt` where growth is to be per unit of time."""
        return self.delay / self.num_delay

    @property
    def published(self) -> Published:
        """Of the default parameters and a fine grid; of the exponents only that the second is zero."""
        return Published((), 0.0, "Farmer (1982), by the formula of Kaplan and Yorke", 2.1, 0.1)

    def start(self, key: PRNGKeyArray) -> Float[Array, " D"]:
        """A constant history at a random level."""
        return jnp.full(self.num_delay + 1, jax.random.uniform(key, minval=0.8, maxval=1.2))

    def __call__(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        step = self.time_step
        drive = self.beta * x[:2] / (1 + x[:2] ** self.power)
        decay = jnp.exp(-self.gamma * step)
        # The integrals of exp(-gamma (h - s)) and of s exp(-gamma (h - s)) / h.
        whole = (1 - decay) / self.gamma
        late = (1 - whole / step) / self.gamma
        new = decay * x[-1] + whole * drive[0] + late * (drive[1] - drive[0])
        return jnp.concatenate([x[1:], new[None].astype(x.dtype)])
