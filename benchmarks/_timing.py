"""What every benchmark shares: timing that waits for the device, and rows that compare with a peer.

On a CPU times are CPU seconds of the process, which other work on the machine changes less than it does the clock; on
other devices, whose work the process only waits for, they are seconds.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    """Over the repeats."""
    first: float
    """The first call, which compiles; less the median, the cost of compiling."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: `ratio` is ours over the peer's, below 1 when we are faster."""

    benchmark: str
    case: str
    seconds: float
    peer: str
    peer_seconds: float
    goal: str = ""
    compile_seconds: float = float("nan")

    @property
    def ratio(self) -> float:
        return self.seconds / self.peer_seconds


def time_side_by_side(functions: dict[str, Callable[[], Any]], *, repeats: int = 5) -> dict[str, Timing]:
    """Time functions against each other.

    They take turns, so that what else the machine is doing falls on all of them alike. Each call is waited for with
    `jax.block_until_ready`.
    """
    first = {name: _seconds(function) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(_seconds(function))
    return {name: Timing(statistics.median(times[name]), first[name]) for name in functions}


def clock() -> float:
    """CPU seconds of this process, or seconds where it only waits for a device."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    width = max((len(row.case) for row in rows), default=0)
    lines, benchmark = [], None
    for row in rows:
        if row.benchmark != benchmark:
            benchmark = row.benchmark
            lines.append(f"{benchmark}\n  {'case':<{width}}  {'seconds':>10}  {'peer':>10}  {'ratio':>6}  peer; goal")
        goal = f"{row.peer}; {row.goal}" if row.goal else row.peer
        lines.append(
            f"  {row.case:<{width}}  {row.seconds:>10.3g}  {row.peer_seconds:>10.3g}  {row.ratio:>6.2f}  {goal}"
        )
    return "\n".join(lines)


def _seconds(function: Callable[[], Any]) -> float:
    start = clock()
    jax.block_until_ready(function())
    return clock() - start
