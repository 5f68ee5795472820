"""Standard errors of time averages of correlated series, by batch means."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

LEAST_BLOCKS = 16
"""Fewer block means than this give a standard error that is itself known to worse than about 20 %."""

LEAST_INDEPENDENT = 8
"""A series worth fewer independent blocks than this has no error bar to rely on: its few excursions may all be
missing."""


UNUSUAL_TIME = 9.3
"""Independent blocks show a correlation time beyond 1 + this / sqrt(M) once in twenty times: the 95 % points of 40 000
white series are 2.73, 2.35, 2.15 and 1.78 for M = 32, 48, 64 and 128. A lower bar lengthens errors of white noise."""

_EXCURSIONS = 4
"""A run of 64 blocks that goes to one side of its mean and back fewer times has seen too little of what comes seldom.
Independent blocks do so in 3 of 1000 runs."""

_SELDOM = 5
"""Up to so many excursions in 64 blocks the degrees of freedom are theirs.
It is so in 13 % of runs of independent blocks."""

_WIDTHS = ((3, 0), (4, 1), (5, 2))
"""Running means over so many blocks in which excursions are counted, and what is added to the count for smoothing.
Blocks of an orbit of period 2 to 5 beat with its period; the mean over as many blocks does not."""

_NEGLIGIBLE = 1e-3
"""Excursions below this fraction of the largest mean are let pass, as `drift` lets them pass."""


def namespace(array: Any) -> Any:
    """NumPy for its own arrays, which compile nothing, and JAX's for all others."""
    return np if isinstance(array, np.ndarray | np.generic) else jnp


