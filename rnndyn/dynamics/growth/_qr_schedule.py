"""How long a frame of tangent vectors may go without being orthonormalised."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FADING = 0.98
"""Factor by which the memory of a burst fades at every QR: it lasts for about 50 of them."""

LONGEST_INTERVAL = 64
"""Beyond this many steps the QR costs nothing next to the steps."""


def rate_of_loss(
    vectors: Float[Array, "N k"],
    log_diagonal: Float[Array, " k"],
    condition: Float[Array, " k"],
    since_qr: Int[Array, ""],
) -> Float[Array, ""]:
    """How fast the last interval used up what an interval may use; 1 means all of it in one step.

    An interval may use a quarter of the digits: the logarithm of the condition, or of the spread of the growth factors,
    which bounds what the condition tends to when the columns happened to start out well aligned. And it may use an
    eighth of the range of the exponent, because squared lengths are summed and a burst may come.
    """
    info = jnp.finfo(vectors.dtype)
    digits = -math.log(float(info.eps)) / 4
    magnitudes = math.log(float(info.max)) / 8
    lengths = jnp.maximum(jnp.sqrt(jnp.sum(vectors**2, axis=0)), info.tiny)
    shares = [
        jnp.log(jnp.max(condition)) / digits,
        (jnp.max(log_diagonal) - jnp.min(log_diagonal)) / digits,
        jnp.max(jnp.abs(jnp.log(lengths))) / magnitudes,
    ]
    largest = jnp.max(jnp.stack([jnp.nan_to_num(share, nan=1.0) for share in shares]))
    return jax.lax.stop_gradient(jnp.clip(largest / since_qr.astype(largest.dtype), 0, 1))


def next_interval(rate: Float[Array, ""], since_qr: Int[Array, ""]) -> Int[Array, ""]:
    """Steps until the next QR. It at most doubles: one quiet stretch does not promise another."""
    allowed = jnp.floor(1 / jnp.maximum(rate, 1 / LONGEST_INTERVAL)).astype(jnp.int32)
    return jnp.clip(allowed, 1, 2 * since_qr)
