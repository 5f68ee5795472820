"""A fixed point of a map too large for its Jacobian, by products with it alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, gmres

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.evidence import by_modulus
from rnndyn.dynamics.numerics.verdicts import NewtonVerdict
from rnndyn.results import Judged

RESTART = 60
"""Vectors that GMRES keeps: 5 MB for 10 000 units."""

HALVINGS = 12

# What is known of SciPy's types lacks these keywords.
_operator: Any = LinearOperator
_eigs: Any = eigs


def find_large_fixed_point(
    f: Callable[[Array], Array],
    x0: ArrayLike,
    *,
    num_multipliers: int = 8,
    tol: float = 1e-12,
    max_steps: int = 30,
    seed: int = 0,
) -> "LargeFixedPoint":
    r"""Find a fixed point of a map of many thousand units, and its leading multipliers, without a Jacobian.

    Newton's method, whose steps $(I - DF)\,\delta = F(x) - x$ are solved by GMRES to a tolerance that falls with the
    residual, halved where the residual would grow; then Arnoldi's method for the multipliers of largest modulus. Both
    need products $DF\,v$ only, one forward derivative each: for a dense layer as much as a step of the map.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`, dense, sparse or of low rank.
    - `x0`: a guess, `(N,)`; where there is none, a state that the map has settled to.
    - `num_multipliers`: how many multipliers, at most N - 2; 0 for none.
    - `tol`: the residual $|F(x) - x|_\infty$, in units of the largest entry of the state or of 1, to reach.
    - `max_steps`: Newton steps at the most.
    - `seed`: of the vector that Arnoldi's method begins with.

    **Returns:** a `LargeFixedPoint` of NumPy arrays; `result` says whether it converged.

    **Raises:** `ValueError` for a state that is no vector of numbers, or a map that changes its shape or dtype.

    How many directions are unstable is known only as far as the multipliers go: those outside the unit circle are
    counted, and `is_stable` stays open (`None`) where all of them lie inside but were not all found. Nothing here
    proves that Arnoldi's method has missed none.

    Reference: D. A. Knoll & D. E. Keyes (2004), *Jacobian-free Newton-Krylov methods*; S. C. Eisenstat & H. F. Walker
    (1996), *Choosing the forcing terms in an inexact Newton method*; R. B. Lehoucq, D. C. Sorensen & C. Yang (1998),
    *ARPACK Users' Guide*.
    """
    check_state("x0", x0)
    check_at_least("max_steps", max_steps, 1)
    check_at_least("num_multipliers", num_multipliers, 0)
    with double_precision():
        x = np.asarray(x0, np.float64)
        if num_multipliers > x.size - 2:
            raise ValueError(f"num_multipliers: expected at most N - 2 = {x.size - 2}, got {num_multipliers}.")
        f = let_in(f, x)
        tangent = _Tangent(f)
        x, g, num_steps, result = _newton_krylov(f, tangent, x, tol, max_steps)
        multipliers, complete = np.zeros(0, complex), num_multipliers == 0
        if num_multipliers and result == NewtonVerdict.converged:
            multipliers, complete = _leading(tangent.at(x), x.size, num_multipliers, seed)
        return LargeFixedPoint(
            x, float(np.max(np.abs(g))), multipliers, complete, num_steps, tangent.num_products, result
        )


class LargeFixedPoint(Judged):
    """A fixed point of a large map.

    - `point`: the fixed point, or the last iterate, `(N,)`.
    - `residual`: $|F(x) - x|_\\infty$ there, measured by one plain call of F.
    - `multipliers`: those of largest modulus, by falling modulus, complex; empty where the search did not converge.
    - `multipliers_converged`: whether Arnoldi's method found as many as were asked for.
    - `num_steps`: Newton steps.
    - `num_products`: products with the derivative, for steps and multipliers together.
    - `result`: how the search ended, a `NewtonVerdict`.
    """

    point: Float[np.ndarray, " N"]
    residual: float
    multipliers: Complex[np.ndarray, " k"]
    multipliers_converged: bool
    num_steps: int
    num_products: int
    result: NewtonVerdict

    @property
    def converged(self) -> Bool[Array | np.ndarray, ""]:
        """Whether the residual reached the tolerance."""
        return self.result == NewtonVerdict.converged

    @property
    def num_unstable(self) -> int | None:
        """Multipliers outside the unit circle; `None` where all that were found lie there, so that more may."""
        outside = int(np.sum(np.abs(self.multipliers) > 1))
        known = self.multipliers_converged and outside < len(self.multipliers)
        return outside if known else None

    @property
    def is_stable(self) -> bool | None:
        """Whether the multipliers lie inside the unit circle; `None` where they were not found."""
        if np.any(np.abs(self.multipliers) > 1):
            return False
        return True if self.num_unstable == 0 else None

    def table(self) -> str:
        count = self.num_unstable
        unstable = f"{count}" if count is not None else f"at least {int(np.sum(np.abs(self.multipliers) > 1))}"
        leading = ", ".join(f"{m:.4g}" for m in self.multipliers[:4])
        return (
            f"fixed point of {self.point.size} units: residual {self.residual:.2g}, {self.num_steps} Newton steps, "
            f"{self.num_products} products\n  unstable directions: {unstable}; leading multipliers: {leading or 'none'}"
        )


class _Tangent:
    """Products with the derivative, counted."""

    def __init__(self, f: Any) -> None:
        self.f, self.num_products = f, 0

    def at(self, x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        def product(v: np.ndarray) -> np.ndarray:
            self.num_products += 1
            return np.asarray(_push(self.f, x, np.ascontiguousarray(v).reshape(-1)))

        return product


def _newton_krylov(f: Any, tangent: _Tangent, x: np.ndarray, tol: float, max_steps: int) -> tuple:
    g = np.asarray(_image(f, x)) - x
    forcing, before = 0.1, np.inf
    for count in range(max_steps + 1):
        size = float(np.linalg.norm(g))
        if not np.isfinite(size):
            return x, g, count, NewtonVerdict.not_finite
        if np.max(np.abs(g)) <= tol * max(1.0, float(np.max(np.abs(x)))):
            return x, g, count, NewtonVerdict.converged
        if count == max_steps:
            break
        product = tangent.at(x)
        if np.isfinite(before):
            forcing = float(np.clip(0.9 * (size / before) ** 2, 1e-8, 0.1))
        operator = _operator((x.size, x.size), matvec=lambda v, p=product: np.ravel(v) - p(v), dtype=np.float64)
        step, _ = gmres(operator, g, rtol=forcing, atol=0.0, restart=min(RESTART, x.size), maxiter=10)
        # A step that GMRES left unfinished is a descent direction all the same; how far it goes the residual says.
        for halving in range(HALVINGS):
            moved = x + step / 2**halving
            left = np.asarray(_image(f, moved)) - moved
            if np.linalg.norm(left) <= (1 - 1e-4 / 2**halving) * size:
                break
        else:
            return x, g, count, NewtonVerdict.stalled
        x, g, before = moved, left, size
    return x, g, max_steps, NewtonVerdict.out_of_steps


def _leading(product: Callable, size: int, number: int, seed: int) -> tuple[np.ndarray, bool]:
    """The eigenvalues of largest modulus, and whether all that were asked for converged."""
    operator = _operator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(size)
    try:
        found = _eigs(operator, k=number, which="LM", v0=start, tol=1e-9, return_eigenvectors=False)
    except ArpackNoConvergence as error:
        return by_modulus(np.asarray(error.eigenvalues, complex)[None])[0], False
    return by_modulus(np.asarray(found, complex)[None])[0][:number], True


@compiled
def _push(f: Any, x: Any, v: Any) -> Array:
    return jax.jvp(f, (jnp.asarray(x),), (jnp.asarray(v),))[1]


@compiled
def _image(f: Any, x: Any) -> Array:
    return f(jnp.asarray(x))
