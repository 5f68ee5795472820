"""The echo index of a driven network, counted, and of two units under a square wave, by continuation too."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import ListedColormap

import rnndyn as rd
from rnndyn import plotting


@eqx.filter_jit
def count_responses(f: Any, starts: jax.Array, sequence: jax.Array, amplitudes: jax.Array) -> jax.Array:
    """At how many states many initial ones arrive under one input sequence, for each of its amplitudes."""

    def one(amplitude: jax.Array) -> jax.Array:
        step = lambda x, u: (jax.vmap(f, (0, None))(x, amplitude * u), None)
        ends = jax.lax.scan(step, starts, sequence.astype(starts.dtype))[0]
        apart = jnp.linalg.norm(ends[:, None] - ends, axis=-1)
        # Each state counts with the first that is at the same place.
        first = jnp.argmax(apart < 0.02, axis=1)
        return jnp.sum(first == jnp.arange(len(ends)))

    return jax.lax.map(one, amplitudes.astype(starts.dtype))


class DrivenUnits(rd.Result):
    """The echo index of two units under a square wave.

    - `indices`: (period, amplitude).
    - `random_indices`: with random signs, (amplitude,).
    - `folds`: the amplitude at which each response that is stable without drive ends, (period, response); infinite
        where it does not.
    """

    periods: np.ndarray
    amplitudes: np.ndarray
    indices: np.ndarray
    random_indices: np.ndarray
    folds: np.ndarray


class ForcedPeriod(eqx.Module):
    """The map over one period of an input of some amplitude."""

    f: Callable
    wave: np.ndarray

    def __call__(self, x: jax.Array, amplitude: jax.Array) -> jax.Array:
        step = lambda x, u: (self.f(x, amplitude * u), None)
        return jax.lax.scan(step, x, jnp.asarray(self.wave, x.dtype))[0]


def drive_two_units(log2_periods: tuple[int, ...], amplitudes: np.ndarray, num_periods: int, key: Any) -> DrivenUnits:
    """Count the responses of two units to square waves, and follow each from zero amplitude to its fold.

    They are driven for `num_periods` of the longest period.
    """
    # Each unit alone is bistable; the coupling and the biases are small, and spare them a symmetry.
    weight_hh, bias = np.array([[1.3, 0.06], [-0.04, 1.2]]), np.array([0.01, -0.01])
    cell = rd.VanillaCell.from_weights(np.array([[1.0], [0.4]]), weight_hh, bias)
    units = rd.as_driven_map(cell)
    periods = 2 ** np.array(log2_periods)
    longest = int(periods[-1])
    side = np.linspace(-1, 1, 7)
    starts = jnp.asarray(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2), jnp.float32)
    corners = rd.find_fixed_points(rd.as_map(cell), np.asarray(starts, float), until_complete=True, progress=False)
    responses = corners.points[corners.is_stable]
    indices, folds = [], []
    for period in periods:
        # A whole number of periods of every wave makes one of the longest: all share a compilation.
        wave = np.where(np.arange(longest) % period < period // 2, 1.0, -1.0)[:, None]
        sequence = jnp.asarray(np.tile(wave, (num_periods, 1)))
        indices.append(count_responses(units, starts, sequence, jnp.asarray(amplitudes)))
        forced = ForcedPeriod(units, wave)
        span = (0.0, float(amplitudes[-1]))
        folds.append([first_fold(rd.continue_fixed_points(forced, x, 0.0, span)) for x in responses])
    signs = jax.random.rademacher(key, (num_periods * longest, 1), dtype=jnp.float32)
    return DrivenUnits(
        periods=periods,
        amplitudes=amplitudes,
        indices=np.array(indices),
        random_indices=np.asarray(count_responses(units, starts, signs, jnp.asarray(amplitudes))),
        folds=np.reshape(folds, (len(periods), len(responses))),
    )


def first_fold(branch: rd.Branch) -> float:
    """The parameter of the fold that comes first on the way from the start of a branch; infinite without one."""
    folds = branch.of_kind("fold")
    return min(folds, key=lambda fold: abs(fold.index - branch.start)).parameter if folds else np.inf


def draw_units(figure: Any, ax: Any, units: DrivenUnits) -> None:
    """The echo index over amplitude and period, the folds, and random input above."""
    rows = np.concatenate([units.indices, np.full((1, len(units.amplitudes)), np.nan), units.random_indices[None]])
    colors = ListedColormap(["#F0F0F0", "#B9D3E8", "#5B9BC8", "#0072B2"])
    mesh = ax.pcolormesh(units.amplitudes, np.arange(len(rows)), rows, cmap=colors, vmin=0.5, vmax=4.5)
    for fold in np.sort(units.folds, axis=1).T:
        ax.plot(fold, np.arange(len(fold)), "-", color=plotting.COLORS["orange"], linewidth=1, marker="o", markersize=2)
    ax.set_yticks([*range(len(units.periods)), len(rows) - 1], [*map(str, units.periods), "random"])
    ax.set_xlim(units.amplitudes[0], units.amplitudes[-1])
    ax.set(title="f  echo index, two units", xlabel="amplitude of the wave", ylabel="period (steps)")
    bar = figure.colorbar(mesh, ax=ax, ticks=[1, 2, 3, 4], shrink=0.8)
    bar.outline.set_visible(False)
