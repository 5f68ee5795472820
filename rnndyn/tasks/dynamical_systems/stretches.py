"""Stretches: pieces of series with what belongs to them, as the losses of training take them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int


class Stretches(NamedTuple):
    """Stretches of series with what belongs to them; without the axis B, one of them."""

    values: Float[Array | np.ndarray, "B T1 N"]
    """The samples."""
    inputs: Float[Array | np.ndarray, "B T I"] | None = None
    """What drives the step from each sample to the next."""
    series: Int[Array | np.ndarray, " B"] | None = None
    """The numbers of the series that they are from."""
    observed: Bool[Array | np.ndarray, "B T1 N"] | None = None
    """Which entries were measured; what `values` holds elsewhere, NaN included, has no influence. `None`: all."""


def without_missing(stretches: Any, name: str = "batch") -> Stretches:
    """Stretches (or an array of values) with zeros where nothing was measured, so that no NaN meets a gradient.

    **Raises:** `ValueError` for a mask of another shape; for NaN where something was, if values can be looked at.
    """
    if not isinstance(stretches, Stretches):
        stretches = Stretches(jnp.asarray(stretches))
    if stretches.observed is None:
        _check_finite(name, stretches.values, "Say what was measured: Stretches(values, observed=mask).")
        return stretches
    observed = jnp.asarray(stretches.observed)
    if observed.shape != jnp.shape(stretches.values) or observed.dtype != jnp.bool_:
        raise ValueError(
            f"{name}: observed needs a boolean for each entry of values, {jnp.shape(stretches.values)}, got "
            f"{observed.dtype} of shape {observed.shape}."
        )
    values = jnp.where(observed, stretches.values, 0)
    _check_finite(name, values, "They are marked as measured.")
    return stretches._replace(values=values, observed=observed)


def _check_finite(name: str, values: Any, hint: str) -> None:
    if not isinstance(values, Tracer):
        bad = int(np.sum(~np.isfinite(np.asarray(values))))
        if bad:
            raise ValueError(f"{name}: {bad} entries are NaN or infinity. {hint}")
