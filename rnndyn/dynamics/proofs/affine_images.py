"""The image of a set under a function, as an affine form, by evaluation of its jaxpr."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp

from rnndyn.dynamics.proofs import _secants
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._branch_rules import BRANCH_RULES
from rnndyn.dynamics.proofs._duals import Dual, Trouble, as_double, is_real
from rnndyn.dynamics.proofs._evaluation import MOVES, SAME, evaluate_equation, is_exact, move
from rnndyn.dynamics.proofs._primitives import called, parameter
from rnndyn.dynamics.proofs._smooth_rules import SMOOTH_RULES
from rnndyn.dynamics.proofs.affine_forms import (
    AffineForm,
    add,
    as_interval,
    bilinear,
    broadcast_to,
    deviation,
    from_interval,
    linear_image,
    neg,
    rounded,
    sum_error,
)
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, midpoint, point, radius_about


def affine_image(f: Callable, x: AffineForm) -> AffineForm:
    """Enclose the image of a set under a function: `f(x)` for every x in the set, as a form in the same y.

    For `x = center + sum_k y_k generators[k]` (a spread of zero) the result holds f(x) in
    `center' + sum_k y_k generators'[k] ± spread'` with the same numbers y. Linear operations keep all generators;
    tanh and the logistic function follow their secants; products keep their linear part and bound the rest; other
    functions of one number at a time follow the mean value form; everything else is bounded by a box.

    **Arguments:**

    - `f`: a function of one float64 array, made of the operations that `docs/certificates.md` lists.
    - `x`: the set; its generators have a leading axis K.

    **Returns:** an `AffineForm` of the shape of `f(x)`; NaN where nothing is known (f may jump or leave its domain).

    **Raises:** `NotImplementedError` naming the operation when f uses one without an interval rule. Needs float64;
    may be transformed by `jit` and `vmap`.
    """
    closed = jax.make_jaxpr(f)(jax.ShapeDtypeStruct(x.shape, jnp.float64))
    outputs = _evaluate_jaxpr(closed.jaxpr, closed.consts, [x])
    if len(outputs) != 1:
        raise ValueError(f"f: expected a function that returns one array, got {len(outputs)}.")
    return _form(outputs[0])


def _evaluate_jaxpr(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Evaluate a jaxpr on forms, plain arrays, and intervals of truth values and integers (`Dual`).

    Each tanh and logistic function is a long program. So they wait until nothing else can be evaluated, and all that
    wait, such as the gates of a cell, become one.
    """
    values: dict[Any, Any] = {}
    equations, outputs = _flattened(jaxpr, consts, args, values)
    while equations:
        waiting, curves = [], []
        for equation in equations:
            eqn, sources, targets = equation
            if not all(isinstance(source, _Known) or source in values for source in sources):
                waiting.append(equation)
                continue
            operands = [_look_up(source, values) for source in sources]
            if eqn.primitive.name in _CURVES and isinstance(operands[0], AffineForm):
                curves.append((eqn.primitive.name, operands[0], targets[0]))
            else:
                values.update(zip(targets, _evaluate(eqn, operands)))
        if curves:
            names, forms, targets = zip(*curves)
            values.update(zip(targets, _secants.curves(names, forms)))
        equations = waiting
    return [_look_up(output, values) for output in outputs]


class _Known(NamedTuple):
    """A number that stands in the program itself."""

    value: Any


def _look_up(source: Any, values: dict[Any, Any]) -> Any:
    return jnp.asarray(source.value) if isinstance(source, _Known) else values[source]


