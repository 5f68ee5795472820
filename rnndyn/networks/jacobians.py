"""The Jacobian of one step of every cell in closed form: the factors that backpropagation multiplies."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn.networks.adapters import as_cell, check_transition
from rnndyn.networks.cells.activations import activation_derivative
from rnndyn.networks.cells.chaos_free import ChaosFreeCell
from rnndyn.networks.cells.dropout import without_dropout
from rnndyn.networks.cells.gru import GRUCell
from rnndyn.networks.cells.leaky import LeakyCell
from rnndyn.networks.cells.low_rank import LowRankCell
from rnndyn.networks.cells.lstm import LSTMCell
from rnndyn.networks.cells.piecewise_linear import PiecewiseLinearCell
from rnndyn.networks.cells.vanilla import VanillaCell
from rnndyn.networks.flat_state import flat_state


def step_jacobian(cell: Any, state: Any, input: Any) -> Float[Array, "N N"]:
    r"""The derivative of the next state with respect to the state, by the formula of the cell where there is one.

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

    - `cell`: a cell of one of these families, `equinox.nn.LSTMCell` or `GRUCell`, or any other cell, a subclass of
        these included, or function `(state, input) -> state`: without a formula of its own the derivative comes from
        autodiff.
    - `state`: a state of the cell; leaves (H,).
    - `input`: shape (I,).

    **Returns:** the matrix (N, N), on the flat state that `rnndyn.as_driven_map(cell)` works on ([h, c] for an LSTM).

    **Raises:** `ValueError` for what is no cell, or what the cell refuses.

    Pure: `jax.vmap` over a trajectory gives all factors. A rectifier at exactly 0 counts as off, as in JAX. Slopes
    of an activation given as a callable come from autodiff. Precision: `rnndyn.networks.precision`.

    ??? cite "Reference"
        S. Hochreiter (1991), "Untersuchungen zu dynamischen neuronalen Netzen"; R. Pascanu, T. Mikolov & Y. Bengio
        (2013), "On the difficulty of training recurrent neural networks", ICML.
    """
    cell = without_dropout(as_cell(cell, state_like=state))
    input = None if input is None else jnp.asarray(input)
    state_like, state = state, check_transition(cell, state, input)
    # By exact type: a subclass of a known cell has a step of its own.
    formula = _FORMULAS.get(type(cell))
    if formula is not None:
        return formula(cell, state, input)
    flat = flat_state(cell, state_like)
    return jax.jacfwd(lambda x: flat.flatten(cell(flat.unflatten(x), input)))(flat.flatten(state))


_FORMULAS: dict[type, Callable[..., Array]] = {}


def _formula_of(kind: type) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    def register(formula: Callable[..., Array]) -> Callable[..., Array]:
        _FORMULAS[kind] = formula
        return formula

    return register


@_formula_of(VanillaCell)
def _vanilla(cell, state, input):
    a = cell.weight_ih @ input + cell.weight_hh @ state + cell.bias
    return _scale_rows(activation_derivative(cell.activation, a), cell.weight_hh)


@_formula_of(LowRankCell)
def _low_rank(cell, state, input):
    a = cell.weight_ih @ input + cell.left @ (cell.right.T @ state) / cell.hidden_size + cell.bias
    return _scale_rows(activation_derivative(cell.activation, a), cell.left) @ cell.right.T / cell.hidden_size


@_formula_of(LeakyCell)
def _leaky(cell, state, input):
    alpha = jnp.broadcast_to(jnp.asarray(cell.alpha, state.dtype), state.shape)
    if cell.state_variable == "rate":
        a = cell.weight_ih @ input + cell.weight_hh @ state + cell.bias
        target = _scale_rows(activation_derivative(cell.activation, a), cell.weight_hh)
    else:
        target = cell.weight_hh * activation_derivative(cell.activation, state)
    return jnp.diag(1 - alpha) + _scale_rows(alpha, target)


@_formula_of(LSTMCell)
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


@_formula_of(GRUCell)
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


@_formula_of(ChaosFreeCell)
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


@_formula_of(PiecewiseLinearCell)
def _piecewise_linear(cell, state, input):
    return cell.affine_map(cell.pattern(state), input)[0]


def _scale_rows(scale: Float[Array, " M"], matrix: Float[Array, "M K"]) -> Float[Array, "M K"]:
    return scale[:, None] * matrix
