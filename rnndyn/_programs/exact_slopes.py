"""Slopes of saturated units to all their digits, where JAX's derivatives lose them.

JAX differentiates tanh as 1 - tanh^2 and the logistic function as s (1 - s), from their values: beyond |z| = 9 (17) in
float32, and 19 (37) in float64, these are 0, and before they have lost their digits. Growth over many steps multiplies
such slopes, so there they are computed from z: sech^2 z = 4 e / (1 + e)^2 with e = exp(-2 |z|), down to the smallest
numbers.
"""

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from rnndyn._programs.plain_forms import with_forms
from rnndyn._programs.program import Code, Program


def with_exact_slopes(program: Program) -> Program:
    """The same map, whose derivatives keep the digits of saturated units at any depth; itself where it has none.

    Rules that the map brings along (`jax.custom_jvp`, `jax.custom_vjp`) stay.
    """
    code = program.code
    if code not in _known:
        _known[code] = _exact(code)
    exact = _known[code]
    return program if exact is None else Program(program.constants, exact, program.facts)


def _exact(code: Code) -> Code | None:
    closed = with_forms(jex.ClosedJaxpr(code.jaxpr, ()), _EXACT)
    if closed.jaxpr is code.jaxpr:
        return None
    num_constants = len(code.jaxpr.invars) - len(code.in_avals)
    return Code(closed, num_constants, code.in_tree, code.out_tree, code.ambient, ("exact slopes", code.key))


# Of each program the one with exact slopes, or None where it is that itself: no value holds its key.
_known: "weakref.WeakKeyDictionary[Code, Code | None]" = weakref.WeakKeyDictionary()


@jax.custom_jvp
def _tanh(z: Any) -> Any:
    return jnp.tanh(z)


@_tanh.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    (z,), (dz,) = primals, tangents
    return _tanh(z), dz * 4 * _bell(2 * z)


@jax.custom_jvp
def _logistic(z: Any) -> Any:
    return jax.lax.logistic(z)


@_logistic.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    (z,), (dz,) = primals, tangents
    return _logistic(z), dz * _bell(z)


def _bell(z: Any) -> Any:
    """e / (1 + e)^2, e = exp(-|z|)."""
    e = jnp.exp(-jnp.abs(z))
    return e / (1 + e) ** 2


def _real(exact: Callable, primitive: Any) -> Callable:
    """The form of one primitive; complex numbers, of which |z| says little, keep theirs."""

    def form(z: Any, **params: Any) -> list[Any]:
        is_real = jnp.issubdtype(jnp.result_type(z), jnp.floating)
        return [exact(z) if is_real else primitive.bind(z, **params)]

    return form


_EXACT = {
    jax.lax.tanh_p: _real(_tanh, jax.lax.tanh_p),
    jax.lax.logistic_p: _real(_logistic, jax.lax.logistic_p),
}
