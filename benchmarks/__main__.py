"""`python -m benchmarks [name ...]` runs the benchmarks and writes their tables to docs/benchmarks.md."""

import datetime
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks import fixed_points, lyapunov
from benchmarks._timing import table

BENCHMARKS: dict[str, Callable[[], str]] = {
    "fixed_points": fixed_points.report,
    "lyapunov": lambda: table(lyapunov.rows()),
}
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
GPU_NOTE = "Not measured on GPU." if jax.default_backend() == "cpu" else f"Measured on {jax.default_backend()}."


def main(names: list[str]) -> None:
    """Run the named benchmarks, all by default."""
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        sys.exit(f"no benchmark is called {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    sections = []
    for name in names or BENCHMARKS:
        text = BENCHMARKS[name]()
        print(f"\n{name}\n{text}", flush=True)
        sections.append(f"## {name}\n\n```\n{text}\n```\n")
    if not names:
        where = (
            f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}; jax {jax.__version__}, "
            f"Python {platform.python_version()}; {datetime.date.today().isoformat()}. {GPU_NOTE}"
        )
        head = (
            "# Benchmarks\n\nWritten by `make bench`. Every number is a ratio against a peer measured in the same run, "
            f"or stands beside one; times are medians of warm calls, compile times are apart.\n\n{where}\n\n"
        )
        PAGE.write_text(head + "\n".join(sections))
        print(f"\nwrote {PAGE.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
