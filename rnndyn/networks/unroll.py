"""Running a cell over a sequence."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from rnndyn._arrays import as_array
from rnndyn._programs import compiled
from rnndyn._tracing import is_read_by_analyses
from rnndyn._validation import check_at_least
from rnndyn.networks.adapters import as_cell, check_transition, for_sequence, is_random, step_keys
from rnndyn.networks.cells.checks import check_weights
from rnndyn.networks.cells.dropout import without_dropout
from rnndyn.networks.fast_sequence import sequence
from rnndyn.networks.precision import zero_input


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
    fast: bool = True,
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
        `None` for an input of zeros. In which precision the states come is said in `rnndyn.networks.precision`.
    - `state`: the state to start from; `cell.initial_state()` when not given. It is differentiable, so an initial
        state is learned by passing a parameter. A plain function needs it.
    - `mask`: booleans (T,), true where the sequence has an entry. The state is held where it is false, and what
        `inputs` holds there, NaN included, has no influence, on states or gradients. So after the end of a padded
        sequence rows repeat its last state.
    - `reverse`: run from the last entry to the first; row t has then read u_{T-1}, ..., u_t. With a mask a padded
        sequence starts at its last valid entry, and the padding holds the initial state.
    - `num_steps`: T, when the input is held.
    - `remat_every`: keep for the gradient only the states, and recompute everything else inside a step in chunks of
        this many steps: about one more forward pass of time, and memory for the inner workings of one chunk instead
        of all T steps. √T is a good size.
    - `key`: for a cell with noise or dropout, a `jax.random.key`: step t draws from `jax.random.split(key, T)[t]`,
        what is drawn once for the sequence from `jax.random.fold_in(key, 2**31 - 1)`. Without a key nothing is random.
    - `fast`: whether `VanillaCell` (with a named activation but softplus), `LSTMCell` and `GRUCell` (reset after) may
        run by passes written out for them, forwards and backwards, the same to rounding; over a batch (`jax.vmap`) they
        take less time. It is so for plain runs in one dtype, float32 or float64: without mask, held input, noise and
        `remat_every`. False: always the plain scan.

    **Returns:** the states, of the structure of `state`, with leaves (T, ...).

    **Raises:** `ValueError` for an empty sequence, inputs of the wrong width, a mask of another length, a state
    of the wrong shape or of integers, a function that changes its state's shape, NaN in (untraced) weights, or a
    `key` for a cell that draws nothing.

    Everything is one loop: `jit`, `vmap` and differentiate it freely. Outside of `jit` it is compiled, and
    the cell checked, once for all cells and inputs of one structure, shape and dtype.
    """
    check_weights(cell)
    cell = as_cell(cell, state_like=state)
    inputs = _check_inputs(cell.input_size, inputs, num_steps)
    length = len(inputs) if num_steps is None else num_steps
    # Numbers become arrays: as part of the structure each would be compiled anew.
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, int | float) else leaf, state)
    if mask is not None:
        mask = check_mask(mask, length)
    if remat_every is not None:
        check_at_least("remat_every", remat_every, 1)
    if key is not None and not is_random(cell):
        raise ValueError(f"key: {type(cell).__name__} has no noise; call unroll without a key.")
    # Analyses read the equations of a map, and know JAX's own.
    fast = fast and not is_read_by_analyses()
    return scan_cell(cell, inputs, state, mask, key, reverse, length, num_steps is not None, remat_every, fast)


# Jitted here, with the cell as an argument, so that calls outside of any jit share one compilation. The checks of the
# cell trace it and are inside, where they run once for each compilation.
@compiled
def scan_cell(
    cell: Any,
    inputs: Array | None,
    state: PyTree | None,
    mask: Array | None,
    key: PRNGKeyArray | None,
    reverse: bool,
    length: int,
    is_held: bool,
    remat_every: int | None,
    fast: bool,
) -> PyTree:
    start = cell.initial_state() if state is None else state
    if inputs is None:
        inputs = zero_input(cell.input_size)
    start = check_transition(cell, start, inputs if is_held else inputs[0])
    cell = for_sequence(cell, key)
    keys = step_keys(cell, key, length)
    if fast and not is_held and mask is None and keys is None and remat_every is None:
        # Without a key nothing is dropped: a cell inside of dropout runs as it does alone.
        states = sequence(without_dropout(cell), start, inputs[::-1] if reverse else inputs)
        if states is not None:
            return jax.tree.map(lambda s: s[::-1], states) if reverse else states
    stand_in = inputs if mask is None or is_held else _first_entry(inputs, mask, reverse)

    def step(state: PyTree, xs: tuple[Any, Any, Any]) -> tuple[PyTree, PyTree]:
        input, is_valid, step_key = xs
        input = inputs if input is None else input
        before = state
        if is_valid is not None:
            # Where there is no entry the cell repeats the first step of the sequence, and the result is not used. What
            # is unused must still have a finite derivative, or 0 times it is NaN: this one has, if the sequence has.
            input = jnp.where(is_valid, input, stand_in)
            before = jax.tree.map(lambda s, first: jnp.where(is_valid, s, first), state, start)
        noise = {} if step_key is None else {"key": step_key}
        after = cell(before, input, **noise)
        if is_valid is not None:
            after = jax.tree.map(lambda new, old: jnp.where(is_valid, new, old), after, state)
        return after, after

    state = start
    xs = (None if is_held else inputs, mask, keys)
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


def _first_entry(inputs: Array, mask: Array, reverse: bool) -> Array:
    """The input that is read first where `mask` is true; zeros where it never is."""
    first = len(mask) - 1 - jnp.argmax(mask[::-1]) if reverse else jnp.argmax(mask)
    return jnp.where(mask[first], inputs[first], 0)


def _check_inputs(input_size: int | None, inputs: Any, num_steps: int | None) -> Any:
    """`inputs` as an array (T, I), or (I,) when it is held for `num_steps`; `None` for a held input of zeros."""
    width = "I" if input_size is None else input_size
    if num_steps is not None:
        check_at_least("num_steps", num_steps, 1)
        if inputs is None:
            if input_size is None:
                raise ValueError("inputs: the width of a plain function's input is not known; pass the held input.")
            return None
        if input_size is not None and jnp.shape(inputs) != (input_size,):
            raise ValueError(
                f"inputs: with num_steps, expected one held input of shape ({width},), got {jnp.shape(inputs)}."
            )
        return as_array(inputs)
    if inputs is None:
        raise ValueError("inputs: expected a sequence; to run without one, say for how long with num_steps.")
    shape = jnp.shape(inputs)
    if len(shape) == 0 or (input_size is not None and (len(shape) != 2 or shape[1] != input_size)):
        hint = ""
        if len(shape) == 3:
            hint = " For a batch, use jax.vmap over its leading axis."
        elif len(shape) == 1 and shape[0] == input_size:
            hint = " To hold one input, give num_steps."
        raise ValueError(f"inputs: expected one sequence of shape (T, {width}), got {shape}.{hint}")
    if shape[0] == 0:
        raise ValueError(f"inputs: expected at least one step, got an empty sequence of shape {shape}.")
    return as_array(inputs)


def check_mask(mask: Any, length: int, name: str = "mask") -> Array:
    """`mask` as an array; raises unless it has one boolean for each of `length` steps."""
    shape, dtype = jnp.shape(mask), jnp.result_type(mask)
    if shape != (length,) or dtype != jnp.bool_:
        hint = "" if dtype == jnp.bool_ else f" Try {name}.astype(bool)."
        raise ValueError(f"{name}: expected booleans of shape ({length},), got {dtype} of shape {shape}.{hint}")
    return as_array(mask)
