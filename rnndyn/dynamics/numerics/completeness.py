"""Whether a search can have found everything: the sum of the indices against the Lefschetz number of the map."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnndyn.dynamics.numerics.evaluation import images_of
from rnndyn.dynamics.numerics.jumps import jumps_in
from rnndyn.dynamics.numerics.torus import difference
from rnndyn.dynamics.numerics.trapping import boxes_around, leaves
from rnndyn.dynamics.numerics.verdicts import CompletenessVerdict


def lefschetz_number(winding: Int[np.ndarray, "m m"], power: int) -> int:
    r"""What the indices $\operatorname{sign}\det(I - DF^p)$ of all fixed points of $F^p$ sum to, $\det(I - A^p)$.

    `winding` is the matrix A of `winding_matrix`, empty (m = 0) for a map of a box into itself, where the sum is 1.
    Exact integers (Bareiss' elimination), since the powers of A soon leave the range of floats.

    Reference: S. Lefschetz (1926); for tori R. Brooks, R. Brown, J. Pak & D. Taylor (1975), *Nielsen numbers of maps
    of tori*.
    """
    size = len(winding)
    matrix, factor = np.eye(size, dtype=object), winding.astype(object)
    for _ in range(power):
        matrix = matrix @ factor
    rows = (np.eye(size, dtype=object) - matrix).tolist() if size else []
    sign, before = 1, 1
    for k in range(size - 1):
        pivot = next((i for i in range(k, size) if rows[i][k] != 0), None)
        if pivot is None:
            return 0
        if pivot != k:
            rows[k], rows[pivot], sign = rows[pivot], rows[k], -sign
        for i in range(k + 1, size):
            for j in range(k + 1, size):
                rows[i][j] = (rows[i][j] * rows[k][k] - rows[i][k] * rows[k][j]) // before
        before = rows[k][k]
    return int(sign * rows[-1][-1]) if size else 1


def winding_matrix(
    f: Callable[[Array], Array], x: Float[np.ndarray, " N"], period: Float[np.ndarray, " N"]
) -> Int[np.ndarray, "m m"] | None:
    """How often each angle of F(x) turns while each angle of x turns once; `None` where that is not clear.

    Around every angle in turn F is followed at 512 places; what moves by more than a third of a turn between two of
    them (a jump, or a map too steep) leaves the matrix open.
    """
    angles = np.flatnonzero(np.isfinite(period))
    turns = np.linspace(0, 1, 513)
    matrix = np.zeros((angles.size, angles.size), int)
    for column, angle in enumerate(angles):
        line = np.repeat(x[None], turns.size, axis=0)
        line[:, angle] = x[angle] + turns * period[angle]
        images = images_of(f, line)
        steps = difference(images[1:], images[:-1], period)[:, angles] / period[angles]
        total = steps.sum(axis=0)
        # The ends of the line are one state: the total is whole but for rounding.
        if not np.max(np.abs(steps)) <= 1 / 3 or not np.max(np.abs(total - np.round(total))) <= 1e-6:
            return None
        matrix[:, column] = np.round(total)
    return matrix


class IndexGoal(NamedTuple):
    """What is known of the sum of all indices: the winding of the angles, and the box that it holds for."""

    winding: Int[np.ndarray, "m m"] | None
    trap: Float[np.ndarray, "2 N"] | None
    is_trap_proved: bool = False

    def expected(self, power: int) -> int | None:
        """The index sum of all fixed points of F^power, or `None` where it is not known."""
        return None if self.winding is None else lefschetz_number(self.winding, power)


def index_goal(
    f: Callable[[Array], Array],
    states: Float[np.ndarray, "M N"],
    region: Float[np.ndarray, "2 N"] | None,
    period: Float[np.ndarray, " N"] | None,
    is_kept: Callable[..., bool],
) -> IndexGoal:
    """What the indices must sum to: by the region of the map, its angles, or a box that it keeps (`trapping_box`)."""
    if period is not None and (region is not None or np.isfinite(period).all()):
        return IndexGoal(winding_matrix(f, states[0], period), None)
    box = np.zeros((0, 0), int)
    if region is not None:
        return IndexGoal(box, None)
    trap, is_proved = (None, False) if period is not None else trapping_box(f, states, is_kept)
    return IndexGoal(None if trap is None else box, trap, is_proved)


def within(
    points: Float[np.ndarray, "K *p N"], errors: Float[np.ndarray, " K"], region: Float[np.ndarray, "2 N"] | None
) -> Bool[np.ndarray, " K"]:
    """Which points, or cycles with all their points, lie in a region.

    A point on the edge belongs to it: its own error, up to a billionth of its size, is how far out rounding can put it.
    """
    if region is None:
        return np.ones(len(points), bool)
    flat = points.reshape(len(points), math.prod(points.shape[1:-1]), points.shape[-1])
    sizes = np.maximum(np.max(np.abs(flat), axis=(1, 2), initial=0.0), np.finfo(float).tiny)
    margin = (np.minimum(errors, 1e-9 * sizes) + 1e-12 * sizes)[:, None, None]
    return np.all((flat >= region[0] - margin) & (flat <= region[1] + margin), axis=(1, 2))


def draw_box(region: np.ndarray | None, period: np.ndarray | None) -> np.ndarray | None:
    """The box that random states are drawn from, angles from a whole turn; `None` where it has no end."""
    if period is None:
        return region
    box = np.stack([np.zeros_like(period), period])
    if region is not None:
        box = np.where(np.isfinite(period), box, region)
    return box if np.isfinite(box).all() else None


def completeness_of(may_be_complete: bool | None, is_sampled: bool) -> Any:
    """What the index sum says, as a verdict; `is_sampled` where the box that it holds for is only seen to be kept."""
    if may_be_complete is None:
        return CompletenessVerdict.unknown
    if may_be_complete:
        return CompletenessVerdict.balanced
    return CompletenessVerdict.unbalanced if is_sampled else CompletenessVerdict.incomplete


def completeness_note(
    found: int | None, expected: int | None, may_be_complete: bool | None, trap: Any, is_trap_proved: bool
) -> str:
    """A line of a table that says what the index sum says."""
    if expected is None:
        return f"index sum {found}: whether all are found is not known (no region, no angles, no trapping box seen)"
    is_sampled = trap is not None and not is_trap_proved
    where = "" if trap is None else f" in a box that the map {'is seen to keep' if is_sampled else 'keeps'}"
    missing = "some are missing, or the map leaves the box somewhere" if is_sampled else "some are missing"
    says = {True: "nothing need be missing", False: missing, None: "says nothing here"}[may_be_complete]
    return f"index sum {found}, expected {expected}{where}: {says}"


def trapping_box(
    f: Callable[[Array], Array], states: Float[np.ndarray, "M N"], is_kept: Callable[..., bool]
) -> tuple[Float[np.ndarray, "2 N"] | None, bool]:
    """A box around the states that F takes into itself, and whether that is proved; `None` where none is found.

    `is_kept(f, box)` proves it. Else it is the evidence of `leaves`, and of looking for jumps.
    """
    for box in boxes_around(states, images_of(f, states)):
        if is_kept(f, box):
            return box, True
        if not leaves(f, box):
            # Of a map that jumps the indices count nothing.
            return (None if jumps_in(f, box) else box), False
    return None, False


def check_until_complete(until_complete: bool, goal: IndexGoal) -> None:
    """Raise where a search is to run until it may be complete, and nothing tells when that is."""
    if until_complete and (goal.winding is None or goal.trap is not None):
        raise ValueError(
            "until_complete: completeness is judged by the index sum, which needs a map with a region that it takes "
            "into itself, or angles. Pass region=(lower, upper) to as_map, wrap the map with on_torus(f, period), or "
            "pass until_complete=False."
        )


def warn_incomplete(
    what: str, sums: Mapping[int, tuple[int | None, int | None]], is_sampled: bool, *, stacklevel: int = 3
) -> None:
    """Warn of index sums `{period: (found, expected)}` that say that something is missing, the caller of the caller."""
    wrong = {p: pair for p, pair in sums.items() if pair[0] != pair[1]}
    if wrong:
        told = ", ".join(
            f"{found}, not {expected}" + ("" if p == 1 else f" (period {p})") for p, (found, expected) in wrong.items()
        )
        certainty = ", unless the map leaves the box `trap`, which a search for such places did not find" * is_sampled
        warnings.warn(
            f"The indices of the {what} found sum to {told}: some are missing{certainty}. Add candidates, or search "
            "with until_complete=True.",
            stacklevel=stacklevel,
        )
