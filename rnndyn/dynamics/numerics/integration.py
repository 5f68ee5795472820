"""Integrating dx/dt = v(x): the step size answers for the state and for its derivatives alike."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox.internal import while_loop
from jaxtyping import Array, Float

from rnndyn.dynamics.numerics._integration_steps import DiffraxStep, ExplicitStep, StateVector, StiffStep, push_columns
from rnndyn.dynamics.numerics.integration_method import Method

MAX_COLUMNS = 64
"""Up to so many perturbed numbers the whole derivative is integrated; beyond, tangents are pushed along steps that
`NUM_PROBES` directions control."""

NUM_PROBES = 16
"""Random directions that stand for all others: each direction has its share in them."""


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
    vector = StateVector(field, leaves, list(leaf_columns) + [None] * (len(leaves) - len(leaf_columns)))
    first = _first_step(field, x, leaves, duration, method)
    start = jnp.zeros((), x.dtype)
    if method.solver is not None:
        t, x, columns = _advance(DiffraxStep(method.solver, method), vector, method, start, duration, first, x, columns)
    else:
        t, x, columns = _advance(ExplicitStep(), vector, method, start, duration, first, x, columns)
        t, x, columns = _advance(StiffStep(), vector, method, t, duration, first, x, columns)
    done = t >= duration
    return jnp.where(done, x, jnp.nan), jnp.where(done, columns, jnp.nan)


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
    vector: StateVector,
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

    moving, pushed, fixed = push_columns(begin, (x, vector.changed), (columns, vector.columns))
    state = _State(start, first, x, columns, eqx.combine(moving, fixed), pushed, jnp.asarray(0))

    def unit(x: Array) -> Array:
        """What one is to each component: tangent vectors are measured in it, as the state is."""
        return method.atol / method.rtol + jnp.abs(x)

    from_leaves = sum((_lengths(leaf) for leaf in vector.columns), jnp.zeros(columns.shape[0], x.dtype))
    at_start = jnp.maximum(_lengths(columns / unit(x)), from_leaves)

    def unfinished(s: _State) -> Array:
        # A step that no longer moves t is the sign of a singularity; at the start, where any step does, one that is
        # nothing beside the whole time. A state that is not finite takes none: in a batch (a padded row, an orbit that
        # escaped) all others would wait for hundreds of refused steps.
        moves = s.step > 4 * eps * jnp.maximum(s.t, eps * end)
        return (s.t < end) & (s.num_steps < method.max_steps) & moves & jnp.all(jnp.isfinite(s.x))

    def body(s: _State) -> _State:
        last = s.step >= end - s.t
        h = jnp.where(last, end - s.t, s.step)
        moving, fixed = eqx.partition(s.memory, eqx.is_inexact_array)

        def step(x: Array, changed: list[Any], moving: Any) -> Any:
            x1, error, memory = stepper.step(vector.at(changed), x, h, eqx.combine(moving, fixed))
            moving, still = eqx.partition(memory, eqx.is_inexact_array)
            return (x1, error, moving), still

        (x1, error, moving), (columns1, errors, pushed), still = push_columns(
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


def _rms(x: Array) -> Array:
    x = jax.lax.stop_gradient(x)
    return jnp.sqrt(jnp.mean(x**2))


def _lengths(rows: Array) -> Float[Array, " M"]:
    rows = jax.lax.stop_gradient(rows)
    return jnp.sqrt(jnp.sum(rows**2, axis=tuple(range(1, rows.ndim))))
