"""Samples of a system: trajectories on its attractor, as an instrument would take them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.flows import time_map
from rnndyn.dynamics.trajectory import trajectory
from rnndyn.tasks.dynamical_systems.series import Series, as_series


def sample_system(
    system: Any,
    num_steps: int,
    *,
    dt: float | None = None,
    num_series: int = 1,
    num_transient: int = 500,
    noise: float = 0.0,
    observe: Sequence[int] | Callable[[Any], Any] | None = None,
    starts: Any = None,
    key: PRNGKeyArray,
) -> Series:
    """Series of a system, from random starts, sampled at equal times.

    **Arguments:**

    - `system`: one of `rnndyn.tasks.dynamical_systems`; or any vector field `v(x) -> dx/dt`, with `dt` and `starts`;
        or any map, with `starts` and `dt=None`.
    - `num_steps`: samples of each series, T.
    - `dt`: the time between samples of a flow; `system.dt` when not given.
    - `num_series`: how many series, K.
    - `num_transient`: samples to forget before the first one.
    - `noise`: standard deviation of Gaussian noise on every sample, in standard deviations of each variable.
    - `observe`: what is seen of the state, as in `Series.observe`, before the noise.
    - `starts`: initial states (K, N), in place of random ones of the system.
    - `key`: fixes starts and noise.

    **Returns:** a `Series` in the units of the system.

    Flows are integrated with the tolerances of `rnndyn.time_map`, in float64 whatever the global flag is: beyond some
    40 Lyapunov times a chaotic trajectory is one of the system, not the one of its start.

    **Raises:** `ValueError` for counts below 1, a flow without `dt`, a system without `start` and no `starts`, or a
    trajectory that leaves for infinity.
    """
    check_at_least("num_steps", num_steps, 2)
    check_at_least("num_series", num_series, 1)
    check_at_least("num_transient", num_transient, 0)
    start_key, noise_key = jax.random.split(key)
    with jax.enable_x64(True):
        if starts is None:
            if not hasattr(system, "start"):
                raise ValueError("starts: this system does not say where to start; pass initial states (K, N).")
            states = jax.vmap(system.start)(jax.random.split(start_key, num_series))
        else:
            states = np.asarray(starts, float)
            if states.ndim != 2 or 0 in states.shape:
                raise ValueError(f"starts: expected initial states (K, N), got shape {states.shape}.")
        step_time = getattr(system, "dt", None) if dt is None else dt
        step = system if step_time is None else time_map(system, step_time)
        values = np.asarray(_run(step, states, num_steps, num_transient))
    if not np.isfinite(values).all():
        lost = int(np.argmin(np.isfinite(values).all(axis=(1, 2))))
        raise ValueError(f"system: the trajectory from start {lost} leaves for infinity. Pass other `starts`.")
    # A map with a time step of its own, as a delay equation on a grid has.
    spacing = getattr(system, "time_step", 1.0) if step_time is None else step_time
    series = as_series(values, dt=float(spacing))
    if observe is not None:
        series = series.observe(observe)
    return series.with_noise(noise, key=noise_key) if noise else series


@compiled
def _run(step: Callable, starts: Any, num_steps: int, num_transient: int) -> Any:
    return jax.vmap(lambda x: trajectory(step, x, num_steps, num_transient=num_transient))(starts)
