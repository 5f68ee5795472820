"""The Jacobian of one step of every cell in closed form: the factors that backpropagation multiplies."""

from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn.networks.adapters import as_cell, check_transition
from rnndyn.networks.cells.activations import activation_derivative
from rnndyn.networks.cells.chaos_free import ChaosFreeCell
from rnndyn.networks.cells.gru import GRUCell
from rnndyn.networks.cells.leaky import LeakyCell
from rnndyn.networks.cells.low_rank import LowRankCell
from rnndyn.networks.cells.lstm import LSTMCell
from rnndyn.networks.cells.piecewise_linear import PiecewiseLinearCell
from rnndyn.networks.cells.vanilla import VanillaCell


def step_jacobian(cell: Any, state: Any, input: Any) -> Float[Array, "N N"]:
    r"""The derivative of the next state with respect to the state, by the formula of the cell.

    With a the pre-activation of the step, σ' and φ' taken there, and D(v) the diagonal matrix of v:

        vanilla           D(φ'(a)) W_hh
        low-rank          D(φ'(a)) M Nᵀ / H
        leaky, rate       D(1 - α) + D(α φ'(a)) W_hh
        leaky, current    D(1 - α) + D(α) W_hh D(φ'(x))
        LSTM, on [h, c]   ∂c'/∂c = D(f),  ∂c'/∂h = D(c f') U_f + D(g i') U_i + D(i g') U_g,
                          ∂h'/∂c = D(o (1 - tanh² c')) ∂c'/∂c,
                          ∂h'/∂h = D(o (1 - tanh² c')) ∂c'/∂h + D(o' tanh c') U_o
        GRU               D(z) + D((h - n) z') U_z + D(1 - z) ∂n/∂h,
          reset after     ∂n/∂h = D(1 - n²) [D(r) U_n + D((U_n h + bias_n) r') U_r]
          reset before    ∂n/∂h = D(1 - n²) U_n [D(r) + D(h r') U_r]
        chaos-free        D(θ (1 - tanh² h)) + D(θ' tanh h) U_θ + D(η' tanh(W u)) U_η
        piecewise-linear  A + W D(on), the matrix of the linear region of z

    What the formulas show: in the vanilla cell every path back in time goes through W_hh and a slope φ' <= 1; the
    LSTM and the GRU add a path of its own to each unit, D(f) or D(z), that a gate holds open.

    **Arguments:**

    - `cell`: a cell of one of these families, or `equinox.nn.LSTMCell` or `GRUCell`.
    - `state`: a state of the cell; leaves (H,).
    - `input`: shape (I,).

    **Returns:** the matrix (N, N), on the flat state that `rnndyn.as_driven_map(cell)` works on ([h, c] for an LSTM).

    **Raises:** `ValueError` for another kind of cell, or what the cell refuses.

    Pure: `jax.vmap` over a trajectory gives all factors. A rectifier at exactly 0 counts as off, as in JAX. Slopes
    of an activation given as a callable come from autodiff.

    ??? cite "Reference"
        S. Hochreiter (1991), "Untersuchungen zu dynamischen neuronalen Netzen"; R. Pascanu, T. Mikolov & Y. Bengio
        (2013), "On the difficulty of training recurrent neural networks", ICML.
    """
    cell = as_cell(cell)
    if _jacobian.dispatch(type(cell)) is _jacobian.dispatch(object):
        raise ValueError(
            f"cell: no formula is known for a {type(cell).__name__}. By autodiff: "
            "g = rnndyn.as_driven_map(cell); jax.jacfwd(g)(g.flatten(state), input)."
        )
    state = check_transition(cell, state, input)
    return _jacobian(cell, state, jnp.asarray(input))


@singledispatch
def _jacobian(cell, state, input) -> Array:
    raise NotImplementedError(type(cell).__name__)


@_jacobian.register(VanillaCell)
def _vanilla(cell, state, input):
    a = cell.weight_ih @ input + cell.weight_hh @ state + cell.bias
    return _scale_rows(activation_derivative(cell.activation, a), cell.weight_hh)


