"""Linear operators that carry delay-embedded states one step on, fitted by least squares (DMD on delay coordinates)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LEAST_SIZE = 1e-6
"""Principal coordinates smaller than this fraction of the largest are rounding errors of the Gram matrix."""


class Moments(NamedTuple):
    """Sums over the steps of each block, in the principal coordinates p, of unit size, of the states of all blocks.

    With z = (p, u, 1), u the input that acts between one step and the next where there is one:
    """

    now: Any
    """Sums of z z^T, `(blocks, r + I + 1, r + I + 1)`."""
    next: Any
    """Sums of z p'^T, p' one step later, `(blocks, r + I + 1, r)`."""
    later: Any
    """Sums of p' p'^T, `(blocks, r, r)`."""
    sizes: Any
    """Root mean squares of all principal coordinates, falling, `(q,)`."""


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def moments(trials: Any, inputs: Any, num_delays: int, interval: int, rank: int, num_blocks: int) -> Moments:
    """The moments of trials `(B, T, N)` with inputs `(B, T, I)`, in blocks of neighbouring steps of one trial."""
    num_trials = trials.shape[0]
    centred = trials - jnp.mean(trials, axis=(0, 1))
    embedded = embed(centred, num_delays, interval)
    rows = embedded.reshape(-1, embedded.shape[2])
    # Of the two Gram matrices the smaller one is decomposed.
    if rows.shape[1] <= rows.shape[0]:
        squares, axes = jnp.linalg.eigh(rows.T @ rows)
        scores = rows @ axes[:, ::-1][:, :rank]
    else:
        squares, left = jnp.linalg.eigh(rows @ rows.T)
        scores = left[:, ::-1][:, :rank] * jnp.sqrt(jnp.maximum(squares[::-1][:rank], 0))
    sizes = jnp.sqrt(jnp.maximum(squares[::-1], 0) / rows.shape[0])
    # Of unit size, coordinates keep their digits in the sums however small they are beside the first.
    scores = (scores / jnp.where(sizes[:rank] > 0, sizes[:rank], 1)).reshape(num_trials, -1, rank)
    acting = inputs[:, inputs.shape[1] - scores.shape[1] :]
    now = jnp.concatenate([scores, acting, jnp.ones((*scores.shape[:2], 1))], axis=2)[:, :-1]
    after = scores[:, 1:]
    per_trial = -(-num_blocks // num_trials)
    length = now.shape[1] // per_trial
    cut = lambda a: a[:, : per_trial * length].reshape(num_trials * per_trial, length, -1)
    now, after = cut(now), cut(after)
    sums = lambda a, b: jnp.einsum("kti,ktj->kij", a, b)
    return Moments(sums(now, now), sums(now, after), sums(after, after), sizes)


def embed(trials: Any, num_delays: int, interval: int) -> Any:
    """Each state beside those before it: `(B, T - (d - 1) interval, d N)`, the present one first."""
    length = trials.shape[1] - (num_delays - 1) * interval
    parts = [trials[:, (num_delays - 1 - d) * interval :][:, :length] for d in range(num_delays)]
    return jnp.concatenate(parts, axis=2)


def whitened(sums: Moments, weights: Any, rank: int) -> Moments:
    """The moments of the blocks with these weights `(blocks,)`, in coordinates of unit variance of their own.

    Of the bases of such coordinates, the one nearest to that of all blocks: those of two halves are then alike.
    """
    now, after, later = (jnp.einsum("k,kij->ij", weights, part) for part in sums[:3])
    steps = now[-1, -1]  # the sum of 1 * 1
    now, after, later = now / steps, after / steps, later / steps
    variances, axes = jnp.linalg.eigh(now[:rank, :rank])
    turn = (axes / jnp.sqrt(variances)) @ axes.T
    num_inputs = now.shape[0] - rank
    # Inputs keep their meaning, and their scale goes into the operator.
    full = jnp.block([[turn, jnp.zeros((rank, num_inputs))], [jnp.zeros((num_inputs, rank)), jnp.eye(num_inputs)]])
    return Moments(full.T @ now @ full, full.T @ after @ turn, turn.T @ later @ turn, sums.sizes)


def operator(sums: Moments, rank: int) -> tuple[Any, Any]:
    """The matrices of p' = A p + B u + c, least squares, `(r, r)` and `(r, I)`; c is no property of the dynamics."""
    both = jnp.linalg.solve(sums.now, sums.next).T
    return both[:, :rank], both[:, rank:-1]
