"""Attracting invariant circles of a map: quasi-periodic motion, its rotation number and its stability."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.cycles._circle_newton import Circle, CircleNewton, coefficients_of, derivative, solve_circle
from rnndyn.dynamics.cycles._circle_start import first_circle
from rnndyn.dynamics.cycles.cycle_list import Cycles
from rnndyn.dynamics.cycles.cycles import find_cycles
from rnndyn.dynamics.cycles.verdicts import CircleVerdict
from rnndyn.dynamics.numerics.birkhoff import bump_weights
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.evaluation import evaluate as evaluate_map
from rnndyn.dynamics.numerics.evaluation import orbits_from
from rnndyn.dynamics.numerics.frames import orthonormalize
from rnndyn.results import Judged, is_verdict

_SETTLED = 1e-7
"""An orbit that returns this close, as a fraction of its extent, period after period has settled on a cycle."""


def find_invariant_circle(
    f: Callable[[Array], Array],
    x0: ArrayLike,
    *,
    num_steps: int = 4096,
    num_transient: int = 4096,
    max_period: int = 256,
    max_modes: int = 512,
    max_steps: int = 40,
    tol: float = 1e-11,
    progress: bool = True,
) -> "InvariantCircle":
    r"""Find the invariant circle that the orbit of `x0` settles on, and how the map turns it.

    $$ F(\gamma(\theta)) = \gamma(\theta + \rho), \qquad \theta \in [0, 1). $$

    The strongest frequency of the orbit, from weighted Birkhoff averages, is a first rotation number, and the averages
    at its multiples are first Fourier coefficients; Newton's method then solves for the curve and the rotation number
    together to spectral accuracy. An orbit that repeats instead is followed to its cycle (phase locking).

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`; a flow sampled in time (`time_map`) will do.
    - `x0`: a state in the basin, shape `(N,)`.
    - `num_steps`: the length of the orbit that is analysed.
    - `num_transient`: how many steps to take before it.
    - `max_period`: up to which period a settled orbit is recognised as a cycle.
    - `max_modes`: the most Fourier modes. Doubled from 16 until the last ones vanish.
    - `max_steps`: the most Newton steps and doublings.
    - `tol`: the residual at which the circle counts as found, as a fraction of its extent.
    - `progress`: show a bar when it takes longer than two seconds.

    **Returns:** an `InvariantCircle` whose `kind` is `"invariant circle"`, `"cycle"`, `"fixed point"`, or `"none"` with
    a `reason`: chaos, an orbit that leaves for infinity, one that has not settled, a set of several circles.

    **Raises:** `ValueError` for a bad state, a map that changes its shape or dtype, or options out of range.

    The rotation number is taken in [0, 1/2]: turning the other way is the same motion with theta reversed. Only
    attracting circles are found, since the orbit has to lead there. Very weak locking (a long cycle on the circle)
    cannot be told from quasi-periodic motion: what is shown is that the circle turns like a rotation up to `residual`.

    Reference: S. Das, Y. Saiki, E. Sander & J. A. Yorke (2017), *Quantitative quasiperiodicity*; À. Haro et al. (2016),
    *The Parameterization Method for Invariant Manifolds*.
    """
    check_state("x0", x0)
    for name, value, least in (
        ("num_steps", num_steps, 128),
        ("num_transient", num_transient, 0),
        ("max_period", max_period, 1),
        ("max_modes", max_modes, 16),
        ("max_steps", max_steps, 1),
    ):
        check_at_least(name, value, least)
    with double_precision():
        start = np.asarray(x0, np.float64)
        f = let_in(f, start)
        orbit = np.asarray(orbits_from(f, start[None], num_transient + num_steps))[0, num_transient:]
        if not np.isfinite(orbit).all():
            return _nothing(orbit, CircleVerdict.escaped, "the orbit leaves for infinity (or becomes NaN).")
        cycle = _settled_cycle(f, orbit, max_period)
        if cycle is not None:
            return _locked(cycle)
        size = start.size

        def evaluate(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return evaluate_map(f, points, description="invariant circle", progress=progress)

        first = first_circle(f, orbit, max_modes)
        if first is None:
            return _nothing(orbit, CircleVerdict.no_line, "the orbit has no line in its spectrum.")
        found = solve_circle(evaluate, first, tol=tol, max_steps=max_steps, max_modes=max_modes)
        extent, spread = np.max(np.ptp(found.circle.samples, axis=0)), np.max(np.ptp(orbit, axis=0))
        if not found.converged:
            return _nothing(orbit, *_failure(found, tol, max_modes))
        if extent < 1e-2 * spread:
            reason = "the orbit has not settled: it spirals to a fixed point. Take more num_transient."
            return _nothing(orbit, CircleVerdict.not_settled, reason)
        # The averages of T steps are off by about exp(-c sqrt(T)): 4096 leave rounding, and 1024, which is what long
        # states can afford, some 1e-10.
        exponents = _exponents(evaluate, found.circle, int(np.clip(2**18 // size, 1024, 4096)))
    samples, rho = _traversed_once(found.circle)
    rho = rho % 1.0
    if rho > 0.5:
        rho, samples = 1 - rho, np.roll(samples[::-1], 1, axis=0)
    return InvariantCircle(
        rotation_number=float(rho),
        coefficients=coefficients_of(samples),
        residual=found.residual,
        tail=found.tail,
        tangential_exponent=float(exponents[0]),
        multipliers=np.exp(exponents[1:]),
        cycle=None,
        num_newton_steps=found.num_steps,
        result=CircleVerdict.converged,
        reason="",
    )


class InvariantCircle(Judged):
    """What an orbit settled on: an invariant circle, or what it is instead.

    - `rotation_number`: turns per step, in [0, 1/2]. For a cycle m / p, where m is the strongest harmonic of its
        points; 0 for a fixed point, NaN for `"none"`.
    - `coefficients`: Fourier coefficients $c_0, \\dots, c_{K-1}$ of the curve
        $\\gamma(\\theta) = c_0 + 2 \\operatorname{Re} \\sum_{k \\ge 1} c_k e^{2\\pi i k\\theta}$, `(K, N)` complex.
    - `residual`: the largest $|F(\\gamma(\\theta)) - \\gamma(\\theta + \\rho)|$ as a fraction of the extent.
    - `tail`: the largest amplitude in the last quarter of the modes, likewise.
    - `tangential_exponent`: the growth rate along the curve, zero up to the error of the exponents.
    - `multipliers`: the moduli of the normal multipliers, per step, falling, `(N - 1,)`: exponentials of the Lyapunov
        exponents across the curve. All below 1: it attracts. For a cycle: see `cycle`.
    - `cycle`: the cycle (of period 1 for a fixed point), or `None`.
    - `num_newton_steps`: how many steps it took.
    - `result`: what became of the search, a `CircleVerdict`.
    - `reason`: why nothing was found, with the numbers of the case; empty when something was.
    """

    rotation_number: float
    coefficients: Complex[np.ndarray, "K N"]
    residual: float
    tail: float
    tangential_exponent: float
    multipliers: Float[np.ndarray, " M"]
    cycle: Cycles | None
    num_newton_steps: int
    result: CircleVerdict
    reason: str

    @property
    def kind(self) -> str:
        """`"invariant circle"`, `"cycle"` (phase locking), `"fixed point"` or `"none"`."""
        if self.cycle is not None:
            return "fixed point" if self.cycle.period == 1 else "cycle"
        return "invariant circle" if self.converged else "none"

    @property
    def converged(self) -> bool:
        """Whether an invariant circle was found."""
        return is_verdict(self.result, CircleVerdict.converged)

    @property
    def is_stable(self) -> bool:
        """Whether all normal multipliers lie inside the unit circle."""
        if self.cycle is not None:
            return bool(self.cycle.is_stable[0])
        return self.converged and bool(np.all(self.multipliers < 1))

    @property
    def mean(self) -> Float[np.ndarray, " N"]:
        """The mean of the curve over theta."""
        return np.real(self.coefficients[0])

    @property
    def rms_radius(self) -> float:
        """The root mean square distance of the curve from its mean."""
        return float(np.sqrt(2 * np.sum(np.abs(self.coefficients[1:]) ** 2)))

    def curve(self, theta: ArrayLike) -> Float[np.ndarray, "... N"]:
        """The curve at angles theta in turns (1 is once around), shape `(...)` to `(..., N)`."""
        theta = np.asarray(theta, float)
        waves = np.exp(2j * np.pi * theta[..., None] * np.arange(len(self.coefficients)))
        waves[..., 1:] *= 2
        return np.real(waves @ self.coefficients)

    def table(self) -> str:
        if self.cycle is None and not self.converged:
            return f"No invariant circle: {self.reason}"
        if self.cycle is not None:
            return f"InvariantCircle: the orbit settles on a {self.kind}\n{self.cycle.table()}"
        shown = ", ".join(f"{m:.4g}" for m in self.multipliers[:4]) + (", ..." if len(self.multipliers) > 4 else "")
        num_modes, size = self.coefficients.shape
        return (
            f"Invariant circle of {size} units: {'attracting' if self.is_stable else 'not attracting'}\n"
            f"  rotation number     {self.rotation_number:.12g} turns per step\n"
            f"  rms radius          {self.rms_radius:.6g}\n"
            f"  residual            {self.residual:.2g} of its extent, {num_modes} modes (tail {self.tail:.1g})\n"
            f"  normal multipliers  {shown}\n"
            f"  tangential exponent {self.tangential_exponent:.1g}"
        )


def _traversed_once(circle: Circle) -> Circle:
    """The same curve gone around once: gamma(m theta) solves the equation too, with a rotation number m times less."""
    samples, rho = circle
    modes = np.fft.rfft(samples, axis=0)
    sizes = np.max(np.abs(modes[1:]), axis=1)
    # Amplitudes are solved for to about 1e-11 of the extent.
    times = int(np.gcd.reduce(np.flatnonzero(sizes > 1e-9 * np.max(sizes)) + 1))
    if times == 1:
        return circle
    once = np.zeros_like(modes)
    kept = modes[::times]
    once[: len(kept)] = kept
    return Circle(np.fft.irfft(once, len(samples), axis=0), times * rho)


def _settled_cycle(f: Callable, orbit: np.ndarray, max_period: int) -> Cycles | None:
    """The stable cycle that the orbit has come close to, verified by Newton's method; or `None`."""
    longest = min(max_period, len(orbit) // 4)
    extent = np.max(np.ptp(orbit[-2 * longest :], axis=0))
    scale = max(float(np.max(np.abs(orbit[-1]))), float(extent))
    last = orbit[-longest:]
    for period in range(1, longest + 1):
        gap = np.max(np.abs(last - orbit[-longest - period : -period]))
        if gap <= _SETTLED * (scale if period == 1 else extent):
            with warnings.catch_warnings():
                # One cycle is looked for, not all of them.
                warnings.filterwarnings("ignore", message="(?s).*some are missing", category=UserWarning)
                cycles = find_cycles(f, orbit[-1:], period, max_rounds=1, num_random=0, progress=False)[period]
            near = np.min(np.max(np.abs(cycles.points - orbit[-1]), axis=2), axis=1, initial=np.inf)
            near = near <= 1e-3 * (scale if period == 1 else extent)
            if np.any(near & cycles.is_stable):
                return cycles.select(near & cycles.is_stable)
    return None


def _exponents(evaluate: Callable, circle: Circle, num_steps: int) -> np.ndarray:
    """Lyapunov exponents on the circle, falling: weighted Birkhoff averages of the logarithms of growth."""
    samples, rho = circle
    num_warm = 256
    modes = np.fft.rfft(samples, axis=0) / len(samples)
    modes[1:] *= 2
    angles = rho * np.arange(num_warm + num_steps)
    points = np.real(np.exp(2j * np.pi * np.outer(angles, np.arange(len(modes)))) @ modes)
    _, jacobians = evaluate(points)
    # The tangent is where the first direction ends up: from there the others need not wait for it.
    tangent = derivative(samples)[0]
    frame = np.linalg.qr(np.column_stack([tangent, np.eye(tangent.size)[:, : tangent.size - 1]]))[0]
    growth, weights = np.asarray(_growth_of_frame(jnp.asarray(frame), jacobians))[num_warm:], bump_weights(num_steps)
    # The first and last weights underflow, and zero times the ln 0 of a direction that is lost at once is no number.
    used = weights > 0
    return -np.sort(-(weights[used] @ growth[used]))


@compiled
def _growth_of_frame(frame: Float[Array, "N N"], jacobians: Float[Array, "T N N"]) -> Float[Array, "T N"]:
    """The logarithms of the growth of orthonormal directions, those before them projected out, at every step."""

    def step(frame, jacobian):
        frame, growth, _condition = orthonormalize(jacobian @ frame)
        return frame, growth

    return jax.lax.scan(step, frame, jacobians)[1]


def _locked(cycle: Cycles) -> InvariantCircle:
    power = np.sum(np.abs(np.fft.rfft(cycle.points[0] - cycle.points[0].mean(axis=0), axis=0)) ** 2, axis=1)
    return InvariantCircle(
        rotation_number=int(np.argmax(power)) / cycle.period,
        coefficients=np.zeros((0, cycle.points.shape[2]), complex),
        residual=float(cycle.residuals[0]),
        tail=0.0,
        tangential_exponent=float("nan"),
        multipliers=np.abs(cycle.multipliers[0]),
        cycle=cycle,
        num_newton_steps=0,
        result=CircleVerdict.locked,
        reason="",
    )


def _nothing(orbit: np.ndarray, result: Any, reason: str) -> InvariantCircle:
    return InvariantCircle(
        rotation_number=float("nan"),
        coefficients=np.zeros((0, orbit.shape[1]), complex),
        residual=float("inf"),
        tail=float("inf"),
        tangential_exponent=float("nan"),
        multipliers=np.zeros(0),
        cycle=None,
        num_newton_steps=0,
        result=result,
        reason=reason,
    )


def _failure(found: CircleNewton, tol: float, max_modes: int) -> tuple[Any, str]:
    if found.residual <= tol:
        return CircleVerdict.too_few_modes, (
            f"the curve needs more than {max_modes} modes (the last are {found.tail:.1e}). Raise max_modes; near its "
            "break-up no number is enough."
        )
    return CircleVerdict.no_solution, (
        f"no circle solves the equation (best residual {found.residual:.1e}). The orbit may be chaotic, not settled "
        "yet (take more num_transient), locked to a cycle longer than max_period, or visit several circles in turn "
        "(try iterate(f, n))."
    )
