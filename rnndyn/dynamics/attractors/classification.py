"""What one orbit does in the long run: a fixed point, a cycle, an invariant circle, chaos, escape, or not decided."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.attractors._orbits import SEGMENT, LongOrbit, skip
from rnndyn.dynamics.attractors._periodic_ends import PeriodicOrbit, closest_returns, polish_end
from rnndyn.dynamics.cycles.invariant_circles import InvariantCircle, find_invariant_circle
from rnndyn.dynamics.cycles.limit_cycles import LimitCycle, find_limit_cycle
from rnndyn.dynamics.flows import TimeMap
from rnndyn.dynamics.kinks import OneSidedLinearization
from rnndyn.dynamics.numerics.birkhoff import leading_frequencies
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.results import Result

KINDS = ("fixed point", "cycle", "invariant circle", "chaotic", "unbounded", "undecided")

_CIRCLE_DIGITS = 8.0
"""Weighted averages that agree to so many digits: chaos needs 1e16 steps for that, a circle a few thousand."""

_MAX_NEWTON_SIZE = 16
"""Circles of longer states are not solved for: a Newton step works on a matrix N x N for each of hundreds of angles."""

_MAX_CIRCLES = 64
"""The most circles visited in turn that are told apart."""

_NUM_SAMPLES = 512
"""States that stand for a circle or a chaotic attractor."""


def classify_attractor(
    f: Callable[[Array], Array],
    x0: ArrayLike,
    *,
    max_steps: int = 2**18,
    max_period: int = 256,
    escape_radius: float | None = None,
) -> "ClassifiedAttractor":
    r"""Say what the orbit $x_{t+1} = F(x_t)$ of a state settles on, with the evidence.

    What is named is verified, or it is "undecided" with a reason:

    - *fixed point*, *cycle*: Newton's method finds it next to the orbit, all multipliers lie inside the unit circle,
        and the orbit has come within $\min(10^{-6}, (1 - \rho) / 100)$ of it (as a fraction of the scale of the
        states, $\rho$ the spectral radius): deep inside the region where the linear part decides. The period is
        minimal.
    - *chaotic*: the largest Lyapunov exponent exceeds zero by five standard errors over the last half of the orbit,
        and again `max_steps` steps later, which sorts out chaotic transients shorter than that. Where volume is kept
        (all exponents sum to zero within their error) nothing attracts, and `is_attractor` is false.
    - *invariant circle*: weighted Birkhoff averages agree to 8 digits, the exponent along the motion vanishes, the next
        one is negative; up to 16 entries the curve itself is solved for (`find_invariant_circle`), but not on angles
        (`on_torus`). Several circles that are visited in turn show in their number, `num_circles`: $F^k$ then takes
        each into itself. An attracting periodic orbit of a flow, seen by a `time_map`, is an invariant circle with a
        `limit_cycle`; a time map has no attracting cycles, because along the flow nothing attracts.
    - *unbounded*: the orbit leaves the ball of `escape_radius`.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`. An `equinox.Module` shares its compilation with all others of its structure.
    - `x0`: the initial state, shape `(N,)`.
    - `max_steps`: after how many steps an orbit without a verdict is undecided; they are doubled from 4096.
    - `max_period`: the longest period that is recognised.
    - `escape_radius`: by default $10^{10}$ times the largest entry of the state and its image, or of one if larger.

    **Returns:** a `ClassifiedAttractor`.

    **Raises:** `ValueError` for a bad state, a map that changes its shape or dtype, or options out of range.

    No finite run tells an attractor from a transient that lasts longer, nor a circle from a locked state of a period
    beyond `max_period` whose exponent is below $10^{-6}$. At a bifurcation ($|\mu| = 1$ up to $10^{-6}$) nothing is
    decided. Motion on a torus of two or more frequencies has two zero exponents and is undecided, as is conservative
    motion.

    Reference: S. Das, Y. Saiki, E. Sander & J. A. Yorke (2017), *Quantitative quasiperiodicity*; G. Benettin et al.
    (1980), *Lyapunov characteristic exponents*; H. Flyvbjerg & R. G. Petersen (1989) (error bars).
    """
    check_state("x0", x0)
    start = np.asarray(x0, np.float64)
    if not np.isfinite(start).all():
        raise ValueError("x0: it holds NaN or infinity. Look at where it comes from.")
    check_at_least("max_steps", max_steps, SEGMENT)
    check_options(max_period, escape_radius)
    with double_precision():
        flow = f if isinstance(f, TimeMap) else None
        f = let_in(f, start)
        radius = escape_distance(f, start[None], escape_radius)
        return classify(f, start, max_steps=max_steps, max_period=max_period, radius=radius, flow=flow)


class ClassifiedAttractor(Result):
    """What an orbit settles on, and what that verdict rests on.

    - `kind`: `"fixed point"`, `"cycle"`, `"invariant circle"`, `"chaotic"`, `"unbounded"` or `"undecided"`.
    - `reason`: what the verdict rests on, in words.
    - `points`: the fixed point `(1, N)` or cycle `(p, N)`, polished by Newton's method; for a circle or chaos 512
        states of the orbit; where undecided the last state.
    - `period`: the minimal period of a fixed point (1) or cycle, else `None`.
    - `residual`: $|F(x_i) - x_{i+1}|_\\infty$ of the points of a cycle; of a circle solved for, as a fraction of its
        extent; else NaN.
    - `multipliers`: of a fixed point or cycle, by falling modulus, `(N,)`; else empty. On a kink those of one side.
    - `kink`: the linear maps that meet at a fixed point or cycle on a kink (`linearize_one_sided`), or `None`.
    - `rotation_number`: turns per step of a circle, in [0, 1/2]: of the curve where it was solved for, else the
        strongest frequency of the orbit. NaN for other kinds.
    - `exponents`, `exponents_stderr`: the largest one or two Lyapunov exponents, nats per step, over the last half of
        the orbit; $\\ln|\\mu| / p$ of a fixed point or cycle, where the error is 0.
    - `recurrence_gap`, `recurrence_time`: the least p-step gap of the last states, as a fraction of their scale, and p.
    - `birkhoff_digits`: to how many digits weighted averages over two halves agree.
    - `distance`: how far the orbit still is from the fixed point or cycle, as a fraction of the scale; else NaN.
    - `num_steps`: how many steps were taken.
    - `circle`: the invariant circle where it was solved for; of $F^k$ and through the final state, where k > 1 are
        visited in turn.
    - `num_circles`: how many circles are visited in turn, 0 for other kinds. The rotation number is then turns per so
        many steps.
    - `limit_cycle`: the periodic orbit of the flow that a time map samples, where it is one.
    - `volume_rate`, `volume_rate_stderr`: the mean of $\\ln|\\det DF|$, the sum of all exponents, of a chaotic orbit;
        else NaN.
    - `final_state`: where the orbit stands.

    Where `find_attractors` found a fixed point or cycle, recurrence and averages were not needed: NaN and 0.
    """

    kind: str
    reason: str
    points: Float[np.ndarray, "M N"]
    period: int | None
    residual: float
    multipliers: Complex[np.ndarray, " K"]
    rotation_number: float
    exponents: Float[np.ndarray, " k"]
    exponents_stderr: Float[np.ndarray, " k"]
    recurrence_gap: float
    recurrence_time: int
    birkhoff_digits: float
    distance: float
    num_steps: int
    circle: InvariantCircle | None
    final_state: Float[np.ndarray, " N"]
    kink: OneSidedLinearization | None = None
    num_circles: int = 0
    limit_cycle: LimitCycle | None = None
    volume_rate: float = float("nan")
    volume_rate_stderr: float = float("nan")

    @property
    def keeps_volume(self) -> bool:
        """Whether volume was found to be kept, as far as its error tells: then nothing attracts."""
        return is_kept(self.volume_rate, self.volume_rate_stderr)

    @property
    def is_attractor(self) -> bool:
        """Whether the orbit was found to settle on something bounded that can attract."""
        return self.kind not in ("unbounded", "undecided") and not self.keeps_volume

    @property
    def is_periodic(self) -> bool:
        """Whether it is a fixed point or a cycle."""
        return self.kind in ("fixed point", "cycle")

    @property
    def label(self) -> str:
        """The kind in a few words: `"cycle of period 4"`."""
        if self.kind == "cycle":
            return f"cycle of period {self.period}"
        if self.limit_cycle is not None:
            return f"limit cycle of the flow, period {self.limit_cycle.period:.6g}"
        if self.num_circles > 1:
            turns = f"rotation number {self.rotation_number:.6g} per {self.num_circles} steps"
            return f"{self.num_circles} circles visited in turn, {turns}"
        if self.kind == "invariant circle":
            return f"invariant circle, rotation number {self.rotation_number:.6g}"
        if self.kind == "chaotic":
            word = "chaotic, volume kept" if self.keeps_volume else "chaotic"
            return f"{word}, exponent {self.exponents[0]:.4g} +- {self.exponents_stderr[0]:.1g}"
        return self.kind

    def table(self) -> str:
        lines = [f"{self.label}: {self.reason}"]
        if self.is_periodic:
            radius = np.max(np.abs(self.multipliers)) if self.kink is None else self.kink.growth
            lines.append(
                f"  residual {self.residual:.2g}, spectral radius {radius:.6g}, "
                f"the orbit is {self.distance:.1g} of the scale away"
            )
        elif self.exponents.size:
            shown = ", ".join(f"{v:.5g} +- {e:.1g}" for v, e in zip(self.exponents, self.exponents_stderr))
            lines.append(f"  exponents {shown}")
        if self.recurrence_time:
            lines.append(
                f"  closest return {self.recurrence_gap:.2g} of the scale after {self.recurrence_time} steps; "
                f"weighted averages agree to {self.birkhoff_digits:.1f} digits; {self.num_steps} steps"
            )
        return "\n".join(lines)


def check_options(max_period: int, escape_radius: float | None) -> None:
    """Raise unless the options that all classifications share are in range."""
    check_at_least("max_period", max_period, 1)
    if max_period > SEGMENT // 4:
        raise ValueError(f"max_period: expected at most {SEGMENT // 4}, got {max_period}.")
    if escape_radius is not None and not escape_radius > 0:
        raise ValueError(f"escape_radius: expected a positive radius, got {escape_radius}.")


def escape_distance(f: Callable, starts: np.ndarray, given: float | None) -> float:
    """The size of state at which an orbit counts as escaped."""
    if given is not None:
        return float(given)
    image = np.asarray(skip(f, jnp.asarray(starts[0]), jnp.asarray(1)))
    sizes = np.abs(np.concatenate([starts, image[None]]))
    return 1e10 * max(1.0, float(np.max(sizes[np.isfinite(sizes)])))


def classify(
    f: Callable, start: np.ndarray, *, max_steps: int, max_period: int, radius: float, flow: TimeMap | None = None
) -> ClassifiedAttractor:
    """`classify_attractor` inside of double precision, arguments checked; `flow` where f is the time map of one."""
    first = _classify_once(f, start, max_steps, max_period, radius, flow)
    if first.kind != "chaotic":
        return first
    # A chaotic transient shows the same exponent until it ends.
    later = np.asarray(skip(f, jnp.asarray(first.final_state), jnp.asarray(max_steps)))
    if not np.max(np.abs(later)) <= radius:
        return _unbounded(later, first.num_steps + max_steps)
    return _classify_once(f, later, max_steps, max_period, radius, flow, taken=first.num_steps + max_steps)


def _classify_once(
    f: Callable,
    start: np.ndarray,
    max_steps: int,
    max_period: int,
    radius: float,
    flow: TimeMap | None,
    taken: int = 0,
) -> ClassifiedAttractor:
    orbit = LongOrbit(f, start, radius)
    judge = _Judge(f, orbit, max_period, flow, taken)
    while True:
        orbit.extend(max(1, orbit.num_steps // SEGMENT))
        if orbit.escaped_after is not None:
            return _unbounded(orbit.x, taken + orbit.escaped_after)
        verdict = judge.verdict()
        if verdict is not None:
            return verdict
        if 2 * orbit.num_steps > max_steps:
            return judge.undecided()


class _Judge:
    """The tests that an orbit is put to after every doubling of its length."""

    def __init__(self, f: Callable, orbit: LongOrbit, max_period: int, flow: TimeMap | None, taken: int):
        self.f, self.orbit, self.max_period, self.flow, self.taken = f, orbit, max_period, flow, taken
        self.neighbours: list[PeriodicOrbit] = []
        self.refused = ""
        self.gap, self.time = np.inf, 0

    def verdict(self) -> ClassifiedAttractor | None:
        """The first kind whose every test is passed."""
        orbit = self.orbit
        candidates, gaps = closest_returns(orbit.states, self.max_period, orbit.scale, orbit.angles)
        self.time = int(np.argmin(gaps)) + 1
        self.gap = float(gaps[self.time - 1])
        found = [polish_end(self.f, orbit.states, p, orbit.scale) for p in candidates]
        self.neighbours = [p for p in found if p is not None]
        for periodic in self.neighbours:
            if periodic.stability == "stable" and periodic.holds and (self.flow is None or periodic.period == 1):
                return self._periodic(periodic)
        if self.flow is not None:
            found = self._limit_cycle(self.flow)
            if found is not None:
                return found
        # On an unstable cycle the exponent is positive, on a marginal one it is zero: neither is an attractor.
        if any(p.stability != "stable" and p.distance <= 1e-6 for p in self.neighbours):
            return None
        growth = orbit.growth()
        if orbit.num_steps >= 2 * SEGMENT and growth.is_chaotic:
            volume, error = orbit.volume()
            reason = (
                f"the exponent is positive by {growth.exponents[0] / growth.stderr[0]:.3g} standard errors, and was so "
                "before"
            )
            if is_kept(volume, error):
                reason += f"; volume is kept (all exponents sum to {volume:.1g} +- {error:.1g}): not an attractor"
            return self._result("chaotic", reason, points=self._sample(), volume_rate=volume, volume_rate_stderr=error)
        return self._circle()

    def _limit_cycle(self, flow: TimeMap) -> ClassifiedAttractor | None:
        """The attracting periodic orbit of the flow whose samples the orbit is."""
        orbit, growth = self.orbit, self.orbit.growth()
        if orbit.num_steps < 2 * SEGMENT or growth.is_chaotic or growth.exponents[0] < -1e-2:
            return None
        cycle = find_limit_cycle(flow.vector_field, orbit.x, transient=0)
        if not cycle.is_stable:
            return None
        # The orbit is on it: nearer to its points than they are to their neighbours.
        spacing = np.max(np.abs(np.roll(cycle.points, -1, axis=0) - cycle.points))
        if not np.min(np.max(np.abs(cycle.points - orbit.x), axis=1)) <= spacing:
            return None
        turns = flow.dt / cycle.period % 1.0
        across = np.real(cycle.log_multipliers[:1]) * flow.dt / cycle.period
        return self._result(
            "invariant circle",
            f"limit cycle of the flow: a periodic orbit of the vector field with period {cycle.period:.9g}, attracting",
            points=self._sample(),
            rotation_number=min(turns, 1 - turns),
            residual=cycle.residual,
            exponents=np.concatenate([[0.0], across]),
            exponents_stderr=np.zeros(1 + across.size),
            num_circles=1,
            limit_cycle=cycle,
        )

    def _circle(self) -> ClassifiedAttractor | None:
        orbit, growth = self.orbit, self.orbit.growth()
        # Without a second direction there is no circle; a constant or periodic orbit averages well too.
        if growth.exponents.size < 2 or orbit.num_steps < 2 * SEGMENT or self.gap < 1e-8:
            return None
        along, across = growth.weighted
        if not (abs(along) <= 1e-6 and across < -1e-5 and orbit.birkhoff_digits() >= _CIRCLE_DIGITS):
            return None
        reason = "weighted averages converge, one exponent is zero and the next negative"
        lines = leading_frequencies(orbit.signal()[-SEGMENT:], 8)
        if lines.size == 0:
            return None
        num, residual, circle = _num_circles(lines), float("nan"), None
        # A curve that winds around an angle is no function of its own phase with values in a plane.
        if orbit.angles is None and orbit.x.size <= _MAX_NEWTON_SIZE:
            num, circle = self._solved(num)
            if circle is None:
                return None
            rotation, residual = circle.rotation_number, circle.residual
            reason += "; the curve is solved for"
        elif num == 1:
            rotation = float(lines[0])
        else:
            within = leading_frequencies(orbit.signal()[::num], 1)
            if within.size == 0:
                return None
            rotation = float(within[0])
        if num > 1:
            reason += f"; lines of the spectrum at multiples of 1/{num}: {num} circles are visited in turn"
        return self._result(
            "invariant circle",
            reason,
            points=self._sample(),
            rotation_number=rotation,
            residual=residual,
            circle=circle,
            num_circles=num,
        )

    def _solved(self, num: int) -> tuple[int, InvariantCircle | None]:
        """The number of circles visited in turn, and the curve of one of them; or why there is none, in `refused`."""
        x = self.orbit.x
        for k in [num, 1] if num > 1 else [1]:
            found = find_invariant_circle(
                self.f if k == 1 else _Iterated(self.f, k), x, num_transient=0, progress=False
            )
            if not found.converged:
                self.refused = found.reason or f"the orbit is on a {found.kind}"
                continue
            # One circle alone is a circle of every iterate too: its states come back to it after each step.
            curve = found.curve(np.arange(4096) / 4096)
            spacing = np.max(np.abs(np.roll(curve, -1, axis=0) - curve))
            ahead = np.asarray(skip(self.f, jnp.asarray(x), jnp.asarray(1)))
            if k > 1 and np.min(np.max(np.abs(curve - ahead), axis=1)) <= spacing:
                continue
            return k, found
        return num, None

    def _periodic(self, found: PeriodicOrbit) -> ClassifiedAttractor:
        return periodic_attractor(
            found,
            self.orbit.x,
            recurrence_gap=self.gap,
            recurrence_time=self.time,
            birkhoff_digits=self.orbit.birkhoff_digits(),
            num_steps=self.taken + self.orbit.num_steps,
        )

    def undecided(self) -> ClassifiedAttractor:
        """Why nothing can be said."""
        orbit = self.orbit
        near = self.neighbours or [p for p in [self._central_point()] if p is not None]
        best = min(near, key=lambda p: p.distance, default=None)
        sizes = np.max(np.abs(orbit.signal()), axis=1)
        grows = np.max(sizes[len(sizes) // 2 :]) > 1.2 * np.max(sizes[: len(sizes) // 2])
        growth = orbit.growth()
        rate, error = growth.exponents[0], growth.stderr[0]
        volume, volume_error = orbit.volume()
        # A point in the middle of such motion is no reason for it.
        if not self.neighbours and is_kept(volume, volume_error):
            reason = f"the motion keeps volume (exponents sum to {volume:.1g} +- {volume_error:.1g}): nothing attracts"
        elif best is not None and best.stability == "unstable" and best.distance <= 1e-6:
            reason = f"the orbit stays on {_name(best)} that is unstable (|mu| = {best.spectral_radius:.6g})"
        elif best is not None and best.kink is not None and best.stability == "marginal":
            reason = f"near {_name(best)} on a kink of the map: {best.kink.reason}"
        elif best is not None and best.stability == "marginal":
            reason = f"near {_name(best)} with a multiplier on the unit circle (|mu| = {best.spectral_radius:.9g})"
        elif best is not None and best.stability == "stable":
            reason = (
                f"the orbit approaches {_name(best)} slowly or not at all (|mu| = {best.spectral_radius:.6g}, "
                f"{best.distance:.1g} of the scale away); raise max_steps"
            )
        elif grows:
            reason = "the orbit still grows; raise max_steps or lower escape_radius"
        elif growth.is_chaotic or rate > 5 * error:
            reason = f"the exponent {rate:.3g} +- {error:.1g} is positive, but it drifts or is correlated"
        elif self.refused:
            reason = (
                f"regular, with one exponent zero and the next negative, but no curve solves for it: {self.refused}"
            )
        elif orbit.birkhoff_digits() >= _CIRCLE_DIGITS and growth.weighted[0] < -1e-6:
            reason = f"regular and contracting: a cycle longer than max_period = {self.max_period}?"
        elif orbit.birkhoff_digits() >= _CIRCLE_DIGITS:
            reason = "quasi-periodic, but no attracting circle: a torus of more frequencies"
        else:
            reason = f"the exponent {rate:.3g} +- {error:.1g} is too close to zero, and averages converge slowly"
        return self._result("undecided", f"{reason} (after {orbit.num_steps} steps)", points=orbit.states[-1:])

    def _central_point(self) -> PeriodicOrbit | None:
        """The fixed point in the middle of the orbit, around which it may spiral."""
        states = self.orbit.states
        found = polish_end(self.f, np.concatenate([states, states.mean(axis=0)[None]]), 1, self.orbit.scale)
        if found is None:
            return None
        distance = float(np.max(np.abs(states[-64:] - found.points[0]))) / self.orbit.scale
        return found._replace(distance=distance)

    def _sample(self) -> np.ndarray:
        states = self.orbit.states
        return states[-_NUM_SAMPLES:]

    def _result(self, kind: str, reason: str, **fields: Any) -> ClassifiedAttractor:
        growth = self.orbit.growth()
        evidence: dict[str, Any] = {
            "exponents": growth.exponents,
            "exponents_stderr": growth.stderr,
            "recurrence_gap": self.gap,
            "recurrence_time": self.time,
            "birkhoff_digits": self.orbit.birkhoff_digits(),
            "num_steps": self.taken + self.orbit.num_steps,
        }
        return _attractor(kind, reason, self.orbit.x, **(evidence | fields))


def periodic_attractor(found: PeriodicOrbit, state: Float[np.ndarray, " N"], **evidence: Any) -> ClassifiedAttractor:
    """The verdict on an orbit that has settled on an attracting fixed point or cycle."""
    with np.errstate(divide="ignore"):
        moduli = np.abs(found.multipliers[:2]) if found.kink is None else np.array([found.kink.growth])
        exponents = np.log(moduli) / found.period
    inside = "every multiplier is inside the unit circle" if found.kink is None else f"on a kink {found.kink.reason}"
    return _attractor(
        "fixed point" if found.period == 1 else "cycle",
        f"Newton's method converges, {inside}, the orbit has settled there",
        state,
        points=found.points,
        period=found.period,
        residual=found.residual,
        multipliers=found.multipliers,
        exponents=exponents,
        exponents_stderr=np.zeros_like(exponents),
        distance=found.distance,
        kink=found.kink,
        **evidence,
    )


def is_kept(rate: float, error: float) -> bool:
    """Whether volume neither shrinks nor grows, by its rate and the standard error of that."""
    return bool(abs(rate) <= 5 * error)


class _Iterated(eqx.Module):
    """F^k."""

    f: Callable[[Array], Array]
    num: int = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        return jax.lax.fori_loop(0, self.num, lambda _, x: self.f(x), x)


def _num_circles(lines: Float[np.ndarray, " K"]) -> int:
    """Of how many pieces a quasi-periodic set consists: what its spectrum shows of a motion from piece to piece.

    A line at m / q, known to 1e-12 from 4096 steps, belongs to a motion among pieces; that of a circle is irrational.
    """
    num = 1
    for line in lines:
        orders = np.arange(1, _MAX_CIRCLES + 1)
        near = np.abs(orders * line - np.round(orders * line)) <= 1e-9 * orders
        if near.any():
            num = int(np.lcm(num, orders[np.argmax(near)]))
    return num if num <= _MAX_CIRCLES else 1


def _unbounded(state: np.ndarray, num_steps: int) -> ClassifiedAttractor:
    reason = f"the orbit leaves the escape radius within {num_steps} steps"
    return _attractor("unbounded", reason, state, num_steps=num_steps)


def _attractor(kind: str, reason: str, state: np.ndarray, **fields: Any) -> ClassifiedAttractor:
    nan, nothing = float("nan"), np.zeros(0)
    absent: dict[str, Any] = {
        "points": np.zeros((0, state.size)),
        "period": None,
        "residual": nan,
        "multipliers": nothing.astype(complex),
        "rotation_number": nan,
        "exponents": nothing,
        "exponents_stderr": nothing,
        "recurrence_gap": nan,
        "recurrence_time": 0,
        "birkhoff_digits": nan,
        "distance": nan,
        "num_steps": 0,
        "circle": None,
        "num_circles": 0,
    }
    return ClassifiedAttractor(kind=kind, reason=reason, final_state=state, **(absent | fields))


def _name(found: PeriodicOrbit) -> str:
    return "a fixed point" if found.period == 1 else f"a cycle of period {found.period}"
