"""The norm of a tree of arrays, where neither its squares nor its half-precision entries may overflow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn.networks.precision import widest


class ScaledNorm(NamedTuple):
    """A norm in two factors, `largest * root`, each of which is finite wherever the entries are."""

    largest: Float[Array, ""]
    """The largest magnitude of an entry; NaN or infinite exactly where an entry is."""
    root: Float[Array, ""]
    """The norm of the entries divided by it, 1 to the root of their number (0 where all are 0)."""

    @property
    def value(self) -> Float[Array, ""]:
        """The norm itself; infinite where it exceeds the range of its dtype."""
        return jnp.where(jnp.isfinite(self.largest), self.largest * self.root, self.largest)


def scaled_norm(tree: Any) -> ScaledNorm:
    r"""The Euclidean norm of all entries together, accumulated in at least float32.

    $$\|g\| = m \sqrt{\textstyle\sum_i (g_i / m)^2}, \qquad m = \max_i |g_i|$$

    The squares of entries above 256 overflow in float16, and of entries above 2e19 in float32, long before the norm
    does; divided by the largest none exceeds 1.
    """
    leaves = [wide(leaf) for leaf in jax.tree.leaves(tree)]
    # The maximum of an empty array is that of nothing.
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]))
    # Devices may flush what is smaller to zero, and 0 / 0 is no number.
    is_normal = largest >= jnp.finfo(largest.dtype).tiny
    divisor = jnp.where(is_normal, largest, 1)
    root = jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(_ratio(leaf, divisor) ** 2) for leaf in leaves])))
    return ScaledNorm(largest, jnp.where(is_normal, root, jnp.sign(largest)))


def clip(tree: Any, norm: ScaledNorm, max_norm: float) -> Any:
    """`tree`, whose norm is `norm`, scaled to `max_norm` where it is longer."""
    # Compared and scaled by factors: the product of the two may be beyond the range of the dtype.
    largest_kept = max_norm / jnp.where(norm.root > 0, norm.root, 1)
    is_long = norm.largest > largest_kept
    shorten = lambda leaf: jnp.where(is_long, _ratio(wide(leaf), norm.largest) * largest_kept, wide(leaf))
    return jax.tree.map(lambda leaf: shorten(leaf).astype(leaf.dtype), tree)


def _ratio(leaf: Array, divisor: Array) -> Array:
    """`leaf / divisor`, where no entry of `leaf` is larger than `divisor`.

    Compilers divide by multiplying with the inverse, and that of the largest numbers is flushed to zero.
    """
    shrink = jnp.where(divisor > 1, 2.0**-64, 1.0).astype(leaf.dtype)
    return (leaf * shrink) / (divisor.astype(leaf.dtype) * shrink)


def wide(leaf: Any) -> Array:
    """`leaf` in at least float32: what sums are accumulated in."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(widest(leaf.dtype, jnp.float32))
