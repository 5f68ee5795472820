"""The long short-term memory cell."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.networks.cells._bounds import affine_bounds, input_bounds
from rnndyn.networks.cells._weights import build_with_weights, draw, draw_blocks, sizes_of
from rnndyn.networks.cells.checks import check_input, check_pair, check_sizes
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers

LSTMState = tuple[Float[Array, " H"], Float[Array, " H"]]


class LSTMCell(eqx.Module):
    """One step of a long short-term memory cell.

        i, f, o = σ(W u + U h + b),   g = tanh(W_g u + U_g h + b_g)
        c' = f c + i g
        h' = o tanh(c')

    The state is the pair `(h, c)`, each of shape (H,); the dynamical system has 2H dimensions. Rows of `weight_ih`
    (4H, I), `weight_hh` (4H, H) and `bias` (4H,) are in the order i, f, g, o.

    References: Hochreiter and Schmidhuber, 1997, "Long short-term memory"; Gers, Schmidhuber and Cummins, 2000,
    "Learning to forget".
    """

    weight_ih: Float[Array, "GH I"]
    weight_hh: Float[Array, "GH H"]
    bias: Float[Array, " GH"]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        weight_ih_init: Initializer | None = None,
        weight_hh_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: entries I of the input; zero for a cell without input.
        - `hidden_size`: units H.
        - `weight_ih_init`, `weight_hh_init`: drawn per gate; `bias_init`: called once for (4H,), so that
            `rnndyn.initializers.forget_gate_bias` and `chrono` fit. Uniform on ±1/√H when not given.
        - `dtype`: of the weights; JAX's default float when not given.
        - `key`: a `jax.random.key` from which the weights are drawn.
        """
        check_sizes(input_size, hidden_size)
        ih_key, hh_key, bias_key = jax.random.split(key, 3)
        dtype = jnp.result_type(float) if dtype is None else dtype
        size, default = hidden_size, inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw_blocks("weight_ih_init", weight_ih_init or default, ih_key, 4, (size, input_size), dtype)
        self.weight_hh = draw_blocks("weight_hh_init", weight_hh_init or default, hh_key, 4, (size, size), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (4 * size,), dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size

    @classmethod
    def from_weights(cls, weight_ih: Numbers, weight_hh: Numbers, bias: Numbers) -> "LSTMCell":
        """The cell with these weights: `weight_ih` (4H, I), `weight_hh` (4H, H), `bias` (4H,).

        **Raises:** `ValueError` for a weight of another shape, or with NaN or infinity.
        """
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        return build_with_weights(
            cls,
            {"input_size": input_size, "hidden_size": hidden_size},
            {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias},
        )

    def __call__(self, state: Any, input: Any) -> LSTMState:
        """The next state.

        **Arguments:**

        - `state`: the pair `(h, c)`, each of shape (H,).
        - `input`: shape (I,).

        **Returns:** the pair one step later.

        **Raises:** `ValueError` for another structure or shape, or a state that is not floating-point.
        """
        h, c = check_pair(state, self.hidden_size, self.hidden_size)
        check_input(input, self.input_size)
        i, f, g, o = jnp.split(self.weight_ih @ input + self.weight_hh @ h + self.bias, 4)
        c_next = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c_next), c_next

    def initial_state(self) -> LSTMState:
        """The zero state, h and c."""
        zero = jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))
        return zero, zero

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: h."""
        return state[0]

    def state_bounds(self, input: Any) -> tuple[LSTMState, LSTMState]:
        """A box that the cell maps into itself and that holds every fixed point and cycle, as `(lower, upper)`.

        |h| < 1 after any step. Over |h| <= 1 and the input, each unit's gates reach at most

            i_max = σ(a_i),  f_max = σ(a_f),  g_max = tanh(a_g),     a = the largest |pre-activation| (signed for i, f)

        so |c'| <= f_max |c| + i_max g_max: the box |c| <= i_max g_max / (1 - f_max) is mapped into itself, and the
        excess of |c| over it shrinks by f_max < 1 a step. 1 - f_max is computed as σ(-a_f), which does not cancel.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        input_lower, input_upper = input_bounds(input, self.input_size)
        dtype = jnp.result_type(self.weight_hh)
        ones = jnp.ones(self.hidden_size, dtype)
        recurrent_lower, recurrent_upper = affine_bounds(self.weight_hh, -ones, ones)
        drive_lower, drive_upper = affine_bounds(self.weight_ih, input_lower, input_upper)
        lowest = jnp.split(recurrent_lower + drive_lower + self.bias, 4)
        highest = jnp.split(recurrent_upper + drive_upper + self.bias, 4)
        i_max = jax.nn.sigmoid(highest[0])
        forgotten = jax.nn.sigmoid(-highest[1])
        g_max = jnp.tanh(jnp.maximum(jnp.abs(lowest[2]), jnp.abs(highest[2])))
        # Sixteen units of rounding: the quotient and the cell's own step take about eight roundings.
        c_max = i_max * g_max / forgotten * (1 + 16 * jnp.finfo(dtype).eps)
        return (-ones, -c_max), (ones, c_max)
