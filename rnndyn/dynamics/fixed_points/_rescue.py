"""What a search does where |F - x| has a local minimum that is no root: ways on that need no descent."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn._programs import Program
from rnndyn.dynamics.fixed_points._newton_lanes import NewtonEnds
from rnndyn.dynamics.fixed_points._pieces import FreeSteps, Orbits
from rnndyn.dynamics.fixed_points._work import Work
from rnndyn.dynamics.numerics.deduplication import thin_points
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
    newton: Callable[[np.ndarray], Work[NewtonEnds]],
    region: Float[np.ndarray, "2 N"] | None,
    scale: float,
    period: Float[np.ndarray, " N"] | None,
    known_roots: Float[np.ndarray, "R N"],
) -> Work[tuple[Float[np.ndarray, "K N"], Bool[np.ndarray, " K"], bool]]:
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
    free = lambda x, **options: FreeSteps(f, x, region, scale, period, **options)
    # A smooth map has minima of |F - x| that lead nowhere, or to the few roots that are known, and for long states each
    # try is dear: few first, and more only while they arrive at other roots.
    block, done = len(places) if tries_all(f, places.shape[1]) else PROBES, 0
    is_new = False
    while done < len(places):
        tried = np.arange(done, min(done + block, len(places)))
        for way in (_freely, _orbit, _homotopy):
            rows = tried[~reached[tried]]
            if rows.size == 0:
                break
            found, ok = yield from way(f, places[rows], free, newton)
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


def _freely(f, places, free, newton):
    return (yield free(places))


def _orbit(f, places, free, newton):
    """Newton's method from where the orbit has come, monotone first, then free."""
    late = yield Orbits(f, places, ITERATIONS)
    finite = np.isfinite(late).all(axis=1)
    late[~finite] = places[~finite]
    ends = yield from newton(late)
    points, ok = ends.points.copy(), ends.converged.copy()
    rows = np.flatnonzero(~ok)
    if rows.size:
        points[rows], ok[rows] = yield free(late[rows])
    return points, ok


def _homotopy(f, places, free, newton):
    x = places.copy()
    for stage in STAGES:
        x, ok = yield free(x, target=places, stage=stage, num_steps=6)
        x = np.where(np.isfinite(x), x, places)
    return x, ok
