r"""All admissible itineraries of one period of a piecewise-linear map, by branch and bound over the signs.

Write the pre-activations as $W_2 z_t + h_2 = x_t - y_t$ with $x_t = relu(.) \ge 0$ and $y_t \ge 0$, one of each pair
zero. A cycle is then a solution of the linear equations

$$z_{t+1} - A z_t - W_1 x_t = h_1, \qquad x_t - y_t - W_2 z_t = h_2$$

that is complementary: a linear complementarity problem in p L pairs. Dropping the condition on the pairs that are not
decided yet leaves a convex problem, whose infeasibility excludes every itinerary with the signs decided so far.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from rnndyn.dynamics.linear_regions._feasibility import REQUIRED_RADIUS, nonnegative_least_squares
from rnndyn.dynamics.linear_regions._limits import WorkLimit
from rnndyn.dynamics.linear_regions._relu_map import ReluMap


def search_signs(relu_map: ReluMap, period: int, limit: WorkLimit) -> tuple[Bool[np.ndarray, "K p L"], float]:
    """The itineraries of all cycles of `period`, shifts and repetitions included, and the radius of the exclusions.

    Raises `WorkLimitReached` when the work limit does not suffice.
    """
    if relu_map.num_relus == 0:
        return np.zeros((1, period, 0), bool), np.inf
    problem = _CyclicProblem.of(relu_map, period)
    num_pairs = problem.num_pairs
    cost = max(1.0, (num_pairs / 20) ** 2)
    itineraries = []
    radius = np.inf
    stack = [np.zeros(num_pairs, np.int8)]  # +1: on, -1: off, 0: not decided
    while stack:
        signs = stack.pop()
        limit.charge(cost)
        values, excluded = problem.relax(signs)
        if excluded >= REQUIRED_RADIUS:
            radius = min(radius, excluded)
            continue
        open_pairs = np.flatnonzero(signs == 0)
        if open_pairs.size == 0:
            itineraries.append(signs.reshape(period, -1) > 0)
            continue
        x, y = values
        # The pair that violates its condition most; when none does, the one whose sign is clearest.
        violation = np.minimum(x, y)[open_pairs]
        size = violation if violation.max() > 1e-9 * (1 + np.max(np.abs(values))) else (x + y)[open_pairs]
        pair = open_pairs[np.argmax(size)]
        likely = 1 if x[pair] > y[pair] else -1
        for sign in (-likely, likely):
            branch = signs.copy()
            branch[pair] = sign
            stack.append(branch)
    return np.array(itineraries, bool).reshape(len(itineraries), period, relu_map.num_relus), radius


@dataclasses.dataclass(frozen=True)
class _CyclicProblem:
    """The equations `free z + on x + off y = target`, and what is left of them when z is eliminated."""

    free: Float[np.ndarray, "E Z"]
    on: Float[np.ndarray, "E Y"]
    off: Float[np.ndarray, "E Y"]
    target: Float[np.ndarray, " E"]
    inner: Float[np.ndarray, "Y Z"]
    inner_bias: Float[np.ndarray, " Y"]
    complement: Float[np.ndarray, "E C"]

    @classmethod
    def of(cls, relu_map: ReluMap, period: int) -> "_CyclicProblem":
        size, num_relus = relu_map.state_size, relu_map.num_relus
        identity = np.eye(period)
        following = np.roll(identity, 1, axis=0)  # takes the row of time t to that of t + 1
        dynamics = np.eye(period * size) - np.kron(following, relu_map.linear)
        inner = np.kron(identity, relu_map.inner)
        pairs = np.eye(period * num_relus)
        free = np.concatenate([dynamics, -inner])
        on = np.concatenate([-np.kron(following, relu_map.outer), pairs])
        off = np.concatenate([np.zeros((period * size, period * num_relus)), -pairs])
        target = np.concatenate([np.tile(relu_map.offset, period), np.tile(relu_map.inner_bias, period)])
        left, singular_values, _ = np.linalg.svd(free)
        rank = int(np.sum(singular_values > len(free) * np.finfo(float).eps * singular_values[0]))
        return cls(free, on, off, target, inner, np.tile(relu_map.inner_bias, period), left[:, rank:])

    @property
    def num_pairs(self) -> int:
        """The number p L of pairs."""
        return len(self.inner_bias)

    def relax(self, signs: np.ndarray) -> tuple[np.ndarray, float]:
        r"""The best x and y (2, p L) with the signs decided so far, and the radius within which no cycle has them.

        What is left of the equations after least squares, rho, is orthogonal to every free column and has no positive
        product with any admitted one. A cycle would have $\rho \cdot target = \rho \cdot (free z + on x + off y)$,
        whose left side is positive and whose right side is at most rounding times $|z|_\infty$.
        """
        x_allowed, y_allowed = signs >= 0, signs <= 0
        columns = np.concatenate([self.on[:, x_allowed], self.off[:, y_allowed]], axis=1)
        reduced = self.complement.T @ columns
        norms = np.linalg.norm(reduced, axis=0)
        norms[norms == 0] = 1.0
        goal = self.complement.T @ self.target
        values = np.zeros((2, self.num_pairs))
        solution = nonnegative_least_squares(reduced / norms, goal)
        if solution is None:
            return values, 0.0
        solution = solution / norms
        values[0, x_allowed] = solution[: x_allowed.sum()]
        values[1, y_allowed] = solution[x_allowed.sum() :]
        rho = self.complement @ (goal - reduced @ solution)
        return values, self._excluded_radius(rho, signs)

    def _excluded_radius(self, rho: np.ndarray, signs: np.ndarray) -> float:
        """With x and y bounded by |W_2 z + h_2|, how large |z| must be for rho to be no contradiction."""
        rounding = 2 * np.finfo(float).eps * (len(rho) + 2)
        size = np.abs(rho)
        from_free = np.abs(rho @ self.free) + rounding * (size @ np.abs(self.free))
        # Only one of each pair is not zero, so the larger product bounds both.
        from_x = np.where(signs >= 0, rho @ self.on + rounding * (size @ np.abs(self.on)), 0.0)
        from_y = np.where(signs <= 0, rho @ self.off + rounding * (size @ np.abs(self.off)), 0.0)
        from_pairs = np.maximum(0.0, np.maximum(from_x, from_y))
        constant = rho @ self.target - rounding * (size @ np.abs(self.target)) - from_pairs @ np.abs(self.inner_bias)
        reach = from_free.sum() + from_pairs @ np.abs(self.inner).sum(axis=1)
        return float(constant / reach) if constant > 0 else 0.0
