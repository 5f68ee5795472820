"""The linear map that a map is near a point, and what its eigenvalues say."""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import Array, ArrayLike, Complex, Float

from rnndyn._arrays import as_array
from rnndyn._programs import as_program, compiled
from rnndyn._validation import check_state
from rnndyn.dynamics.kinks import OneSidedLinearization, linearize_one_sided
from rnndyn.dynamics.numerics.one_sided import hides_kinks, may_have_kinks
from rnndyn.results import Result


def linearize(f: Callable[..., Array], x: ArrayLike, input: ArrayLike | None = None) -> "Linearization":
    r"""Linearise a map at a point: $F(x + \delta, u + \eta) \approx F(x, u) + DF\,\delta + D_uF\,\eta$.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`; or a driven map `(N,), (I,) -> (N,)` when `input` is given.
    - `x`: the point, shape `(N,)`. It need not be fixed.
    - `input`: the input of a driven map, shape `(I,)`; the result then has an `input_jacobian`.

    **Returns:** a `Linearization`.

    **Raises:** `ValueError` for a bad state or a map that changes its shape or dtype.

    Pure but for one thing: on concrete arrays the eigen-decomposition is done on the host, in the precision of `x`,
    because accelerators lack one for non-symmetric matrices. Under `jit` or `vmap` it is JAX's own, which needs a CPU.

    Where eigenvectors of equal multipliers coincide (a defective matrix, or one within rounding of it) there are no
    left ones: they are NaN, of those modes on concrete arrays, of all under `jit` or `vmap`. What does not need them
    survives: `non_normality`, `kreiss_constant`, `reactivity`.

    On a kink (a rectifier at 0) the Jacobian is that of one side, the one JAX takes. On concrete arrays this is
    noticed, `kink` then holds the others, and `is_stable` follows it. Under `jit` or `vmap` it is not.

    Reference: D. Sussillo & O. Barak (2013), *Opening the black box*; L. N. Trefethen & M. Embree (2005), *Spectra and
    Pseudospectra*; P. Henrici (1962), *Bounds for iterates, inverses, spectral variation and fields of values of
    non-normal matrices*.
    """
    check_state("x", x)
    x = as_array(x)
    held = () if input is None else (as_array(input),)
    program = as_program(f, x, *held, double=False)
    jacobian, *by_input = _jacobians(program, x, held)
    input_jacobian = by_input[0] if held else None
    multipliers, right, left = eigen_decomposition(jacobian)
    kink = None
    concrete = not isinstance(jacobian, jax.core.Tracer) and np.isfinite(np.asarray(x)).all()
    if concrete and (may_have_kinks(program) or hides_kinks(program)):
        kink = linearize_one_sided(lambda x: f(x, *(u.astype(x.dtype) for u in held)), x)
    return Linearization(x, jacobian, multipliers, right, left, input_jacobian, kink)


@compiled
def _jacobians(program: Callable[..., Array], x: Any, held: tuple[Any, ...]) -> list[Array]:
    """The derivatives by the state and by the input, if it has one."""
    return [jax.jacfwd(program, argnums)(x, *held) for argnums in range(1 + len(held))]


