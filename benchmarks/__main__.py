"""`python -m benchmarks [name ...]` runs the benchmarks and writes their tables into docs/benchmarks.md."""

import datetime
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks import (
    attractors,
    batches,
    cold_starts,
    continuation,
    cycles,
    fixed_points,
    long_process,
    lyapunov,
    plain_newton,
    similarity,
    streaming,
    training,
)
from benchmarks._timing import table

BENCHMARKS: dict[str, Callable[[], str]] = {
    "cold_starts": cold_starts.report,
    "fixed_points": fixed_points.report,
    "plain_newton": plain_newton.report,
    "cycles": cycles.report,
    "long_process": long_process.report,
    "attractors": attractors.report,
    "batches": batches.report,
    "continuation": continuation.report,
    "lyapunov": lambda: table(lyapunov.rows()),
    "similarity": similarity.report,
    "streaming": lambda: table(streaming.rows()),
    "training": training.report,
}
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEAD = (
    "# Benchmarks\n\nWritten by `make bench`, or `python -m benchmarks NAME` for one of them. Numbers stand beside\n"
    "those of a peer measured in the same run; times are medians of warm calls (CPU seconds of the process where the\n"
    "device is a CPU), compile times are apart.\n"
)


def main(names: list[str]) -> None:
    """Run the named benchmarks, all by default; the sections of the others stay as they are."""
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        sys.exit(f"no benchmark is called {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    sections = read_sections()
    for name in names or BENCHMARKS:
        text = BENCHMARKS[name]()
        print(f"\n{name}\n{text}", flush=True)
        sections[name] = f"{where()}\n\n```text\n{text}\n```\n"
        known = [known for known in BENCHMARKS if known in sections]
        PAGE.write_text("\n".join([HEAD, *(f"## {known}\n\n{sections[known]}" for known in known)]))
    print(f"\nwrote {PAGE.name}")


def read_sections() -> dict[str, str]:
    """The sections that the page has."""
    if not PAGE.exists():
        return {}
    _, *parts = re.split(r"^## (\w+)\n\n", PAGE.read_text(), flags=re.MULTILINE)
    return {name: text.rstrip("\n") + "\n" for name, text in zip(parts[::2], parts[1::2])}


def where() -> str:
    """What was measured on."""
    # The cores this process may use: benchmarks may be pinned to one of many.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = " Not measured on GPU." if jax.default_backend() == "cpu" else ""
    return (
        f"{jax.devices()[0].device_kind}, {platform.machine()}, {cores} core{'s' if cores != 1 else ''}; "
        f"jax {jax.__version__}, Python {platform.python_version()}; {datetime.date.today().isoformat()}.{gpu}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
