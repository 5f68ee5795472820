"""Inputs under which nearby states of a driven map separate: counterexamples to contraction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnndyn._programs import compiled

_NUM_SETTLING = 1000
_NUM_PROBES = 8
_NUM_NEWTON = 30
_SEPARATES = 1e-2
_KEPT = 1e-9
# Of a state that Newton's method has found, beside which a growth of a hundredth is no rounding.


def separating_input(g: Callable, low: np.ndarray, high: np.ndarray, start: np.ndarray, seed: int) -> np.ndarray | None:
    """An input of the box under which, held, a small difference grows."""
    inputs = _probes(low, high, seed)
    found = np.asarray(_exponents(g, start + 1e-3, inputs))
    worst = int(np.nanargmax(np.where(np.isfinite(found), found, -np.inf)))
    return inputs[worst] if found[worst] > _SEPARATES else None


class Repeller(NamedTuple):
    """A state that an input, held, keeps and that nearby states leave, and the modulus of its largest multiplier."""

    input: np.ndarray
    multiplier: float


def repelling_state(g: Callable, low: np.ndarray, high: np.ndarray, start: np.ndarray, seed: int) -> Repeller | None:
    """A repelling state under an input of the box, held: no set that holds it contracts.

    Trajectories leave it, so that following them does not find it; Newton's method does, from `start` and from zero.
    """
    inputs = np.repeat(_probes(low, high, seed), 2, axis=0)
    starts = np.tile(np.stack([start, np.zeros_like(start)]), (_NUM_PROBES, 1))
    states, images, jacobians = map(np.asarray, _kept_states(g, starts, inputs))
    kept = np.linalg.norm(images - states, axis=1) < _KEPT * (1 + np.linalg.norm(states, axis=1))
    kept &= np.isfinite(jacobians).all(axis=(1, 2))
    if not kept.any():
        return None
    multipliers = np.abs(np.linalg.eigvals(jacobians[kept])).max(axis=1)
    worst = int(np.argmax(multipliers))
    if not multipliers[worst] > 1 + _SEPARATES:
        return None
    return Repeller(inputs[kept][worst], float(multipliers[worst]))


def _probes(low: np.ndarray, high: np.ndarray, seed: int) -> np.ndarray:
    """The middle of the box, two corners and random inputs."""
    share = np.random.default_rng(seed).uniform(size=(_NUM_PROBES, len(low)))
    share[:3] = np.array([0.5, 0.0, 1.0])[:, None]
    return low + share * (high - low)


@compiled
def _kept_states(g: Callable, starts: Any, inputs: Any) -> tuple[Array, Array, Array]:
    """Newton's method for g(x, u) = x: states, their images and derivatives."""

    def one(start: Array, input: Array) -> tuple[Array, Array, Array]:
        derivative = jax.jacfwd(lambda x: g(x, input))

        def step(_: Any, x: Array) -> Array:
            return x - jnp.linalg.solve(derivative(x) - jnp.eye(x.size), g(x, input) - x)

        x = jax.lax.fori_loop(0, _NUM_NEWTON, step, start)
        return x, g(x, input), derivative(x)

    return jax.vmap(one)(jnp.asarray(starts), jnp.asarray(inputs))


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
