"""Proofs that a fixed point exists, that it is the only one nearby, and how many of its directions are unstable."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int

from rnndyn._programs import compiled
from rnndyn._validation import check_state, check_states
from rnndyn.dynamics.numerics.drivers import let_in, map_in_chunks
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.intervals import enclose_on_devices
from rnndyn.dynamics.proofs.krawczyk import KrawczykTest, fixed_point_problem, interval_precision, krawczyk
from rnndyn.dynamics.proofs.multiplier_discs import count_outside_unit_circle, multiplier_discs
from rnndyn.dynamics.proofs.verdicts import ProofVerdict
from rnndyn.results import Judged, first_verdict, is_verdict, take_verdicts


def certify_fixed_point(f: Callable, x: Array | np.ndarray) -> "FixedPointCertificate":
    """Prove that a map has a fixed point near `x`, or say why this cannot be proved.

    With G(x) = x - f(x), Y ≈ DG(x)⁻¹ and an interval enclosure [DG] of the Jacobian over the box X = x ± r, the
    Krawczyk operator is

        K = x - Y G(x) + (I - Y [DG]) (X - x).

    K inside the interior of X proves that f has exactly one fixed point in X, and that it lies in K.

    **Arguments:**

    - `f`: the map, a function of one state (N,) made of the operations that `docs/certificates.md` lists. The proof is
      about the real function with the float64 constants of f, not about its rounded evaluation.
    - `x`: the state (N,) to look around, usually a fixed point found by a search.

    **Returns:** a `FixedPointCertificate`. Where `certified` is false, `reason` says what stood in the way. A refusal
    does not mean that there is no fixed point.

    **Raises:** `ValueError` for an `x` that is no finite state or an `f` that does not keep its shape and dtype;
    `NotImplementedError` naming the operation when f uses one without an interval rule.

    All steps, the evaluation of f included, are done in outward-rounded interval arithmetic on the CPU; what that
    assumes of the mathematical library is in `docs/certificates.md`. A distance is the largest difference of a
    component. `x` is not corrected first: a point further from its fixed point than about the inverse of the
    Jacobian's relative change per unit length is refused.

    Krawczyk (1969), *Newton-Algorithmen zur Bestimmung von Nullstellen mit Fehlerschranken*; Moore (1977), *A test for
    existence of solutions to nonlinear systems*; Rump (2010), *Verification methods*.
    """
    check_state("x", x)
    return certify_fixed_points(f, np.asarray(x)[None], progress=False)[0]


def certify_fixed_points(
    f: Callable,
    points: Array | np.ndarray,
    *,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "FixedPointCertificates":
    """Prove for each of many points that a map has a fixed point nearby; `certify_fixed_point` says how.

    **Arguments:**

    - `f`: the map, as for `certify_fixed_point`.
    - `points`: states (K, N).
    - `progress`: whether a progress bar may appear.
    - `devices`: CPU devices, or a `jax.sharding.Mesh` of them, that share the enclosures; also those of other processes
        (`jax.distributed`), which then all make this call. By default the first of this process.

    **Returns:** `FixedPointCertificates`; indexing it gives one `FixedPointCertificate`.

    **Raises:** as `certify_fixed_point`.
    """
    check_states("points", points)
    with interval_precision(devices):
        states = np.asarray(points, dtype=np.float64)
        f = let_in(f, states[0])
        # XLA flushes subnormal numbers to zero; error bounds start at 1e-290 and cover the difference.
        examined = np.where(np.abs(states) < 1e-300, 0.0, states)
        num_units = states.shape[1]
        found = map_in_chunks(
            functools.partial(gather_evidence, f),
            examined,
            # The Jacobian's two endpoints, a dozen intermediate arrays of that size, and their tangents.
            bytes_per_item=8 * 40 * num_units**2 + 4096,
            description="Certifying",
            progress=progress,
        )
    return FixedPointCertificates.from_evidence(states, found)


class FixedPointCertificate(Judged):
    """What was proved about one point; distances are largest differences of a component.

    **Fields:**

    - `point`: the state (N,) that was examined; `residual`: the largest component of |f(x) - x| there.
    - `existence_radius`: infinite when not certified.
    - `uniqueness_radius`: the largest tested distance within which it is the only fixed point; 0 when not certified.
    - `num_unstable`: multipliers with |mu| > 1, proved together with the absence of |mu| = 1; -1 where unproved.
    - `multipliers`, `multiplier_radii`: discs in the complex plane (N,), by falling modulus, that hold the multipliers
      of the fixed point: all lie in the union, and a connected part made of k discs holds k of them. Radii are
      infinite when not certified.
    - `result`: what was proved, or what stood in the way, a `ProofVerdict`.
    - `reason`: what could not be proved, and why, with the numbers of the case; empty when everything was.
    """

    point: Float[np.ndarray, " N"]
    residual: float
    existence_radius: float
    uniqueness_radius: float
    num_unstable: int
    multipliers: Complex[np.ndarray, " N"]
    multiplier_radii: Float[np.ndarray, " N"]
    result: ProofVerdict
    reason: str

    @property
    def certified(self) -> bool:
        """Whether a fixed point exists within `existence_radius` of the point."""
        return exists(self.result)

    def table(self) -> str:
        if not self.certified:
            return f"FixedPointCertificate: not certified. {self.reason}"
        unstable = str(self.num_unstable) if self.num_unstable >= 0 else f"open ({self.reason})"
        return (
            "FixedPointCertificate: a fixed point exists\n"
            f"  within           {self.existence_radius:.2e} of the point (residual {self.residual:.1e})\n"
            f"  the only one in  {self.uniqueness_radius:.2e}\n"
            f"  num_unstable     {unstable}"
        )


class FixedPointCertificates(Judged):
    """What was proved about each of K points: the fields of `FixedPointCertificate`, with a leading axis K.

    `result` is a batch `(K,)` of `ProofVerdict`, and `reasons` has what could not be proved of each.
    """

    points: Float[np.ndarray, "K N"]
    residuals: Float[np.ndarray, " K"]
    existence_radius: Float[np.ndarray, " K"]
    uniqueness_radius: Float[np.ndarray, " K"]
    num_unstable: Int[np.ndarray, " K"]
    multipliers: Complex[np.ndarray, "K N"]
    multiplier_radii: Float[np.ndarray, "K N"]
    result: ProofVerdict
    reasons: tuple[str, ...]

    @property
    def certified(self) -> Bool[np.ndarray, " K"]:
        """Which points have a fixed point within their `existence_radius`."""
        return exists(self.result)

    @classmethod
    def from_evidence(cls, points: np.ndarray, evidence: "Evidence") -> "FixedPointCertificates":
        """Read the certificates off what was computed at the points."""
        test, verified = evidence.test, np.asarray(evidence.test.verified)
        multipliers, discs = multiplier_discs(
            np.asarray(evidence.jacobian_center), np.asarray(evidence.jacobian_radius)
        )
        num_unstable = np.where(verified, count_outside_unit_circle(multipliers, discs), -1)
        discs = np.where(verified[:, None], discs, np.inf)
        return cls(
            points=points,
            residuals=np.asarray(evidence.residual),
            existence_radius=np.where(verified, test.error.max(axis=1), np.inf),
            uniqueness_radius=np.where(verified, test.uniqueness_radius, 0.0),
            num_unstable=num_unstable,
            multipliers=multipliers,
            multiplier_radii=discs,
            result=_settle(test.result, num_unstable),
            reasons=tuple(
                _stability_reason(multipliers[k], discs[k]) if verified[k] else _reason(evidence, k)
                for k in range(len(points))
            ),
        )

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, k: int) -> FixedPointCertificate:
        return FixedPointCertificate(
            point=self.points[k],
            residual=float(self.residuals[k]),
            existence_radius=float(self.existence_radius[k]),
            uniqueness_radius=float(self.uniqueness_radius[k]),
            num_unstable=int(self.num_unstable[k]),
            multipliers=self.multipliers[k],
            multiplier_radii=self.multiplier_radii[k],
            result=take_verdicts(self.result, k),
            reason=self.reasons[k],
        )

    def table(self) -> str:
        lines = [f"FixedPointCertificates: {int(self.certified.sum())} of {len(self)} certified"]
        lines.append("  point  exists within  only one within  unstable  not proved")
        for k in range(min(len(self), 20)):
            lines.append(
                f"  {k:5d}  {self.existence_radius[k]:13.2e}  {self.uniqueness_radius[k]:15.2e}  "
                f"{self.num_unstable[k]:8d}  {self.reasons[k]}"
            )
        if len(self) > 20:
            lines.append(f"  ... and {len(self) - 20} more")
        return "\n".join(lines)


# --- helpers


class Evidence(eqx.Module):
    """What is computed at each of K points: the test, |f(x) - x|, and the Jacobians within the error bound of it."""

    test: KrawczykTest
    residual: Float[np.ndarray, " K"]
    jacobian_center: Float[np.ndarray, "K N N"]
    jacobian_radius: Float[np.ndarray, "K N N"]


def gather_evidence(f: Callable, points: Float[np.ndarray, "K N"]) -> Evidence:
    """Krawczyk's test of x - f(x) at K points, and what their certificates need besides."""
    points = np.asarray(points)  # also where it is dealt to a device as a whole: all but the enclosures is NumPy
    test = krawczyk(fixed_point_problem(f), points)
    box = ia.ball(points, np.where(test.verified[:, None], test.error, 0.0))
    jacobian = enclose_on_devices(f, np.asarray(box.lo), np.asarray(box.hi)).jacobian
    with np.errstate(invalid="ignore"):
        center = np.asarray(ia.midpoint(jacobian))
        radius = np.asarray(ia.radius_about(jacobian, center))
    residual = np.asarray(_residuals(f, points))
    return Evidence(test, residual, center, radius)


