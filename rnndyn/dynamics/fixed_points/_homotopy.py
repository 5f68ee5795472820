"""Ways to a fixed point that must exist: the path of the homotopy from a constant map to the map itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Array, Bool, Float, Int

from rnndyn._programs import compiled, value_and_jacobian
from rnndyn.dynamics.fixed_points.verdicts import PathVerdict

FIRST_STEP, LONGEST_STEP, SHORTEST_STEP = 0.02, 0.3, 1e-9
"""Arclength, with the states measured by their root mean square in units of the scale. A step is long where the
corrections still converge; the bound keeps one from leaping over a small loop of the path."""

MAX_CHORDS = 6
"""Corrections with the factors at hand. More of them cost as much as new factors for some hundred units."""

ON_PATH = 1e-7
"""Residuals along the way, in units of the scale: only the end has to be exact, and Newton's method sees to that."""


_ON_THE_WAY, _ARRIVED, _LOST, _CONSTANT = 0, 1, 2, 3


class Path(NamedTuple):
    """One path: the state where it crosses s = 1 if it does, how it ended, and what it took."""

    points: Float[np.ndarray, "M N"]
    verdict: Any
    num_steps: int
    length: float


def follow_path(
    f: Callable[[Array], Array],
    start: Float[np.ndarray, " N"],
    *,
    scale: float,
    max_steps: int,
    root: Float[np.ndarray, " N"] | None = None,
) -> Path:
    r"""Follow the solutions of $x = (1 - s)\,a + s\,F(x)$ from $s = 0$, $x = a$ to $s = 1$.

    At s = 0 the solution is unique. Where F maps a box into itself, a in it, every solution with $0 \le s \le 1$ lies
    in the box, and from almost every a the path is a smooth curve that ends at s = 1. It may turn back in s on its way
    (folds), so it is followed by arclength:

    $$ \begin{pmatrix} I - s\,DF & a - F \\ t^T & \end{pmatrix} \delta = \begin{pmatrix} -H \\ 0 \end{pmatrix} $$

    with the tangent t. One factorisation serves the tangent and all corrections of a step.

    From a fixed point, `root`, it is followed the other way, from $s = 1$ down. At s = 0 there is one solution: the
    curve down from one of the fixed points ends there, and that from every other one comes back to s = 1, at a fixed
    point of the opposite index.

    **Arguments:**

    - `f`: the map, a program.
    - `start`: a, (N,).
    - `scale`: a length typical of the states.
    - `max_steps`: factorisations at the most.
    - `root`: a fixed point to begin at, (N,), instead of a.

    Reference: S. N. Chow, J. Mallet-Paret & J. A. Yorke (1978), *Finding zeroes of maps: homotopy methods that are
    constructive with probability one*; E. Allgower & K. Georg (2003), *Introduction to Numerical Continuation Methods*.
    """
    a = np.asarray(start, np.float64)
    unit = scale * np.sqrt(a.size)
    first, forward = (np.zeros(a.size + 1), 1.0) if root is None else (np.append((root - a) / unit, 1.0), -1.0)
    end = jax.device_get(_follow(f, a, unit, first, forward, np.int64(max_steps)))
    verdict = (PathVerdict.out_of_steps, PathVerdict.arrived, PathVerdict.lost, PathVerdict.constant)[int(end.outcome)]
    points = end.met[None] if int(end.outcome) == _ARRIVED else end.met[None][:0]
    return Path(points, verdict, int(end.num_steps), float(end.length))


class _OnPath(NamedTuple):
    """A place on the path, z = ((x - a) / unit, s), with the direction it was reached in and where it crosses s = 1."""

    z: Float[Array, " N+1"]
    row: Float[Array, " N+1"]
    direction: Float[Array, " N+1"]
    step: Float[Array, ""]
    length: Float[Array, ""]
    met: Float[Array, " N"]
    num_steps: Int[Array, ""]
    outcome: Int[Array, ""]


class _Correction(NamedTuple):
    """A way back onto the path: the place, the last move, by how much the first ones shrank, and whether it is there.

    The rate is small where the path is straight and the step may grow.
    """

    z: Float[Array, " N+1"]
    before: Float[Array, ""]
    rate: Float[Array, ""]
    number: Int[Array, ""]
    arrived: Bool[Array, ""]
    failed: Bool[Array, ""]


