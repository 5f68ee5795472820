"""What operations with kinks or jumps make of a number along a direction: maxima, comparisons, rounding, remainders."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from rnndyn.dynamics.numerics._sided import Sided, SwitchLog, error_of, is_real, plain_equation, slope_of, value_of


def _leans(log: SwitchLog, difference: Array, error: Array, turn: Array, level: Array | float) -> Array:
    """The sign of a difference: where it is less than its error, that of its slope, or of `level` along the border."""
    on_border = jnp.abs(difference) <= error
    log.switches.append((difference, on_border, turn))
    return jnp.where(on_border, jnp.where(turn != 0, turn, level), difference)


def _larger(log: SwitchLog, a: Any, b: Any, sign: int) -> Sided:
    shape = jnp.broadcast_shapes(jnp.shape(value_of(a)), jnp.shape(value_of(b)))
    parts = [[jnp.broadcast_to(part(x), shape) for part in (value_of, error_of, slope_of)] for x in (a, b)]
    (va, ea, sa), (vb, eb, sb) = parts
    # Along the border both have one slope: the piece is then that of turns that are not positive.
    takes_a = sign * _leans(log, va - vb, ea + eb, sa - sb, -1.0) >= 0
    # On the border the error of either may be that of the result.
    error = jnp.where(jnp.abs(va - vb) <= ea + eb, jnp.maximum(ea, eb), jnp.where(takes_a, ea, eb))
    return Sided(jnp.where(takes_a, va, vb), error, jnp.where(takes_a, sa, sb))


def _negative(x: Sided) -> Sided:
    return Sided(-x.value, x.error, -x.slope)


def _max(eqn: Any, log: SwitchLog, a: Any, b: Any) -> Any:
    return _larger(log, a, b, 1)


def _min(eqn: Any, log: SwitchLog, a: Any, b: Any) -> Any:
    return _larger(log, a, b, -1)


def _abs(eqn: Any, log: SwitchLog, a: Sided) -> Any:
    sign = jnp.where(_leans(log, a.value, a.error, a.slope, -1.0) >= 0, 1, -1).astype(a.value.dtype)
    return Sided(sign * a.value, a.error, sign * a.slope)


def _clamp(eqn: Any, log: SwitchLog, low: Any, x: Any, high: Any) -> Any:
    return _larger(log, _larger(log, x, low, 1), high, -1)


def _compare(eqn: Any, log: SwitchLog, a: Any, b: Any) -> Any:
    name = eqn.primitive.name
    va, vb = value_of(a), value_of(b)
    plain = plain_equation(eqn, log)([va, vb])[0]
    if not is_real(va) or eqn.invars[0] is eqn.invars[1]:
        return plain
    difference, error, turn = va - vb, error_of(a) + error_of(b), slope_of(a) - slope_of(b)
    if name in ("eq", "ne"):  # holds on the border only: every direction that crosses it leads off
        return jnp.where((jnp.abs(difference) <= error) & (turn != 0), name == "ne", plain)
    lean = _leans(log, difference, error, turn, difference)
    off = (jnp.abs(difference) <= error) & (turn != 0)
    return jnp.where(off, lean > 0 if name in ("gt", "ge") else lean < 0, plain)


def _sign(eqn: Any, log: SwitchLog, a: Sided) -> Any:
    lean = _leans(log, a.value, a.error, a.slope, a.value)
    zero = jnp.zeros_like(a.value)
    return Sided(jnp.sign(lean), zero, zero)


def _steps(log: SwitchLog, a: Sided, offset: float) -> Array:
    """floor(a + offset) along the direction."""
    shifted = a.value + offset
    nearest = jnp.round(shifted)
    error = a.error + jnp.finfo(shifted.dtype).eps * jnp.abs(shifted)
    lean = _leans(log, shifted - nearest, error, a.slope, shifted - nearest)
    return jnp.where(lean >= 0, nearest, nearest - 1)


def _floor(eqn: Any, log: SwitchLog, a: Sided) -> Any:
    return _level(_steps(log, a, 0.0))


def _ceil(eqn: Any, log: SwitchLog, a: Sided) -> Any:
    return _level(-_steps(log, _negative(a), 0.0))


def _round(eqn: Any, log: SwitchLog, a: Sided) -> Any:
    return _level(_steps(log, a, 0.5))


def _level(value: Array) -> Sided:
    return Sided(value, jnp.zeros_like(value), jnp.zeros_like(value))


def _rem(eqn: Any, log: SwitchLog, a: Any, b: Any) -> Any:
    """a - b trunc(a / b): it jumps where a / b is an integer other than 0."""
    va, vb, sa, sb = value_of(a), value_of(b), slope_of(a), slope_of(b)
    quotient = va / vb
    error = (error_of(a) + jnp.abs(quotient) * error_of(b)) / jnp.abs(vb) + jnp.finfo(va.dtype).eps * jnp.abs(quotient)
    ratio = Sided(quotient, error, (sa - quotient * sb) / vb)
    up, down = _steps(log, ratio, 0.0), -_steps(log, _negative(ratio), 0.0)
    whole = jnp.where(jnp.abs(quotient) < 0.5, 0.0, jnp.where(quotient > 0, up, down)).astype(va.dtype)
    rounding = jnp.finfo(va.dtype).eps * (jnp.abs(va) + jnp.abs(vb * whole))
    return Sided(va - vb * whole, error_of(a) + jnp.abs(whole) * error_of(b) + rounding, sa - whole * sb)


def _reduce(eqn: Any, log: SwitchLog, a: Sided) -> Any:
    """The largest (or smallest) of several: of those that are it within their errors, the one that grows fastest."""
    axes, sign = tuple(eqn.params["axes"]), 1 if eqn.primitive.name == "reduce_max" else -1
    value, slope = sign * a.value, sign * a.slope
    top = jnp.max(value, axis=axes, keepdims=True)
    error = jnp.max(jnp.where(value == top, a.error, 0), axis=axes, keepdims=True)
    member = top - value <= a.error + error
    best = jnp.max(jnp.where(member, slope, -jnp.inf), axis=axes, keepdims=True)
    several = jnp.sum(member, axis=axes, keepdims=True) > 1
    # Which of them leads is the side.
    log.switches.append((value - top, member & several, jnp.where(slope >= best, 1.0, slope - best)))
    drop = lambda x: jnp.squeeze(x, axes)
    widest = jnp.max(jnp.where(member, a.error, 0), axis=axes, keepdims=True)
    return Sided(sign * drop(top), drop(widest), sign * drop(best))


RULES: dict[str, Callable] = {
    "max": _max,
    "min": _min,
    "abs": _abs,
    "clamp": _clamp,
    "sign": _sign,
    "floor": _floor,
    "ceil": _ceil,
    "round": _round,
    "rem": _rem,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
} | dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), _compare)
