"""Squared errors of what was measured, where some entries were not."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from rnndyn.training._norm import wide


def squared_errors(outputs: Any, targets: Any, observed: Any) -> tuple[Array, Array]:
    """The sum of squares over measured entries (T, O), and how many there are."""
    # Zeros before the difference and not after: a NaN there would come back through the gradient.
    outputs, targets = (wide(jnp.where(observed, values, 0)) for values in (outputs, targets))
    return jnp.sum((outputs - targets) ** 2), jnp.sum(observed).astype(outputs.dtype)
