"""Inputs under which nearby states of a driven map separate: counterexamples to contraction."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnndyn._programs import compiled

_NUM_SETTLING = 1000
_NUM_PROBES = 8
_SEPARATES = 1e-2


def separating_input(g: Callable, low: np.ndarray, high: np.ndarray, start: np.ndarray, seed: int) -> np.ndarray | None:
    """An input of the box under which, held, a small difference grows."""
    share = np.random.default_rng(seed).uniform(size=(_NUM_PROBES, len(low)))
    share[:3] = np.array([0.5, 0.0, 1.0])[:, None]
    inputs = low + share * (high - low)
    found = np.asarray(_exponents(g, start + 1e-3, inputs))
    worst = int(np.nanargmax(np.where(np.isfinite(found), found, -np.inf)))
    return inputs[worst] if found[worst] > _SEPARATES else None


@compiled
def settled(g: Callable, start: Any, input: Any) -> Array:
    """The state after many steps under one input, held."""
    return jax.lax.fori_loop(0, _NUM_SETTLING, lambda _, x: g(x, input), jnp.asarray(start))


@compiled
def _exponents(g: Callable, start: Any, inputs: Any) -> Array:
    """The growth of a random difference under each input, held."""

    def one(input: Array) -> Array:
        x = jax.lax.fori_loop(0, _NUM_SETTLING, lambda _, x: g(x, input), jnp.asarray(start))
        v = jnp.ones_like(x) / jnp.sqrt(x.size)

        def step(carry: Any, _: None) -> Any:
            x, v, total = carry
            y, w = jax.jvp(lambda z: g(z, input), (x,), (v,))
            size = jnp.linalg.norm(w)
            return (y, w / size, total + jnp.log(size)), None

        (_, _, total), _ = jax.lax.scan(step, (x, v, 0.0), None, length=_NUM_SETTLING)
        return jnp.asarray(total / _NUM_SETTLING)

    return jax.lax.map(one, jnp.asarray(inputs))
