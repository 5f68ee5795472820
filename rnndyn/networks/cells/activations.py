"""Activations by name, with the range of each."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

Activation = str | Callable[[Array], Array]

_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "identity": jnp.asarray,
}
_RANGES: dict[str, tuple[float, float]] = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


def activation_function(activation: Activation) -> Callable[[Array], Array]:
    """The function of that name, or `activation` itself when it is a callable.

    **Raises:** `ValueError` for an unknown name.
    """
    if callable(activation):
        return activation
    if activation not in _FUNCTIONS:
        raise ValueError(f"activation: expected one of {', '.join(_FUNCTIONS)}, or a callable, got {activation!r}.")
    return _FUNCTIONS[activation]


def activation_range(activation: Activation) -> tuple[float, float] | None:
    """`(least, greatest)` value of a bounded activation given by name; `None` when unbounded or a callable."""
    return None if callable(activation) else _RANGES.get(activation)
