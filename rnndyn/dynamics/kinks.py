"""The linear maps that meet at a kink, and whether a fixed point on it is stable."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from rnndyn._programs import Program
from rnndyn._validation import check_state
from rnndyn.dynamics.numerics.birkhoff import bump_weights
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.one_sided import OneSide, may_have_kinks, one_side
from rnndyn.dynamics.numerics.torus import difference, period_of
from rnndyn.results import Judged, is_verdict, stack_verdicts, take_verdicts

_FEW = 8
"""Up to so many switches on the border every combination of their sides is tried."""

_NUM_DIRECTIONS = 64
"""Random directions that are tried and followed."""

_NUM_STEPS = 256
"""Steps for which a direction is followed before it counts as settled, and then the longest pattern of sides."""

_MAX_PIECES = 64
"""The most linear pieces that are listed, those that trajectories end on first."""

_MARGIN = 1e-9
"""Growth factors this close to 1 decide nothing: they are eigenvalues of matrices known to rounding."""


def linearize_one_sided(
    f: Callable[[Array], Array], x: ArrayLike, *, error: float | None = None
) -> "OneSidedLinearization | None":
    r"""Linearise a map at a point on a kink, from every side: $F(x + \delta) \approx F(x) + F'(x; \delta)$.

    The directional derivative $F'(x; d) = \lim_{h \to 0+} (F(x + h d) - F(x)) / h$ is linear in d on each of several
    cones. A fixed point there is stable where the piecewise-linear map $d \mapsto F'(x; d)$ shrinks every direction in
    the long run; the eigenvalues of one piece decide only where its cone takes the eigenvector into itself.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`. Kinks are seen in maxima, minima, absolute values, clips, comparisons (`where`) and
        rounding, also within `jit`, `cond`, `custom_jvp` and loops of up to 64 rounds.
    - `x`: the point, shape `(N,)`; as a rule a fixed point.
    - `error`: how far it may be from the point that is meant. By default one unit in the last place, and at a point
        that is nearly fixed (to 1e-6 of its size) $\|(I - DF)^{-1}\|_\infty$ times the residual.

    **Returns:** a `OneSidedLinearization`; `None` where the map is smooth at the point and within its error.

    **Raises:** `ValueError` for a bad state, a map that changes its shape or dtype, a negative error.

    A switch whose two sides differ by less than their error (running error analysis from that of x) is on its border.
    Up to 8 of them: all combinations of sides are tried. Beyond, random directions and the axes. Every direction is
    followed for 256 steps; where its sides then repeat, the growth is an eigenvalue of the product of the pieces. Real
    eigenvectors that stay in their own cone count as well. Growth that exists only along other exceptional directions
    is not seen. Where the point is not exactly on the kink, it may truly lie on either side of it: then all pieces have
    to agree with the map as a whole, or the verdict is `"undecided"`.

    Reference: F. H. Clarke (1983), *Optimization and Nonsmooth Analysis*; M. di Bernardo, C. Budd, A. Champneys &
    P. Kowalczyk (2008), *Piecewise-smooth Dynamical Systems* (border collisions).
    """
    check_state("x", x)
    if not np.isfinite(np.asarray(x)).all():
        raise ValueError("x: it holds NaN or infinity. Look at where it comes from.")
    if error is not None and not error >= 0:
        raise ValueError(f"error: expected a distance of at least 0, got {error}.")
    with double_precision():
        point = np.asarray(x, np.float64)
        program = let_in(f, point)
        if not may_have_kinks(program):
            return None
        if error is None:
            error = _error_of(point, *(np.asarray(a) for a in _image_and_jacobian(program, jnp.asarray(point))))
        return at_kinks(program, point[None], float(error))


class KinkVerdict(eqx.Enumeration):
    """What a fixed point or cycle is at a kink; `KinkVerdict[result]` is the message."""

    smooth = "not on a kink"
    stable = "stable: every direction shrinks in the long run"
    unstable = "unstable: some direction grows in the long run"
    neutral = "undecided: neither growth nor decay in the long run"
    rounding = "undecided: within its error of a kink, so that rounding decides on which side it lies"
    jumps = "undecided: the map jumps within the error of the point"
    not_finite = "undecided: the derivative is NaN or infinite"


class OneSidedLinearization(Judged):
    """The linear maps that meet at a fixed point or cycle on a kink.

    - `points`: the point `(1, N)`, or the points of the cycle `(p, N)`.
    - `jacobians`: the pieces, `(M, N, N)`; of a cycle, of the map p times.
    - `directions`: a direction inside the cone of each, `(M, N)`.
    - `is_seen`: whether directions stay in its cone or come back to it for ever, `(M,)`: trajectories see these.
    - `num_on_border`: how many switches differ by less than their error.
    - `is_exhaustive`: whether every combination of their sides was tried.
    - `is_exact`: whether the point is on the kink and fixed to the last bit, so that rounding decides nothing.
    - `growth`: the largest growth factor of a direction in the long run, per turn of the cycle.
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
        return (
            f"On a kink: {self.num_on_border} switches on their border, {len(radii)} linear pieces found, "
            f"{int(self.is_seen.sum())} of them seen by trajectories\n"
            f"  {self.stability}: {self.reason}\n"
            f"  growth in the long run  {self.growth:.6g}\n"
            f"  spectral radii          {radii.min():.6g} to {radii.max():.6g}"
        )


class Kinks(Judged):
    """Which of K points lie on a kink, and what they are there.

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


def kinks_at(program: Program, points: Float[np.ndarray, "K N"], errors: Float[np.ndarray, " K"]) -> "Kinks | None":
    """What each of several fixed points is where it lies on a kink; `None` where none does."""
    if not may_have_kinks(program):
        return None
    found = [at_kinks(program, point[None], float(error)) for point, error in zip(points, errors)]
    if all(one is None for one in found):
        return None
    growths = np.array([np.nan if one is None else one.growth for one in found])
    return Kinks(growths, stack_verdicts([KinkVerdict.smooth if one is None else one.result for one in found]))


def at_kinks(program: Program, points: Float[np.ndarray, "p N"], error: float) -> OneSidedLinearization | None:
    """`linearize_one_sided` of a fixed point or cycle, inside of double precision; `None` where it is smooth."""
    if not may_have_kinks(program) or not np.isfinite(points).all():
        return None
    size = points.shape[1]
    # Where I - DF is singular the error of a point is no bound on anything.
    error = min(error, 1e-6 * float(np.max(np.abs(points)))) if not np.isfinite(error) else error
    rng = np.random.default_rng(0)
    ds = rng.standard_normal((_NUM_DIRECTIONS, size))
    # Cycles of every length share the compilation of this look.
    if len(points) > 1 and not any(_Place(program, x[None], error).look(ds).on_border.any() for x in points):
        return None
    there = _Place(program, points, error)
    looked = there.look(ds)
    if not looked.on_border.any():
        return None
    both = looked.slope + there.look(-ds).slope
    if np.max(np.abs(both)) <= 1e-9 * np.max(np.abs(looked.slope), initial=1e-300) and not there.jumps(looked):
        return None
    snapped = np.where(np.abs(points) <= error, 0.0, points)
    if not there.is_exact(looked) and np.any(snapped != points):
        better = _Place(program, snapped, error)
        again = better.look(ds)
        if better.is_exact(again):
            there, looked = better, again
    return _explore(there, looked, ds)


class _Looked(NamedTuple):
    """`OneSide` along a cycle for K directions, as arrays."""

    slope: Float[np.ndarray, "K N"]
    limit: Float[np.ndarray, "K p N"]
    limit_error: Float[np.ndarray, "K p N"]
    differences: Float[np.ndarray, "K p S"]
    on_border: Bool[np.ndarray, "K p S"]
    turns: Float[np.ndarray, "K p S"]

    @property
    def sides(self) -> Bool[np.ndarray, "K M"]:
        """To which side of every switch that is anywhere on its border each direction leads."""
        flat = lambda a: a.reshape(len(a), -1)
        border, turns = flat(self.on_border), flat(self.turns)
        return (turns > 0)[:, border.any(axis=0)]


class _Place:
    """A fixed point or cycle, known up to an error."""

    def __init__(self, program: Program, points: Float[np.ndarray, "p N"], error: float):
        self.program, self.points, self.error = program, points, error
        self._arguments = (program, jnp.asarray(points), jnp.asarray(error))

    def look(self, ds: Float[np.ndarray, "K N"]) -> _Looked:
        """What the map is in each direction."""

        def part(ds: Array) -> tuple:
            slope, sides = _sides(*self._arguments, ds)
            return slope, sides.limit, sides.limit_error, sides.differences, sides.on_border, sides.turns

        return _Looked(*_in_parts(part, ds))

    def pieces(self, ds: Float[np.ndarray, "K N"]) -> Float[np.ndarray, "K N N"]:
        """The linear piece whose cone holds each direction."""
        return _in_parts(lambda part: (_pieces(*self._arguments, part),), ds, 16)[0]

    def follow(self, ds: Float[np.ndarray, "K N"]) -> tuple[Float[np.ndarray, "K T"], Float[np.ndarray, "K T N"]]:
        """The log growth of each direction at every step, and where it points then."""
        logs, path = _in_parts(lambda part: _follow(*self._arguments, part, _NUM_STEPS), ds)
        return logs, path

    def jumps(self, looked: _Looked) -> bool:
        """Whether the limits from different sides differ by more than their errors."""
        apart = np.abs(difference(looked.limit, looked.limit[:1], period_of(self.program, self.points.shape[1])))
        return bool(np.any(np.max(apart, axis=0) > 4 * np.max(looked.limit_error, axis=0)))

    def is_exact(self, looked: _Looked) -> bool:
        """Whether every switch on its border has no difference at all, and the cycle closes to the last bit."""
        closes = np.array_equal(looked.limit[0], np.roll(self.points, -1, axis=0))
        return closes and not np.any(looked.differences[looked.on_border])


def _explore(place: _Place, looked: _Looked, ds: np.ndarray) -> OneSidedLinearization:
    size = ds.shape[1]
    border = np.asarray(looked.on_border.reshape(len(ds), -1).any(axis=0))
    num = int(border.sum())
    starts = [ds] if size > _NUM_DIRECTIONS else [ds, np.eye(size), -np.eye(size)]
    if num <= _FEW:
        starts.append(_into_every_cone(place, border, ds))
    starts = np.concatenate(starts)
    logs, path = place.follow(starts)
    ends = path[:, -1]
    tried = np.concatenate([ends, starts])
    tried = tried[np.any(tried != 0, axis=1)]
    _, first = np.unique(place.look(tried).sides, axis=0, return_index=True)
    num_combinations = len(first)
    directions = tried[np.sort(first)][:_MAX_PIECES]
    jacobians = place.pieces(directions)
    growth, doubt = max(_settled_growth(place, logs, ends), (_growth_along_rays(place, jacobians), _MARGIN))
    seen_sides = {row.tobytes() for row in place.look(_late(path)).sides}
    is_seen = np.array([row.tobytes() in seen_sides for row in place.look(directions).sides], bool)
    is_exact = place.is_exact(looked)
    is_exhaustive = num <= _FEW and num_combinations == 2**num
    result, reason = _verdict(place, looked, jacobians, growth, doubt, is_exact)
    if is_verdict(result, KinkVerdict.stable) and not is_exhaustive:
        reason += f"; {len(starts)} directions were followed, not all"
    return OneSidedLinearization(
        place.points, jacobians, directions, is_seen, num, is_exhaustive, is_exact, growth, result, reason
    )


def _verdict(
    place: _Place, looked: _Looked, jacobians: np.ndarray, growth: float, doubt: float, is_exact: bool
) -> tuple[Any, str]:
    if not np.isfinite(looked.slope).all():
        return KinkVerdict.not_finite, "the derivative is NaN or infinite"
    if place.jumps(looked):
        return KinkVerdict.jumps, "the map jumps within the error of the point"
    if abs(growth - 1) <= max(doubt, _MARGIN):
        return KinkVerdict.neutral, "neither growth nor decay in the long run"
    whole = growth < 1
    word = "shrinks" if whole else "grows"
    verdict = KinkVerdict.stable if whole else KinkVerdict.unstable
    if is_exact:
        return verdict, f"the piecewise-linear map {word} by {growth:.6g} a turn"
    radii = np.max(np.abs(np.linalg.eigvals(jacobians)), axis=1)
    if np.all(radii < 1 - _MARGIN) if whole else np.all(radii > 1 + _MARGIN):
        return verdict, f"on either side of the kink, and on it, the map {word}"
    return KinkVerdict.rounding, (
        f"the point is within its error {place.error:.1g} of a kink, and rounding decides on which side: the pieces "
        f"have spectral radii from {radii.min():.6g} to {radii.max():.6g}"
    )


def _into_every_cone(place: _Place, border: np.ndarray, ds: np.ndarray) -> np.ndarray:
    """Directions for every combination of the sides of a few switches, as far as linear algebra gives them."""
    # The differences grow linearly with the direction inside of a cone; fitted over many cones this is exact for
    # switches of the first layer, and a guess for those behind others.
    turns = place.look(ds).turns.reshape(len(ds), -1)[:, border]
    rows = np.linalg.lstsq(ds, turns, rcond=None)[0].T if len(ds) >= ds.shape[1] else turns.T @ np.linalg.pinv(ds).T
    sides = np.array(np.meshgrid(*[[-1.0, 1.0]] * len(rows))).reshape(len(rows), -1).T
    return sides @ np.linalg.pinv(rows).T + 1e-6 * ds[np.arange(len(sides)) % len(ds)]


def _late(path: np.ndarray) -> np.ndarray:
    """The directions of the last steps, of all orbits."""
    late = path[:, -8:].reshape(-1, path.shape[2])
    return late[np.any(late != 0, axis=1)] if np.any(late) else late[:1]


def _settled_growth(place: _Place, logs: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
    """The largest growth factor of a direction that is followed for long, and how far it may be off."""
    alive = np.isfinite(logs).all(axis=1)
    if not alive.any():
        return 0.0, 0.0
    rates, ends = logs[alive, logs.shape[1] // 2 :].mean(axis=1), ends[alive]
    # One end for each cone, those that grow most first.
    order = np.argsort(-rates)
    _, first = np.unique(place.look(ends[order]).sides, axis=0, return_index=True)
    chosen = order[np.sort(first)][:8]
    again, path = place.follow(ends[chosen])
    return max(_growth_of_end(place, log, steps) for log, steps in zip(again, path))


def _growth_of_end(place: _Place, log: np.ndarray, path: np.ndarray) -> tuple[float, float]:
    half = len(path) // 2
    # Directions may turn for ever: averages with these weights then converge faster than any power of the number.
    rate = float(bump_weights(len(log)) @ log)
    first, second = (float(bump_weights(half) @ part) for part in (log[:half], log[-half:]))
    sides = place.look(path).sides
    for period in range(1, half + 1):
        if np.array_equal(sides[half:], sides[half - period : len(sides) - period]):
            product = np.eye(path.shape[1])
            for piece in place.pieces(path[half - period : half]):
                product = piece @ product
            moduli = np.abs(np.linalg.eigvals(product)) ** (1 / period)
            nearest = float(moduli[np.argmin(np.abs(np.log(np.maximum(moduli, 1e-300)) - rate))])
            if abs(np.log(max(nearest, 1e-300)) - rate) < 0.05:
                return nearest, _MARGIN
            break
    return float(np.exp(rate)), float(np.exp(rate) * max(abs(first - second), _MARGIN))


def _growth_along_rays(place: _Place, jacobians: np.ndarray) -> float:
    """The largest real eigenvalue of a piece whose eigenvector lies in the cone of the piece."""
    best = 0.0
    for jacobian in jacobians:
        if np.max(np.abs(np.linalg.eigvals(jacobian))) <= max(best, 1 - 1e-6):
            continue
        values, vectors = np.linalg.eig(jacobian)
        real = (np.abs(np.imag(values)) <= 1e-12 * np.abs(values)) & (np.real(values) > max(best, 1 - 1e-6))
        if not real.any():
            continue
        rays = np.real(vectors[:, real]).T
        rays, factors = np.concatenate([rays, -rays]), np.tile(np.real(values[real]), 2)
        misses = np.max(np.abs(place.look(rays).slope - factors[:, None] * rays), axis=1)
        best = max(best, float(np.max(factors[misses <= 1e-9 * np.abs(factors)], initial=0.0)))
    return best


def _in_parts(function: Callable[[Array], tuple], ds: np.ndarray, num: int = _NUM_DIRECTIONS) -> list[np.ndarray]:
    """A function of several directions, of so many at a time: one shape to compile."""
    results = []
    for start in range(0, len(ds), num):
        part = ds[start : start + num]
        padded = np.concatenate([part, np.repeat(part[-1:], num - len(part), axis=0)])
        results.append([np.asarray(a)[: len(part)] for a in function(jnp.asarray(padded))])
    return [np.concatenate(parts) for parts in zip(*results)]


def _error_of(point: np.ndarray, image: np.ndarray, jacobian: np.ndarray) -> float:
    """How far a state may be from the fixed point, or from the state, that it stands for."""
    size = float(np.max(np.abs(point)))
    residual = float(np.max(np.abs(image - point)))
    rounding = np.finfo(float).eps * size
    if not residual <= 1e-6 * size:
        return rounding
    gap = float(np.linalg.svd(np.eye(point.size) - jacobian, compute_uv=False)[-1])
    return rounding + min(np.sqrt(point.size) * residual / gap if gap > 0 else np.inf, 1e-6 * size)


@eqx.filter_jit
def _image_and_jacobian(program: Program, x: Array) -> tuple[Array, Array]:
    return program(x), jax.jacfwd(program)(x)


def _along(program: Program, points: Array, error: Array, direction: Array) -> tuple[Array, OneSide]:
    """The derivative of the map p times, by the chain rule: exact for one-sided derivatives too."""

    def step(direction: Array, x: Array) -> tuple[Array, OneSide]:
        side = one_side(program, x, jnp.full_like(x, error), direction)
        return side.slope, side

    return jax.lax.scan(step, direction, points)


@eqx.filter_jit
def _sides(program: Program, points: Array, error: Array, ds: Array) -> tuple[Array, OneSide]:
    return jax.vmap(lambda d: _along(program, points, error, d))(ds)


@eqx.filter_jit
def _pieces(program: Program, points: Array, error: Array, ds: Array) -> Array:
    return jax.lax.map(jax.jacfwd(lambda d: _along(program, points, error, d)[0]), ds)


@eqx.filter_jit
def _follow(program: Program, points: Array, error: Array, ds: Array, num_steps: int) -> tuple[Array, Array]:
    def step(d: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        slope, _side = _along(program, points, error, d)
        length = jnp.linalg.norm(slope)
        d = jnp.where(length > 0, slope / jnp.where(length > 0, length, 1), jnp.zeros_like(d))
        return d, (jnp.where(length > 0, jnp.log(jnp.where(length > 0, length, 1)), -jnp.inf), d)

    def one(d: Array) -> tuple[Array, Array]:
        return jax.lax.scan(step, d / jnp.linalg.norm(d), None, length=num_steps)[1]

    return jax.vmap(one)(ds)
