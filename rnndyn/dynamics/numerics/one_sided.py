"""The derivative of a program in one direction, which exists also on its kinks."""

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnndyn._programs import Program
from rnndyn._programs.hoisting import ambient_context, evaluate

_LONGEST_UNROLL = 64
"""Rounds of a loop with kinks that are written out; the kinks of longer loops are not seen."""


class OneSide(NamedTuple):
    r"""A map at a point, seen in one direction.

    - `slope`: $F'(x; d) = \lim_{h \to 0+} (F(x + h d) - F(x)) / h$.
    - `limit`: $\lim_{h \to 0+} F(x + h d)$, which is not F(x) where F jumps.
    - `limit_error`: a bound on its error, from that of x and from rounding, to first order.
    - `differences`: of every switch in the program (the numbers that a maximum, a comparison, ... tells apart) by how
        much they differ.
    - `on_border`: which of them differ by less than their error.
    - `turns`: how fast the difference grows in the direction: its sign says to which side d leads.
    """

    slope: Float[Array, " N"]
    limit: Float[Array, " N"]
    limit_error: Float[Array, " N"]
    differences: Float[Array, " S"]
    on_border: Bool[Array, " S"]
    turns: Float[Array, " S"]


def one_side(
    program: Program, x: Float[Array, " N"], error: Float[Array, " N"], direction: Float[Array, " N"]
) -> OneSide:
    """A program at `x`, known up to `error`, in one direction.

    Every number of the program is followed with a running error bound and with its slope. Where two numbers are
    compared that differ by less than their errors, the slopes decide. The result is piecewise linear in the direction,
    and `jax.jacfwd` by the direction gives the linear piece. A derivative rule of the user's own (`custom_jvp`) counts
    where nothing inside has a kink; else what the function computes does.

    Reference: A. Griewank & A. Walther (2008), *Evaluating Derivatives*, chapter 14 (piecewise differentiation); N. J.
    Higham (2002), *Accuracy and Stability of Numerical Algorithms*, section 3.3 (running error analysis).
    """
    code, log = program.code, _Log([], ambient_context())
    constants = [jnp.asarray(c, aval.dtype) for c, aval in zip(program.constants, code.constant_avals)]
    (out,) = _run(code.jaxpr, code.inputs, [*constants, _Sided(x, error, direction)], log)
    if not isinstance(out, _Sided):
        out = _Sided(jnp.asarray(out), jnp.zeros_like(x), jnp.zeros_like(x))
    differences, on_border, turns = (
        jnp.concatenate([jnp.zeros(0, kind), *(jnp.ravel(s[i]) for s in log.switches)])
        for i, kind in enumerate((x.dtype, bool, x.dtype))
    )
    return OneSide(out.slope, out.value, out.error, differences, on_border, turns)


def may_have_kinks(program: Program) -> bool:
    """Whether anything in the equations can make a kink that `one_side` sees.

    A loop whose rounds are counted at run time (`while`, and so the solvers of differential equations) is not opened,
    and complex numbers are not followed.
    """
    return _can_be_seen(program.code.jaxpr) and _has_switches(program.code.jaxpr)


class _Sided(NamedTuple):
    """A number that depends on the state: its limit along the direction, a bound on its error, its slope."""

    value: Array
    error: Array
    slope: Array


class _Log(NamedTuple):
    switches: list[tuple[Array, Array, Array]]
    ambient: Any


def _run(jaxpr: Any, variables: Sequence[Any], values: Sequence[Any], log: _Log) -> list[Any]:
    env = dict(zip(variables, values))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, jex.Literal) else env[v]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _apply(eqn, [read(v) for v in eqn.invars], log)))
    return [read(v) for v in jaxpr.outvars]


def _apply(eqn: Any, operands: list[Any], log: _Log) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if not any(isinstance(a, _Sided) for a in operands):
        return _plain(eqn, log)(operands)
    if name in _CALLS and _has_switches(eqn):
        return _call(params[_CALLS[name]], operands, log)
    if name == "cond":
        return _cond(params["branches"], operands, log)
    if name == "scan" and _has_switches(eqn) and params["length"] <= _LONGEST_UNROLL:
        return _scan(params, operands, log)
    rule = _RULES.get(name)
    if rule is not None:
        return [rule(eqn, log, *operands)]
    return _smooth(eqn, operands, log)


