"""Enclosures of a function and of its Jacobian over a box, by interval evaluation of its jaxpr."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.numerics.devices import deal_rows
from rnndyn.dynamics.proofs._duals import Dual, Trouble
from rnndyn.dynamics.proofs._evaluation import evaluate_jaxpr
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point


def interval_value(f: Callable, box: Interval) -> Interval:
    """Enclose the values that a function takes on a box.

    The result holds `f(x)`, in exact real arithmetic with the float64 constants of `f`, for every `x` in the box. It
    is the natural interval extension: every operation of the jaxpr of `f` is carried out on intervals, rounded
    outward. Where one quantity occurs several times the enclosure is wider than the range.

    **Arguments:**

    - `f`: a function of one float64 array, made of the operations that `docs/certificates.md` lists.
    - `box`: `Interval(lo, hi)`, arrays of the shape that `f` takes.

    **Returns:** an `Interval` of the shape of `f(x)`. NaN endpoints where nothing is known: outside the domain of a
    logarithm, a root or a quotient.

    **Raises:** `NotImplementedError` naming the operation when `f` uses one without a rule; `ValueError` unless
    float64 is enabled.

    Compiled once for each f and shape of box; may be transformed by `jit` and `vmap`. Across a jump (an undecided
    `where`, `floor`, `sign`) the result holds both sides.

    Moore, Kearfott & Cloud (2009), *Introduction to Interval Analysis*.
    """
    return _enclose_one(f, box, with_jacobian=False).value


def interval_jacobian(f: Callable, box: Interval) -> Interval:
    """Enclose the Jacobians of a function on a box: `DF(x)` for every `x` in the box.

    At a kink (of `relu`, `abs`, `max`) the enclosure holds every element of Clarke's generalised Jacobian, so that
    the mean value theorem `f(x) - f(y) ∈ J (x - y)` holds between any two points of the box.

    **Arguments:**

    - `f`: a function of a float64 vector (N,) that returns a vector (M,), as for `interval_value`.
    - `box`: `Interval(lo, hi)` of shape (N,).

    **Returns:** an `Interval` of shape (M, N). NaN endpoints where nothing is known: where `f` may jump inside the
    box, and outside the domain of its operations.

    **Raises:** as `interval_value`.

    Forward mode over the primal jaxpr of `f`; derivative rules that `f` sets for itself (`jax.custom_jvp`,
    `stop_gradient`) are ignored, because a proof is about the function.
    """
    return _enclose_one(f, box, with_jacobian=True).jacobian


class Enclosure(eqx.Module):
    """What `enclose` finds on a box.

    **Fields:**

    - `value`: encloses f, shape (M,).
    - `jacobian`: encloses its Jacobian, shape (M, N); or its products with given directions.
    - `jumps`: f may be discontinuous in the box. Told only where derivatives are asked for: they tell what depends on
        the state.
    - `undefined`: an operation of f may leave its domain in the box.
    """

    value: Interval
    jacobian: Interval
    jumps: Bool[Any, "..."]
    undefined: Bool[Any, "..."]


def enclose(
    f: Callable, box: Interval, *, with_jacobian: bool = True, directions: Float[ArrayLike, "D N"] | None = None
) -> Enclosure:
    """Value and Jacobian of `f` on a box, and what stands against them; see `interval_value`, `interval_jacobian`.

    With `directions` the derivatives along these, (M, D), take the place of the Jacobian.
    """
    if box.lo.dtype != np.float64 or jnp.result_type(float) != np.float64:
        raise ValueError(
            f"box: interval arithmetic needs float64, got {box.lo.dtype}. Call it inside `with jax.enable_x64(True)`."
        )
    closed = jax.make_jaxpr(f)(jax.ShapeDtypeStruct(box.shape, box.lo.dtype))
    along = jnp.eye(box.lo.size) if directions is None else jnp.asarray(directions)
    tangent = point(along.reshape(-1, *box.shape)) if with_jacobian else None
    trouble = Trouble()
    outputs = evaluate_jaxpr(closed.jaxpr, closed.consts, [Dual(box, tangent)], trouble)
    if len(outputs) != 1:
        raise ValueError(f"f: expected a function that returns one array, got {len(outputs)}.")
    (out,) = outputs
    if not isinstance(out, Dual):
        out = Dual(point(jnp.asarray(out)), None)
    columns = point(jnp.zeros((len(along), *out.value.shape))) if out.tangent is None else out.tangent
    jacobian = columns.map(lambda t: jnp.moveaxis(t, 0, -1))
    return Enclosure(out.value, jacobian, trouble.any_jump(), trouble.any_undefined())


LARGEST_BATCHED = 16
"""States up to this size are taken in batches, longer ones one by one."""


@compiled
def enclose_boxes(
    f: Callable,
    lower: Float[Array | np.ndarray, "K N"],
    upper: Float[Array | np.ndarray, "K N"],
    *,
    with_jacobian: bool = True,
    directions: Float[Array | np.ndarray, "D N"] | None = None,
) -> Enclosure:
    """`enclose` for each of K boxes: the one compiled program of a proof, everything else is NumPy."""

    def one(box: Interval) -> Enclosure:
        return enclose(f, box, with_jacobian=with_jacobian, directions=directions)

    boxes = Interval(jnp.asarray(lower), jnp.asarray(upper))
    # XLA's CPU backend multiplies batches of matrices without a tuned kernel: large ones are taken one by one.
    return jax.lax.map(one, boxes) if lower.shape[1] > LARGEST_BATCHED else jax.vmap(one)(boxes)


def enclose_on_devices(
    f: Callable, lower: Float[np.ndarray, "K N"], upper: Float[np.ndarray, "K N"], *, with_jacobian: bool = True
) -> Enclosure:
    """`enclose_boxes` as NumPy arrays, the boxes dealt out to the devices that share the work."""
    return deal_rows(lambda boxes: enclose_boxes(f, *boxes, with_jacobian=with_jacobian), (lower, upper))


@compiled
def _enclose_one(f: Callable, box: Interval, *, with_jacobian: bool) -> Enclosure:
    return enclose(f, box, with_jacobian=with_jacobian)
