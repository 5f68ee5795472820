"""What a cell is, and how cells of other libraries become one: the only place that knows of foreign cells."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from rnndyn.networks.cells.claims import is_redefined
from rnndyn.networks.cells.gru import GRUCell
from rnndyn.networks.cells.lstm import LSTMCell
from rnndyn.networks.precision import widest

_ONCE_PER_SEQUENCE = 2**31 - 1
_METHODS = ("initial_state", "output", "state_bounds")


@runtime_checkable
class Cell(Protocol):
    """One step of a recurrent network. Whatever has these is a cell; there is nothing to inherit from.

    `input_size` is `None` when not known. Four things are optional:

    - a keyword `key` of the step, for a cell that draws at every step (noise: `LeakyCell`). Without a key it must be
      deterministic: that is what analyses and evaluation see;
    - a method `sample(key) -> cell`, for what is drawn once for a whole sequence (`DropoutCell`);
    - a method `effective_cell() -> cell`, for a cell whose step is that of another cell with weights computed from its
      own (`ConstrainedCell`): everything then works on that cell, and gradients pass through;
    - a property `time_step`, the time of one step in units of the (longest) time constant: `rnndyn.as_map(cell).dt`.
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

    function: Callable[..., Any]
    state_like: PyTree | None = None
    input_size: None = eqx.field(default=None, static=True)

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> Any:
        return self.function(state, input) if key is None else self.function(state, input, key=key)

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


class EquinoxCell(eqx.Module):
    """A subclass of `equinox.nn.GRUCell` or `LSTMCell`, which is called as `cell(input, state)`, as a cell.

    Its step is its own, so nothing that is known of its parent is taken over but the shape of the state.
    """

    cell: Any

    @property
    def input_size(self) -> int:
        """Entries of the input."""
        return self.cell.input_size

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> Any:
        return self.cell(input, state) if key is None else self.cell(input, state, key=key)

    def initial_state(self) -> PyTree:
        """Zeros, as the parent starts from."""
        zero = jnp.zeros(self.cell.hidden_size, jnp.result_type(self.cell.weight_hh))
        return (zero, zero) if isinstance(self.cell, eqx.nn.LSTMCell) else zero

    def output(self, state: Any) -> Any:
        """The hidden state h."""
        return state[0] if isinstance(self.cell, eqx.nn.LSTMCell) else state

    def state_bounds(self, input: Any) -> None:
        """`None`: nothing is known of another step."""


def as_cell(cell: Any, *, state_like: Any = None) -> Cell:
    """`cell` in the one form that rnndyn works with: `cell(state, input) -> state` and the methods of `Cell`.

    **Arguments:**

    - `cell`: a rnndyn cell or any object with the methods of `Cell`, which come back as they are;
        `equinox.nn.LSTMCell` or `equinox.nn.GRUCell` (which are called as `cell(input, state)`), which become the
        rnndyn cell with the same weights; a subclass of these, which keeps its own step; or any function
        `(state, input) -> state`.
    - `state_like`: for a function, a state (or tree of arrays) of the structure, shapes and dtypes of its states.

    **Returns:** the cell. Gradients with respect to the weights of `cell` pass through.

    **Raises:** `ValueError` when `cell` is not callable.
    """
    # Exact types: a subclass has a step of its own.
    if type(cell) is eqx.nn.LSTMCell:
        return LSTMCell.from_weights(cell.weight_ih, cell.weight_hh, _bias_or_zeros(cell.bias, cell.weight_ih))
    if type(cell) is eqx.nn.GRUCell:
        bias = _bias_or_zeros(cell.bias, cell.weight_ih)
        bias_n = cell.bias_n
        if bias_n is None:
            bias_n = np.zeros(cell.hidden_size, cell.weight_hh.dtype)
        return GRUCell.from_weights(cell.weight_ih, cell.weight_hh, bias, bias_n)
    if hasattr(type(cell), "effective_cell") and not is_redefined(cell, "effective_cell"):
        return as_cell(cell.effective_cell(), state_like=state_like)
    # Of the class first: to look methods up at an instance of an Equinox module takes half of an eager `unroll`.
    if (all(hasattr(type(cell), name) for name in _METHODS) and hasattr(cell, "input_size")) or isinstance(cell, Cell):
        return cell
    if isinstance(cell, eqx.nn.LSTMCell | eqx.nn.GRUCell):
        return EquinoxCell(cell)
    if not callable(cell):
        raise ValueError(f"cell: expected a cell or a function (state, input) -> state, got a {type(cell).__name__}.")
    return FunctionCell(cell, state_like)


def takes_key(cell: Any) -> bool:
    """Whether `cell`, or any function, can be called with a `key`: whether it draws at every step."""
    if type(cell) is FunctionCell:
        return takes_key(cell.function)
    if type(cell) is EquinoxCell:
        return takes_key(cell.cell)
    try:
        return "key" in inspect.signature(cell.__call__).parameters
    except ValueError:  # a function written in C
        return False


def draws_once(cell: Any) -> bool:
    """Whether `cell` has what is drawn once for a sequence."""
    return hasattr(type(cell), "sample") and not is_redefined(cell, "sample")


def is_random(cell: Any) -> bool:
    """Whether a key changes anything for `cell`."""
    return takes_key(cell) or draws_once(cell)


def step_keys(cell: Any, key: PRNGKeyArray | None, num_steps: int) -> Array | None:
    """The keys of the steps of a sequence, for a cell that draws at every step."""
    return None if key is None or not takes_key(cell) else jax.random.split(key, num_steps)


def for_sequence(cell: Any, key: PRNGKeyArray | None) -> Any:
    """`cell` with what stays the same over a sequence drawn: from `jax.random.fold_in(key, 2**31 - 1)`.

    The keys of the T steps are `jax.random.split(key, T)`. Without a key, or where there is nothing to draw, the cell
    comes back as it is.
    """
    return cell.sample(jax.random.fold_in(key, _ONCE_PER_SEQUENCE)) if key is not None and draws_once(cell) else cell


def check_transition(cell: Any, state: Any, input: Any) -> Any:
    """`state` in the dtype that `cell` gives it; raises unless `cell` keeps its structure, shapes and dtypes.

    The rule is that of `rnndyn.networks.precision`: a cell with float32 weights and a float64 input gives a float64
    state, so the state is promoted once, before any loop. Nothing is computed: the cell is only traced.
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
    # One variable of the state may widen the next one step later. Dtypes only grow, so this ends.
    while True:
        dtypes = jax.tree.map(lambda old, new: widest(old, new.dtype), state, after)
        if jax.tree.leaves(dtypes) == [jnp.result_type(leaf) for leaf in jax.tree.leaves(state)]:
            break
        state = jax.tree.map(jnp.asarray, state, dtypes)
        after = eqx.filter_eval_shape(cell, state, input)
    for old, new in zip(jax.tree.leaves(dtypes), jax.tree.leaves(after), strict=True):
        if old != new.dtype:
            raise ValueError(f"cell: expected it to keep the dtype {old} of its state, got {new.dtype}.")
    return jax.tree.map(jnp.asarray, state, dtypes)


def _bias_or_zeros(bias: Any, weight_ih: Any) -> Any:
    # NumPy, so that float64 weights that JAX cannot hold now get zeros of their own dtype.
    return np.zeros(weight_ih.shape[0], weight_ih.dtype) if bias is None else bias
