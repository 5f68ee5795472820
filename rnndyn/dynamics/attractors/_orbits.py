"""One long orbit as it grows: its last states, the growth of its tangent vectors, and averages that tell its kind."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.attractors._segments import follow, skip
from rnndyn.dynamics.numerics.birkhoff import bump_weights
from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.dynamics.numerics.evaluation import images_and_jacobians
from rnndyn.dynamics.numerics.frames import random_frame
from rnndyn.dynamics.numerics.statistics import batch_means, block_sums, drift
from rnndyn.dynamics.numerics.torus import embedded, period_of

SEGMENT = 4096
"""Steps of one segment: enough for weighted averages of ten digits, and for recurrences of periods of hundreds."""

_NUM_PROBES = 8

_LOG_ROUNDING = 16 * np.finfo(float).eps
"""What rounding may add to the logarithm of a growth factor, per unit of 1 + its size."""


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
        self.angles = period_of(f, size)
        self._frame = random_frame(size, min(2, size), np.float64)
        # Eight fixed directions stand for a long state: a line in the spectrum of the state is one of all of them.
        num_seen = embedded(self.x, self.angles).size
        self._probes = np.eye(num_seen)
        if num_seen > _NUM_PROBES:
            self._probes = np.random.default_rng(0).standard_normal((num_seen, _NUM_PROBES)) / np.sqrt(num_seen)
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
            # Angles as points of circles: averages of what jumps at the cut converge slowly, and depend on the cut.
            self._signals.append(embedded(self.states, self.angles) @ self._probes)

    def growth(self) -> Growth:
        """Growth rates over the last half."""
        logs = np.concatenate(self._logs[len(self._logs) // 2 :])
        finite = np.where(np.isfinite(logs), logs, 0.0)
        blocks, length = block_sums(jnp.asarray(finite), 64)
        stderr, resolved, drifts = (np.asarray(a) for a in _error_bars(blocks / length))
        with np.errstate(invalid="ignore"):
            rates = np.where(np.isfinite(logs).all(axis=0), finite.mean(axis=0), -np.inf)
            weighted = np.where(np.isfinite(logs).all(axis=0), bump_weights(len(logs)) @ finite, -np.inf)
        # A logarithm is known to a few units in the last place of its argument, and the errors need not be random.
        floor = _LOG_ROUNDING * (1 + np.mean(np.abs(finite), axis=0))
        stderr = np.maximum(stderr, floor)
        return Growth(rates, stderr, bool(resolved[0] and not drifts[0]), weighted, len(logs))

    def volume(self) -> tuple[float, float]:
        """The growth rate of volume, the mean of ln |det DF| over the last states, and its standard error."""
        num = int(np.clip(2**26 // max(self.x.size, 1) ** 3, 256, SEGMENT))
        states = self.states[-num:]
        jacobians = map_in_chunks(
            lambda x: images_and_jacobians(self.f, x)[1],
            states,
            bytes_per_item=32 * self.x.size**2,
            description="volume",
            progress=False,
        )
        logs = np.linalg.slogdet(jacobians)[1]
        if not np.isfinite(logs).all():
            return (float("-inf") if np.all(logs < np.inf) else float("nan")), 0.0
        blocks, length = block_sums(jnp.asarray(logs)[:, None], 32)
        stderr = float(np.asarray(_error_bars(blocks / length)[0])[0])
        rounding = _LOG_ROUNDING * self.x.size * (1 + float(np.mean(np.abs(logs))))
        return float(logs.mean()), max(stderr, rounding)

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


@compiled
def _error_bars(blocks: Array | np.ndarray) -> tuple[Array, Array, Array]:
    stderr, _, resolved = batch_means(blocks)
    return jnp.asarray(stderr), jnp.asarray(resolved), jnp.asarray(drift(blocks, rtol=1e-2))