# --- what has no kink: derivatives by JAX


def _plain(eqn: Any, log: _Log) -> Callable[[Sequence[Any]], list[Any]]:
    """The equation as a function of its operands."""
    variables = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
    single = types.SimpleNamespace(eqns=[eqn], outvars=eqn.outvars)

    def bound(operands: Sequence[Any]) -> list[Any]:
        values = [a for v, a in zip(eqn.invars, operands) if not isinstance(v, jex.Literal)]
        return evaluate(single, variables, values, log.ambient)

    return bound


def _smooth(eqn: Any, operands: list[Any], log: _Log) -> list[Any]:
    # A number that comes twice is one argument: x * x then has the derivative 2 x.
    slots: dict[Any, list[int]] = {}
    for i, (v, a) in enumerate(zip(eqn.invars, operands)):
        if isinstance(a, _Sided):
            slots.setdefault(v, []).append(i)
    items = [operands[places[0]] for places in slots.values()]
    bound = _plain(eqn, log)

    def function(*values: Array) -> list[Any]:
        filled = list(operands)
        for places, value in zip(slots.values(), values):
            for i in places:
                filled[i] = value
        return bound(filled)

    values = tuple(item.value for item in items)
    outs, slopes = jax.jvp(function, values, tuple(item.slope for item in items))
    errors = [jnp.zeros(jnp.shape(out)) for out in outs]
    for i, item in enumerate(items):
        tangents = tuple(item.error if j == i else jnp.zeros_like(other.value) for j, other in enumerate(items))
        moved = jax.jvp(function, values, tangents)[1]
        errors = [e + jnp.abs(m) if _is_real(out) else e for e, out, m in zip(errors, outs, moved)]
    if eqn.primitive.name in _PRODUCTS:
        errors = [_product_error(bound, operands)]
    results = []
    for out, slope, error in zip(outs, slopes, errors):
        if not _is_real(out):
            results.append(out)
            continue
        rounding = jnp.finfo(out.dtype).eps * jnp.abs(out)
        # What only moves numbers about, and signs, does not round.
        error = error if eqn.primitive.name in _EXACT else error + rounding
        results.append(_Sided(out, error.astype(out.dtype), slope))
    return results


def _product_error(bound: Callable, operands: list[Any]) -> Array:
    """Of a sum of products, whose terms may cancel: |a| e_b + e_a |b| + 4 eps |a| |b|."""
    (a, error_a), (b, error_b) = ((jnp.abs(_value(x)), _error(x)) for x in operands)
    eps = 4 * jnp.finfo(a.dtype).eps
    return bound([a, error_b])[0] + bound([error_a, b])[0] + eps * bound([a, b])[0]


def _value(x: Any) -> Array:
    return x.value if isinstance(x, _Sided) else jnp.asarray(x)


def _error(x: Any) -> Array:
    return x.error if isinstance(x, _Sided) else jnp.zeros_like(jnp.asarray(x))


def _slope(x: Any) -> Array:
    return x.slope if isinstance(x, _Sided) else jnp.zeros_like(jnp.asarray(x))


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)


# --- control flow


def _call(inner: Any, operands: list[Any], log: _Log) -> list[Any]:
    jaxpr = getattr(inner, "jaxpr", inner)
    variables = [*jaxpr.constvars, *jaxpr.invars]
    return _run(jaxpr, variables, [*getattr(inner, "consts", ()), *operands], log)


def _cond(branches: Sequence[Any], operands: list[Any], log: _Log) -> list[Any]:
    which, *values = operands
    cases = [_call(branch, values, log) for branch in branches]
    which = jnp.clip(jnp.asarray(which, jnp.int32), 0, len(cases) - 1)

    def choose(outs: tuple[Any, ...]) -> Any:
        pick = lambda part: jnp.stack([jnp.asarray(part(out)) for out in outs])[which]
        if not any(isinstance(out, _Sided) for out in outs):
            return pick(lambda out: out)
        return _Sided(pick(_value), pick(_error), pick(_slope))

    return [choose(outs) for outs in zip(*cases)]


