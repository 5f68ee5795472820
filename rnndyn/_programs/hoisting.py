"""Constants of a trace become its inputs, so that programs that differ in their numbers only are one program."""

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.extend.core as jex
import jax.extend.core.primitives
import jax.numpy as jnp
import numpy as np

STRUCTURAL = (0.0, 0.5, 1.0, 2.0)
"""Absolute values of the numbers that stay in the program: they make the form of an equation (max(x, 0), 1 - x, x / 2)
more often than they are a parameter, and XLA simplifies by them."""


def hoist(closed: Any) -> tuple[Any, list[Any]]:
    """`(closed, numbers)`: the program with its constants as inputs before the others, and their values.

    Hoisted are the arrays that the trace captured, also those within `jit`, and floating-point literals other than
    `STRUCTURAL` ones. Calls of `jit` are inlined. Literals in the bodies of loops and branches are hoisted where those
    are made of JAX's own primitives only. Derivative rules stay as they are.
    """
    found: dict[int, Any] = {}
    for atom in _constants(closed):
        found.setdefault(id(atom.holder), atom)
    if not found:
        return closed, []
    atoms = list(found.values())
    structs = [jax.ShapeDtypeStruct(a.aval.shape, a.aval.dtype) for a in atoms]
    args = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in _inner(closed).invars]

    def program(constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        hoisted = {id(atom.holder): value for atom, value in zip(atoms, constants)}
        return _run(closed, inputs, hoisted)

    numbers = [_number(a) for a in atoms]
    again, more = hoist(jax.make_jaxpr(program)(structs, args))
    return again, [*more, *numbers]


def evaluate(jaxpr: Any, variables: Sequence[Any], values: Sequence[Any], ambient: Any) -> list[Any]:
    """Evaluate a jaxpr with the given values of its input variables, equation by equation.

    `ambient` is the context that is not put back, see `ambient_context`.
    """
    env = dict(zip(variables, values))
    for eqn in jaxpr.eqns:
        operands = [v.val if isinstance(v, jex.Literal) else env[v] for v in eqn.invars]
        env.update(zip(eqn.outvars, bind_equation(eqn, operands, ambient)))
    return [v.val if isinstance(v, jex.Literal) else env[v] for v in jaxpr.outvars]


def ambient_context() -> Any:
    """The context that equations are traced in here.

    An equation carries the context of its trace (mesh, compute type, metadata). A program may be evaluated under
    another mesh than it was traced, within `shard_map`: only what the user set inside of f is put back.
    """
    return jax.make_jaxpr(jnp.sin)(jax.ShapeDtypeStruct((), jnp.float32)).jaxpr.eqns[0].ctx


class _Constant:
    """A constant of a trace: `holder` is the object that stands for it in the jaxpr."""

    def __init__(self, holder: Any, aval: Any, value: Any) -> None:
        self.holder, self.aval, self.value = holder, aval, value


def _number(constant: _Constant) -> Any:
    """Its value; a NumPy array becomes one of our own, as JAX's would keep its memory of the user's array alive."""
    value, dtype = constant.value, constant.aval.dtype
    if isinstance(value, jax.core.Tracer):
        return value
    if isinstance(value, jax.Array):
        return value
    array = np.array(value)
    if jnp.issubdtype(dtype, jnp.inexact) and array.dtype.itemsize < dtype.itemsize:
        raise ValueError(
            f"JAX holds a {array.dtype} copy of a NumPy array that it reads, from an earlier trace, and takes that for "
            f"the {dtype} one. Keep the array in a closure, a global of the function's own file, an argument or a field"
        )
    return array.astype(dtype)


def _inner(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _constants(closed: Any) -> Iterator[_Constant]:
    inner = _inner(closed)
    for variable, value in zip(inner.constvars, getattr(closed, "consts", ())):
        yield _Constant(value, variable.aval, value)
    for eqn in inner.eqns:
        for v in eqn.invars:
            if isinstance(v, jex.Literal) and _is_number(v):
                yield _Constant(v, v.aval, v.val)
        for body in _opened(eqn):
            yield from _constants(body)
    for v in inner.outvars:
        if isinstance(v, jex.Literal) and _is_number(v):
            yield _Constant(v, v.aval, v.val)


def _is_number(literal: Any) -> bool:
    aval = literal.aval
    if not hasattr(aval, "dtype"):
        return False
    if aval.shape:
        return True
    if not jnp.issubdtype(aval.dtype, jnp.inexact):
        return False
    value = complex(literal.val)
    finite = np.isfinite(value.real) and np.isfinite(value.imag)
    return bool(finite) and not (value.imag == 0 and abs(value.real) in STRUCTURAL)


def _opened(eqn: Any) -> list[Any]:
    """The jaxprs of an equation that are traced anew when it is evaluated here."""
    name, params = eqn.primitive.name, eqn.params
    if name in ("jit", "pjit"):
        return [params["jaxpr"]] if _is_plain_jit(params) else []
    if name == "scan":
        bodies = [params["jaxpr"]]
    elif name == "while":
        bodies = [params["cond_jaxpr"], params["body_jaxpr"]]
    elif name == "cond" and len(params["branches"]) == 2:
        bodies = list(params["branches"])
    else:
        return []
    return bodies if all(_is_common(body) for body in bodies) else []


def _is_plain_jit(params: dict) -> bool:
    placed = [*params.get("in_shardings", ()), *params.get("out_shardings", ())]
    laid_out = [*params.get("in_layouts", ()), *params.get("out_layouts", ())]
    unspecified = all(type(s).__name__ == "UnspecifiedValue" for s in placed)
    return unspecified and all(x is None for x in laid_out) and not params.get("compiler_options_kvs")


_COMMON = frozenset(id(p) for p in vars(jax.extend.core.primitives).values() if isinstance(p, jex.Primitive))


def _is_common(jaxpr: Any) -> bool:
    """Whether a loop's body is made of JAX's own primitives: others may rely on how their loop is written."""
    for eqn in _inner(jaxpr).eqns:
        if id(eqn.primitive) not in _COMMON or eqn.primitive.name.startswith("custom_vjp"):
            return False
        if eqn.effects or not all(_is_common(body) for body in _nested(eqn)):
            return False
    return True


def _nested(eqn: Any) -> list[Any]:
    values = []
    for value in eqn.params.values():
        values += value if isinstance(value, tuple | list) else [value]
    return [v for v in values if hasattr(v, "eqns") or hasattr(v, "jaxpr")]


def _run(closed: Any, args: Sequence[Any], hoisted: dict[int, Any]) -> list[Any]:
    """Evaluate with the hoisted constants in place of what holds them, also within calls and loops."""
    inner = _inner(closed)
    constants = getattr(closed, "consts", ())
    env = dict(zip(inner.constvars, [hoisted.get(id(value), value) for value in constants]))
    env.update(zip(inner.invars, args))

    def read(v: Any) -> Any:
        return hoisted.get(id(v), v.val) if isinstance(v, jex.Literal) else env[v]

    for eqn in inner.eqns:
        operands = [read(v) for v in eqn.invars]
        name, opened = eqn.primitive.name, _opened(eqn)
        if opened and (name in ("jit", "pjit") or any(True for body in opened for _ in _constants(body))):
            outs = _REWRITTEN[name](eqn, operands, hoisted)
        else:
            outs = bind_equation(eqn, operands)
        env.update(zip(eqn.outvars, outs))
    return [read(v) for v in inner.outvars]


def bind_equation(eqn: Any, operands: Sequence[Any], ambient: Any = None) -> Sequence[Any]:
    """The results of one equation; `ambient` is the context that is not put back (see `ambient_context`)."""
    params = eqn.primitive.get_bind_params(eqn.params)
    if eqn.ctx is ambient:
        outs = eqn.primitive.bind(*operands, **params)
    else:
        with eqn.ctx.manager:
            outs = eqn.primitive.bind(*operands, **params)
    return outs if eqn.primitive.multiple_results else [outs]


def _inlined(eqn: Any, operands: Sequence[Any], hoisted: dict[int, Any]) -> list[Any]:
    return _run(eqn.params["jaxpr"], operands, hoisted)


def scan_sizes(eqn: Any) -> tuple[int, int]:
    """`(constants, carried)`: how many operands of a scan are constants, and how many are carried along.

    The rest are sequences: one more axis outside than in the body. (JAX 0.10 and 0.12 write the counts differently.)
    """
    body = _inner(eqn.params["jaxpr"])
    num_rows = sum(v.aval.shape != w.aval.shape for v, w in zip(eqn.invars, body.invars))
    num_carry = sum(v.aval.shape == w.aval.shape for v, w in zip(eqn.outvars, body.outvars))
    return len(eqn.invars) - num_rows - num_carry, num_carry


def _scan(eqn: Any, operands: Sequence[Any], hoisted: dict[int, Any]) -> list[Any]:
    params = eqn.params
    num_consts, num_carry = scan_sizes(eqn)
    consts, carry, rows = np.split(np.arange(len(operands)), [num_consts, num_consts + num_carry])
    fixed = [operands[i] for i in consts]

    def body(state: Any, row: Any) -> Any:
        outs = _run(params["jaxpr"], [*fixed, *state, *row], hoisted)
        return tuple(outs[:num_carry]), tuple(outs[num_carry:])

    state, collected = jax.lax.scan(
        body,
        tuple(operands[i] for i in carry),
        tuple(operands[i] for i in rows),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*state, *collected]


def _while(eqn: Any, operands: Sequence[Any], hoisted: dict[int, Any]) -> list[Any]:
    params = eqn.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    for_condition, for_body, state = operands[:first], operands[first:second], operands[second:]
    out = jax.lax.while_loop(
        lambda state: _run(params["cond_jaxpr"], [*for_condition, *state], hoisted)[0],
        lambda state: tuple(_run(params["body_jaxpr"], [*for_body, *state], hoisted)),
        tuple(state),
    )
    return list(out)


def _cond(eqn: Any, operands: Sequence[Any], hoisted: dict[int, Any]) -> list[Any]:
    def branch(jaxpr: Any) -> Callable:
        return lambda *values: tuple(_run(jaxpr, values, hoisted))

    which, *values = operands
    otherwise, then = (branch(jaxpr) for jaxpr in eqn.params["branches"])
    return list(jax.lax.cond(which != 0, then, otherwise, *values))


_REWRITTEN = types.MappingProxyType({"jit": _inlined, "pjit": _inlined, "scan": _scan, "while": _while, "cond": _cond})
