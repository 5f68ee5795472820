"""Checks of series that are compared: each raises a `ValueError` naming the argument, what came and what to try."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def check_series(name: str, series: Any, *, least: int = 2, varies: bool = False, finite: bool = True) -> Array:
    """A series `(T, N)` as a floating-point array, once it is fit for a measure.

    Its numbers are looked at where there are any: not under `jit`.

    **Arguments:**

    - `name`: what the caller calls it.
    - `series`: what came.
    - `least`: how many rows it needs.
    - `varies`: whether a constant channel is an error.
    - `finite`: whether NaN and infinity are.
    """
    shape = np.shape(series)
    if len(shape) != 2 or shape[1] == 0:
        hint = f" One channel is {name}[:, None]." if len(shape) == 1 else ""
        hint = f" Trials are joined by {name}.reshape(-1, N)." if len(shape) == 3 else hint
        raise ValueError(f"{name}: expected a series of shape (T, N), got shape {shape}.{hint}")
    if shape[0] < least:
        raise ValueError(f"{name}: expected at least {least} rows, got {shape[0]}. It is too short for this measure.")
    dtype = series.dtype if hasattr(series, "dtype") else np.asarray(series).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}: expected floating-point entries, got {dtype}. Try {name}.astype(float).")
    if not isinstance(series, Tracer):
        check_values(name, np.asarray(series), varies=varies, finite=finite)
    return jnp.asarray(series)


def check_values(name: str, series: np.ndarray, *, varies: bool, finite: bool = True) -> None:
    """Raise for NaN or infinity and, where it has to vary, for a channel that does not."""
    bad = ~np.isfinite(series).all(axis=1)
    if finite and bad.any():
        raise ValueError(
            f"{name}: {int(bad.sum())} of {len(series)} rows hold NaN or infinity (the first is row "
            f"{int(np.flatnonzero(bad)[0])}). Cut the series there, or interpolate; compare_dynamics says what a copy "
            "that diverges is worth."
        )
    if varies:
        still = np.flatnonzero(is_constant(series))
        if still.size:
            raise ValueError(
                f"{name}: {still.size} of {series.shape[1]} channels are constant (the first is channel {still[0]}): "
                "they have no spread to be measured in. Drop them from both series."
            )


def is_constant(series: np.ndarray) -> np.ndarray:
    """Which channels of `(T, N)` do not vary beyond the rounding of their values."""
    spread = np.max(series, axis=0) - np.min(series, axis=0)
    return ~(spread > 8 * np.finfo(series.dtype).eps * np.max(np.abs(series), axis=0))


def check_pair(x: Any, y: Any, *, same_length: bool) -> None:
    """Raise unless two series have the same channels and, where it matters, the same number of rows."""
    if np.shape(x)[1] != np.shape(y)[1]:
        raise ValueError(
            f"y: expected the {np.shape(x)[1]} channels of x, got {np.shape(y)[1]}. Observe both through the same "
            "channels."
        )
    if same_length and np.shape(x)[0] != np.shape(y)[0]:
        raise ValueError(
            f"y: expected the {np.shape(x)[0]} rows of x, got {np.shape(y)[0]}. Series of different length, or "
            "sampled at different times, have no spectra in common: cut or resample one of them."
        )
