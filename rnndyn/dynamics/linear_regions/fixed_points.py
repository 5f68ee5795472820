"""The fixed points of a piecewise-linear network from its linear regions: all of them in a box."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from rnndyn.dynamics.linear_regions.enumeration import enumerate_cycles
from rnndyn.dynamics.numerics.verdicts import CompletenessVerdict


@dataclasses.dataclass(frozen=True)
class RegionFixedPoints:
    """What is known of the fixed points in a box.

    - `points`: isolated fixed points inside their linear regions, in lexicographic order, `(K, N)`.
    - `errors`: bounds on their distance from the exact ones, `(K,)`.
    - `undecided_lower`, `undecided_upper`: corners `(M, N)` of boxes that may hold others: a small one around each
        point on a border between regions; the whole box where there are families or the search was not exhaustive.
    - `lower`, `upper`: the box `(N,)`.
    - `completeness`: whether these are all, a `CompletenessVerdict`.
    - `reason`: why there are undecided boxes; empty where there are none.
    """

    points: np.ndarray
    errors: np.ndarray
    undecided_lower: np.ndarray
    undecided_upper: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    completeness: Any
    reason: str


def has_linear_regions(f: Callable) -> bool:
    """Whether `f` is a map made of a piecewise-linear cell with its input held."""
    return hasattr(getattr(f, "cell", None), "relu_form") and hasattr(f, "input")


def region_fixed_points(
    f: Any, lower: ArrayLike | None = None, upper: ArrayLike | None = None, **options: Any
) -> RegionFixedPoints:
    """The fixed points of `f`, a map for which `has_linear_regions`, in the box `lower <= x <= upper`.

    Without corners the box is all of the space, as far as the proof reaches. `options` go to `enumerate_cycles`.
    """
    cycles = enumerate_cycles(f.cell, f.input, 1, **options)[1]
    points, errors = cycles.points[:, 0], cycles.errors[:, None]
    size = points.shape[1]
    reach = cycles.radius if cycles.proved else np.inf
    low, high = (
        np.array(np.broadcast_to(sign * reach if bound is None else np.asarray(bound, float), size), float)
        for sign, bound in ((-1, lower), (1, upper))
    )
    reasons = []
    if not cycles.proved:
        reasons.append("there are too many linear regions to exclude each: the points are a sample. Raise max_tests.")
    elif np.max(np.abs([low, high])) > reach:
        reasons.append(f"the box is larger than the proof, which holds for |z| < {reach:.3g}.")
    if cycles.families:
        dimensions = sorted({family.dimension for family in cycles.families})
        reasons.append(f"there are families of fixed points, of dimension {', '.join(map(str, dimensions))}.")
    whole = bool(reasons)
    inside = np.all((points + errors >= low) & (points - errors <= high), axis=1)
    on_border = inside & cycles.is_on_border
    if on_border.any():
        reasons.append(f"{on_border.sum()} points lie on a border between linear regions and exist up to rounding.")
    undecided_lower, undecided_upper = (points - errors)[on_border], (points + errors)[on_border]
    if whole:
        undecided_lower, undecided_upper = low[None], high[None]
    listed = np.flatnonzero(inside & ~cycles.is_on_border)
    listed = listed[np.lexsort(points[listed].T[::-1])]
    completeness = CompletenessVerdict.undecided if reasons else CompletenessVerdict.proved
    return RegionFixedPoints(
        points=points[listed],
        errors=errors[listed, 0],
        undecided_lower=undecided_lower,
        undecided_upper=undecided_upper,
        lower=low,
        upper=high,
        completeness=completeness if cycles.proved else cycles.completeness,
        reason=" ".join(reasons),
    )
