"""The pieces of work that a search for fixed points waits for."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from rnndyn.dynamics.fixed_points._family import Family
from rnndyn.dynamics.fixed_points._free_steps import FREE_STEPS, free_steps
from rnndyn.dynamics.fixed_points._homotopy import Path, follow_path
from rnndyn.dynamics.fixed_points._newton_lanes import NewtonEnds, NewtonLanes, NewtonStarts, run_lanes
from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.dynamics.numerics.evaluation import block_size, evaluate, images_of, states_after
from rnndyn.dynamics.numerics.newton import Polished, polish, polish_rows
from rnndyn.dynamics.proofs.trapping import region_of_range, regions_of_ranges


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """F at every point, `(M, N)`."""

    f: Callable
    points: np.ndarray

    def alone(self) -> np.ndarray:
        """The images."""
        return images_of(self.f, self.points)

    @property
    def kind(self) -> Hashable:
        """One kind."""
        return None

    @staticmethod
    def together(pieces: Sequence["Images"], members: Sequence[int], family: Family) -> list[np.ndarray]:
        """The images of each."""
        rows = _Rows([piece.points for piece in pieces], members)
        return rows.split(family.images(rows.owners, rows.states))


@dataclasses.dataclass(frozen=True, eq=False)
class Orbits:
    """The states `num_steps` steps after every place, `(K, N)`: few at a time where they are long."""

    f: Callable
    places: np.ndarray
    num_steps: int

    def alone(self) -> np.ndarray:
        """The states."""
        size = self.places.shape[1]
        block = block_size(size) if size <= 16 else 4
        return map_in_chunks(
            lambda x: states_after(self.f, x, self.num_steps),
            self.places,
            bytes_per_item=64 * size,
            description="orbits",
            progress=False,
            least_size=block,
            most_size=block,
        )

    @property
    def kind(self) -> Hashable:
        """The number of steps."""
        return self.num_steps

    @staticmethod
    def together(pieces: Sequence["Orbits"], members: Sequence[int], family: Family) -> list[np.ndarray]:
        """The states of each."""
        rows = _Rows([piece.places for piece in pieces], members)
        return rows.split(family.states_after(rows.owners, rows.states, pieces[0].num_steps))


@dataclasses.dataclass(frozen=True, eq=False)
class Polish:
    """Roots to the last digit from points close to them, see `polish`."""

    f: Callable
    points: np.ndarray
    period: np.ndarray | None

    def alone(self) -> Polished:
        """The roots."""
        return polish(self.f, self.points, period=self.period)

    @property
    def kind(self) -> Hashable:
        """One kind."""
        return None

    @staticmethod
    def together(pieces: Sequence["Polish"], members: Sequence[int], family: Family) -> list[Polished]:
        """The roots of each."""
        rows = _Rows([piece.points for piece in pieces], members)
        found = polish_rows(lambda x, chosen: family.evaluate(rows.owners[chosen], x), rows.states)
        return [Polished(*columns) for columns in zip(*(rows.split(column) for column in found))]


@dataclasses.dataclass(frozen=True, eq=False)
class NewtonRuns:
    """Newton's method with its trust region from every start, see `NewtonLanes.run`."""

    lanes: NewtonLanes
    starts: np.ndarray
    residuals: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray]
    progress: bool

    def alone(self) -> NewtonEnds:
        """Where the starts ended."""
        return self.lanes.run(self.starts, self.residuals, self.bounds, progress=self.progress)

    @property
    def kind(self) -> Hashable:
        """The linear solver."""
        return self.lanes.linear_solver

    @staticmethod
    def together(pieces: Sequence["NewtonRuns"], members: Sequence[int], family: Family) -> list[NewtonEnds]:
        """Where the starts of each ended."""
        tasks = [NewtonStarts(piece.lanes, piece.starts, piece.residuals, *piece.bounds) for piece in pieces]
        numbers, solver = np.asarray(members), pieces[0].lanes.linear_solver
        return run_lanes(tasks, lambda owners, state: family.newton_step(numbers[owners], state, solver))


