"""Weight initialisers: functions `init(key, shape, dtype)`, as those of `jax.nn.initializers`.

Weights are stored (rows out, columns in), and a cell draws each gate's block by itself, so "orthogonal" or
"identity" hold for every gate. A bias initialiser is called once, with the shape of the whole bias.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.nn.initializers as jinit
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.precision import widest
from rnndyn.networks.random_numbers import normal_numbers, uniform_numbers

Initializer = Callable[..., Array]
"""Called as `init(key, shape, dtype)`."""


def zeros() -> Initializer:
    """All zeros."""
    return jinit.zeros


def constant(value: float) -> Initializer:
    """Every entry equal to `value`."""
    return jinit.constant(value)


def inverse_sqrt_uniform(hidden_size: int) -> Initializer:
    """Uniform on [-1/√H, 1/√H] with H = `hidden_size`: the default of PyTorch's and Equinox's recurrent cells."""
    check_at_least("hidden_size", hidden_size, 1)
    return uniform(1 / math.sqrt(hidden_size))


def uniform(bound: float) -> Initializer:
    """Uniform on [-`bound`, `bound`]."""

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return uniform_numbers(key, shape, jnp.result_type(float) if dtype is None else dtype, bound)

    return init


def gaussian(gain: float = 1.0) -> Initializer:
    """Independent normal entries of standard deviation `gain` / √N, N the number of columns.

    A tanh network x' = tanh(W x) of many such units leaves the origin for chaos at gain 1 (Sompolinsky, Crisanti
    and Sommers, 1988, "Chaos in random neural networks").
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
        scale = gain / math.sqrt(max(1, shape[-1]))
        return scale * normal_numbers(key, shape, jnp.result_type(float) if dtype is None else dtype)

    return init


def glorot_uniform() -> Initializer:
    """Uniform with variance 2 / (rows + columns) (Glorot and Bengio, 2010)."""
    return _for_possibly_no_columns(jinit.glorot_uniform(in_axis=-1, out_axis=-2))


def glorot_normal() -> Initializer:
    """Truncated normal with variance 2 / (rows + columns) (Glorot and Bengio, 2010)."""
    return _for_possibly_no_columns(jinit.glorot_normal(in_axis=-1, out_axis=-2))


def he_uniform() -> Initializer:
    """Uniform with variance 2 / columns, for ReLU units (He et al., 2015)."""
    return _for_possibly_no_columns(jinit.he_uniform(in_axis=-1, out_axis=-2))


def he_normal() -> Initializer:
    """Truncated normal with variance 2 / columns, for ReLU units (He et al., 2015)."""
    return _for_possibly_no_columns(jinit.he_normal(in_axis=-1, out_axis=-2))


def orthogonal(gain: float = 1.0) -> Initializer:
    """`gain` times a Haar-distributed orthogonal matrix, with orthonormal rows or columns when not square.

    All singular values equal `gain`, so a linear recurrence neither shrinks nor grows at gain 1 (Saxe, McClelland and
    Ganguli, 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks").
    """
    draw = jinit.orthogonal(scale=gain)

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
        # There is no QR decomposition of half-precision matrices; the drawn one is rounded.
        return draw(key, shape, widest(dtype, jnp.float32)).astype(dtype)

    return _for_possibly_no_columns(init)


def identity(gain: float = 1.0) -> Initializer:
    """`gain` times the identity matrix, for `weight_hh` (Le, Jaitly and Hinton, 2015: the IRNN, with ReLU units)."""

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
        del key
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"identity: expected a square weight, got shape {shape}. Use it for weight_hh.")
        return gain * jnp.eye(shape[0], dtype=dtype)

    return init


def forget_gate_bias(value: float = 1.0) -> Initializer:
    """An LSTM bias (4H,) that is `value` in the forget gate and zero elsewhere.

    The cell then remembers over about 1 + exp(`value`) steps at first (Gers, Schmidhuber and Cummins, 2000,
    "Learning to forget"; Jozefowicz, Zaremba and Sutskever, 2015).
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
        del key
        hidden_size = _gate_size("forget_gate_bias", shape, 4)
        return jnp.zeros(shape, dtype).at[hidden_size : 2 * hidden_size].set(value)

    return init


def chrono(max_time: float, cell: str = "lstm") -> Initializer:
    """Gate biases for memory times spread up to `max_time` steps.

        b_keep = log u,  u ~ Uniform(1, max_time - 1)

    so that a unit whose keeping gate f = σ(b_keep) forgets as (1 + u) steps. For the LSTM `b_keep` is the forget
    gate's bias and the input gate's is -b_keep; for the GRU, in which one gate does both, it is the bias of the
    update gate z. All other entries are zero.

    **Arguments:**

    - `max_time`: the longest dependency expected, in steps; above 2, and finite.
    - `cell`: `"lstm"` for a bias (4H,) in the order i, f, g, o, or `"gru"` for (3H,) in the order r, z, n.

    **Raises:** `ValueError` for `max_time` of 2 or less or infinity, or an unknown `cell`.

    Reference: Tallec and Ollivier, 2018, "Can recurrent neural networks warp time?".
    """
    if not 2 < max_time < math.inf:
        raise ValueError(f"max_time: expected more than 2 steps, and finitely many, got {max_time}.")
    if cell not in ("lstm", "gru"):
        raise ValueError(f"cell: expected 'lstm' or 'gru', got {cell!r}.")

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
        hidden_size = _gate_size("chrono", shape, 4 if cell == "lstm" else 3)
        dtype = jnp.result_type(float) if dtype is None else dtype
        # u = 1 + (max_time - 2) v by logarithms, and not in half precision: u itself may be past the largest number.
        v = jax.random.uniform(key, (hidden_size,), widest(dtype, jnp.float32))
        keep = jnp.logaddexp(0.0, math.log(max_time - 2) + jnp.log(v)).astype(dtype)
        bias = jnp.zeros(shape, dtype).at[hidden_size : 2 * hidden_size].set(keep)
        return bias.at[:hidden_size].set(-keep) if cell == "lstm" else bias

    return init


def _gate_size(name: str, shape: tuple[int, ...], num_gates: int) -> int:
    if len(shape) != 1 or shape[0] % num_gates:
        raise ValueError(f"{name}: expected a bias of shape ({num_gates}H,), got {shape}. Use it for that cell's bias.")
    return shape[0] // num_gates


def _for_possibly_no_columns(init: Initializer) -> Initializer:
    """`init`, except that a cell without input, whose weight has no columns, gets that empty weight."""

    def init_or_empty(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
        dtype = jnp.result_type(float) if dtype is None else dtype
        return jnp.zeros(shape, dtype) if 0 in shape else init(key, shape, dtype)

    return init_or_empty
