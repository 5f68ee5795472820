"""A rate network whose units adapt: each has a second variable, slower than the first."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.networks.cells._bounds import affine_bounds, input_bounds
from rnndyn.networks.cells._times import Time, check_times, check_variables, fixed_or_trained, longest_step
from rnndyn.networks.cells._weights import build_with_weights, draw, sizes_of
from rnndyn.networks.cells.activations import Activation, activation_function, activation_range
from rnndyn.networks.cells.checks import check_hidden, check_input, check_sizes
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers

AdaptationState = tuple[Float[Array, " H"], Float[Array, " H"]]


class AdaptationCell(eqx.Module):
    """One Euler step of a rate network with spike-frequency adaptation, α = dt/τ, α_a = dt/τ_a, r = φ(x):

        x' = (1 - α) x + α (W_ih u + W_hh r + b - g a + ξ)      from  τ dx/dt = -x + W r + ... - g a
        a' = (1 - α_a) a + α_a r                                from  τ_a da/dt = -a + r

    The state is the pair `(x, a)` of input currents and adaptation, each (H,); the dynamical system has 2H dimensions.
    A readout sees the rates r. At a fixed point a = r: adaptation is a self-inhibition of strength g that comes late,
    and slow oscillations come of it. The noise ξ = √(2/α) σ η enters with a `key` only, as in `LeakyCell`.

    Reference: Beiran and Ostojic, 2019, "Contrasting the effects of adaptation and synaptic filtering on the timescales
    of dynamics in recurrent networks".
    """

    weight_ih: Float[Array, "H I"]
    weight_hh: Float[Array, "H H"]
    bias: Float[Array, " H"]
    strength: Time
    tau: Time
    tau_adaptation: Time
    dt: float | Float[Array, ""]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    noise: float = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        strength: Any = 1.0,
        dt: float = 1.0,
        tau: Any = 10.0,
        tau_adaptation: Any = 100.0,
        activation: Activation = "tanh",
        noise: float = 0.0,
        weight_ih_init: Initializer | None = None,
        weight_hh_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`, `hidden_size`: entries I of the input, units H.
        - `strength`: g. A number stays fixed; an array of shape () or (H,) is trained with the weights. So with the
            times.
        - `dt`: the Euler step; `tau`, `tau_adaptation`: the time constants τ and τ_a, at least `dt`.
        - `activation`, `noise`, `weight_ih_init`, `weight_hh_init`, `bias_init`, `dtype`, `key`: as in `LeakyCell`.

        **Raises:** `ValueError` for an unknown activation, times that do not fit, or a negative `noise`.
        """
        check_sizes(input_size, hidden_size)
        activation_function(activation)
        if not noise >= 0:
            raise ValueError(f"noise: expected a standard deviation of at least 0, got {noise}.")
        check_times(dt, hidden_size, tau=tau, tau_adaptation=tau_adaptation)
        if np.shape(strength) not in ((), (hidden_size,)):
            raise ValueError(f"strength: expected a number or shape ({hidden_size},), got {np.shape(strength)}.")
        dtype = jnp.result_type(float) if dtype is None else dtype
        ih_key, hh_key, bias_key = jax.random.split(key, 3)
        default = inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, ih_key, (hidden_size, input_size), dtype)
        self.weight_hh = draw("weight_hh_init", weight_hh_init or default, hh_key, (hidden_size, hidden_size), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (hidden_size,), dtype)
        self.strength = fixed_or_trained(strength, dtype)
        self.tau = fixed_or_trained(tau, dtype)
        self.tau_adaptation = fixed_or_trained(tau_adaptation, dtype)
        self.dt = float(dt)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.activation = activation
        self.noise = float(noise)

    @classmethod
    def from_weights(
        cls,
        weight_ih: Numbers,
        weight_hh: Numbers,
        bias: Numbers,
        *,
        strength: Any = 1.0,
        dt: float = 1.0,
        tau: Any = 10.0,
        tau_adaptation: Any = 100.0,
        activation: Activation = "tanh",
        noise: float = 0.0,
    ) -> "AdaptationCell":
        """The cell with these weights: `weight_ih` (H, I), `weight_hh` (H, H), `bias` (H,).

        **Raises:** `ValueError` as the constructor, and for a weight of another shape, or with NaN or infinity.
        """
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        weights = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}
        times = {"strength": strength, "tau": tau, "tau_adaptation": tau_adaptation}
        weights |= {name: value for name, value in times.items() if not isinstance(value, int | float)}
        settings = {"input_size": input_size, "hidden_size": hidden_size, "dt": dt, **times}
        return build_with_weights(cls, settings | {"activation": activation, "noise": noise}, weights)

    @property
    def time_step(self) -> float | Array | np.ndarray:
        """The time of one step in units of the longest time constant."""
        return longest_step(self.dt, self.tau, self.tau_adaptation)

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> AdaptationState:
        """The pair `(x, a)` one step after the pair `state`, with `input` (I,) and, with a `key`, noise.

        **Raises:** `ValueError` for another structure or shape, or a state that is not floating-point.
        """
        x, a = check_variables(state, ("x", "a"), self.hidden_size)
        check_input(input, self.input_size)
        alpha, alpha_a = self.dt / self.tau, self.dt / self.tau_adaptation
        rates = activation_function(self.activation)(x)
        drive = self.weight_ih @ input + self.weight_hh @ rates + self.bias - self.strength * a
        if key is not None:
            drive = drive + jnp.sqrt(2 / alpha) * self.noise * jax.random.normal(key, drive.shape, drive.dtype)
        return (1 - alpha) * x + alpha * drive, (1 - alpha_a) * a + alpha_a * rates

    def initial_state(self) -> AdaptationState:
        """The zero state, x and a."""
        zero = jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))
        return zero, zero

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the rates φ(x)."""
        check_hidden(state[0], self.hidden_size, "state[0]")
        return activation_function(self.activation)(jnp.asarray(state[0]))

    def state_bounds(self, input: Any) -> tuple[AdaptationState, AdaptationState] | None:
        """A box that the deterministic cell maps into itself and that holds every fixed point and cycle.

        a averages rates, so it comes into their range; x averages drives, which then lie in the interval image of the
        ranges of r and a. `None` for an unbounded activation or a callable.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        input_lower, input_upper = input_bounds(input, self.input_size)
        bounds = activation_range(self.activation)
        if bounds is None:
            return None
        ones = jnp.ones(self.hidden_size, jnp.result_type(self.weight_hh))
        lower, upper = bounds[0] * ones, bounds[1] * ones
        recurrent_lower, recurrent_upper = affine_bounds(self.weight_hh, lower, upper)
        drive_lower, drive_upper = affine_bounds(self.weight_ih, input_lower, input_upper)
        ends = jnp.stack([-self.strength * lower, -self.strength * upper])
        x_lower = recurrent_lower + drive_lower + self.bias + jnp.min(ends, axis=0)
        x_upper = recurrent_upper + drive_upper + self.bias + jnp.max(ends, axis=0)
        return (x_lower, lower), (x_upper, upper)
