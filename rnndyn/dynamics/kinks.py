"""The linear maps that meet at a kink, and whether a fixed point on it is stable."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from rnndyn._programs import Program, compiled
from rnndyn._validation import check_state
from rnndyn.dynamics._hidden_kinks import two_sides
from rnndyn.dynamics._kink_growth import (
    MARGIN,
    NUM_DIRECTIONS,
    Looked,
    Place,
    growth_along_rays,
    into_every_cone,
    late,
    settled_growth,
)
from rnndyn.dynamics._kink_norm import LARGEST, as_relu_layer, growth_bound
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.one_sided import hides_kinks, may_have_kinks
from rnndyn.results import Judged, is_verdict, stack_verdicts, take_verdicts

_FEW = 8
"""Up to so many switches on the border every combination of their sides is tried."""


_ROOM = 0.1
"""The bound that is sought lies by this fraction of the way from 1 to the growth that was seen."""

_MAX_PIECES = 64
"""The most linear pieces that are listed, those that trajectories end on first."""


def linearize_one_sided(
    f: Callable[[Array], Array], x: ArrayLike, *, error: float | None = None, bound: bool = False
) -> "OneSidedLinearization | None":
    r"""Linearise a map at a point on a kink, from every side: $F(x + \delta) \approx F(x) + F'(x; \delta)$.

    The directional derivative $F'(x; d) = \lim_{h \to 0+} (F(x + h d) - F(x)) / h$ is linear in d on each of several
    cones. A fixed point there is stable where the piecewise-linear map $d \mapsto F'(x; d)$ shrinks every direction in
    the long run; the eigenvalues of one piece decide only where its cone takes the eigenvector into itself.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`. Kinks are seen in maxima, minima, absolute values, clips, comparisons (`where`) and
        rounding, also within `jit`, `cond`, `custom_jvp` and loops of up to 64 rounds. In longer loops, `while` loops
        (the time map of a flow) and beside complex numbers only that the derivative jumps is seen: `"undecided"`.
    - `x`: the point, shape `(N,)`; as a rule a fixed point.
    - `error`: how far it may be from the point that is meant. By default one unit in the last place, and at a point
        that is nearly fixed (to 1e-6 of its size) $\|(I - DF)^{-1}\|_\infty$ times the residual.
    - `bound`: whether a norm is sought in which every direction shrinks (`growth_bound`), and the verdict is `"stable"`
        only with it. It takes a second or less for 20 units with 20 switches on the border, many for 100.

    **Returns:** a `OneSidedLinearization`; `None` where the map is smooth at the point and within its error.

    **Raises:** `ValueError` for a bad state, a map that changes its shape or dtype, a negative error.

    A switch whose two sides differ by less than their error (running error analysis from that of x) is on its border.
    Up to 8 of them: all combinations of sides are tried. Beyond, random directions and the axes. Every direction is
    followed for 256 steps; where its sides then repeat, the growth is an eigenvalue of the product of the pieces. Real
    eigenvectors that stay in their own cone count as well; those that leave it lead to further pieces. So `growth` is a
    growth that exists, a lower bound: growth only along other exceptional directions is not seen. With `bound` an
    upper bound is sought, $|F'(x; d)|_P \le \gamma |d|_P$ in a quadratic norm, by a linear matrix inequality that knows
    which sides exclude each other (S-procedure). It can fail where the map is stable: the verdict is then
    `"undecided"`. Where the point is not exactly on the kink, it may truly lie on either side of it: then all pieces
    have to agree with the map as a whole, or the verdict is `"undecided"`.

    References: F. H. Clarke (1983), *Optimization and Nonsmooth Analysis*; M. di Bernardo, C. Budd, A. Champneys & P.
    Kowalczyk (2008), *Piecewise-smooth Dynamical Systems* (border collisions); V. A. Yakubovich, G. A. Leonov & A. Kh.
    Gelig (2004), *Stability of Stationary Sets in Control Systems with Discontinuous Nonlinearities*.
    """
    check_state("x", x)
    if not np.isfinite(np.asarray(x)).all():
        raise ValueError("x: it holds NaN or infinity. Look at where it comes from.")
    if error is not None and not error >= 0:
        raise ValueError(f"error: expected a distance of at least 0, got {error}.")
    with double_precision():
        point = np.asarray(x, np.float64)
        program = let_in(f, point)
        if not (may_have_kinks(program) or hides_kinks(program)):
            return None
        if error is None:
            error = _error_of(point, *(np.asarray(a) for a in _image_and_jacobian(program, jnp.asarray(point))))
        return at_kinks(program, point[None], float(error), bound)


class KinkVerdict(eqx.Enumeration):
    """What a fixed point or cycle is at a kink; `KinkVerdict[result]` is the message.

    - `smooth`: it lies on no kink, within its error; its multipliers decide.
    - `stable`, `unstable`: growth in the long run of the linear maps that meet there, along every direction.
    - `neutral`: that growth is 1 to rounding. Nonlinear terms decide: follow orbits from nearby.
    - `straddled`: no direction was seen to grow, and no norm was found in which all shrink.
    - `rounding`: the point is within its error of the kink and the sides disagree. Give the weights in float64, or move
        the point off the kink (a bias).
    - `jumps`: the map itself jumps there, and no derivative says anything. Is a coordinate an angle (`on_torus`)?
    - `not_finite`: a derivative is NaN or infinite there. Look at the map.
    - `hidden`: the derivative jumps, in a `while` loop or a long scan that is not opened, so that its pieces are not
        known. Follow orbits from nearby.
    """

    smooth = "not on a kink"
    stable = "stable: every direction shrinks in the long run"
    unstable = "unstable: some direction grows in the long run"
    neutral = "undecided: neither growth nor decay in the long run"
    straddled = "undecided: no direction was seen to grow, and no norm was found in which all shrink"
    rounding = "undecided: within its error of a kink, so that rounding decides on which side it lies"
    jumps = "undecided: the map jumps within the error of the point"
    not_finite = "undecided: the derivative is NaN or infinite"
    hidden = "undecided: the derivative jumps there, in a loop that is not opened"


class OneSidedLinearization(Judged):
    """The linear maps that meet at a fixed point or cycle on a kink.

    - `points`: the point `(1, N)`, or the points of the cycle `(p, N)`.
    - `jacobians`: the pieces, `(M, N, N)`; of a cycle, of the map p times.
    - `directions`: a direction inside the cone of each, `(M, N)`.
    - `is_seen`: whether directions stay in its cone or come back to it for ever, `(M,)`: trajectories see these.
    - `num_on_border`: how many switches differ by less than their error; 0 where they cannot be seen.
    - `is_exhaustive`: whether every combination of their sides was tried.
    - `is_exact`: whether the point is on the kink and fixed to the last bit, so that rounding decides nothing.
    - `growth`: the largest growth factor of a direction in the long run that was found, per turn of the cycle.
    - `growth_bound`: an upper bound on it for all directions, up to rounding; infinity where none was found, NaN where
        none was sought.
    - `result`: whether it is stable, a `KinkVerdict`; `stability` is its first word.
    - `reason`: what that rests on, with its numbers.
    """

    points: Float[np.ndarray, "p N"]
    jacobians: Float[np.ndarray, "M N N"]
    directions: Float[np.ndarray, "M N"]
    is_seen: Bool[np.ndarray, " M"]
    num_on_border: int
    is_exhaustive: bool
    is_exact: bool
    growth: float
    result: KinkVerdict
    reason: str
    growth_bound: float = float("nan")

    @property
    def stability(self) -> str:
        """`"stable"`, `"unstable"` or `"undecided"`."""
        return self.message.partition(":")[0]

    @property
    def is_stable(self) -> bool:
        """Whether every direction shrinks in the long run."""
        return is_verdict(self.result, KinkVerdict.stable)

    @property
    def spectral_radii(self) -> Float[np.ndarray, " M"]:
        """The largest modulus of an eigenvalue of each piece, wherever its eigenvector lies."""
        return np.max(np.abs(np.linalg.eigvals(self.jacobians)), axis=1)

    def table(self) -> str:
        radii = self.spectral_radii
        bound = f", at most {self.growth_bound:.6g}" if np.isfinite(self.growth_bound) else ""
        return (
            f"On a kink: {self.num_on_border} switches on their border, {len(radii)} linear pieces found, "
            f"{int(self.is_seen.sum())} of them seen by trajectories\n"
            f"  {self.stability}: {self.reason}\n"
            f"  growth in the long run  {self.growth:.6g}{bound}\n"
            f"  spectral radii          {radii.min():.6g} to {radii.max():.6g}"
        )


class Kinks(Judged):
    """Which of K points (or cycles) lie on a kink, and what they are there.

    - `growths`: the growth factor in the long run there, NaN elsewhere, `(K,)`.
    - `result`: a batch `(K,)` of `KinkVerdict`, `smooth` elsewhere.
    """

    growths: Float[np.ndarray, " K"]
    result: KinkVerdict

    @property
    def is_on_kink(self) -> Bool[np.ndarray, " K"]:
        """Whether each point lies on a kink."""
        return ~is_verdict(self.result, KinkVerdict.smooth)

    @property
    def is_stable(self) -> Bool[np.ndarray, " K"]:
        """Whether each point lies on a kink and is stable there."""
        return is_verdict(self.result, KinkVerdict.stable)

    @property
    def is_undecided(self) -> Bool[np.ndarray, " K"]:
        """Whether each point lies on a kink and nothing decides about its stability."""
        return self.is_on_kink & ~is_verdict(self.result, KinkVerdict.stable, KinkVerdict.unstable)

    def select(self, rows: np.ndarray) -> "Kinks":
        """Those of the given rows (a mask, or indices)."""
        return Kinks(self.growths[rows], take_verdicts(self.result, rows))

    def or_none(self) -> "Kinks | None":
        """Itself, or `None` where no point lies on a kink."""
        return self if self.is_on_kink.any() else None


def kinks_at(program: Program, points: Float[np.ndarray, "K *p N"], errors: Float[np.ndarray, " K"]) -> "Kinks | None":
    """What each of several fixed points or cycles is where it lies on a kink; `None` where none does."""
    cycles = points if points.ndim == 3 else points[:, None]
    seen = may_have_kinks(program)
    if len(cycles) == 0 or not (seen or hides_kinks(program)):
        return None
    looked = np.arange(len(cycles))
    if not seen:  # one look at all of them tells
        num = cycles.shape[1]
        is_kinked = two_sides(program, cycles.reshape(-1, cycles.shape[2]), np.repeat(errors, num)).is_kinked
        looked = np.flatnonzero(is_kinked.reshape(-1, num).any(axis=1))
    found: list[OneSidedLinearization | None] = [None] * len(cycles)
    for k in looked.tolist():
        found[k] = at_kinks(program, cycles[k], float(errors[k]))
    if all(one is None for one in found):
        return None
    growths = np.array([np.nan if one is None else one.growth for one in found])
    return Kinks(growths, stack_verdicts([KinkVerdict.smooth if one is None else one.result for one in found]))


def at_kinks(
    program: Program, points: Float[np.ndarray, "p N"], error: float, bound: bool = False
) -> OneSidedLinearization | None:
    """`linearize_one_sided` of a fixed point or cycle, inside of double precision; `None` where it is smooth."""
    if not np.isfinite(points).all():
        return None
    if hides_kinks(program):
        found = _hidden(program, points, error)
        if found is not None:
            return found
    if not may_have_kinks(program):
        return None
    size = points.shape[1]
    # Where I - DF is singular the error of a point is no bound on anything.
    error = min(error, 1e-6 * float(np.max(np.abs(points)))) if not np.isfinite(error) else error
    rng = np.random.default_rng(0)
    ds = rng.standard_normal((NUM_DIRECTIONS, size))
    # Cycles of every length share the compilation of this look.
    if len(points) > 1 and not any(Place(program, x[None], error).look(ds).on_border.any() for x in points):
        return None
    there = Place(program, points, error)
    looked = there.look(ds)
    if not looked.on_border.any():
        return None
    both = looked.slope + there.look(-ds).slope
    if np.max(np.abs(both)) <= 1e-9 * np.max(np.abs(looked.slope), initial=1e-300) and not there.jumps(looked):
        return None
    snapped = np.where(np.abs(points) <= error, 0.0, points)
    if not there.is_exact(looked) and np.any(snapped != points):
        better = Place(program, snapped, error)
        again = better.look(ds)
        if better.is_exact(again):
            there, looked = better, again
    return _explore(there, looked, ds, bound)


def _hidden(program: Program, points: np.ndarray, error: float) -> OneSidedLinearization | None:
    """What is seen of a kink inside a loop that is not opened: Jacobians from both sides, and no verdict."""
    sides = two_sides(program, points, np.full(len(points), error))
    if not sides.is_kinked.any():
        return None
    # Round the cycle: a direction is pushed on by the piece of its side, which one that is cannot be told here.
    pieces = sides.jacobians[0]
    for jacobians in sides.jacobians[1:]:
        pieces = jacobians @ pieces
    radii = np.max(np.abs(np.linalg.eigvals(pieces)), axis=1)
    reason = (
        f"the derivative changes by {sides.jumps.max():.2g} of its size across the point, inside of a loop whose "
        f"rounds are not followed: Jacobians next to it have spectral radii from {radii.min():.6g} to {radii.max():.6g}"
    )
    no = np.zeros(len(pieces), bool)
    return OneSidedLinearization(
        points, pieces, sides.directions, no, 0, False, False, float(radii.max()), KinkVerdict.hidden, reason
    )


def _explore(place: Place, looked: Looked, ds: np.ndarray, bound: bool) -> OneSidedLinearization:
    size = ds.shape[1]
    border = np.asarray(looked.on_border.reshape(len(ds), -1).any(axis=0))
    num = int(border.sum())
    starts = [ds] if size > NUM_DIRECTIONS else [ds, np.eye(size), -np.eye(size)]
    if num <= _FEW:
        starts.append(into_every_cone(place, border, ds))
    starts = np.concatenate(starts)
    logs, path = place.follow(starts)
    ends = path[:, -1]
    tried = np.concatenate([ends, starts])
    tried = tried[np.any(tried != 0, axis=1)]
    _, first = np.unique(place.look(tried).sides, axis=0, return_index=True)
    num_combinations = len(first)
    directions = tried[np.sort(first)][:_MAX_PIECES]
    jacobians = place.pieces(directions)
    growth, doubt = max(settled_growth(place, logs, ends), (growth_along_rays(place, jacobians), MARGIN))
    seen_sides = {row.tobytes() for row in place.look(late(path)).sides}
    is_seen = np.array([row.tobytes() in seen_sides for row in place.look(directions).sides], bool)
    is_exact = place.is_exact(looked)
    is_exhaustive = num <= _FEW and num_combinations == 2**num
    result, reason = _verdict(place, looked, jacobians, growth, doubt, is_exact)
    upper = float("nan")
    if bound:
        upper, why = _bounded(place, border, growth)
        if is_verdict(result, KinkVerdict.stable):
            result, reason = (result if upper < 1 else KinkVerdict.straddled), f"{reason}; {why}"
    elif is_verdict(result, KinkVerdict.stable) and not is_exhaustive:
        reason += f"; {len(starts)} directions were followed, not all (bound=True seeks a bound for all)"
    return OneSidedLinearization(
        place.points, jacobians, directions, is_seen, num, is_exhaustive, is_exact, growth, result, reason, upper
    )


def _bounded(place: Place, border: np.ndarray, growth: float) -> tuple[float, str]:
    """A bound below 1 on the growth of all directions, or infinity; and in words."""
    if growth >= 1:
        return np.inf, "no bound below 1 exists"
    layer = as_relu_layer(place, border)
    if layer is None:
        return np.inf, (
            "no bound was sought: that needs a fixed point whose switches do not lie behind one another, with at most "
            f"{LARGEST} units and switches together"
        )
    upper = growth_bound(layer, 1 - (1 - growth) * _ROOM)
    if upper < 1:
        return upper, f"in a quadratic norm every direction shrinks by {upper:.6g} or more"
    return upper, "no quadratic norm was found in which every direction shrinks"


def _verdict(
    place: Place, looked: Looked, jacobians: np.ndarray, growth: float, doubt: float, is_exact: bool
) -> tuple[Any, str]:
    if not np.isfinite(looked.slope).all():
        return KinkVerdict.not_finite, "the derivative is NaN or infinite"
    if place.jumps(looked):
        return KinkVerdict.jumps, "the map jumps within the error of the point"
    if abs(growth - 1) <= max(doubt, MARGIN):
        return KinkVerdict.neutral, "neither growth nor decay in the long run"
    whole = growth < 1
    word = "shrinks" if whole else "grows"
    verdict = KinkVerdict.stable if whole else KinkVerdict.unstable
    if is_exact:
        return verdict, f"the piecewise-linear map {word} by {growth:.6g} a turn"
    radii = np.max(np.abs(np.linalg.eigvals(jacobians)), axis=1)
    if np.all(radii < 1 - MARGIN) if whole else np.all(radii > 1 + MARGIN):
        return verdict, f"on either side of the kink, and on it, the map {word}"
    return KinkVerdict.rounding, (
        f"the point is within its error {place.error:.1g} of a kink, and rounding decides on which side: the pieces "
        f"have spectral radii from {radii.min():.6g} to {radii.max():.6g}"
    )


def _error_of(point: np.ndarray, image: np.ndarray, jacobian: np.ndarray) -> float:
    """How far a state may be from the fixed point, or from the state, that it stands for."""
    size = float(np.max(np.abs(point)))
    residual = float(np.max(np.abs(image - point)))
    rounding = np.finfo(float).eps * size
    if not residual <= 1e-6 * size:
        return rounding
    gap = float(np.linalg.svd(np.eye(point.size) - jacobian, compute_uv=False)[-1])
    return rounding + min(np.sqrt(point.size) * residual / gap if gap > 0 else np.inf, 1e-6 * size)


@compiled
def _image_and_jacobian(program: Program, x: Array) -> tuple[Array, Array]:
    return program(x), jax.jacfwd(program)(x)