def _scan(params: dict, operands: list[Any], log: _Log) -> list[Any]:
    num_consts, num_carry, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]
    rows = operands[num_consts + num_carry :]
    at = lambda x, i: _Sided(*(part[i] for part in x)) if isinstance(x, _Sided) else x[i]
    collected = []
    for i in reversed(range(length)) if params["reverse"] else range(length):
        outs = _call(params["jaxpr"], [*consts, *carry, *(at(x, i) for x in rows)], log)
        carry = outs[:num_carry]
        collected.append(outs[num_carry:])
    if params["reverse"]:
        collected.reverse()
    return [*carry, *(_stack(column) for column in zip(*collected))]


def _stack(items: Sequence[Any]) -> Any:
    stack = lambda part: jnp.stack([part(item) for item in items])
    if not any(isinstance(item, _Sided) for item in items):
        return stack(jnp.asarray)
    return _Sided(stack(_value), stack(_error), stack(_slope))


# --- what has kinks, or jumps


def _leans(log: _Log, difference: Array, error: Array, turn: Array, level: Array | float) -> Array:
    """The sign of a difference: where it is less than its error, that of its slope, or of `level` along the border."""
    on_border = jnp.abs(difference) <= error
    log.switches.append((difference, on_border, turn))
    return jnp.where(on_border, jnp.where(turn != 0, turn, level), difference)


def _larger(log: _Log, a: Any, b: Any, sign: int) -> _Sided:
    shape = jnp.broadcast_shapes(jnp.shape(_value(a)), jnp.shape(_value(b)))
    parts = [[jnp.broadcast_to(part(x), shape) for part in (_value, _error, _slope)] for x in (a, b)]
    (va, ea, sa), (vb, eb, sb) = parts
    # Along the border both have one slope: the piece is then that of turns that are not positive.
    takes_a = sign * _leans(log, va - vb, ea + eb, sa - sb, -1.0) >= 0
    # On the border the error of either may be that of the result.
    error = jnp.where(jnp.abs(va - vb) <= ea + eb, jnp.maximum(ea, eb), jnp.where(takes_a, ea, eb))
    return _Sided(jnp.where(takes_a, va, vb), error, jnp.where(takes_a, sa, sb))


def _negative(x: _Sided) -> _Sided:
    return _Sided(-x.value, x.error, -x.slope)


def _max(eqn: Any, log: _Log, a: Any, b: Any) -> Any:
    return _larger(log, a, b, 1)


def _min(eqn: Any, log: _Log, a: Any, b: Any) -> Any:
    return _larger(log, a, b, -1)


def _abs(eqn: Any, log: _Log, a: _Sided) -> Any:
    sign = jnp.where(_leans(log, a.value, a.error, a.slope, -1.0) >= 0, 1, -1).astype(a.value.dtype)
    return _Sided(sign * a.value, a.error, sign * a.slope)


def _clamp(eqn: Any, log: _Log, low: Any, x: Any, high: Any) -> Any:
    return _larger(log, _larger(log, x, low, 1), high, -1)


def _compare(eqn: Any, log: _Log, a: Any, b: Any) -> Any:
    name = eqn.primitive.name
    va, vb = _value(a), _value(b)
    plain = _plain(eqn, log)([va, vb])[0]
    if not _is_real(va) or eqn.invars[0] is eqn.invars[1]:
        return plain
    difference, error, turn = va - vb, _error(a) + _error(b), _slope(a) - _slope(b)
    if name in ("eq", "ne"):  # holds on the border only: every direction that crosses it leads off
        return jnp.where((jnp.abs(difference) <= error) & (turn != 0), name == "ne", plain)
    lean = _leans(log, difference, error, turn, difference)
    off = (jnp.abs(difference) <= error) & (turn != 0)
    return jnp.where(off, lean > 0 if name in ("gt", "ge") else lean < 0, plain)


