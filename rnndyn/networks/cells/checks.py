"""What every cell checks of its arguments: static shapes and dtypes, so that it costs nothing under `jit`."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from rnndyn._validation import check_at_least


def check_sizes(input_size: int, hidden_size: int) -> None:
    """Raise unless there is a unit, and a non-negative number of inputs (zero for an autonomous cell)."""
    check_at_least("input_size", input_size, 0)
    check_at_least("hidden_size", hidden_size, 1)


def check_input(input: Any, input_size: int) -> None:
    """Raise unless `input` is a vector of `input_size` entries."""
    shape = jnp.shape(input)
    if shape != (input_size,):
        hint = " A cell takes one input at a time: use rnndyn.unroll or jax.vmap." if len(shape) > 1 else ""
        raise ValueError(f"input: expected shape ({input_size},), got {shape}.{hint}")


def check_hidden(state: Any, hidden_size: int, name: str = "state") -> None:
    """Raise unless `state` is a floating-point vector of `hidden_size` entries."""
    if isinstance(state, tuple | list | dict) or state is None:
        raise ValueError(f"{name}: expected one array of shape ({hidden_size},), got a {type(state).__name__}.")
    shape, dtype = jnp.shape(state), jnp.result_type(state)
    if shape != (hidden_size,):
        hint = " A cell takes one state at a time: use jax.vmap for many." if len(shape) > 1 else ""
        raise ValueError(f"{name}: expected shape ({hidden_size},), got {shape}.{hint}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}: expected floating-point entries, got {dtype}. Try {name}.astype(float).")


def check_pair(state: Any, first_size: int, second_size: int) -> tuple[Any, Any]:
    """The two parts of a state `(h, c)`; raises unless they are floating-point vectors of these sizes."""
    if not isinstance(state, tuple | list) or len(state) != 2:
        kind = f"a {type(state).__name__}"
        if isinstance(state, tuple | list):
            kind += f" of {len(state)}"
        elif hasattr(state, "shape"):
            kind = f"an array of shape {np.shape(state)}"
        raise ValueError(f"state: expected the pair (h, c) of an LSTM, got {kind}. Start from cell.initial_state().")
    check_hidden(state[0], first_size, "state[0]")
    check_hidden(state[1], second_size, "state[1]")
    return state[0], state[1]


def check_weights(tree: Any, name: str = "cell") -> None:
    """Raise if an array of `tree` holds NaN or infinity. Traced arrays cannot be looked at and are passed over."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(leaf, jax.Array | np.ndarray) or isinstance(leaf, jax.core.Tracer):
            continue
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)}: holds NaN or infinity. Training may have diverged; look at the "
                "losses, or load the weights again."
            )