@dataclasses.dataclass(frozen=True, eq=False)
class FreeSteps:
    """Newton steps without descent, see `free_steps`: the last iterates, and which are roots."""

    f: Callable
    places: np.ndarray
    region: np.ndarray | None
    scale: float
    period: np.ndarray | None
    target: np.ndarray | None = None
    stage: float = 1.0
    num_steps: int = FREE_STEPS

    def alone(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends and the flags."""
        return free_steps(
            lambda x, rows: evaluate(self.f, x),
            self.places,
            None if self.region is None else tuple(self.region),
            np.full(len(self.places), self.scale),
            self.period,
            target=self.target,
            stage=self.stage,
            num_steps=self.num_steps,
        )

    @property
    def kind(self) -> Hashable:
        """The stage, and how many steps."""
        return (self.target is None, self.stage, self.num_steps)

    @staticmethod
    def together(
        pieces: Sequence["FreeSteps"], members: Sequence[int], family: Family
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The ends and the flags of each."""
        rows, first = _Rows([piece.places for piece in pieces], members), pieces[0]
        box = lambda piece: np.array([-np.inf, np.inf])[:, None] if piece.region is None else piece.region
        boxes = [np.broadcast_to(box(piece)[:, None], (2, *piece.places.shape)) for piece in pieces]
        lower, upper = np.concatenate(boxes, axis=1)
        found = free_steps(
            lambda x, chosen: family.evaluate(rows.owners[chosen], x),
            rows.states,
            (lower, upper),
            np.repeat([piece.scale for piece in pieces], rows.counts),
            None,
            target=None if first.target is None else np.concatenate([np.asarray(piece.target) for piece in pieces]),
            stage=first.stage,
            num_steps=first.num_steps,
        )
        return list(zip(*(rows.split(column) for column in found)))


@dataclasses.dataclass(frozen=True, eq=False)
class Follow:
    """One path of the homotopy, see `follow_path`."""

    f: Callable
    start: np.ndarray
    scale: float
    max_steps: int
    root: np.ndarray | None = None

    def alone(self) -> Path:
        """The path."""
        return follow_path(self.f, self.start, scale=self.scale, max_steps=self.max_steps, root=self.root)

    @property
    def kind(self) -> Hashable:
        """One kind."""
        return None

    @staticmethod
    def together(pieces: Sequence["Follow"], members: Sequence[int], family: Family) -> list[Path]:
        """The path of each, one after another.

        Side by side every path takes as many steps, shorter trials and corrections as the longest of them: 16 in one
        program took twice as long (random GRU and tanh networks of 32 units).
        """
        return [piece.alone() for piece in pieces]


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """A box that the map is proved to keep because its range is bounded, see `region_of_range`; or `None`."""

    f: Callable
    states: np.ndarray

    def alone(self) -> np.ndarray | None:
        """The box."""
        return region_of_range(self.f, self.states)

    @property
    def kind(self) -> Hashable:
        """One kind."""
        return None

    @staticmethod
    def together(pieces: Sequence["Region"], members: Sequence[int], family: Family) -> list[np.ndarray | None]:
        """The box of each."""
        rows = _Rows([piece.states for piece in pieces], members)
        images = rows.split(family.images(rows.owners, rows.states))
        return regions_of_ranges(family.stacked, np.asarray(members), rows.split(rows.states), images)


class _Rows:
    """States of several maps as rows of one array, and the maps that they belong to."""

    def __init__(self, parts: Sequence[np.ndarray], members: Sequence[int]):
        self.counts = [len(part) for part in parts]
        self.owners = np.repeat(members, self.counts)
        self.states = np.concatenate(parts)

    def split(self, column: np.ndarray) -> list[np.ndarray]:
        """What belongs to each of the maps."""
        return np.split(column, np.cumsum(self.counts)[:-1])
