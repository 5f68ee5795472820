"""Cells with layer normalisation: the vanilla, the LSTM and the GRU cell, each with its summed inputs normalised."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.networks.cells._weights import build_with_weights, draw, draw_blocks, sizes_of
from rnndyn.networks.cells.activations import Activation, activation_function, activation_range
from rnndyn.networks.cells.bounds import input_bounds
from rnndyn.networks.cells.checks import check_hidden, check_input, check_pair, check_sizes
from rnndyn.networks.cells.lstm import LSTMState
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers, widest

_EPSILON = 1e-5


def layer_norm(a: Float[Array, " M"], gain: Any) -> Float[Array, " M"]:
    """`gain` times the entries of `a` less their mean, over their standard deviation √(variance + 1e-5).

    The moments are taken in float32 at least, whatever the precision of `a`.
    """
    wide = a.astype(widest(a.dtype, jnp.float32))
    centred = wide - jnp.mean(wide)
    return gain * (centred / jnp.sqrt(jnp.mean(centred**2) + _EPSILON)).astype(a.dtype)


class LayerNormVanillaCell(eqx.Module):
    """One step of a vanilla network whose pre-activations are normalised.

        h' = φ(LN(W_ih u + W_hh h; g) + b),    LN(a; g) = g (a - mean a) / √(var a + 1e-5)

    The state is `h`, of shape (H,). Reference: Ba, Kiros and Hinton, 2016, "Layer normalization".
    """

    weight_ih: Float[Array, "H I"]
    weight_hh: Float[Array, "H H"]
    gain: Float[Array, " H"]
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
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:** as of `VanillaCell`. The gain starts at one and the bias at zero."""
        check_sizes(input_size, hidden_size)
        activation_function(activation)
        ih_key, hh_key = jax.random.split(key)
        dtype = jnp.result_type(float) if dtype is None else dtype
        default = inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, ih_key, (hidden_size, input_size), dtype)
        self.weight_hh = draw("weight_hh_init", weight_hh_init or default, hh_key, (hidden_size, hidden_size), dtype)
        self.gain, self.bias = jnp.ones(hidden_size, dtype), jnp.zeros(hidden_size, dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.activation = activation

    @classmethod
    def from_weights(
        cls,
        weight_ih: Numbers,
        weight_hh: Numbers,
        gain: Numbers,
        bias: Numbers,
        *,
        activation: Activation = "tanh",
    ) -> "LayerNormVanillaCell":
        """The cell with these weights: `weight_ih` (H, I), `weight_hh` (H, H), `gain` and `bias` (H,)."""
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        return build_with_weights(
            cls,
            {"input_size": input_size, "hidden_size": hidden_size, "activation": activation},
            {"weight_ih": weight_ih, "weight_hh": weight_hh, "gain": gain, "bias": bias},
        )

    def __call__(self, state: Any, input: Any) -> Float[Array, " H"]:
        """The next state of `state` (H,) and `input` (I,)."""
        check_hidden(state, self.hidden_size)
        check_input(input, self.input_size)
        summed = jnp.asarray(self.weight_ih @ input + self.weight_hh @ state)
        return activation_function(self.activation)(layer_norm(summed, self.gain) + self.bias)

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> tuple[Float[Array, " H"], Float[Array, " H"]] | None:
        """The range of the activation, as for `VanillaCell`; `None` where it is unbounded or not known."""
        input_bounds(input, self.input_size)
        bounds = activation_range(self.activation)
        if bounds is None:
            return None
        ones = jnp.ones(self.hidden_size, jnp.result_type(self.weight_hh))
        return bounds[0] * ones, bounds[1] * ones


class LayerNormLSTMCell(eqx.Module):
    """One step of an LSTM with layer normalisation.

        a = LN(W_ih u; g_ih) + LN(W_hh h; g_hh) + b,    i, f, o = σ(a),   g = tanh(a_g)
        c' = f c + i g,    h' = o tanh(LN(c'; g_c) + b_c)

    LN is over all 4H entries of a product, and over the H of c', as in the paper and in PyTorch's `LayerNormLSTMCell`
    example; rows are in the order i, f, g, o. The state is the pair `(h, c)`.

    Reference: Ba, Kiros and Hinton, 2016, "Layer normalization", equations 20-22.
    """

    weight_ih: Float[Array, "GH I"]
    weight_hh: Float[Array, "GH H"]
    bias: Float[Array, " GH"]
    gain_ih: Float[Array, " GH"]
    gain_hh: Float[Array, " GH"]
    gain_c: Float[Array, " H"]
    bias_c: Float[Array, " H"]
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
        """**Arguments:** as of `LSTMCell`; the biases start at zero when `bias_init` is not given, gains at one."""
        check_sizes(input_size, hidden_size)
        ih_key, hh_key, bias_key = jax.random.split(key, 3)
        dtype = jnp.result_type(float) if dtype is None else dtype
        size, default = hidden_size, inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw_blocks("weight_ih_init", weight_ih_init or default, ih_key, 4, (size, input_size), dtype)
        self.weight_hh = draw_blocks("weight_hh_init", weight_hh_init or default, hh_key, 4, (size, size), dtype)
        self.bias = draw("bias_init", bias_init or jax.nn.initializers.zeros, bias_key, (4 * size,), dtype)
        self.gain_ih, self.gain_hh = jnp.ones(4 * size, dtype), jnp.ones(4 * size, dtype)
        self.gain_c, self.bias_c = jnp.ones(size, dtype), jnp.zeros(size, dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size

    @classmethod
    def from_weights(
        cls,
        weight_ih: Numbers,
        weight_hh: Numbers,
        bias: Numbers,
        gain_ih: Numbers,
        gain_hh: Numbers,
        gain_c: Numbers,
        bias_c: Numbers,
    ) -> "LayerNormLSTMCell":
        """The cell with these weights; shapes: see the class (G = 4)."""
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        weights = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias, "gain_ih": gain_ih}
        weights |= {"gain_hh": gain_hh, "gain_c": gain_c, "bias_c": bias_c}
        return build_with_weights(cls, {"input_size": input_size, "hidden_size": hidden_size}, weights)

    def __call__(self, state: Any, input: Any) -> LSTMState:
        """The pair `(h, c)` one step after the pair `state`, with `input` (I,)."""
        h, c = check_pair(state, self.hidden_size, self.hidden_size)
        check_input(input, self.input_size)
        from_input = layer_norm(jnp.asarray(self.weight_ih @ input), self.gain_ih)
        from_state = layer_norm(jnp.asarray(self.weight_hh @ h), self.gain_hh)
        i, f, g, o = jnp.split(from_input + from_state + self.bias, 4)
        c_next = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(layer_norm(c_next, self.gain_c) + self.bias_c), c_next

    def initial_state(self) -> LSTMState:
        """The zero state, h and c."""
        zero = jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))
        return zero, zero

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: h."""
        return state[0]

    def state_bounds(self, input: Any) -> tuple[LSTMState, LSTMState]:
        """A box that the cell maps into itself and that holds every fixed point and cycle, whatever the input.

        Entries of a normalised vector of M entries are at most √(M - 1) in size, so a pre-activation is at most
        √(4H - 1) (|g_ih| + |g_hh|) + |b| away from zero; c is then bounded as in `LSTMCell.state_bounds`.
        """
        input_bounds(input, self.input_size)
        size, dtype = self.hidden_size, jnp.result_type(self.weight_hh)
        ones = jnp.ones(size, dtype)
        # Some roundings of the normalisation, of which each entry is a quotient of sums of 4H terms.
        slack = 1 + 16 * (4 * size + 4) * jnp.finfo(dtype).eps
        reach = slack * np.sqrt(4 * size - 1) * (jnp.abs(self.gain_ih) + jnp.abs(self.gain_hh)) + jnp.abs(self.bias)
        i_max, f_max, g_max, _ = jnp.split(reach, 4)
        c_max = jax.nn.sigmoid(i_max) * jnp.tanh(g_max) / jax.nn.sigmoid(-f_max) * (1 + 16 * jnp.finfo(dtype).eps)
        return (-ones, -c_max), (ones, c_max)


class LayerNormGRUCell(eqx.Module):
    """One step of a GRU with layer normalisation (reset "after").

        r, z = σ(LN(W_rz u; g_ih) + LN(U_rz h; g_hh) + b)
        n = tanh(LN(W_n u; g_ih) + b_n + r LN(U_n h; g_hh))
        h' = (1 - z) n + z h

    One LN is over the 2H entries of r and z, one over the H of n; rows are in the order r, z, n. The state is `h`.

    Reference: Ba, Kiros and Hinton, 2016, "Layer normalization", equations 27-29 (there h' = (1 - z) h + z n).
    """

    weight_ih: Float[Array, "GH I"]
    weight_hh: Float[Array, "GH H"]
    bias: Float[Array, " GH"]
    gain_ih: Float[Array, " GH"]
    gain_hh: Float[Array, " GH"]
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
        """**Arguments:** as of `GRUCell`; the bias starts at zero when `bias_init` is not given, gains at one."""
        check_sizes(input_size, hidden_size)
        ih_key, hh_key, bias_key = jax.random.split(key, 3)
        dtype = jnp.result_type(float) if dtype is None else dtype
        size, default = hidden_size, inverse_sqrt_uniform(hidden_size)
        self.weight_ih = draw_blocks("weight_ih_init", weight_ih_init or default, ih_key, 3, (size, input_size), dtype)
        self.weight_hh = draw_blocks("weight_hh_init", weight_hh_init or default, hh_key, 3, (size, size), dtype)
        self.bias = draw("bias_init", bias_init or jax.nn.initializers.zeros, bias_key, (3 * size,), dtype)
        self.gain_ih, self.gain_hh = jnp.ones(3 * size, dtype), jnp.ones(3 * size, dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size

    @classmethod
    def from_weights(
        cls, weight_ih: Numbers, weight_hh: Numbers, bias: Numbers, gain_ih: Numbers, gain_hh: Numbers
    ) -> "LayerNormGRUCell":
        """The cell with these weights; shapes: see the class (G = 3)."""
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        weights = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias, "gain_ih": gain_ih, "gain_hh": gain_hh}
        return build_with_weights(cls, {"input_size": input_size, "hidden_size": hidden_size}, weights)

    def __call__(self, state: Any, input: Any) -> Float[Array, " H"]:
        """The next state of `state` (H,) and `input` (I,)."""
        check_hidden(state, self.hidden_size)
        check_input(input, self.input_size)
        gates = slice(0, 2 * self.hidden_size), slice(2 * self.hidden_size, None)
        from_input, from_state = jnp.asarray(self.weight_ih @ input), jnp.asarray(self.weight_hh @ state)
        u_rz, u_n = (layer_norm(from_input[part], self.gain_ih[part]) for part in gates)
        h_rz, h_n = (layer_norm(from_state[part], self.gain_hh[part]) for part in gates)
        r, z = jnp.split(jax.nn.sigmoid(u_rz + h_rz + self.bias[gates[0]]), 2)
        n = jnp.tanh(u_n + self.bias[gates[1]] + r * h_n)
        return n + z * (state - n)

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> tuple[Float[Array, " H"], Float[Array, " H"]]:
        """The box [-1, 1], as for `GRUCell`: h' is an average of h and of an n inside of it."""
        input_bounds(input, self.input_size)
        ones = jnp.ones(self.hidden_size, jnp.result_type(self.weight_hh))
        return -ones, ones
