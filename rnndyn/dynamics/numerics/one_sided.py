"""The derivative of a program in one direction, which exists also on its kinks."""

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnndyn._programs import Program
from rnndyn._programs.hoisting import ambient_context
from rnndyn.dynamics.numerics._kink_rules import RULES
from rnndyn.dynamics.numerics._sided import Sided, SwitchLog, error_of, is_real, plain_equation, slope_of, value_of

_LONGEST_UNROLL = 64
"""Rounds of a loop with kinks that are written out; longer loops are not opened (see `hides_kinks`)."""


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
    code, log = program.code, SwitchLog([], ambient_context())
    constants = [jnp.asarray(c, aval.dtype) for c, aval in zip(program.constants, code.constant_avals)]
    (out,) = _run(code.jaxpr, code.inputs, [*constants, Sided(x, error, direction)], log)
    if not isinstance(out, Sided):
        out = Sided(jnp.asarray(out), jnp.zeros_like(x), jnp.zeros_like(x))
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


def hides_kinks(program: Program) -> bool:
    """Whether what can make a kink lies where `one_side` does not look: in long loops, beside complex numbers."""
    jaxpr = program.code.jaxpr
    if not _has_switches(jaxpr):
        return False
    long = any(
        eqn.primitive.name == "scan" and eqn.params["length"] > _LONGEST_UNROLL and _has_switches(eqn)
        for eqn in _equations(jaxpr)
    )
    return long or not _can_be_seen(jaxpr)


def _run(jaxpr: Any, variables: Sequence[Any], values: Sequence[Any], log: SwitchLog) -> list[Any]:
    env = dict(zip(variables, values))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, jex.Literal) else env[v]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _apply(eqn, [read(v) for v in eqn.invars], log)))
    return [read(v) for v in jaxpr.outvars]


def _apply(eqn: Any, operands: list[Any], log: SwitchLog) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if not any(isinstance(a, Sided) for a in operands):
        return plain_equation(eqn, log)(operands)
    if name in _CALLS and _has_switches(eqn):
        return _call(params[_CALLS[name]], operands, log)
    if name == "cond":
        return _cond(params["branches"], operands, log)
    if name == "scan" and _has_switches(eqn) and params["length"] <= _LONGEST_UNROLL:
        return _scan(params, operands, log)
    rule = RULES.get(name)
    if rule is not None:
        return [rule(eqn, log, *operands)]
    return _smooth(eqn, operands, log)


# --- what has no kink: derivatives by JAX


def _smooth(eqn: Any, operands: list[Any], log: SwitchLog) -> list[Any]:
    # A number that comes twice is one argument: x * x then has the derivative 2 x.
    slots: dict[Any, list[int]] = {}
    for i, (v, a) in enumerate(zip(eqn.invars, operands)):
        if isinstance(a, Sided):
            slots.setdefault(v, []).append(i)
    items = [operands[places[0]] for places in slots.values()]
    bound = plain_equation(eqn, log)

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
        errors = [e + jnp.abs(m) if is_real(out) else e for e, out, m in zip(errors, outs, moved)]
    if eqn.primitive.name in _PRODUCTS:
        errors = [_product_error(bound, operands)]
    results = []
    for out, slope, error in zip(outs, slopes, errors):
        if not is_real(out):
            results.append(out)
            continue
        rounding = jnp.finfo(out.dtype).eps * jnp.abs(out)
        # What only moves numbers about, and signs, does not round.
        error = error if eqn.primitive.name in _EXACT else error + rounding
        results.append(Sided(out, error.astype(out.dtype), slope))
    return results


def _product_error(bound: Callable, operands: list[Any]) -> Array:
    """Of a sum of products, whose terms may cancel: |a| e_b + e_a |b| + 4 eps |a| |b|."""
    (a, error_a), (b, error_b) = ((jnp.abs(value_of(x)), error_of(x)) for x in operands)
    eps = 4 * jnp.finfo(a.dtype).eps
    return bound([a, error_b])[0] + bound([error_a, b])[0] + eps * bound([a, b])[0]


# --- control flow


def _call(inner: Any, operands: list[Any], log: SwitchLog) -> list[Any]:
    jaxpr = getattr(inner, "jaxpr", inner)
    variables = [*jaxpr.constvars, *jaxpr.invars]
    return _run(jaxpr, variables, [*getattr(inner, "consts", ()), *operands], log)


def _cond(branches: Sequence[Any], operands: list[Any], log: SwitchLog) -> list[Any]:
    which, *values = operands
    cases = [_call(branch, values, log) for branch in branches]
    which = jnp.clip(jnp.asarray(which, jnp.int32), 0, len(cases) - 1)

    def choose(outs: tuple[Any, ...]) -> Any:
        pick = lambda part: jnp.stack([jnp.asarray(part(out)) for out in outs])[which]
        if not any(isinstance(out, Sided) for out in outs):
            return pick(lambda out: out)
        return Sided(pick(value_of), pick(error_of), pick(slope_of))

    return [choose(outs) for outs in zip(*cases)]


def _scan(params: dict, operands: list[Any], log: SwitchLog) -> list[Any]:
    num_consts, num_carry, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]
    rows = operands[num_consts + num_carry :]
    at = lambda x, i: Sided(*(part[i] for part in x)) if isinstance(x, Sided) else x[i]
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
    if not any(isinstance(item, Sided) for item in items):
        return stack(jnp.asarray)
    return Sided(stack(value_of), stack(error_of), stack(slope_of))


# --- the names of operations

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
        eqn.primitive.name in RULES
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
