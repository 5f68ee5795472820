"""The equations that are continued: cycles of a map, and cycles that bifurcate, as systems H(z) = 0.

The vector z holds the unknowns, its last entries the parameters. A system has a method

    evaluate(z, frame) -> Evaluation(residual, jacobian, step_jacobians, frame)

where the frame is what borders the system (see below); the one that comes back suits the neighbourhood of z and is
used from the next point on. A fixed point is a cycle of period 1. Cycles are solved for all their points at once
(multiple shooting), so that a residual is that of one step and not of p of them.

Defining equations of a bifurcation. Let L be the singular matrix of its definition, such as DF - I for a fold. With a
frame (u, c) such that the bordered matrix is regular, solve

    [ L   u ] [ v ]   [ 0 ]          [ L^T  c ] [ w ]   [ 0 ]
    [ c^T 0 ] [ g ] = [ 1 ],         [ u^T  0 ] [ h ] = [ 1 ].

Then g = 0 where, and only where, L is singular, and dg = -w^T dL v. Reference: W. Govaerts (2000), *Numerical Methods
for Bifurcations of Dynamical Equilibria*; Yu. Kuznetsov (2004), *Elements of Applied Bifurcation Theory*, chapter 10.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled, value_and_jacobian
from rnndyn.dynamics.numerics.eigenvalues import orbit_product

Frame = tuple[Array | np.ndarray, ...]


class Evaluation(NamedTuple):
    """A system at one z."""

    residual: Float[Array | np.ndarray, " m"]
    jacobian: Float[Array | np.ndarray, "m n"]
    step_jacobians: Float[Array | np.ndarray, "p N N"]
    frame: Frame


class CycleSystem(eqx.Module):
    """F(x_i, q) = x_{i+1 mod p}: p points of N entries, then the parameters, in z = (x_0, ..., x_{p-1}, q)."""

    f: Callable[[Array, Array], Array]
    period: int = eqx.field(static=True)
    num_units: int = eqx.field(static=True)
    num_parameters: int = eqx.field(static=True)
    matrix_free: bool = eqx.field(static=True, default=False)

    @property
    def num_states(self) -> int:
        """The entries of all points of the cycle."""
        return self.period * self.num_units

    def points(self, z: Array) -> Float[Array, "p N"]:
        """The points of the cycle."""
        return z[: self.num_states].reshape(self.period, self.num_units)

    def step(self, y: Float[Array, " N_plus_q"]) -> Float[Array, " N"]:
        """F on a state with the parameters appended; one parameter is passed on as a scalar."""
        x, q = y[: self.num_units], y[self.num_units :]
        return self.f(x, q[0] if self.num_parameters == 1 else q)

    def step_arguments(self, z: Array) -> Float[Array, "p N_plus_q"]:
        """Every point with the parameters appended."""
        q = jnp.broadcast_to(z[self.num_states :], (self.period, self.num_parameters))
        return jnp.concatenate([self.points(z), q], axis=1)

    def residual(self, z: Array) -> Float[Array, " m"]:
        """F(x_i, q) - x_{i+1}, first the one that should vanish at x_0."""
        images = jax.vmap(self.step)(self.step_arguments(z))
        return (jnp.roll(images, 1, axis=0) - self.points(z)).ravel()

    def evaluate(self, z: Array, frame: Frame = ()) -> Evaluation:
        images, jacobians = jax.vmap(lambda y: value_and_jacobian(self.step, y))(self.step_arguments(z))
        residual = (jnp.roll(images, 1, axis=0) - self.points(z)).ravel()
        in_states, in_parameters = jacobians[..., : self.num_units], jacobians[..., self.num_units :]
        left = shooting_matrix(in_states, 1.0)
        right = jnp.roll(in_parameters, 1, axis=0).reshape(self.num_states, self.num_parameters)
        return Evaluation(residual, jnp.concatenate([left, right], axis=1), in_states, frame)

    def curvature(self, z: Array, v: Float[Array, "p N_plus_q"], w: Float[Array, "p N"]) -> Float[Array, " n"]:
        """The gradient in z of sum_i w_i . DF(x_i, q) v_i, with v and w held. Forward mode only."""

        def product(y: Array, v: Array, w: Array) -> Array:
            return w @ jax.jvp(self.step, (y,), (v,))[1]

        rows = jax.vmap(jax.jacfwd(product))(self.step_arguments(z), v, w)
        return jnp.concatenate([rows[:, : self.num_units].ravel(), rows[:, self.num_units :].sum(axis=0)])


def evaluate_cycle(cycle: CycleSystem, z: Any) -> Any:
    """The residual and the Jacobians of a cycle at z: an `Evaluation` of NumPy arrays."""
    return jax.device_get(_evaluate_cycle(cycle, z))


@compiled
def _evaluate_cycle(cycle: CycleSystem, z: Any) -> Evaluation:
    return cycle.evaluate(jnp.asarray(z))


class Parts(NamedTuple):
    """What the systems below are made of: traced with them, or each a program of its own that a loop in NumPy calls."""

    evaluate: Callable
    """`(cycle, z) -> Evaluation`."""
    curvature: Callable
    """`(cycle, z, direction, w)`: w . D^2G(direction, .) as a vector over z, of G the residual."""
    changes: Callable
    """`(cycle, z, vectors)`: the derivative in z, the last axis, of the monodromy matrix times these rows."""


def curvature_along(cycle: CycleSystem, z: Any, direction: Any, w: Any) -> Float[Array, " n"]:
    """See `Parts`."""
    z, direction, w = jnp.asarray(z), jnp.asarray(direction), jnp.asarray(w)
    shape = (cycle.period, cycle.num_units)
    states = direction[: cycle.num_states].reshape(shape)
    parameters = jnp.broadcast_to(direction[cycle.num_states :], (cycle.period, cycle.num_parameters))
    # Row block i + 1 of the Jacobian of G holds the derivative at point i.
    return cycle.curvature(z, jnp.concatenate([states, parameters], axis=1), jnp.roll(w.reshape(shape), -1, axis=0))


def changes_around(cycle: CycleSystem, z: Any, vectors: Any) -> Float[Array, "k N n"]:
    """See `Parts`."""

    def pushed(z: Array) -> Array:
        return jax.vmap(lambda v: push_around(cycle, z, v))(jnp.asarray(vectors))

    return jax.jacfwd(pushed)(jnp.asarray(z))


TRACED = Parts(CycleSystem.evaluate, curvature_along, changes_around)


class CriticalMultiplierSystem(eqx.Module):
    """A cycle with a real multiplier `target` (+1: fold, -1: flip); one equation more than `CycleSystem`.

    The frame is (u, c), near the left and right null vectors of the shooting matrix whose last step returns to
    target * x_0: v_{i+1} = DF(x_i) v_i around the cycle and v_p = target * v_0.
    """

    cycle: CycleSystem
    target: Any
    """An array of one number, so that folds and flips share a program."""

    def evaluate(self, z: Any, frame: Frame, parts: Parts = TRACED) -> Evaluation:
        xp, base = _namespace(z), parts.evaluate(self.cycle, z)
        left, right = frame
        v, w, g = _null_vectors(shooting_matrix(base.step_jacobians, self.target), left, right)
        direction = xp.concatenate([v, xp.zeros(self.cycle.num_parameters, z.dtype)])
        gradient = -parts.curvature(self.cycle, z, direction, w)
        return Evaluation(
            xp.append(base.residual, g),
            xp.concatenate([base.jacobian, gradient[None]]),
            base.step_jacobians,
            (w / xp.linalg.norm(w), v / xp.linalg.norm(v)),
        )


class NeimarkSackerSystem(eqx.Module):
    """A cycle with multipliers e^{+-i theta}: z = (x_0, ..., k, q) with k = cos(theta); two equations more.

    L = M^2 - 2 k M + 1 with the monodromy matrix M then has a null space of dimension two; the frame has two columns
    on each side, g is a matrix G (2, 2). On the critical plane M^2 = tr M - det (Cayley-Hamilton), so that to first
    order G lies in the plane spanned by W^T V and W^T M V, on which it is projected. |k| > 1 is a neutral saddle: two
    real multipliers of product 1.
    """

    cycle: CycleSystem

    def evaluate(self, z: Any, frame: Frame, parts: Parts = TRACED) -> Evaluation:
        xp, cycle, size = _namespace(z), self.cycle, self.cycle.num_states
        k, z_cycle = z[size], xp.concatenate([z[:size], z[size + 1 :]])
        base = parts.evaluate(cycle, z_cycle)
        left, right = frame
        m = monodromy(base.step_jacobians)
        matrix = m @ m - 2 * k * m + xp.eye(cycle.num_units, dtype=z.dtype)
        v, w, g = _null_vectors(matrix, left, right)
        changes = parts.changes(cycle, z_cycle, xp.concatenate([v.T, (m @ v).T]))
        of_v, of_mv = changes[:2], changes[2:]
        d_g = -(
            xp.einsum("na,bnz->abz", w, of_mv)
            + xp.einsum("na,bnz->abz", m.T @ w, of_v)
            - 2 * k * xp.einsum("na,bnz->abz", w, of_v)
        )
        d_k = 2 * w.T @ m @ v
        first = (w.T @ v).ravel()
        first = first / xp.linalg.norm(first)
        second = (w.T @ m @ v).ravel()
        second = second - first * (first @ second)
        second = second / xp.linalg.norm(second)
        plane = xp.stack([first, second])
        # The plane is held fixed: its change multiplies G, which vanishes at the solution.
        gradients = plane @ d_g.reshape(4, -1)
        by_k = plane @ d_k.ravel()
        jacobian = xp.concatenate(
            [
                xp.concatenate([base.jacobian[:, :size], xp.zeros((size, 1)), base.jacobian[:, size:]], axis=1),
                xp.concatenate([gradients[:, :size], by_k[:, None], gradients[:, size:]], axis=1),
            ]
        )
        residual = xp.concatenate([base.residual, plane @ g.ravel()])
        return Evaluation(residual, jacobian, base.step_jacobians, (xp.linalg.qr(w)[0], xp.linalg.qr(v)[0]))


class BranchPointSystem(eqx.Module):
    """A point where two branches cross: the Jacobian [D_xG, D_qG] (m, m + 1) of the cycle loses rank.

    z = (x_0, ..., q, beta) with the equations G + beta u = 0 and g_1 = g_2 = 0 of the Jacobian bordered by u on the
    left and two columns C on the right. A regular system at a simple branch point, where beta = 0. Reference: G. Moore
    (1980), *The numerical treatment of non-trivial bifurcation points*.
    """

    cycle: CycleSystem

    def evaluate(self, z: Any, frame: Frame, parts: Parts = TRACED) -> Evaluation:
        xp, cycle = _namespace(z), self.cycle
        z_cycle, beta = z[:-1], z[-1]
        base = parts.evaluate(cycle, z_cycle)
        left, right = frame
        v, w, g = _null_vectors(base.jacobian, left, right)
        rows = xp.stack([-parts.curvature(cycle, z_cycle, direction, w[:, 0]) for direction in v.T])
        top = xp.concatenate([base.jacobian, left], axis=1)
        bottom = xp.concatenate([rows, xp.zeros((2, 1), z.dtype)], axis=1)
        residual = xp.concatenate([base.residual + beta * left[:, 0], g.ravel()])
        return Evaluation(residual, xp.concatenate([top, bottom]), base.step_jacobians, frame)


def _namespace(z: Any) -> Any:
    return np if isinstance(z, np.ndarray) else jnp


def shooting_matrix(
    step_jacobians: Float[Array | np.ndarray, "p N N"], target: float | Array | np.ndarray
) -> Float[Array | np.ndarray, "m m"]:
    """The matrix of v_{i+1} = DF(x_i) v_i, i = 0 ... p-2, and target * v_0 = DF(x_{p-1}) v_{p-1}.

    It is singular exactly where `target` is a multiplier of the cycle.
    """
    period, size, _ = step_jacobians.shape
    xp = np if isinstance(step_jacobians, np.ndarray) else jnp
    eye, dtype = np.eye(period), step_jacobians.dtype
    # Block (i + 1, i) holds the derivative at point i.
    blocks = xp.asarray(np.roll(eye, 1, axis=0), dtype)[:, None, :, None] * step_jacobians.swapaxes(0, 1)[None]
    ones = eye[:, None, :, None] * np.eye(size)[:, None, :]
    first = ones * (eye[0] > 0)[:, None, None, None]
    diagonal = xp.asarray(ones - first, dtype) + target * xp.asarray(first, dtype)
    return (blocks - diagonal).reshape(period * size, period * size)


def push_around(system: CycleSystem, z: Array, v: Float[Array, " N"]) -> Float[Array, " N"]:
    """The monodromy matrix of the cycle in z times v, without forming it."""

    def body(v: Array, y: Array) -> tuple[Array, None]:
        return jax.jvp(system.step, (y,), (jnp.concatenate([v, jnp.zeros(system.num_parameters, v.dtype)]),))[1], None

    return _along(body, v, system.step_arguments(z))


def _along(body: Callable, carry: Array, rows: Float[Array, "p n"]) -> Array:
    """The carry of a `scan`; of one row without a loop, which takes longer to compile than what is in it."""
    return body(carry, rows[0])[0] if len(rows) == 1 else jax.lax.scan(body, carry, rows)[0]


def monodromy(step_jacobians: Float[Array | np.ndarray, "p N N"]) -> Any:
    """DF(x_{p-1}) ... DF(x_0)."""
    if len(step_jacobians) == 1:
        return step_jacobians[0]
    if isinstance(step_jacobians, np.ndarray):
        return orbit_product(step_jacobians)
    return jax.lax.scan(lambda m, a: (a @ m, None), step_jacobians[0], step_jacobians[1:])[0]


def _null_vectors(matrix: Any, left: Any, right: Any) -> tuple[Any, Any, Any]:
    """v, w and g of the bordered systems in the module docstring; vectors, or matrices where the frame has columns."""
    (rows, columns), as_vector = matrix.shape, left.ndim == 1
    if as_vector:
        left, right = left[:, None], right[:, None]
    num_left, num_right = left.shape[1], right.shape[1]
    xp = _namespace(matrix)
    bordered = xp.block([[matrix, left], [right.T, xp.zeros((num_right, num_left), matrix.dtype)]])
    # The inverse gives the solutions of both systems at once; the matrix is well conditioned by choice of the frame.
    inverse = xp.linalg.inv(bordered)
    v, g, w = inverse[:columns, rows:], inverse[columns:, rows:], inverse[columns:, :rows].T
    return (v[:, 0], w[:, 0], g[0, 0]) if as_vector else (v, w, g)
