"""A sampled search for cycles of piecewise-linear maps with too many itineraries to exclude one by one."""

import numpy as np
from jaxtyping import Bool

from rnndyn.dynamics._relu_map import ReluMap, solve_itineraries


def hop_regions(
    relu_map: ReluMap, period: int, *, num_starts: int, max_hops: int, rng: np.random.Generator
) -> Bool[np.ndarray, "K p L"]:
    """Itineraries of cycles found by hopping: guess one, solve for its cycle, take the itinerary in which that lies.

    An itinerary that is its own successor is one of a true cycle. Guesses are itineraries of orbits of random states
    and random patterns, half each. Paths that meet an itinerary already seen end there.

    Reference: L. Eisenmann, Z. Monfared, N. Göring & D. Durstewitz (2023), *Bifurcations and loss jumps in RNN
    training* (the SCYFI algorithm; here the points of a cycle choose their regions all at once, which is Newton's
    method on the equations of the cycle).
    """
    guesses = _first_guesses(relu_map, period, num_starts, rng)
    seen: set[bytes] = set()
    found = []
    for _ in range(max_hops):
        fresh = []
        for k, key in enumerate(np.packbits(guesses.reshape(len(guesses), -1), axis=1)):
            if key.tobytes() not in seen:
                seen.add(key.tobytes())
                fresh.append(k)
        if not fresh:
            break
        guesses = guesses[fresh]
        solutions = solve_itineraries(relu_map, guesses)
        # A singular system has no one solution to hop to; whether it has a family of them is decided by the caller.
        arrived = solutions.inside | solutions.on_border | solutions.singular
        found.append(guesses[arrived])
        guesses = relu_map.borders(solutions.points[~arrived]) > 0
    return np.concatenate(found)


def _first_guesses(relu_map: ReluMap, period: int, num: int, rng: np.random.Generator) -> np.ndarray:
    # Biases are of order one (`ReluMap.simplified`), cycles often larger.
    states = rng.standard_normal((num - num // 2, relu_map.state_size))
    states *= 10 ** rng.uniform(-1, 2, (len(states), 1))
    from_orbits = np.zeros((len(states), period, relu_map.num_relus), bool)
    for t in range(period):
        from_orbits[:, t] = relu_map.borders(states) > 0
        # Expanding maps leave the range of floating point; only signs matter.
        states = np.clip(relu_map(states), -1e100, 1e100)
    random = rng.random((num // 2, period, relu_map.num_relus)) < 0.5
    return np.concatenate([from_orbits, random])
