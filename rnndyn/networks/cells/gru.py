"""The gated recurrent unit, with its two places for the reset gate."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.networks.cells._bounds import input_bounds
from rnndyn.networks.cells._weights import build_with_weights, draw, draw_blocks, sizes_of
from rnndyn.networks.cells.checks import check_hidden, check_input, check_sizes
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers

Reset = Literal["after", "before"]


class GRUCell(eqx.Module):
    """One step of a gated recurrent unit.

        r = σ(W_r u + U_r h + b_r)
        z = σ(W_z u + U_z h + b_z)
        n = tanh(W_n u + b_n + r (U_n h + bias_n))     reset "after" the recurrent product (PyTorch, Equinox, Flax)
        n = tanh(W_n u + b_n + U_n (r h))              reset "before" it (Cho et al., 2014; Haiku)
        h' = (1 - z) n + z h

    The two are different dynamical systems: with the same weights one may be chaotic and the other not. Rows of
    `weight_ih` (3H, I), `weight_hh` (3H, H) and `bias` (3H,) are in the order r, z, n; `bias_n` (H,) exists for
    reset "after" only. The state is `h`, of shape (H,).

    Reference: Cho et al., 2014, "Learning phrase representations using RNN encoder-decoder".
    """

    weight_ih: Float[Array, "GH I"]
    weight_hh: Float[Array, "GH H"]
    bias: Float[Array, " GH"]
    bias_n: Float[Array, " H"] | None
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    reset: Reset = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        reset: str = "after",
        weight_ih_init: Initializer | None = None,
        weight_hh_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        bias_n_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: entries I of the input; zero for a cell without input.
        - `hidden_size`: units H.
        - `reset`: `"after"` or `"before"` the recurrent product of the candidate n.
        - `weight_ih_init`, `weight_hh_init`: drawn per gate; `bias_init`: called once for (3H,), so that
            `rnndyn.initializers.chrono(..., "gru")` fits; `bias_n_init`: (H,). Uniform on ±1/√H when not given.
        - `dtype`: of the weights; JAX's default float when not given.
        - `key`: a `jax.random.key` from which the weights are drawn.

        **Raises:** `ValueError` for an unknown `reset`, or a `bias_n_init` where there is no `bias_n`.
        """
        check_sizes(input_size, hidden_size)
        if reset not in ("after", "before"):
            raise ValueError(f"reset: expected 'after' or 'before', got {reset!r}.")
        if reset == "before" and bias_n_init is not None:
            raise ValueError("bias_n_init: with reset='before' there is no bias_n, its work is done by bias.")
        ih_key, hh_key, bias_key, bias_n_key = jax.random.split(key, 4)
        dtype = jnp.result_type(float) if dtype is None else dtype
        size, default = hidden_size, inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw_blocks("weight_ih_init", weight_ih_init or default, ih_key, 3, (size, input_size), dtype)
        self.weight_hh = draw_blocks("weight_hh_init", weight_hh_init or default, hh_key, 3, (size, size), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (3 * size,), dtype)
        has_bias_n = reset == "after"
        self.bias_n = draw("bias_n_init", bias_n_init or default, bias_n_key, (size,), dtype) if has_bias_n else None
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.reset = reset

    @classmethod
    def from_weights(
        cls,
        weight_ih: Numbers,
        weight_hh: Numbers,
        bias: Numbers,
        bias_n: Numbers | None = None,
        *,
        reset: str = "after",
    ) -> "GRUCell":
        """The cell with these weights: `weight_ih` (3H, I), `weight_hh` (3H, H), `bias` (3H,), `bias_n` (H,).

        `bias_n` is needed for reset "after", and must not be given for "before".

        **Raises:** `ValueError` for a weight of another shape, or with NaN or infinity, or a `bias_n` too many or few.
        """
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        weights = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}
        if bias_n is None and reset == "after":
            raise ValueError(f"bias_n: expected shape ({hidden_size},) with reset='after', got None.")
        if bias_n is not None:
            if reset == "before":
                raise ValueError("bias_n: expected None with reset='before', its work is done by bias.")
            weights["bias_n"] = bias_n
        return build_with_weights(cls, {"input_size": input_size, "hidden_size": hidden_size, "reset": reset}, weights)

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
        size = self.hidden_size
        from_input = self.weight_ih @ input + self.bias
        if self.bias_n is not None:
            from_state = self.weight_hh @ state
            r, z = jnp.split(jax.nn.sigmoid(from_input[: 2 * size] + from_state[: 2 * size]), 2)
            n = jnp.tanh(from_input[2 * size :] + r * (from_state[2 * size :] + self.bias_n))
        else:
            r, z = jnp.split(jax.nn.sigmoid(from_input[: 2 * size] + self.weight_hh[: 2 * size] @ state), 2)
            n = jnp.tanh(from_input[2 * size :] + self.weight_hh[2 * size :] @ (r * state))
        return n + z * (state - n)

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> tuple[Float[Array, " H"], Float[Array, " H"]]:
        """The box [-1, 1], which the cell maps into itself and which holds every fixed point and cycle.

        h' is the average of h and n with weights z and 1 - z, and |n| < 1: |h'| < 1 inside, and outside
        |h'| - 1 < z (|h| - 1) with z < 1. (A gate that rounds to exactly 1 keeps any state; this is of the
        arithmetic, not of the cell.)

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        input_bounds(input, self.input_size)
        ones = jnp.ones(self.hidden_size, jnp.result_type(self.weight_hh))
        return -ones, ones