def _flattened(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], values: dict[Any, Any]
) -> tuple[list[tuple[Any, list[Any], list[Any]]], list[Any]]:
    """The equations of a jaxpr and of all that it calls, with a name for each quantity, and the names of the outputs.

    What is known goes into `values`. A name is a number: a body that is called twice has different quantities.
    """
    equations: list[tuple[Any, list[Any], list[Any]]] = []
    count = itertools.count()

    def name(value: Any) -> int:
        number = next(count)
        values[number] = value
        return number

    def walk(jaxpr: Any, consts: Sequence[Any], sources: list[Any]) -> list[Any]:
        names: dict[Any, Any] = dict(zip(jaxpr.constvars, map(name, consts))) | dict(zip(jaxpr.invars, sources))

        def read(var: Any) -> Any:
            return _Known(var.val) if isinstance(var, jax.extend.core.Literal) else names[var]

        for eqn in jaxpr.eqns:
            given = [read(var) for var in eqn.invars]
            body = called(eqn)
            if body is None:
                found: list[Any] = [next(count) for _ in eqn.outvars]
                equations.append((eqn, given, found))
            else:
                found = walk(body.jaxpr, body.consts, given)
            names.update(zip(eqn.outvars, found))
        return [read(var) for var in jaxpr.outvars]

    outputs = walk(jaxpr, consts, list(map(name, args)))
    return equations, outputs


def _evaluate(eqn: Any, operands: list[Any]) -> list[Any]:
    name = eqn.primitive.name
    if not any(isinstance(x, AffineForm | Dual) for x in operands) and is_exact(eqn):
        outs = eqn.primitive.bind(*operands, **eqn.params)
        return list(outs) if eqn.primitive.multiple_results else [outs]
    # Integers and truth values that depend on the state are left to intervals, and so is all that no rule is here for.
    plain = not any(isinstance(x, Dual) or (not isinstance(x, AffineForm) and not is_real(x)) for x in operands)
    if name in SAME:
        return operands
    if name in MOVES and not any(isinstance(x, Dual) for x in operands):
        return _move(eqn, operands)
    if name == "select_n" and not isinstance(operands[0], AffineForm | Dual):
        return [_select(eqn, *operands)]
    if name == "convert_element_type" and isinstance(operands[0], AffineForm) and is_real(eqn.outvars[0].aval):
        return operands
    if plain and name in _LINEAR:
        return [_LINEAR[name](eqn, *operands)]
    if plain and name in _ELEMENTWISE:
        return [_mean_value(eqn, operands)]
    return _by_intervals(eqn, operands)


def _form(x: Any) -> AffineForm:
    if isinstance(x, AffineForm):
        return x
    if isinstance(x, Dual):
        return from_interval(x.value.map(as_double))
    center = as_double(jnp.asarray(x))
    return AffineForm(center, None, jnp.zeros_like(center))


def _plain_or_form(x: Any) -> Any:
    return x if isinstance(x, AffineForm) else as_double(jnp.asarray(x))


# --- operations that are linear in every operand


def _move(eqn: Any, operands: list[Any]) -> list[Any]:
    """Numbers moved about: centers, generators and spreads alike."""
    forms = [x if isinstance(x, AffineForm) else None for x in operands]

    def dual(x: Any, form: AffineForm | None) -> Any:
        if form is None:
            return x
        return Dual(point(form.center), None if form.generators is None else point(form.generators))

    def spread(x: Any, form: AffineForm | None) -> Any:
        if form is not None:
            return Dual(point(form.spread), None)
        return jnp.zeros_like(x) if is_real(x) else x

    moved = move(eqn, [dual(x, form) for x, form in zip(operands, forms)])
    spreads = move(eqn, [spread(x, form) for x, form in zip(operands, forms)])
    return [
        AffineForm(m.value.lo, None if m.tangent is None else m.tangent.lo, s.value.lo) for m, s in zip(moved, spreads)
    ]


def _select(eqn: Any, which: Any, *cases: Any) -> AffineForm:
    """A choice that does not depend on the state."""
    forms = [_form(x) for x in cases]
    known = [form.generators for form in forms if form.generators is not None]
    generators = None
    if known:
        zero = jnp.zeros((known[0].shape[0], *forms[0].shape))
        columns = [zero if form.generators is None else form.generators for form in forms]
        generators = jax.vmap(lambda *rows: jax.lax.select_n(which, *rows))(*columns)
    center = jax.lax.select_n(which, *(form.center for form in forms))
    return AffineForm(center, generators, jax.lax.select_n(which, *(form.spread for form in forms)))


def _add(eqn: Any, x: Any, y: Any) -> AffineForm:
    return add(_form(x), _form(y))


def _sub(eqn: Any, x: Any, y: Any) -> AffineForm:
    return add(_form(x), neg(_form(y)))


