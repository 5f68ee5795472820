"""`python -m experiments` lists the studies; `python -m experiments <study>` runs one; `all` runs every one."""

# JAX is imported in `one_study` only: the list and the runner of all studies do without, and in a study the number of
# threads has to be set before.
import dataclasses
import os
import sys

from experiments._catalog import FOLDER, check_known, studies
from experiments._environment import compile_quickly, limit_blas, limit_to_one_core
from experiments._interruptions import end_on_interruption
from experiments._settings import check

LONGEST = ("lorenz_reconstruction", "universality", "flip_flop", "char_lm", "automata", "proved_chaos")
"""These start first, so that none of them is left to run alone at the end."""


@dataclasses.dataclass(frozen=True)
class AllOptions:
    """How all studies are run."""

    smoke: bool = False
    """Runs of seconds with tiny settings, to see that everything works; no figure goes into figures/."""
    force: bool = False
    """Compute again even when a result of the same settings is in the cache."""
    figures: str | None = None
    """Where figures go instead of figures/."""
    jobs: int | None = None
    """Studies side by side; by default as many as there are CPUs and memory for. On a TPU, which only one process can
    hold: 1."""
    time_limit: float = 3600.0
    """Seconds after which a study is ended and counts as failed."""

    def __post_init__(self) -> None:
        check(self)


def list_studies() -> None:
    """Print the name and the first line of every study."""
    known = studies()
    width = max(map(len, known))
    print("Studies (python -m experiments <study> [--smoke] [--help], or `all`):\n")
    for name, line in known.items():
        print(f"  {name:<{width}}  {line}")


def run_all(options: AllOptions) -> int:
    """Run every study with its default configuration, each in a process of its own; gives the exit code."""
    from experiments._side_by_side import run_side_by_side

    flags = [flag for flag, given in (("--smoke", options.smoke), ("--force", options.force)) if given]
    flags += ["--figures", options.figures] if options.figures is not None else []
    names = sorted(studies(), key=lambda name: (LONGEST.index(name) if name in LONGEST else len(LONGEST), name))
    environment = dict(os.environ)
    limit_to_one_core(environment)
    return run_side_by_side(
        {name: [sys.executable, "-m", "experiments", name, *flags] for name in names},
        jobs=default_jobs() if options.jobs is None else options.jobs,
        logs=FOLDER.parent / "results" / ("logs-smoke" if options.smoke else "logs"),
        environment=environment,
        time_limit=options.time_limit,
    )


def default_jobs() -> int:
    """As many as there are CPUs for this process, while the memory of the machine has 1.5 GB for each."""
    # The studies take up to 1.3 GB.
    fitting = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_500_000_000
    # macOS does not tell which CPUs a process may use.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, fitting))


def one_study(name: str, arguments: list[str]) -> None:
    """Run one study from the command line."""
    end_on_interruption()
    limit_blas(os.environ)
    compile_quickly(os.environ)
    import matplotlib

    # Figures go to files; without a screen the default backend would fail.
    matplotlib.use("Agg")
    from experiments._study import load_study, main

    main(load_study(name), arguments)


def entry(arguments: list[str]) -> int:
    """What the command line asks for; gives the exit code."""
    try:
        match arguments:
            case [] | ["-h" | "--help"]:
                list_studies()
            case ["all", *flags]:
                from experiments._arguments import parse

                return run_all(parse(AllOptions, flags, prog="python -m experiments all", description=run_all.__doc__))
            case [name, *rest]:
                try:
                    check_known(name)
                except ValueError as error:
                    print(error, file=sys.stderr)
                    return 2
                one_study(name, rest)
    except KeyboardInterrupt:
        print("interrupted; no figure is written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(entry(sys.argv[1:]))
