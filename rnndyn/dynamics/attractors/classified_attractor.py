"""What is known of where one orbit settles: the record of it, and how it is made."""

from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from rnndyn.dynamics.attractors._periodic_ends import PeriodicOrbit
from rnndyn.dynamics.attractors.verdicts import AttractorVerdict
from rnndyn.dynamics.cycles.invariant_circles import InvariantCircle
from rnndyn.dynamics.cycles.limit_cycles import LimitCycle
from rnndyn.dynamics.kinks import OneSidedLinearization
from rnndyn.results import Judged, is_verdict


class ClassifiedAttractor(Judged):
    """What an orbit settles on, and what that verdict rests on.

    - `kind`: `"fixed point"`, `"cycle"`, `"invariant circle"`, `"chaotic"`, `"unbounded"` or `"undecided"`.
    - `result`: whether it attracts, or why that is not decided, an `AttractorVerdict`.
    - `reason`: what the verdict rests on, with its numbers.
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
    result: AttractorVerdict
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
        return is_verdict(self.result, AttractorVerdict.attracting)

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


def periodic_attractor(found: PeriodicOrbit, state: Float[np.ndarray, " N"], **evidence: Any) -> ClassifiedAttractor:
    """The verdict on an orbit that has settled on an attracting fixed point or cycle."""
    with np.errstate(divide="ignore"):
        moduli = np.abs(found.multipliers[:2]) if found.kink is None else np.array([found.kink.growth])
        exponents = np.log(moduli) / found.period
    inside = "every multiplier is inside the unit circle" if found.kink is None else f"on a kink {found.kink.reason}"
    return attractor_with(
        "fixed point" if found.period == 1 else "cycle",
        AttractorVerdict.attracting,
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


def unbounded_orbit(state: np.ndarray, num_steps: int) -> ClassifiedAttractor:
    """The verdict on an orbit that has left the escape radius."""
    reason = f"the orbit leaves the escape radius within {num_steps} steps"
    return attractor_with("unbounded", AttractorVerdict.unbounded, reason, state, num_steps=num_steps)


def attractor_with(kind: str, result: Any, reason: str, state: np.ndarray, **fields: Any) -> ClassifiedAttractor:
    """A `ClassifiedAttractor` with these fields, and what is absent for all others."""
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
    return ClassifiedAttractor(kind=kind, result=result, reason=reason, final_state=state, **(absent | fields))
