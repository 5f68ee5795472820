"""When two jaxprs are the same program: a key made of their equations, without names, places or constants."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np


class Same:
    """Holds an object and equals what holds the very same object; keeps it alive, so that no other gets its id."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value


def structural_key(jaxpr: Any) -> tuple:
    """A hashable key of a jaxpr: equal keys, equal programs.

    Equations are compared by primitive, parameters, and the variables they connect. Jaxprs within parameters are
    compared likewise. The rules of `custom_jvp` and `custom_vjp` are new function objects in every trace; they are
    compared by the jaxpr of the derivative that they define. What cannot be looked into equals itself only.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    numbers: dict[Any, int] = {}

    def atom(v: Any) -> tuple:
        if isinstance(v, jex.Literal):
            return ("literal", v.aval, _value(v.val))
        return ("var", numbers[v])

    def bind(variables: Any) -> tuple:
        for v in variables:
            numbers[v] = len(numbers)
        return tuple(v.aval for v in variables)

    constants = bind(inner.constvars)
    inputs = bind(inner.invars)
    equations = []
    for eqn in inner.eqns:
        read = tuple(atom(v) for v in eqn.invars)
        params = _equation_params(eqn)
        equations.append((Same(eqn.primitive), read, params, bind(eqn.outvars), Same(eqn.ctx)))
    values = tuple(_value(c) for c in getattr(jaxpr, "consts", ()))
    return ("jaxpr", constants, values, inputs, tuple(equations), tuple(atom(v) for v in inner.outvars))


def _value(x: Any) -> Any:
    """The key of a parameter or a number."""
    if x is None or type(x) in (bool, int, str, bytes):
        return (type(x), x)
    if isinstance(x, float | complex):  # and JAX's typed numbers; tells 0.0 from -0.0
        return (type(x), repr(complex(x)))
    if isinstance(x, jax.core.Tracer):
        return Same(x)
    if isinstance(x, np.ndarray | np.generic):
        x = np.asarray(x)
        return Same(x) if x.dtype.hasobject else ("array", x.shape, x.dtype, x.tobytes())
    if isinstance(x, tuple | list):
        return (type(x), tuple(_value(item) for item in x))
    if isinstance(x, dict):
        return ("dict", frozenset((_value(k), _value(v)) for k, v in x.items()))
    if hasattr(x, "eqns") or hasattr(x, "jaxpr"):
        return structural_key(x)
    if callable(x) or type(x).__eq__ is object.__eq__:
        return Same(x)
    try:
        hash(x)
    except TypeError:
        return Same(x)
    return (type(x), x, repr(x))  # many kinds of == take 1, 1.0 and True for equal


def _equation_params(eqn: Any) -> Any:
    params = dict(eqn.params)
    rules = _RULES.get(eqn.primitive.name)
    if rules is None:
        return _value(params)
    primal = _value({name: value for name, value in params.items() if name not in rules})
    return (primal, _derivative_key(eqn, primal, rules))


_RULES = {
    "custom_jvp_call": ("jvp_jaxpr_fun",),
    "custom_vjp_call": ("fwd_jaxpr_thunk", "bwd", "out_trees"),
}
_open = threading.local()


_DEPTH = 2
"""A rule often calls its own function (exp' = exp). It is looked into this often, that is for derivatives up to this
order and one more; further in, a function of the same equations from the same line of source is taken as the same."""


@contextlib.contextmanager
def _within(primal: Any) -> Iterator[int]:
    """How often the derivative of a function of these equations is being described already."""
    stack = _open.__dict__.setdefault("stack", [])
    depth = stack.count(primal) if len(stack) < 12 else 12
    stack.append(primal)
    try:
        yield depth
    finally:
        stack.pop()


def _derivative_key(eqn: Any, primal: Any, rules: tuple[str, ...]) -> Any:
    identity = tuple(Same(eqn.params[name]) for name in rules if name in eqn.params)
    avals = [v.aval for v in eqn.invars]
    # With symbolic zeros a rule sees which tangents are zero: one jaxpr does not describe it.
    if eqn.params.get("symbolic_zeros"):
        return identity

    def primal_function(*args: Any) -> Any:
        out = eqn.primitive.bind(*args, **eqn.primitive.get_bind_params(eqn.params))
        return tuple(out) if eqn.primitive.multiple_results else (out,)

    def forward(primals: Any, tangents: Any) -> Any:
        return jax.jvp(primal_function, primals, _tangents(avals, tangents))

    def reverse(primals: Any, cotangents: Any) -> Any:
        out, pull = jax.vjp(primal_function, *primals)
        pulled = pull(_tangents([v.aval for v in eqn.outvars], cotangents))
        return out, [p for p in pulled if p.dtype != jax.dtypes.float0]

    body = eqn.params["call_jaxpr"]
    source = getattr(getattr(getattr(body, "jaxpr", body), "debug_info", None), "func_src_info", None)
    with _within(primal) as depth:
        if depth >= _DEPTH:
            return ("recursion", source) if source and depth < 12 else identity
        try:
            if eqn.primitive.name == "custom_jvp_call":
                closed = jax.make_jaxpr(forward)(_structs(avals), _structs(avals))
            else:
                closed = jax.make_jaxpr(reverse)(_structs(avals), _structs([v.aval for v in eqn.outvars]))
        except Exception as error:  # the rule of what cannot be differentiated: it raises again for whoever tries
            return ("raises", type(error), str(error), source)
        if any(isinstance(c, jax.core.Tracer) for c in closed.consts):
            return identity
        return structural_key(closed)


def _structs(avals: Any) -> tuple:
    return tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals)


def _tangents(avals: Any, values: Any) -> tuple:
    """Tangents of the right kind: integers have none, which JAX writes as float0."""
    return tuple(
        value if jnp.issubdtype(a.dtype, jnp.inexact) else np.zeros(a.shape, jax.dtypes.float0)
        for a, value in zip(avals, values)
    )
