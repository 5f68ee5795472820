"""Limit cycles of a flow: periodic orbits, their period and their Floquet multipliers."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.cycles._flow_returns import find_return, no_return, time_scale
from rnndyn.dynamics.cycles._flow_shooting import (
    Flow,
    FlowOrbit,
    pieces_of,
    sample_orbit,
    shoot_flow,
    with_minimal_period,
)
from rnndyn.dynamics.cycles.verdicts import LimitCycleVerdict
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.eigenvalues import scaled_product_eigenvalues
from rnndyn.dynamics.numerics.integration_method import Method
from rnndyn.results import Judged, is_verdict

_NUM_ROUNDS = 8
"""How often a trajectory that neither returns nor settles is followed, each time four times as long: to 16 000 times
the first duration, where a relaxation oscillation of ratio 1 : 1000 still shows its period."""


_TRIVIAL_ERROR = 1e-4
"""An orbit whose multiplier along the flow is farther from 1 than this is not known to be one."""


def find_limit_cycle(
    vector_field: Callable[[Array], Array],
    x0: ArrayLike,
    *,
    period: float | None = None,
    duration: float | None = None,
    transient: float | None = None,
    num_segments: int = 8,
    num_points: int = 256,
    max_steps: int = 50,
    tol: float = 1e-10,
) -> "LimitCycle":
    r"""Find a periodic orbit of $\dot x = v(x)$ near the trajectory of `x0`, with its period T.

    With the flow $\varphi^t$ the points $x_0, \dots, x_{m-1}$ and T solve

    $$ \varphi^{T/m}(x_i) - x_{i+1} = 0, \qquad v(\bar x_0) \cdot (x_0 - \bar x_0) = 0, $$

    indices modulo m: multiple shooting with the period unknown, and a phase condition that fixes where on the orbit
    $x_0$ lies. Newton's method starts from the closest return of the trajectory to itself, and finds unstable orbits
    too. The flow is integrated with relative tolerance 1e-12, its derivative under the same control (see `time_map`).
    The absolute tolerance of a component is that fraction of the largest value it takes or, where it keeps its sign, of
    the smallest, so that a population that nearly dies out is followed as well as one that thrives.

    **Arguments:**

    - `vector_field`: v, `(N,) -> (N,)`.
    - `x0`: where the trajectory starts, shape `(N,)`.
    - `period`: a guess of T. Returns after a time within 20% of it are then looked for; without it, the first close
        one.
    - `duration`: how long to follow the trajectory, in units of time; by default 20 periods where one is given, else
        200 times the time scale $1/\|Dv(x_0)\|$, and four times as long again and again (seven times at most) while the
        trajectory neither comes back nor settles.
    - `transient`: how long to wait before; by default as long as `duration`. Zero, to stay near `x0`.
    - `num_segments`: m. More of them for strongly unstable orbits.
    - `num_points`: how many points of the orbit to return.
    - `max_steps`: the most Newton steps.
    - `tol`: the defect at which the orbit counts as found, as a fraction of its extent.

    **Returns:** a `LimitCycle`; `converged` is false where none was found, and `reason` says why.

    **Raises:** `ValueError` for a bad state, a vector field that changes its shape or dtype, or options out of range.

    Along the flow $D\varphi^T v(x_0) = v(x_0)$: one Floquet multiplier is 1, and how far the computed one is from it
    measures the accuracy of the others. An orbit where it is off by more than 1e-4 is not called converged.

    A multiplier far below rounding error of the largest is lost in the derivative over T, or over T/m. So the orbit is
    cut into pieces whose derivatives each span no more than eight digits, and the eigenvalues of their product are
    found without forming it, as logarithms.

    Reference: U. M. Ascher, R. M. M. Mattheij & R. D. Russell (1995), *Numerical Solution of Boundary Value Problems
    for Ordinary Differential Equations*, chapter 4; Yu. A. Kuznetsov (2004), *Elements of Applied Bifurcation
    Theory*, chapter 10.
    """
    check_state("x0", x0)
    for name, value in (("num_segments", num_segments), ("num_points", num_points), ("max_steps", max_steps)):
        check_at_least(name, value, 1)
    for name, value in (("period", period), ("duration", duration)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected a positive time, got {value}.")
    if transient is not None:
        check_at_least("transient", transient, 0)
    with double_precision():
        start = np.asarray(x0, np.float64)
        vector_field = let_in(vector_field, start, name="vector_field")
        rounds = 1
        if duration is None:
            rounds = 1 if period is not None else _NUM_ROUNDS
            duration = 20 * period if period is not None else 200 * time_scale(vector_field, start)
        transient = duration if transient is None else transient
        states, duration, guess = find_return(vector_field, start, duration, transient, period, rounds)
        if not np.isfinite(states).all():
            return _nothing(start, num_points, LimitCycleVerdict.escaped, "the trajectory leaves for infinity.")
        if guess is None:
            return _nothing(start, num_points, *no_return(vector_field, states, duration))
        first, steps, guessed_period = guess
        around = states[first : first + steps + 1]
        nodes = around[np.round(np.linspace(0, steps, num_segments, endpoint=False)).astype(int)]
        least = np.min(np.abs(around), axis=0)
        signed = np.min(around, axis=0) * np.max(around, axis=0) < 0
        atol = 1e-12 * np.maximum(np.where(signed, np.max(np.abs(around), axis=0), least), 1e-280)
        cycle = None
        # A multiplier along the flow that is not 1 shows what tolerances have missed: then once more with finer ones.
        for factor in (1.0, 1e-6):
            flow = Flow(vector_field, Method(None, np.asarray(1e-12), factor * atol, 4096))
            orbit = shoot_flow(flow, nodes, guessed_period, max_steps, tol)
            if orbit.failure is not None:
                break
            orbit = with_minimal_period(flow, orbit, max_steps, tol)
            cycle = _assemble(flow, orbit, num_points)
            nodes, guessed_period = orbit.nodes, orbit.period
            if abs(cycle.trivial_multiplier - 1) <= _TRIVIAL_ERROR / 100:
                break
        if cycle is None:
            assert orbit.failure is not None  # nothing else ends the loop before there is a cycle
            return _nothing(start, num_points, *orbit.failure)
        return cycle


class LimitCycle(Judged):
    """A periodic orbit of a flow.

    Where none was found the numbers are NaN and the residual infinite.

    - `period`: its minimal period T.
    - `points`: the orbit at times 0, T/M, 2T/M, ..., `(M, N)`.
    - `multipliers`: Floquet multipliers across the orbit by falling modulus, `(N - 1,)` complex: the eigenvalues of the
        derivative of the flow over T, without the one of the flow's own direction.
    - `log_multipliers`: their logarithms, `(N - 1,)` complex, where a multiplier itself may be too small for a number.
    - `trivial_multiplier`: that one, as computed; its distance from 1 is an error estimate of the others.
    - `residual`: the largest defect $|\\varphi^{T/m}(x_i) - x_{i+1}|$ as a fraction of the extent, or of a
        component that keeps its sign and is small there.
    - `num_steps`: Newton steps taken.
    - `result`: what became of the search, a `LimitCycleVerdict`.
    - `reason`: why none was found, with the numbers of the case; empty otherwise.
    """

    period: float
    points: Float[np.ndarray, "M N"]
    multipliers: Complex[np.ndarray, " L"]
    log_multipliers: Complex[np.ndarray, " L"]
    trivial_multiplier: Complex[np.ndarray, ""]
    residual: float
    num_steps: int
    result: LimitCycleVerdict
    reason: str

    @property
    def converged(self) -> bool:
        """Whether one was found."""
        return is_verdict(self.result, LimitCycleVerdict.converged)

    @property
    def is_stable(self) -> bool:
        """Whether all multipliers across the orbit lie inside the unit circle."""
        return self.converged and bool(np.all(np.real(self.log_multipliers) < 0))

    @property
    def exponents(self) -> Complex[np.ndarray, " L"]:
        """Floquet exponents, per unit time: the logarithms of the multipliers over the period."""
        return self.log_multipliers / self.period

    @property
    def num_unstable(self) -> int:
        """The number of multipliers across the orbit outside the unit circle."""
        return int(np.sum(np.real(self.log_multipliers) > 0))

    @property
    def times(self) -> Float[np.ndarray, " M"]:
        """The times of `points`."""
        return self.period * np.arange(len(self.points)) / len(self.points)

    def table(self) -> str:
        if not self.converged:
            return f"No limit cycle: {self.reason}"
        shown = ", ".join(_shown(m, log) for m, log in zip(self.multipliers[:4], self.log_multipliers, strict=False))
        shown += ", ..." if len(self.multipliers) > 4 else ""
        return (
            f"Limit cycle of {self.points.shape[1]} units: {'stable' if self.is_stable else 'unstable'}\n"
            f"  period              {self.period:.12g}\n"
            f"  multipliers         {shown}\n"
            f"  trivial multiplier  1 {np.real(self.trivial_multiplier) - 1:+.1e}\n"
            f"  residual            {self.residual:.1e} of its extent"
        )


def _shown(multiplier: complex, log: complex) -> str:
    """A multiplier as text, also where it is too small or too large for a number."""
    digits = np.real(log) / np.log(10)
    if abs(digits) < 300 or not np.isfinite(digits):
        return f"{multiplier:.5g}"
    return f"{10 ** (digits - np.floor(digits)):.5g}e{int(np.floor(digits)):+d} (modulus)"


def _assemble(flow: Flow, orbit: FlowOrbit, num_points: int) -> LimitCycle:
    values, logs = scaled_product_eigenvalues(pieces_of(flow, orbit))
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        multipliers, logs = values * np.exp(logs), np.log(values) + logs
    trivial = int(np.argmin(np.abs(multipliers - 1)))
    error = abs(multipliers[trivial] - 1)
    result, reason = LimitCycleVerdict.converged, ""
    if not error <= _TRIVIAL_ERROR:
        result = LimitCycleVerdict.inaccurate
        reason = (
            f"the multiplier along the flow is {multipliers[trivial]:.6g} and not 1: the orbit is too sensitive to be "
            "computed in float64. Take logarithms of components that nearly vanish, or other coordinates."
        )
    return LimitCycle(
        period=orbit.period,
        points=sample_orbit(flow, orbit, num_points),
        multipliers=np.delete(multipliers, trivial),
        log_multipliers=np.delete(logs, trivial),
        trivial_multiplier=np.array(multipliers[trivial]),
        residual=orbit.residual,
        num_steps=orbit.num_steps,
        result=result,
        reason=reason,
    )


def _nothing(x: np.ndarray, num_points: int, result: Any, reason: str) -> LimitCycle:
    return LimitCycle(
        period=float("nan"),
        points=np.full((num_points, x.size), np.nan),
        multipliers=np.full(x.size - 1, np.nan, complex),
        log_multipliers=np.full(x.size - 1, np.nan, complex),
        trivial_multiplier=np.array(np.nan, complex),
        residual=float("inf"),
        num_steps=0,
        result=result,
        reason=reason,
    )
