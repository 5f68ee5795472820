"""Newton's method from many starts at once: lanes that take up the next start, and starts that join a known root."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from tqdm.auto import tqdm

from rnndyn._programs import compiled
from rnndyn.dynamics.numerics.devices import deal_rows
from rnndyn.dynamics.numerics.drivers import MEMORY_BUDGET
from rnndyn.dynamics.numerics.newton_method import NewtonMethod, NewtonProblem, NewtonState, Patience
from rnndyn.dynamics.numerics.torus import difference

JOINS = 1e-3
"""An iterate that a single step brought a thousand times closer to a known root goes there. Next to a root that is not
isolated at that distance (a pair at a fold, a continuum) a step with its corrections gains a factor of 4."""

HURRIED = Patience(0.15, 4)
"""Among many starts one that crawls along a valley of |G| for four steps has stalled: what is there to be found, others
find, or a step without descent (see `rescue`). Crawlers took two thirds of all steps (1024 starts, 100 units)."""

MAX_ANCHORS = 512
"""So many known roots are compared with; on a continuum there is no end of them."""


class NewtonEnds(NamedTuple):
    """Where the starts ended."""

    points: Float[np.ndarray, "K N"]
    residuals: Float[np.ndarray, " K"]
    converged: Bool[np.ndarray, " K"]
    stalled: Bool[np.ndarray, " K"]


class NewtonLanes:
    """The method on one map; roots that earlier calls have reached are known to later ones."""

    def __init__(
        self, f: Callable[[Array], Array], *, size: int, scale: float, linear_solver: str, max_steps: int, period: Any
    ):
        self.f, self.scale, self.linear_solver, self.max_steps, self.period = f, scale, linear_solver, max_steps, period
        self.num_lanes = _num_lanes(size, linear_solver)
        self.anchors = np.zeros((0, size))

    def run(
        self,
        starts: Float[np.ndarray, "K N"],
        residuals: Float[np.ndarray, "K N"],
        bounds: tuple[Float[np.ndarray, "K N"], Float[np.ndarray, "K N"]],
        *,
        progress: bool,
    ) -> NewtonEnds:
        """Run the method from every start; `residuals` are G there, `bounds` the box each of them stays in.

        A batch lives as long as its slowest member, so a lane that is done takes up the next start. One step is
        compiled, for a fixed number of lanes: neither the number of starts nor of steps compiles anything.
        """
        num, size = starts.shape
        points, ends = starts.copy(), residuals.copy()
        converged, stalled = np.zeros(num, bool), np.zeros(num, bool)
        owner = np.full(self.num_lanes, -1)
        lanes: Any = self._empty(size)
        next_start = 0
        with tqdm(total=num, desc="fixed points", delay=2.0, leave=False, disable=None if progress else True) as bar:
            while True:
                free = np.flatnonzero(owner < 0)[: num - next_start]
                if free.size:
                    rows = np.arange(next_start, next_start + free.size)
                    next_start += free.size
                    owner[free] = rows
                    self._load(lanes, free, starts[rows], residuals[rows], bounds[0][rows], bounds[1][rows])
                busy = owner >= 0
                if not busy.any():
                    break
                before, sizes = lanes.x, _sizes(lanes.g)
                lanes = NewtonState(lanes.problem, *map(np.array, self._step(lanes)))  # pyright: ignore
                # A step that leaves half of the residual has not come a thousand times closer to anything.
                near = busy & ~lanes.converged & ~lanes.stalled & (_sizes(lanes.g) < 0.5 * sizes)
                root = self._joined(before, lanes.x, near)
                lanes.x[root >= 0] = self.anchors[root[root >= 0]]
                lanes.g[root >= 0] = 0.0
                lanes.converged[root >= 0] = True
                done = busy & (lanes.converged | lanes.stalled | (lanes.num_steps >= self.max_steps))
                rows = owner[done]
                points[rows], ends[rows] = lanes.x[done], lanes.g[done]
                converged[rows], stalled[rows] = lanes.converged[done], lanes.stalled[done]
                self.add_anchors(lanes.x[done & lanes.converged & (root < 0)])
                owner[done] = -1
                lanes.x[done] = np.nan
                bar.update(int(done.sum()))
        sizes = np.max(np.abs(ends), axis=1)
        # What became NaN is no minimum of anything.
        return NewtonEnds(points, sizes, converged, stalled & ~converged & np.isfinite(sizes))

    def _empty(self, size: int) -> NewtonState:
        vectors = [np.full((self.num_lanes, size), np.nan) for _ in range(5)]
        ones, none = np.ones(self.num_lanes), np.zeros(self.num_lanes, bool)
        counts = np.zeros(self.num_lanes, np.int32)
        problem = NewtonProblem(vectors[0], self.scale * ones, vectors[1], vectors[2])  # pyright: ignore
        return NewtonState(problem, vectors[3], vectors[4], ones, counts, counts.copy(), none, none.copy())  # pyright: ignore

    def _load(self, lanes: NewtonState, free: np.ndarray, x: Any, g: Any, lower: Any, upper: Any) -> None:
        """Put starts into free lanes, as `NewtonMethod.start` does for one."""
        problem: Any = lanes.problem
        target: Any = lanes
        problem.x0[free], problem.lower[free], problem.upper[free] = x, lower, upper
        target.x[free], target.g[free] = x, g
        target.radius[free] = 2 * np.sqrt(x.shape[1]) * np.maximum(self.scale, np.max(np.abs(x), axis=1))
        target.num_steps[free], target.num_slow[free], target.converged[free] = 0, 0, False
        target.stalled[free] = ~np.isfinite(g).all(axis=1)

    def _step(self, lanes: NewtonState) -> tuple[Any, ...]:
        """The fields of the next iterates, but for the problem."""
        return deal_rows(lambda part: _step_lanes(self.f, part, self.linear_solver, self.period), lanes)

    def _joined(self, before: np.ndarray, after: np.ndarray, open_lanes: np.ndarray) -> np.ndarray:
        """For every lane the known root that its last step has as good as reached, or -1."""
        root = np.full(len(after), -1)
        if len(self.anchors) == 0 or not open_lanes.any():
            return root
        rows = np.flatnonzero(open_lanes)
        distance = self._distances(after[rows])
        nearest = np.argmin(distance, axis=1)
        earlier = np.max(np.abs(difference(before[rows], self.anchors[nearest], self.period)), axis=1)
        # From farther than the states are wide a step may land anywhere.
        joins = (distance[np.arange(len(rows)), nearest] <= JOINS * earlier) & (earlier <= self.scale)
        root[rows[joins]] = nearest[joins]
        return root

    def add_anchors(self, roots: np.ndarray) -> None:
        """Roots that later starts may join."""
        for x in roots:
            if len(self.anchors) >= MAX_ANCHORS:
                return
            # Ends of one root agree to far more digits; what differs more may be another root.
            if not np.any(self._distances(x[None]) <= 1e-9 * self.scale):
                self.anchors = np.concatenate([self.anchors, x[None]])

    def _distances(self, x: np.ndarray) -> np.ndarray:
        """(M, A) largest differences of M states from the anchors."""
        return np.max(np.abs(difference(x[:, None], self.anchors, self.period)), axis=2, initial=0.0)


def _num_lanes(size: int, linear_solver: str) -> int:
    # Dense: the Jacobian, its factors and the tangents of its columns. gmres: its Krylov basis.
    bytes_per_lane = 8 * size * (6 * size if linear_solver == "dense" else 64)
    # On a CPU the lanes of long states only wait for the slowest (a few of them crawl for many steps while the others
    # are empty), those of short ones share the overhead of a step; an accelerator is filled.
    most = (
        (512 if size <= 16 else 32 if size <= 64 else 16 if size <= 128 else 8)
        if jax.default_backend() == "cpu"
        else 4096
    )
    return max(1, min(most, MEMORY_BUDGET // bytes_per_lane))


def _sizes(g: np.ndarray) -> np.ndarray:
    """The lengths of the rows."""
    return np.sqrt(np.einsum("ij,ij->i", g, g))


@compiled
def _step_lanes(f: Any, lanes: Any, linear_solver: str, period: Any) -> tuple[Array, ...]:
    """One step of every lane."""
    # How many steps are left is looked at on the host.
    method = NewtonMethod(f, linear_solver=linear_solver, max_steps=1, period=period, patience=HURRIED)
    _, *moved = jax.vmap(method.step)(jax.tree.map(jnp.asarray, lanes))
    return tuple(moved)
