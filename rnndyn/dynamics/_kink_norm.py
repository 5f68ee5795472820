r"""A norm in which a homogeneous piecewise-linear map shrinks: a bound on growth along every direction.

For $G(d) = A d + B \max(C d, 0)$ a matrix P is sought with $|G(d)|_P \le \gamma |d|_P$ for all d, where
$|d|_P^2 = d^T P d$. With $p = \max(C d, 0)$ and $q = p - C d$ the entries of $z = (p, q)$ are not negative and
$p_i q_i = 0$. So it is enough that

$$ H = \gamma^2 d^T P d - (A d + B p)^T P (A d + B p) - z^T Z z \succ 0 \quad \text{in all } (d, p), $$

with $Z_{ij} \ge 0$, but for the entries of $p_i q_i$, which are free: a linear matrix inequality in P and Z for each
$\gamma$.

References: V. A. Yakubovich, G. A. Leonov & A. Kh. Gelig (2004), *Stability of Stationary Sets in Control Systems
with Discontinuous Nonlinearities* (S-procedure); M. Johansson & A. Rantzer (1998), *Computation of piecewise quadratic
Lyapunov functions for hybrid systems*; S. Boyd & L. Vandenberghe (2004), *Convex Optimization*, chapter 11 (barriers).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_solve

from rnndyn.dynamics._kink_growth import Place

LARGEST = 256
"""Units and switches together, up to which a norm is sought: each step costs some hundred products of such matrices."""

_ROUNDING = 1e-9
"""What H must be above zero by, of the size of its parts: far above rounding, which is some 1e-13 of it."""

_WEIGHT = 0.02
"""Of the barrier of each entry of Z against those of H and P: there are so many that they would keep all else away."""

_LEAP = 4.0
"""By this the weight of the aim grows against the barriers, from one central point to the next."""

_GAP = 0.02
"""The aim is out of reach when a central point is this near to the optimum, as a fraction of what is missing."""


class ReluLayer(NamedTuple):
    """The map A d + B max(C d, 0)."""

    a: Float[np.ndarray, "N N"]
    b: Float[np.ndarray, "N S"]
    c: Float[np.ndarray, "S N"]


def as_relu_layer(place: Place, border: Bool[np.ndarray, " S"]) -> ReluLayer | None:
    """The one-sided derivative at a fixed point as one layer of ReLUs; `None` where its kinks lie behind one another.

    The switches must turn linearly with the direction; A and B then follow by least squares, and further directions
    check them.
    """
    size, num = place.points.shape[1], int(border.sum())
    if len(place.points) > 1 or size + num > LARGEST:
        return None
    ds = np.random.default_rng(1).standard_normal((size + num + 64, size))
    looked = place.look(ds)
    turns = looked.turns.reshape(len(ds), -1)[:, border]
    c = np.linalg.lstsq(ds, turns, rcond=None)[0].T
    if not np.allclose(ds @ c.T, turns, rtol=0, atol=1e-9 * np.max(np.abs(turns), initial=1e-300)):
        return None
    c = _without_copies(c)
    fitted, checked = slice(None, -32), slice(-32, None)
    terms = np.concatenate([ds, np.maximum(ds @ c.T, 0)], axis=1)
    ab = np.linalg.lstsq(terms[fitted], looked.slope[fitted], rcond=None)[0].T
    misses = np.abs(terms[checked] @ ab.T - looked.slope[checked])
    if not np.max(misses) <= 1e-9 * np.max(np.abs(looked.slope)):
        return None
    a, b = ab[:, :size], ab[:, size:]
    kinked = np.max(np.abs(b), axis=0, initial=0.0) > 1e-11 * np.max(np.abs(ab))
    return ReluLayer(a, b[:, kinked], c[kinked]) if kinked.any() else None


def growth_bound(layer: ReluLayer, aim: float) -> float:
    """A factor of at most `aim` by which every direction shrinks in some norm; infinity where no such norm was found.

    Where a quadratic norm does not exist, nothing follows: the map may shrink in another norm.
    """
    search = _Search(layer, aim**2)
    norm, multipliers = np.eye(search.size), np.where(search.is_free, -1.0 - np.linalg.norm(layer.b, 2) ** 2, 1e-2)
    lacks = -1.1 * float(np.linalg.eigvalsh(search.matrix(norm, multipliers))[0])
    if lacks < 0:
        return search.factor(norm, multipliers)
    weight = search.order / lacks / 4
    for _ in range(40):
        norm, multipliers, lacks = search.centre(norm, multipliers, lacks, weight)
        if lacks < 0:
            return search.factor(norm, multipliers)
        # The distance to the optimum at a central point: the number of barriers over the weight of the aim.
        if search.num_barriers / weight < _GAP * lacks:
            break
        weight *= _LEAP
    return np.inf


class _Search:
    """min s with H + s I > 0, P > 0, Z >= 0, tr P <= 2 N: P is "norm", Z "multipliers", s "lacks" in the names here."""

    def __init__(self, layer: ReluLayer, square: float) -> None:
        self.size, num = len(layer.a), len(layer.c)
        self.square, self.order = square, len(layer.a) + num
        self._step = np.concatenate([layer.a, layer.b], axis=1)
        self._signs = np.block([[np.zeros((num, self.size)), np.eye(num)], [-layer.c, np.eye(num)]])
        self.is_free = np.zeros((2 * num, 2 * num), bool)
        i = np.arange(num)
        self.is_free[i, num + i] = self.is_free[num + i, i] = True
        self.num_barriers = self.order + self.size + _WEIGHT * np.sum(~self.is_free)

    def matrix(self, norm: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
        """H, linear in both."""
        h = -self._step.T @ (norm @ self._step) - self._signs.T @ (multipliers @ self._signs)
        h[: self.size, : self.size] += self.square * norm
        return (h + h.T) / 2

    def _adjoint(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Of (P, Z, s) -> H + s I."""
        of_norm = self.square * k[: self.size, : self.size] - self._step @ k @ self._step.T
        return of_norm, -self._signs @ k @ self._signs.T, float(np.trace(k))

    def factor(self, norm: np.ndarray, multipliers: np.ndarray) -> float:
        """The least gamma for which this norm and these multipliers do, with room for rounding."""
        room = _ROUNDING * float(np.linalg.norm(norm, 2)) * (1 + float(np.linalg.norm(self._step, 2)) ** 2)
        room += _ROUNDING * float(np.linalg.norm(multipliers, 2))
        if not np.linalg.eigvalsh(norm)[0] > room:
            return np.inf
        h, d = self.matrix(norm, multipliers) - room * np.eye(self.order), slice(None, self.size)

        def does(square: float) -> bool:
            trial = h.copy()
            trial[d, d] += (square - self.square) * norm
            return _cholesky(trial) is not None

        low, high = 0.0, self.square
        if not does(high):
            return np.inf
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if does(middle) else (middle, high)
        return float(np.sqrt(high))

    def _value(self, norm: np.ndarray, multipliers: np.ndarray, lacks: float, weight: float) -> tuple:
        h, p = _cholesky(self.matrix(norm, multipliers) + lacks * np.eye(self.order)), _cholesky(norm)
        left, bounded = 2 * self.size - np.trace(norm), multipliers[~self.is_free]
        if h is None or p is None or left <= 0 or np.any(bounded <= 0):
            return np.inf, h, p
        logs = 2 * np.sum(np.log(np.diag(h))) + 2 * np.sum(np.log(np.diag(p)))
        return weight * lacks - logs - _WEIGHT * np.sum(np.log(bounded)) - np.log(left), h, p

    def centre(
        self, norm: np.ndarray, multipliers: np.ndarray, lacks: float, weight: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Newton steps, by conjugate gradients, towards the minimum of weight * s + barriers; it ends when s < 0."""
        at = (norm, multipliers, lacks)
        value, h, p = self._value(*at, weight)
        for _ in range(10):
            step, decrease = self._newton_step(at, h, p, weight)
            length = 1.0
            while True:
                there = _moved(at, length, step)
                after, new_h, new_p = self._value(*there, weight)
                if after <= value - 1e-4 * length * decrease + 1e-9:
                    break
                length /= 2
                if length < 1e-8:
                    return at
            at, value, h, p = there, after, new_h, new_p
            if at[2] < 0 or decrease < 0.05:
                break
        return at

    def _newton_step(self, at: tuple, h: np.ndarray, p: np.ndarray, weight: float) -> tuple[tuple, float]:
        norm, multipliers, _ = at
        k, inverse = cho_solve((h, True), np.eye(self.order)), cho_solve((p, True), np.eye(self.size))
        left = 2 * self.size - np.trace(norm)
        reciprocal = np.where(self.is_free, 0.0, 1 / np.where(self.is_free, 1.0, multipliers))
        pulled = self._adjoint(k)
        gradient = (
            -pulled[0] - inverse + np.eye(self.size) / left,
            -pulled[1] - _WEIGHT * reciprocal,
            weight - pulled[2],
        )

        def hessian(d: tuple) -> tuple:
            pulled = self._adjoint(k @ (self.matrix(d[0], d[1]) + d[2] * np.eye(self.order)) @ k)
            of_norm = pulled[0] + inverse @ d[0] @ inverse + np.eye(self.size) * np.trace(d[0]) / left**2
            return of_norm, pulled[1] + _WEIGHT * reciprocal**2 * d[1], pulled[2]

        signs = -pulled[1]
        diagonal = (np.outer(np.diag(signs), np.diag(signs)) + signs**2) / 2 + _WEIGHT * reciprocal**2
        scaled = lambda r: (norm @ r[0] @ norm, r[1] / diagonal, r[2] / np.sum(k * k))
        rest = tuple(-g for g in gradient)
        step = tuple(np.zeros_like(g) for g in gradient)
        direction = scaled(rest)
        size = first = _dot(rest, direction)
        for _ in range(80):
            curved = hessian(direction)
            length = size / _dot(direction, curved)
            step, rest = _moved(step, length, direction), _moved(rest, -length, curved)
            again = scaled(rest)
            size, before = _dot(rest, again), size
            if size < 1e-3 * first:
                break
            direction = _moved(again, size / before, direction)
        symmetric = tuple((s + s.T) / 2 if np.ndim(s) else s for s in step)
        return symmetric, -_dot(gradient, symmetric)


def _moved(x: tuple, length: float, direction: tuple) -> tuple:
    return tuple(a + length * b for a, b in zip(x, direction))


def _dot(x: tuple, y: tuple) -> float:
    return float(sum(np.vdot(a, b) for a, b in zip(x, y)))


def _cholesky(matrix: np.ndarray) -> np.ndarray | None:
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return None


def _without_copies(c: np.ndarray) -> np.ndarray:
    """Rows of length 1, one for each hyperplane."""
    lengths = np.linalg.norm(c, axis=1)
    c = c[lengths > 1e-12 * np.max(lengths, initial=0.0)]
    c = c / np.linalg.norm(c, axis=1)[:, None]
    kept: list[int] = []
    for i in range(len(c)):
        if not kept or np.max(np.abs(c[kept] @ c[i])) < 1 - 1e-12:
            kept.append(i)
    return c[kept]
