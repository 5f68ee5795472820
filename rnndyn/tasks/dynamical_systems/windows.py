"""Stretches of series from random places, for training."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.dynamical_systems.series import values_of


class Stretches(NamedTuple):
    """Stretches of series with what belongs to them; without the axis B, one of them."""

    values: Float[Array | np.ndarray, "B T1 N"]
    """The samples."""
    inputs: Float[Array | np.ndarray, "B T I"] | None
    """What drives the step from each sample to the next."""
    series: Int[Array | np.ndarray, " B"] | None
    """The numbers of the series that they are from."""


class SeriesWindows(eqx.Module):
    """Stretches of series from random places: what `rnndyn.fit` takes as `batches`, a pure function of a key.

    `windows(key)` has shape (B, T + 1, N): the first entry is where a run starts, the T others are what it should give.
    With inputs or numbers of series it is a `Stretches` of these.
    """

    values: Float[Array, "K S N"]
    inputs: Float[Array, "K S I"] | None
    num_steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    with_series: bool = eqx.field(static=True)

    def __init__(
        self,
        series: Any,
        num_steps: int,
        batch_size: int,
        *,
        inputs: Any = None,
        with_series: bool = False,
        dtype: Any = None,
    ):
        """
        **Arguments:**

        - `series`: a `Series`, or arrays that `as_series` takes.
        - `num_steps`: T, the steps of a stretch.
        - `batch_size`: B.
        - `inputs`: external inputs at the times of the samples, (K, S, I), or (S, I) of one series: the input at a
            sample drives the step to the next one.
        - `with_series`: whether to say from which series each stretch is, for `rnndyn.training.per_series`.
        - `dtype`: of the stretches; JAX's default float when not given.

        **Raises:** `ValueError` for series shorter than T + 1 samples, inputs of another shape or with NaN, or what
        `as_series` refuses.
        """
        values = values_of(series)
        check_at_least("num_steps", num_steps, 1)
        check_at_least("batch_size", batch_size, 1)
        if values.shape[1] < num_steps + 1:
            raise ValueError(
                f"num_steps: a stretch of {num_steps} steps has {num_steps + 1} samples; the series have only "
                f"{values.shape[1]}."
            )
        dtype = jnp.result_type(float) if dtype is None else dtype
        if inputs is not None:
            given = np.asarray(inputs, float)
            given = given[None] if given.ndim == 2 else given
            if given.ndim != 3 or given.shape[:2] != values.shape[:2] or given.shape[2] == 0:
                raise ValueError(
                    f"inputs: expected a row for each sample, {(*values.shape[:2], 'I')}, got {np.shape(inputs)}."
                )
            if not np.isfinite(given).all():
                raise ValueError(f"inputs: {int((~np.isfinite(given)).sum())} entries are NaN or infinity.")
            inputs = jnp.asarray(given, dtype)
        self.values = jnp.asarray(values, dtype)
        self.inputs = inputs
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.with_series = with_series

    def __call__(self, key: PRNGKeyArray) -> Any:
        series_key, place_key = jax.random.split(key)
        num_series, length, _ = self.values.shape
        which = jax.random.randint(series_key, (self.batch_size,), 0, num_series)
        places = jax.random.randint(place_key, (self.batch_size,), 0, length - self.num_steps)

        def cut(rows: Array, number: int) -> Array:
            return jax.vmap(lambda k, place: jax.lax.dynamic_slice_in_dim(rows[k], place, number))(which, places)

        values = cut(self.values, self.num_steps + 1)
        if self.inputs is None and not self.with_series:
            return values
        inputs = None if self.inputs is None else cut(self.inputs, self.num_steps)
        return Stretches(values, inputs, which if self.with_series else None)
