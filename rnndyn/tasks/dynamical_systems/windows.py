"""Stretches of series from random places, for training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.dynamical_systems.series import values_of


class SeriesWindows(eqx.Module):
    """Stretches of series from random places: what `rnndyn.fit` takes as `batches`, a pure function of a key.

    `windows(key)` has shape (B, T + 1, N): the first entry is where a run starts, the T others are what it should give.
    """

    values: Float[Array, "K S N"]
    num_steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __init__(self, series: Any, num_steps: int, batch_size: int, *, dtype: Any = None):
        """
        **Arguments:**

        - `series`: a `Series`, or arrays that `as_series` takes.
        - `num_steps`: T, the steps of a stretch.
        - `batch_size`: B.
        - `dtype`: of the stretches; JAX's default float when not given.

        **Raises:** `ValueError` for series shorter than T + 1 samples, or what `as_series` refuses.
        """
        values = values_of(series)
        check_at_least("num_steps", num_steps, 1)
        check_at_least("batch_size", batch_size, 1)
        if values.shape[1] < num_steps + 1:
            raise ValueError(
                f"num_steps: a stretch of {num_steps} steps has {num_steps + 1} samples; the series have only "
                f"{values.shape[1]}."
            )
        self.values = jnp.asarray(values, jnp.result_type(float) if dtype is None else dtype)
        self.num_steps = num_steps
        self.batch_size = batch_size

    def __call__(self, key: PRNGKeyArray) -> Float[Array, "B T1 N"]:
        series_key, place_key = jax.random.split(key)
        num_series, length, _ = self.values.shape
        which = jax.random.randint(series_key, (self.batch_size,), 0, num_series)
        places = jax.random.randint(place_key, (self.batch_size,), 0, length - self.num_steps)
        cut = lambda k, place: jax.lax.dynamic_slice_in_dim(self.values[k], place, self.num_steps + 1)
        return jax.vmap(cut)(which, places)
