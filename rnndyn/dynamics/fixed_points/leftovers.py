"""What a search for fixed points finds besides isolated ones: searches that ended elsewhere, and continua."""

import numpy as np
from jaxtyping import Bool, Float

from rnndyn.dynamics.fixed_points._search import RootTable
from rnndyn.dynamics.numerics.deduplication import farthest_points
from rnndyn.dynamics.numerics.evidence import degeneracy_threshold
from rnndyn.dynamics.numerics.torus import embedded
from rnndyn.dynamics.numerics.verdicts import NewtonVerdict
from rnndyn.results import Judged, Result, is_verdict


class Unconverged(Judged):
    """Candidates whose search ended away from any fixed point.

    - `points`: where they ended, `(M, N)`.
    - `residuals`: $|F(x) - x|_\\infty$ there, `(M,)`; NaN where the map gave NaN.
    - `result`: how each search ended, a batch `(M,)` of `NewtonVerdict`.
    """

    points: Float[np.ndarray, "M N"]
    residuals: Float[np.ndarray, " M"]
    result: NewtonVerdict

    def __len__(self) -> int:
        return len(self.points)

    @property
    def stalled(self) -> Bool[np.ndarray, " M"]:
        """Which of them ended at a local minimum of $|F(x) - x|$: a slow point, see `find_slow_points`."""
        return is_verdict(self.result, NewtonVerdict.stalled)

    def table(self) -> str:
        if len(self) == 0:
            return "every candidate converged"
        num_lost = int(np.sum(is_verdict(self.result, NewtonVerdict.not_finite)))
        num_late = int(np.sum(is_verdict(self.result, NewtonVerdict.out_of_steps)))
        return (
            f"{len(self)} candidates did not converge: {int(self.stalled.sum())} at local minima of the speed, "
            f"{num_late} out of steps, {num_lost} lost to NaN; best residual {self.best:.3g}"
        )

    @property
    def best(self) -> float:
        """The smallest residual that is a number; infinite where none is."""
        return float(np.min(self.residuals[np.isfinite(self.residuals)], initial=np.inf))


class Continuum(Result):
    """Fixed points that are not isolated: a curve or surface of them, described by a sample.

    - `points`: up to 64 of them, far from one another, `(M, N)`.
    - `residuals`: $|F(x) - x|_\\infty$ there, `(M,)`.
    - `dimension`: of the null space of I - DF, the median over the sample.
    - `num_hits`: how many candidates ended on it.
    """

    points: Float[np.ndarray, "M N"]
    residuals: Float[np.ndarray, " M"]
    dimension: int
    num_hits: int

    def table(self) -> str:
        return f"a continuum of fixed points of dimension {self.dimension}, reached by {self.num_hits} candidates"


def describe_continuum(roots: RootTable, period: np.ndarray | None) -> Continuum:
    """Up to 64 roots far from one another, and the median dimension of the null space of I - DF at all of them."""
    nullities = np.sum(
        np.linalg.svd(np.eye(roots.points.shape[1]) - roots.jacobians, compute_uv=False)
        <= degeneracy_threshold(roots.jacobians)[:, None],
        axis=1,
    )
    chosen = farthest_points(embedded(roots.points, period), 64)
    return Continuum(roots.points[chosen], roots.residuals[chosen], int(np.median(nullities)), int(roots.hits.sum()))
