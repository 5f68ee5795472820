"""Piecewise-linear maps z -> A z + W_1 relu(W_2 z + h_2) + h_1 as NumPy arrays, and the solution of itineraries.

An *itinerary* of period p is the sequence of patterns (which ReLUs are on) at the p points of a cycle. In one linear
region the map is affine, so an itinerary leaves one linear system for the cycle; whether its solution is a cycle of
the map is then a matter of signs.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

SINGULAR_CONDITION = 1e13
"""A linear system with a condition number beyond this is taken as singular: fewer than three digits would be left."""


@runtime_checkable
class ReluForm(Protocol):
    """What `cell.relu_form(input)` gives: the arrays of z' = linear z + outer relu(inner z + inner_bias) + offset."""

    linear: Any
    outer: Any
    inner: Any
    inner_bias: Any
    offset: Any


@dataclasses.dataclass(frozen=True)
class ReluMap:
    """The map z' = linear z + outer relu(inner z + inner_bias) + offset in float64."""

    linear: Float[np.ndarray, "N N"]
    outer: Float[np.ndarray, "N L"]
    inner: Float[np.ndarray, "L N"]
    inner_bias: Float[np.ndarray, " L"]
    offset: Float[np.ndarray, " N"]

    @classmethod
    def of(cls, form: ReluForm) -> "ReluMap":
        """The arrays of `form`, in float64."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.asarray(getattr(form, name), np.float64) for name in names})

    @property
    def state_size(self) -> int:
        """The length N of the state."""
        return len(self.offset)

    @property
    def num_relus(self) -> int:
        """The number L of ReLUs."""
        return len(self.inner_bias)

    def __call__(self, z: Float[np.ndarray, "*K N"]) -> Float[np.ndarray, "*K N"]:
        return z @ self.linear.T + np.maximum(self.borders(z), 0) @ self.outer.T + self.offset

    def borders(self, z: Float[np.ndarray, "*K N"]) -> Float[np.ndarray, "*K L"]:
        """The pre-activations; their signs are the pattern, and a zero is a border between regions."""
        return z @ self.inner.T + self.inner_bias

    def pieces(
        self, patterns: Bool[np.ndarray, "*K L"]
    ) -> tuple[Float[np.ndarray, "*K N N"], Float[np.ndarray, "*K N"]]:
        """`(matrix, vector)` of z' = matrix z + vector in the regions of `patterns`."""
        gated = self.outer * patterns[..., None, :]
        return self.linear + gated @ self.inner, gated @ self.inner_bias + self.offset

    def absolute(self) -> "ReluMap":
        """The map of absolute values, whose pieces bound the rounding errors of the pieces."""
        return ReluMap(**{name: np.abs(value) for name, value in vars(self).items()})

    def rounding(self) -> float:
        """A bound on the relative rounding error of one step, for sums of L + N + 4 terms (Higham's gamma)."""
        terms = self.num_relus + self.state_size + 4
        eps = np.finfo(np.float64).eps
        return terms * eps / (1 - terms * eps)

    def simplified(self) -> "tuple[ReluMap, float]":
        """`(map, scale)`: the same map in z / scale, with lengths of order one and no idle ReLUs.

        ReLUs without effect, or that never switch, are folded into the affine part; ReLUs with one border in common
        (relu(r) and relu(-c r), as |r| has them) become one. All scaling is by powers of two, hence exact.
        """
        linear, offset = self.linear.copy(), self.offset.copy()
        columns: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        for column, row, bias in zip(self.outer.T, self.inner, self.inner_bias):
            if not column.any():
                continue
            if not row.any():
                offset += column * max(bias, 0.0)
                continue
            size = _power_of_two(float(np.linalg.norm(row)))
            column, border = column * size, np.append(row, bias) / size
            for k, other in enumerate(rows):
                largest = np.argmax(np.abs(other))
                ratio = border[largest] / other[largest]
                if np.array_equal(border, ratio * other):
                    # relu(c r) = c relu(r) for c > 0, and |c| (relu(r) - r) for c < 0.
                    columns[k] = columns[k] + abs(ratio) * column
                    if ratio < 0:
                        linear += np.outer(ratio * column, other[:-1])
                        offset += ratio * column * other[-1]
                    break
            else:
                columns.append(column)
                rows.append(border)
        outer = np.reshape(columns, (len(columns), self.state_size)).T
        borders = np.reshape(rows, (len(rows), self.state_size + 1))
        kept = outer.any(axis=0)  # merged ReLUs can cancel: relu(r) - relu(-r) = r
        outer, borders = outer[:, kept], borders[kept]
        scale = _power_of_two(max(np.max(np.abs(offset)), np.max(np.abs(borders[:, -1]), initial=0.0)))
        return ReluMap(linear, outer, borders[:, :-1], borders[:, -1] / scale, offset / scale), scale


@dataclasses.dataclass(frozen=True)
class Solutions:
    """The cycle of each of K itineraries of one period, one row each, in the units of the map.

    - `points`: the solutions of the linear systems, `(K, p, N)`.
    - `errors`: bounds on their rounding errors, in the largest component, `(K,)`.
    - `inside`: whether every point lies in the interior of its region by more than the error.
    - `on_border`: whether some point lies on the border of its region within the error, and none outside.
    - `singular`: whether the system is singular; there are then none or infinitely many solutions (`family`).
    """

    points: Float[np.ndarray, "K p N"]
    errors: Float[np.ndarray, " K"]
    inside: Bool[np.ndarray, " K"]
    on_border: Bool[np.ndarray, " K"]
    singular: Bool[np.ndarray, " K"]


