"""Series: what was measured of a dynamical system, checked once, with the scale that it was brought to."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.results import Result
from rnndyn.tasks.dynamical_systems.stretches import Stretches


def as_series(
    values: Any, *, dt: float = 1.0, times: Any = None, names: Sequence[str] | None = None, missing: bool = False
) -> "Series":
    """A series, or several of one system, as everything that learns from series takes them.

    **Arguments:**

    - `values`: one series (T, N), several of one length (K, T, N), or a list of K arrays (T, N). Numbers only: a
        series of one variable has shape (T, 1).
    - `dt`: the time between samples.
    - `times`: the times of the samples (T,), in place of `dt`: equally spaced.
    - `names`: of the N variables; `x0`, `x1`, ... when not given.
    - `missing`: whether NaN stands for what was not measured. `SeriesWindows`, `shallow_start` and `Series.stretch`
        then leave it out; whatever else takes series refuses it.

    **Returns:** a `Series` in float64.

    **Raises:** `ValueError` for series of unequal lengths, fewer than two samples, infinity, NaN (without `missing`), a
    variable that never changes, times that are not equally spaced, or names that do not fit.
    """
    array = _stack(values)
    _, num_steps, num_variables = array.shape
    if num_steps < 2:
        raise ValueError(f"values: expected at least two samples of a series, got {num_steps}.")
    bad = np.argwhere(np.isinf(array) if missing else ~np.isfinite(array))
    if len(bad):
        series, step, variable = bad[0]
        hint = (
            "Mark what was not measured by NaN."
            if missing
            else "Interpolate them, cut the series there, or pass missing=True to train on what was measured."
        )
        raise ValueError(
            f"values: {len(bad)} entries are {'' if missing else 'NaN or '}infinity, the first in series {series} at "
            f"step {step}, variable {variable}. {hint}"
        )
    names = tuple(f"x{i}" for i in range(num_variables)) if names is None else tuple(map(str, names))
    if len(names) != num_variables:
        raise ValueError(f"names: expected one for each of the {num_variables} variables, got {len(names)}.")
    # Of no sample at all the least is infinite, and the largest minus that.
    least = np.where(np.isnan(array), np.inf, array).min(axis=(0, 1))
    most = np.where(np.isnan(array), -np.inf, array).max(axis=(0, 1))
    constant = [name for name, low, high in zip(names, least, most) if not low < high]
    if constant:
        raise ValueError(f"values: {', '.join(constant)} never changes: nothing can be learned of it. Leave it out.")
    if times is not None:
        dt = _spacing(times, num_steps)
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt: expected a positive time between samples, got {dt}.")
    return Series(array, float(dt), names, None)


class Standardization(Result):
    """Mean and standard deviation of every variable: what a series was brought to mean 0 and deviation 1 with."""

    mean: np.ndarray
    """(N,)"""
    deviation: np.ndarray
    """(N,)"""

    def apply(self, values: Any) -> Any:
        """(values - mean) / deviation, for values (..., N) in the units of the system."""
        return (values - self.mean) / self.deviation

    def invert(self, values: Any) -> Any:
        """The values (..., N) back in the units of the system."""
        return values * self.deviation + self.mean


class Series(Result):
    """Several series of one system, equally long and equally sampled; made by `as_series`, `read_series` and
    `sample_system`, which check them."""

    values: np.ndarray
    """(K, T, N), float64; NaN where nothing was measured, if they were made so."""
    dt: float
    """The time between samples."""
    names: tuple[str, ...]
    """Of the N variables."""
    scale: Standardization | None
    """What the values were standardised with; `None` while they are in the units of the system."""

    def __len__(self) -> int:
        """K, the number of series."""
        return len(self.values)

    @property
    def num_steps(self) -> int:
        """T."""
        return self.values.shape[1]

    @property
    def num_variables(self) -> int:
        """N."""
        return self.values.shape[2]

    @property
    def num_missing(self) -> int:
        """How many entries were not measured."""
        return int(np.isnan(self.values).sum())

    def standardize(self, like: "Series | Standardization | None" = None) -> "Series":
        """Every variable with mean 0 and standard deviation 1 over all its samples; `scale` remembers with what.

        **Arguments:**

        - `like`: a standardised series, or its `scale`, whose numbers to take: those of the training series for a
            test series.

        **Raises:** `ValueError` for a series that is standardised already, or a scale of other variables.
        """
        if self.scale is not None:
            raise ValueError("series: it is standardised already; `in_units()` gives it back in its own units.")
        scale = like.scale if isinstance(like, Series) else like
        if isinstance(like, Series) and scale is None:
            raise ValueError("like: that series is not standardised.")
        if scale is None:
            scale = Standardization(*_mean_and_deviation(self.values))
        if np.shape(scale.mean) != (self.num_variables,):
            raise ValueError(f"like: expected a scale of {self.num_variables} variables, got {np.shape(scale.mean)}.")
        return Series(scale.apply(self.values), self.dt, self.names, scale)

    def in_units(self) -> "Series":
        """The series in the units of the system."""
        return self if self.scale is None else Series(self.scale.invert(self.values), self.dt, self.names, None)

    def with_noise(self, level: Any, *, key: PRNGKeyArray) -> "Series":
        """The series as an instrument would see it, with Gaussian noise on every sample.

        **Arguments:**

        - `level`: standard deviation of the noise, in standard deviations of each variable: a number or (N,).
        - `key`: fixes the noise.

        **Raises:** `ValueError` for a negative level.
        """
        level = np.asarray(level, float)
        if not (level >= 0).all():
            raise ValueError(f"level: expected a standard deviation of at least 0, got {level}.")
        _, spread = _mean_and_deviation(self.values)
        with jax.enable_x64(True):
            noise = np.asarray(jax.random.normal(key, self.values.shape, "float64"))
        return Series(self.values + level * spread * noise, self.dt, self.names, self.scale)

    def observe(self, which: Sequence[int] | Callable[[Any], Any]) -> "Series":
        """What is seen of the state.

        **Arguments:**

        - `which`: indices of variables; or a function of values (..., N) that returns (..., M).

        **Raises:** `ValueError` for an index out of range, or a function of a series that is standardised.
        """
        if callable(which):
            if self.scale is not None:
                raise ValueError("which: a function reads values in their own units; observe before `standardize()`.")
            return as_series(np.asarray(which(self.values), float), dt=self.dt, missing=self.num_missing > 0)
        chosen = [int(i) for i in which]
        if not chosen or not all(-self.num_variables <= i < self.num_variables for i in chosen):
            raise ValueError(f"which: expected indices of the {self.num_variables} variables, got {chosen}.")
        scale = self.scale
        if scale is not None:
            scale = Standardization(scale.mean[chosen], scale.deviation[chosen])
        return Series(self.values[..., chosen], self.dt, tuple(self.names[i] for i in chosen), scale)

    def embed(self, dimension: int, delay: int = 1) -> "Series":
        r"""Delay vectors $(y_t, y_{t-d}, \dots, y_{t-(m-1)d})$, which trace out what the whole state would (Takens).

        **Arguments:**

        - `dimension`: m, how many times each variable is taken, at least 1.
        - `delay`: d, in samples.

        **Returns:** a series of m N variables, (m - 1) d samples shorter; the newest values come first.

        **Raises:** `ValueError` for a series that is too short.

        Reference: F. Takens (1981), *Detecting strange attractors in turbulence*.
        """
        check_at_least("dimension", dimension, 1)
        check_at_least("delay", delay, 1)
        lost = (dimension - 1) * delay
        if self.num_steps - lost < 2:
            raise ValueError(
                f"dimension, delay: vectors of {dimension} values {delay} samples apart span {lost + 1} samples, and "
                f"two of them one more; the series has {self.num_steps}."
            )
        shifts = [lost - i * delay for i in range(dimension)]
        values = np.concatenate([self.values[:, s : s + self.num_steps - lost] for s in shifts], axis=2)
        names = tuple(f"{name}(t-{i * delay})" if i else name for i in range(dimension) for name in self.names)
        scale = self.scale
        if scale is not None:
            scale = Standardization(np.tile(scale.mean, dimension), np.tile(scale.deviation, dimension))
        return Series(values, self.dt, names, scale)

    def split(self, num_test: int) -> tuple["Series", "Series"]:
        """Training and test series, whole ones: the last `num_test` are for the test.

        **Raises:** `ValueError` where none would be left for training. One long series is cut with `cut`.
        """
        if not 1 <= num_test < len(self):
            raise ValueError(
                f"num_test: expected 1 to {len(self) - 1} of the {len(self)} series, got {num_test}. One long series "
                "is cut in time with `series.cut(num_steps)`."
            )
        make = lambda values: Series(values, self.dt, self.names, self.scale)
        return make(self.values[:-num_test]), make(self.values[-num_test:])

    def cut(self, num_steps: int, gap: int = 0) -> tuple["Series", "Series"]:
        """The first `num_steps` samples of every series, and what comes `gap` samples later.

        **Raises:** `ValueError` where either part would have fewer than two samples.
        """
        check_at_least("gap", gap, 0)
        if num_steps < 2 or self.num_steps - num_steps - gap < 2:
            raise ValueError(
                f"num_steps, gap: both parts need two samples of {self.num_steps}, got {num_steps} and a gap of {gap}."
            )
        make = lambda values: Series(values, self.dt, self.names, self.scale)
        return make(self.values[:, :num_steps]), make(self.values[:, num_steps + gap :])

    def stretch(self, number: int = 0) -> Stretches:
        """One of the series as losses of training take it, without a leading axis: zeros where nothing was measured,
        and the mask `observed` (`None` where all was).

        **Raises:** `ValueError` for a number that is not one of 0, ..., K - 1.
        """
        if not 0 <= number < len(self):
            raise ValueError(f"number: expected 0 to {len(self) - 1}, got {number}.")
        observed = ~np.isnan(self.values[number])
        return Stretches(np.where(observed, self.values[number], 0), observed=None if observed.all() else observed)

    def table(self) -> str:
        """Sizes, sampling, what is missing, and the range of every variable."""
        lines = [
            f"Series: {len(self)} x {self.num_steps} samples every {self.dt:g}"
            + (", standardised" if self.scale is not None else "")
            + (f", {self.num_missing / self.values.size:.1%} missing" if self.num_missing else "")
        ]
        flat = self.values.reshape(-1, self.num_variables)
        for name, low, high in zip(self.names[:6], np.nanmin(flat, axis=0), np.nanmax(flat, axis=0)):
            lines.append(f"  {name:<8} {low:12.5g} to {high:.5g}")
        if self.num_variables > 6:
            lines.append(f"  and {self.num_variables - 6} more variables")
        return "\n".join(lines)


def _stack(values: Any) -> Float[np.ndarray, "K T N"]:
    if isinstance(values, Series):
        return values.values
    if isinstance(values, list | tuple) and values and all(np.ndim(item) == 2 for item in values):
        lengths = sorted({np.shape(item)[0] for item in values})
        widths = sorted({np.shape(item)[1] for item in values})
        if len(widths) > 1:
            raise ValueError(f"values: expected series of the same variables, got {widths} of them.")
        if len(lengths) > 1:
            raise ValueError(
                f"values: expected series of one length, got {lengths[0]} to {lengths[-1]} samples. Cut all to "
                f"{lengths[0]}, or into pieces of equal length."
            )
        values = np.stack([np.asarray(item) for item in values])
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"values: expected numbers (T, N) or (K, T, N): {error}") from error
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or 0 in array.shape:
        hint = " A series of one variable is values[:, None]." if array.ndim == 1 else ""
        raise ValueError(f"values: expected shape (T, N) or (K, T, N), got {np.shape(values)}.{hint}")
    return array


def _spacing(times: Any, num_steps: int) -> float:
    times = np.asarray(times, float)
    if times.shape != (num_steps,):
        raise ValueError(f"times: expected one for each of the {num_steps} samples, got shape {times.shape}.")
    steps = np.diff(times)
    spacing = float(np.mean(steps))
    # Times written with six digits are equal to a few parts in a thousand of a step.
    if not (np.abs(steps - spacing) <= 0.01 * abs(spacing)).all():
        worst = (
            int(np.argmax(np.abs(steps - spacing))) if np.isfinite(steps).all() else int(np.argmin(np.isfinite(steps)))
        )
        raise ValueError(
            f"times: expected equal steps, got {steps[worst]:g} after sample {worst} where the mean is {spacing:g}. "
            "Interpolate the series to equal steps."
        )
    return spacing


def _mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every variable (N,) over all its samples."""
    flat = values.reshape(-1, values.shape[2])
    if np.isnan(flat).any():
        return np.nanmean(flat, axis=0), np.nanstd(flat, axis=0)
    return flat.mean(axis=0), flat.std(axis=0)


def values_of(series: Any, name: str = "series", *, missing: bool = False) -> Float[np.ndarray, "K T N"]:
    """The values (K, T, N) of a `Series`, or of arrays that `as_series` takes, with the same checks.

    What leaves out missing samples says so by `missing`; all else refuses a series that has any.
    """
    if not isinstance(series, Series):
        try:
            series = as_series(series)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if not missing:
        check_complete(series, name)
    return series.values


def check_complete(series: Series, name: str = "series") -> None:
    """Raise a `ValueError` for a series with missing samples."""
    if series.num_missing:
        raise ValueError(
            f"{name}: {series.num_missing} of {series.values.size} entries are missing (NaN), and all of them are "
            "needed here. Interpolate them, or cut the series where values are missing."
        )
