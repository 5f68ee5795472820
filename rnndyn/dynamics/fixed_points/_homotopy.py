"""Ways to a fixed point that must exist: the path of the homotopy from a constant map to the map itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import LinAlgError, get_lapack_funcs

from rnndyn._programs import compiled, value_and_jacobian
from rnndyn.dynamics.fixed_points.verdicts import PathVerdict

FIRST_STEP, LONGEST_STEP, SHORTEST_STEP = 0.02, 0.3, 1e-9
"""Arclength, with the states measured by their root mean square in units of the scale. A step is long where the
corrections still converge; the bound keeps one from leaping over a small loop of the path."""

MAX_CHORDS = 6
"""Corrections with the factors at hand. More of them cost as much as new factors for some hundred units."""

ON_PATH = 1e-7
"""Residuals along the way, in units of the scale: only the end has to be exact, and Newton's method sees to that."""


class Path(NamedTuple):
    """One path: the states where it crosses s = 1, how it ended, and what it took."""

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
    max_points: int = 1,
) -> Path:
    r"""Follow the solutions of $x = (1 - s)\,a + s\,F(x)$ from $s = 0$, $x = a$ until they cross $s = 1$.

    At s = 0 the solution is unique. Where F maps a box into itself, a in it, every solution with $0 \le s \le 1$ lies
    in the box, and from almost every a the path is a smooth curve that ends at s = 1. It may turn back in s on its way
    (folds), so it is followed by arclength:

    $$ \begin{pmatrix} I - s\,DF & a - F \\ t^T & \end{pmatrix} \delta = \begin{pmatrix} -H \\ 0 \end{pmatrix} $$

    with the tangent t. One factorisation serves the tangent and all corrections of a step. Past s = 1 it is followed on
    until it has come back `max_points` - 1 times.

    **Arguments:**

    - `f`: the map, a program.
    - `start`: a, (N,).
    - `scale`: a length typical of the states.
    - `max_steps`: factorisations at the most.
    - `max_points`: how many crossings to look for.

    Reference: S. N. Chow, J. Mallet-Paret & J. A. Yorke (1978), *Finding zeroes of maps: homotopy methods that are
    constructive with probability one*; E. Allgower & K. Georg (2003), *Introduction to Numerical Continuation Methods*.
    """
    a = np.asarray(start, np.float64)
    size = a.size
    unit = scale * np.sqrt(size)  # of the states, so that |(x - a)/unit| is a root mean square in units of the scale
    image, jacobian = _value(f, a)
    z = np.zeros(size + 1)  # (x - a) / unit, s
    row, direction = np.append(np.zeros(size), 1.0), None
    step, length = FIRST_STEP, 0.0
    points: list[np.ndarray] = []
    verdict, num_steps = PathVerdict.out_of_steps, 0
    while num_steps < max_steps:
        num_steps += 1
        # Scaled: H / unit, of (x - a) / unit and s.
        matrix = np.empty((size + 1, size + 1), order="F")
        matrix[:size, :size] = -z[-1] * jacobian
        matrix[np.arange(size), np.arange(size)] += 1.0
        matrix[:size, -1] = (a - image) / unit
        matrix[-1] = row
        try:
            factors = _Factors(matrix)
        except LinAlgError:
            verdict = PathVerdict.lost
            break
        tangent = factors.solve(np.append(np.zeros(size), 1.0))
        tangent /= np.linalg.norm(tangent)
        # The bordering row is the last tangent: a positive product with it keeps the direction.
        if direction is not None and tangent @ direction < 0:
            tangent = -tangent
        moved = None
        while step >= SHORTEST_STEP:
            moved, quality = _correct(f, a, unit, z + step * tangent, tangent, factors, step)
            if moved is not None:
                break
            step /= 3
        if moved is None:
            verdict = PathVerdict.lost
            break
        crossing = (z[-1] - 1) * (moved[-1] - 1) <= 0 and moved[-1] != z[-1] and z[-1] != 1
        if crossing:
            share = (1 - z[-1]) / (moved[-1] - z[-1])
            points.append(a + unit * (z + share * (moved - z))[:-1])
        length += float(np.linalg.norm(moved - z))
        direction = (moved - z) / np.linalg.norm(moved - z)
        z, row = moved, tangent
        if len(points) >= max_points:
            verdict = PathVerdict.arrived
            break
        # Only numbers that rounding spoils bring a path back to its start; past s = 2 it does not come back soon.
        if z[-1] < -1e-6 or z[-1] > 2 or not np.isfinite(z).all():
            verdict = PathVerdict.arrived if points else PathVerdict.lost
            break
        step = min(LONGEST_STEP, step * float(np.clip(np.sqrt(0.15 / max(quality, 1e-3)), 0.5, 2.0)))
        image, jacobian = _value(f, a + unit * z[:-1])
    return Path(np.array(points).reshape(-1, size), verdict, num_steps, length)


def _correct(f, a, unit, z, tangent, factors, step):
    """Back onto the path, in the plane across the tangent: `(z, rate)`, or `None` where it does not converge.

    The rate is by how much the first corrections shrink: small where the path is straight and the step may grow.
    """
    start, before, rate = z, np.inf, 0.0
    for k in range(MAX_CHORDS + 1):
        x = a + unit * z[:-1]
        image = _image(f, x)
        defect = (x - (1 - z[-1]) * a - z[-1] * image) / unit
        if not np.isfinite(defect).all():
            return None, np.inf
        if np.linalg.norm(defect) <= ON_PATH:
            return z, rate
        if k == MAX_CHORDS:
            break
        move = factors.solve(np.append(defect, 0.0))
        size = float(np.linalg.norm(move))
        if k:
            rate = max(rate, size / before)
        # What corrects as far as the step went, or hardly converges, may be on another piece of the path.
        if (k and size > 0.5 * before) or np.linalg.norm(z - move - start) > 0.5 * step:
            return None, np.inf
        z, before = z - move, size
    return None, np.inf


class _Factors:
    """LU factors of a matrix, which is overwritten, for many right-hand sides."""

    def __init__(self, matrix: np.ndarray) -> None:
        factor, self._solve = get_lapack_funcs(("getrf", "getrs"), (matrix,))
        self.lu, self.pivots, info = factor(matrix, overwrite_a=True)
        if info != 0 or not np.isfinite(self.lu[-1, -1]):
            raise LinAlgError

    def solve(self, right: np.ndarray) -> np.ndarray:
        return self._solve(self.lu, self.pivots, right)[0]


def _value(f: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image, jacobian = jax.device_get(_image_and_jacobian(f, x))
    return image, jacobian


def _image(f: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(_one_image(f, x))


@compiled
def _image_and_jacobian(f: Any, x: Any) -> tuple[Array, Array]:
    return value_and_jacobian(f, jnp.asarray(x))


@compiled
def _one_image(f: Any, x: Any) -> Array:
    return f(jnp.asarray(x))
