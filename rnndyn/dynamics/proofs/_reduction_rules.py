"""Interval rules of products, cumulative operations and additions into an array."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._branch_rules import max_over
from rnndyn.dynamics.proofs._duals import Dual, Trouble, dual, zeros
from rnndyn.dynamics.proofs._primitives import parameter
from rnndyn.dynamics.proofs._smooth_rules import SMOOTH_RULES, add, mul, neg, sub
from rnndyn.dynamics.proofs.interval_arithmetic import Interval


def _reduce_prod(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    """A product over axes, by halves."""
    x = dual(operand)
    for axis in sorted(parameter(eqn, "axes"), reverse=True):
        x = _product(trouble, eqn, x, axis)
    return x


def _product(trouble: Trouble, eqn: Any, x: Dual, axis: int) -> Dual:
    if x.value.shape[axis] == 0:
        shape = x.value.shape[:axis] + x.value.shape[axis + 1 :]
        return dual(jnp.ones(shape))
    while (length := x.value.shape[axis]) > 1:
        half = length // 2
        left, right = _part(x, axis, 0, half), _part(x, axis, half, 2 * half)
        product = mul(trouble, eqn, left, right)
        x = _join(product, _part(x, axis, 2 * half, length), axis) if length % 2 else product
    return _moved(x, lambda a: jax.lax.squeeze(a, [axis]))


def _reduce_sum(x: Dual, axis: int) -> Dual:
    tangent = None if x.tangent is None else ia.total(x.tangent, (axis + 1,))
    return Dual(ia.total(x.value, (axis,)), tangent)


def _cumulative(reduce: Callable, neutral: float) -> Callable:
    """A rule from the reduction over one axis: entry i reduces the entries up to i, the others made neutral."""

    def rule(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
        x, axis = dual(operand), parameter(eqn, "axis")
        length = x.value.shape[axis]
        shape = [1] * (len(x.value.shape) + 1)
        shape[axis] = shape[axis + 1] = length
        first, second = jnp.arange(length)[:, None], jnp.arange(length)[None, :]
        reached = jnp.reshape(second >= first if parameter(eqn, "reverse") else second <= first, shape)

        def spread(array, fill):
            return jnp.where(reached, jnp.expand_dims(array, axis), fill)

        value = x.value.map(lambda a: spread(a, neutral))
        tangent = None if x.tangent is None else x.tangent.map(jax.vmap(lambda a: spread(a, 0.0)))
        return reduce(trouble, eqn, Dual(value, tangent), axis + 1)

    return rule


def _log_sum_exp(trouble: Trouble, eqn: Any, x: Dual, axis: int) -> Dual:
    """log sum exp(x - c) + c for any number c: the middle of the largest."""
    largest = max_over(Dual(x.value, None), (axis,)).value
    middle = jax.lax.stop_gradient(jnp.nan_to_num(ia.midpoint(largest), posinf=0.0, neginf=0.0))
    shifted = sub(trouble, eqn, x, jnp.expand_dims(middle, axis))
    total = _reduce_sum(SMOOTH_RULES["exp"](trouble, eqn, shifted), axis)
    return add(trouble, eqn, SMOOTH_RULES["log"](trouble, eqn, total), middle)


def _largest(trouble: Trouble, eqn: Any, x: Dual, axis: int) -> Dual:
    return max_over(x, (axis,))


def _cummin(trouble: Trouble, eqn: Any, operand: Any) -> Dual:
    return neg(trouble, eqn, REDUCTION_RULES["cummax"](trouble, eqn, neg(trouble, eqn, operand)))


def _scatter_add(trouble: Trouble, eqn: Any, array: Any, indices: Any, updates: Any) -> Dual:
    """Additions into an array at fixed places, in whatever order: a sum of all that may meet in one place."""
    if isinstance(indices, Dual):
        raise NotImplementedError("f: `scatter-add` with an index that depends on the state has no interval rule.")
    x, y = dual(array), dual(updates)
    is_unique = parameter(eqn, "unique_indices")
    count = 2 if is_unique else 1 + y.value.lo.size

    def bind(a, b):
        return jax.lax.scatter_add(
            a,
            indices,
            b,
            parameter(eqn, "dimension_numbers"),
            indices_are_sorted=parameter(eqn, "indices_are_sorted"),
            unique_indices=is_unique,
            mode=parameter(eqn, "mode"),
        )

    def scatter(a: Interval, b: Interval) -> Interval:
        size = bind(ia.magnitude(a), ia.magnitude(b))
        return ia.sum_of(bind(a.lo, b.lo), bind(a.hi, b.hi), size, count)

    value = scatter(x.value, y.value)
    known = [d.tangent for d in (x, y) if d.tangent is not None]
    if not known:
        return Dual(value, None)
    tangents = [zeros(known[0].shape[0], d.value) if d.tangent is None else d.tangent for d in (x, y)]
    (a, b) = (Interval(t.lo, t.hi) for t in tangents)
    return Dual(value, jax.vmap(scatter)(a, b))


def _part(x: Dual, axis: int, start: int, stop: int) -> Dual:
    return _moved(x, lambda a: jax.lax.slice_in_dim(a, start, stop, axis=axis))


def _join(x: Dual, y: Dual, axis: int) -> Dual:
    def join(a: Interval, b: Interval, along: int) -> Interval:
        return Interval(jnp.concatenate([a.lo, b.lo], along), jnp.concatenate([a.hi, b.hi], along))

    tangent = None if x.tangent is None or y.tangent is None else join(x.tangent, y.tangent, axis + 1)
    return Dual(join(x.value, y.value, axis), tangent)


def _moved(x: Dual, function: Callable) -> Dual:
    return Dual(x.value.map(function), None if x.tangent is None else x.tangent.map(jax.vmap(function)))


REDUCTION_RULES: dict[str, Callable] = {
    "reduce_prod": _reduce_prod,
    "cumsum": _cumulative(lambda trouble, eqn, x, axis: _reduce_sum(x, axis), 0.0),
    "cumprod": _cumulative(_product, 1.0),
    "cummax": _cumulative(_largest, -jnp.inf),
    "cummin": _cummin,
    "cumlogsumexp": _cumulative(_log_sum_exp, -jnp.inf),
    "scatter-add": _scatter_add,
}
