"""The leaky cell: a continuous-time rate network advanced by Euler steps."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.networks.cells._bounds import affine_bounds, input_bounds
from rnndyn.networks.cells._times import check_times, fixed_or_trained, longest_step
from rnndyn.networks.cells._weights import build_with_weights, draw, sizes_of
from rnndyn.networks.cells.activations import Activation, activation_function, activation_range
from rnndyn.networks.cells.checks import check_hidden, check_input, check_sizes
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers

StateVariable = Literal["rate", "current"]


class LeakyCell(eqx.Module):
    """One Euler step of a rate network, with leak α = dt/τ.

    The state is either the rates r or the input currents x of the units:

        rate:     r' = (1 - α) r + α φ(W_ih u + W_hh r + b + ξ)       from  τ dr/dt = -r + φ(W r + ...)
        current:  x' = (1 - α) x + α (W_ih u + W_hh φ(x) + b + ξ)     from  τ dx/dt = -x + W φ(x) + ...

    With α = 1 the rate form is `VanillaCell`. A readout sees the rates, r or φ(x).

    *Private noise.* ξ = √(2/α) σ η with η standard normal, fresh for every unit and step, which keeps the strength of
    the noise the same for every dt. It enters only when the cell is called with a `key`; without one the cell is its
    deterministic skeleton, a pure function of state and input, and this is what analyses work on. Train with noise by
    `rnndyn.unroll(cell, inputs, key=key)`.

    References: Sompolinsky, Crisanti and Sommers, 1988, "Chaos in random neural networks"; Song, Yang and Wang, 2016,
    "Training excitatory-inhibitory recurrent neural networks for cognitive tasks".
    """

    weight_ih: Float[Array, "H I"]
    weight_hh: Float[Array, "H H"]
    bias: Float[Array, " H"]
    tau: float | Float[Array, ""] | Float[Array, " H"]
    dt: float | Float[Array, ""]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    state_variable: StateVariable = eqx.field(static=True)
    noise: float = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        dt: float = 1.0,
        tau: Any = 10.0,
        activation: Activation = "tanh",
        state_variable: str = "rate",
        noise: float = 0.0,
        weight_ih_init: Initializer | None = None,
        weight_hh_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: entries I of the input; zero for a cell without input.
        - `hidden_size`: units H.
        - `dt`: the Euler step, in the unit of time of `tau`.
        - `tau`: the time constant, at least `dt`. A number stays fixed; an array of shape () or (H,) is trained with
            the weights (keep it at `dt` or above).
        - `activation`: as in `VanillaCell`.
        - `state_variable`: `"rate"` or `"current"`.
        - `noise`: the standard deviation σ of the private noise.
        - `weight_ih_init`, `weight_hh_init`, `bias_init`: see `rnndyn.initializers`; uniform on ±1/√H when not given.
        - `dtype`: of the weights; JAX's default float when not given.
        - `key`: a `jax.random.key` from which the weights are drawn.

        **Raises:** `ValueError` for an unknown activation or state variable, `dt` that is not positive, `tau` below
        `dt`, or a negative `noise`.
        """
        check_sizes(input_size, hidden_size)
        activation_function(activation)
        if state_variable not in ("rate", "current"):
            raise ValueError(f"state_variable: expected 'rate' or 'current', got {state_variable!r}.")
        if not noise >= 0:
            raise ValueError(f"noise: expected a standard deviation of at least 0, got {noise}.")
        dtype = jnp.result_type(float) if dtype is None else dtype
        check_times(dt, hidden_size, tau=tau)
        ih_key, hh_key, bias_key = jax.random.split(key, 3)
        default = inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, ih_key, (hidden_size, input_size), dtype)
        self.weight_hh = draw("weight_hh_init", weight_hh_init or default, hh_key, (hidden_size, hidden_size), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (hidden_size,), dtype)
        self.tau = fixed_or_trained(tau, dtype)
        self.dt = float(dt)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.activation = activation
        self.state_variable = state_variable
        self.noise = float(noise)

    @classmethod
    def from_weights(
        cls,
        weight_ih: Numbers,
        weight_hh: Numbers,
        bias: Numbers,
        *,
        dt: float = 1.0,
        tau: Any = 10.0,
        activation: Activation = "tanh",
        state_variable: str = "rate",
        noise: float = 0.0,
    ) -> "LeakyCell":
        """The cell with these weights: `weight_ih` (H, I), `weight_hh` (H, H), `bias` (H,).

        **Raises:** `ValueError` as the constructor, and for a weight of another shape, or with NaN or infinity.
        """
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        weights = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}
        if not isinstance(tau, int | float):
            weights["tau"] = tau

        settings = {
            "input_size": input_size,
            "hidden_size": hidden_size,
            "dt": dt,
            "tau": tau,
            "activation": activation,
            "state_variable": state_variable,
            "noise": noise,
        }
        return build_with_weights(cls, settings, weights)

    @property
    def alpha(self) -> float | Array | np.ndarray:
        """The leak dt/τ, of all units or of each."""
        return self.dt / self.tau

    @property
    def time_step(self) -> float | Array | np.ndarray:
        """The time of one step in units of τ, of the longest where the units have their own."""
        return longest_step(self.dt, self.tau)

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> Float[Array, " H"]:
        """The next state.

        **Arguments:**

        - `state`: shape (H,).
        - `input`: shape (I,).
        - `key`: a `jax.random.key` for the noise of this step; without one the step is deterministic.

        **Returns:** the state one step later, shape (H,).

        **Raises:** `ValueError` for another shape, or a state that is not floating-point.
        """
        check_hidden(state, self.hidden_size)
        check_input(input, self.input_size)
        activation = activation_function(self.activation)
        alpha = self.alpha
        drive = self.weight_ih @ input + self.bias
        if key is not None:
            drive = drive + jnp.sqrt(2 / alpha) * self.noise * jax.random.normal(key, drive.shape, drive.dtype)
        if self.state_variable == "rate":
            target = activation(self.weight_hh @ state + drive)
        else:
            target = self.weight_hh @ activation(jnp.asarray(state)) + drive
        return jnp.asarray((1 - alpha) * jnp.asarray(state) + alpha * target)

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the rates."""
        return state if self.state_variable == "rate" else activation_function(self.activation)(jnp.asarray(state))

    def state_bounds(self, input: Any) -> tuple[Float[Array, " H"], Float[Array, " H"]] | None:
        """A box that the deterministic cell maps into itself and that holds every fixed point and cycle.

        The new state is the average, with weight α in (0, 1], of the old state and of a target. For rates the target
        lies in the range of the activation; for currents it lies in the interval image of that range under
        r -> W_hh r + W_ih u + b. A state inside the box of the target stays there, and the distance of one outside
        shrinks by 1 - α a step. `None` for an unbounded activation or a callable.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        input_lower, input_upper = input_bounds(input, self.input_size)
        bounds = activation_range(self.activation)
        if bounds is None:
            return None
        ones = jnp.ones(self.hidden_size, jnp.result_type(self.weight_hh))
        lower, upper = bounds[0] * ones, bounds[1] * ones
        if self.state_variable == "rate":
            return lower, upper
        recurrent_lower, recurrent_upper = affine_bounds(self.weight_hh, lower, upper)
        drive_lower, drive_upper = affine_bounds(self.weight_ih, input_lower, input_upper)
        return recurrent_lower + drive_lower + self.bias, recurrent_upper + drive_upper + self.bias
