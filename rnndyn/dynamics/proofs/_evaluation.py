"""Evaluation of a jaxpr on intervals with tangents."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._branch_rules import BRANCH_RULES, COMPARISONS, compare, select_n
from rnndyn.dynamics.proofs._duals import Dual, Trouble, as_double, dual, is_real, is_truth, zero_or_jump, zeros
from rnndyn.dynamics.proofs._primitives import branches, called, parameter, scan
from rnndyn.dynamics.proofs._reduction_rules import REDUCTION_RULES
from rnndyn.dynamics.proofs._smooth_rules import SMOOTH_RULES, square
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
        outs = evaluate_equation(eqn, [read(var) for var in eqn.invars], trouble)
        env.update(zip(eqn.outvars, outs))
    return [read(var) for var in jaxpr.outvars]


def evaluate_equation(eqn, operands: list[Any], trouble: Trouble) -> list[Any]:
    """Evaluate one equation of a jaxpr on `Dual`s and plain arrays; returns the same."""
    name = eqn.primitive.name
    body = called(eqn)
    if body is not None:
        return evaluate_jaxpr(body.jaxpr, body.consts, operands, trouble)
    if any(_has_dtype(var, jnp.complexfloating) for var in (*eqn.invars, *eqn.outvars)):
        raise NotImplementedError(
            f"f: `{name}` of complex numbers has no interval rule. Take real and imaginary parts."
        )
    if not any(isinstance(x, Dual) for x in operands) and is_exact(eqn):
        outs = eqn.primitive.bind(*operands, **eqn.params)
        return list(outs) if eqn.primitive.multiple_results else [outs]
    discrete = [x for x in operands if isinstance(x, Dual) and not is_real(x.value.lo)]
    if discrete and (name not in _DISCRETE or (name in _LOGIC and not all(is_truth(x.value.lo) for x in discrete))):
        raise NotImplementedError(f"f: `{name}` of an integer that depends on the state has no interval rule.")
    if name in SAME:
        return operands
    if name in MOVES:
        return move(eqn, operands)
    if name in COMPARISONS:
        same = len(eqn.invars) == 2 and eqn.invars[0] is eqn.invars[1]
        return [compare(name, dual(operands[0]), dual(operands[1]), same)]
    if name == "mul" and eqn.invars[0] is eqn.invars[1]:
        return [square(trouble, eqn, operands[0])]
    rule = _RULES.get(name)
    if rule is None:
        raise NotImplementedError(
            f"f: interval arithmetic has no rule for the operation `{name}`. Rewrite f without it, or use a search "
            "without proof (find_fixed_points)."
        )
    out = rule(trouble, eqn, *operands)
    return list(out) if isinstance(out, list) else [out]


# --- what moves numbers about: exact, and linear in the tangents

MOVES = frozenset(
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
        "unstack",  # from jax 0.12 on: h, c = x
        "tile",
    ]
)
# The identity on the real numbers.
SAME = frozenset(
    [
        "copy",
        "copy_p",
        "stop_gradient",
        "reduce_precision",
        "device_put",
        "sharding_constraint",
        "optimization_barrier",
        "name",
    ]
)
# Applied to numbers known exactly, these give numbers known exactly.
_EXACT = (
    MOVES
    | SAME
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
# On integers these work bit by bit, which is no monotone function of them.
_LOGIC = frozenset(["and", "or", "xor", "not"])
# These also take truth values and integers that depend on the state.
_DISCRETE = (
    MOVES
    | SAME
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


def only_moves(eqn) -> bool:
    """Whether an equation leaves numbers as they are and moves them about at the most."""
    return eqn.primitive.name in MOVES | SAME


def is_exact(eqn) -> bool:
    """Whether plain numbers give numbers known exactly: nothing is rounded, or only whole numbers come out."""
    return eqn.primitive.name in _EXACT or not any(_has_dtype(var, jnp.inexact) for var in eqn.outvars)


def _has_dtype(var, kind) -> bool:
    # Tokens of effects have no dtype.
    return jnp.issubdtype(getattr(var.aval, "dtype", jnp.bool_), kind)


def move(eqn, operands: list[Any]) -> list[Any]:
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


def _convert(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    """A change of dtype. Between floating-point formats it is the identity on the real numbers."""
    x = dual(operand)
    new_dtype = parameter(eqn, "new_dtype")
    to_real = jnp.issubdtype(new_dtype, jnp.floating)
    if is_real(x.value.lo):
        if not to_real:
            raise NotImplementedError("f: turns a number that depends on the state into an integer; no interval rule.")
        return x
    if to_real:
        # Whole numbers beyond 2^53 are rounded.
        ends = x.value.map(lambda end: end.astype(jnp.float64))
        value = ends if is_truth(x.value.lo) else ia.widen(ends.lo, ends.hi)
        return Dual(value, zero_or_jump(trouble, x.tangent, x.value.lo == x.value.hi))
    if jnp.issubdtype(new_dtype, jnp.bool_):
        lo, hi = x.value.lo, x.value.hi
        value = Interval((lo > 0) | (hi < 0), (lo != 0) | (hi != 0))
        return Dual(value, x.tangent)
    lo, hi = (end.astype(new_dtype) for end in (x.value.lo, x.value.hi))
    if not np.can_cast(x.value.lo.dtype, new_dtype):
        # What does not fit wraps around: then a single number is known still, and of several nothing is.
        limits = jnp.iinfo(new_dtype)
        fits = (x.value.lo >= limits.min) & (x.value.hi <= limits.max) | (x.value.lo == x.value.hi)
        lo, hi = jnp.where(fits, lo, limits.min), jnp.where(fits, hi, limits.max)
    return Dual(Interval(lo, hi), x.tangent)


# --- control flow


def _cond(trouble: Trouble, eqn: Any, which: Any, *operands: Any) -> list[Any]:
    results = [evaluate_jaxpr(*branch, operands, trouble) for branch in branches(eqn)]
    return [select_n(trouble, eqn, which, *cases) for cases in zip(*results)]


def _scan(trouble: Trouble, eqn: Any, *operands: Any) -> list[Any]:
    """A scan, unrolled: the box may decide differently in every round."""
    loop = scan(eqn)
    if loop.length > _LONGEST_UNROLL:
        raise NotImplementedError(
            f"f: a loop of {loop.length} rounds is longer than the {_LONGEST_UNROLL} unrolled here."
        )
    first = loop.num_consts + loop.num_carry
    consts, carry, sequences = operands[: loop.num_consts], list(operands[loop.num_consts : first]), operands[first:]
    collected = []
    for i in reversed(range(loop.length)) if loop.reverse else range(loop.length):
        row = [_map_array(lambda a, i=i: a[i], x) for x in sequences]
        outs = evaluate_jaxpr(*loop.body, [*consts, *carry, *row], trouble)
        carry = outs[: loop.num_carry]
        collected.append(outs[loop.num_carry :])
    if loop.reverse:
        collected.reverse()
    if not collected:  # no rounds: empty sequences, of the shapes that the equation promises
        empty = [jnp.zeros(var.aval.shape, var.aval.dtype) for var in eqn.outvars[loop.num_carry :]]
        return [*carry, *empty]
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


_RULES: dict[str, Callable] = (
    SMOOTH_RULES | BRANCH_RULES | REDUCTION_RULES | {"cond": _cond, "scan": _scan, "convert_element_type": _convert}
)
