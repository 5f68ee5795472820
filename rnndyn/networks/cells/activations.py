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
# Slopes as functions of the pre-activation. A rectifier at 0 counts as off, as in JAX.
_DERIVATIVES: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda a: 1 - jnp.tanh(a) ** 2,
    "relu": lambda a: (a > 0).astype(a.dtype),
    "sigmoid": lambda a: jax.nn.sigmoid(a) * jax.nn.sigmoid(-a),
    "softplus": jax.nn.sigmoid,
    "identity": jnp.ones_like,
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


def activation_derivative(activation: Activation, a: Array) -> Array:
    """The slopes of an activation at the pre-activations `a`: a formula for a name, autodiff for a callable."""
    if callable(activation):
        return jax.jvp(activation, (a,), (jnp.ones_like(a),))[1]
    activation_function(activation)
    return _DERIVATIVES[activation](a)


def activation_range(activation: Activation) -> tuple[float, float] | None:
    """`(least, greatest)` value of a bounded activation given by name; `None` when unbounded or a callable."""
    return None if callable(activation) else _RANGES.get(activation)
