"""Krawczyk's test: a proof that a system of equations has one solution near a point."""

import contextlib
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnndyn.dynamics.numerics.drivers import double_precision
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.intervals import Enclosure, enclose

VERIFIED, NOT_FINITE, JUMPS, UNDEFINED, SINGULAR, TOO_FAR = range(6)
_NUM_EXTENSIONS = 7


class KrawczykTest(eqx.Module):
    """Outcome of `krawczyk`; distances are largest differences of a component unless a vector is given.

    **Fields:**

    - `verified`: g has a zero within `error` (componentwise) of x, the only one within `uniqueness_radius`.
    - `error`: (N,); infinite when not verified.
    - `uniqueness_radius`: zero when not verified.
    - `correction`: size of the Newton step from x.
    - `contraction`: largest row sum of |I - Y DG| at x itself; 1 or more when DG(x) cannot be inverted.
    - `status`: `VERIFIED`, or why not: `NOT_FINITE`, `JUMPS`, `UNDEFINED`, `SINGULAR`, `TOO_FAR`.
    """

    verified: Bool[Array, ""]
    error: Float[Array, " N"]
    uniqueness_radius: Float[Array, ""]
    correction: Float[Array, ""]
    contraction: Float[Array, ""]
    status: Int[Array, ""]


def krawczyk(g: Callable, x: Float[Array, " N"]) -> KrawczykTest:
    """Krawczyk's test for a zero of `g`, a function of (N,) with values in (N,), around `x`.

    Boxes x ± r start at twice the Newton step and double until the test succeeds or the Jacobian varies too much
    over them. `jit`- and `vmap`-able; needs float64 on the CPU (`interval_precision`).
    """
    here = enclose(g, point(x))
    inverse = jnp.linalg.inv(ia.midpoint(here.jacobian))
    step = ia.magnitude(ia.matvec(point(inverse), here.value))
    # A zero that was hit exactly still needs a box.
    correction = jnp.maximum(jnp.max(step), 1e-280)
    contraction_here = jnp.max(_row_sums(inverse, here.jacobian))

    def attempt(radius):
        around = enclose(g, ia.ball(x, radius))
        row_sums = _row_sums(inverse, around.jacobian)
        reached = ia.widen(step, step + ia.widen(row_sums * radius, row_sums * radius).hi).hi
        return _Attempt(reached, jnp.max(row_sums), around.jumps, around.undefined)

    search = jax.lax.while_loop(
        _unfinished, lambda search: _advance(search, attempt(search.radius)), _start(correction, x.size)
    )
    verified = search.proved > 0
    status = jnp.select(
        [
            verified,
            ~_is_finite(here.value),
            _blocked(here, here.jumps) | (jnp.isnan(search.contraction) & search.jumps),
            _blocked(here, here.undefined) | (jnp.isnan(search.contraction) & search.undefined),
            ~(contraction_here < 1),
        ],
        [VERIFIED, NOT_FINITE, JUMPS, UNDEFINED, SINGULAR],
        TOO_FAR,
    )
    return KrawczykTest(
        verified=verified,
        error=jnp.where(verified, search.error, jnp.inf),
        uniqueness_radius=search.proved,
        correction=jnp.max(step),
        contraction=contraction_here,
        status=status,
    )


@contextlib.contextmanager
def interval_precision() -> Iterator[None]:
    """float64 on the CPU: the one device whose elementary functions were measured for the proofs."""
    with double_precision(), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


class FixedPointProblem(eqx.Module):
    """The zero problem x - f(x) of a map."""

    f: Callable

    def __call__(self, x: Array) -> Array:
        return x - self.f(x)


class _Attempt(eqx.Module):
    reached: Array
    contraction: Array
    jumps: Array
    undefined: Array


class _Search(eqx.Module):
    """The state of the search for the smallest and the largest box that pass.

    `radius` is tried next, `proved` is the largest that passed (0: none yet), `failed` the smallest that failed after
    one passed; the other fields are those of the first success, or of the last attempt before it.
    """

    radius: Array
    proved: Array
    failed: Array
    error: Array
    contraction: Array
    jumps: Array
    undefined: Array
    num_extensions: Array


def _start(correction: Array, num_units: int) -> _Search:
    zero, no = jnp.zeros(()), jnp.zeros((), bool)
    unknown = jnp.full(num_units, jnp.inf)
    return _Search(2 * correction, zero, jnp.asarray(jnp.inf), unknown, zero, no, no, jnp.zeros((), int))


def _unfinished(search: _Search) -> Array:
    """Boxes grow while Y DG stays close to I; after the first success a fixed number of larger ones is tried."""
    return jnp.where(search.proved > 0, search.num_extensions < _NUM_EXTENSIONS, search.contraction < 1)


def _advance(search: _Search, attempt: _Attempt) -> _Search:
    """Take in an attempt at `search.radius` and choose the next radius.

    Up to the first success the radius doubles. After it, the next one is predicted from the contraction, which grows
    about linearly with the radius and must stay below one.
    """
    radius = search.radius
    extending = search.proved > 0
    success = jnp.all(attempt.reached < radius) & jnp.isfinite(radius)
    proved = jnp.where(success, jnp.maximum(search.proved, radius), search.proved)
    failed = jnp.where(success | ~extending, search.failed, jnp.minimum(search.failed, radius))
    factor = jnp.clip(jnp.nan_to_num(0.95 / attempt.contraction, nan=1e-2), 1e-3, 1e3)
    between = jnp.where(jnp.isfinite(failed), jnp.sqrt(proved) * jnp.sqrt(failed), 2 * proved)
    predicted = radius * factor
    extended = jnp.where((predicted > proved) & (predicted < failed), predicted, between)
    first_extension = jnp.maximum(4 * radius, 1e-3)
    following = jnp.where(extending, extended, jnp.where(success, first_extension, 2 * radius))

    def settle(old, new):
        return jnp.where(extending, old, new)

    return _Search(
        radius=following,
        proved=proved,
        failed=failed,
        error=settle(search.error, attempt.reached),
        contraction=settle(search.contraction, attempt.contraction),
        jumps=settle(search.jumps, attempt.jumps),
        undefined=settle(search.undefined, attempt.undefined),
        num_extensions=search.num_extensions + extending,
    )


def _row_sums(inverse: Array, jacobian: Interval) -> Array:
    """Upper bounds of the absolute row sums of I - Y J."""
    identity = point(jnp.eye(inverse.shape[0]))
    defect = ia.sub(identity, ia.matmul(point(inverse), jacobian))
    return ia.matvec(point(ia.magnitude(defect)), point(jnp.ones(inverse.shape[0]))).hi


def _is_finite(x: Interval) -> Array:
    return jnp.all(jnp.isfinite(x.lo) & jnp.isfinite(x.hi))


def _blocked(enclosure: Enclosure, flag: Array) -> Array:
    return ~_is_finite(enclosure.jacobian) & flag
