"""The built-in cells over a batch of sequences, forwards and backwards, written out: for speed alone.

Layout: inside, a batch is the last axis. `weights @ states (H, B)` is the form that XLA's CPU products are fastest in,
by up to two times where weights are large and batches small; the backward pass has the transposed weights written out
for the same reason. It keeps what the derivative needs, and forms the gradient of each weight as one product over all
steps and sequences instead of T small ones. Chosen by measurement: `benchmarks/training.py`, docs/performance.md.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnndyn.networks.cells.gru import GRUCell
from rnndyn.networks.cells.lstm import LSTMCell
from rnndyn.networks.cells.vanilla import VanillaCell


class Family(NamedTuple):
    """One kind of cell: names of its weights, and its two passes.

    - `forward(weights, start, inputs)`: weights as in the cell, start leaves (H, B), inputs (T, I, B) -> states, leaves
        (T, H, B), and what the backward pass needs, leaves (T, ..., B).
    - `backward(weights, start, inputs, states, kept, cotangents)`: inputs (T, B, I), states (T, B, H); -> gradients of
        weights, start (H, B), and inputs (T, I, B).
    """

    names: tuple[str, ...]
    forward: Callable[..., Any]
    backward: Callable[..., Any]


def family_of(cell: Any) -> tuple[Any, ...] | None:
    """What tells the family of a cell, hashable, or `None` for a cell without one. Exact types: a subclass has a step
    of its own."""
    if type(cell) is LSTMCell:
        return ("lstm",)
    if type(cell) is GRUCell and cell.reset == "after":
        return ("gru",)
    if type(cell) is VanillaCell and cell.activation in _SLOPES:
        return ("vanilla", cell.activation)
    return None


def family(kind: tuple[Any, ...]) -> Family:
    """The passes of a kind of cell, as `family_of` names it."""
    if kind[0] == "lstm":
        return Family(("weight_ih", "weight_hh", "bias"), _lstm_forward, _lstm_backward)
    if kind[0] == "gru":
        return Family(("weight_ih", "weight_hh", "bias", "bias_n"), _gru_forward, _gru_backward)
    activation, slope = _SLOPES[kind[1]]
    return Family(
        ("weight_ih", "weight_hh", "bias"),
        lambda *args: _vanilla_forward(activation, *args),
        lambda *args: _vanilla_backward(slope, *args),
    )


def _sigmoid(a: Array) -> Array:
    # One tanh: on a CPU 40 % less time than the logistic function, the same to rounding.
    half = jnp.asarray(0.5, a.dtype)
    return half * jnp.tanh(half * a) + half


_SLOPES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (jnp.tanh, lambda y: 1 - y * y),
    "sigmoid": (_sigmoid, lambda y: y * (1 - y)),
    "relu": (jax.nn.relu, lambda y: (y > 0).astype(y.dtype)),
    "identity": (lambda a: a, jnp.ones_like),
}
"""Activations whose slope follows from their value."""


def _vanilla_forward(activation: Callable, weights: Any, start: Any, inputs: Array) -> Any:
    weight_ih, weight_hh, bias = weights

    def step(h: Array, u: Array) -> tuple[Array, Array]:
        h = activation(weight_ih @ u + weight_hh @ h + bias[:, None])
        return h, h

    states = jax.lax.scan(step, start[0], inputs)[1]
    return (states,), (states,)


def _vanilla_backward(
    slope: Callable, weights: Any, start: Any, inputs: Array, states: Any, kept: Any, cotangents: Any
) -> Any:
    weight_ih, weight_hh, _ = weights
    turned = _written_out(weight_hh.T)

    def step(dh: Array, xs: Any) -> tuple[Array, Array]:
        wanted, h = xs
        da = (dh + wanted) * slope(h)
        return turned @ da, da

    dh, das = jax.lax.scan(step, jnp.zeros_like(start[0]), (cotangents[0], kept[0]), reverse=True)
    das = _rows(das)
    of_ih, of_hh = das @ _columns(inputs), das @ _columns(_before(start[0], states[0]))
    return (of_ih, of_hh, das.sum(axis=1)), (dh,), _input_gradient(weight_ih, das, inputs)


def _lstm_forward(weights: Any, start: Any, inputs: Array) -> Any:
    weight_ih, weight_hh, bias = weights
    size = weight_hh.shape[1]

    def step(state: Any, u: Array) -> tuple[Any, Any]:
        h, c = state
        a = weight_ih @ u + weight_hh @ h + bias[:, None]
        i, f, o = _sigmoid(a[:size]), _sigmoid(a[size : 2 * size]), _sigmoid(a[3 * size :])
        g = jnp.tanh(a[2 * size : 3 * size])
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (h, c), (h, c, i, f, g, o)

    h, c, *gates = jax.lax.scan(step, start, inputs)[1]
    return (h, c), (c, *gates)


def _lstm_backward(weights: Any, start: Any, inputs: Array, states: Any, kept: Any, cotangents: Any) -> Any:
    weight_ih, weight_hh, _ = weights
    turned = _written_out(weight_hh.T)
    cs, *gates = kept
    before = jnp.concatenate([start[1][None], cs[:-1]])

    def step(carry: Any, xs: Any) -> tuple[Any, Array]:
        dh, dc = carry
        (wanted_h, wanted_c), c, c_before, (i, f, g, o) = xs
        dh, tanh_c = dh + wanted_h, jnp.tanh(c)
        dc = dc + wanted_c + dh * o * (1 - tanh_c * tanh_c)
        da = jnp.concatenate(
            [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)]
        )
        return (turned @ da, dc * f), da

    zero = jax.tree.map(jnp.zeros_like, start)
    (dh, dc), das = jax.lax.scan(step, zero, (cotangents, cs, before, tuple(gates)), reverse=True)
    das = _rows(das)
    of_ih, of_hh = das @ _columns(inputs), das @ _columns(_before(start[0], states[0]))
    return (of_ih, of_hh, das.sum(axis=1)), (dh, dc), _input_gradient(weight_ih, das, inputs)


def _gru_forward(weights: Any, start: Any, inputs: Array) -> Any:
    weight_ih, weight_hh, bias, bias_n = weights
    size = weight_hh.shape[1]

    def step(h: Array, u: Array) -> tuple[Array, Any]:
        from_input, from_state = weight_ih @ u + bias[:, None], weight_hh @ h
        r = _sigmoid(from_input[:size] + from_state[:size])
        z = _sigmoid(from_input[size : 2 * size] + from_state[size : 2 * size])
        m = from_state[2 * size :] + bias_n[:, None]
        n = jnp.tanh(from_input[2 * size :] + r * m)
        before, h = h, n + z * (h - n)
        return h, (h, before, r, z, n, m)

    h, *kept = jax.lax.scan(step, start[0], inputs)[1]
    return (h,), tuple(kept)


def _gru_backward(weights: Any, start: Any, inputs: Array, states: Any, kept: Any, cotangents: Any) -> Any:
    weight_ih, weight_hh, _, _ = weights
    size = weight_hh.shape[1]
    turned = _written_out(weight_hh.T)

    def step(dh: Array, xs: Any) -> tuple[Array, Array]:
        wanted, (before, r, z, n, m) = xs
        dh = dh + wanted
        dn = dh * (1 - z) * (1 - n * n)
        dr, dz, dm = dn * m * r * (1 - r), dh * (before - n) * z * (1 - z), dn * r
        through_state = jnp.concatenate([dr, dz, dm])
        return dh * z + turned @ through_state, jnp.concatenate([through_state, dn])

    dh, das = jax.lax.scan(step, jnp.zeros_like(start[0]), (cotangents[0], kept), reverse=True)
    das = _rows(das)
    of_state, of_n = das[: 3 * size], das[3 * size :]
    of_input = jnp.concatenate([das[: 2 * size], of_n])
    of_ih, of_hh = of_input @ _columns(inputs), of_state @ _columns(_before(start[0], states[0]))
    gradients = (of_ih, of_hh, of_input.sum(axis=1), das[2 * size : 3 * size].sum(axis=1))
    return gradients, (dh,), _input_gradient(weight_ih, of_input, inputs)


def _before(start: Array, states: Array) -> Array:
    """The state (T, B, H) before every step."""
    return jnp.concatenate([start.T[None], states[:-1]])


def _columns(rows: Array) -> Array:
    """(T, B, K) as (T B, K): the right factor of a sum over steps and sequences."""
    return rows.reshape(-1, rows.shape[-1])


def _rows(das: Array) -> Array:
    """(T, G, B) as (G, T B), written out: as a transposed factor the product would take up to twice as long."""
    return _written_out(jnp.swapaxes(das, 0, 1).reshape(das.shape[1], -1))


def _written_out(matrix: Array) -> Array:
    """Keep XLA from taking the transposition into the product."""
    return jax.lax.optimization_barrier(matrix)


def _input_gradient(weight_ih: Array, das: Array, inputs: Array) -> Array:
    """(T, I, B), one product; XLA drops it where nobody asks for it."""
    num_steps, batch, width = inputs.shape
    return jnp.swapaxes((weight_ih.T @ das).reshape(width, num_steps, batch), 0, 1)
