"""The LSTM with a projection between its cell state and its recurrence."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.cells._bounds import affine_bounds, input_bounds
from rnndyn.networks.cells._weights import build_with_weights, draw, draw_blocks, shape_of, sizes_of
from rnndyn.networks.cells.checks import check_input, check_pair, check_sizes
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers

ProjectedState = tuple[Float[Array, " P"], Float[Array, " H"]]


class ProjectedLSTMCell(eqx.Module):
    """One step of an LSTM whose output is projected to fewer entries, which is all that its gates read.

        i, f, o = σ(W u + U h + b),   g = tanh(W_g u + U_g h + b_g)
        c' = f c + i g,    h' = W_hr (o tanh(c'))

    H cells of memory at the cost of a recurrence of size P. The state is the pair `(h, c)` of shapes (P,) and (H,);
    rows of `weight_ih` (4H, I), `weight_hh` (4H, P) and `bias` (4H,) are in the order i, f, g, o; `weight_hr` is (P,
    H). This is `torch.nn.LSTM(..., proj_size=P)`.

    Reference: Sak, Senior and Beaufays, 2014, "Long short-term memory based recurrent neural network architectures for
    large vocabulary speech recognition".
    """

    weight_ih: Float[Array, "GH I"]
    weight_hh: Float[Array, "GH P"]
    bias: Float[Array, " GH"]
    weight_hr: Float[Array, "P H"]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    proj_size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        proj_size: int,
        *,
        weight_ih_init: Initializer | None = None,
        weight_hh_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        weight_hr_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`, `hidden_size`: as in `LSTMCell`; H counts the cells of memory.
        - `proj_size`: P, entries of h, at least 1.
        - `weight_ih_init`, `weight_hh_init`, `bias_init`, `dtype`, `key`: as in `LSTMCell`; `weight_hr_init`: of the
            projection (P, H), uniform on ±1/√H when not given.
        """
        check_sizes(input_size, hidden_size)
        check_at_least("proj_size", proj_size, 1)
        ih_key, hh_key, bias_key, hr_key = jax.random.split(key, 4)
        dtype = jnp.result_type(float) if dtype is None else dtype
        size, default = hidden_size, inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw_blocks("weight_ih_init", weight_ih_init or default, ih_key, 4, (size, input_size), dtype)
        self.weight_hh = draw_blocks("weight_hh_init", weight_hh_init or default, hh_key, 4, (size, proj_size), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (4 * size,), dtype)
        self.weight_hr = draw("weight_hr_init", weight_hr_init or default, hr_key, (proj_size, size), dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.proj_size = proj_size

    @classmethod
    def from_weights(
        cls, weight_ih: Numbers, weight_hh: Numbers, bias: Numbers, weight_hr: Numbers
    ) -> "ProjectedLSTMCell":
        """The cell with these weights: `weight_ih` (4H, I), `weight_hh` (4H, P), `bias` (4H,), `weight_hr` (P, H).

        **Raises:** `ValueError` for a weight of another shape, or with NaN or infinity.
        """
        input_size, proj_size = sizes_of(weight_ih, weight_hh)
        if len(shape_of(weight_hr)) != 2:
            raise ValueError(f"weight_hr: expected a matrix (P, H), got shape {shape_of(weight_hr)}.")
        return build_with_weights(
            cls,
            {"input_size": input_size, "hidden_size": shape_of(weight_hr)[1], "proj_size": proj_size},
            {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias, "weight_hr": weight_hr},
        )

    def __call__(self, state: Any, input: Any) -> ProjectedState:
        """The pair `(h, c)` one step after the pair `state`, with `input` (I,).

        **Raises:** `ValueError` for another structure or shape, or a state that is not floating-point.
        """
        h, c = check_pair(state, self.proj_size, self.hidden_size)
        check_input(input, self.input_size)
        i, f, g, o = jnp.split(self.weight_ih @ input + self.weight_hh @ h + self.bias, 4)
        c_next = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return self.weight_hr @ (jax.nn.sigmoid(o) * jnp.tanh(c_next)), c_next

    def initial_state(self) -> ProjectedState:
        """The zero state, h and c."""
        dtype = jnp.result_type(self.weight_hh)
        return jnp.zeros(self.proj_size, dtype), jnp.zeros(self.hidden_size, dtype)

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: h."""
        return state[0]

    def state_bounds(self, input: Any) -> tuple[ProjectedState, ProjectedState]:
        """A box that the cell maps into itself and that holds every fixed point and cycle, as `(lower, upper)`.

        o tanh(c') lies within [-1, 1], so h lies in the image of that cube under the projection after any step; c is
        then bounded as in `LSTMCell.state_bounds`.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        input_lower, input_upper = input_bounds(input, self.input_size)
        dtype = jnp.result_type(self.weight_hh)
        ones = jnp.ones(self.hidden_size, dtype)
        h_lower, h_upper = affine_bounds(self.weight_hr, -ones, ones)
        recurrent_lower, recurrent_upper = affine_bounds(self.weight_hh, h_lower, h_upper)
        drive_lower, drive_upper = affine_bounds(self.weight_ih, input_lower, input_upper)
        lowest = jnp.split(recurrent_lower + drive_lower + self.bias, 4)
        highest = jnp.split(recurrent_upper + drive_upper + self.bias, 4)
        g_max = jnp.tanh(jnp.maximum(jnp.abs(lowest[2]), jnp.abs(highest[2])))
        # The rounding of the quotient and of the cell's own step, as in `LSTMCell`.
        rounding = 1 + 16 * jnp.finfo(dtype).eps
        c_max = jax.nn.sigmoid(highest[0]) * g_max / jax.nn.sigmoid(-highest[1]) * rounding
        return (h_lower, -c_max), (h_upper, c_max)
