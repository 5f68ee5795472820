"""Running a cell over a sequence."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from rnndyn._validation import check_at_least
from rnndyn.networks.adapters import Cell, as_cell, check_transition, takes_key
from rnndyn.networks.cells.checks import check_weights


def unroll(
    cell: Any,
    inputs: Any,
    state: Any = None,
    mask: Any = None,
    reverse: bool = False,
    *,
    num_steps: int | None = None,
    remat_every: int | None = None,
    key: PRNGKeyArray | None = None,
) -> PyTree[Array]:
    """Run a cell over a sequence and return every state.

        s_{t+1} = cell(s_t, u_t),   t = 0, ..., T - 1;   row t of the result is s_{t+1}, the state that has read u_t

    Streaming, when inputs come one at a time, is calling the cell, which gives the same states:

    ```python
    states = rd.unroll(cell, inputs)
    state = cell.initial_state()
    for input in inputs:
        state = cell(state, input)  # the rows of `states`, one by one
    ```

    **Arguments:**

    - `cell`: a rnndyn cell, `equinox.nn.LSTMCell` or `GRUCell`, or any function `(state, input) -> state`.
    - `inputs`: shape (T, I), one sequence (`jax.vmap` for a batch). With `num_steps`, one input (I,) that is held, or
        `None` for an input of zeros.
    - `state`: the state to start from; `cell.initial_state()` when not given. It is differentiable, so an initial
        state is learned by passing a parameter. A plain function needs it.
    - `mask`: booleans (T,), true where the sequence has an entry. The state is held where it is false, and what
        `inputs` holds there, NaN included, has no influence. So after the end of a padded sequence rows repeat
        its last state.
    - `reverse`: run from the last entry to the first; row t has then read u_{T-1}, ..., u_t. With a mask a padded
        sequence starts at its last valid entry, and the padding holds the initial state.
    - `num_steps`: T, when the input is held.
    - `remat_every`: keep for the gradient only the states, and recompute everything else inside a step in chunks of
        this many steps: about one more forward pass of time, and memory for the inner workings of one chunk instead
        of all T steps. √T is a good size.
    - `key`: for a cell with noise, a `jax.random.key`, split into one key a step.

    **Returns:** the states, of the structure of `state`, with leaves (T, ...).

    **Raises:** `ValueError` for an empty sequence, inputs of the wrong width, a mask of another length, a state
    of the wrong shape or of integers, a function that changes its state's shape, NaN in (untraced) weights, or a
    `key` for a cell without noise.

    Everything is one `jax.lax.scan`: `jit`, `vmap` and differentiate it freely.
    """
    check_weights(cell)
    cell = as_cell(cell, state_like=state)
    inputs = _check_inputs(cell, inputs, num_steps)
    length = inputs.shape[0] if num_steps is None else num_steps
    if mask is not None:
        mask = _check_mask(mask, length)
    if remat_every is not None:
        check_at_least("remat_every", remat_every, 1)
    if key is not None and not takes_key(cell):
        raise ValueError(f"key: {type(cell).__name__} has no noise; call unroll without a key.")
    state = cell.initial_state() if state is None else state
    state = check_transition(cell, state, inputs[0] if num_steps is None else inputs)
    keys = None if key is None else jax.random.split(key, length)
    return _scan(cell, inputs, state, mask, keys, reverse, num_steps, remat_every)


# Jitted here, with the cell as an argument, so that calls outside of any jit share one compilation.
@eqx.filter_jit
def _scan(
    cell: Cell,
    inputs: Array,
    state: PyTree,
    mask: Array | None,
    keys: Array | None,
    reverse: bool,
    num_steps: int | None,
    remat_every: int | None,
) -> PyTree:
    def step(state: PyTree, xs: tuple[Any, Any, Any]) -> tuple[PyTree, PyTree]:
        input, is_valid, step_key = xs
        input = inputs if input is None else input
        if is_valid is not None:
            # Zeros in place of the padding: a NaN there would come back through the gradient of the unused branch.
            input = jnp.where(is_valid, input, 0)
        noise = {} if step_key is None else {"key": step_key}
        after = cell(state, input, **noise)
        if is_valid is not None:
            after = jax.tree.map(lambda new, old: jnp.where(is_valid, new, old), after, state)
        return after, after

    length = inputs.shape[0] if num_steps is None else num_steps
    xs = (inputs if num_steps is None else None, mask, keys)
    if remat_every is None:
        return jax.lax.scan(step, state, xs, length=length, reverse=reverse)[1]
    return _scan_in_chunks(step, state, xs, length, reverse, min(remat_every, length))


def _scan_in_chunks(step: Any, state: PyTree, xs: PyTree, length: int, reverse: bool, size: int) -> PyTree:
    """The trajectory of `step`, rematerialised in chunks of `size`; the remainder is a shorter chunk at the end."""
    num_chunks = length // size
    whole = num_chunks * size

    def run(state: PyTree, xs: PyTree, length: int) -> tuple[PyTree, PyTree]:
        scan = jax.checkpoint(lambda state, xs: jax.lax.scan(step, state, xs, length=length, reverse=reverse))
        return scan(state, xs)

    def run_chunks(state: PyTree) -> tuple[PyTree, PyTree]:
        chunks = jax.tree.map(lambda x: x[:whole].reshape(num_chunks, size, *x.shape[1:]), xs)
        state, states = jax.lax.scan(
            lambda state, xs: run(state, xs, size), state, chunks, length=num_chunks, reverse=reverse
        )
        return state, jax.tree.map(lambda s: s.reshape(whole, *s.shape[2:]), states)

    if whole == length:
        return run_chunks(state)[1]
    tail = jax.tree.map(lambda x: x[whole:], xs)
    if reverse:
        state, last = run(state, tail, length - whole)
        _, first = run_chunks(state)
    else:
        state, first = run_chunks(state)
        _, last = run(state, tail, length - whole)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, last)


def _check_inputs(cell: Cell, inputs: Any, num_steps: int | None) -> Array:
    """`inputs` as an array, after a check of its shape: (T, I), or (I,) when it is held for `num_steps`."""
    width = "I" if cell.input_size is None else cell.input_size
    if num_steps is not None:
        check_at_least("num_steps", num_steps, 1)
        if inputs is None:
            if cell.input_size is None:
                raise ValueError("inputs: the width of a plain function's input is not known; pass the held input.")
            return jnp.zeros(cell.input_size)
        if cell.input_size is not None and jnp.shape(inputs) != (cell.input_size,):
            raise ValueError(
                f"inputs: with num_steps, expected one held input of shape ({width},), got {jnp.shape(inputs)}."
            )
        return jnp.asarray(inputs)
    if inputs is None:
        raise ValueError("inputs: expected a sequence; to run without one, say for how long with num_steps.")
    shape = jnp.shape(inputs)
    if len(shape) == 0 or (cell.input_size is not None and (len(shape) != 2 or shape[1] != cell.input_size)):
        hint = ""
        if len(shape) == 3:
            hint = " For a batch, use jax.vmap over its leading axis."
        elif len(shape) == 1 and shape[0] == cell.input_size:
            hint = " To hold one input, give num_steps."
        raise ValueError(f"inputs: expected one sequence of shape (T, {width}), got {shape}.{hint}")
    if shape[0] == 0:
        raise ValueError(f"inputs: expected at least one step, got an empty sequence of shape {shape}.")
    return jnp.asarray(inputs)


def _check_mask(mask: Any, length: int) -> Array:
    if jnp.shape(mask) != (length,):
        raise ValueError(f"mask: expected one boolean per step, shape ({length},), got {jnp.shape(mask)}.")
    if jnp.result_type(mask) != jnp.bool_:
        raise ValueError(f"mask: expected booleans, got {jnp.result_type(mask)}. Try mask.astype(bool).")
    return jnp.asarray(mask)
