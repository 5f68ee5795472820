"""A number along a direction: its limit, a bound on its error and its slope; and the log of the switches it met."""

import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import Array

from rnndyn._programs.hoisting import evaluate


class Sided(NamedTuple):
    """A number that depends on the state: its limit along the direction, a bound on its error, its slope."""

    value: Array
    error: Array
    slope: Array


class SwitchLog(NamedTuple):
    """What a run along a direction has met: the difference of the sides of each switch, whether it is on its border,
    and how the difference turns."""

    switches: list[tuple[Array, Array, Array]]
    ambient: Any


def plain_equation(eqn: Any, log: SwitchLog) -> Callable[[Sequence[Any]], list[Any]]:
    """The equation as a function of its operands."""
    variables = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
    single = types.SimpleNamespace(eqns=[eqn], outvars=eqn.outvars)

    def bound(operands: Sequence[Any]) -> list[Any]:
        values = [a for v, a in zip(eqn.invars, operands) if not isinstance(v, jex.Literal)]
        return evaluate(single, variables, values, log.ambient)

    return bound


def value_of(x: Any) -> Array:
    """The limit; of a number that does not depend on the state, itself."""
    return x.value if isinstance(x, Sided) else jnp.asarray(x)


def error_of(x: Any) -> Array:
    """The bound on the error; 0 of a number that does not depend on the state."""
    return x.error if isinstance(x, Sided) else jnp.zeros_like(jnp.asarray(x))


def slope_of(x: Any) -> Array:
    """The slope along the direction; 0 of a number that does not depend on the state."""
    return x.slope if isinstance(x, Sided) else jnp.zeros_like(jnp.asarray(x))


def is_real(x: Any) -> bool:
    """Whether a number is a float."""
    return jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)