@compiled
def _residuals(f: Callable, points: Array | np.ndarray) -> Array:
    return jax.vmap(lambda x: jnp.max(jnp.abs(f(x) - x)))(jnp.asarray(points))


def exists(result: Any) -> Any:
    """Whether a verdict, or each of a batch, says that what was looked for exists."""
    return is_verdict(result, ProofVerdict.certified, ProofVerdict.stability_open)


def _settle(existence: Any, num_unstable: np.ndarray) -> Any:
    """The verdicts of Krawczyk's test, where it succeeded with that on the number of unstable directions."""
    cases = [(is_verdict(existence, item), item) for item in _OBSTACLES]
    return first_verdict(*cases, (num_unstable < 0, ProofVerdict.stability_open), otherwise=ProofVerdict.certified)


_OBSTACLES: tuple[Any, ...] = (
    ProofVerdict.not_finite,
    ProofVerdict.jumps,
    ProofVerdict.undefined,
    ProofVerdict.singular,
    ProofVerdict.too_far,
)


def _reason(evidence: Evidence, k: int) -> str:
    test = evidence.test
    correction, contraction, residual = (
        np.asarray(leaf)[k] for leaf in (test.correction, test.contraction, evidence.residual)
    )
    words = (
        "f is NaN or infinite at the point, or an operation of f leaves its domain there.",
        "f may jump at or near the point (an undecided where, floor, round, sign or remainder). A continuous "
        "f can be written with maximum, minimum or abs.",
        "an operation of f (log, sqrt, division, ...) may leave its domain near the point.",
        "I - DF cannot be inverted at the point: a degenerate fixed point, one of a continuum, one on a kink whose "
        "linear pieces have a singular matrix between them (see linearize_one_sided), or none "
        f"(residual {residual:.1e}; bound of |I - Y (I - DF)| is {contraction:.1e}, must be below 1).",
        f"the residual {residual:.1e} asks for a Newton step of {correction:.1e}, and over a box of that size "
        "the Jacobian varies too much: a fixed point is too far away, nearly degenerate, or absent.",
    )
    return next(text for item, text in zip(_OBSTACLES, words) if is_verdict(test.result, item)[k])


def _stability_reason(multipliers: np.ndarray, discs: np.ndarray) -> str:
    if count_outside_unit_circle(multipliers[None], discs[None])[0] >= 0:
        return ""
    distance = np.abs(np.abs(multipliers) - 1)
    worst = int(np.argmin(distance - discs)) if np.isfinite(discs).all() else int(np.argmin(distance))
    return (
        f"the number of unstable directions is open: the multiplier near {multipliers[worst]:.6g} is known to "
        f"{discs[worst]:.1e} only, and lies {distance[worst]:.1e} from the unit circle."
    )