def _sign(eqn: Any, log: _Log, a: _Sided) -> Any:
    lean = _leans(log, a.value, a.error, a.slope, a.value)
    zero = jnp.zeros_like(a.value)
    return _Sided(jnp.sign(lean), zero, zero)


def _steps(log: _Log, a: _Sided, offset: float) -> Array:
    """floor(a + offset) along the direction."""
    shifted = a.value + offset
    nearest = jnp.round(shifted)
    error = a.error + jnp.finfo(shifted.dtype).eps * jnp.abs(shifted)
    lean = _leans(log, shifted - nearest, error, a.slope, shifted - nearest)
    return jnp.where(lean >= 0, nearest, nearest - 1)


def _floor(eqn: Any, log: _Log, a: _Sided) -> Any:
    return _level(_steps(log, a, 0.0))


def _ceil(eqn: Any, log: _Log, a: _Sided) -> Any:
    return _level(-_steps(log, _negative(a), 0.0))


def _round(eqn: Any, log: _Log, a: _Sided) -> Any:
    return _level(_steps(log, a, 0.5))


def _level(value: Array) -> _Sided:
    return _Sided(value, jnp.zeros_like(value), jnp.zeros_like(value))


def _rem(eqn: Any, log: _Log, a: Any, b: Any) -> Any:
    """a - b trunc(a / b): it jumps where a / b is an integer other than 0."""
    va, vb, sa, sb = _value(a), _value(b), _slope(a), _slope(b)
    quotient = va / vb
    error = (_error(a) + jnp.abs(quotient) * _error(b)) / jnp.abs(vb) + jnp.finfo(va.dtype).eps * jnp.abs(quotient)
    ratio = _Sided(quotient, error, (sa - quotient * sb) / vb)
    up, down = _steps(log, ratio, 0.0), -_steps(log, _negative(ratio), 0.0)
    whole = jnp.where(jnp.abs(quotient) < 0.5, 0.0, jnp.where(quotient > 0, up, down)).astype(va.dtype)
    rounding = jnp.finfo(va.dtype).eps * (jnp.abs(va) + jnp.abs(vb * whole))
    return _Sided(va - vb * whole, _error(a) + jnp.abs(whole) * _error(b) + rounding, sa - whole * sb)


def _reduce(eqn: Any, log: _Log, a: _Sided) -> Any:
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
    return _Sided(sign * drop(top), drop(widest), sign * drop(best))


_RULES: dict[str, Callable] = {
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

_CALLS = types.MappingProxyType(
    {
        "jit": "jaxpr",
        "pjit": "jaxpr",
        "closed_call": "call_jaxpr",
        "core_call": "call_jaxpr",
        "remat": "jaxpr",
        "checkpoint": "jaxpr",
        "custom_jvp_call": "call_jaxpr",
        "custom_vjp_call": "call_jaxpr",
    }
)
_PRODUCTS = frozenset(["dot_general", "conv_general_dilated"])
_EXACT = frozenset(
    (
        "neg reshape slice squeeze expand_dims broadcast_in_dim transpose rev concatenate pad gather dynamic_slice "
        "dynamic_update_slice scatter split stack unstack tile select_n copy stop_gradient"
    ).split()
)


# --- what a program holds


def _equations(item: Any) -> Iterator[Any]:
    """All equations of a jaxpr, or within an equation, the nested ones included."""
    for eqn in getattr(item, "eqns", ()):
        yield eqn
        yield from _equations(eqn)
    for value in getattr(item, "params", {}).values():
        for nested in value if isinstance(value, tuple | list) else [value]:
            inner = getattr(nested, "jaxpr", nested)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _has_switches(item: Any) -> bool:
    return any(
        eqn.primitive.name in _RULES
        and eqn.primitive.name not in ("eq", "ne")
        and any(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in eqn.invars)
        for eqn in _equations(item)
    )


def _can_be_seen(jaxpr: Any) -> bool:
    return not any(
        eqn.primitive.name == "while" or any(jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in eqn.outvars)
        for eqn in _equations(jaxpr)
        if all(hasattr(v.aval, "dtype") for v in eqn.outvars)
    )
