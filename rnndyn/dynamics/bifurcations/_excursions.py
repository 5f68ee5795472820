"""How far the derivative strays between two nodes of a curve, where its multipliers are not computed.

A multiplier that leaves the unit circle and comes back between two nodes shows in neither. The derivative M(s) along
the cubic between them does: its products with a few vectors, at `NUM_INSIDE` places, cost less than the eigenvalues at
one. What M departs from the straight line between its ends, and what it may depart between two of these places, bounds
by estimate how far a multiplier can go, if not where eigenvectors are nearly parallel, and not what happens within a
sixteenth of the step without a trace at its ends: `_segment_bounds` excludes that.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.bifurcations._crossings import crossings
from rnndyn.dynamics.bifurcations._curve import Curve, Node, hermite, stack_multipliers
from rnndyn.dynamics.bifurcations._suspects import interpolated, logs_at, partners_along
from rnndyn.dynamics.bifurcations._systems import push_around

NUM_INSIDE = 15
"""Places between two nodes."""

NUM_PROBES = 4
"""Vectors; with these many, |M v| shows the size of M whatever its rank to within a factor of two, nearly always."""

BETWEEN_PLACES = 4.0
"""A bump may rise this many times higher between two places than the second difference there shows."""

ON_CIRCLE = 1e-8
"""A multiplier nearer to the circle than this along a step lies on it for a reason (a symmetry, an area that is kept),
or bifurcates at a node."""

_BATCH = 16
_FRACTIONS = np.linspace(0, 1, NUM_INSIDE + 2)


def may_leave(curve: Curve, nodes: list[Node], ks: list[int], farthest: float) -> list[int]:
    """Those segments, from nodes k to k + 1, in which a multiplier that does not cross the circle may reach it.

    Multipliers with |ln|mu|| above `farthest` are not watched.
    """
    if curve.system.matrix_free:
        return []
    distances = _least_distances(nodes, ks, farthest)
    reachable = [(k, distance) for k, distance in zip(ks, distances) if np.isfinite(distance)]
    bends, kinks = _strays(curve, [(nodes[k], nodes[k + 1]) for k, _ in reachable])
    strays = bends + BETWEEN_PLACES * kinks
    return [k for (k, distance), stray in zip(reachable, strays) if not stray < distance]


def may_leave_still(curve: Curve, nodes: list[Node], ks: list[int], farthest: float) -> list[tuple[Node, Node]]:
    """Pairs of neighbours without a crossing between which a multiplier may go out and back as far as can be told.

    More is looked at than in `may_leave`: the multipliers at all the places.
    """
    pairs = [(nodes[k], nodes[k + 1]) for k in may_leave(curve, nodes, ks, farthest)]
    pairs = [(a, b) for a, b in pairs if not crossings(a, b)]
    _, kinks = _strays(curve, pairs)
    found = []
    for (a, b), kink in zip(pairs, kinks):
        chain = [a, *(interpolated(curve, a, b, s) for s in _FRACTIONS[1:-1]), b]
        nearest = np.min(_least_distances(chain, list(range(len(chain) - 1)), farthest))
        if any(crossings(*two) for two in itertools.pairwise(chain)) or not BETWEEN_PLACES * kink < nearest:
            found.append((a, b))
    return found


def _least_distances(nodes: list[Node], ks: list[int], farthest: float) -> Float[np.ndarray, " segments"]:
    """How far the nearest multiplier that lies on one side of the circle at both nodes k and k + 1 is from it."""
    mu, at = stack_multipliers(nodes), np.asarray(ks, int)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.maximum(np.log(np.abs(mu)), -700.0)
        start, end = logs[at], logs_at(logs, at + 1, partners_along(mu, at, at + 1, np.imag(mu[at]) >= 0))
        nearest = np.minimum(np.abs(start), np.abs(end))
        # One whose partner is not known (with `num_multipliers`) has not been looked at there.
        watched = (start * end > 0) & (nearest > ON_CIRCLE) & (nearest < farthest)
        away = np.minimum(np.abs(np.expm1(start)), np.abs(np.expm1(end)))
    return np.min(np.where(watched, away, np.inf), axis=1, initial=np.inf)


def _strays(curve: Curve, pairs: list[tuple[Node, Node]]) -> tuple[np.ndarray, np.ndarray]:
    """How far M goes between each pair of nodes from the straight line between its values there, by its norm; and its
    largest second difference from place to place."""
    size = curve.system.num_units
    num = min(size, NUM_PROBES)
    # All directions of few units; otherwise some in general position, whose images are as long as those of all.
    probes = np.linalg.qr(np.random.default_rng(0).standard_normal((size, num)))[0].T * np.sqrt(size / num)
    bends, kinks = [np.zeros(0)], [np.zeros(0)]
    for first in range(0, len(pairs), _BATCH):
        chosen = pairs[first : first + _BATCH]
        zetas = np.stack([hermite(a, b, _FRACTIONS) for a, b in chosen])
        padded = np.concatenate([zetas, np.repeat(zetas[-1:], _BATCH - len(chosen), axis=0)])
        pushed = np.asarray(_pushed(curve.system, padded * curve.metric.scales, probes))[: len(chosen)]
        values = np.moveaxis(pushed, 1, 0).reshape(NUM_INSIDE + 2, len(chosen), -1)
        weights = _FRACTIONS[:, None, None]
        bend = np.linalg.norm(values - (1 - weights) * values[0] - weights * values[-1], axis=2)
        kink = np.linalg.norm(values[1:-1] - (values[:-2] + values[2:]) / 2, axis=2)
        bends.append(bend.max(axis=0))
        kinks.append(kink.max(axis=0))
    return np.concatenate(bends), np.concatenate(kinks)


@compiled
def _pushed(
    system: Any, zs: Float[Array | np.ndarray, "K S n"], probes: Float[Array | np.ndarray, "m N"]
) -> Float[Array, "K S m N"]:
    """M at each of these places times each of these vectors."""
    at_place = lambda z: jax.vmap(lambda v: push_around(system, z, v))(jnp.asarray(probes))
    return jax.vmap(jax.vmap(at_place))(jnp.asarray(zs))
