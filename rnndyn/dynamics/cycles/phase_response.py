"""How a pulse shifts the phase of an oscillation: of an invariant circle of a map, or a limit cycle of a flow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.cycles.invariant_circles import InvariantCircle
from rnndyn.dynamics.cycles.limit_cycles import LimitCycle
from rnndyn.dynamics.cycles.verdicts import PhaseVerdict
from rnndyn.dynamics.flows import time_map
from rnndyn.dynamics.numerics.drivers import double_precision, let_in, map_in_chunks
from rnndyn.results import Judged, first_verdict, is_verdict

_BLOCK = 32
"""Steps between two looks at how far the states still are from the curve."""

_NUM_GRID = 1024
"""Points of the curve among which the nearest is looked for, before it is refined."""


def phase_response(
    f: Callable[[Array], Array],
    circle: InvariantCircle | LimitCycle,
    perturbation: ArrayLike | Callable[[Array], Array],
    *,
    phases: int | ArrayLike = 64,
    duration: float = 0,
    max_map_steps: int = 4096,
    tol: float = 1e-9,
) -> "PhaseResponse":
    r"""Find by how much a pulse shifts the phase of an attracting oscillation in the end.

    On the curve $\gamma$ with $F(\gamma(\theta)) = \gamma(\theta + \rho)$ a state y in the basin has the asymptotic
    phase $\Theta(y)$ for which $|F^n(y) - \gamma(\Theta(y) + n \rho)| \to 0$. A pulse P that takes d steps gives

    $$ \Delta(\theta) = \Theta(P(\gamma(\theta))) - (\theta + d \rho) \mod 1. $$

    **Arguments:**

    - `f`: the map of an invariant circle; of a limit cycle, the vector field. Both `(N,) -> (N,)`, without the pulse.
    - `circle`: from `find_invariant_circle` or `find_limit_cycle`; it has to attract.
    - `perturbation`: what the pulse adds to the state, shape `(N,)`; or a function from the state at its beginning to
        the state at its end, `(N,) -> (N,)`, such as two steps with an input: `lambda x: g(g(x, u), u)`.
    - `phases`: at which phases it comes, in turns; or how many, evenly spaced.
    - `duration`: how long the pulse takes, in steps of the map, or in the time of the flow.
    - `max_map_steps`: how many steps (or turns of a limit cycle) to wait at most for the state to come back.
    - `tol`: how close it has to come to the curve, as a fraction of its extent. The phase is known to about as much.

    **Returns:** a `PhaseResponse`, phases and shifts in turns: times $2\pi$ in radians, times the period in time.

    **Raises:** `ValueError` for a curve that was not found or does not attract, a perturbation of a wrong shape, or
    options out of range.

    A state that leaves the basin does not come back: its shift is NaN. Phases grow with time; where the rotation number
    of a map was taken in [0, 1/2], this is the direction in which it turns. A limit cycle is interpolated between its
    points, so that a relaxation oscillation needs many of them (`num_points`), or its `distances` stay large.

    Reference: A. T. Winfree (1980), *The Geometry of Biological Time*; E. M. Izhikevich (2007), *Dynamical Systems in
    Neuroscience*, chapter 10.
    """
    if not circle.converged:
        raise ValueError(f"circle: expected one that was found, got: {circle.reason or circle}.")
    if not circle.is_stable:
        raise ValueError("circle: it does not attract, so that a perturbed state has no phase. Look for another one.")
    check_at_least("max_map_steps", max_map_steps, 1)
    if not (np.isfinite(duration) and duration >= 0):
        raise ValueError(f"duration: expected a time of at least 0, got {duration}.")
    at = np.arange(phases) / phases if isinstance(phases, int) else np.atleast_1d(np.asarray(phases, np.float64))
    if at.ndim != 1 or at.size == 0 or not np.isfinite(at).all():
        raise ValueError(f"phases: expected a positive number of phases, or finite ones (K,), got {phases!r}.")
    with double_precision():
        if isinstance(circle, LimitCycle):
            modes = np.fft.rfft(circle.points, axis=0)[: (len(circle.points) + 1) // 2] / len(circle.points)
            step, turns, lead = time_map(f, circle.period, rtol=1e-12, atol=1e-12), 0.0, duration / circle.period
        else:
            modes, step, turns, lead = circle.coefficients, f, circle.rotation_number, duration * circle.rotation_number
        states = _curve(modes, at)
        step = let_in(step, states[0])
        states = _kicked(perturbation, states)
        grid = _curve(modes, np.arange(_NUM_GRID) / _NUM_GRID)
        extent = float(np.max(np.ptp(grid, axis=0)))
        num_steps, block = 0, 1 if isinstance(circle, LimitCycle) else _BLOCK
        while True:
            ends, distances = _nearest(modes, grid, states)
            waiting = np.isfinite(distances) & (distances > tol * extent)
            if not waiting.any() or num_steps >= max_map_steps:
                break
            states, num_steps = _advanced(step, states, block), num_steps + block
    shifts = ends - at - lead - num_steps * turns
    result = first_verdict(
        (~np.isfinite(distances), PhaseVerdict.not_finite),
        (waiting, PhaseVerdict.away),
        otherwise=PhaseVerdict.returned,
    )
    shifts = np.where(waiting | ~np.isfinite(distances), np.nan, (shifts + 0.5) % 1.0 - 0.5)
    return PhaseResponse(at, shifts, distances / extent, num_steps, result)


class PhaseResponse(Judged):
    """Phase shifts by a pulse, in turns.

    - `phases`: when the pulse began, `(K,)`.
    - `shifts`: the asymptotic phase shifts, from -1/2 to 1/2, positive for an advance; NaN where the state did not come
        back, `(K,)`.
    - `distances`: how far the state was from the curve in the end, as a fraction of its extent, `(K,)`.
    - `num_steps`: how many steps (or turns of a limit cycle) that took.
    - `result`: whether each state came back, a batch `(K,)` of `PhaseVerdict`.
    """

    phases: Float[np.ndarray, " K"]
    shifts: Float[np.ndarray, " K"]
    distances: Float[np.ndarray, " K"]
    num_steps: int
    result: PhaseVerdict

    @property
    def converged(self) -> bool:
        """Whether every state came back to the curve."""
        return bool(np.all(is_verdict(self.result, PhaseVerdict.returned)))

    @property
    def mean_shift(self) -> float:
        """The circular mean of the shifts: the angle of the mean of exp(2 pi i shift), in turns; NaN if one is."""
        return float(np.angle(np.mean(np.exp(2j * np.pi * self.shifts))) / (2 * np.pi))

    @property
    def concentration(self) -> float:
        """The length of that mean: 1 where the pulse shifts all phases alike, 0 where the mean shift means nothing."""
        return float(np.abs(np.mean(np.exp(2j * np.pi * self.shifts))))

    @property
    def new_phases(self) -> Float[np.ndarray, " K"]:
        """The phase transition curve: the old phases plus the shifts, in [0, 1)."""
        return (self.phases + self.shifts) % 1.0

    @property
    def winding_number(self) -> int | None:
        """How often the new phase goes around while the old one does once: 1 for weak resetting, 0 for strong.

        For phases in order around the circle, close enough that neighbours differ by less than half a turn; `None`
        where a shift is NaN.
        """
        if not self.converged:
            return None
        steps = np.diff(np.append(self.new_phases, self.new_phases[0]))
        return int(np.round(np.sum((steps + 0.5) % 1.0 - 0.5)))

    def table(self) -> str:
        lost = int(np.sum(~np.isfinite(self.shifts)))
        return (
            f"Phase response at {len(self.phases)} phases: mean shift {self.mean_shift:.6g} turns "
            f"(concentration {self.concentration:.3g}), winding number {self.winding_number}\n"
            f"  {lost} states did not come back; the others are within "
            f"{np.max(self.distances[np.isfinite(self.shifts)], initial=0.0):.2g} of its extent of the curve after "
            f"{self.num_steps} steps"
        )


def _curve(modes: np.ndarray, phases: np.ndarray) -> np.ndarray:
    return np.real(_waves(modes, phases) @ modes)


def _waves(modes: np.ndarray, phases: np.ndarray) -> np.ndarray:
    waves = np.exp(2j * np.pi * np.outer(phases, np.arange(len(modes))))
    waves[:, 1:] *= 2
    return waves


def _nearest(modes: np.ndarray, grid: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The phase of the point of the curve next to each state, and the distance; NaN for a state that is not finite."""
    finite = np.asarray(np.isfinite(states).all(axis=1))
    clean = np.where(finite[:, None], states, 0.0)
    squares = np.sum(grid**2, axis=1) - 2 * clean @ grid.T
    phases = np.argmin(squares, axis=1) / len(grid)
    slopes = 2j * np.pi * np.arange(len(modes))[:, None] * modes
    # Gauss-Newton: quadratic where the state is on the curve, and three steps from a grid of 1024 are enough there.
    for _ in range(4):
        tangents = np.real(_waves(modes, phases) @ slopes)
        misses = clean - _curve(modes, phases)
        change = np.sum(tangents * misses, axis=1) / np.sum(tangents**2, axis=1)
        phases = phases + np.clip(change, -1 / len(grid), 1 / len(grid))
    distances = np.max(np.abs(clean - _curve(modes, phases)), axis=1)
    return phases, np.where(finite, distances, np.nan)


def _kicked(perturbation: Any, states: np.ndarray) -> np.ndarray:
    if callable(perturbation):
        return _advanced(let_in(perturbation, states[0], name="perturbation"), states, 1)
    kick = np.asarray(perturbation, np.float64)
    if kick.shape != states.shape[1:] or not np.isfinite(kick).all():
        raise ValueError(
            f"perturbation: expected finite numbers of shape {states.shape[1:]} to add to the state, or a function of "
            f"it; got shape {kick.shape}."
        )
    return states + kick


def _advanced(f: Callable, states: np.ndarray, num_steps: int) -> np.ndarray:
    return map_in_chunks(
        lambda part: _run(f, jnp.asarray(part), jnp.asarray(num_steps)),
        states,
        bytes_per_item=64 * states.shape[1],
        description="phases",
        progress=False,
    )


@compiled
def _run(f: Callable, states: Array, num_steps: Array) -> Array:
    return jax.lax.fori_loop(0, num_steps, lambda _, x: jax.vmap(f)(x), states)
