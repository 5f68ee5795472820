"""A fixed point as a differentiable function of whatever the map depends on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jaxtyping import Array, ArrayLike, Float

from rnndyn._arrays import as_array
from rnndyn._programs import as_program, compiled
from rnndyn._validation import check_state
from rnndyn.dynamics.numerics.evidence import rounding_floor, singular_gap


def implicit_fixed_point(f: Callable[[Array], Array], x0: ArrayLike, *, max_steps: int = 50) -> Float[Array, " N"]:
    r"""The fixed point near `x0`, differentiable with respect to the parameters of `f`.

    Where $x^*(\theta) = F(x^*(\theta), \theta)$ and $I - DF$ is regular, the implicit function theorem gives

    $$\frac{dx^*}{d\theta} = (I - DF)^{-1}\,\partial_\theta F .$$

    Pure: `jit`, `vmap`, `grad` and `jvp` work. No derivative passes through the iterations, so it costs one linear
    solve.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`. Derivatives reach what it holds as a tree (an `equinox.Module` such as
        `as_map(cell, input)`) and what it closes over.
    - `x0`: a point near the fixed point, shape `(N,)`, such as one row of `FixedPoints.points`. The derivative with
        respect to it is zero.
    - `max_steps`: Newton steps.

    **Returns:** the fixed point, shape `(N,)`; NaN in every entry, and in every derivative, where Newton's method did
    not converge from `x0`, or ended where I - DF is singular to the accuracy it is known with: there the point, if it
    is one, is not a function of the parameters (a fold, a line of fixed points, a runaway $x + 1/(1 + x^2)$ that no
    longer moves).

    **Raises:** `ValueError` for a bad state, or a map that changes its shape or dtype.

    Near a bifurcation I - DF is nearly singular, and the derivative as large as its inverse.

    ```python
    def loss(cell):
        return jnp.sum(rd.implicit_fixed_point(rd.as_map(cell), x0) ** 2)

    eqx.filter_grad(loss)(cell)
    ```

    Reference: S. Krantz & H. Parks (2002), *The Implicit Function Theorem*; solved with optimistix (J. Rader, T. Lyons
    & P. Kidger 2024, *Optimistix: modular optimisation in JAX and Equinox*).
    """
    check_state("x0", x0)
    start = jax.lax.stop_gradient(as_array(x0))
    return _point_near(as_program(f, start, double=False), start, max_steps)


@compiled
def _point_near(f: Any, start: Any, max_steps: int) -> Array:
    start = jax.lax.stop_gradient(jnp.asarray(start))
    # Of a residual against the size of the state; DF is at most of the order of one near a fixed point worth having.
    tolerance = rounding_floor(1.0, 1.0, start.dtype)

    def solve(residual, start):
        solution = optx.root_find(
            lambda x, _: residual(x),
            optx.Newton(rtol=tolerance, atol=tolerance, linear_solver=lx.LU()),
            start,
            max_steps=max_steps,
            throw=False,
        )
        return jnp.where(solution.result == optx.RESULTS.successful, solution.value, jnp.nan)

    # Not optimistix' own adjoint: its linear solve raises on NaN, and one failure would end a whole batch.
    def solve_linear(linear, y):
        return jnp.linalg.solve(jax.jacfwd(linear)(jnp.zeros_like(y)), y)

    value = jax.lax.custom_root(lambda x: f(x) - x, start, solve, solve_linear)
    point = jax.lax.stop_gradient(value)
    jacobian = jax.lax.stop_gradient(jax.jacfwd(f)(point))
    usable = jnp.where(jnp.all(jnp.isfinite(jacobian)), jacobian, 0)
    gap = jnp.linalg.svd(jnp.eye(point.size, dtype=point.dtype) - usable, compute_uv=False)[-1]
    row_sum = jnp.max(jnp.sum(jnp.abs(usable), axis=1))
    determined = gap > singular_gap(row_sum, start.dtype)
    found = jnp.all(jnp.isfinite(jacobian)) & jnp.all(jnp.isfinite(point)) & determined
    # A factor, for its derivative is NaN with it; that of the constant branch of `where` would be 0.
    return value * jnp.where(found, jnp.ones((), start.dtype), jnp.nan)