def _neg(eqn: Any, x: Any) -> AffineForm:
    return neg(_form(x))


def _mul(eqn: Any, x: Any, y: Any) -> AffineForm:
    return bilinear(jnp.multiply, 1, _plain_or_form(x), _plain_or_form(y))


def _dot_general(eqn: Any, x: Any, y: Any) -> AffineForm:
    dimensions = parameter(eqn, "dimension_numbers")
    count = 1
    for axis in dimensions[0][0]:
        count *= x.shape[axis]

    def contract(a: Any, b: Any) -> Any:
        return jax.lax.dot_general(a, b, dimensions, precision=jax.lax.Precision.HIGHEST)

    return bilinear(contract, count, _plain_or_form(x), _plain_or_form(y))


def _reduce_sum(eqn: Any, operand: Any) -> AffineForm:
    x = _form(operand)
    axes = tuple(parameter(eqn, "axes"))
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    error = sum_error(count)
    generators = None if x.generators is None else jnp.sum(x.generators, tuple(axis + 1 for axis in axes))
    sizes = jnp.abs(x.center) + deviation(x)
    spread = jnp.sum(x.spread + 2 * error * sizes, axes) * (1 + 2 * error)
    return rounded(jnp.sum(x.center, axes), generators, spread, UNIT_ROUNDOFF)


# --- operations on one number at a time


def _curve(eqn: Any, x: Any) -> AffineForm:
    return _secants.curves((eqn.primitive.name,), (_form(x),))[0]


def _mean_value(eqn: Any, operands: list[Any]) -> AffineForm:
    """`f(x) = f(center) + [f'(box)] (x - center)`, the derivatives from the interval rule of the operation."""
    rule = _ELEMENTWISE[eqn.primitive.name]
    shape = eqn.outvars[0].aval.shape
    forms = [broadcast_to(_form(x), shape) for x in operands]
    boxes = [as_interval(x) for x in forms]
    # The derivative along operand i is its own tangent one; a kink gives all slopes between its sides.
    tangents = [
        point(jnp.stack([jnp.full(shape, float(i == j)) for i in range(len(forms))])) for j in range(len(forms))
    ]
    value = rule(Trouble(), eqn, *[Dual(point(x.center), None) for x in forms]).value
    slopes = rule(Trouble(), eqn, *[Dual(b, t) for b, t in zip(boxes, tangents)]).tangent
    if slopes is None:
        slopes = point(jnp.zeros((len(forms), *shape)))
    middle = midpoint(slopes)
    distance = radius_about(slopes, middle)
    offset = from_interval(value)
    spread = offset.spread
    for i, x in enumerate(forms):
        spread = ia.widen(spread, spread + distance[i] * deviation(x)).hi
    unknown = jnp.isnan(spread)
    offset = AffineForm(offset.center, None, spread)
    out = linear_image([jnp.where(jnp.isnan(m), 0.0, m) for m in middle], forms, offset)
    return AffineForm(out.center, out.generators, jnp.where(unknown, jnp.nan, out.spread))


def _by_intervals(eqn: Any, operands: list[Any]) -> list[Any]:
    """What has no rule here, on boxes; raises by name where intervals have none either."""
    boxes = [Dual(as_interval(x), None) if isinstance(x, AffineForm) else x for x in operands]
    outs = evaluate_equation(eqn, boxes, Trouble())
    return [from_interval(y.value) if isinstance(y, Dual) and is_real(y.value.lo) else y for y in outs]


_LINEAR: dict[str, Callable] = {
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "dot_general": _dot_general,
    "reduce_sum": _reduce_sum,
    "tanh": _curve,
    "logistic": _curve,
}
_CURVES = ("tanh", "logistic")
_NOT_ELEMENTWISE = frozenset([*_LINEAR, "polynomial", "reduce_max", "reduce_min", "cumsum"])
_ELEMENTWISE_BRANCHES = ("abs", "max", "min", "clamp")
_ELEMENTWISE: dict[str, Callable] = {k: v for k, v in SMOOTH_RULES.items() if k not in _NOT_ELEMENTWISE} | {
    k: v for k, v in BRANCH_RULES.items() if k in _ELEMENTWISE_BRANCHES
}
