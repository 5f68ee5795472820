"""Checks of what a caller passes in. Each raises a `ValueError` naming the argument, what came and what to try."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def check_state(name: str, x: Any) -> None:
    """Raise unless `x` is a floating-point vector of at least one entry."""
    shape, dtype = _shape_and_dtype(name, x)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"{name}: expected one state of shape (N,), got shape {shape}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{name}: expected floating-point entries, got {dtype}. Try {name}.astype(float); a complex state is "
            "passed as its real and imaginary parts."
        )


def check_states(name: str, x: Any, num_units: int | None = None) -> None:
    """Raise unless `x` is a non-empty floating-point array (K, N) without NaN or infinity."""
    shape, dtype = _shape_and_dtype(name, x)
    if len(shape) != 2 or shape[1] == 0:
        hint = f" For one state, pass {name}[None]." if len(shape) == 1 else ""
        raise ValueError(f"{name}: expected states of shape (K, N), got shape {shape}.{hint}")
    if shape[0] == 0:
        raise ValueError(f"{name}: expected at least one state, got an empty set of shape {shape}.")
    if num_units is not None and shape[1] != num_units:
        raise ValueError(f"{name}: expected states of {num_units} entries, got shape {shape}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}: expected floating-point entries, got {dtype}. Try {name}.astype(float).")
    bad = ~np.isfinite(np.asarray(x)).all(axis=1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{name}: {int(bad.sum())} of {shape[0]} states hold NaN or infinity (the first is row {first}). "
            "Drop them, or look at where they come from."
        )


def _shape_and_dtype(name: str, x: Any) -> tuple[tuple[int, ...], Any]:
    """The shape of `x` and the dtype that JAX gives it, lists and tuples of numbers included."""
    try:
        array = x if hasattr(x, "dtype") or np.ndim(x) == 0 else np.asarray(x)
        return np.shape(x), jnp.result_type(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array of numbers, got {x!r:.80}: {error}") from error


def check_map(f: Callable, x: Any, *args: Any, name: str = "f") -> None:
    """Raise unless `f(x, *args)` gives back an array of the shape and dtype of `x`. Traces `f`, runs nothing."""
    shape = tuple(np.shape(x))
    dtype = jnp.result_type(x)
    try:
        out = eqx.filter_eval_shape(f, jax.ShapeDtypeStruct(shape, dtype), *args)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: calling it on a state of shape {shape} failed: {error}. Expected a function of one state (N,)."
        ) from error
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise ValueError(
            f"{name}: expected one array of shape {shape}, got a {type(out).__name__}. A cell whose state is a tuple "
            "becomes a map on a flat state with rnndyn.as_map(cell, input)."
        )
    if out.shape != shape:
        raise ValueError(f"{name}: expected it to keep the shape {shape} of its state, got {out.shape}.")
    if out.dtype != dtype:
        raise ValueError(
            f"{name}: expected it to keep the dtype {dtype} of its state, got {out.dtype}. Cast inside {name}."
        )


def check_at_least(name: str, value: Any, least: int | float) -> None:
    """Raise unless the number `value` is at least `least`."""
    if not value >= least:
        raise ValueError(f"{name}: expected at least {least}, got {value}.")
