"""Standard errors of time averages of correlated series, by batch means."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LEAST_BLOCKS = 16
"""Fewer block means than this give a standard error that is itself known to worse than about 20 %."""


def batch_means(
    blocks: Float[Array, "M k"],
) -> tuple[Float[Array, " k"], Float[Array, " k"], Bool[Array, " k"]]:
    """Standard errors of the k column means of a stationary correlated series given as M block means.

    The variance of the mean is that of the block means over their number, once the blocks are long enough to be
    uncorrelated. Blocks are therefore doubled (neighbours averaged) as long as at least `LEAST_BLOCKS` remain, and
    each column uses the shortest blocks from which on no length shows a lag-one correlation beyond one standard
    deviation of what independent blocks would show. A series that stays correlated uses the longest blocks.

    **Returns:** `(stderr, degrees_of_freedom, resolved)`, where `resolved` is False for a column whose longest blocks
    are still positively correlated by more than three standard deviations: its error is underestimated. Independent
    blocks do so once in ten thousand columns, a random walk in more than half of them. With a
    single block there is no error bar (NaN).

    Flyvbjerg & Petersen (1989), "Error estimates on averages of correlated data".
    """
    levels = [blocks]
    while levels[-1].shape[0] // 2 >= LEAST_BLOCKS:
        fine = levels[-1][: levels[-1].shape[0] // 2 * 2]
        levels.append(0.5 * (fine[0::2] + fine[1::2]))
    coarsest, score = _standard_error(levels[-1])
    stderr = coarsest
    degrees = jnp.full_like(stderr, levels[-1].shape[0] - 1)
    resolved = ~(score > 3)
    uncorrelated = jnp.abs(score) < 1
    for level in levels[-2::-1]:
        candidate, score = _standard_error(level)
        uncorrelated = uncorrelated & (jnp.abs(score) < 1)
        stderr = jnp.where(uncorrelated, candidate, stderr)
        degrees = jnp.where(uncorrelated, level.shape[0] - 1, degrees)
    return jax.lax.stop_gradient((stderr, degrees, resolved))


def drift(blocks: Float[Array, "M k"], rtol: float) -> Bool[Array, " k"]:
    """Whether the first quarter of a series differs from its last half: the transient was not over.

    The difference counts when it is beyond five standard errors and beyond `rtol` times the largest mean.
    Geweke (1992), "Evaluating the accuracy of sampling-based approaches to the calculation of posterior moments".
    """
    num_blocks = blocks.shape[0]
    early, late = blocks[: max(1, num_blocks // 4)], blocks[num_blocks // 2 :]
    difference = jnp.abs(early.mean(axis=0) - late.mean(axis=0))
    # The early variance is taken from the late part: an early drift must not hide behind its own spread.
    stderr_late = batch_means(late)[0]
    stderr = stderr_late * jnp.sqrt(1 + late.shape[0] / early.shape[0])
    largest = jnp.max(jnp.abs(late.mean(axis=0)))
    return (difference > 5 * stderr) & (difference > rtol * largest)


def block_sums(series: Float[Array, "T k"], num_blocks: int = 64) -> tuple[Float[Array, "M k"], int]:
    """Sums over up to `num_blocks` consecutive blocks of equal length, and that length.

    What does not fill a block at the end is left out.
    """
    length = max(1, -(-series.shape[0] // num_blocks))
    count = series.shape[0] // length
    return series[: count * length].reshape(count, length, *series.shape[1:]).sum(axis=1), length


def _standard_error(blocks):
    """The naive standard error of the mean, and the lag-one correlation in units of its own standard deviation."""
    num_blocks = blocks.shape[0]
    if num_blocks < 2:
        return jnp.full(blocks.shape[1:], jnp.nan, blocks.dtype), jnp.zeros(blocks.shape[1:], blocks.dtype)
    deviation = blocks - blocks.mean(axis=0)
    sum_of_squares = jnp.sum(deviation**2, axis=0)
    lagged = jnp.sum(deviation[1:] * deviation[:-1], axis=0)
    # A constant series has no correlation to speak of.
    correlation = jnp.where(sum_of_squares > 0, lagged / jnp.where(sum_of_squares > 0, sum_of_squares, 1), 0)
    # Independent blocks have an expected lag-one correlation of -1/n and a standard deviation of about 1/sqrt(n).
    score = (correlation + 1 / num_blocks) * jnp.sqrt(num_blocks)
    return jnp.sqrt(sum_of_squares / (num_blocks - 1) / num_blocks), score
