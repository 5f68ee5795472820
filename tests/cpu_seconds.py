"""What each test costs in CPU seconds, those of the processes that it started and waited for included."""

import resource
from pathlib import Path


def used() -> float:
    """CPU seconds of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


class Account:
    """CPU seconds of tests. A fixture that several share counts for the one that asked first."""

    def __init__(self) -> None:
        self._began = 0.0
        self._seconds: dict[str, float] = {}

    def begin(self) -> None:
        """A test begins."""
        self._began = used()

    def since_it_began(self) -> float:
        """What the test that began last has used."""
        return used() - self._began

    def add(self, test: str, seconds: float) -> None:
        """What a test used, in this process or in that of a worker."""
        self._seconds[test] = seconds

    def write(self, table: Path, test: str, programs: int) -> None:
        """Add a line to a table: the CPU seconds of a test, the programs compiled meanwhile, its name."""
        with table.open("a") as lines:
            lines.write(f"{self._seconds[test]:9.3f} {programs:5d} {test}\n")

    def lines(self, limit: float, at_most: float, shown: int = 10) -> list[str]:
        """The sum, and the `shown` tests that cost most, those above `at_most` marked."""
        total = sum(self._seconds.values())
        dearest = sorted(self._seconds.items(), key=lambda item: -item[1])[:shown]
        above = sum(seconds > at_most for seconds in self._seconds.values())
        return [
            f"{total:.0f} CPU s in {len(self._seconds)} tests; `make test` may take {limit:.0f} on an idle machine",
            *(f"{seconds:7.1f} {'!' if seconds > at_most else ' '} {test}" for test, seconds in dearest),
            f"{above} above {at_most:.0f} CPU s (!): make these smaller, or mark them `slow` beside a quick one",
        ]
