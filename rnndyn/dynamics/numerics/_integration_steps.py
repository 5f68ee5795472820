"""Single steps of the integrators: explicit, stiff, and those of a solver of diffrax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array

from rnndyn.dynamics.numerics.integration_method import Method

NUM_ROWS = 7
"""Rows of the extrapolation table of the method for stiff systems, and so its order."""


class StateVector(NamedTuple):
    """The vector field, what it depends on besides x, and the tangent vectors of that (None: held)."""

    field: Callable
    leaves: list[Any]
    leaf_columns: list[Any]

    @property
    def changed(self) -> list[Any]:
        return [leaf for leaf, column in zip(self.leaves, self.leaf_columns, strict=True) if column is not None]

    @property
    def columns(self) -> list[Any]:
        return [column for column in self.leaf_columns if column is not None]

    def at(self, changed: list[Any]) -> Callable[[Array], Array]:
        """The vector field as a function of x, with other values of what has tangent vectors."""
        rest = iter(changed)
        leaves = [
            leaf if column is None else next(rest) for leaf, column in zip(self.leaves, self.leaf_columns, strict=True)
        ]
        return lambda x: self.field(x, leaves)


class DiffraxStep:
    """Steps of a diffrax solver that estimates its error."""

    def __init__(self, solver: diffrax.AbstractSolver, method: Method):
        if isinstance(solver, diffrax.AbstractRungeKutta) and solver.scan_kind is None:
            # The stages are a loop too, which is to be differentiated as this one is.
            kind = "bounded" if method.reverse else "lax"
            solver = eqx.tree_at(lambda s: s.scan_kind, solver, kind, is_leaf=lambda leaf: leaf is None)
        if isinstance(solver, diffrax.AbstractImplicitSolver):
            # What the root finder leaves to the step size control is that of the state.
            atol = jnp.min(jnp.asarray(method.atol))
            given = {"rtol": method.rtol, "atol": atol, "norm": optimistix.rms_norm}
            names = [n for n in given if type(getattr(solver.root_finder, n)).__module__.startswith("diffrax")]
            solver = eqx.tree_at(
                lambda s: [getattr(s.root_finder, n) for n in names], solver, [given[n] for n in names]
            )
        self.solver = solver
        order = solver.error_order(_term(lambda x: x))
        if order is None:
            raise ValueError(f"solver: expected one that estimates its error, as diffrax.Tsit5(), got {solver}.")
        self.order = float(order)

    def init(self, field: Callable, x: Array) -> Any:
        zero = jnp.zeros((), x.dtype)
        return self.solver.init(_term(field), zero, zero, x, None)

    def step(self, field: Callable, x: Array, h: Array, memory: Any) -> tuple[Array, Array, Any]:
        x1, error, _, memory, _ = self.solver.step(_term(field), jnp.zeros_like(h), h, x, None, memory, False)
        if error is None:
            raise ValueError(f"solver: expected one that estimates its error, got {type(self.solver).__name__}.")
        return x1, error, memory


def _term(field: Callable) -> diffrax.ODETerm:
    return diffrax.ODETerm(lambda t, x, args: field(x))


class ExplicitStep:
    """The Runge-Kutta method of order 5 with an error estimate of order 4; the last stage is the next step's first.

    Written out, because in diffrax the stages are a loop, which takes longer to compile and to run for small systems.

    Reference: J. Dormand & P. Prince (1980), *A family of embedded Runge-Kutta formulae*.
    """

    order = 5.0
    stages = (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
    errors = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

    def init(self, field: Callable, x: Array) -> Any:
        return field(x)

    def step(self, field: Callable, x: Array, h: Array, memory: Any) -> tuple[Array, Array, Any]:
        slopes, x1 = [memory], x
        for row in self.stages:
            x1 = x + h * sum(a * k for a, k in zip(row, slopes, strict=True) if a)
            slopes.append(field(x1))
        return x1, h * sum(a * k for a, k in zip(self.errors, slopes, strict=True) if a), slopes[-1]


class StiffStep:
    r"""Extrapolation of the linearly implicit Euler method, $(1 - h_j J)(x_{i+1} - x_i) = h_j v(x_i)$.

    J is Dv where the step starts, $h_j = h/j$ for j = 1, ..., K. The error of each row is a power series in $h_j$, so
    the Aitken-Neville table of polynomial extrapolation has order K at its end. No nonlinear equation is solved.

    Reference: E. Hairer & G. Wanner (1996), *Solving Ordinary Differential Equations II*, section IV.9 (SEULEX).
    """

    order = float(NUM_ROWS)

    def init(self, field: Callable, x: Array) -> Any:
        return ()

    def step(self, field: Callable, x: Array, h: Array, memory: Any) -> tuple[Array, Array, Any]:
        counts = jnp.arange(1, NUM_ROWS + 1)
        h_rows = h / counts.astype(x.dtype)
        jacobian = jax.jacfwd(field)(x)
        # Inverses, as they serve all substeps, and compile in half the time of solves.
        inverses = jnp.linalg.inv(jnp.eye(x.size, dtype=x.dtype) - h_rows[:, None, None] * jacobian)

        def substep(rows: Array, i: Array) -> tuple[Array, None]:
            moved = rows + jnp.einsum("kij,kj->ki", inverses, h_rows[:, None] * jax.vmap(field)(rows))
            return jnp.where((i < counts)[:, None], moved, rows), None

        rows, _ = jax.lax.scan(substep, jnp.broadcast_to(x, (NUM_ROWS, x.size)), jnp.arange(NUM_ROWS))
        ends = jnp.asarray(_EXTRAPOLATION, x.dtype) @ (rows - x)
        return x + ends[0], ends[0] - ends[1], memory


def _extrapolation() -> np.ndarray:
    """The last entry of the Aitken-Neville table, and the one before it in its row, as combinations of the rows."""
    table, before = np.eye(NUM_ROWS), np.eye(NUM_ROWS)[-1]
    for k in range(1, NUM_ROWS):
        before = table[-1]
        table = table[1:] + (table[1:] - table[:-1]) * (np.arange(1, len(table)) / k)[:, None]
    return np.stack([table[-1], before])


_EXTRAPOLATION = _extrapolation()


def push_columns(function: Callable, primals: tuple, columns: tuple) -> tuple[Any, Any, Any]:
    """`function`, which returns (values, others), with the derivative of the values along each row of `columns`."""
    if columns[0].shape[0] == 0:
        values, others = function(*primals)
        return values, jax.tree.map(lambda v: jnp.zeros((0, *v.shape), v.dtype), values), others
    values, pushed, others = jax.vmap(
        lambda *rows: jax.jvp(function, primals, rows, has_aux=True), out_axes=(None, 0, None)
    )(*columns)
    return values, pushed, others