def solve_itineraries(relu_map: ReluMap, itineraries: Bool[np.ndarray, "K p L"]) -> Solutions:
    """Solve z_{t+1} = M_t z_t + v_t, cyclically, for each itinerary, and compare with its regions.

    The system of all p points together is solved, not (I - M_{p-1} ... M_0) z_0 = b: its condition does not grow with
    the expansion along the cycle.
    """
    num_itineraries, period, _ = itineraries.shape
    size = period * relu_map.state_size
    chunk = max(1, 2**24 // (8 * max(1, size * size)))  # matrices of 16 MiB at once stay in the cache or near it
    parts = [_solve(relu_map, itineraries[start : start + chunk]) for start in range(0, num_itineraries, chunk)]
    if not parts:
        parts = [_solve(relu_map, itineraries)]
    columns = zip(*(vars(part).values() for part in parts))
    return Solutions(*(np.concatenate(column) for column in columns))


def cyclic_system(
    relu_map: ReluMap, itineraries: Bool[np.ndarray, "K p L"]
) -> tuple[Float[np.ndarray, "K S S"], Float[np.ndarray, "K S"]]:
    """Matrix and right-hand side of the linear equations for the S = p N coordinates of the points of a cycle."""
    matrices, vectors = relu_map.pieces(itineraries)
    num_itineraries, period, size = vectors.shape
    system = np.zeros((num_itineraries, period, size, period, size))
    now = np.arange(period)
    following = (now + 1) % period
    system[:, now, :, now, :] = np.eye(size)
    # Added, because in a system of period 1 both blocks are the same.
    system[:, following, :, now, :] -= matrices.swapaxes(0, 1)
    flat = period * size
    return system.reshape(num_itineraries, flat, flat), vectors[:, (now - 1) % period].reshape(num_itineraries, flat)


def canonical_rotation(sequence: tuple) -> tuple:
    """The least of the cyclic shifts of a sequence."""
    return min(sequence[shift:] + sequence[:shift] for shift in range(len(sequence)))


def is_primitive(sequence: tuple) -> bool:
    """Whether a sequence is no repetition of a shorter one."""
    return all(sequence != sequence[shift:] + sequence[:shift] for shift in range(1, len(sequence)))


def distinct_itineraries(itineraries: Bool[np.ndarray, "K p L"]) -> Bool[np.ndarray, "M p L"]:
    """One of each up to cyclic shifts, without those that repeat a shorter one."""
    period, num_relus = itineraries.shape[1:]
    words = {canonical_rotation(tuple(map(tuple, word))) for word in itineraries.tolist()}
    kept = sorted(word for word in words if is_primitive(word))
    return np.array(kept, bool).reshape(len(kept), period, num_relus)


def _solve(relu_map: ReluMap, itineraries: np.ndarray) -> Solutions:
    num_itineraries, period, _ = itineraries.shape
    size = relu_map.state_size
    system, vector = cyclic_system(relu_map, itineraries)
    exactly_singular = np.linalg.slogdet(system)[0] == 0
    system[exactly_singular] = np.eye(period * size)
    inverse = np.linalg.inv(system)
    norms = np.max(np.sum(np.abs(system), axis=2), axis=1) * np.max(np.sum(np.abs(inverse), axis=2), axis=1)
    singular = exactly_singular | ~(norms < SINGULAR_CONDITION)
    z = np.einsum("kij,kj->ki", inverse, vector)
    for _ in range(2):  # iterative refinement: the second step finds nothing left to correct, unless ill-conditioned
        z = z + np.einsum("kij,kj->ki", inverse, vector - np.einsum("kij,kj->ki", system, z))
    points = z.reshape(num_itineraries, period, size)

    # |z - exact| <= |inverse| (|residual| + rounding of the residual and of the weights of the pieces), times 2 for
    # the error of the inverse itself.
    bounds, bound_vectors = relu_map.absolute().pieces(itineraries)
    terms = np.einsum("ktij,ktj->kti", bounds, np.abs(points)) + bound_vectors
    rounding = relu_map.rounding() * (np.abs(np.roll(points, -1, axis=1)) + 2 * terms)
    residual = np.abs(vector - np.einsum("kij,kj->ki", system, z))
    residual += np.roll(rounding, 1, axis=1).reshape(vector.shape)
    errors = 2 * np.einsum("kij,kj->ki", np.abs(inverse), residual).reshape(points.shape)

    slack = np.where(itineraries, 1, -1) * relu_map.borders(points)
    slack_error = errors @ np.abs(relu_map.inner).T
    slack_error += relu_map.rounding() * relu_map.absolute().borders(np.abs(points))
    inside = np.all(slack > slack_error, axis=(1, 2)) & ~singular
    outside = np.any(slack < -slack_error, axis=(1, 2))
    largest = np.max(errors, axis=(1, 2), initial=0.0)
    return Solutions(points, largest, inside, ~inside & ~outside & ~singular, singular)


def _power_of_two(length: float) -> float:
    """The power of two next below a length; 1 for length 0."""
    return 2.0 ** np.floor(np.log2(length)) if length > 0 else 1.0