def batch_means(
    blocks: Float[Array | np.ndarray, "M k"],
) -> tuple[Float[Array | np.ndarray, " k"], Float[Array | np.ndarray, " k"], Bool[Array | np.ndarray, " k"]]:
    """Standard errors of the k column means of a stationary correlated series given as M block means.

    The variance of the mean is that of the block means over their number, once the blocks are long enough to be
    uncorrelated. Blocks are therefore doubled (neighbours averaged) as long as at least `LEAST_BLOCKS` remain, and
    each column uses the shortest blocks from which on no length shows a lag-one correlation beyond one standard
    deviation of what independent blocks would show. A series that stays correlated uses the longest blocks.

    Pairs of blocks say little about a correlation that is spread over many of them. From 32 blocks on two further
    looks widen the interval, neither of which shortens it:

    - the integrated correlation time (Geyer's initial monotone sequence, corrected for the bias that the unknown mean
      causes): where it exceeds what independent blocks show once in twenty times (`UNUSUAL_TIME`), the error is at
      least that of M over it independent blocks, with as many degrees of freedom;
    - excursions from the mean and back (regenerations, nearly): where there are 5 or fewer in 64 blocks, they less one
      are the degrees of freedom. A run of few bursts and long laminar phases has few, and nothing else shows it: its
      blocks look independent, and runs with few bursts have both a small mean and a small error bar.

    A test on the run itself that refuses long correlations selects runs whose error bars are too short, so refusing
    alone makes coverage of the others worse: widening comes first.

    **Returns:** `(stderr, degrees_of_freedom, resolved)`, where `resolved` is False for a column whose longest blocks
    are still positively correlated by more than three standard deviations, that is worth fewer than
    `LEAST_INDEPENDENT` independent blocks, or that has fewer than 4 excursions in 64 blocks, larger than its error:
    its error is underestimated. Independent blocks do so in 3 of 1000 columns, a random walk nearly always. With a
    single block there is no error bar (NaN).

    Intervals of 95 % of runs of 1024 steps in 64 blocks: autoregressive series with coefficients 0, 0.5, 0.9 and 0.98
    are covered in 95, 95, 95 and 94 % of those called resolved (all, all, 98 and 50 %); the logistic map at 1e-2 to
    1e-4 below its window of period 3 in 94 to 97 % (99 to 93 %), and at 1e-5 and 1e-6, where a window holds three
    laminar phases or one, 2 % or less are called resolved. What no run can show is a phase that is longer than it.

    Flyvbjerg & Petersen (1989), "Error estimates on averages of correlated data"; Geyer (1992), "Practical Markov chain
    Monte Carlo"; Crane & Iglehart (1975), "Simulating stable stochastic systems, III: regenerative processes and
    discrete-event simulations".
    """
    xp = namespace(blocks)
    levels = [blocks]
    while levels[-1].shape[0] // 2 >= LEAST_BLOCKS:
        fine = levels[-1][: levels[-1].shape[0] // 2 * 2]
        levels.append(0.5 * (fine[0::2] + fine[1::2]))
    coarsest, score = _standard_error(levels[-1])
    stderr = coarsest
    degrees = xp.full_like(stderr, levels[-1].shape[0] - 1)
    resolved = ~(score > 3)
    uncorrelated = xp.abs(score) < 1
    for level in levels[-2::-1]:
        candidate, score = _standard_error(level)
        uncorrelated = uncorrelated & (xp.abs(score) < 1)
        stderr = xp.where(uncorrelated, candidate, stderr)
        degrees = xp.where(uncorrelated, level.shape[0] - 1, degrees)
    num_blocks = blocks.shape[0]
    if num_blocks >= 2 * LEAST_BLOCKS:  # fewer do not show their correlation time
        time = _correlation_time(blocks)
        long = time > 1 + UNUSUAL_TIME / np.sqrt(num_blocks)
        stderr = xp.where(long, xp.maximum(stderr, xp.sqrt(xp.maximum(time, 0)) * _standard_error(blocks)[0]), stderr)
        degrees = xp.where(long, xp.maximum(2, xp.minimum(degrees, num_blocks / xp.where(long, time, 1) - 1)), degrees)
        resolved = resolved & (time * LEAST_INDEPENDENT <= num_blocks)
        excursions, tolerable = _excursions(blocks, stderr)
        share = min(num_blocks, 64) / 64
        seldom = ~tolerable & (excursions <= round(_SELDOM * share))
        degrees = xp.where(seldom, xp.clip(excursions - 1, 2, degrees), degrees)
        resolved = resolved & (tolerable | (excursions >= round(_EXCURSIONS * share)))
    found = stderr, degrees.astype(stderr.dtype), resolved
    return found if xp is np else jax.lax.stop_gradient(found)


def drift(blocks: Float[Array | np.ndarray, "M k"], rtol: float) -> Bool[Array | np.ndarray, " k"]:
    """Whether the first quarter of a series differs from its last half: the transient was not over.

    The difference counts when it is beyond five standard errors and beyond `rtol` times the largest mean.
    Geweke (1992), "Evaluating the accuracy of sampling-based approaches to the calculation of posterior moments".
    """
    xp = namespace(blocks)
    num_blocks = blocks.shape[0]
    early, late = blocks[: max(1, num_blocks // 4)], blocks[num_blocks // 2 :]
    difference = xp.abs(early.mean(axis=0) - late.mean(axis=0))
    # The early variance is taken from the late part: an early drift must not hide behind its own spread.
    stderr_late = batch_means(late)[0]
    stderr = stderr_late * np.sqrt(1 + late.shape[0] / early.shape[0])
    largest = xp.max(xp.abs(late.mean(axis=0)))
    return (difference > 5 * stderr) & (difference > rtol * largest)


def block_sums(
    series: Float[Array | np.ndarray, "T k"], num_blocks: int = 64
) -> tuple[Float[Array | np.ndarray, "M k"], int]:
    """Sums over up to `num_blocks` consecutive blocks of equal length, and that length.

    What does not fill a block at the end is left out.
    """
    length = max(1, -(-series.shape[0] // num_blocks))
    count = series.shape[0] // length
    return series[: count * length].reshape(count, length, *series.shape[1:]).sum(axis=1), length


def _standard_error(blocks):
    """The naive standard error of the mean, and the lag-one correlation in units of its own standard deviation."""
    xp = namespace(blocks)
    num_blocks = blocks.shape[0]
    if num_blocks < 2:
        return xp.full(blocks.shape[1:], xp.nan, blocks.dtype), xp.zeros(blocks.shape[1:], blocks.dtype)
    deviation = _deviations(blocks)
    sum_of_squares = xp.sum(deviation**2, axis=0)
    lagged = xp.sum(deviation[1:] * deviation[:-1], axis=0)
    # A constant series has no correlation to speak of.
    correlation = xp.where(sum_of_squares > 0, lagged / xp.where(sum_of_squares > 0, sum_of_squares, 1), 0)
    # Independent blocks have an expected lag-one correlation of -1/n and a standard deviation of about 1/sqrt(n).
    score = (correlation + 1 / num_blocks) * np.sqrt(num_blocks)
    return xp.sqrt(sum_of_squares / (num_blocks - 1) / num_blocks), score


def _excursions(blocks, stderr):
    """How often a series goes to one side of its mean and back, and whether such excursions are too small to matter."""
    xp = namespace(blocks)
    while blocks.shape[0] >= 128:
        even = blocks[: blocks.shape[0] // 2 * 2]
        blocks = 0.5 * (even[0::2] + even[1::2])
    deviation = _deviations(blocks)
    counts, sizes = [], []
    for width, fewer in _WIDTHS:
        windows = [deviation[i : len(deviation) - width + 1 + i] for i in range(width)]
        smooth = xp.mean(xp.stack(windows), axis=0)
        above = smooth > smooth.mean(axis=0)
        rises, falls = (xp.sum(c, axis=0) for c in (above[1:] & ~above[:-1], above[:-1] & ~above[1:]))
        counts.append((xp.minimum(rises, falls) + fewer).astype(blocks.dtype))
        sizes.append(smooth.std(axis=0))
    tolerated = xp.maximum(stderr, _NEGLIGIBLE * xp.max(xp.abs(blocks.mean(axis=0))))
    return xp.min(xp.stack(counts), axis=0), xp.min(xp.stack(sizes), axis=0) <= tolerated


def _deviations(blocks):
    """Deviations from the mean; of a series that is constant up to rounding, zeros.

    The mean of equal numbers is not always that number, and what is left over would be correlated without end.
    """
    xp = namespace(blocks)
    deviation = blocks - blocks.mean(axis=0)
    rounding = 8 * xp.finfo(blocks.dtype).eps * xp.max(xp.abs(blocks), axis=0)
    return xp.where(xp.max(xp.abs(deviation), axis=0) <= rounding, 0, deviation)


def _correlation_time(blocks):
    """How many blocks are worth one independent block."""
    xp = namespace(blocks)
    num_blocks = blocks.shape[0]
    deviation = _deviations(blocks)
    spectrum = xp.fft.rfft(deviation, 2 * num_blocks, axis=0)
    covariance = xp.fft.irfft(xp.abs(spectrum) ** 2, 2 * num_blocks, axis=0)[: num_blocks // 4 * 2]
    variance = covariance[:1]
    correlation = xp.where(variance > 0, covariance / xp.where(variance > 0, variance, 1), 0) + 1 / num_blocks
    # Sums of neighbouring pairs are positive and fall for a reversible process; noise begins where they no longer are.
    pairs = correlation[0::2] + correlation[1::2]
    pairs = xp.where(xp.cumprod(pairs > 0, axis=0) > 0, pairs, 0)
    time = 2 * xp.sum(_running_minimum(pairs), axis=0) - 1
    return time / xp.maximum(1 - 2 * time / num_blocks, 0.2)


def _running_minimum(array):
    return np.minimum.accumulate(array, axis=0) if namespace(array) is np else jax.lax.cummin(array, axis=0)
