"""Newton's method from many starts at once: lanes that take up the next start, and starts that join a known root."""

import itertools
from collections.abc import Callable, Sequence
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


class NewtonStarts(NamedTuple):
    """Where to begin on one map, with G there and the box that each start stays in."""

    lanes: "NewtonLanes"
    points: Float[np.ndarray, "K N"]
    residuals: Float[np.ndarray, "K N"]
    lower: Float[np.ndarray, "K N"]
    upper: Float[np.ndarray, "K N"]


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

        One step is compiled, for a fixed number of lanes: neither the number of starts nor of steps compiles anything.
        """
        (ends,) = run_lanes([NewtonStarts(self, starts, residuals, *bounds)], self._step, progress=progress)
        return ends

    def _step(self, owners: np.ndarray, state: NewtonState) -> tuple[Any, ...]:
        """The fields of the next iterates, but for the problem."""
        # Lanes without a start repeat the first one.
        rows = np.zeros(self.num_lanes, int)
        rows[: len(owners)] = np.arange(len(owners))
        step = lambda part: _step_lanes(self.f, part, self.linear_solver, self.period)
        moved = deal_rows(step, _lanes_of(state, rows))
        return tuple(field[: len(owners)] for field in moved)

    def joined(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """For every iterate the known root that its last step has as good as reached, or -1."""
        if len(self.anchors) == 0:
            return np.full(len(after), -1)
        distance = self._distances(after)
        nearest = np.argmin(distance, axis=1)
        earlier = np.max(np.abs(difference(before, self.anchors[nearest], self.period)), axis=1)
        # From farther than the states are wide a step may land anywhere.
        joins = (distance[np.arange(len(after)), nearest] <= JOINS * earlier) & (earlier <= self.scale)
        return np.where(joins, nearest, -1)

    def add_anchors(self, roots: np.ndarray) -> None:
        """Roots that later starts may join."""
        # Ends of one root agree to far more digits; what differs more may be another root.
        same = 1e-9 * self.scale
        roots = roots[~np.any(self._distances(roots) <= same, axis=1)]
        for x in roots:
            if len(self.anchors) >= MAX_ANCHORS:
                return
            if not np.any(self._distances(x[None]) <= same):
                self.anchors = np.concatenate([self.anchors, x[None]])

    def _distances(self, x: np.ndarray) -> np.ndarray:
        """(M, A) largest differences of M states from the anchors."""
        return np.max(np.abs(difference(x[:, None], self.anchors, self.period)), axis=2, initial=0.0)


def run_lanes(
    tasks: Sequence[NewtonStarts],
    step: Callable[[np.ndarray, NewtonState], tuple[Any, ...]],
    *,
    progress: bool = False,
) -> list[NewtonEnds]:
    """Run the method from every start of every task; `step(owners, state)` takes one step of each lane, on the
    maps of the tasks `owners`.

    A batch lives as long as its slowest member, so of each map as many starts are under way as it has lanes, and one
    that is done makes room for the next.
    """
    counts = [len(task.points) for task in tasks]
    owner, first = np.repeat(np.arange(len(tasks)), counts), np.cumsum([0, *counts])
    fields = zip(*((task.points, task.residuals, task.lower, task.upper) for task in tasks))
    x, g, lower, upper = (np.concatenate(field) for field in fields)
    scales = np.repeat([task.lanes.scale for task in tasks], counts)
    most_steps = np.repeat([task.lanes.max_steps for task in tasks], counts)
    converged, stalled = np.zeros(len(x), bool), np.zeros(len(x), bool)
    waiting = first[:-1].copy()
    rows = np.zeros(0, int)
    state: Any = _begin(rows, x, g, scales, lower, upper)
    freed = np.array([task.lanes.num_lanes for task in tasks])
    with tqdm(total=len(x), desc="fixed points", delay=2.0, leave=False, disable=None if progress else True) as bar:
        while True:
            numbers = np.minimum(freed, first[1:] - waiting)
            if numbers.any():
                taken = np.flatnonzero(numbers)
                fresh = np.concatenate([np.arange(waiting[i], waiting[i] + numbers[i]) for i in taken])
                waiting += numbers
                rows = np.concatenate([rows, fresh])
                begun = _begin(fresh, x, g, scales, lower, upper)
                state = jax.tree.map(lambda old, new: np.concatenate([old, new]), state, begun)
            if rows.size == 0:
                break
            owners, before, sizes = owner[rows], state.x, _sizes(state.g)
            state = NewtonState(state.problem, *map(np.array, step(owners, state)))  # pyright: ignore[reportArgumentType]
            # A step that leaves half of the residual has not come a thousand times closer to anything.
            near = np.flatnonzero(~state.converged & ~state.stalled & (_sizes(state.g) < 0.5 * sizes))
            met = np.zeros(len(rows), bool)
            for i in np.unique(owners[near]):
                own = near[owners[near] == i]
                root = tasks[i].lanes.joined(before[own], state.x[own])
                own, root = own[root >= 0], root[root >= 0]
                state.x[own], state.g[own] = tasks[i].lanes.anchors[root], 0.0
                state.converged[own] = met[own] = True
            done = state.converged | state.stalled | (state.num_steps >= most_steps[rows])
            ended = rows[done]
            x[ended], g[ended] = state.x[done], state.g[done]
            converged[ended], stalled[ended] = state.converged[done], state.stalled[done]
            new = np.flatnonzero(done & state.converged & ~met)
            for i in np.unique(owners[new]):
                tasks[i].lanes.add_anchors(state.x[new[owners[new] == i]])
            freed = np.bincount(owners[done], minlength=len(tasks))
            rows, state = rows[~done], _lanes_of(state, ~done)
            bar.update(len(ended))
    sizes = np.max(np.abs(g), axis=1)
    # What became NaN is no minimum of anything.
    ends = NewtonEnds(x, sizes, converged, stalled & ~converged & np.isfinite(sizes))
    return [NewtonEnds(*(a[low:high] for a in ends)) for low, high in itertools.pairwise(first)]


def _lanes_of(state: NewtonState, chosen: np.ndarray) -> NewtonState:
    """Some of the lanes (a mask, or indices)."""
    return jax.tree.map(lambda a: a[chosen], state)


def _begin(rows: np.ndarray, x: Any, g: Any, scales: Any, lower: Any, upper: Any) -> NewtonState:
    """The first iterates of some starts, as `NewtonMethod.start` makes one."""
    x, g, scales, lower, upper = (a[rows] for a in (x, g, scales, lower, upper))
    none = np.zeros(len(rows), bool)
    radius = 2 * np.sqrt(x.shape[1]) * np.maximum(scales, np.max(np.abs(x), axis=1, initial=0.0))
    counts, stalled = np.zeros(len(rows), np.int32), ~np.isfinite(g).all(axis=1)
    problem: Any = NewtonProblem(x, scales, lower, upper)
    state: Any = NewtonState
    return state(problem, x, g, radius, counts, counts.copy(), none, stalled)


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
    return one_step(f, jax.tree.map(jnp.asarray, lanes), linear_solver, period)


def one_step(f: Any, lanes: Any, linear_solver: str, period: Any) -> tuple[Array, ...]:
    """One step of every lane: the fields of the next iterates, but for the problem."""
    # How many steps are left is looked at on the host.
    method = NewtonMethod(f, linear_solver=linear_solver, max_steps=1, period=period, patience=HURRIED)
    _, *moved = jax.vmap(method.step)(lanes)
    return tuple(moved)
