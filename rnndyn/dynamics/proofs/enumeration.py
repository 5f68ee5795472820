"""Every fixed point of a map in a box, with proof, by interval branch and bound or by its linear regions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from rnndyn._validation import check_at_least
from rnndyn.dynamics.linear_regions.fixed_points import has_linear_regions, region_fixed_points
from rnndyn.dynamics.numerics.drivers import let_in, to_double
from rnndyn.dynamics.numerics.verdicts import CompletenessVerdict
from rnndyn.dynamics.proofs._branch_and_bound import Found, branch_and_bound, in_batches
from rnndyn.dynamics.proofs.certificates import FixedPointCertificates, gather_evidence
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.dynamics.proofs.verdicts import ProofVerdict
from rnndyn.results import Judged, first_verdict, is_verdict


def enumerate_fixed_points(
    f: Callable,
    lower: Any = None,
    upper: Any = None,
    *,
    max_boxes: int = 3_000_000,
    tol: float = 1e-10,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "EnumeratedFixedPoints":
    """Find every fixed point x = f(x) in the box lower <= x <= upper, and prove that there is no other.

    **Arguments:**

    - `f`: the map, a function of one state (N,) made of the operations that `docs/certificates.md` lists.
    - `lower`, `upper`: the corners of the box, (N,) or one number for all components. By default `f.region`, the box
      that holds the long-term dynamics, which `rnndyn.as_map` knows for bounded cells. A `PiecewiseLinearCell` needs
      no box: without one, all of the space is searched, as far as the proof reaches.
    - `max_boxes`: how many boxes may be examined. The work grows exponentially with N in the worst case: a network
      of tanh units takes 1e2 boxes for 3 units, 1e3 to 1e4 for 6 and up to 1e6 for 10.
    - `tol`: boxes narrower than `tol` times the whole are not divided further but reported as undecided. That happens
      at degenerate fixed points (I - DF singular), continua, and jumps.
    - `progress`: whether a progress bar may appear.
    - `devices`: CPU devices, or a `jax.sharding.Mesh` of them, that share the enclosures; also those of other processes
        (`jax.distributed`), which then all make this call. By default the first of this process.

    **Returns:** `EnumeratedFixedPoints`. With `proved` true, the points listed are all there are. With `proved`
    false, those listed exist and all others lie in the `undecided` boxes; `reason` says why. A fixed point on the
    boundary is listed when it cannot be told from one inside (closer than its `existence_radius`).

    **Raises:** `ValueError` for a box that is empty, unbounded or unknown, or an f that does not keep the shape and
    dtype of its state; `NotImplementedError` naming the operation when f uses one without an interval rule.

    Boxes are contracted by x ∈ F(X), by the mean value form, by the linearised equations taken one at a time, and by
    the preconditioned interval Gauss-Seidel step; they are discarded when empty, and settled when that step maps a
    slightly larger box into its interior, which then holds exactly one fixed point. What remains is bisected across
    the direction along which the equations vary most. All in outward-rounded interval arithmetic.

    The map of a `PiecewiseLinearCell` is solved by its linear regions instead (`rnndyn.enumerate_cycles` says how, and
    takes more options): exhaustive, or a sample with `proved` false where there are too many of them.

    Hansen & Walster (2004), *Global Optimization Using Interval Analysis*; Neumaier (1990), *Interval Methods for
    Systems of Equations*.
    """
    check_at_least("max_boxes", max_boxes, 1)
    if not 0 < tol < 1:
        raise ValueError(f"tol: expected a fraction of the box between 0 and 1, got {tol}.")
    with interval_precision(devices):
        if has_linear_regions(f):
            found = _search_regions(to_double(f), lower, upper, progress)
        else:
            lower, upper = _check_box(to_double(f), lower, upper)
            f = let_in(f, lower)
            found = _search_boxes(f, lower, upper, max_boxes, tol, progress)
        points = found.points
        evidence = in_batches(f, gather_evidence, points) if len(points) else None
    size = len(found.lower)
    certificates = None if evidence is None else FixedPointCertificates.from_evidence(points, evidence)
    jacobians = np.zeros((0, size, size)) if evidence is None else evidence.jacobian_center
    return EnumeratedFixedPoints(
        points=points,
        residuals=certificates.residuals if certificates else np.zeros(0),
        jacobians=jacobians,
        multipliers=_multipliers(jacobians),
        num_unstable=certificates.num_unstable if certificates else np.zeros(0, int),
        existence_radius=found.errors,
        uniqueness_radius=certificates.uniqueness_radius if certificates else np.zeros(0),
        completeness=found.completeness,
        undecided_lower=found.undecided_lower,
        undecided_upper=found.undecided_upper,
        num_boxes=found.num_boxes,
        lower=found.lower,
        upper=found.upper,
        reason=found.reason,
    )


class EnumeratedFixedPoints(Judged):
    """The fixed points of a map in a box, in lexicographic order, each proved to exist.

    **Fields:**

    - `points` (K, N); `residuals` (K,): largest component of |f(x) - x|; `jacobians` (K, N, N); `multipliers` (K, N)
      by falling modulus.
    - `num_unstable`: multipliers with |mu| > 1, proved; -1 where one is too close to the unit circle to tell.
    - `existence_radius`: the fixed point lies within this distance (largest component) of the listed point.
    - `uniqueness_radius`: tested distance within which it is the only one.
    - `completeness`: whether the list is complete, a `CompletenessVerdict`. `reason` says why not, with the numbers.
    - `undecided_lower`, `undecided_upper`: corners (M, N) of boxes that may hold further fixed points.
    - `num_boxes`: boxes examined (0 where linear regions were solved); `lower`, `upper`: the box that was searched.
    """

    points: Float[np.ndarray, "K N"]
    residuals: Float[np.ndarray, " K"]
    jacobians: Float[np.ndarray, "K N N"]
    multipliers: Complex[np.ndarray, "K N"]
    num_unstable: Int[np.ndarray, " K"]
    existence_radius: Float[np.ndarray, " K"]
    uniqueness_radius: Float[np.ndarray, " K"]
    completeness: CompletenessVerdict
    undecided_lower: Float[np.ndarray, "M N"]
    undecided_upper: Float[np.ndarray, "M N"]
    num_boxes: int
    lower: Float[np.ndarray, " N"]
    upper: Float[np.ndarray, " N"]
    reason: str

    def __len__(self) -> int:
        return len(self.points)

    @property
    def proved(self) -> bool:
        """Whether the list is complete."""
        return is_verdict(self.completeness, CompletenessVerdict.proved)

    @property
    def result(self) -> Any:
        """What was proved of each point, a batch `(K,)` of `ProofVerdict`; `message` has it in words."""
        return first_verdict((self.num_unstable < 0, ProofVerdict.stability_open), otherwise=ProofVerdict.certified)

    @property
    def is_stable(self) -> Bool[np.ndarray, " K"]:
        """Where every multiplier is proved to lie inside the unit circle."""
        return self.num_unstable == 0

    def table(self) -> str:
        state = "proved complete" if self.proved else f"not proved complete: {self.reason}"
        by = f"{self.num_boxes} boxes" if self.num_boxes else "linear regions"
        lines = [f"EnumeratedFixedPoints: {len(self)} in the box, {state} ({by})"]
        lines.append("  point  residual  exists within  unstable  largest |mu|")
        for k in range(min(len(self), 30)):
            lines.append(
                f"  {k:5d}  {self.residuals[k]:8.1e}  {self.existence_radius[k]:13.1e}  {self.num_unstable[k]:8d}  "
                f"{np.abs(self.multipliers[k]).max():12.6f}"
            )
        if len(self) > 30:
            lines.append(f"  ... and {len(self) - 30} more")
        return "\n".join(lines)


# --- helpers


def _multipliers(jacobians: Float[np.ndarray, "K N N"]) -> Complex[np.ndarray, "K N"]:
    values = np.linalg.eigvals(jacobians).astype(complex)
    return np.take_along_axis(values, np.argsort(-np.abs(values), axis=1, kind="stable"), axis=1)


class _Search(NamedTuple):
    """What a search of the box gives: isolated fixed points with bounds on their errors, and what it cannot decide."""

    points: np.ndarray
    errors: np.ndarray
    undecided_lower: np.ndarray
    undecided_upper: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    num_boxes: int
    completeness: Any
    reason: str


def _search_boxes(
    f: Callable, lower: np.ndarray, upper: np.ndarray, max_boxes: int, tol: float, progress: bool
) -> _Search:
    found = Found(f, lower, upper)
    undecided, num_boxes, exhausted = branch_and_bound(f, lower, upper, found, max_boxes, tol, progress)
    completeness, reason = _explain(len(undecided[0]), exhausted, max_boxes)
    points, errors = found.inside()
    return _Search(points, errors, undecided[0], undecided[1], lower, upper, num_boxes, completeness, reason)


def _search_regions(f: Any, lower: Any, upper: Any, progress: bool) -> _Search:
    if lower is not None and upper is not None:
        lower, upper = _check_box(f, lower, upper)
    found = region_fixed_points(f, lower, upper, progress=progress)
    return _Search(
        points=found.points,
        errors=found.errors,
        undecided_lower=found.undecided_lower,
        undecided_upper=found.undecided_upper,
        lower=found.lower,
        upper=found.upper,
        num_boxes=0,
        completeness=found.completeness,
        reason=found.reason,
    )


def _check_box(f: Callable, lower: Any, upper: Any) -> tuple[np.ndarray, np.ndarray]:
    region = getattr(f, "region", None)
    if (lower is None or upper is None) and region is None:
        raise ValueError("lower, upper: f has no region of its own; give the corners of the box to search.")
    lower = np.array(region[0] if lower is None else lower, dtype=np.float64)  # pyright: ignore[reportOptionalSubscript]
    upper = np.array(region[1] if upper is None else upper, dtype=np.float64)  # pyright: ignore[reportOptionalSubscript]
    if lower.ndim == 0 and upper.ndim == 0 and region is not None:
        lower, upper = (np.broadcast_to(corner, np.shape(region[0])).copy() for corner in (lower, upper))
    try:
        lower, upper = (corner.copy() for corner in np.broadcast_arrays(lower, upper))
    except ValueError as error:
        raise ValueError(f"lower, upper: shapes {lower.shape} and {upper.shape} do not match.") from error
    if lower.ndim != 1 or lower.size == 0:
        raise ValueError(f"lower, upper: expected the corners of a box, shape (N,), got shape {lower.shape}.")
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise ValueError("lower, upper: expected finite corners; give bounds that the states of interest keep.")
    if not (lower < upper).all():
        first = int(np.flatnonzero(~(lower < upper))[0])
        raise ValueError(
            f"lower, upper: expected lower < upper in every component, got {lower[first]} and {upper[first]} in "
            f"component {first}."
        )
    return lower, upper


def _explain(num_undecided: int, exhausted: bool, max_boxes: int) -> tuple[Any, str]:
    if num_undecided == 0:
        return CompletenessVerdict.proved, ""
    if exhausted:
        return CompletenessVerdict.out_of_boxes, (
            f"{max_boxes} boxes were examined and {num_undecided} are left. Raise max_boxes, or search a smaller box."
        )
    return CompletenessVerdict.undecided, (
        f"{num_undecided} undecided regions: a degenerate fixed point (I - DF singular), a continuum of fixed points, "
        "a jump of f, or states where f is undefined."
    )
