"""Integrating dx/dt = v(x): the step size answers for the state and for its derivatives alike."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from equinox.internal import while_loop
from jaxtyping import Array, Float

MAX_COLUMNS = 64
"""Up to so many perturbed numbers the whole derivative is integrated; beyond, tangents are pushed along steps that
`NUM_PROBES` directions control."""

NUM_PROBES = 16
"""Random directions that stand for all others: each direction has its share in them."""

NUM_ROWS = 7
"""Rows of the extrapolation table of the method for stiff systems, and so its order."""


class Method(eqx.Module):
    """How to integrate: a diffrax solver, or by default the method of Dormand & Prince and, from where that has used up
    its steps, extrapolation of the linearly implicit Euler method, for stiff systems.

    Tolerances are per step and component; `atol` is one number or one for each component. `num_probes` tangent vectors
    go along where only the state is asked for: without them, nothing keeps the steps short beside an equilibrium, where
    the computed map is then not the flow but whatever such steps make of it. `reverse` asks for loops
    that can be differentiated backwards.
    """

    solver: diffrax.AbstractSolver | None
    rtol: Any
    atol: Any
    max_steps: int = eqx.field(static=True)
    num_probes: int = eqx.field(static=True, default=2)
    reverse: bool = eqx.field(static=True, default=False)


def integrate(
    vector_field: Callable[..., Array],
    x: Float[Array, " N"],
    duration: Any,
    inputs: Sequence[Array],
    method: Method,
) -> Float[Array, " N"]:
    r"""The state after `duration` from `x`; NaN where the steps did not suffice.

    Its derivative is V(T), where dV/dt = Dv(x) V + (the derivative by what else is perturbed), V(0) = 1, integrated
    along with x by steps that each keep the error of the state *and of every column of V*, relative to the length of
    the column, within the tolerance; lengths are measured in the units atol / rtol + |x_i| of the components. V does
    not depend on the direction asked for, so one integration serves `jvp`, `vmap`, `jacfwd`, `linearize`, and also
    `vjp` and `grad`.

    A column that has shrunk to rounding error of what it was is controlled as if it were as long as that: a direction
    that has decayed for good must not keep the steps short.
    """
    field, leaves = _hoisted(vector_field, x, inputs)

    @jax.custom_jvp
    def flow(x: Array, duration: Array, leaves: list[Any]) -> Array:
        return _solve(field, x, duration, leaves, method, _probes(x, method.num_probes), [])[0]

    def rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        x, duration, leaves = primals
        end = flow(x, duration, leaves)
        by_x, by_duration, by_leaves = tangents
        changed = [k for k, t in enumerate(by_leaves) if not _is_zero(t)]
        total = jnp.zeros_like(end)
        if not _is_zero(by_duration):
            total = total + field(end, leaves) * by_duration
        if _is_zero(by_x) and not changed:
            return end, total
        parts = [jnp.zeros_like(x) if _is_zero(by_x) else by_x, *(by_leaves[k] for k in changed)]
        sizes = [x.size, *(leaves[k].size for k in changed)]
        if sum(sizes) <= MAX_COLUMNS:
            seeds = jnp.split(jnp.eye(sum(sizes), dtype=x.dtype), list(_cumulative(sizes)), axis=1)
            leaf_seeds = {k: seed.reshape(-1, *leaves[k].shape) for k, seed in zip(changed, seeds[1:], strict=True)}
            ordered = [leaf_seeds.get(k) for k in range(len(leaves))]
            _, columns = _solve(field, x, duration, leaves, method, seeds[0], ordered)
            return end, total + jnp.concatenate([jnp.ravel(p) for p in parts]).astype(x.dtype) @ columns

        def along(x: Array, *given: Array) -> Array:
            new = list(leaves)
            for k, leaf in zip(changed, given, strict=True):
                new[k] = leaf
            return _solve(field, x, duration, new, method, _probes(x, NUM_PROBES), [])[0]

        return end, total + jax.jvp(along, (x, *(leaves[k] for k in changed)), tuple(parts))[1]

    flow.defjvp(rule, symbolic_zeros=True)
    return flow(x, jnp.asarray(duration, x.dtype), leaves)


def integrate_with_derivative(
    vector_field: Callable[..., Array], x: Float[Array, " N"], duration: Any, method: Method
) -> tuple[Float[Array, " N"], Float[Array, "N N"]]:
    """The state after `duration` and its derivative by `x`, from one integration."""
    field, leaves = _hoisted(vector_field, x, ())
    columns = jnp.eye(x.size, dtype=x.dtype)
    end, columns = _solve(field, x, jnp.asarray(duration, x.dtype), leaves, method, columns, [])
    return end, columns.T


def _hoisted(vector_field: Callable[..., Array], x: Array, inputs: Sequence[Array]) -> tuple[Callable, list[Any]]:
    """The vector field as a function of x and of all arrays that it depends on, and these."""
    # What v closes over becomes an argument, or derivatives by it would be lost.
    converted = eqx.filter_closure_convert(
        lambda y, given: jnp.asarray(vector_field(y, *given)).astype(y.dtype), x, tuple(inputs)
    )
    dynamic, static = eqx.partition((converted, tuple(inputs)), eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, dynamic))

    def field(y: Array, leaves: list[Any]) -> Array:
        function, given = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        return function(y, given)

    return field, leaves


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _cumulative(sizes: list[int]) -> list[int]:
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return ends[:-1]


def _probes(x: Array, num: int) -> Float[Array, "M N"]:
    """Fixed random directions of length one."""
    rows = np.random.default_rng(0).standard_normal((min(num, x.size), x.size))
    return jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), x.dtype)


def _solve(
    field: Callable,
    x: Array,
    duration: Array,
    leaves: list[Any],
    method: Method,
    columns: Float[Array, "M N"],
    leaf_columns: Sequence[Any],
) -> tuple[Float[Array, " N"], Float[Array, "M N"]]:
    """The state and its tangent vectors, one a row, after `duration`."""
    vector = _Vector(field, leaves, list(leaf_columns) + [None] * (len(leaves) - len(leaf_columns)))
    first = _first_step(field, x, leaves, duration, method)
    start = jnp.zeros((), x.dtype)
    if method.solver is not None:
        t, x, columns = _advance(
            _DiffraxStep(method.solver, method), vector, method, start, duration, first, x, columns
        )
    else:
        t, x, columns = _advance(_ExplicitStep(), vector, method, start, duration, first, x, columns)
        t, x, columns = _advance(_StiffStep(), vector, method, t, duration, first, x, columns)
    done = t >= duration
    return jnp.where(done, x, jnp.nan), jnp.where(done, columns, jnp.nan)


class _Vector(NamedTuple):
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


class _State(NamedTuple):
    """Where an integration stands; `memory` is what the solver keeps between steps, `pushed` its tangent vectors."""

    t: Array
    step: Array
    x: Array
    columns: Array
    memory: Any
    pushed: Any
    num_steps: Array


def _advance(
    stepper: Any,
    vector: _Vector,
    method: Method,
    start: Array,
    end: Array,
    first: Array,
    x: Array,
    columns: Array,
) -> tuple[Array, Array, Array]:
    """Take steps from time `start` to `end`, or as many as are allowed; the time reached, and what is there.

    The tangent vectors are pushed through the step that is taken for x, so that an implicit one solves for N unknowns
    only. So is the estimate of its error, whose derivative is the error of the tangent vectors.
    """
    eps = jnp.finfo(x.dtype).eps

    def begin(x: Array, changed: list[Any]) -> Any:
        return eqx.partition(stepper.init(vector.at(changed), x), eqx.is_inexact_array)

    moving, pushed, fixed = _push(begin, (x, vector.changed), (columns, vector.columns))
    state = _State(start, first, x, columns, eqx.combine(moving, fixed), pushed, jnp.asarray(0))

    def unit(x: Array) -> Array:
        """What one is to each component: tangent vectors are measured in it, as the state is."""
        return method.atol / method.rtol + jnp.abs(x)

    from_leaves = sum((_lengths(leaf) for leaf in vector.columns), jnp.zeros(columns.shape[0], x.dtype))
    at_start = jnp.maximum(_lengths(columns / unit(x)), from_leaves)

    def unfinished(s: _State) -> Array:
        # A step that no longer moves t is the sign of a singularity, or of a state that is not finite.
        return (s.t < end) & (s.num_steps < method.max_steps) & (s.step > 4 * eps * s.t)

    def body(s: _State) -> _State:
        last = s.step >= end - s.t
        h = jnp.where(last, end - s.t, s.step)
        moving, fixed = eqx.partition(s.memory, eqx.is_inexact_array)

        def step(x: Array, changed: list[Any], moving: Any) -> Any:
            x1, error, memory = stepper.step(vector.at(changed), x, h, eqx.combine(moving, fixed))
            moving, still = eqx.partition(memory, eqx.is_inexact_array)
            return (x1, error, moving), still

        (x1, error, moving), (columns1, errors, pushed), still = _push(
            step, (s.x, vector.changed, moving), (s.columns, vector.columns, s.pushed)
        )
        ratio = _rms(error / (method.atol + method.rtol * jnp.maximum(jnp.abs(s.x), jnp.abs(x1))))
        if columns.shape[0]:
            weights = unit(x1)
            lengths = jnp.maximum(_lengths(s.columns / unit(s.x)), _lengths(columns1 / weights))
            lengths = jnp.maximum(jnp.maximum(lengths, from_leaves), eps * at_start)
            ratio = jnp.maximum(ratio, jnp.max(_lengths(errors / weights) / lengths) / method.rtol)
        ratio = jnp.where(jnp.isfinite(ratio), ratio, jnp.inf)
        accept = ratio <= 1
        factor = jnp.clip(0.9 * jnp.maximum(ratio, 1e-10) ** (-1 / stepper.order), 0.2, 10.0)
        factor = jax.lax.stop_gradient(jnp.where(accept, jnp.maximum(factor, 0.9), factor)).astype(x.dtype)
        new = (x1, columns1, eqx.combine(moving, still), pushed)
        old = (s.x, s.columns, s.memory, s.pushed)
        kept = jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, old)
        t = jnp.where(accept, jnp.where(last, end, s.t + h), s.t)
        return _State(t, jax.lax.stop_gradient(h * factor), *kept, num_steps=s.num_steps + 1)

    kind = "bounded" if method.reverse else "lax"
    final = while_loop(unfinished, body, state, max_steps=method.max_steps if method.reverse else None, kind=kind)
    return jax.lax.stop_gradient(final.t), final.x, final.columns


class _DiffraxStep:
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


class _ExplicitStep:
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


class _StiffStep:
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


def _first_step(field: Callable, x: Array, leaves: list[Any], duration: Array, method: Method) -> Array:
    """A hundredth of the time in which the state changes by its own size.

    Reference: E. Hairer, S. Nørsett & G. Wanner (1993), *Solving Ordinary Differential Equations I*, section II.4.
    """
    x, leaves, duration = jax.lax.stop_gradient((x, leaves, duration))
    scale = method.atol + method.rtol * jnp.abs(x)
    size, speed = _rms(x / scale), _rms(field(x, leaves) / scale)
    known = (size > 1e-5) & (speed > 1e-5) & jnp.isfinite(speed)
    step = jnp.where(known, 0.01 * size / jnp.where(known, speed, 1.0), 1e-3 * duration)
    return jnp.minimum(step, duration).astype(x.dtype)


def _push(function: Callable, primals: tuple, columns: tuple) -> tuple[Any, Any, Any]:
    """`function`, which returns (values, others), with the derivative of the values along each row of `columns`."""
    if columns[0].shape[0] == 0:
        values, others = function(*primals)
        return values, jax.tree.map(lambda v: jnp.zeros((0, *v.shape), v.dtype), values), others
    values, pushed, others = jax.vmap(
        lambda *rows: jax.jvp(function, primals, rows, has_aux=True), out_axes=(None, 0, None)
    )(*columns)
    return values, pushed, others


def _rms(x: Array) -> Array:
    x = jax.lax.stop_gradient(x)
    return jnp.sqrt(jnp.mean(x**2))


def _lengths(rows: Array) -> Float[Array, " M"]:
    rows = jax.lax.stop_gradient(rows)
    return jnp.sqrt(jnp.sum(rows**2, axis=tuple(range(1, rows.ndim))))
