"""A vanilla cell whose recurrent weight has low rank."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.cells._bounds import input_bounds
from rnndyn.networks.cells._weights import build_with_weights, draw, shape_of, sizes_of
from rnndyn.networks.cells.activations import Activation, activation_function, activation_range
from rnndyn.networks.cells.checks import check_hidden, check_input, check_sizes
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers


class LowRankCell(eqx.Module):
    """One step of a recurrent network of rank R.

        h' = φ(W_ih u + W_hh h + b),    W_hh = M Nᵀ / H

    The columns of M (`left`) span the directions that the recurrence writes, the columns of N (`right`) select what
    it reads. A step costs O(H R); the matrix is never formed. The state is `h`, of shape (H,).

    Reference: Mastrogiuseppe and Ostojic, 2018, "Linking connectivity, dynamics, and computations in low-rank
    recurrent neural networks".
    """

    weight_ih: Float[Array, "H I"]
    left: Float[Array, "H R"]
    right: Float[Array, "H R"]
    bias: Float[Array, " H"]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rank: int = 1,
        activation: Activation = "tanh",
        weight_ih_init: Initializer | None = None,
        left_init: Initializer | None = None,
        right_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: entries I of the input; zero for a cell without input.
        - `hidden_size`: units H.
        - `rank`: the rank R, from 1 to H.
        - `activation`: as in `VanillaCell`.
        - `left_init`, `right_init`: initialisers of M and N (H, R); standard normal when not given.
        - `weight_ih_init`, `bias_init`: see `rnndyn.initializers`; uniform on ±1/√H when not given.
        - `dtype`: of the weights; JAX's default float when not given.
        - `key`: a `jax.random.key` from which the weights are drawn.

        **Raises:** `ValueError` for an unknown activation name or a rank outside 1 to H.
        """
        check_sizes(input_size, hidden_size)
        activation_function(activation)
        check_at_least("rank", rank, 1)
        if rank > hidden_size:
            raise ValueError(f"rank: expected at most hidden_size = {hidden_size}, got {rank}.")
        ih_key, left_key, right_key, bias_key = jax.random.split(key, 4)
        dtype = jnp.result_type(float) if dtype is None else dtype
        default, normal = inverse_sqrt_uniform(hidden_size), jax.nn.initializers.normal(1.0)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, ih_key, (hidden_size, input_size), dtype)
        self.left = draw("left_init", left_init or normal, left_key, (hidden_size, rank), dtype)
        self.right = draw("right_init", right_init or normal, right_key, (hidden_size, rank), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (hidden_size,), dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.rank = rank
        self.activation = activation

    @classmethod
    def from_weights(
        cls,
        weight_ih: Numbers,
        left: Numbers,
        right: Numbers,
        bias: Numbers,
        *,
        activation: Activation = "tanh",
    ) -> "LowRankCell":
        """The cell with these weights: `weight_ih` (H, I), `left` and `right` (H, R), `bias` (H,).

        **Raises:** `ValueError` for a weight of another shape, or with NaN or infinity.
        """
        input_size, rank = sizes_of(weight_ih, left)
        return build_with_weights(
            cls,
            {"input_size": input_size, "hidden_size": shape_of(left)[0], "rank": rank, "activation": activation},
            {"weight_ih": weight_ih, "left": left, "right": right, "bias": bias},
        )

    @property
    def weight_hh(self) -> Float[Array, "H H"]:
        """The recurrent weight M Nᵀ / H as a dense matrix."""
        return jnp.matmul(self.left, self.right.T) / self.hidden_size

    def __call__(self, state: Any, input: Any) -> Float[Array, " H"]:
        """The next state.

        **Arguments:**

        - `state`: shape (H,).
        - `input`: shape (I,).

        **Returns:** the state one step later, shape (H,).

        **Raises:** `ValueError` for another shape, or a state that is not floating-point.
        """
        check_hidden(state, self.hidden_size)
        check_input(input, self.input_size)
        recurrent = self.left @ (self.right.T @ state) / self.hidden_size
        return activation_function(self.activation)(self.weight_ih @ input + recurrent + self.bias)

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.left))

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> tuple[Float[Array, " H"], Float[Array, " H"]] | None:
        """A box that every state enters in one step: the range of the activation, as for `VanillaCell`.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        input_bounds(input, self.input_size)
        bounds = activation_range(self.activation)
        if bounds is None:
            return None
        ones = jnp.ones(self.hidden_size, jnp.result_type(self.left))
        return bounds[0] * ones, bounds[1] * ones
