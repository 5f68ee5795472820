"""The Jacobian of a map as a matrix, from tangents that stay diagonal for as long as they are."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn._programs.hoisting import ambient_context, bind_equation
from rnndyn._programs.program import Program

_LOOPS = ("while", "scan", "cond")
"""What holds one of these is differentiated column by column: nothing stays diagonal in a loop, and a loop whose length
hangs on its tangent (an integrator that controls their error) has no linear part of its own."""


def value_and_jacobian(f: Callable[[Array], Array], x: Float[Array, " N"]) -> tuple[Array, Float[Array, "M N"]]:
    r"""$F(x)$, of M entries, and $DF(x)$.

    A network multiplies constant matrices with slopes of its units, $DF = \operatorname{diag}(d) W$. Tangents of the N
    unit vectors, pushed through it at once, make of that a product of two (N, N) matrices, though the first of them is
    diagonal: three factorisations' worth of operations. Here the linear part of F is walked through with the matrix of
    the tangents, which is kept as a diagonal until something mixes the entries: a matrix times a diagonal is then a
    scaling of its columns, O(N^2). What has no rule of its own below is done for all columns at once, as `jax.jacfwd`
    does it, so any map is served. A pure function; the dtype is that of F.
    """
    if _has_loops(f.code.jaxpr if isinstance(f, Program) else jax.make_jaxpr(f)(x).jaxpr):
        push = lambda v: jax.jvp(f, (x,), (v,))
        return jax.vmap(push, out_axes=(None, 1))(jnp.eye(x.size, dtype=x.dtype))
    image, push = jax.linearize(f, x)
    closed = jax.make_jaxpr(push)(x)
    (tangent,) = _walk(closed.jaxpr, closed.consts, [_Diagonal(jnp.ones_like(x), 0)], x.size, ambient_context())
    if not _is_tangent(tangent):
        return image, jnp.zeros((image.size, x.size), image.dtype)
    return image, _dense(tangent, x.size)


class _Diagonal(NamedTuple):
    """The tangent of a vector whose entry i moves with entry `first` + i of the state alone, at rate `entries[i]`."""

    entries: Array
    first: int


class _Columns(NamedTuple):
    """The tangent of an array along the state's entries `first`, `first` + 1, ..., which the last axis counts."""

    block: Array
    first: int


def _is_tangent(value: Any) -> bool:
    return isinstance(value, _Diagonal | _Columns)


def _has_loops(jaxpr: Any) -> bool:
    return any(
        eqn.primitive.name in _LOOPS or any(_has_loops(body) for body in _bodies(eqn.params)) for eqn in jaxpr.eqns
    )


def _bodies(params: dict) -> list[Any]:
    values = []
    for value in params.values():
        values += value if isinstance(value, tuple | list) else [value]
    return [getattr(v, "jaxpr", v) for v in values if hasattr(getattr(v, "jaxpr", v), "eqns")]


def _columns(tangent: Any) -> _Columns:
    if isinstance(tangent, _Columns):
        return tangent
    return _Columns(jnp.diag(tangent.entries), tangent.first)


def _dense(tangent: Any, size: int) -> Array:
    """The tangent along all entries of the state, the last axis."""
    block, first = _columns(tangent)
    missing = size - first - block.shape[-1]
    return block if block.shape[-1] == size else jnp.pad(block, [(0, 0)] * (block.ndim - 1) + [(first, missing)])


def _walk(jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any], size: int, ambient: Any) -> list[Any]:
    """The results of a linear program, as tangents where they are."""
    env = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, operands))
    read = lambda v: v.val if isinstance(v, jex.Literal) else env[v]
    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        if not any(_is_tangent(v) for v in values):
            outs = bind_equation(eqn, values, ambient)
        elif eqn.primitive.name in ("jit", "pjit"):
            outs = _walk(eqn.params["jaxpr"].jaxpr, eqn.params["jaxpr"].consts, values, size, ambient)
        else:
            rule = _RULES.get(eqn.primitive.name)
            out = None if rule is None else rule(eqn, *values)
            outs = _column_by_column(eqn, values, size, ambient) if out is None else out
        env.update(zip(eqn.outvars, outs))
    return [read(v) for v in jaxpr.outvars]


def _column_by_column(eqn: Any, values: Sequence[Any], size: int, ambient: Any) -> list[Any]:
    """An equation for every column at once."""
    moving = [_is_tangent(v) for v in values]
    shared = {(t.first, t.block.shape[-1]) for t in values if isinstance(t, _Columns)}
    # Of what is linear a column of zeros is one of zeros.
    narrow = eqn.primitive.name in _LINEAR and sum(moving) == 1 and len(shared) == 1
    first = next(iter(shared))[0] if narrow else 0
    stacks = [_columns(v).block if narrow else _dense(v, size) for v, m in zip(values, moving) if m]

    def column(*tangents: Any) -> list[Any]:
        given = iter(tangents)
        return list(bind_equation(eqn, [next(given) if m else v for v, m in zip(values, moving)], ambient))

    return [_Columns(out, first) for out in jax.vmap(column, in_axes=-1, out_axes=-1)(*stacks)]


_LINEAR = frozenset(
    ["dot_general", "slice", "split", "squeeze", "reshape", "broadcast_in_dim", "transpose", "reduce_sum"]
)
"""Linear in the one operand that moves."""


