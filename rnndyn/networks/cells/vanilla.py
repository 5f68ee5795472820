"""The vanilla (Elman) recurrent cell."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.networks.cells._weights import build_with_weights, draw, sizes_of
from rnndyn.networks.cells.activations import Activation, activation_function, activation_range
from rnndyn.networks.cells.bounds import input_bounds
from rnndyn.networks.cells.checks import check_hidden, check_input, check_sizes
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers


class VanillaCell(eqx.Module):
    """One step of a vanilla recurrent network.

        h' = φ(W_ih u + W_hh h + b)

    The state is `h`, of shape (H,), and also what the cell puts out. Shapes: `weight_ih` (H, I), `weight_hh` (H, H),
    `bias` (H,); φ acts on each unit. Frameworks with two biases have their sum here. With bounded φ every state lies in
    the range of φ from the first step on; `relu` and `identity` may run away.

    Reference: Elman, 1990, "Finding structure in time".
    """

    weight_ih: Float[Array, "H I"]
    weight_hh: Float[Array, "H H"]
    bias: Float[Array, " H"]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        activation: Activation = "tanh",
        weight_ih_init: Initializer | None = None,
        weight_hh_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: entries I of the input; zero for a cell without input.
        - `hidden_size`: units H.
        - `activation`: `"tanh"`, `"relu"`, `"sigmoid"`, `"softplus"`, `"identity"`, or an elementwise function
            (kept as part of the structure of the cell: parameters inside it are not trained).
        - `weight_ih_init`, `weight_hh_init`, `bias_init`: see `rnndyn.initializers`; uniform on ±1/√H when not given.
        - `dtype`: of the weights; JAX's default float when not given.
        - `key`: a `jax.random.key` from which the weights are drawn.

        **Raises:** `ValueError` for an unknown activation name or a size that is too small.
        """
        check_sizes(input_size, hidden_size)
        activation_function(activation)
        ih_key, hh_key, bias_key = jax.random.split(key, 3)
        dtype = jnp.result_type(float) if dtype is None else dtype
        default = inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, ih_key, (hidden_size, input_size), dtype)
        self.weight_hh = draw("weight_hh_init", weight_hh_init or default, hh_key, (hidden_size, hidden_size), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (hidden_size,), dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.activation = activation

    @classmethod
    def from_weights(
        cls, weight_ih: Numbers, weight_hh: Numbers, bias: Numbers, *, activation: Activation = "tanh"
    ) -> "VanillaCell":
        """The cell with these weights: `weight_ih` (H, I), `weight_hh` (H, H), `bias` (H,).

        **Raises:** `ValueError` for a weight of another shape, or with NaN or infinity.
        """
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        return build_with_weights(
            cls,
            {"input_size": input_size, "hidden_size": hidden_size, "activation": activation},
            {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias},
        )

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
        return activation_function(self.activation)(self.weight_ih @ input + self.weight_hh @ state + self.bias)

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> tuple[Float[Array, " H"], Float[Array, " H"]] | None:
        """A box that every state enters in one step, and so holds every fixed point and cycle.

        It is the range of the activation: [-1, 1] for tanh, [0, 1] for the sigmoid, `None` for an unbounded
        activation or a callable, whose range is not known.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        input_bounds(input, self.input_size)
        bounds = activation_range(self.activation)
        if bounds is None:
            return None
        ones = jnp.ones(self.hidden_size, jnp.result_type(self.weight_hh))
        return bounds[0] * ones, bounds[1] * ones
