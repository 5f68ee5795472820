"""Flows of differential equations, seen as maps."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn.dynamics.numerics.integration import integrate
from rnndyn.dynamics.numerics.integration_method import Method


def time_map(
    vector_field: Callable[..., Array],
    dt: float | int,
    *,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> "TimeMap":
    r"""The flow of dx/dt = v(x), sampled every `dt`, as a map F(x).

        F(x(t)) = x(t + dt)

    Its derivative DF = V(dt) solves the variational equation dV/dt = Dv(x) V, V(0) = 1, and the step size answers for
    every column of V as it does for the state: relative to the length of the column, whatever transformation asks
    (`jvp`, `vmap`, `jacfwd`, `linearize`, `jacrev`, `grad`). Two tangent vectors go along even where only the state is
    asked for, as the state alone would not keep the steps short beside an equilibrium. At an equilibrium
    DF = exp(dt Dv). Every analysis of maps applies; growth rates come out per step, so pass `dt` there too.

    **Arguments:**

    - `vector_field`: v, `v(x) -> dx/dt` on states (N,), or `v(x, u)`, driven by an input that is held over each `dt`:
        then the map is `F(x, u)`. An `eqx.Module` when it has parameters.
    - `dt`: the sampling time, positive.
    - `solver`: a diffrax solver that estimates its error. By default the method of Dormand & Prince (order 5) and,
        where `max_steps` of it do not suffice because the flow is stiff, from there on extrapolation of the linearly
        implicit Euler method (order 7).
    - `rtol`, `atol`: tolerances per solver step; by default 1e-9 in float64 and 1e-5 in float32.
    - `max_steps`: the most solver steps per `dt`, of each method. A state that needs more, or escapes, becomes NaN.
    - `adjoint`: `diffrax.ForwardMode()`, the default, or `diffrax.DirectAdjoint()`, slower, which is needed for reverse
        mode (`jax.grad`) by more than 64 numbers at once, such as the weights of a network, and for the gradient of a
        derivative.

    **Returns:** a `TimeMap`, callable on states.

    **Raises:** `ValueError` for a `dt` that is not positive.

    Second derivatives follow the steps that the first ones control. By more than 64 numbers at once, tangents are
    pushed along steps that 16 random directions control in place of all columns. See `docs/flows.md`.

    Reference: E. Hairer, S. Nørsett & G. Wanner (1993), *Solving Ordinary Differential Equations I*, sections I.14 and
    II.4; E. Hairer & G. Wanner (1996), *Solving Ordinary Differential Equations II*, section IV.9.
    """
    if not dt > 0:
        raise ValueError(f"dt: expected a positive sampling time, got {dt}.")
    return TimeMap(
        vector_field,
        float(dt),
        solver,
        rtol,
        atol,
        max_steps,
        diffrax.ForwardMode() if adjoint is None else adjoint,
    )


class TimeMap(eqx.Module):
    """A flow sampled every `dt`, as a map of states `(N,)`; made by `time_map`, which says how.

    A state that cannot be followed over `dt` (it escapes, or takes more than `max_steps` solver steps) becomes NaN in
    every entry.

    - `vector_field`: dx/dt in units of the state per unit of time, `(N,) -> (N,)`, or `(N,), (I,) -> (N,)`.
    - `dt`: the time of one step of the map; analyses take it as their unit (`find_slow_points`, `find_attractors`).
    - `solver`: of diffrax, or `None` for the two of this library.
    - `rtol`, `atol`: relative tolerance, and absolute one in units of the state, per solver step; `None`: 1e-9 for
        states in float64 and 1e-5 in float32.
    - `max_steps`: the most solver steps in one `dt`.
    - `adjoint`: how derivatives are taken through the solver.
    """

    vector_field: Callable[..., Array]
    dt: float = eqx.field(static=True)
    solver: diffrax.AbstractSolver | None
    rtol: float | None = eqx.field(static=True)
    atol: float | None = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    adjoint: diffrax.AbstractAdjoint

    def __call__(self, x: Float[Array, " N"], *inputs: Array) -> Float[Array, " N"]:
        # A thousand roundings of slack below the tolerances lets the error estimate mean something in either precision.
        default = 1e-9 if jnp.finfo(x.dtype).eps < 1e-10 else 1e-5
        method = Method(
            self.solver,
            default if self.rtol is None else self.rtol,
            default if self.atol is None else self.atol,
            self.max_steps,
            reverse=not isinstance(self.adjoint, diffrax.ForwardMode),
        )
        return integrate(self.vector_field, x, self.dt, inputs, method)

    def vector(self, x: Float[Array, " N"], *inputs: Array) -> Float[Array, " N"]:
        """The vector field itself."""
        return jax.numpy.asarray(self.vector_field(x, *inputs))
