"""Bifurcations of a map: what they are, where they are (defining systems), and which way they go (normal forms)."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.bifurcations._curve import Curve, Node, multipliers_of
from rnndyn.dynamics.bifurcations._normal_forms import (
    Derivatives,
    flip_coefficient,
    fold_coefficient,
    neimark_sacker_coefficient,
    pitchfork_coefficient,
)
from rnndyn.dynamics.bifurcations._systems import (
    BranchPointSystem,
    CriticalMultiplierSystem,
    CycleSystem,
    Evaluation,
    NeimarkSackerSystem,
    Parts,
    changes_around,
    curvature_along,
    evaluate_cycle,
    shooting_matrix,
)
from rnndyn.dynamics.bifurcations.verdicts import BifurcationVerdict
from rnndyn.dynamics.numerics.eigenvalues import orbit_product
from rnndyn.results import Judged, is_verdict

FOLD, BRANCH_POINT, FLIP, NEIMARK_SACKER = "fold", "branch point", "flip", "neimark-sacker"
BORDER_COLLISION = "border collision"

_MOST_ROUNDING = 1e-7
"""Defining systems that rounding moves by more than this are singular as far as can be told: a degenerate point."""

RESONANCES = {"1:1": 0.0, "1:2": np.pi, "1:3": 2 * np.pi / 3, "1:4": np.pi / 2}


class Bifurcation(Judged):
    r"""A point of a branch where a multiplier $\mu$ lies on the unit circle.

    - `kind`: `"fold"` ($\mu = 1$, the branch turns), `"branch point"` ($\mu = 1$, another branch crosses), `"flip"`
        ($\mu = -1$), `"neimark-sacker"` ($\mu = e^{\pm i\theta}$), or `"border collision"` (multipliers jump at a kink
        of the map; across the circle, unless `multiplicity` is 0).
    - `parameter`: where.
    - `points`: the points of the cycle, `(P, N)`; `point` is the first.
    - `multipliers`: of the cycle, by falling modulus, `(N,)` complex.
    - `angle`: $\theta$ in radians per cycle, between 0 and $\pi$.
    - `coefficient`: of the normal form, see below; NaN where it is not defined.
    - `subtype`: for a branch point `"pitchfork"` (the coefficient is cubic) or `"transcritical"` (quadratic); for a
        Neimark-Sacker point at a strong resonance `"1:1"`, `"1:2"`, `"1:3"` or `"1:4"`; else `None`.
    - `multiplicity`: how many multipliers (or pairs) cross at once; 0 where one touches the circle and turns back, as
        where two branches are tangent, or three meet.
    - `residual`: $|F(x_i) - x_{i+1}|_\infty$.
    - `error`: the last Newton step of the defining system, or what rounding does to its solution; or the width of the
        bracket. Relative to the width of the interval and the size of the states.
    - `result`: how well it is known, a `BifurcationVerdict`.
    - `index`: the branch point before it, in the order of the branch.
    - `tangent`: of the branch there, over the points and the parameter, `(P * N + 1,)`.

    Coefficients. Fold: $a$ of $\xi' = \xi + \beta + a\xi^2$. Flip: $c$ of $\xi' = -(1+\beta)\xi + c\xi^3$. Pitchfork:
    $c$ of $\xi' = (1+\beta)\xi + c\xi^3$. Transcritical: $a$ of $\xi' = (1+\beta)\xi + a\xi^2$. Neimark-Sacker:
    $\operatorname{Re} d$ of $z' = e^{i\theta} z(1 + \beta + d|z|^2)$. Critical eigenvectors have length one.

    Reference: Yu. Kuznetsov (2004), *Elements of Applied Bifurcation Theory*, chapters 4, 5 and 9.
    """

    kind: str
    parameter: float
    points: Float[np.ndarray, "P N"]
    multipliers: Complex[np.ndarray, " N"]
    angle: float
    coefficient: float
    subtype: str | None
    multiplicity: int
    residual: float
    error: float
    result: BifurcationVerdict
    index: int
    tangent: Float[np.ndarray, " n"]

    @property
    def converged(self) -> bool:
        """Whether the defining system was solved (Newton), or the point bracketed, to 1e-10."""
        return is_verdict(self.result, BifurcationVerdict.solved, BifurcationVerdict.bracketed)

    @property
    def point(self) -> Float[np.ndarray, " N"]:
        """The fixed point, or the first point of the cycle."""
        return self.points[0]

    @property
    def period(self) -> int:
        """The period of the cycle that bifurcates; 1 for a fixed point."""
        return len(self.points)

    @property
    def multiplier(self) -> complex:
        """The multiplier on the unit circle: $e^{i\\theta}$."""
        return complex(np.exp(1j * self.angle)) if self.kind == NEIMARK_SACKER else complex(np.cos(self.angle))

    @property
    def criticality(self) -> str | None:
        """`"supercritical"`: what is born is stable in the critical directions; `"subcritical"`: it is not.

        `None` where the coefficient does not decide: at folds and transcritical points, strong resonances, and zero.
        """
        if not np.isfinite(self.coefficient) or self.coefficient == 0:
            return None
        if self.kind == FLIP:
            return "supercritical" if self.coefficient > 0 else "subcritical"
        if (self.kind == NEIMARK_SACKER and self.subtype is None) or self.subtype == "pitchfork":
            return "supercritical" if self.coefficient < 0 else "subcritical"
        return None

    def table(self) -> str:
        return self._row()

    def _row(self) -> str:
        what = [self.kind]
        if self.kind == NEIMARK_SACKER:
            what.append(f"angle {self.angle:.6g}")
        what += [word for word in (self.subtype, self.criticality) if word]
        if self.multiplicity != 1:
            alone = "no multiplier crosses" if self.kind == BORDER_COLLISION else "touches the circle only"
            what.append(f"{self.multiplicity} at once" if self.multiplicity else alone)
        if not self.converged:
            what.append("not converged")
        return f"{self.parameter:+.12g}  {', '.join(what)}; coefficient {self.coefficient:.4g}; error {self.error:.1g}"


class Solution(NamedTuple):
    """Where Newton's method for a square system ended; `last_step` estimates the error, in units.

    `rounding` is how far rounding of the equations moves the solution: large where they are nearly singular.
    """

    z: Float[np.ndarray, " m"]
    last_step: float
    rounding: float


def solve_bifurcation(curve: Curve, kind: str, guess: Node) -> tuple[Solution, np.ndarray, float] | None:
    """Solve the defining system of `kind` from a node nearby.

    **Returns:** the solution, its z = (points, parameter), and the angle; or `None` where Newton's method fails.
    """
    cycle: CycleSystem = curve.system
    z = guess.zeta * curve.metric.scales
    units = np.asarray(curve.metric.units)
    try:
        system, frame, start = defining_system(cycle, kind, z, guess.multipliers)
    except np.linalg.LinAlgError:
        return None
    size = cycle.num_states
    units = np.insert(units, size, 1.0) if kind == NEIMARK_SACKER else units
    units = np.append(units, 1.0) if kind == BRANCH_POINT else units
    try:
        solution = solve_square(system, units, frame, start)
    except np.linalg.LinAlgError:  # singular at an iterate, which is then nowhere near a solution
        return None
    if not (np.isfinite(solution.z).all() and solution.last_step < 1e-10 and solution.rounding < _MOST_ROUNDING):
        return None
    if kind == NEIMARK_SACKER:
        k = float(solution.z[size])
        if abs(k) > 1:  # a neutral saddle: two real multipliers of product one
            return None
        return solution, np.delete(solution.z, size), float(np.arccos(k))
    if kind == BRANCH_POINT:
        # The unfolding parameter: well above rounding, the branches only come close.
        if abs(solution.z[-1]) > 1e-12 * units[0]:
            return None
        return solution, solution.z[:-1], 0.0
    return solution, solution.z, 0.0 if kind == FOLD else np.pi


def defining_system(
    cycle: CycleSystem, kind: str, z: np.ndarray, multipliers: np.ndarray
) -> tuple[Any, tuple[np.ndarray, ...], np.ndarray]:
    """The system whose solutions are bifurcations of `kind`, a frame for it near z, and z with its extra unknowns."""
    e = evaluate_cycle(cycle, z)
    if kind in (FOLD, FLIP):
        target = 1.0 if kind == FOLD else -1.0
        left, _, right = np.linalg.svd(shooting_matrix(np.asarray(e.step_jacobians), target))
        return CriticalMultiplierSystem(cycle, np.asarray(target)), (left[:, -1], right[-1]), z
    if kind == BRANCH_POINT:
        left, _, right = np.linalg.svd(e.jacobian)
        return BranchPointSystem(cycle), (left[:, -1:], right[-2:].T), np.append(z, 0.0)
    k = float(np.cos(np.angle(critical_pair(multipliers))))
    m = orbit_product(e.step_jacobians)
    left, _, right = np.linalg.svd(m @ m - 2 * k * m + np.eye(len(m)))
    return NeimarkSackerSystem(cycle), (left[:, -2:], right[-2:].T), np.insert(z, cycle.num_states, k)


def critical_pair(multipliers: np.ndarray) -> complex:
    """The complex multiplier nearest to the unit circle, in the upper half plane; 1j where all are real."""
    above = multipliers[np.imag(multipliers) > 0]
    return complex(above[np.argmin(np.abs(np.log(np.abs(above))))]) if above.size else 1j


def describe_bifurcation(
    curve: Curve, kind: str, z: np.ndarray, angle: float, error: float, index: int, tangent: np.ndarray
) -> Bifurcation:
    """The result for a located point: multipliers, residual and normal form."""
    cycle: CycleSystem = curve.system
    e = evaluate_cycle(cycle, z)
    m = orbit_product(e.step_jacobians)
    derivatives = Derivatives(cycle, z, m)
    subtype = None
    if kind == FOLD:
        coefficient = fold_coefficient(derivatives)
    elif kind == FLIP:
        coefficient = flip_coefficient(derivatives)
    elif kind == NEIMARK_SACKER:
        coefficient = neimark_sacker_coefficient(derivatives, angle)
        # Angles are exact to about 1e-10; a weak resonance with a denominator below 1000 is farther off than this.
        subtype = next((name for name, value in RESONANCES.items() if abs(angle - value) < 1e-6), None)
    else:
        scales = np.asarray(curve.metric.scales)
        own, crossing = branch_tangents(cycle, e, z, scales, tangent)
        tangent = own
        # One of the two branches of a pitchfork turns; the error of a tangent at a branch point is about 1e-9.
        turns = min(abs(own[-1]), abs(crossing[-1])) < 1e-5
        subtype = "pitchfork" if turns else "transcritical"
        coefficient = (pitchfork_coefficient if turns else fold_coefficient)(derivatives)
    return Bifurcation(
        kind=kind,
        parameter=float(z[-1]),
        points=z[:-1].reshape(cycle.period, cycle.num_units),
        multipliers=multipliers_of(e.step_jacobians),
        angle=angle,
        coefficient=coefficient,
        subtype=subtype,
        multiplicity=1,
        residual=float(np.max(np.abs(e.residual))),
        error=error,
        result=BifurcationVerdict.solved,
        index=index,
        tangent=tangent * curve.metric.scales,
    )


def branch_tangents(
    cycle: CycleSystem, e: Evaluation, z: np.ndarray, scales: np.ndarray, tangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""The tangents, in scaled coordinates, of the two branches through a branch point, that nearer to `tangent` first.

    In the null plane of the Jacobian, spanned by $\phi_1$ and $\phi_2$, they are the directions
    $\alpha\phi_1 + \beta\phi_2$ with $c_{11}\alpha^2 + 2c_{12}\alpha\beta + c_{22}\beta^2 = 0$ and
    $c_{ij} = w \cdot D^2G(\phi_i, \phi_j)$: the algebraic branching equation (H. B. Keller 1977).
    """
    left, _, right = np.linalg.svd(np.asarray(e.jacobian) * scales)
    w, plane = left[:, -1], right[-2:]
    c = np.stack([np.asarray(_curvature(cycle, z, v * scales, w)) * scales for v in plane]) @ plane.T
    # The isotropic directions of an indefinite form, in its principal axes. At a branch point it is indefinite.
    (low, high), axes = np.linalg.eigh((c + c.T) / 2)
    pair = np.array([[np.sqrt(max(high, 0.0)), s * np.sqrt(max(-low, 0.0))] for s in (1, -1)]) @ axes.T @ plane
    pair /= np.linalg.norm(pair, axis=1)[:, None]
    own, crossing = sorted(pair, key=lambda t: -abs(t @ tangent))
    return own * np.sign(own @ tangent), crossing


