"""Which systems of linear inequalities have no solution, each refusal with a certificate checked in floating point.

By Farkas' lemma C z + d >= 0 has no solution exactly when some y >= 0 has C^T y = 0 and d^T y < 0. The multipliers y
come from a non-negative least-squares problem (least distance programming: C. L. Lawson & R. J. Hanson, 1974, *Solving
Least Squares Problems*, ch. 23). They are only a proposal: what counts is a bound, computed from the weights of the map
with the rounding of every sum included, on how far out a solution would have to lie.
"""

import numpy as np
from jaxtyping import Bool
from scipy.optimize import nnls

from rnndyn.dynamics.linear_regions._relu_map import ReluMap

REQUIRED_RADIUS = 1e6
"""A system counts as infeasible when it has no solution this near to the origin, in units in which the biases of the
map are of order one. Certificates usually reach many orders of magnitude further; where they do not, the system is kept
and decided by its linear solution."""

Word = tuple[int, ...]


class WordTests:
    """Tests whether orbits can follow words: sequences of regions, numbered by the rows of `patterns` (R, L)."""

    def __init__(self, relu_map: ReluMap, patterns: Bool[np.ndarray, "R L"]):
        signs = np.where(patterns, 1.0, -1.0)
        bound = relu_map.absolute()
        self.matrices, self.vectors = relu_map.pieces(patterns)
        self.bound_matrices, self.bound_vectors = bound.pieces(patterns)
        # Region r is where normals[r] z + biases[r] >= 0.
        self.normals, self.biases = signs[:, :, None] * relu_map.inner, signs * relu_map.inner_bias
        self.bound_normals, self.bound_biases = bound.inner, bound.inner_bias
        self.rounding = relu_map.rounding()
        self._rows: dict[Word, tuple[np.ndarray, np.ndarray]] = {(): (np.zeros((0, relu_map.state_size)), np.zeros(0))}

    def excluded_radius(self, word: Word) -> float | None:
        """The radius within which no orbit follows `word`; `None` where some may."""
        y = multipliers(*self.inequalities(word))
        if y is None:
            return None
        radius = self.radius_of(word, y.reshape(len(word), -1))
        return radius if radius >= REQUIRED_RADIUS else None

    def inequalities(self, word: Word) -> tuple[np.ndarray, np.ndarray]:
        """`(C, d)` of the states C z + d >= 0 whose orbits follow `word`; kept, as longer words end with it."""
        rows = self._rows.get(word)
        if rows is None:
            first = word[0]
            later, later_bias = self.inequalities(word[1:])
            rows = (
                np.concatenate([self.normals[first], later @ self.matrices[first]]),
                np.concatenate([self.biases[first], later @ self.vectors[first] + later_bias]),
            )
            self._rows[word] = rows
        return rows

    def radius_of(self, word: Word, y: np.ndarray) -> float:
        r"""No orbit with all $|z_t|_\infty$ below this radius follows `word`, as the multipliers `y` (k, L) show.

        With C_t z + d_t >= 0 the region at step t, an orbit has $\sum_t y_t \cdot (C_t z_t + d_t) \ge 0$. Costates
        $\lambda_t = C_t^T y_t + M_t^T \lambda_{t+1}$, computed backwards from zero, turn the sum into
        $\lambda_0 \cdot z_0 + \sum_t (d_t \cdot y_t + v_t \cdot \lambda_{t+1}) + \sum_t \rho_t \cdot z_t$, where
        $\rho_t$ is what rounding left of the recursion. If the constant is negative, then some $|z_t|$ is large.
        """
        costate = np.zeros(self.vectors.shape[1])
        constant = constant_terms = coefficient_terms = 0.0
        for region, weights in zip(word[::-1], y[::-1]):
            size = np.abs(costate)
            constant += weights @ self.biases[region] + costate @ self.vectors[region]
            constant_terms += weights @ self.bound_biases + size @ self.bound_vectors[region]
            # M_t itself is rounded, hence twice.
            terms = weights @ self.bound_normals + 2 * (size @ self.bound_matrices[region])
            costate = weights @ self.normals[region] + costate @ self.matrices[region]
            coefficient_terms += terms.sum() + np.abs(costate).sum()
        # Twice the bound on one sum also covers the summation over the word.
        rounding = 2 * self.rounding * len(word)
        gap = -constant - rounding * constant_terms
        return float(gap / (np.abs(costate).sum() + rounding * coefficient_terms)) if gap > 0 else 0.0


def multipliers(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray | None:
    """Proposed Farkas multipliers that `matrix z + vector >= 0` has no solution; `None` when it seems to have one."""
    rows = np.column_stack([matrix, vector])
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    norms[norms == 0] = 1.0
    target = np.zeros(rows.shape[1])
    target[-1] = -1.0
    solution = nonnegative_least_squares((rows / norms[:, None]).T, target)
    if solution is None:
        return None
    solution = solution / norms
    # Without multipliers d^T y comes out at 0 or above; with them it is near -1.
    return solution if vector @ solution < -0.5 else None


def nonnegative_least_squares(matrix: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """The x >= 0 that brings `matrix x` nearest to `target`; `None` where the solver gave up."""
    try:
        return nnls(matrix, target, maxiter=10 * sum(matrix.shape))[0]
    except RuntimeError:
        # Out of steps. The caller takes the system as feasible, which costs work but misses nothing.
        return None
