"""The chaos-free network, a gated cell whose every orbit without input decays to zero."""

from typing import Any

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


class ChaosFreeCell(eqx.Module):
    """One step of the chaos-free network.

        θ = σ(V_θ u + U_θ h + b_θ),   η = σ(V_η u + U_η h + b_η)
        h' = θ tanh(h) + η tanh(W u)

    Without input every |h_i| shrinks, |h_i'| = θ_i tanh |h_i| < |h_i|, so zero is the only fixed point, it attracts
    everything, and there is neither cycle nor chaos. Rows of `weight_hh` (2H, H) and `bias` (2H,) are in the order
    θ, η; of `weight_ih` (3H, I) in the order θ, η, then W. The state is `h`, of shape (H,).

    Reference: Laurent and von Brecht, 2017 (arXiv 2016), "A recurrent neural network without chaos".
    """

    weight_ih: Float[Array, "VH I"]
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
        - `weight_ih_init`, `weight_hh_init`: drawn per gate, uniform on ±1/√H when not given; `bias_init`: called
            once for (2H,); when not given b_θ = 1 and b_η = -1, as in the paper.
        - `dtype`: of the weights; JAX's default float when not given.
        - `key`: a `jax.random.key` from which the weights are drawn.
        """
        check_sizes(input_size, hidden_size)
        ih_key, hh_key, bias_key = jax.random.split(key, 3)
        dtype = jnp.result_type(float) if dtype is None else dtype
        size, default = hidden_size, inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw_blocks("weight_ih_init", weight_ih_init or default, ih_key, 3, (size, input_size), dtype)
        self.weight_hh = draw_blocks("weight_hh_init", weight_hh_init or default, hh_key, 2, (size, size), dtype)
        self.bias = draw("bias_init", bias_init or _open_forget_gate, bias_key, (2 * size,), dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size

    @classmethod
    def from_weights(cls, weight_ih: Numbers, weight_hh: Numbers, bias: Numbers) -> "ChaosFreeCell":
        """The cell with these weights: `weight_ih` (3H, I), `weight_hh` (2H, H), `bias` (2H,).

        **Raises:** `ValueError` for a weight of another shape, or with NaN or infinity.
        """
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        return build_with_weights(
            cls,
            {"input_size": input_size, "hidden_size": hidden_size},
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
        from_input = self.weight_ih @ input
        gates = jax.nn.sigmoid(from_input[: 2 * self.hidden_size] + self.weight_hh @ state + self.bias)
        theta, eta = jnp.split(gates, 2)
        return theta * jnp.tanh(state) + eta * jnp.tanh(from_input[2 * self.hidden_size :])

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> tuple[Float[Array, " H"], Float[Array, " H"]]:
        """A box that every state enters in one step, and so holds every fixed point and cycle.

        Gates lie between 0 and 1, so |h'| <= |tanh(h)| + |tanh(W u)| <= 1 + |tanh(W u)|, whatever h was.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        lower, upper = input_bounds(input, self.input_size)
        weight = self.weight_ih[2 * self.hidden_size :]
        middle, radius = (lower + upper) / 2, (upper - lower) / 2
        reach = 1 + jnp.tanh(jnp.abs(weight @ middle) + jnp.abs(weight) @ radius)
        return -reach, reach


def _open_forget_gate(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
    del key
    ones = jnp.ones(shape[0] // 2, dtype)
    return jnp.concatenate([ones, -ones])
