"""One long orbit as it grows: its last states, the growth of its tangent vectors, and averages that tell its kind."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn.dynamics._birkhoff import bump_weights
from rnndyn.dynamics._frames import random_frame
from rnndyn.dynamics._orbit_segments import follow, skip
from rnndyn.dynamics._statistics import batch_means, block_sums, drift

SEGMENT = 4096
"""Steps of one segment: enough for weighted averages of ten digits, and for recurrences of periods of hundreds."""

_NUM_PROBES = 8


class Growth(NamedTuple):
    """Growth rates over the last half of an orbit, nats per step, of a tangent vector and across it."""

    exponents: Float[np.ndarray, " k"]
    stderr: Float[np.ndarray, " k"]
    steady: bool
    """Whether the blocks are uncorrelated and without drift, so that the error bars hold."""
    weighted: Float[np.ndarray, " k"]
    """The same rates by weighted Birkhoff averages: far more accurate on a circle."""
    num_steps: int

    @property
    def is_chaotic(self) -> bool:
        """Whether the largest is positive by five standard errors, and the tangent vector has grown e^20 times.

        Without chaos a tangent vector grows like a power of the time at the most: by e^13 in 2^18 steps, linearly.
        """
        rate, error = self.exponents[0], self.stderr[0]
        return bool(self.steady and rate > 5 * error and rate * self.num_steps > 20)


class LongOrbit:
    """An orbit that is followed segment by segment."""

    def __init__(self, f: Callable[[Array], Array], x0: Float[np.ndarray, " N"], radius: float):
        self.f, self.radius, self.x = f, radius, np.asarray(x0)
        size = self.x.size
        self._frame = random_frame(size, min(2, size), np.float64)
        # Eight fixed directions stand for a long state: a line in the spectrum of the state is one of all of them.
        self._probes = np.eye(size)
        if size > _NUM_PROBES:
            self._probes = np.random.default_rng(0).standard_normal((size, _NUM_PROBES)) / np.sqrt(size)
        self._logs: list[np.ndarray] = []
        self._signals: list[np.ndarray] = []
        self.states = self.x[None]
        self._least_scale = least_scale(np.stack([self.x, np.asarray(skip(f, jnp.asarray(self.x), jnp.asarray(1)))]))
        self.escaped_after: int | None = None

    @property
    def num_steps(self) -> int:
        return SEGMENT * len(self._logs)

    @property
    def scale(self) -> float:
        """The largest entry of the last states: what lengths are measured against."""
        return max(float(np.max(np.abs(self.states))), self._least_scale)

    def extend(self, num_segments: int) -> None:
        """Follow the orbit on, until it escapes."""
        for _ in range(num_segments):
            segment = jax.device_get(follow(self.f, jnp.asarray(self.x), jnp.asarray(self._frame), SEGMENT))
            inside = np.max(np.abs(segment.states), axis=1) <= self.radius  # NaN is not
            if not inside.all():
                self.escaped_after = self.num_steps + int(np.argmin(inside)) + 1
                return
            self.states, self._frame = segment.states, segment.frame
            self.x = self.states[-1]
            self._logs.append(segment.log_growth)
            self._signals.append(self.states @ self._probes)

    def growth(self) -> Growth:
        """Growth rates over the last half."""
        logs = np.concatenate(self._logs[len(self._logs) // 2 :])
        finite = np.where(np.isfinite(logs), logs, 0.0)
        blocks, length = block_sums(jnp.asarray(finite), 64)
        stderr, resolved, drifts = (np.asarray(a) for a in _error_bars(blocks / length))
        with np.errstate(invalid="ignore"):
            rates = np.where(np.isfinite(logs).all(axis=0), finite.mean(axis=0), -np.inf)
            weighted = np.where(np.isfinite(logs).all(axis=0), bump_weights(len(logs)) @ finite, -np.inf)
        return Growth(rates, stderr, bool(resolved[0] and not drifts[0]), weighted, len(logs))

    def signal(self) -> Float[np.ndarray, "T M"]:
        """The last half of the orbit, seen through up to eight probes."""
        return np.concatenate(self._signals[len(self._signals) // 2 :])

    def birkhoff_digits(self) -> float:
        r"""To how many digits weighted averages over two halves of the last half of the orbit agree.

        The averages are those of the probes and of their squared distances from the mean, as fractions of the
        spread. On a circle or torus the digits grow faster than any power of the length, to the rounding floor; for
        chaos they grow like half of its logarithm; a decaying or growing amplitude shows in the squares.
        """
        signal = self.signal()
        spread = float(np.max(np.ptp(signal, axis=0)))
        if spread == 0:
            return 16.0
        centred = (signal - signal.mean(axis=0)) / spread
        observables = np.concatenate([centred, centred**2], axis=1)
        half = len(observables) // 2
        weights = bump_weights(half)
        difference = np.max(np.abs(weights @ observables[:half] - weights @ observables[half : 2 * half]))
        return float(-np.log10(max(difference, 1e-16)))


def least_scale(first_states: Float[np.ndarray, "K N"]) -> float:
    """A thousandth of the size of the first states: what lengths are measured against where all else goes to 0."""
    sizes = np.abs(first_states)
    return 1e-3 * float(np.max(sizes[np.isfinite(sizes)], initial=0.0)) or 1.0


@eqx.filter_jit
def _error_bars(blocks: Array) -> tuple[Array, Array, Array]:
    stderr, _, resolved = batch_means(blocks)
    return stderr, resolved, drift(blocks, rtol=1e-2)
