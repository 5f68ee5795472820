"""`python -m experiments` lists the studies; `python -m experiments <study>` runs one; `all` runs every one."""

import sys
import time

import matplotlib
from tqdm.auto import tqdm

from experiments._study import Options, load_study, main, run, studies


def list_studies() -> None:
    """Print the name and the first line of every study."""
    known = studies()
    width = max(map(len, known))
    print("Studies (python -m experiments <study> [--smoke] [--help], or `all`):\n")
    for name, line in known.items():
        print(f"  {name:<{width}}  {line}")


def run_all(options: Options) -> None:
    """Run every study with its default configuration."""
    start = time.perf_counter()
    for name in tqdm(studies(), desc="studies", unit="study"):
        study = load_study(name)
        tqdm.write(f"\n=== {name}")
        run(study, study.SMOKE if options.smoke else study.Config(), options)
    print(f"\nall studies done in {(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    # Figures go to files; without a screen the default backend would fail.
    matplotlib.use("Agg")
    match sys.argv[1:]:
        case [] | ["-h" | "--help"]:
            list_studies()
        case ["all", *flags] if set(flags) <= {"--smoke", "--force"}:
            run_all(Options(smoke="--smoke" in flags, force="--force" in flags))
        case ["all", *flags]:
            sys.exit(f"all takes --smoke and --force, not {' '.join(flags)}")
        case [name, *rest]:
            try:
                study = load_study(name)
            except ValueError as error:
                sys.exit(str(error))
            main(study, rest)
