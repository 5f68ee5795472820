"""A rate network whose synapses facilitate and depress."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.networks.cells._bounds import input_bounds
from rnndyn.networks.cells._times import Time, check_times, check_variables, fixed_or_trained, longest_step
from rnndyn.networks.cells._weights import build_with_weights, draw, sizes_of
from rnndyn.networks.cells.activations import Activation, activation_function, activation_range
from rnndyn.networks.cells.checks import check_input, check_sizes
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers

PlasticityState = tuple[Float[Array, " H"], Float[Array, " H"], Float[Array, " H"]]


class ShortTermPlasticityCell(eqx.Module):
    """One step of a rate network with short-term synaptic plasticity, α = dt/τ, α_x = dt/τ_x, α_u = dt/τ_u:

        x' = clip(x + α_x (1 - x) - ρ dt u x h),           what is left of each unit's transmitter, in [0, 1]
        u' = clip(u + α_u (U - u) + ρ dt U (1 - u) h),     the fraction of it that is used, in [0, 1]
        h' = φ((1 - α) h + α (W_ih v + W_hh (u' x' h) + b) + ξ)

    with input v. The state is the triple `(h, x, u)`, each (H,). A synapse with a long τ_u and a small U facilitates,
    one with a long τ_x and a large U depresses; a memory can then sit in x and u while h is silent. ρ turns rates into
    events per unit of time: 0.001 for h in spikes per second and times in milliseconds. ξ = √(2 α) σ η enters with a
    `key` only.

    This is the network of the reference and its code: units are rectified, and every other one facilitates (τ_x 200,
    τ_u 1500, U 0.15) or depresses (1500, 200, 0.45).

    Reference: Masse, Yang, Song, Wang and Freedman, 2019, "Circuit mechanisms for the maintenance and manipulation of
    information in working memory"; Mongillo, Barak and Tsodyks, 2008, "Synaptic theory of working memory".
    """

    weight_ih: Float[Array, "H I"]
    weight_hh: Float[Array, "H H"]
    bias: Float[Array, " H"]
    tau: Time
    tau_x: Time | tuple[float, ...]
    tau_u: Time | tuple[float, ...]
    use: Time | tuple[float, ...]
    dt: float | Float[Array, ""]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    event_rate: float = eqx.field(static=True)
    noise: float = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        dt: float = 10.0,
        tau: Any = 100.0,
        tau_x: Any = None,
        tau_u: Any = None,
        use: Any = None,
        event_rate: float = 1e-3,
        activation: Activation = "relu",
        noise: float = 0.0,
        weight_ih_init: Initializer | None = None,
        weight_hh_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`, `hidden_size`: entries I of the input, units H.
        - `dt`, `tau`: the step and the time constant of h, at least `dt`, in one unit of time with the others.
        - `tau_x`, `tau_u`: time constants of recovery and of facilitation, at least `dt`; `use`: U, from 0 to 1. A
            number, or a tuple of H numbers, stays fixed; an array of shape () or (H,) is trained with the weights. As
            in the reference when not given.
        - `event_rate`: ρ.
        - `activation`, `noise`, `weight_ih_init`, `weight_hh_init`, `bias_init`, `dtype`, `key`: as in `LeakyCell`.

        **Raises:** `ValueError` for an unknown activation, times that do not fit, U outside of [0, 1], or a negative
        `noise` or `event_rate`.
        """
        check_sizes(input_size, hidden_size)
        activation_function(activation)
        for name, value in (("noise", noise), ("event_rate", event_rate)):
            if not value >= 0:
                raise ValueError(f"{name}: expected at least 0, got {value}.")
        tau_x = _alternate(200.0, 1500.0, hidden_size) if tau_x is None else tau_x
        tau_u = _alternate(1500.0, 200.0, hidden_size) if tau_u is None else tau_u
        use = _alternate(0.15, 0.45, hidden_size) if use is None else use
        check_times(dt, hidden_size, tau=tau, tau_x=tau_x, tau_u=tau_u)
        if np.shape(use) not in ((), (hidden_size,)):
            raise ValueError(f"use: expected a number or shape ({hidden_size},), got shape {np.shape(use)}.")
        if not isinstance(use, jax.core.Tracer) and not ((np.asarray(use) >= 0) & (np.asarray(use) <= 1)).all():
            raise ValueError(f"use: expected fractions from 0 to 1, got {use}.")
        dtype = jnp.result_type(float) if dtype is None else dtype
        ih_key, hh_key, bias_key = jax.random.split(key, 3)
        default = inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, ih_key, (hidden_size, input_size), dtype)
        self.weight_hh = draw("weight_hh_init", weight_hh_init or default, hh_key, (hidden_size, hidden_size), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (hidden_size,), dtype)
        self.tau = fixed_or_trained(tau, dtype)
        self.tau_x = tau_x if isinstance(tau_x, tuple) else fixed_or_trained(tau_x, dtype)
        self.tau_u = tau_u if isinstance(tau_u, tuple) else fixed_or_trained(tau_u, dtype)
        self.use = use if isinstance(use, tuple) else fixed_or_trained(use, dtype)
        self.dt = float(dt)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.activation = activation
        self.event_rate = float(event_rate)
        self.noise = float(noise)

    @classmethod
    def from_weights(
        cls,
        weight_ih: Numbers,
        weight_hh: Numbers,
        bias: Numbers,
        *,
        dt: float = 10.0,
        tau: Any = 100.0,
        tau_x: Any = None,
        tau_u: Any = None,
        use: Any = None,
        event_rate: float = 1e-3,
        activation: Activation = "relu",
        noise: float = 0.0,
    ) -> "ShortTermPlasticityCell":
        """The cell with these weights: `weight_ih` (H, I), `weight_hh` (H, H), `bias` (H,).

        **Raises:** `ValueError` as the constructor, and for a weight of another shape, or with NaN or infinity.
        """
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        weights = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}
        times = {"tau": tau, "tau_x": tau_x, "tau_u": tau_u, "use": use}
        weights |= {
            name: value
            for name, value in times.items()
            if value is not None and not isinstance(value, int | float | tuple)
        }
        settings = {"input_size": input_size, "hidden_size": hidden_size, "dt": dt, **times}
        settings |= {"event_rate": event_rate, "activation": activation, "noise": noise}
        return build_with_weights(cls, settings, weights)

    @property
    def time_step(self) -> float | Array | np.ndarray:
        """The time of one step in units of the longest time constant."""
        return longest_step(self.dt, self.tau, self.tau_x, self.tau_u)

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> PlasticityState:
        """The triple `(h, x, u)` one step after the triple `state`, with `input` (I,) and, with a `key`, noise.

        **Raises:** `ValueError` for another structure or shape, or a state that is not floating-point.
        """
        h, x, u = check_variables(state, ("h", "x", "u"), self.hidden_size)
        check_input(input, self.input_size)
        dtype = jnp.result_type(self.weight_hh)
        alpha, alpha_x, alpha_u = (
            self.dt / (jnp.asarray(tau, dtype) if isinstance(tau, tuple) else tau)
            for tau in (self.tau, self.tau_x, self.tau_u)
        )
        use = jnp.asarray(self.use, dtype) if isinstance(self.use, tuple) else self.use
        events = self.event_rate * self.dt * h
        x_next = jnp.clip(x + alpha_x * (1 - x) - u * x * events, 0, 1)
        u_next = jnp.clip(u + alpha_u * (use - u) + use * (1 - u) * events, 0, 1)
        drive = self.weight_ih @ input + self.weight_hh @ (u_next * x_next * h) + self.bias
        target = (1 - alpha) * h + alpha * drive
        if key is not None:
            target = target + jnp.sqrt(2 * alpha) * self.noise * jax.random.normal(key, target.shape, target.dtype)
        return activation_function(self.activation)(target), x_next, u_next

    def initial_state(self) -> PlasticityState:
        """Silence, with all of the transmitter there (x = 1) and u at rest (U)."""
        dtype = jnp.result_type(self.weight_hh)
        zero = jnp.zeros(self.hidden_size, dtype)
        return zero, zero + 1, zero + jnp.asarray(self.use, dtype)

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the rates h."""
        return state[0]

    def state_bounds(self, input: Any) -> tuple[PlasticityState, PlasticityState] | None:
        """x and u in [0, 1], and h in the range of the activation; `None` where that is unbounded or not known.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        input_bounds(input, self.input_size)
        bounds = activation_range(self.activation)
        if bounds is None:
            return None
        ones = jnp.ones(self.hidden_size, jnp.result_type(self.weight_hh))
        return (bounds[0] * ones, 0 * ones, 0 * ones), (bounds[1] * ones, ones, ones)


def _alternate(even: float, odd: float, size: int) -> tuple[float, ...]:
    return tuple(odd if index % 2 else even for index in range(size))
