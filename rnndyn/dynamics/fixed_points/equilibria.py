"""The equilibria of a flow: where its vector field vanishes."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Int

from rnndyn._programs import compiled
from rnndyn._validation import check_states
from rnndyn.dynamics.fixed_points.fixed_points import find_fixed_points
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.dynamics.numerics.drivers import double_precision, let_in, map_in_chunks
from rnndyn.dynamics.numerics.verdicts import PointVerdict
from rnndyn.results import Judged, first_verdict


def find_equilibria(
    vector_field: Callable[[Array], Array],
    candidates: ArrayLike,
    *,
    max_steps: int = 100,
    max_rounds: int = 4,
    seed: int = 0,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "Equilibria":
    r"""Find solutions of $v(x) = 0$, the equilibria of $\dot x = v(x)$, from many candidates at once.

    They are the fixed points of $x \mapsto x + v(x)/\ell$, found by `find_fixed_points`; the rate $\ell$ is the median
    norm of $Dv$ at the candidates, so that the unit of time does not matter.

    **Arguments:**

    - `vector_field`: v, `(N,) -> (N,)`.
    - `candidates`, `max_steps`, `max_rounds`, `seed`, `progress`, `devices`: as in `find_fixed_points`.

    **Returns:** an `Equilibria` with NumPy arrays.

    **Raises:** `ValueError` for bad candidates, or a vector field that changes the shape or dtype of its state.

    Reference: as `find_fixed_points`.
    """
    check_states("candidates", candidates)
    with double_precision(devices):
        starts = np.asarray(candidates, np.float64)
        vector_field = let_in(vector_field, starts[0], name="vector_field")
        size = starts.shape[1]
        evaluate = lambda x: map_in_chunks(
            lambda part: _fields_and_jacobians(vector_field, part),
            x,
            bytes_per_item=32 * size**2,
            description="equilibria",
            progress=False,
        )
        _, jacobians = evaluate(starts[:256])
        norms = np.linalg.norm(jacobians, axis=(1, 2))
        norms = norms[np.isfinite(norms) & (norms > 0)]
        rate = float(np.median(norms)) if norms.size else 1.0
        found = find_fixed_points(
            # As an array: a number would be compiled in, and every other rate compiled again.
            EulerStep(vector_field, np.asarray(rate)),
            starts,
            max_steps=max_steps,
            max_rounds=max_rounds,
            seed=seed,
            progress=progress,
        )
        if len(found):
            fields, jacobians = evaluate(found.points)
        else:
            fields, jacobians = np.zeros((0, size)), np.zeros((0, size, size))
    return _equilibria(found, fields, jacobians)


class Equilibria(Judged):
    """Equilibria of a flow, ordered by the number of unstable directions, then by coordinates.

    - `points`: the equilibria, `(K, N)`.
    - `residuals`: $|v(x)|_\\infty$, measured by one plain call of v, `(K,)`.
    - `errors`: estimated distance to the true equilibrium, `(K,)`.
    - `jacobians`: Dv at the points, `(K, N, N)`.
    - `eigenvalues`: of Dv, per unit time, by falling real part, `(K, N)` complex.
    - `num_hits`: how many candidates ended there, `(K,)`.
    - `num_candidates`, `num_unconverged`: how many candidates were run, and how many of them ended elsewhere.
    """

    points: Float[np.ndarray, "K N"]
    residuals: Float[np.ndarray, " K"]
    errors: Float[np.ndarray, " K"]
    jacobians: Float[np.ndarray, "K N N"]
    eigenvalues: Complex[np.ndarray, "K N"]
    num_hits: Int[np.ndarray, " K"]
    num_candidates: int
    num_unconverged: int

    def __len__(self) -> int:
        return len(self.points)

    @property
    def result(self) -> Any:
        """What each equilibrium is worth, a batch `(K,)` of `PointVerdict`: `degenerate` where Dv is singular."""
        return first_verdict((~np.isfinite(self.errors), PointVerdict.degenerate), otherwise=PointVerdict.regular)

    @property
    def is_stable(self) -> Bool[np.ndarray, " K"]:
        """Whether all eigenvalues of each equilibrium have negative real parts."""
        return np.all(np.real(self.eigenvalues) < 0, axis=1)

    @property
    def num_unstable(self) -> Int[np.ndarray, " K"]:
        """The number of eigenvalues with positive real part, for each equilibrium."""
        return np.sum(np.real(self.eigenvalues) > 0, axis=1)

    def table(self) -> str:
        lines = [f"{len(self)} equilibria of {self.points.shape[1]} units from {self.num_candidates} candidates"]
        if len(self):
            lines.append("  unstable  leading eigenvalue        residual     error")
        for row in range(min(len(self), 20)):
            lines.append(
                f"  {self.num_unstable[row]:8d}  {self.eigenvalues[row, 0]:<24.6g}  {self.residuals[row]:8.1e}  "
                f"{self.errors[row]:8.1e}"
            )
        if len(self) > 20:
            lines.append(f"  ... and {len(self) - 20} more")
        lines.append(f"  {self.num_unconverged} candidates ended elsewhere")
        return "\n".join(lines)


class EulerStep(eqx.Module):
    """The map x -> x + v(x) / rate, whose fixed points are the equilibria."""

    vector_field: Callable[[Array], Array]
    rate: Any

    def __call__(self, x: Array) -> Array:
        return x + self.vector_field(x) / self.rate


def _equilibria(found: FixedPoints, fields: np.ndarray, jacobians: np.ndarray) -> Equilibria:
    eigenvalues = np.linalg.eigvals(jacobians).astype(complex)
    order = np.argsort(-np.real(eigenvalues), axis=1, kind="stable")
    eigenvalues = np.take_along_axis(eigenvalues, order, axis=1)
    num_unstable = np.sum(np.real(eigenvalues) > 0, axis=1)
    rows = np.lexsort((*found.points.T[::-1], num_unstable))
    return Equilibria(
        found.points[rows],
        np.max(np.abs(fields), axis=1, initial=0.0)[rows],
        found.errors[rows],
        jacobians[rows],
        eigenvalues[rows],
        found.num_hits[rows],
        found.num_candidates,
        len(found.unconverged),
    )


@compiled
def _fields_and_jacobians(vector_field: Callable[[Array], Array], points: Any) -> tuple[Array, Array]:
    points = jnp.asarray(points)
    return jax.vmap(vector_field)(points), jax.vmap(jax.jacfwd(vector_field))(points)
