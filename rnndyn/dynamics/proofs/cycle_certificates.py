"""Proofs that a cycle exists, that it is the only one nearby, and that its period is minimal."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._validation import check_states
from rnndyn.dynamics.numerics.drivers import double_precision
from rnndyn.dynamics.numerics.periodic_orbits import smallest_period
from rnndyn.dynamics.numerics.sequence_map import SequenceMap
from rnndyn.dynamics.proofs.certificates import certify_fixed_point, exists
from rnndyn.dynamics.proofs.verdicts import ProofVerdict
from rnndyn.results import Judged


def certify_cycle(f: Callable[[Array], Array], points: Array | np.ndarray) -> "CycleCertificate":
    r"""Prove that a map has a cycle near the given points, or say why this cannot be proved.

    The cycle is a fixed point of the map on sequences

    $$ (x_0, \dots, x_{p-1}) \mapsto (F(x_{p-1}), F(x_0), \dots, F(x_{p-2})), $$

    to which the interval test of `certify_fixed_point` is applied. The iterate $F^p$, over which intervals would grow,
    is never formed. The eigenvalues of that map are the p-th roots of the multipliers of the cycle.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`, made of the operations that `docs/certificates.md` lists.
    - `points`: the points of the cycle in order, `(p, N)`, for instance a row of `Cycles.points`.

    **Returns:** a `CycleCertificate`. Where `certified` is false, `reason` says what stood in the way.

    **Raises:** `ValueError` for points that are no finite states or an `f` that does not keep their shape;
    `NotImplementedError` naming the operation when f uses one without an interval rule.

    The work grows as $(p N)^3$: p N of a few hundred takes seconds. Assumptions and references are those of
    `certify_fixed_point`.
    """
    check_states("points", points)
    points = np.asarray(points, np.float64)
    period = len(points)
    with double_precision():
        sequence_map = SequenceMap(f, jnp.ones(period, bool))
    certificate = certify_fixed_point(sequence_map, points.ravel())
    radius = certificate.existence_radius
    # Two points of the true cycle differ where the computed ones are farther apart than both may be off; the factor
    # covers the rounding of the difference.
    is_minimal = certificate.certified and smallest_period(points, 2.001 * radius) == period
    result, reason = certificate.result, certificate.reason
    if certificate.certified and not is_minimal:
        result = ProofVerdict.shorter_period
        reason = f"the points repeat earlier to within the existence radius {radius:.1e}: a shorter period is possible."
    return CycleCertificate(
        points=points,
        residual=certificate.residual,
        existence_radius=radius,
        uniqueness_radius=certificate.uniqueness_radius,
        num_unstable=certificate.num_unstable // period if is_minimal and certificate.num_unstable >= 0 else -1,
        result=result,
        reason=reason,
    )


class CycleCertificate(Judged):
    """What was proved about a cycle; distances are largest differences of a component, over all its points.

    - `points`: the points that were examined, `(p, N)`.
    - `residual`: the largest $|F(x_i) - x_{i+1}|_\\infty$.
    - `existence_radius`: infinite when no periodic sequence was proved.
    - `uniqueness_radius`: the largest tested distance within which it is the only sequence of period p.
    - `num_unstable`: multipliers with |mu| > 1, proved together with the absence of |mu| = 1; -1 where unproved.
    - `result`: what was proved, or what stood in the way, a `ProofVerdict`.
    - `reason`: what could not be proved, and why, with its numbers; empty when everything was. Where it speaks of a
        fixed point, that of the map on sequences is meant.
    """

    points: Float[np.ndarray, "p N"]
    residual: float
    existence_radius: float
    uniqueness_radius: float
    num_unstable: int
    result: ProofVerdict
    reason: str

    @property
    def certified(self) -> bool:
        """Whether a cycle of minimal period p exists within `existence_radius` of the points."""
        return exists(self.result)

    @property
    def period(self) -> int:
        """The period p."""
        return len(self.points)

    def table(self) -> str:
        if not self.certified:
            return f"CycleCertificate: not certified. {self.reason}"
        unstable = str(self.num_unstable) if self.num_unstable >= 0 else f"open ({self.reason})"
        return (
            f"CycleCertificate: a cycle of minimal period {self.period} exists\n"
            f"  within           {self.existence_radius:.2e} of the points (residual {self.residual:.1e})\n"
            f"  the only one in  {self.uniqueness_radius:.2e}\n"
            f"  num_unstable     {unstable}"
        )