@compiled
def _follow(f: Any, a: Any, unit: Any, first: Any, forward: Any, max_steps: Any) -> _OnPath:
    """The whole path in one program: its steps are too small to be worth a call each."""
    a, unit = jnp.asarray(a), jnp.asarray(unit)  # |(x - a)/unit| is a root mean square in units of the scale
    last = jnp.zeros(a.size + 1).at[-1].set(1.0)
    direction = forward * last
    count = jnp.zeros((), int)
    none = jnp.full(a.size, jnp.nan)
    step = jnp.asarray(FIRST_STEP)
    start = _OnPath(jnp.asarray(first), direction, direction, step, jnp.zeros(()), none, count, count)

    def goes_on(at: _OnPath) -> Array:
        return (at.outcome == _ON_THE_WAY) & (at.num_steps < max_steps)

    def advance(at: _OnPath) -> _OnPath:
        image, jacobian = value_and_jacobian(f, a + unit * at.z[:-1])
        # Scaled: H / unit, of (x - a) / unit and s.
        upper = jnp.concatenate([jnp.eye(a.size) - at.z[-1] * jacobian, ((a - image) / unit)[:, None]], axis=1)
        factors = lu_factor(jnp.concatenate([upper, at.row[None]]))
        tangent = lu_solve(factors, last)
        tangent = tangent / jnp.linalg.norm(tangent)
        # The bordering row is the last tangent: a positive product with it keeps the direction.
        tangent = jnp.where(tangent @ at.direction < 0, -tangent, tangent)

        def correct_from(step: Array) -> _Correction:
            return _correct(f, a, unit, at.z + step * tangent, factors, step)

        def shorter(trial: tuple[Array, _Correction]) -> tuple[Array, _Correction]:
            return trial[0] / 3, correct_from(trial[0] / 3)

        fails = lambda trial: ~trial[1].arrived & (trial[0] >= 3 * SHORTEST_STEP) & jnp.all(jnp.isfinite(tangent))
        step, found = jax.lax.while_loop(fails, shorter, (at.step, correct_from(at.step)))
        z, moved = found.z, found.z - at.z
        crosses = found.arrived & ((at.z[-1] - 1) * (z[-1] - 1) <= 0) & (z[-1] != at.z[-1]) & (at.z[-1] != 1)
        met = a + unit * (at.z + (1 - at.z[-1]) / moved[-1] * moved)[:-1]
        distance = jnp.linalg.norm(moved)
        # Only numbers that rounding spoils bring a path back to its start; past s = 2 it does not come back soon.
        left = (z[-1] < -1e-6) | (z[-1] > 2) | ~jnp.all(jnp.isfinite(z))
        # Down from a fixed point it may end at the constant map.
        nowhere = jnp.where((forward < 0) & (z[-1] < 0), _CONSTANT, _LOST)
        outcome = jnp.where(left, nowhere, _ON_THE_WAY)
        outcome = jnp.where(crosses, _ARRIVED, outcome)
        outcome = jnp.where(found.arrived, outcome, _LOST)
        growth = jnp.clip(jnp.sqrt(0.15 / jnp.maximum(found.rate, 1e-3)), 0.5, 2.0)
        return _OnPath(
            z,
            tangent,
            moved / distance,
            jnp.minimum(LONGEST_STEP, step * growth),
            at.length + jnp.where(found.arrived, distance, 0.0),
            jnp.where(crosses, met, at.met),
            at.num_steps + 1,
            outcome,
        )

    return jax.lax.while_loop(goes_on, advance, start)


def _correct(f: Any, a: Array, unit: Array, start: Array, factors: Any, step: Array) -> _Correction:
    """Back onto the path, in the plane across the tangent, with the factors at hand."""

    def defect(z: Array) -> Array:
        x = a + unit * z[:-1]
        return (x - (1 - z[-1]) * a - z[-1] * f(x)) / unit

    def judge(now: _Correction, residual: Array) -> _Correction:
        size = jnp.linalg.norm(residual)
        on_path = size <= ON_PATH
        failed = now.failed | ~jnp.isfinite(size) | (~on_path & (now.number >= MAX_CHORDS))
        return now._replace(arrived=on_path & ~failed, failed=failed)

    def correct(carry: tuple[_Correction, Array]) -> tuple[_Correction, Array]:
        now, residual = carry
        move = lu_solve(factors, jnp.append(residual, 0.0))
        size, first = jnp.linalg.norm(move), now.number == 0
        rate = jnp.where(first, now.rate, jnp.maximum(now.rate, size / now.before))
        # What corrects as far as the step went, or hardly converges, may be on another piece of the path.
        lost = (~first & (size > 0.5 * now.before)) | ~(jnp.linalg.norm(now.z - move - start) <= 0.5 * step)
        z = now.z - move
        residual = defect(z)
        return judge(_Correction(z, size, rate, now.number + 1, now.arrived, lost), residual), residual

    none = jnp.zeros((), bool)
    residual = defect(start)
    begin = _Correction(start, jnp.asarray(jnp.inf), jnp.zeros(()), jnp.zeros((), int), none, none)
    going = lambda carry: ~(carry[0].arrived | carry[0].failed)
    return jax.lax.while_loop(going, correct, (judge(begin, residual), residual))[0]