@_jacobian.register(LowRankCell)
def _low_rank(cell, state, input):
    a = cell.weight_ih @ input + cell.left @ (cell.right.T @ state) / cell.hidden_size + cell.bias
    return _scale_rows(activation_derivative(cell.activation, a), cell.left) @ cell.right.T / cell.hidden_size


@_jacobian.register(LeakyCell)
def _leaky(cell, state, input):
    alpha = jnp.broadcast_to(cell.dt / jnp.asarray(cell.tau, state.dtype), state.shape)
    if cell.state_variable == "rate":
        a = cell.weight_ih @ input + cell.weight_hh @ state + cell.bias
        target = _scale_rows(activation_derivative(cell.activation, a), cell.weight_hh)
    else:
        target = cell.weight_hh * activation_derivative(cell.activation, state)
    return jnp.diag(1 - alpha) + _scale_rows(alpha, target)


@_jacobian.register(LSTMCell)
def _lstm(cell, state, input):
    h, c = state
    pre = jnp.split(cell.weight_ih @ input + cell.weight_hh @ h + cell.bias, 4)
    u_i, u_f, u_g, u_o = jnp.split(cell.weight_hh, 4)
    i, f, o = (jax.nn.sigmoid(pre[k]) for k in (0, 1, 3))
    g = jnp.tanh(pre[2])
    tanh_c = jnp.tanh(f * c + i * g)
    c_by_h = _scale_rows(c * f * (1 - f), u_f) + _scale_rows(g * i * (1 - i), u_i) + _scale_rows(i * (1 - g**2), u_g)
    c_by_c = jnp.diag(f)
    passed = o * (1 - tanh_c**2)
    h_by_h = _scale_rows(passed, c_by_h) + _scale_rows(tanh_c * o * (1 - o), u_o)
    return jnp.block([[h_by_h, _scale_rows(passed, c_by_c)], [c_by_h, c_by_c]])


@_jacobian.register(GRUCell)
def _gru(cell, state, input):
    size = cell.hidden_size
    from_input = cell.weight_ih @ input + cell.bias
    u_r, u_z, u_n = jnp.split(cell.weight_hh, 3)
    r = jax.nn.sigmoid(from_input[:size] + u_r @ state)
    z = jax.nn.sigmoid(from_input[size : 2 * size] + u_z @ state)
    r_by_h = _scale_rows(r * (1 - r), u_r)
    if cell.bias_n is not None:
        recurrent = u_n @ state + cell.bias_n
        n = jnp.tanh(from_input[2 * size :] + r * recurrent)
        inner = _scale_rows(r, u_n) + _scale_rows(recurrent, r_by_h)
    else:
        n = jnp.tanh(from_input[2 * size :] + u_n @ (r * state))
        inner = u_n @ (jnp.diag(r) + _scale_rows(state, r_by_h))
    n_by_h = _scale_rows(1 - n**2, inner)
    return jnp.diag(z) + _scale_rows((state - n) * z * (1 - z), u_z) + _scale_rows(1 - z, n_by_h)


@_jacobian.register(ChaosFreeCell)
def _chaos_free(cell, state, input):
    size = cell.hidden_size
    from_input = cell.weight_ih @ input
    theta, eta = jnp.split(jax.nn.sigmoid(from_input[: 2 * size] + cell.weight_hh @ state + cell.bias), 2)
    u_theta, u_eta = jnp.split(cell.weight_hh, 2)
    tanh_h, tanh_u = jnp.tanh(state), jnp.tanh(from_input[2 * size :])
    return (
        jnp.diag(theta * (1 - tanh_h**2))
        + _scale_rows(tanh_h * theta * (1 - theta), u_theta)
        + _scale_rows(tanh_u * eta * (1 - eta), u_eta)
    )


@_jacobian.register(PiecewiseLinearCell)
def _piecewise_linear(cell, state, input):
    return cell.affine_map(cell.pattern(state), input)[0]


def _scale_rows(scale: Float[Array, " M"], matrix: Float[Array, "M K"]) -> Float[Array, "M K"]:
    return scale[:, None] * matrix
