"""What a cell is, and how cells of other libraries become one: the only place that knows of foreign cells."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnndyn.networks.cells.gru import GRUCell
from rnndyn.networks.cells.lstm import LSTMCell


@runtime_checkable
class Cell(Protocol):
    """One step of a recurrent network. Whatever has these is a cell; there is nothing to inherit from.

    `input_size` is `None` when not known. A cell with noise takes a keyword `key` as well (see `LeakyCell`).
    """

    input_size: Any

    def __call__(self, state: Any, input: Any) -> Any:
        """The next state, of the structure, shapes and dtypes of `state`."""
        ...

    def initial_state(self) -> Any:
        """The state to start from when none is given."""
        ...

    def output(self, state: Any) -> Any:
        """The part of the state that a readout, or the next layer, sees."""
        ...

    def state_bounds(self, input: Any) -> Any:
        """`(lower, upper)`, two states between which the cell keeps its state and which hold every fixed point and
        cycle while `input` is held; `None` when there are none or they are not known.

        `input` may also be a pair of vectors between which the input stays.
        """
        ...


class FunctionCell(eqx.Module):
    """A function `(state, input) -> state` as a cell. The readout sees the whole state."""

    function: Callable[[Any, Any], Any]
    state_like: PyTree | None = None
    input_size: None = eqx.field(default=None, static=True)

    def __call__(self, state: Any, input: Any) -> Any:
        return self.function(state, input)

    def initial_state(self) -> PyTree:
        """Zeros like `state_like`.

        **Raises:** `ValueError` when no `state_like` was given.
        """
        if self.state_like is None:
            raise ValueError("state: a plain callable has no initial state of its own; pass one.")
        return jax.tree.map(jnp.zeros_like, self.state_like)

    def output(self, state: Any) -> Any:
        """The whole state."""
        return state

    def state_bounds(self, input: Any) -> None:
        """`None`: nothing is known of a plain function."""


def as_cell(cell: Any, *, state_like: Any = None) -> Cell:
    """`cell` in the one form that rnndyn works with: `cell(state, input) -> state` and the methods of `Cell`.

    **Arguments:**

    - `cell`: a rnndyn cell or any object with the methods of `Cell`, which come back as they are;
        `equinox.nn.LSTMCell` or `equinox.nn.GRUCell` (which are called as `cell(input, state)`), which become the
        rnndyn cell with the same weights; or any function `(state, input) -> state`.
    - `state_like`: for a function, a state (or tree of arrays) of the structure, shapes and dtypes of its states.

    **Returns:** the cell. Gradients with respect to the weights of `cell` pass through.

    **Raises:** `ValueError` when `cell` is not callable.
    """
    if isinstance(cell, eqx.nn.LSTMCell):
        return LSTMCell.from_weights(cell.weight_ih, cell.weight_hh, _bias_or_zeros(cell.bias, cell.weight_ih))
    if isinstance(cell, eqx.nn.GRUCell):
        bias = _bias_or_zeros(cell.bias, cell.weight_ih)
        bias_n = jnp.zeros(cell.hidden_size, cell.weight_hh.dtype) if cell.bias_n is None else cell.bias_n
        return GRUCell.from_weights(cell.weight_ih, cell.weight_hh, bias, bias_n)
    if isinstance(cell, Cell):
        return cell
    if not callable(cell):
        raise ValueError(f"cell: expected a cell or a function (state, input) -> state, got a {type(cell).__name__}.")
    return FunctionCell(cell, state_like)


def takes_key(cell: Cell) -> bool:
    """Whether `cell` can be called with a `key`, for noise."""
    return "key" in inspect.signature(cell.__call__).parameters


def check_transition(cell: Cell, state: Any, input: Any) -> Any:
    """`state` in the dtype that `cell` gives it; raises unless `cell` keeps its structure, shapes and dtypes.

    A cell with float32 weights and a float64 input gives a float64 state, so the state is promoted once, before any
    loop. Nothing is computed: the cell is only traced.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            name = f"state{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name}: expected floating-point entries, got {jnp.result_type(leaf)}.")
    try:
        after = eqx.filter_eval_shape(cell, state, input)
    except TypeError as error:
        raise ValueError(f"cell: calling it on the given state and input failed: {error}") from error
    if jax.tree.structure(after) != jax.tree.structure(state):
        raise ValueError(
            "cell: expected it to keep the structure of its state, "
            f"{jax.tree.structure(state)}, got {jax.tree.structure(after)}."
        )
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True):
        if np.shape(old) != new.shape:
            name = f"state{jax.tree_util.keystr(path)}"
            raise ValueError(f"cell: expected it to keep the shape {np.shape(old)} of {name}, got {new.shape}.")
    promoted = jax.tree.map(lambda old, new: jnp.asarray(old, jnp.result_type(old, new.dtype)), state, after)
    again = eqx.filter_eval_shape(cell, promoted, input)
    for old, new in zip(jax.tree.leaves(promoted), jax.tree.leaves(again), strict=True):
        if old.dtype != new.dtype:
            raise ValueError(f"cell: expected it to keep the dtype {old.dtype} of its state, got {new.dtype}.")
    return promoted


def _bias_or_zeros(bias: Any, weight_ih: Any) -> Any:
    return jnp.zeros(weight_ih.shape[0], weight_ih.dtype) if bias is None else bias
