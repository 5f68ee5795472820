"""Whether a map keeps a box: a sample of places, then an ascent towards each face for places that lead out."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float

from rnndyn.dynamics.numerics.evaluation import evaluate, images_of

_NUM_PLACES = 4096
"""Places that are sampled first, half of them on the faces of the box."""

_NUM_ROUNDS = 12
"""Steps of the ascent; from the second on they only follow curved maps."""

_SHARES = 0.5 ** np.arange(7)
"""How far along the way to a corner each step of the ascent looks."""

_JACOBIAN_ENTRIES = 2**21
"""Entries of the Jacobians of one round: the faces next to which images come nearest go first."""

Box = Float[np.ndarray, "2 N"]


def boxes_around(states: Float[np.ndarray, "M N"], images: Float[np.ndarray, "M N"]) -> list[Box]:
    """Boxes around states and their images, 1.05, 2 and 5 times as wide as they are; none around a single place.

    A coordinate that is the same in all of them gets a width that can be told from rounding.
    """
    around = np.concatenate([states, images[np.isfinite(images).all(axis=1)]])
    low, high = around.min(axis=0), around.max(axis=0)
    centre, half = 0.5 * (low + high), 0.5 * (high - low)
    widest = float(np.max(half, initial=0.0))
    half = np.maximum(half, np.maximum(1e-3 * widest, 1e-9 * np.abs(centre)))
    return [np.stack([centre - factor * half, centre + factor * half]) for factor in (1.05, 2.0, 5.0) if widest > 0]


def leaves(f: Callable[[Array], Array], box: Box) -> bool:
    r"""Whether a place of the box is found that F takes out of it.

    Sampled are places inside, on the faces and corners. Then, for every face, $\pm F_i$ is maximised over the box: from
    the place of the sample whose image comes nearest, and from the centre, along the ways to the corner that the
    gradient points to (the method of Frank & Wolfe, to which a convex F_i, or a monotone function of one weighted sum
    as in a layer of units, gives its maximum in one step). False is no proof: a hump that no gradient shows stays
    unseen.

    Reference: M. Frank & P. Wolfe (1956), *An algorithm for quadratic programming*.
    """
    centre, half = 0.5 * (box[0] + box[1]), 0.5 * (box[1] - box[0])
    size = centre.size

    def depths(places: np.ndarray) -> np.ndarray:
        """How far each image is towards each face, 1 on it: `(M, 2 N)`."""
        away = (images_of(f, places) - centre) / half
        return np.concatenate([away, -away], axis=1)

    places = centre + half * _sample(size)
    deep = depths(places)
    if not np.all(deep <= 1):
        return True
    best, where = deep.max(axis=0), places[np.argmax(deep, axis=0)]
    signs = np.repeat([1.0, -1.0], size)

    def corners(slopes: np.ndarray, faces: np.ndarray) -> np.ndarray:
        return centre + half * np.sign(signs[faces, None] * slopes)

    def look(trials: np.ndarray) -> bool:
        nonlocal best, where
        deep = depths(trials)
        top = np.argmax(deep, axis=0)
        better = deep[top, np.arange(2 * size)] > best
        where = np.where(better[:, None], trials[top], where)
        best = np.where(better, deep[top, np.arange(2 * size)], best)
        return bool(np.all(deep <= 1))

    faces = np.arange(2 * size)
    at_centre = evaluate(f, centre[None])[1][0]
    if not look(corners(at_centre[faces % size], faces)):
        return True
    num = int(np.clip(_JACOBIAN_ENTRIES // size**2, 4, 256))
    rising = np.ones(2 * size, bool)
    for _ in range(_NUM_ROUNDS):
        chosen = np.flatnonzero(rising)
        chosen = chosen[np.argsort(-best[chosen])][:num]
        if chosen.size == 0:
            break
        before, starts = best.copy(), where[chosen]
        slopes = evaluate(f, starts)[1][np.arange(chosen.size), chosen % size]
        ways = corners(slopes, chosen) - starts
        if not look((starts + _SHARES[:, None, None] * ways).reshape(-1, size)):
            return True
        rising[chosen] = False
        rising |= best > before + 1e-6
    return False


def _sample(size: int) -> Float[np.ndarray, "M N"]:
    rng = np.random.default_rng(0)
    places = rng.uniform(-1, 1, (_NUM_PLACES, size))
    num = _NUM_PLACES // 2
    # On a face one coordinate is at its end.
    places[np.arange(num), rng.integers(size, size=num)] = rng.choice([-1.0, 1.0], num)
    places[num : num + 512] = rng.choice([-1.0, 1.0], (512, size))
    return places
