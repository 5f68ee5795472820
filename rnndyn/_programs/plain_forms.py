"""Operations of this package inside of a trace are written out in JAX's own primitives, which analyses know."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex

_FORMS: dict[Any, Callable] = {}


def register_plain_form(primitive: Any, form: Callable) -> None:
    """Let `form(*operands, **params)`, a function of JAX's own primitives, stand for `primitive` in analyses."""
    _FORMS[primitive] = form


def in_plain_form(closed: Any) -> Any:
    """The closed jaxpr with every registered operation written out, at any depth.

    A function that the user compiled and ran before an analysis keeps the trace of that run, so that the analysis
    cannot ask for another one.
    """
    return with_forms(closed, _FORMS)


def with_forms(closed: Any, forms: Mapping[Any, Callable]) -> Any:
    """The closed jaxpr with these functions of the operands and parameters in place of primitives, at any depth.

    The jaxpr itself where it holds none of them.
    """
    return _rewritten(closed, forms) if _holds_one(closed.jaxpr, forms) else closed


def _holds_one(jaxpr: Any, forms: Mapping[Any, Callable]) -> bool:
    return any(
        eqn.primitive in forms or any(_holds_one(_inner(body), forms) for body in _bodies(eqn.params))
        for eqn in jaxpr.eqns
    )


def _inner(body: Any) -> Any:
    return getattr(body, "jaxpr", body)


def _bodies(params: dict) -> list[Any]:
    values = []
    for value in params.values():
        values += value if isinstance(value, tuple | list) else [value]
    return [v for v in values if hasattr(_inner(v), "eqns")]


def _rewritten(closed: Any, forms: Mapping[Any, Callable]) -> Any:
    jaxpr = closed.jaxpr

    def run(*operands: Any) -> list[Any]:
        env = dict(zip(jaxpr.constvars, closed.consts)) | dict(zip(jaxpr.invars, operands))
        read = lambda v: v.val if isinstance(v, jex.Literal) else env[v]
        for eqn in jaxpr.eqns:
            env.update(zip(eqn.outvars, _bind(eqn, [read(v) for v in eqn.invars], forms)))
        return [read(v) for v in jaxpr.outvars]

    return jax.make_jaxpr(run)(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars))


def _bind(eqn: Any, operands: Sequence[Any], forms: Mapping[Any, Callable]) -> Sequence[Any]:
    form = forms.get(eqn.primitive)
    if form is not None:
        return form(*operands, **eqn.params)
    params = {name: _with_plain_bodies(value, forms) for name, value in eqn.params.items()}
    with eqn.ctx.manager:
        outs = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
    return outs if eqn.primitive.multiple_results else [outs]


def _with_plain_bodies(value: Any, forms: Mapping[Any, Callable]) -> Any:
    """A parameter of an equation: a body, a tuple of bodies, or anything else."""
    if isinstance(value, tuple | list):
        return type(value)(_with_plain_bodies(item, forms) for item in value) if _bodies({"": value}) else value
    if not hasattr(_inner(value), "eqns") or not _holds_one(_inner(value), forms):
        return value
    if hasattr(value, "consts"):
        return _rewritten(value, forms)
    # An open jaxpr has no constants of its own: what it needs comes in as operands.
    return _rewritten(jex.ClosedJaxpr(value, ()), forms).jaxpr
