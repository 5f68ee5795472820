"""Stretches of series from random places, for training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.tasks.dynamical_systems.series import values_of
from rnndyn.tasks.dynamical_systems.stretches import Stretches


class SeriesWindows(eqx.Module):
    """Stretches of series from random places: what `rnndyn.fit` takes as `batches`, a pure function of a key.

    `windows(key)` has shape (B, T + 1, N): the first entry is where a run starts, the T others are what it should give.
    With inputs, numbers of series or missing samples it is a `Stretches` of these.
    """

    values: Float[Array, "K S N"]
    observed: Bool[Array, "K S N"] | None
    starts: Int[Array, "V 2"] | None
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
        num_known: int = 1,
        dtype: Any = None,
    ):
        """
        **Arguments:**

        - `series`: a `Series`, or arrays that `as_series` takes. Of one with missing samples
            (`as_series(values, missing=True)`) the stretches come with a mask, `Stretches.observed`.
        - `num_steps`: T, the steps of a stretch.
        - `batch_size`: B.
        - `inputs`: external inputs at the times of the samples, (K, S, I), or (S, I) of one series: the input at a
            sample drives the step to the next one.
        - `with_series`: whether to say from which series each stretch is, for `rnndyn.training.per_series`.
        - `num_known`: where samples are missing, how many at the beginning of a stretch are whole: runs start from
            them. One, or as many as an encoder reads.
        - `dtype`: of the stretches; JAX's default float when not given.

        **Raises:** `ValueError` for series shorter than T + 1 samples, inputs of another shape or with NaN, missing
        samples that leave no place to start from, or what `as_series` refuses.
        """
        values = values_of(series, missing=True)
        check_at_least("num_steps", num_steps, 1)
        check_at_least("batch_size", batch_size, 1)
        check_at_least("num_known", num_known, 1)
        if num_known > num_steps:
            raise ValueError(f"num_known: expected at most the {num_steps} steps of a stretch, got {num_known}.")
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
        observed = ~np.isnan(values)
        self.observed = self.starts = None
        if not observed.all():
            self.observed = jnp.asarray(observed)
            self.starts = jnp.asarray(_places_to_start(observed, num_steps, num_known))
        self.values = jnp.asarray(np.where(observed, values, 0), dtype)
        self.inputs = inputs
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.with_series = with_series

    def __call__(self, key: PRNGKeyArray) -> Any:
        series_key, place_key = jax.random.split(key)
        num_series, length, _ = self.values.shape
        if self.starts is None:
            which = jax.random.randint(series_key, (self.batch_size,), 0, num_series)
            places = jax.random.randint(place_key, (self.batch_size,), 0, length - self.num_steps)
        else:
            which, places = self.starts[jax.random.randint(key, (self.batch_size,), 0, len(self.starts))].T

        def cut(rows: Array, number: int) -> Array:
            return jax.vmap(lambda k, place: jax.lax.dynamic_slice_in_dim(rows[k], place, number))(which, places)

        values = cut(self.values, self.num_steps + 1)
        if self.inputs is None and self.observed is None and not self.with_series:
            return values
        inputs = None if self.inputs is None else cut(self.inputs, self.num_steps)
        observed = None if self.observed is None else cut(self.observed, self.num_steps + 1)
        return Stretches(values, inputs, which if self.with_series else None, observed)


def _places_to_start(observed: np.ndarray, num_steps: int, num_known: int) -> np.ndarray:
    """Series and first sample (V, 2) of the stretches whose first samples are whole, and that see anything after."""
    whole: np.ndarray = np.all(observed, axis=2)
    last = observed.shape[1] - num_steps
    known = np.all([whole[:, k : k + last] for k in range(num_known)], axis=0)
    seen = np.cumsum(np.pad(observed.sum(axis=2), ((0, 0), (1, 0))), axis=1)
    places = np.argwhere(known & (seen[:, num_steps + 1 :] > seen[:, num_known : num_known + last]))
    if len(places) == 0:
        raise ValueError(
            f"series: no stretch of {num_steps} steps starts with {num_known} whole samples and has one after. Fewer "
            "variables (observe), or values interpolated where few are missing, leave places to start from."
        )
    return places
