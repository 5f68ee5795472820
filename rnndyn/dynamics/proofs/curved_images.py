"""The image of a product of two balls to second order in the first: how a map bends what it stretches."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from rnndyn._programs import compiled
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._branch_rules import COMPARISONS
from rnndyn.dynamics.proofs._evaluation import MOVES, SAME
from rnndyn.dynamics.proofs._primitives import called
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.set_images import SetImage, Sets, evaluate_about, is_finite, two_balls

# Operations whose derivatives, as JAX writes them, consist of such operations and of numbers known exactly. That of erf
# has a rounded constant, and the body of a loop may set derivatives by hand: those are not trusted.
_DIFFERENTIABLE = (
    MOVES
    | SAME
    | COMPARISONS
    | frozenset(
        "add add_any sub mul div neg dot_general reduce_sum convert_element_type select_n abs max min tanh logistic "
        "integer_pow square sqrt rsqrt exp expm1 log log1p sin cos".split()
    )
)


class CurvedImage(eqx.Module):
    r"""What is known of a map on a set c + A z, z = (p, q), p of dimension u; or, with a leading axis, on several.

    For every z there are members of the enclosures with

    $$f(c + A z) = f(c) + G p + \tfrac12 \sum_k p_k H_k p + \Bigl(S + \sum_k p_k K_k\Bigr) q .$$

    **Fields:**

    - `plain`: the mean value form, f(c) and Df over the set.
    - `outward`: encloses G = Df(c) A_p, (N, u).
    - `inward`: encloses S = Df(c + A_q q) A_q over |q| <= 1, (N, N - u).
    - `bend`: encloses D²f(c + A z)[A_k, A_l] for k <= u and all l, (N, u, N): H_k has the columns l <= u, K_k the
      others.
    - `is_bend_known`: whether these are: no kink lies in the set, and derivatives of the operations can be trusted.
    """

    plain: SetImage
    outward: Interval
    inward: Interval
    bend: Interval
    is_bend_known: Bool[Any, "..."]


@compiled
def curved_images_of_sets(f: Callable, sets: Sets, num_first: int, count: Int[Array | np.ndarray, ""]) -> CurvedImage:
    r"""Enclose a map on products of two balls to second order in the first one.

    Along p, f(c + A_p p) is its Taylor polynomial with D²f somewhere on the way, and Df(c + A z) A_q differs from its
    value at p = 0 by p times D²f[A_p, A_q] (mean value theorem). D²f[A_k, .] is the derivative of the map
    x -> Df(x) A_k, enclosed as that of any map: what is unknown of it is of third order, where the mean value form
    is off to second order.

    Arguments and errors are those of `images_of_sets`, and only the first `count` of the K sets are looked at: one
    program serves all numbers up to K. For a map with loops, branches or one of the rarer functions only `plain` is
    known.
    """
    sets = jax.tree.map(jnp.asarray, sets)
    num, size = sets.centers.shape

    def empty(*shape: int) -> Interval:
        return point(jnp.full((num, *shape), jnp.nan))

    unknown = jnp.zeros(num, bool)
    plain = SetImage(empty(size), empty(size, size), unknown)
    parts = empty(size, num_first), empty(size, size - num_first), empty(size, num_first, size)

    def add(k: Array, found: CurvedImage) -> CurvedImage:
        center, blur, axes = (jnp.asarray(array)[k] for array in sets)
        one = _curved_image(f, center, blur, axes, num_first)
        return jax.tree.map(lambda whole, part: whole.at[k].set(part), found, one)

    return jax.lax.fori_loop(0, jnp.asarray(count), add, CurvedImage(plain, *parts, unknown))


def _curved_image(f: Callable, center: Array, blur: Array, axes: Array, num_first: int) -> CurvedImage:
    size, struct = center.size, jax.ShapeDtypeStruct(center.shape, center.dtype)
    closed, middle, reach = jax.make_jaxpr(f)(struct), ia.ball(center, blur), two_balls(num_first)

    def pushed(x: Array) -> Array:
        """f(x), Df(x) A_1, ..., Df(x) A_u."""
        function = lambda x: _evaluate(closed, x)
        value = function(x)
        return jnp.stack([value, *(jax.jvp(function, (x,), (axes[:, k],))[1] for k in range(num_first))])

    if not _is_differentiable(closed.jaxpr):
        about = evaluate_about(closed, middle, axes, reach)
        first, others = (point(jnp.full((size, num), jnp.nan)) for num in (num_first, size - num_first))
        bend = point(jnp.full((size, num_first, size), jnp.nan))
        plain = SetImage(about.center, about.derivative, about.is_known)
        return CurvedImage(plain, first, others, bend, jnp.zeros((), bool))
    about = evaluate_about(jax.make_jaxpr(pushed)(struct), middle, axes, reach)
    derivative, value = (x.map(lambda end: end[0]) for x in (about.derivative, about.center))
    plain = SetImage(value, derivative, is_finite(value) & is_finite(derivative) & ~about.undefined)
    outward = about.center.map(lambda end: end[1:].T)
    bend = about.derivative.map(lambda end: jnp.moveaxis(end[1:], 0, 1))
    inward = about.derivative.map(lambda end: end[0, :, num_first:])
    if num_first < size:
        flat = axes.at[:, :num_first].set(0.0)
        inward = evaluate_about(closed, middle, flat, reach).derivative.map(lambda end: end[:, num_first:])
    known = plain.is_known & is_finite(outward) & is_finite(bend) & is_finite(inward)
    return CurvedImage(plain, outward, inward, bend, known)


def _is_differentiable(jaxpr: Any) -> bool:
    for eqn in jaxpr.eqns:
        body = called(eqn)
        if not (eqn.primitive.name in _DIFFERENTIABLE if body is None else _is_differentiable(body.jaxpr)):
            return False
    return True


def _evaluate(closed: Any, x: Array) -> Array:
    """The function again, without the derivatives that it sets by hand (`jax.custom_jvp`, `stop_gradient`)."""

    def walk(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, args))
        read = lambda var: var.val if isinstance(var, jax.extend.core.Literal) else env[var]
        for eqn in jaxpr.eqns:
            operands = [read(var) for var in eqn.invars]
            body = called(eqn)
            if body is not None:
                outs = walk(body.jaxpr, body.consts, operands)
            elif eqn.primitive.name in SAME:
                outs = operands
            elif eqn.primitive.name == "tanh":
                outs = [_tanh(operands[0])]
            else:
                outs = eqn.primitive.bind(*operands, **eqn.params)
                outs = list(outs) if eqn.primitive.multiple_results else [outs]
            env.update(zip(eqn.outvars, outs))
        return [read(var) for var in jaxpr.outvars]

    outputs = walk(closed.jaxpr, closed.consts, [x])
    if len(outputs) != 1:
        raise ValueError(f"f: expected a function that returns one array, got {len(outputs)}.")
    return outputs[0]


@jax.custom_jvp
def _tanh(x: Array) -> Array:
    return jnp.tanh(x)


@_tanh.defjvp
def _tanh_along(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """tanh' = 1 - tanh², written so that its own derivative has one product of intervals: -2 tanh (1 - tanh²)."""
    y = jnp.tanh(primals[0])
    return y, tangents[0] * (1 - y * y)
