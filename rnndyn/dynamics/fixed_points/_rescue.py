"""What a search does where |F - x| has a local minimum that is no root: ways on that need no descent."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn._programs import Program
from rnndyn.dynamics.fixed_points._newton_lanes import NewtonEnds
from rnndyn.dynamics.numerics.deduplication import thin_points
from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.dynamics.numerics.evaluation import block_size, evaluate, states_after
from rnndyn.dynamics.numerics.evidence import rounding_floor
from rnndyn.dynamics.numerics.newton_method import singular_shift
from rnndyn.dynamics.numerics.one_sided import may_have_kinks
from rnndyn.dynamics.numerics.torus import difference

MAX_ENDS = 64
"""So many different ends are tried again: more of them are a slow manifold, and there is no root to be had. Where the
map has kinks, along which a search stalls anywhere, `MAX_ENDS_ON_KINKS`, as far as their Jacobians fit into memory."""

MAX_ENDS_ON_KINKS = 1024

_JACOBIAN_ENTRIES = 2**24

CHEAP, PROBES = 16, 4
"""Up to this length of the states, and where the map has kinks, all ends are tried at once; else few, and more while
they find roots."""

FREE_STEPS = 16
"""Full Newton steps in a row. Each goes to the fixed point of the linear piece it starts in, and the pieces on the way
to the right one are few; where the steps go in circles more of them do not help."""

ITERATIONS = 2048
"""Steps of the map itself, after which a mode of modulus 0.995 has decayed by a factor 3e4."""

STAGES = np.linspace(0.1, 1.0, 10)
"""Values of s on the way from the constant map to F."""


def tries_all(f: Callable, size: int) -> bool:
    """Whether every end is worth a try: for short states, and where a kink may have stopped it anywhere."""
    return size <= CHEAP or _has_kinks(f)


def _has_kinks(f: Callable) -> bool:
    return isinstance(f, Program) and may_have_kinks(f)


def rescue(
    f: Callable[[Array], Array],
    ends: Float[np.ndarray, "K N"],
    newton: Callable[[np.ndarray], NewtonEnds],
    region: Float[np.ndarray, "2 N"] | None,
    scale: float,
    period: Float[np.ndarray, " N"] | None,
    known_roots: Float[np.ndarray, "R N"],
) -> tuple[Float[np.ndarray, "K N"], Bool[np.ndarray, " K"], bool]:
    r"""Go on from ends where a monotone search stalled: the roots reached, from which ends there is one, and whether
    one of them was not known.

    On a kink $|F(x) - x|$ has minima that are no roots, though its linear pieces have fixed points. Tried in turn are

    1. full Newton steps of the derivative at the end, whether they lower the residual or not (for a piecewise linear
       map each of them solves one piece exactly: semismooth Newton),
    2. the orbit of the end, then Newton's method again,
    3. the homotopy $x = (1 - s)\,a + s\,F(x)$ from the end a, s from 0 to 1.

    Reference: L. Qi & J. Sun (1993), *A nonsmooth version of Newton's method*; E. Allgower & K. Georg (2003),
    *Introduction to Numerical Continuation Methods*.
    """
    labels = thin_points(ends, np.full(len(ends), 1e-6 * scale))
    first = np.array([np.flatnonzero(labels == label)[0] for label in range(labels.max(initial=-1) + 1)], int)
    most = MAX_ENDS
    if _has_kinks(f):
        most = max(MAX_ENDS, min(MAX_ENDS_ON_KINKS, _JACOBIAN_ENTRIES // ends.shape[1] ** 2))
    places = ends[first[:most]].copy()
    reached = np.zeros(len(places), bool)
    keep = lambda x: x if region is None else np.clip(x, region[0], region[1])
    # A smooth map has minima of |F - x| that lead nowhere, or to the few roots that are known, and for long states each
    # try is dear: few first, and more only while they arrive at other roots.
    block, done = len(places) if tries_all(f, places.shape[1]) else PROBES, 0
    is_new = False
    while done < len(places):
        tried = np.arange(done, min(done + block, len(places)))
        for way in (_free_steps, _orbit, _homotopy):
            rows = tried[~reached[tried]]
            if rows.size == 0:
                break
            found, ok = way(f, places[rows], newton, keep, scale, period)
            places[rows[ok]], reached[rows[ok]] = found[ok], True
        done += len(tried)
        arrived = places[tried[reached[tried]]]
        distances = np.max(np.abs(difference(arrived[:, None], known_roots, period)), axis=2)
        if not np.any(np.min(distances, axis=1, initial=np.inf) > 1e-6 * scale):
            break
        is_new = True
        known_roots = np.concatenate([known_roots, arrived])
        block = done
    known = labels < len(places)
    points, success = ends.copy(), np.zeros(len(ends), bool)
    success[known] = reached[labels[known]]
    points[success] = places[labels[success]]
    return points, success, is_new


def _free_steps(f, places, newton, keep, scale, period, target=None, stage=1.0, num_steps=FREE_STEPS):
    """Newton steps for (1 - s) a + s F(x) = x without regard to the residual; with s = 1 for F itself."""
    x, ok = places.copy(), np.zeros(len(places), bool)
    limit = 2 * np.sqrt(x.shape[1]) * scale
    for _ in range(num_steps + 1):
        rows = np.flatnonzero(~ok & np.isfinite(x).all(axis=1))
        if rows.size == 0:
            break
        images, jacobians = evaluate(f, x[rows])
        if target is not None:
            images, jacobians = (1 - stage) * target[rows] + stage * images, stage * jacobians
        g = difference(images, x[rows], period)
        row_sums = np.max(np.sum(np.abs(jacobians), axis=2), axis=1)
        size = np.maximum(np.max(np.abs(x[rows]), axis=1), scale)
        ok[rows] = np.max(np.abs(g), axis=1) <= rounding_floor(size, row_sums)
        usable = np.isfinite(jacobians).all(axis=(1, 2)) & np.isfinite(g).all(axis=1)
        x[rows[~usable]] = np.nan
        move = (~ok[rows]) & usable
        rows, g, jacobians, row_sums = rows[move], g[move], jacobians[move], row_sums[move]
        matrices = (1 - singular_shift(row_sums))[:, None, None] * np.eye(x.shape[1]) - jacobians
        steps = np.linalg.solve(matrices, g[:, :, None])[:, :, 0]
        lengths = np.linalg.norm(steps, axis=1)
        steps *= np.minimum(1, limit / np.maximum(lengths, np.finfo(float).tiny))[:, None]
        x[rows] = keep(x[rows] + steps)
    return x, ok


def _orbit(f, places, newton, keep, scale, period):
    """Newton's method from where the orbit has come, monotone first, then free."""
    size = block_size(places.shape[1]) if places.shape[1] <= CHEAP else PROBES
    late = map_in_chunks(
        lambda x: states_after(f, x, ITERATIONS),
        places,
        bytes_per_item=64 * places.shape[1],
        description="orbits",
        progress=False,
        least_size=size,
        most_size=size,
    )
    finite = np.isfinite(late).all(axis=1)
    late[~finite] = places[~finite]
    ends = newton(late)
    points, ok = ends.points.copy(), ends.converged.copy()
    rows = np.flatnonzero(~ok)
    if rows.size:
        points[rows], ok[rows] = _free_steps(f, late[rows], newton, keep, scale, period)
    return points, ok


def _homotopy(f, places, newton, keep, scale, period):
    x = places.copy()
    for stage in STAGES:
        x, ok = _free_steps(f, x, newton, keep, scale, period, target=places, stage=stage, num_steps=6)
        x = np.where(np.isfinite(x), x, places)
    return x, ok
