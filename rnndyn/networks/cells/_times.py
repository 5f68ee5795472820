"""Time constants of cells: fixed numbers, or arrays that are trained."""

from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn.networks.cells.checks import check_hidden

Time = float | Float[Array, ""] | Float[Array, " H"]


def fixed_or_trained(value: Any, dtype: Any) -> Any:
    """A number as a float, which no gradient reaches; anything else as an array of `dtype`."""
    return float(value) if isinstance(value, int | float) else jnp.asarray(value, dtype)


def check_times(dt: Any, hidden_size: int, **constants: Any) -> None:
    """Raise unless `dt` is positive and every time constant one number, or one for each unit, of at least `dt`."""
    if not dt > 0:
        raise ValueError(f"dt: expected a positive step, got {dt}.")
    for name, tau in constants.items():
        if np.shape(tau) not in ((), (hidden_size,)):
            raise ValueError(f"{name}: expected a number or shape ({hidden_size},), got shape {np.shape(tau)}.")
        if not isinstance(tau, jax.core.Tracer) and not np.all(np.asarray(tau) >= dt):
            raise ValueError(f"{name}: expected time constants of at least dt = {dt}, got {tau}. Try a smaller dt.")


def longest_step(dt: Any, *constants: Any) -> Any:
    """`dt` in units of the longest of some time constants."""
    if all(isinstance(tau, float) for tau in constants):
        return dt / max(constants)
    largest = jnp.max(jnp.stack([jnp.max(jnp.asarray(tau)) for tau in constants]))
    return dt / largest


def check_variables(state: Any, names: tuple[str, ...], hidden_size: int) -> tuple[Array, ...]:
    """The variables of a state, as arrays; raises unless they are that many floating-point vectors (H,)."""
    if not isinstance(state, tuple | list) or len(state) != len(names):
        raise ValueError(
            f"state: expected the tuple ({', '.join(names)}), got a {type(state).__name__}"
            + (f" of {len(state)}." if isinstance(state, tuple | list) else ".")
            + " Start from cell.initial_state()."
        )
    for index, leaf in enumerate(state):
        check_hidden(leaf, hidden_size, f"state[{index}]")
    return tuple(jnp.asarray(leaf) for leaf in state)
