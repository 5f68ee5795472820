"""The leaky cell whose recurrent weight has low rank."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.cells._bounds import affine_bounds, input_bounds
from rnndyn.networks.cells._times import Time, check_times, fixed_or_trained, longest_step
from rnndyn.networks.cells._weights import build_with_weights, draw, shape_of, sizes_of
from rnndyn.networks.cells.activations import Activation, activation_function, activation_range
from rnndyn.networks.cells.checks import check_hidden, check_input, check_sizes
from rnndyn.networks.cells.leaky import StateVariable
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers


class LeakyLowRankCell(eqx.Module):
    """One Euler step of a rate network of rank R, with leak α = dt/τ and W_hh = M Nᵀ / H.

        rate:     r' = (1 - α) r + α φ(W_ih u + M Nᵀ r / H + b + ξ)
        current:  x' = (1 - α) x + α (W_ih u + M Nᵀ φ(x) / H + b + ξ)

    It is `LeakyCell` with that weight; a step costs O(H R), and the matrix is never formed. With one τ for all units
    its dynamics are those of R latent variables, exactly: see `rnndyn.latent_map`. Noise as in `LeakyCell`.

    References: Mastrogiuseppe and Ostojic, 2018, "Linking connectivity, dynamics, and computations in low-rank
    recurrent neural networks"; Dubreuil, Valente, Beiran, Mastrogiuseppe and Ostojic, 2022, "The role of population
    structure in computations through neural dynamics".
    """

    weight_ih: Float[Array, "H I"]
    left: Float[Array, "H R"]
    right: Float[Array, "H R"]
    bias: Float[Array, " H"]
    tau: Time
    dt: float | Float[Array, ""]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    state_variable: StateVariable = eqx.field(static=True)
    noise: float = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rank: int = 1,
        dt: float = 1.0,
        tau: Any = 10.0,
        activation: Activation = "tanh",
        state_variable: str = "current",
        noise: float = 0.0,
        weight_ih_init: Initializer | None = None,
        left_init: Initializer | None = None,
        right_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `rank`, `left_init`, `right_init`: as in `LowRankCell`.
        - `state_variable`: `"current"`, the form of the references, or `"rate"`.
        - all others: as in `LeakyCell`.

        **Raises:** `ValueError` as these two.
        """
        check_sizes(input_size, hidden_size)
        activation_function(activation)
        check_at_least("rank", rank, 1)
        if rank > hidden_size:
            raise ValueError(f"rank: expected at most hidden_size = {hidden_size}, got {rank}.")
        if state_variable not in ("rate", "current"):
            raise ValueError(f"state_variable: expected 'rate' or 'current', got {state_variable!r}.")
        if not noise >= 0:
            raise ValueError(f"noise: expected a standard deviation of at least 0, got {noise}.")
        check_times(dt, hidden_size, tau=tau)
        ih_key, left_key, right_key, bias_key = jax.random.split(key, 4)
        dtype = jnp.result_type(float) if dtype is None else dtype
        default, normal = inverse_sqrt_uniform(hidden_size), jax.nn.initializers.normal(1.0)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, ih_key, (hidden_size, input_size), dtype)
        self.left = draw("left_init", left_init or normal, left_key, (hidden_size, rank), dtype)
        self.right = draw("right_init", right_init or normal, right_key, (hidden_size, rank), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (hidden_size,), dtype)
        self.tau = fixed_or_trained(tau, dtype)
        self.dt = float(dt)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.rank = rank
        self.activation = activation
        self.state_variable = state_variable
        self.noise = float(noise)

    @classmethod
    def from_weights(
        cls,
        weight_ih: Numbers,
        left: Numbers,
        right: Numbers,
        bias: Numbers,
        *,
        dt: float = 1.0,
        tau: Any = 10.0,
        activation: Activation = "tanh",
        state_variable: str = "current",
        noise: float = 0.0,
    ) -> "LeakyLowRankCell":
        """The cell with these weights: `weight_ih` (H, I), `left` and `right` (H, R), `bias` (H,).

        **Raises:** `ValueError` as the constructor, and for a weight of another shape, or with NaN or infinity.
        """
        input_size, rank = sizes_of(weight_ih, left)
        weights = {"weight_ih": weight_ih, "left": left, "right": right, "bias": bias}
        if not isinstance(tau, int | float):
            weights["tau"] = tau
        settings = {"input_size": input_size, "hidden_size": shape_of(left)[0], "rank": rank, "dt": dt, "tau": tau}
        settings |= {"activation": activation, "state_variable": state_variable, "noise": noise}
        return build_with_weights(cls, settings, weights)

    @property
    def weight_hh(self) -> Float[Array, "H H"]:
        """The recurrent weight M Nᵀ / H as a dense matrix."""
        return jnp.matmul(self.left, self.right.T) / self.hidden_size

    @property
    def alpha(self) -> float | Array | np.ndarray:
        """The leak dt/τ, of all units or of each."""
        return self.dt / self.tau

    @property
    def time_step(self) -> float | Array | np.ndarray:
        """The time of one step in units of τ, of the longest where the units have their own."""
        return longest_step(self.dt, self.tau)

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> Float[Array, " H"]:
        """The next state of `state` (H,) and `input` (I,), with noise where there is a `key`.

        **Raises:** `ValueError` for another shape, or a state that is not floating-point.
        """
        check_hidden(state, self.hidden_size)
        check_input(input, self.input_size)
        activation = activation_function(self.activation)
        state, alpha = jnp.asarray(state), self.alpha
        drive = self.weight_ih @ input + self.bias
        if key is not None:
            drive = drive + jnp.sqrt(2 / alpha) * self.noise * jax.random.normal(key, drive.shape, drive.dtype)
        read = state if self.state_variable == "rate" else activation(state)
        target = self.left @ (self.right.T @ read) / self.hidden_size + drive
        if self.state_variable == "rate":
            target = activation(target)
        return (1 - alpha) * state + alpha * target

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.left))

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the rates."""
        return state if self.state_variable == "rate" else activation_function(self.activation)(jnp.asarray(state))

    def state_bounds(self, input: Any) -> tuple[Float[Array, " H"], Float[Array, " H"]] | None:
        """A box that the deterministic cell maps into itself, as for `LeakyCell`.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        input_lower, input_upper = input_bounds(input, self.input_size)
        bounds = activation_range(self.activation)
        if bounds is None:
            return None
        ones = jnp.ones(self.hidden_size, jnp.result_type(self.left))
        lower, upper = bounds[0] * ones, bounds[1] * ones
        if self.state_variable == "rate":
            return lower, upper
        latent = affine_bounds(jnp.asarray(self.right.T) / self.hidden_size, lower, upper)
        recurrent_lower, recurrent_upper = affine_bounds(self.left, *latent)
        drive_lower, drive_upper = affine_bounds(self.weight_ih, input_lower, input_upper)
        return recurrent_lower + drive_lower + self.bias, recurrent_upper + drive_upper + self.bias
