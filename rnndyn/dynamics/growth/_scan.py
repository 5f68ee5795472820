"""`lax.scan` over the steps of a trajectory, with memory for the gradient traded against time."""

from collections.abc import Callable
from typing import Any

import jax


def scan_steps(step: Callable, carry: Any, xs: Any, num_steps: int, remat_every: int | None) -> Any:
    """The last carry of `carry = step(carry, x)`; its gradient recomputes segments of `remat_every` steps.

    With it, the backward pass keeps num_steps / remat_every carries and the residuals of remat_every steps, in place
    of the residuals of all steps.
    """
    if remat_every is None or remat_every >= num_steps:
        return jax.lax.scan(lambda c, x: (step(c, x), None), carry, xs, length=num_steps)[0]
    num_segments = num_steps // remat_every
    cut = num_segments * remat_every

    @jax.checkpoint
    def segment(carry, xs):
        return scan_steps(step, carry, xs, jax.tree.leaves(xs)[0].shape[0], None)

    whole = jax.tree.map(lambda a: a[:cut].reshape(num_segments, remat_every, *a.shape[1:]), xs)
    carry = scan_steps(segment, carry, whole, num_segments, None)
    if cut < num_steps:
        carry = segment(carry, jax.tree.map(lambda a: a[cut:], xs))
    return carry
