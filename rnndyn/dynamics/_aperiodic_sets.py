"""Recognising a chaotic attractor or a circle by a sample of its states: which orbits move on the same set."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn.dynamics._frames import random_frame
from rnndyn.dynamics._long_orbit import SEGMENT
from rnndyn.dynamics._orbit_segments import follow

_SAMPLE_EVERY = 2
"""Every other state of a segment makes a sample of 2048: the distance to a million states takes seconds."""


class OrbitSet:
    """A sample of the set that an orbit moves on, and how near to it the orbit's later states come.

    Another orbit moves on the same set when three quarters of its states lie nearer to the sample than 99 % of the
    later states of the first orbit do. No grid is laid over the state space, so N may be large; but two sets that
    are closer to each other than the states of the sample are among themselves count as one.
    """

    def __init__(self, f: Callable[[Array], Array], x: Float[np.ndarray, " N"]):
        frame = jnp.asarray(random_frame(x.size, min(2, x.size), np.float64))
        first = jax.device_get(follow(f, jnp.asarray(x), frame, SEGMENT)).states
        second = jax.device_get(follow(f, jnp.asarray(first[-1]), frame, SEGMENT)).states
        self.sample = first[::_SAMPLE_EVERY]
        # Three is coprime to most periods of bands; a thousand states fix a quantile of 99 % well.
        self.reach = float(np.quantile(self._distances(second[::3]), 0.99))

    def holds(self, states: Float[np.ndarray, "K M N"]) -> Bool[np.ndarray, " K"]:
        """Which of K orbits, each given by M of its states, move on the set."""
        if len(states) == 0:
            return np.zeros(0, bool)
        distances = self._distances(states.reshape(-1, states.shape[2])).reshape(states.shape[:2])
        return np.quantile(distances, 0.75, axis=1) <= self.reach

    def _distances(self, states: np.ndarray) -> np.ndarray:
        """From each state to the nearest of the sample."""
        centre = self.sample.mean(axis=0)
        sample = self.sample - centre
        squares = np.sum(sample**2, axis=1)
        nearest = []
        for first in range(0, len(states), 4096):
            part = states[first : first + 4096] - centre
            between = np.sum(part**2, axis=1)[:, None] + squares - 2 * part @ sample.T
            nearest.append(np.sqrt(np.maximum(between.min(axis=1), 0)))
        return np.concatenate(nearest)