# Rules: `rule(eqn, *operands)`, of which at least one is a tangent, are the results, or `None` for the general way.


def _scaled(eqn: Any, a: Any, b: Any) -> list[Any] | None:
    """Products with, and quotients by, what does not move."""
    if _is_tangent(b):
        if _is_tangent(a) or eqn.primitive.name == "div":
            return None
        a, b = b, a
    b = jnp.asarray(b)
    if b.ndim not in (0, a[0].ndim - isinstance(a, _Columns)):
        return None
    act = (lambda x, y: x / y) if eqn.primitive.name == "div" else (lambda x, y: x * y)
    if isinstance(a, _Diagonal):
        return [_Diagonal(act(a.entries, b), a.first)]
    return [_Columns(act(a.block, b if b.ndim == 0 else b[..., None]), a.first)]


def _negated(eqn: Any, a: Any) -> list[Any]:
    return [a._replace(**{a._fields[0]: -a[0]})]


def _converted(eqn: Any, a: Any) -> list[Any]:
    return [a._replace(**{a._fields[0]: a[0].astype(eqn.params["new_dtype"])})]


def _summed(eqn: Any, a: Any, b: Any) -> list[Any] | None:
    if not (_is_tangent(a) and _is_tangent(b)):
        return None
    act = (lambda x, y: x - y) if eqn.primitive.name == "sub" else (lambda x, y: x + y)
    if type(a) is type(b) and a.first == b.first and a[0].shape == b[0].shape:
        return [type(a)(act(a[0], b[0]), a.first)]
    a, b = _columns(a), _columns(b)
    if a.block.shape[:-1] != b.block.shape[:-1]:
        return None
    first = min(a.first, b.first)
    width = max(t.first + t.block.shape[-1] for t in (a, b)) - first
    a, b = (_dense(_Columns(t.block, t.first - first), width) for t in (a, b))
    return [_Columns(act(a, b), first)]


def _contracted(eqn: Any, a: Any, b: Any) -> list[Any] | None:
    """A constant array times a diagonal: each of its columns scaled."""
    if not isinstance(a, _Diagonal):
        a, b, side = b, a, 0
    else:
        side = 1
    (contracting, batch) = eqn.params["dimension_numbers"]
    if not isinstance(a, _Diagonal) or _is_tangent(b) or batch[0]:
        return None
    (axis,) = contracting[side]
    return [_Columns(jnp.moveaxis(jnp.asarray(b), axis, -1) * a.entries, a.first)]


def _sliced(eqn: Any, a: Any) -> list[Any] | None:
    if not isinstance(a, _Diagonal) or (eqn.params["strides"] or (1,)) != (1,):
        return None
    (start,), (stop,) = eqn.params["start_indices"], eqn.params["limit_indices"]
    return [_Diagonal(a.entries[start:stop], a.first + start)]


def _split(eqn: Any, a: Any) -> list[Any] | None:
    if not isinstance(a, _Diagonal):
        return None
    stops = [int(sum(eqn.params["sizes"][: i + 1])) for i in range(len(eqn.params["sizes"]))]
    return [_Diagonal(a.entries[i:j], a.first + i) for i, j in zip([0, *stops], stops)]


def _total(eqn: Any, a: Any) -> list[Any] | None:
    """The sum of a vector that moves entry by entry."""
    return [_Columns(a.entries, a.first)] if isinstance(a, _Diagonal) else None


def _joined(eqn: Any, *parts: Any) -> list[Any] | None:
    """Parts of a vector side by side; a diagonal where they follow one another in the state as well."""
    if not all(_is_tangent(part) for part in parts):
        return None
    if all(isinstance(part, _Diagonal) for part in parts):
        ends = [part.first + part.entries.size for part in parts]
        if ends[:-1] == [part.first for part in parts[1:]]:
            return [_Diagonal(jnp.concatenate([part.entries for part in parts]), parts[0].first)]
    parts = tuple(_columns(part) for part in parts)
    first = min(part.first for part in parts)
    width = max(part.first + part.block.shape[-1] for part in parts) - first
    blocks = [_dense(_Columns(part.block, part.first - first), width) for part in parts]
    return [_Columns(jnp.concatenate(blocks, axis=eqn.params["dimension"]), first)]


def _selected(eqn: Any, which: Any, *cases: Any) -> list[Any] | None:
    """Of several tangents of one kind, entry by entry."""
    if _is_tangent(which) or not all(_is_tangent(case) for case in cases):
        return None
    kinds = {(type(case), case.first, case[0].shape) for case in cases}
    if len(kinds) != 1:
        return None
    which = jnp.asarray(which)
    if isinstance(cases[0], _Columns) and which.ndim:
        which = jnp.broadcast_to(which[..., None], cases[0].block.shape)
    return [cases[0]._replace(**{cases[0]._fields[0]: jax.lax.select_n(which, *(case[0] for case in cases))})]


_RULES = {
    "mul": _scaled,
    "div": _scaled,
    "neg": _negated,
    "copy": lambda eqn, a: [a],
    "convert_element_type": _converted,
    "add": _summed,
    "add_any": _summed,
    "sub": _summed,
    "dot_general": _contracted,
    "slice": _sliced,
    "split": _split,
    "reduce_sum": _total,
    "concatenate": _joined,
    "select_n": _selected,
}