class Linearization(Result):
    """The linear part of a map at a point, eigenvalues by falling modulus.

    - `point`: where, `(N,)`.
    - `jacobian`: DF, `(N, N)`, row i the gradient of component i.
    - `multipliers`: its eigenvalues, `(N,)` complex.
    - `right`: column i is the eigenvector of multiplier i, of length 1.
    - `left`: row i is its left eigenvector, scaled so that `left @ right` is the identity; NaN where there is none,
      because
        right eigenvectors coincide. A left eigenvector is the selection vector of its mode: what it projects out of a
        perturbation, `left[i] @ delta`, is what the mode receives.
    - `input_jacobian`: D_uF, `(N, I)`, or `None` for a map without an input; `left @ input_jacobian` is what each
        mode receives from each input.
    - `kink`: all linear maps that meet at the point (`linearize_one_sided`), where it lies on a kink; else `None`. The
        multipliers are then those of one of them.
    """

    point: Float[Array, " N"]
    jacobian: Float[Array, "N N"]
    multipliers: Complex[Array | np.ndarray, " N"]
    right: Complex[Array | np.ndarray, "N N"]
    left: Complex[Array | np.ndarray, "N N"]
    input_jacobian: Float[Array, "N I"] | None = None
    kink: OneSidedLinearization | None = None

    @property
    def spectral_radius(self) -> Array:
        """The largest modulus of a multiplier."""
        return jnp.max(jnp.abs(self.multipliers))

    @property
    def is_stable(self) -> Array:
        """Whether every multiplier lies inside the unit circle; on a kink, whether all directions shrink for ever."""
        return self.spectral_radius < 1 if self.kink is None else jnp.asarray(self.kink.is_stable)

    @property
    def num_unstable(self) -> Array:
        """The number of multipliers outside the unit circle; on a kink 0 where stable, else at least 1."""
        count = jnp.sum(jnp.abs(self.multipliers) > 1)
        if self.kink is None:
            return count
        return jnp.zeros_like(count) if self.kink.is_stable else jnp.maximum(count, 1)

    @property
    def time_constants(self) -> Array:
        """Steps in which each mode grows or decays by a factor e: 1 / |ln |mu||; infinite on the unit circle."""
        return 1 / jnp.abs(jnp.log(jnp.abs(self.multipliers)))

    @property
    def frequencies(self) -> Array:
        """Cycles per step of each mode: arg(mu) / 2 pi, between -1/2 and 1/2."""
        return jnp.angle(self.multipliers) / (2 * jnp.pi)

    @property
    def non_normality(self) -> Array:
        """Henrici's departure from normality, sqrt(|DF|_F^2 - sum |mu|^2); 0 for orthogonal eigenvectors.

        It is the Frobenius norm of the strict upper triangle of the Schur form, and computed so on concrete arrays: the
        difference of the squares has half of the digits where it is small.
        """
        if isinstance(self.jacobian, jax.core.Tracer):
            excess = jnp.sum(self.jacobian**2) - jnp.sum(jnp.abs(self.multipliers) ** 2)
            return jnp.sqrt(jnp.maximum(excess, 0))
        triangle = scipy.linalg.schur(np.asarray(self.jacobian), output="complex")[0]
        return jnp.asarray(np.linalg.norm(np.triu(triangle, 1)), self.jacobian.dtype)

    @property
    def kreiss_constant(self) -> float:
        """A lower bound of the Kreiss constant K, itself a lower bound of the largest transient growth of a
        perturbation.

        K = sup over |z| > 1 of (|z| - 1) |(z - DF)^-1|, and K <= max_t |DF^t| <= e N K (Kreiss matrix theorem): the
        eigenvalues say what becomes of a perturbation in the end, K what may happen on the way. 1 for a stable normal
        matrix, infinite where a multiplier lies outside the unit circle. Found by search from 64 directions of z;
        concrete arrays only.
        """
        return kreiss_constant(np.asarray(self.jacobian, np.float64))

    @property
    def reactivity(self) -> Array:
        """The largest growth of any perturbation in one step: the 2-norm of DF."""
        return jnp.linalg.norm(self.jacobian, ord=2)

    @property
    def transient_growth_bound(self) -> Array:
        """The constant C in |DF^t| <= C rho^t for all t: the condition number of the eigenvectors (Bauer-Fike).

        Infinite where eigenvectors coincide: powers of a Jordan block grow like t rho^t, and no constant does.
        """
        complete = jnp.all(jnp.isfinite(self.left))
        return jnp.where(complete, jnp.linalg.cond(self.right), jnp.inf)

    def table(self) -> str:
        values = np.asarray(self.multipliers)
        shown = ", ".join(f"{m:.4g}" for m in values[:4]) + (", ..." if values.size > 4 else "")
        if self.kink is not None:
            return f"Linearization of {values.size} units, of the side that JAX takes. {self.kink.table()}"
        return (
            f"Linearization of {values.size} units: {'stable' if self.is_stable else 'unstable'}, "
            f"{int(self.num_unstable)} unstable directions\n"
            f"  multipliers        {shown}\n"
            f"  spectral radius    {float(self.spectral_radius):.6g}\n"
            f"  slowest time const {float(jnp.max(self.time_constants)):.4g} steps\n"
            f"  non-normality      {float(self.non_normality):.4g}"
        )


