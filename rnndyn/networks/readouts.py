"""What a readout makes of states: at every row, at the rows that exist, fed back, and with keys where it draws."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from rnndyn.networks.adapters import check_transition, takes_key
from rnndyn.networks.precision import widest


def readout_key(readout: Any, key: PRNGKeyArray | None) -> PRNGKeyArray | None:
    """The key of a readout that draws: apart from those of the cell, which are what `unroll` makes of `key`."""
    return jax.random.fold_in(key, 2**31 - 2) if key is not None and takes_key(readout) else None


def readout_keys(readout: Any, key: PRNGKeyArray | None, num_steps: int) -> Array | None:
    """The keys of the readout at all steps, for a readout that draws."""
    key = readout_key(readout, key)
    return None if key is None else jax.random.split(key, num_steps)


def read_all(read: Callable[..., Array], readout: Any, states: PyTree, *, key: PRNGKeyArray | None) -> Array:
    """The outputs of all rows, with a key each where the readout draws."""
    keys = readout_keys(readout, key, len(jax.tree.leaves(states)[0]))
    if keys is None:
        return jax.vmap(lambda state: read(state))(states)
    return jax.vmap(lambda state, key: read(state, key=key))(states, keys)


def at_entries(states: PyTree, mask: Any) -> PyTree:
    """Rows of `states` at the entries of a sequence: elsewhere the last row that was one, or else the first.

    A state that no entry has led to, such as the initial one, may have no finite derivative in the readout, and a loss
    that ignores its output would still get 0 times infinity.
    """
    if mask is None:
        return states
    mask = jnp.asarray(mask)
    last = jax.lax.cummax(jnp.where(mask, jnp.arange(len(mask)), -1))
    rows = jnp.where(last < 0, jnp.argmax(mask), last)
    return jax.tree.map(lambda s: s[rows], states)


def run_on_outputs(
    cell: Any,
    read: Callable[..., Array],
    feed_back: Callable[[Array], Array],
    state: Any,
    input: Any,
    num_steps: int,
    keys: tuple[Any, Any] = (None, None),
) -> Array:
    """Outputs `(num_steps, ...)` of `read` when `cell` reads `input` first and then what `feed_back` makes of them.

    `keys` are those of the steps of the cell and of the readout, `None` where nothing is drawn. The input has one dtype
    all the way, the one to which the first input and those fed back promote.
    """
    input = jnp.asarray(input)
    while True:
        state = check_transition(cell, state, input)
        fed_back = eqx.filter_eval_shape(lambda state, input: feed_back(read(cell(state, input))), state, input)
        if getattr(fed_back, "shape", None) != input.shape:
            raise ValueError(
                f"feed_back: expected it to give an input of shape {input.shape}, "
                f"got {getattr(fed_back, 'shape', type(fed_back).__name__)}."
            )
        dtype = widest(input, fed_back.dtype)
        if dtype == input.dtype:
            break
        input = input.astype(dtype)

    def step(carry: tuple[Any, Array], keys: tuple[Any, Any]) -> tuple[tuple[Any, Array], Array]:
        state, input = carry
        noise, noise_read = ({} if key is None else {"key": key} for key in keys)
        state = cell(state, input, **noise)
        output = read(state, **noise_read)
        return (state, jnp.asarray(feed_back(output), dtype)), output

    return jax.lax.scan(step, (state, input), keys, length=num_steps)[1]


def check_readout(readout: Callable[[Any], Array], *cells: Any) -> None:
    """Raise unless `readout` takes the outputs of `cells`, joined when there are several."""
    outputs = [eqx.filter_eval_shape(lambda cell=cell: cell.output(cell.initial_state())) for cell in cells]
    read = outputs[0] if len(outputs) == 1 else eqx.filter_eval_shape(jnp.concatenate, outputs)
    try:
        eqx.filter_eval_shape(readout, read)
    except (TypeError, ValueError) as error:
        shapes = " and ".join(str(getattr(output, "shape", output)) for output in outputs)
        raise ValueError(f"readout: it cannot read an output of shape {shapes}: {error}") from error
