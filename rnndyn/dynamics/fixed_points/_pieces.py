"""The pieces of work that a search for fixed points waits for."""

import dataclasses
from collections.abc import Callable

import numpy as np

from rnndyn.dynamics.fixed_points._free_steps import FREE_STEPS, free_steps
from rnndyn.dynamics.fixed_points._homotopy import Path, follow_path
from rnndyn.dynamics.fixed_points._newton_lanes import NewtonEnds, NewtonLanes
from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.dynamics.numerics.evaluation import block_size, evaluate, images_of, states_after
from rnndyn.dynamics.numerics.newton import Polished, polish


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """F at every point, `(M, N)`."""

    f: Callable
    points: np.ndarray

    def alone(self) -> np.ndarray:
        """The images."""
        return images_of(self.f, self.points)


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


@dataclasses.dataclass(frozen=True, eq=False)
class Polish:
    """Roots to the last digit from points close to them, see `polish`."""

    f: Callable
    points: np.ndarray
    period: np.ndarray | None

    def alone(self) -> Polished:
        """The roots."""
        return polish(self.f, self.points, period=self.period)


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


@dataclasses.dataclass(frozen=True, eq=False)
class Follow:
    """One path of the homotopy, see `follow_path`."""

    f: Callable
    start: np.ndarray
    scale: float
    max_steps: int
    max_points: int
    root: np.ndarray | None = None

    def alone(self) -> Path:
        """The path."""
        return follow_path(
            self.f,
            self.start,
            scale=self.scale,
            max_steps=self.max_steps,
            max_points=self.max_points,
            root=self.root,
        )
