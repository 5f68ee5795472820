"""What every search for itineraries of a piecewise-linear map shares: its work limit and its outcome."""

import dataclasses

import numpy as np
from jaxtyping import Bool
from tqdm.auto import tqdm


class WorkLimitReached(Exception):
    """A search used up its work limit."""


class WorkLimit:
    """Counts feasibility tests and stops a search that needs too many; with a bar where it takes long."""

    def __init__(self, max_tests: int, *, progress: bool = False):
        self.max_tests = max_tests
        self.spent = 0.0
        self._bar = tqdm(
            desc="feasibility tests", total=max_tests, delay=2.0, leave=False, disable=None if progress else True
        )

    def __enter__(self) -> "WorkLimit":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def left(self) -> float:
        """How much work is left."""
        return self.max_tests - self.spent

    def charge(self, cost: int | float) -> None:
        """Take note of work about to be done, in units of one small test, or raise `WorkLimitReached`."""
        if cost > self.left:
            raise WorkLimitReached
        self.spent += cost
        self._bar.update(cost)


@dataclasses.dataclass
class Itineraries:
    """Candidates for the itineraries of all cycles.

    - `by_period`: for each period the itineraries (K, p, L), one up to cyclic shifts, none repeating a shorter one.
    - `radii`: for each period that was searched exhaustively, the radius within which every other itinerary is
        excluded; infinite where none had to be excluded, or all were by counting alone.
    """

    by_period: dict[int, Bool[np.ndarray, "K p L"]] = dataclasses.field(default_factory=dict)
    radii: dict[int, float] = dataclasses.field(default_factory=dict)

    def add(self, period: int, itineraries: Bool[np.ndarray, "K p L"], radius: float) -> None:
        """Enter the complete list of one period."""
        self.by_period[period] = itineraries
        self.radii[period] = radius
