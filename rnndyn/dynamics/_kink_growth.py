"""A map at a point on a kink, direction by direction: its linear pieces, and how directions grow in the long run."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn._programs import Program, compiled
from rnndyn.dynamics.numerics.birkhoff import bump_weights
from rnndyn.dynamics.numerics.one_sided import OneSide, one_side
from rnndyn.dynamics.numerics.torus import difference, period_of

NUM_DIRECTIONS = 64
"""Random directions that are tried and followed."""

_NUM_STEPS = 256
"""Steps for which a direction is followed before it counts as settled, and then the longest pattern of sides."""

_NUM_ROUNDS, _NUM_FRESH = 8, 32
"""How often eigenvectors lead from piece to piece, and to how many new ones at most each time."""

MARGIN = 1e-9
"""Growth factors this close to 1 decide nothing: they are eigenvalues of matrices known to rounding."""


class Looked(NamedTuple):
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


class Place:
    """A fixed point or cycle, known up to an error."""

    def __init__(self, program: Program, points: Float[np.ndarray, "p N"], error: float):
        self.program, self.points, self.error = program, points, error
        self._arguments = (program, jnp.asarray(points), jnp.asarray(error))

    def look(self, ds: Float[np.ndarray, "K N"]) -> Looked:
        """What the map is in each direction."""

        def part(ds: Array) -> tuple:
            slope, sides = _sides(*self._arguments, ds)
            return slope, sides.limit, sides.limit_error, sides.differences, sides.on_border, sides.turns

        return Looked(*_in_parts(part, ds))

    def pieces(self, ds: Float[np.ndarray, "K N"]) -> Float[np.ndarray, "K N N"]:
        """The linear piece whose cone holds each direction."""
        return _in_parts(lambda part: (_pieces(*self._arguments, part),), ds, 16)[0]

    def follow(self, ds: Float[np.ndarray, "K N"]) -> tuple[Float[np.ndarray, "K T"], Float[np.ndarray, "K T N"]]:
        """The log growth of each direction at every step, and where it points then."""
        logs, path = _in_parts(lambda part: _follow(*self._arguments, part, _NUM_STEPS), ds)
        return logs, path

    def jumps(self, looked: Looked) -> bool:
        """Whether the limits from different sides differ by more than their errors."""
        apart = np.abs(difference(looked.limit, looked.limit[:1], period_of(self.program, self.points.shape[1])))
        return bool(np.any(np.max(apart, axis=0) > 4 * np.max(looked.limit_error, axis=0)))

    def is_exact(self, looked: Looked) -> bool:
        """Whether every switch on its border has no difference at all, and the cycle closes to the last bit."""
        closes = np.array_equal(looked.limit[0], np.roll(self.points, -1, axis=0))
        return closes and not np.any(looked.differences[looked.on_border])


def into_every_cone(place: Place, border: np.ndarray, ds: np.ndarray) -> np.ndarray:
    """Directions for every combination of the sides of a few switches, as far as linear algebra gives them."""
    # The differences grow linearly with the direction inside of a cone; fitted over many cones this is exact for
    # switches of the first layer, and a guess for those behind others.
    turns = place.look(ds).turns.reshape(len(ds), -1)[:, border]
    rows = np.linalg.lstsq(ds, turns, rcond=None)[0].T if len(ds) >= ds.shape[1] else turns.T @ np.linalg.pinv(ds).T
    sides = np.array(np.meshgrid(*[[-1.0, 1.0]] * len(rows))).reshape(len(rows), -1).T
    return sides @ np.linalg.pinv(rows).T + 1e-6 * ds[np.arange(len(sides)) % len(ds)]


def late(path: np.ndarray) -> np.ndarray:
    """The directions of the last steps, of all orbits."""
    late = path[:, -8:].reshape(-1, path.shape[2])
    return late[np.any(late != 0, axis=1)] if np.any(late) else late[:1]


def settled_growth(place: Place, logs: np.ndarray, ends: np.ndarray) -> tuple[float, float]:
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


def _growth_of_end(place: Place, log: np.ndarray, path: np.ndarray) -> tuple[float, float]:
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
                return nearest, MARGIN
            break
    return float(np.exp(rate)), float(np.exp(rate) * max(abs(first - second), MARGIN))


def growth_along_rays(place: Place, jacobians: np.ndarray) -> float:
    """The largest real eigenvalue of a piece whose eigenvector lies in the cone of the piece.

    An eigenvector that lies in another cone leads to the piece of that one: Newton's method for G(d) = mu d, which
    finds rays that repel the directions next to them as well.
    """
    best, known = 0.0, set()
    for _ in range(_NUM_ROUNDS):
        missed = []
        for jacobian in jacobians:
            best, others = _own_rays(place, jacobian, best)
            missed += others
        if not missed:
            break
        rays = np.array(missed)
        keys = [row.tobytes() for row in place.look(rays).sides]
        fresh = [i for i, key in enumerate(keys) if key not in known and key not in keys[:i]][:_NUM_FRESH]
        known.update(keys[i] for i in fresh)
        if not fresh:
            break
        jacobians = place.pieces(rays[fresh])
    return best


def _own_rays(place: Place, jacobian: np.ndarray, best: float) -> tuple[float, list[np.ndarray]]:
    """The larger of `best` and the growth along eigenvectors in their own cone; and those that may grow elsewhere."""
    if np.max(np.abs(np.linalg.eigvals(jacobian))) <= max(best, 1 - 1e-6):
        return best, []
    values, vectors = np.linalg.eig(jacobian)
    real = (np.abs(np.imag(values)) <= 1e-12 * np.abs(values)) & (np.real(values) > max(best, 1 - 1e-6))
    if not real.any():
        return best, []
    rays = np.real(vectors[:, real]).T
    rays, factors = np.concatenate([rays, -rays]), np.tile(np.real(values[real]), 2)
    is_own = np.max(np.abs(place.look(rays).slope - factors[:, None] * rays), axis=1) <= 1e-9 * np.abs(factors)
    return max(best, float(np.max(factors[is_own], initial=0.0))), list(rays[~is_own])


def _in_parts(function: Callable[[Array], tuple], ds: np.ndarray, num: int = NUM_DIRECTIONS) -> list[np.ndarray]:
    """A function of several directions, of so many at a time: one shape to compile."""
    results = []
    for start in range(0, len(ds), num):
        part = ds[start : start + num]
        padded = np.concatenate([part, np.repeat(part[-1:], num - len(part), axis=0)])
        results.append([np.asarray(a)[: len(part)] for a in function(jnp.asarray(padded))])
    return [np.concatenate(parts) for parts in zip(*results)]


def _along(program: Program, points: Array, error: Array, direction: Array) -> tuple[Array, OneSide]:
    """The derivative of the map p times, by the chain rule: exact for one-sided derivatives too."""

    def step(direction: Array, x: Array) -> tuple[Array, OneSide]:
        side = one_side(program, x, jnp.full_like(x, error), direction)
        return side.slope, side

    return jax.lax.scan(step, direction, points)


@compiled
def _sides(program: Program, points: Array, error: Array, ds: Array) -> tuple[Array, OneSide]:
    return jax.vmap(lambda d: _along(program, points, error, d))(ds)


@compiled
def _pieces(program: Program, points: Array, error: Array, ds: Array) -> Array:
    return jax.lax.map(jax.jacfwd(lambda d: _along(program, points, error, d)[0]), ds)


@compiled
def _follow(program: Program, points: Array, error: Array, ds: Array, num_steps: int) -> tuple[Array, Array]:
    def step(d: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        slope, _side = _along(program, points, error, d)
        length = jnp.linalg.norm(slope)
        d = jnp.where(length > 0, slope / jnp.where(length > 0, length, 1), jnp.zeros_like(d))
        return d, (jnp.where(length > 0, jnp.log(jnp.where(length > 0, length, 1)), -jnp.inf), d)

    def one(d: Array) -> tuple[Array, Array]:
        return jax.lax.scan(step, d / jnp.linalg.norm(d), None, length=num_steps)[1]

    return jax.vmap(one)(ds)
