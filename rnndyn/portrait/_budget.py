"""The time that a portrait may take: which stage still fits, and what each one took."""

import time
from collections.abc import Callable
from typing import Any

from rnndyn.results import Result

Report = Callable[[str], None]


class Stage(Result):
    """One step of the work on a portrait.

    - `name`: what was done.
    - `place`: under which input.
    - `seconds`: what it took, compilation included; 0 where it was left out.
    - `outcome`: `"done"`, or why it was not: no time, or an analysis that refuses this network, with its words.
    """

    name: str
    place: str
    seconds: float
    outcome: str

    @property
    def is_done(self) -> bool:
        """Whether it ran to its end."""
        return self.outcome == "done"

    def table(self) -> str:
        return f"{self.name} ({self.place}): {self.outcome}, {self.seconds:.1f} s"


class Budget:
    """Runs stages while there is time, and keeps the record. A running stage is not interrupted: the last one may run
    over, which is why stages grow in size and each is asked for with an estimate from the one before."""

    def __init__(self, seconds: float, report: Report) -> None:
        self.seconds = seconds
        self.report = report
        self.stages: list[Stage] = []
        self._start = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds that are left; negative when overrun."""
        return self.seconds - self.spent

    def run(self, name: str, place: str, work: Callable[[], Any], *, estimate: float = 0.0) -> Any:
        """`work()`, or `None` when `estimate` seconds are more than is left, or when the analysis refuses the map.

        Only refusals are taken down (`ValueError`, `NotImplementedError`: each says what it wants); whatever else goes
        wrong is a fault and is raised.
        """
        if self.left <= estimate:
            wanted = f", it was expected to take {estimate:.0f} s" if estimate else ""
            self._note(name, place, 0.0, f"no time was left of {self.seconds:.0f} s{wanted}")
            return None
        begin = time.monotonic()
        try:
            value = work()
        except (ValueError, NotImplementedError) as error:
            self._note(name, place, time.monotonic() - begin, f"refused: {error}")
            return None
        self._note(name, place, time.monotonic() - begin, "done")
        return value

    @property
    def last_seconds(self) -> float:
        """What the last stage took."""
        return self.stages[-1].seconds if self.stages else 0.0

    def _note(self, name: str, place: str, seconds: float, outcome: str) -> None:
        self.stages.append(Stage(name, place, seconds, outcome))
        self.report(f"[{self.spent:6.1f} s] {place}: {name}: {outcome}")
