"""Krawczyk's test: a proof that a system of equations has one solution near a point."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float

from rnndyn.dynamics.numerics.devices import check_devices, on_one_device
from rnndyn.dynamics.numerics.drivers import double_precision
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._inverses import inverses
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.intervals import Enclosure, enclose_on_devices
from rnndyn.dynamics.proofs.verdicts import ProofVerdict
from rnndyn.results import first_verdict

_NUM_EXTENSIONS = 7

EncloseEach = Callable[[np.ndarray, np.ndarray], Enclosure]
"""From the corners (K, N) of boxes to enclosures of a function and of its Jacobian over each, as NumPy arrays."""


class KrawczykTest(eqx.Module):
    """Outcome of `krawczyk` at K points; distances are largest differences of a component unless a vector is given.

    - `verified`: g has a zero within `error` (componentwise) of the point, the only one within `uniqueness_radius`.
    - `error`: (K, N); infinite when not verified.
    - `uniqueness_radius`: zero when not verified.
    - `correction`: size of the Newton step from the point.
    - `contraction`: largest row sum of |I - Y DG| at the point itself; 1 or more when DG cannot be inverted there.
    - `result`: a batch `(K,)` of `ProofVerdict`: `certified`, or what stood in the way.
    """

    verified: Bool[np.ndarray, " K"]
    error: Float[np.ndarray, "K N"]
    uniqueness_radius: Float[np.ndarray, " K"]
    correction: Float[np.ndarray, " K"]
    contraction: Float[np.ndarray, " K"]
    result: ProofVerdict


def krawczyk(enclose_each: EncloseEach, points: Float[np.ndarray, "K N"]) -> KrawczykTest:
    """Krawczyk's test for a zero, around each of K points, of the function that `enclose_each` encloses.

    Boxes x ± r start at twice the Newton step and double until the test succeeds or the Jacobian varies too much
    over them. `zero_problem(g)` and `fixed_point_problem(f)` give `enclose_each`; call it in `interval_precision`.
    """
    with np.errstate(all="ignore"):
        here = enclose_each(points, points)
        inverse = inverses(np.asarray(ia.midpoint(here.jacobian)))
        step = np.asarray(ia.magnitude(ia.matvec(point(inverse), here.value)))
        # A zero that was hit exactly still needs a box.
        correction = np.maximum(step.max(axis=1), 1e-280)
        contraction_here = _row_sums(inverse, here.jacobian).max(axis=1)
        search = _start(correction, points.shape[1])
        while (active := _unfinished(search)).any():
            box = ia.ball(points, search.radius[:, None])
            around = enclose_each(np.asarray(box.lo), np.asarray(box.hi))
            row_sums = _row_sums(inverse, around.jacobian)
            share = row_sums * search.radius[:, None]
            reached = np.asarray(ia.widen(step, step + ia.widen(share, share).hi).hi)
            search = _advance(search, active, reached, row_sums.max(axis=1), around)
    verified = search.proved > 0
    lost = np.isnan(search.contraction)
    result = first_verdict(
        (verified, ProofVerdict.certified),
        (~_is_finite(here.value), ProofVerdict.not_finite),
        (_blocked(here, np.asarray(here.jumps)) | (lost & search.jumps), ProofVerdict.jumps),
        (_blocked(here, np.asarray(here.undefined)) | (lost & search.undefined), ProofVerdict.undefined),
        (~(contraction_here < 1), ProofVerdict.singular),
        otherwise=ProofVerdict.too_far,
    )
    return KrawczykTest(
        verified=verified,
        error=np.where(verified[:, None], search.error, np.inf),
        uniqueness_radius=search.proved,
        correction=step.max(axis=1),
        contraction=contraction_here,
        result=result,
    )


@contextlib.contextmanager
def interval_precision(devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None) -> Iterator[None]:
    """float64 on the CPU: the one device whose elementary functions were measured for the proofs.

    With `devices` the enclosures of the block are dealt out to these, which are CPUs too.
    """
    if devices is not None and any(device.platform != "cpu" for device in check_devices(devices)):
        raise ValueError(
            "devices: proofs are computed on CPUs, whose elementary functions have known errors. Give CPU devices "
            "(jax.devices('cpu')), or leave devices out."
        )
    with on_one_device(), double_precision(devices), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def zero_problem(g: Callable) -> EncloseEach:
    """Enclosures of a function `g` of (N,) with values in (N,)."""
    return lambda lower, upper: enclose_on_devices(g, lower, upper)


def fixed_point_problem(f: Callable) -> EncloseEach:
    """Enclosures of x - f(x) for a map `f`."""
    return displacement(zero_problem(f))


def displacement(enclose_each: EncloseEach) -> EncloseEach:
    """Enclosures of x - f(x), from those of f."""

    def enclose_displacement(lower: np.ndarray, upper: np.ndarray) -> Enclosure:
        f = enclose_each(lower, upper)
        value = ia.sub(Interval(lower, upper), f.value)
        return Enclosure(value, ia.sub(point(np.eye(lower.shape[1])), f.jacobian), f.jumps, f.undefined)

    return enclose_displacement


@dataclasses.dataclass(frozen=True)
class _Search:
    """The state of the search for the smallest and the largest box that pass, at each point.

    `radius` is tried next, `proved` is the largest that passed (0: none yet), `failed` the smallest that failed after
    one passed; the other fields are those of the first success, or of the last attempt before it.
    """

    radius: np.ndarray
    proved: np.ndarray
    failed: np.ndarray
    error: np.ndarray
    contraction: np.ndarray
    jumps: np.ndarray
    undefined: np.ndarray
    num_extensions: np.ndarray


def _start(correction: np.ndarray, num_units: int) -> _Search:
    zero, no = np.zeros(len(correction)), np.zeros(len(correction), bool)
    unknown = np.full((len(correction), num_units), np.inf)
    return _Search(2 * correction, zero, zero + np.inf, unknown, zero, no, no, np.zeros(len(correction), int))


def _unfinished(search: _Search) -> np.ndarray:
    """Boxes grow while Y DG stays close to I; after the first success a fixed number of larger ones is tried."""
    return np.where(search.proved > 0, search.num_extensions < _NUM_EXTENSIONS, search.contraction < 1)


def _advance(
    search: _Search, active: np.ndarray, reached: np.ndarray, contraction: np.ndarray, around: Enclosure
) -> _Search:
    """Take in an attempt at `search.radius` and choose the next radius, at the points that are `active`.

    Up to the first success the radius doubles. After it, the next one is predicted from the contraction, which grows
    about linearly with the radius and must stay below one.
    """
    radius = search.radius
    extending = search.proved > 0
    success = np.all(reached < radius[:, None], axis=1) & np.isfinite(radius)
    proved = np.where(success, np.maximum(search.proved, radius), search.proved)
    failed = np.where(success | ~extending, search.failed, np.minimum(search.failed, radius))
    factor = np.clip(np.nan_to_num(0.95 / contraction, nan=1e-2), 1e-3, 1e3)
    between = np.where(np.isfinite(failed), np.sqrt(proved) * np.sqrt(failed), 2 * proved)
    predicted = radius * factor
    extended = np.where((predicted > proved) & (predicted < failed), predicted, between)
    first_extension = np.maximum(4 * radius, 1e-3)
    following = np.where(extending, extended, np.where(success, first_extension, 2 * radius))
    settled = extending | ~active

    def settle(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.where(settled, old, new)

    return _Search(
        radius=np.where(active, following, radius),
        proved=np.where(active, proved, search.proved),
        failed=np.where(active, failed, search.failed),
        error=np.where(settled[:, None], search.error, reached),
        contraction=settle(search.contraction, contraction),
        jumps=settle(search.jumps, np.asarray(around.jumps)),
        undefined=settle(search.undefined, np.asarray(around.undefined)),
        num_extensions=search.num_extensions + (extending & active),
    )


def _row_sums(inverse: np.ndarray, jacobian: Interval) -> np.ndarray:
    """Upper bounds of the absolute row sums of I - Y J."""
    identity = point(np.eye(inverse.shape[-1]))
    defect = ia.sub(identity, ia.matmul(point(inverse), jacobian))
    return np.asarray(ia.total(point(ia.magnitude(defect)), (-1,)).hi)


def _is_finite(x: Interval) -> np.ndarray:
    finite = np.isfinite(x.lo) & np.isfinite(x.hi)
    return np.asarray(finite.reshape(len(finite), -1).all(axis=1))


def _blocked(enclosure: Enclosure, flag: np.ndarray) -> np.ndarray:
    return ~_is_finite(enclosure.jacobian) & flag