def eigen_decomposition(
    jacobian: Float[Array, "N N"],
) -> tuple[Array | np.ndarray, Array | np.ndarray, Array | np.ndarray]:
    """Eigenvalues by falling modulus, right eigenvectors as columns, left ones as rows with left @ right = I.

    Left eigenvectors are NaN where right ones coincide. The condition of eigenvalue i is 1 / s_i = |left_i| |right_i|;
    the matrix is within about s_i gap_i of one where it meets another eigenvalue and shares its vector (Wilkinson
    1972, "Note on matrices with a very ill-conditioned eigenproblem"). Where that is a rounding error of the matrix,
    and s_i is not just any small number, the computed vectors say nothing.
    """
    if isinstance(jacobian, jax.core.Tracer):
        values, right = jnp.linalg.eig(jacobian)
        order = jnp.argsort(-jnp.abs(values))
        values, right = values[order], right[:, order]
        defective = _is_defective(jnp, jacobian, values, right).any()
        safe = jnp.where(defective, jnp.eye(values.size, dtype=right.dtype), right)
        return values, right, jnp.where(defective, jnp.nan, jnp.linalg.inv(safe))
    matrix = np.asarray(jacobian)
    kind = np.complex64 if matrix.dtype == np.float32 else np.complex128
    values, left, right = scipy.linalg.eig(matrix, left=True, right=True)  # pyright: ignore[reportAssignmentType]
    order = np.argsort(-np.abs(values))
    values, left, right = values[order].astype(kind), left[:, order].conj().T.astype(kind), right[:, order].astype(kind)
    defective = _is_defective(np, matrix, values, right)
    if not defective.any():
        return values, right, np.linalg.inv(right)
    # Those of simple multipliers do not need the others: each is that of the transpose.
    usual = np.flatnonzero(~defective)
    left[usual] = np.linalg.solve(left[usual] @ right[:, usual], left[usual])
    left[defective] = np.nan
    return values, right, left


def _is_defective(xp: Any, matrix: Any, values: Any, right: Any) -> Any:
    """Which eigenvectors cannot be told from another one."""
    size, eps = values.shape[0], float(np.finfo(right.dtype).eps)
    _, sigma, rows = xp.linalg.svd(right)
    # Rows of the inverse, without the division by zero: |left_i|^2 = sum_k |v_ki|^2 / sigma_k^2.
    lengths = xp.sqrt(xp.sum((xp.abs(rows) / xp.maximum(sigma, eps**2)[:, None]) ** 2, axis=0))
    gaps = xp.abs(values[:, None] - values[None, :]) + xp.where(xp.eye(size, dtype=bool), xp.inf, 0)
    rounding = 10 * size * eps * xp.sqrt(xp.sum(xp.abs(matrix) ** 2))
    return (lengths > eps ** (-1 / 3)) & (xp.min(gaps, axis=1) <= rounding * lengths)


def kreiss_constant(matrix: Float[np.ndarray, "N N"]) -> float:
    """sup over |z| > 1 of (|z| - 1) / sigma_min(z - A), by a grid of angles and radii and a search from its best
    points."""
    size = len(matrix)
    if np.max(np.abs(np.linalg.eigvals(matrix))) > 1:
        return float("inf")
    identity = np.eye(size)

    def ratio(angle: float, log_radius: float) -> float:
        excess = np.exp(log_radius)
        smallest = np.linalg.svd((1 + excess) * np.exp(1j * angle) * identity - matrix, compute_uv=False)[-1]
        return excess / smallest if smallest > 0 else np.inf

    # A real matrix is as large at conj(z) as at z. Far out the ratio tends to 1, close in to 1 / (distance of the
    # circle).
    grid = [(ratio(a, r), a, r) for a in np.linspace(0, np.pi, 64) for r in np.linspace(np.log(1e-6), np.log(10), 12)]
    best = max(grid)[0]
    for _, angle, log_radius in sorted(grid, reverse=True)[:3]:
        end = scipy.optimize.minimize(lambda p: -ratio(*p), [angle, log_radius], method="Nelder-Mead")
        best = max(best, -float(end.fun))
    return max(1.0, float(best))
