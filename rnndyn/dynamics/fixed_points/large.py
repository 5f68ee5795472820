"""A fixed point of a map too large for its Jacobian, by products with it alone."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float
from scipy.sparse.linalg import LinearOperator, gmres

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.numerics.arnoldi import TOLERANCE, Leading, bound_on_rest, leading_eigenvalues
from rnndyn.dynamics.numerics.drivers import MEMORY_BUDGET, double_precision, let_in
from rnndyn.dynamics.numerics.verdicts import NewtonVerdict
from rnndyn.results import Judged

RESTART = 60
"""Vectors that GMRES keeps: 5 MB for 10 000 units."""

HALVINGS = 12

# What is known of SciPy's types lacks these keywords.
_operator: Any = LinearOperator


def find_large_fixed_point(
    f: Callable[[Array], Array],
    x0: ArrayLike,
    *,
    num_multipliers: int = 8,
    tol: float = 1e-12,
    max_steps: int = 30,
    max_products: int = 1000,
    seed: int = 0,
) -> "LargeFixedPoint":
    r"""Find a fixed point of a map of many thousand units, and its leading multipliers, without a Jacobian.

    Newton's method, whose steps $(I - DF)\,\delta = F(x) - x$ are solved by GMRES to a tolerance that falls with the
    residual, halved where the residual would grow; then Arnoldi's method for the multipliers of largest modulus. Both
    need products $DF\,v$ only, one forward derivative each: for a dense layer as much as a step of the map.
    Random products with powers of DF then bound the multipliers that were not computed.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`, dense, sparse or of low rank.
    - `x0`: a guess, `(N,)`; where there is none, a state that the map has settled to.
    - `num_multipliers`: how many multipliers, at most N - 2; 0 for none.
    - `tol`: the residual $|F(x) - x|_\infty$, in units of the largest entry of the state or of 1, to reach.
    - `max_steps`: Newton steps at the most.
    - `max_products`: products for the multipliers at the most. Those that took more are returned with the residual
        they had then. Where the multipliers fill a disc, as of a random network, those on its edge are close: eight of
        them take some 600 products for 5000 units.
    - `seed`: of the vector that Arnoldi's method begins with, and of the random products.

    **Returns:** a `LargeFixedPoint` of NumPy arrays; `result` says whether it converged.

    **Raises:** `ValueError` for a state that is no vector of numbers, or a map that changes its shape or dtype.

    How many directions are unstable is known where all multipliers outside the unit circle were found and the rest is
    bounded below 1 (`rest_bound`; an unlucky draw in 1e6 aside), or, with no such bound, where all that were asked for
    were found and some lie inside; nothing proves then that Arnoldi's method has missed none. Otherwise `num_unstable`
    is `None`.

    Reference: D. A. Knoll & D. E. Keyes (2004), *Jacobian-free Newton-Krylov methods*; S. C. Eisenstat & H. F. Walker
    (1996), *Choosing the forcing terms in an inexact Newton method*; G. W. Stewart (2002), *A
    Krylov-Schur algorithm for large eigenproblems*; J. D. Dixon (1983), *Estimating extremal eigenvalues and condition
    numbers of matrices*.
    """
    check_state("x0", x0)
    check_at_least("max_steps", max_steps, 1)
    check_at_least("num_multipliers", num_multipliers, 0)
    check_at_least("max_products", max_products, 1)
    with double_precision():
        x = np.asarray(x0, np.float64)
        if num_multipliers > x.size - 2:
            raise ValueError(f"num_multipliers: expected at most N - 2 = {x.size - 2}, got {num_multipliers}.")
        f = let_in(f, x)
        tangent = _Tangent(f, x)
        x, g, num_steps, result = _newton_krylov(f, tangent, x, tol, max_steps)
        found, bound = Leading(np.zeros(0, complex), np.zeros((x.size, 0), complex), np.zeros(0)), np.inf
        if num_multipliers and result == NewtonVerdict.converged:
            product = tangent.at(x)
            found = leading_eigenvalues(product, x.size, num_multipliers, max_products=max_products, seed=seed)
            outside = np.abs(found.values) > 1
            # Vectors of what is not found span no invariant space, and there would be something to miss.
            if found.found[outside].all() and not outside.all():
                largest = float(np.max(np.abs(found.values[~outside])))
                bound = bound_on_rest(product, found.vectors[:, outside], x.size, largest, seed=seed)
        return LargeFixedPoint(
            x,
            float(np.max(np.abs(g))),
            found.values,
            found.residuals,
            len(found.values) == num_multipliers and bool(found.found.all()),
            bound,
            num_steps,
            tangent.num_products,
            result,
        )


class LargeFixedPoint(Judged):
    """A fixed point of a large map.

    - `point`: the fixed point, or the last iterate, `(N,)`.
    - `residual`: $|F(x) - x|_\\infty$ there, measured by one plain call of F.
    - `multipliers`: those of largest modulus, by falling modulus, complex; empty where the search did not converge.
    - `multiplier_residuals`: $|DF z - \\lambda z|_2$ of the unit eigenvector z of each, measured by products.
    - `multipliers_converged`: whether all that were asked for were found, to a residual of 1e-9 of the largest modulus.
    - `rest_bound`: below 1 where the multipliers inside the unit circle, also those that were not computed, were found
        to have no larger modulus; infinity where there is no such bound.
    - `num_steps`: Newton steps.
    - `num_products`: products with the derivative, for steps and multipliers together.
    - `result`: how the search ended, a `NewtonVerdict`.
    """

    point: Float[np.ndarray, " N"]
    residual: float
    multipliers: Complex[np.ndarray, " k"]
    multiplier_residuals: Float[np.ndarray, " k"]
    multipliers_converged: bool
    rest_bound: float
    num_steps: int
    num_products: int
    result: NewtonVerdict

    @property
    def converged(self) -> Bool[Array | np.ndarray, ""]:
        """Whether the residual reached the tolerance."""
        return self.result == NewtonVerdict.converged

    @property
    def num_unstable(self) -> int | None:
        """Multipliers outside the unit circle; `None` where more of them may lie there."""
        outside = int(np.sum(np.abs(self.multipliers) > 1))
        known = self.multipliers_converged and outside < len(self.multipliers)
        return outside if known or self.rest_bound < 1 else None

    @property
    def is_stable(self) -> bool | None:
        """Whether the multipliers lie inside the unit circle; `None` where that is not known."""
        found = self.multiplier_residuals <= TOLERANCE * np.max(np.abs(self.multipliers), initial=0.0)
        if np.any(np.abs(self.multipliers[found]) > 1):
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

    def __init__(self, f: Any, x: np.ndarray) -> None:
        self.f, self.num_products = f, 0
        held = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(f) if eqx.is_array(leaf))
        _, push = jax.eval_shape(jax.linearize, f, jnp.asarray(x))
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(push))
        # What a product needs of the way to F(x) is kept where it is little: half of the work.
        self.keeps = needed <= held + MEMORY_BUDGET

    def at(self, x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """v -> DF v, of one v or of rows."""
        push = _linearized(self.f, x) if self.keeps else None

        def product(v: np.ndarray) -> np.ndarray:
            v = np.ascontiguousarray(v)
            self.num_products += v.size // x.size
            out = _push(self.f, x, v) if push is None else _applied(push, v)
            return np.asarray(out)

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
        operator = _operator(
            (x.size, x.size), matvec=lambda v, p=product: np.ravel(v) - p(np.ravel(v)), dtype=np.float64
        )
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


@compiled
def _push(f: Any, x: Any, v: Any) -> Array:
    push = lambda v: jax.jvp(f, (jnp.asarray(x),), (v,))[1]
    return (push if v.ndim == 1 else jax.vmap(push))(jnp.asarray(v))


@compiled
def _linearized(f: Any, x: Any) -> Any:
    return jax.linearize(f, jnp.asarray(x))[1]


@compiled
def _applied(push: Any, v: Any) -> Array:
    return (push if v.ndim == 1 else jax.vmap(push))(jnp.asarray(v))


@compiled
def _image(f: Any, x: Any) -> Array:
    return f(jnp.asarray(x))
