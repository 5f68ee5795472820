"""What a long computation is, in one line of text: for files that it goes on from."""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def identity(settings: Any, arrays: Any, function: Callable, *args: Any) -> str:
    """A hash of plain `settings`, of every number in `arrays`, and of what `function` does with arguments like `args`.

    The function is known by its JAX program and the constants in it, not by its name: the same code in another session
    has the same identity, other weights in a closure or another formula have not. JAX writes programs down in its own
    way: another version of it may see another computation.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    closed = jax.make_jaxpr(function)(*args)
    # Functions inside of a program are printed with their address in memory.
    digest.update(re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr)).encode())
    for leaf in jax.tree.leaves((arrays, closed.consts)):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
