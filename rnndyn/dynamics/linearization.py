"""The linear map that a map is near a point, and what its eigenvalues say."""

from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnndyn._validation import check_map, check_state
from rnndyn.dynamics.kinks import OneSidedLinearization, linearize_one_sided
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

    On a kink (a rectifier at 0) the Jacobian is that of one side, the one JAX takes. On concrete arrays this is
    noticed, `kink` then holds the others, and `is_stable` follows it. Under `jit` or `vmap` it is not.

    Reference: D. Sussillo & O. Barak (2013), *Opening the black box*; L. N. Trefethen & M. Embree (2005), *Spectra and
    Pseudospectra*.
    """
    check_state("x", x)
    x = jnp.asarray(x)
    if input is None:
        check_map(f, x)
        jacobian, input_jacobian = jax.jacfwd(f)(x), None
    else:
        u = jnp.asarray(input)
        check_map(f, x, u)
        jacobian = jax.jacfwd(f)(x, u)
        input_jacobian = jax.jacfwd(lambda u: f(x, u))(u)
    multipliers, right, left = eigen_decomposition(jacobian)
    kink = None
    if not isinstance(jacobian, jax.core.Tracer) and np.isfinite(np.asarray(x)).all():
        kink = linearize_one_sided(f if input is None else lambda x: f(x, jnp.asarray(input, x.dtype)), x)
    return Linearization(x, jacobian, multipliers, right, left, input_jacobian, kink)


class Linearization(Result):
    """The linear part of a map at a point, eigenvalues by falling modulus.

    - `point`: where, `(N,)`.
    - `jacobian`: DF, `(N, N)`, row i the gradient of component i.
    - `multipliers`: its eigenvalues, `(N,)` complex.
    - `right`: column i is the eigenvector of multiplier i, of length 1.
    - `left`: row i is its left eigenvector, scaled so that `left @ right` is the identity; NaN where the eigenvectors
        do not span the space. A left eigenvector is the selection vector of its mode: what it projects out of a
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
        """Henrici's departure from normality, sqrt(|DF|_F^2 - sum |mu|^2); 0 for orthogonal eigenvectors."""
        excess = jnp.sum(self.jacobian**2) - jnp.sum(jnp.abs(self.multipliers) ** 2)
        return jnp.sqrt(jnp.maximum(excess, 0))

    @property
    def reactivity(self) -> Array:
        """The largest growth of any perturbation in one step: the 2-norm of DF."""
        return jnp.linalg.norm(self.jacobian, ord=2)

    @property
    def transient_growth_bound(self) -> Array:
        """The constant C in |DF^t| <= C rho^t for all t: the condition number of the eigenvectors (Bauer-Fike)."""
        return jnp.linalg.cond(self.right)

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
    """Eigenvalues by falling modulus, right eigenvectors as columns, left ones as rows with left @ right = I."""
    if isinstance(jacobian, jax.core.Tracer):
        xp, (values, right) = jnp, jnp.linalg.eig(jacobian)
    else:
        xp, (values, right) = np, np.linalg.eig(np.asarray(jacobian))
        kind = np.complex64 if jacobian.dtype == jnp.float32 else np.complex128
        values, right = values.astype(kind), right.astype(kind)
    order = xp.argsort(-xp.abs(values))
    values, right = values[order], right[:, order]
    # A defective matrix has no basis of eigenvectors: NaN says so, where NumPy would raise.
    try:
        left = xp.linalg.inv(right)
    except np.linalg.LinAlgError:
        left = xp.full_like(right, xp.nan)
    return values, right, left
