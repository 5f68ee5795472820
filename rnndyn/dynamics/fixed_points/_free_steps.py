"""Newton's method without descent: full steps, whether they lower the residual or not."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from rnndyn.dynamics.numerics.evidence import rounding_floor
from rnndyn.dynamics.numerics.newton import solve_each
from rnndyn.dynamics.numerics.newton_method import singular_shift
from rnndyn.dynamics.numerics.torus import difference

FREE_STEPS = 16
"""Full Newton steps in a row. Each goes to the fixed point of the linear piece it starts in, and the pieces on the way
to the right one are few; where the steps go in circles more of them do not help."""


def free_steps(
    evaluate_rows: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    places: Float[np.ndarray, "K N"],
    bounds: tuple[np.ndarray, np.ndarray] | None,
    scales: Float[np.ndarray, " K"],
    period: Float[np.ndarray, " N"] | None,
    *,
    target: Float[np.ndarray, "K N"] | None,
    stage: float,
    num_steps: int,
) -> tuple[Float[np.ndarray, "K N"], Bool[np.ndarray, " K"]]:
    r"""Newton steps for $(1 - s)\,a + s\,F(x) = x$ without regard to the residual; with s = 1 for F itself.

    **Arguments:**

    - `evaluate_rows`: `(x, rows) -> F(x), DF(x)`, of the rows x of `places` with these numbers.
    - `places`: where to begin.
    - `bounds`: a box that the iterates are kept in, `(K, N)` or `(N,)` each.
    - `scales`: a length typical of the states of each.
    - `period`: of the angles.
    - `target`, `stage`: a and s; `num_steps`: the most steps.

    **Returns:** the last iterates, and which of them are solutions to rounding.
    """
    x, ok = places.copy(), np.zeros(len(places), bool)
    limits = 2 * np.sqrt(x.shape[1]) * scales
    lower, upper = (np.broadcast_to(bound, x.shape) for bound in bounds or (-np.inf, np.inf))
    for _ in range(num_steps + 1):
        rows = np.flatnonzero(~ok & np.isfinite(x).all(axis=1))
        if rows.size == 0:
            break
        images, jacobians = evaluate_rows(x[rows], rows)
        if target is not None:
            images, jacobians = (1 - stage) * target[rows] + stage * images, stage * jacobians
        g = difference(images, x[rows], period)
        row_sums = np.max(np.sum(np.abs(jacobians), axis=2), axis=1)
        size = np.maximum(np.max(np.abs(x[rows]), axis=1), scales[rows])
        ok[rows] = np.max(np.abs(g), axis=1) <= rounding_floor(size, row_sums)
        usable = np.isfinite(jacobians).all(axis=(1, 2)) & np.isfinite(g).all(axis=1)
        x[rows[~usable]] = np.nan
        move = (~ok[rows]) & usable
        rows, g, jacobians, row_sums = rows[move], g[move], jacobians[move], row_sums[move]
        matrices = (1 - singular_shift(row_sums))[:, None, None] * np.eye(x.shape[1]) - jacobians
        steps = solve_each(matrices, g)
        lengths = np.linalg.norm(steps, axis=1)
        steps *= np.minimum(1, limits[rows] / np.maximum(lengths, np.finfo(float).tiny))[:, None]
        x[rows] = np.clip(x[rows] + steps, lower[rows], upper[rows])
    return x, ok
