"""Arrays that a user gave as arrays of JAX."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def as_array(x: Any) -> Array:
    """`jnp.asarray(x)`, which for NumPy arrays compiles a program for every shape where the dtype is not said too."""
    return jnp.asarray(x, jnp.result_type(x)) if isinstance(x, np.ndarray | np.generic) else jnp.asarray(x)
