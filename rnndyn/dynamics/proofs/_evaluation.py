"""Evaluation of a jaxpr on intervals with tangents."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from rnndyn.dynamics.proofs._branch_rules import BRANCH_RULES, COMPARISONS, compare, select_n
from rnndyn.dynamics.proofs._duals import Dual, Trouble, as_double, dual, is_real, zero_or_jump, zeros
from rnndyn.dynamics.proofs._smooth_rules import SMOOTH_RULES
from rnndyn.dynamics.proofs.interval_arithmetic import Interval

_LONGEST_UNROLL = 1000


def evaluate_jaxpr(jaxpr, consts: Sequence[Any], args: Sequence[Any], trouble: Trouble) -> list[Any]:
    """Evaluate a jaxpr on `Dual`s and plain arrays; returns the same."""
    env: dict[Any, Any] = {}

    def read(var):
        return jnp.asarray(var.val) if isinstance(var, jax.extend.core.Literal) else env[var]

    env.update(zip(jaxpr.constvars, consts))
    env.update(zip(jaxpr.invars, args))
    for eqn in jaxpr.eqns:
        outs = _evaluate(eqn, [read(var) for var in eqn.invars], trouble)
        env.update(zip(eqn.outvars, outs))
    return [read(var) for var in jaxpr.outvars]


def _evaluate(eqn, operands: list[Any], trouble: Trouble) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in params and name not in _LOOPS:
            inner = params[key]
            consts = getattr(inner, "consts", ())
            return evaluate_jaxpr(getattr(inner, "jaxpr", inner), consts, operands, trouble)
    if not any(isinstance(x, Dual) for x in operands) and _is_exact(eqn):
        outs = eqn.primitive.bind(*operands, **params)
        return list(outs) if eqn.primitive.multiple_results else [outs]
    if name not in _DISCRETE and any(isinstance(x, Dual) and not is_real(x.value.lo) for x in operands):
        raise NotImplementedError(f"f: `{name}` of an integer that depends on the state has no interval rule.")
    if name == "convert_element_type":
        return [_convert(trouble, params, operands[0])]
    if name in _SAME:
        return operands
    if name in _MOVES:
        return _move(eqn, operands)
    if name in COMPARISONS:
        same = len(eqn.invars) == 2 and eqn.invars[0] is eqn.invars[1]
        return [compare(name, dual(operands[0]), dual(operands[1]), same)]
    if name == "mul" and eqn.invars[0] is eqn.invars[1]:
        name, operands = "square", operands[:1]
    rule = _RULES.get(name)
    if rule is None:
        raise NotImplementedError(
            f"f: interval arithmetic has no rule for the operation `{name}`. Rewrite f without it, or use a search "
            "without proof (find_fixed_points)."
        )
    out = rule(trouble, params, *operands)
    return list(out) if isinstance(out, list) else [out]


# --- what moves numbers about: exact, and linear in the tangents

_MOVES = frozenset(
    [
        "reshape",
        "slice",
        "squeeze",
        "expand_dims",
        "broadcast_in_dim",
        "transpose",
        "rev",
        "concatenate",
        "pad",
        "gather",
        "dynamic_slice",
        "dynamic_update_slice",
        "scatter",
        "split",
        "stack",
    ]
)
# The identity on the real numbers.
_SAME = frozenset(["copy", "copy_p", "stop_gradient", "reduce_precision", "device_put", "sharding_constraint"])
# Applied to numbers known exactly, these give numbers known exactly.
_EXACT = (
    _MOVES
    | _SAME
    | frozenset(
        [
            "neg",
            "abs",
            "max",
            "min",
            "sign",
            "floor",
            "ceil",
            "round",
            "clamp",
            "select_n",
            "reduce_max",
            "reduce_min",
            "iota",
            "convert_element_type",
        ]
    )
)
# These also take truth values and integers that depend on the state.
_DISCRETE = (
    _MOVES
    | _SAME
    | frozenset(
        [
            "convert_element_type",
            "select_n",
            "cond",
            "scan",
            "lt",
            "le",
            "gt",
            "ge",
            "eq",
            "ne",
            "and",
            "or",
            "xor",
            "not",
            "reduce_and",
            "reduce_or",
        ]
    )
)


def _is_exact(eqn) -> bool:
    if eqn.primitive.name in _EXACT:
        return True
    return not any(jnp.issubdtype(var.aval.dtype, jnp.inexact) for var in eqn.outvars)


def _move(eqn, operands: list[Any]) -> list[Any]:
    primitive, params = eqn.primitive, eqn.params
    if primitive.name in ("gather", "dynamic_slice", "dynamic_update_slice", "scatter"):
        _check_indices(primitive.name, operands)

    def bind(*arrays):
        outs = primitive.bind(*arrays, **params)
        return tuple(outs) if primitive.multiple_results else (outs,)

    duals = [x if isinstance(x, Dual) else None for x in operands]
    plain = [as_double(x) if dual is None else None for x, dual in zip(operands, duals)]

    def ends(which: str):
        return bind(*[x if d is None else getattr(d.value, which) for x, d in zip(plain, duals)])

    lo = ends("lo")
    hi = lo if all(d is None or d.value.is_exact for d in duals) else ends("hi")
    values = [Interval(a, b) for a, b in zip(lo, hi)]
    tangents = _move_tangents(bind, plain, duals)
    return [Dual(v, t) for v, t in zip(values, tangents or [None] * len(values))]


def _move_tangents(bind, plain: list[Any], duals: list[Dual | None]) -> list[Interval] | None:
    known = [d.tangent for d in duals if d is not None and d.tangent is not None]
    if not known:
        return None
    size = known[0].shape[0]

    def ends(which: str):
        arrays, axes = [], []
        for x, d in zip(plain, duals):
            if d is not None and d.tangent is not None:
                arrays.append(getattr(d.tangent, which))
                axes.append(0)
            elif d is not None or is_real(x):
                arrays.append(jnp.zeros_like(x if d is None else d.value.lo, dtype=jnp.float64))
                axes.append(None)
            else:
                arrays.append(x)
                axes.append(None)
        return jax.vmap(bind, in_axes=tuple(axes), axis_size=size)(*arrays)

    lo = ends("lo")
    hi = lo if all(t.is_exact for t in known) else ends("hi")
    return [Interval(a, b) for a, b in zip(lo, hi)]


def _check_indices(name: str, operands: list[Any]) -> None:
    for x in operands[1:]:
        if isinstance(x, Dual) and not is_real(x.value.lo):
            raise NotImplementedError(f"f: `{name}` with an index that depends on the state has no interval rule.")


def _convert(trouble: Trouble, params: dict, operand: Any) -> Dual:
    """A change of dtype. Between floating-point formats it is the identity on the real numbers."""
    x = dual(operand)
    to_real = jnp.issubdtype(params["new_dtype"], jnp.floating)
    if is_real(x.value.lo):
        if not to_real:
            raise NotImplementedError("f: turns a number that depends on the state into an integer; no interval rule.")
        return x
    dtype = jnp.float64 if to_real else params["new_dtype"]
    value = x.value.map(lambda end: end.astype(dtype))
    tangent = zero_or_jump(trouble, x.tangent, value.lo == value.hi) if to_real else x.tangent
    return Dual(value, tangent)


# --- control flow


def _cond(trouble: Trouble, params: dict, which: Any, *operands: Any) -> list[Any]:
    results = [evaluate_jaxpr(b.jaxpr, b.consts, operands, trouble) for b in params["branches"]]
    return [select_n(trouble, {}, which, *cases) for cases in zip(*results)]


def _scan(trouble: Trouble, params: dict, *operands: Any) -> list[Any]:
    """A scan, unrolled: the box may decide differently in every round."""
    length, num_consts, num_carry = params["length"], params["num_consts"], params["num_carry"]
    if length > _LONGEST_UNROLL:
        raise NotImplementedError(f"f: a loop of {length} rounds is longer than the {_LONGEST_UNROLL} unrolled here.")
    consts, carry = list(operands[:num_consts]), list(operands[num_consts : num_consts + num_carry])
    sequences = operands[num_consts + num_carry :]
    body = params["jaxpr"]
    collected = []
    for i in reversed(range(length)) if params["reverse"] else range(length):
        row = [_map_array(lambda a, i=i: a[i], x) for x in sequences]
        outs = evaluate_jaxpr(body.jaxpr, body.consts, [*consts, *carry, *row], trouble)
        carry = outs[:num_carry]
        collected.append(outs[num_carry:])
    if params["reverse"]:
        collected.reverse()
    return [*carry, *(_stack(column) for column in zip(*collected))]


def _map_array(function: Callable, x: Any) -> Any:
    if not isinstance(x, Dual):
        return function(x)
    tangent = None if x.tangent is None else x.tangent.map(jax.vmap(function))
    return Dual(x.value.map(function), tangent)


def _stack(items: Sequence[Any]) -> Any:
    if not any(isinstance(item, Dual) for item in items):
        return jnp.stack(items)
    duals = [dual(item) for item in items]
    value = Interval(jnp.stack([d.value.lo for d in duals]), jnp.stack([d.value.hi for d in duals]))
    size = next((d.tangent.shape[0] for d in duals if d.tangent is not None), None)
    if size is None:
        return Dual(value, None)
    tangents = [zeros(size, d.value) if d.tangent is None else d.tangent for d in duals]
    return Dual(value, Interval(jnp.stack([t.lo for t in tangents], 1), jnp.stack([t.hi for t in tangents], 1)))


_LOOPS = frozenset(["scan", "while"])

_RULES: dict[str, Callable] = SMOOTH_RULES | BRANCH_RULES | {"cond": _cond, "scan": _scan}
