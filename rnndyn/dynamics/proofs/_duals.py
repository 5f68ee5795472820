"""Intervals with tangents: what depends on the box while a jaxpr is evaluated."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point


class Dual(NamedTuple):
    """A quantity that depends on the box: its values, and its derivatives along the N coordinates.

    `tangent` has the shape of `value` behind a leading axis N; `None` stands for zero. What does not depend on the
    box and is known exactly stays a plain array.
    """

    value: Interval
    tangent: Interval | None


class Trouble:
    """What was met on the way: jumps of the function, and operations that left their domain."""

    def __init__(self) -> None:
        self.jumps: list[Array] = []
        self.undefined: list[Array] = []

    def any_jump(self) -> Bool[Array, ""]:
        return _any(self.jumps)

    def any_undefined(self) -> Bool[Array, ""]:
        return _any(self.undefined)


def dual(x: Any) -> Dual:
    return x if isinstance(x, Dual) else Dual(point(as_double(jnp.asarray(x))), None)


def as_double(x: Array) -> Array:
    return x.astype(jnp.float64) if is_real(x) else x


def is_real(x: Array | np.ndarray) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def is_truth(x: Array | np.ndarray) -> bool:
    return jnp.issubdtype(x.dtype, jnp.bool_)


def broadcast(left: Any, right: Any) -> tuple[Dual, Dual]:
    """Bring a scalar to the shape of the other operand, tangents included (jaxprs mix scalars in)."""
    x, y = dual(left), dual(right)
    shape = jnp.broadcast_shapes(x.value.shape, y.value.shape)

    def lift(d: Dual) -> Dual:
        if d.value.shape == shape:
            return d
        tangent = None if d.tangent is None else d.tangent.map(jax.vmap(lambda t: jnp.broadcast_to(t, shape)))
        return Dual(d.value.map(lambda v: jnp.broadcast_to(v, shape)), tangent)

    return lift(x), lift(y)


def tangent_or_zero(x: Dual, other: Dual) -> Interval:
    if x.tangent is not None:
        return x.tangent
    assert other.tangent is not None
    return zeros(other.tangent.shape[0], x.value)


def zeros(size: int, value: Interval) -> Interval:
    return point(jnp.zeros((size, *value.shape)))


def zero_or_jump(trouble: Trouble, tangent: Interval | None, constant: Array) -> Interval | None:
    if tangent is None:
        return None
    trouble.jumps.append(jnp.any(~constant))
    return ia.invalid_where(~constant, point(jnp.zeros_like(tangent.lo)))


def add_up(parts: list[Interval]) -> Interval | None:
    if not parts:
        return None
    out = parts[0]
    for part in parts[1:]:
        out = ia.add(out, part)
    return out


def predicate(sources: Sequence[Dual], outcome: Interval) -> Dual:
    """A truth value; its tangent, always zero, tells that it depends on the box."""
    size = next((d.tangent.shape[0] for d in sources if d.tangent is not None), None)
    return Dual(outcome, None if size is None else zeros(size, outcome))


def _any(flags: list[Array]) -> Array:
    return jnp.any(jnp.stack(flags)) if flags else jnp.zeros((), bool)
