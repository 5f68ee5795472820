"""Singular values of a row-graded matrix, each to high relative accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_MAX_SWEEPS = 40


def log_singular_values(log_d: Float[Array, " N"], s: Float[Array, "N N"]) -> Float[Array, " N"]:
    r"""The logarithms of the singular values of $\operatorname{diag}(e^{d}) S$, descending.

    One-sided Jacobi: pairs of rows are rotated until all are orthogonal; their lengths are the singular values. Rows
    are kept as unit vectors with log lengths, so their scales may differ without bound. The relative error is the
    machine epsilon times the condition of S with unit rows. The N/2 disjoint pairs of a round are rotated at once.
    """
    size = s.shape[0]
    if size == 1:
        return log_d + jnp.log(jnp.abs(s[:, 0]))
    schedule = jnp.asarray(_round_robin(size + size % 2))
    if size % 2:  # a row of zeros makes the number of rows even
        s = jnp.concatenate([s, jnp.zeros((1, size), s.dtype)])
        log_d = jnp.concatenate([log_d, jnp.full(1, -jnp.inf, log_d.dtype)])
    rows, log_lengths = _normalise(s, log_d)
    tolerance = 10 * jnp.finfo(s.dtype).eps  # the cosine that rounding leaves between two unit rows

    def rotate(carry, pairs):
        rows, logs, worst = carry
        first, second = pairs[:, 0], pairs[:, 1]
        swap = logs[second] > logs[first]
        large, small = jnp.where(swap, second, first), jnp.where(swap, first, second)
        u, v = rows[large], rows[small]
        cosine = jnp.sum(u * v, axis=1)
        gap = logs[small] - logs[large]
        ratio = jnp.where(jnp.isnan(gap), 0, jnp.exp(gap))
        # tan of the rotation angle over the ratio of lengths: finite however small the ratio is
        spread = (1 - ratio) * (1 + ratio)
        denominator = spread + jnp.sqrt(spread**2 + 4 * (ratio * cosine) ** 2)
        tangent = jnp.where(denominator > 0, -2 * cosine / jnp.where(denominator > 0, denominator, 1), 0)
        cos = 1 / jnp.sqrt(1 + (tangent * ratio) ** 2)
        new_u, log_u = _normalise(cos[:, None] * (u - (tangent * ratio**2)[:, None] * v), logs[large])
        new_v, log_v = _normalise(cos[:, None] * (v + tangent[:, None] * u), logs[small])
        rows = rows.at[large].set(new_u).at[small].set(new_v)
        logs = logs.at[large].set(log_u).at[small].set(log_v)
        return (rows, logs, jnp.maximum(worst, jnp.max(jnp.abs(cosine)))), None

    def sweep(carry):
        rows, logs, _, count = carry
        (rows, logs, worst), _ = jax.lax.scan(rotate, (rows, logs, jnp.zeros((), rows.dtype)), schedule)
        return rows, logs, worst, count + 1

    def unfinished(carry):
        return (carry[2] > tolerance) & (carry[3] < _MAX_SWEEPS)

    start = (rows, log_lengths, jnp.ones((), rows.dtype), 0)
    _, logs, _, _ = jax.lax.while_loop(unfinished, sweep, start)
    return jnp.sort(logs, descending=True)[:size]


def _normalise(rows, logs):
    lengths = jnp.linalg.norm(rows, axis=1)
    alive = lengths > 0
    return rows / jnp.where(alive, lengths, 1)[:, None], logs + jnp.log(lengths)


def _round_robin(size: int) -> np.ndarray:
    """All pairs of an even number of players, in size - 1 rounds of disjoint pairs: (rounds, size / 2, 2)."""
    players = list(range(size))
    rounds = []
    for _ in range(size - 1):
        rounds.append([(players[i], players[-1 - i]) for i in range(size // 2)])
        players = [players[0], players[-1], *players[1:-1]]
    return np.array(rounds)