_curvature = compiled(curvature_along)
_changes = compiled(changes_around)

_PROGRAMS = Parts(
    evaluate_cycle,
    lambda *args: np.asarray(_curvature(*args)),
    lambda *args: np.asarray(_changes(*args)),
)


def solve_square(
    system: Any, units: np.ndarray, frame: tuple[np.ndarray, ...], z: np.ndarray, max_steps: int = 12
) -> Solution:
    """Newton's method for a system of as many equations as unknowns, until its steps no longer shrink.

    In NumPy, around programs that normal forms need as well: a loop as a program for each kind of bifurcation took a
    second to compile, and a millisecond less for each bifurcation. `LinAlgError` where an iterate is singular.
    """
    eps = float(np.finfo(z.dtype).eps)
    last, before, rounding = np.inf, np.inf, np.inf
    for _ in range(max_steps):
        with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite ends the loop
            e = system.evaluate(z, frame, _PROGRAMS)
        # Rounding of one sign, and of both in turn: one of the two alone may cancel in the inverse.
        noise = eps * (np.abs(e.jacobian) @ units)
        signs = np.where(np.arange(z.size) % 2 == 0, 1.0, -1.0)
        steps = np.linalg.solve(e.jacobian, np.stack([-e.residual, noise, signs * noise], axis=1))
        sizes = np.max(np.abs(steps) / units[:, None], axis=0)
        z, last, before, rounding = z + steps[:, 0], float(sizes[0]), last, float(max(sizes[1:]))
        at_floor = last < 1e-9 and last > 0.1 * before  # below, quadratic convergence has ended in rounding
        if not np.isfinite(last) or at_floor or last <= 4 * eps:
            break
    return Solution(z, last, rounding)
