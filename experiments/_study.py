"""What every study is, and how one is run: computed or taken from the cache, printed, drawn, saved with provenance."""

import ast
import dataclasses
import functools
import hashlib
import importlib
import inspect
import io
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import rnndyn as rd
from experiments._arguments import parse
from experiments._catalog import FOLDER, check_known
from experiments._settings import check
from rnndyn.plotting import paper_style

ROOT = FOLDER.parent
RESULTS, FIGURES = ROOT / "results", ROOT / "figures"
SMOKE_DPI = 80


@dataclasses.dataclass(frozen=True)
class Options:
    """How a study is run, whatever it studies."""

    smoke: bool = False
    """A run of seconds with tiny settings, to see that everything works; other flags change these settings."""
    force: bool = False
    """Compute again even when a result of the same settings is in the cache."""
    pdf: bool = False
    """Write the figure as PDF too, beside the PNG: vectors, for a paper."""
    figures: Path | None = None
    """Where the figure goes. By default figures/ with the default settings, and results/ with any others."""


def load_study(name: str) -> ModuleType:
    """The module of a study: it holds `CAPTION`, `Config`, `SMOKE`, `compute`, `report` and `plot`.

    **Raises:** `ValueError` for an unknown name.
    """
    check_known(name)
    return importlib.import_module(f"experiments.{name}")


def main(study: ModuleType, arguments: list[str]) -> None:
    """Run one study from the command line: options, and every field of its `Config` as a flag."""
    name = study_name(study)
    options, config = parse(
        tuple[Options, study.Config],
        arguments,
        prog=f"python -m experiments {name}",
        description=inspect.getdoc(study),
        # What is not given has to come from the settings of the kind of run, so this flag is looked for beforehand.
        default=(Options(), study.SMOKE if "--smoke" in arguments else study.Config()),
    )
    try:
        path = figure_path(study, config, options)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    run(study, config, options, path)


def run(study: ModuleType, config: Any, options: Options, path: Path) -> None:
    """Compute (or load), print the numbers beside the published ones, and write the figure to `path`."""
    result = obtain(study, config, force=options.force)
    print(study.report(result))
    print(f"\n{study.CAPTION}")
    path.parent.mkdir(parents=True, exist_ok=True)
    name = study_name(study)
    with paper_style():
        figure = study.plot(result)
        metadata = provenance(name, config_hash(study, config)) | {"Description": study.CAPTION}
        # Nobody looks closely at the figure of tiny settings; of a large one the pixels take longer than the study.
        save_figure(figure, path, metadata, dpi=SMOKE_DPI if options.smoke else None)
        written = [path]
        if options.pdf:
            written.append(path.with_suffix(".pdf"))
            # PDF knows fewer keys than PNG.
            figure.savefig(written[1], metadata={"Title": name, "Subject": metadata["Source"]})
        plt.close(figure)
    print(f"wrote {', '.join(str(shown(one)) for one in written)}")


def obtain(study: ModuleType, config: Any, *, force: bool = False) -> rd.Result:
    """The result of a study from the cache, or computed and put there."""
    name, digest = study_name(study), config_hash(study, config)
    cache = RESULTS / f"{name}-{digest}.npz"
    start = time.perf_counter()
    result = None if force else _cached(cache)
    if result is not None:
        print(f"{name}: result {digest} taken from {shown(cache)} (--force computes it again)")
    else:
        result = study.compute(config)
        result.save(cache)
        print(f"{name}: computed in {time.perf_counter() - start:.1f} s")
    return result


def _cached(cache: Path) -> rd.Result | None:
    """What the cache holds; nothing where there is none, or one that this version of rnndyn does not read."""
    if not cache.exists():
        return None
    try:
        return rd.load(cache)
    except ValueError as error:
        print(f"{shown(cache)} is computed again: {error}")
        return None


def figure_path(study: ModuleType, config: Any, options: Options) -> Path:
    """Where the figure of a run goes: figures/ is for the default settings alone.

    **Raises:** `ValueError` where other settings were to be drawn there.
    """
    name = study_name(study)
    is_default = config == study.Config() and not options.smoke
    if options.figures is None:
        return FIGURES / f"{name}.png" if is_default else RESULTS / f"{name}-{config_hash(study, config)}.png"
    if options.figures.resolve() == FIGURES.resolve() and not is_default:
        raise ValueError("figures: figures/ holds the figures of the default settings; name another folder.")
    return options.figures / f"{name}.png"


def study_name(study: ModuleType) -> str:
    """The name by which the runner knows a study."""
    return study.__name__.rpartition(".")[2]


def shown(path: Path) -> Path:
    """The path from the root of the checkout, where it lies in it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def save_figure(figure: Figure, path: Path, metadata: dict[str, str], dpi: int | None = None) -> None:
    """Write a figure as PNG with a palette of 256 colours, a third of the size of full colour at the same look.

    `dpi` is that of the shared style where it is `None`.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    info = PngInfo()
    for key, text in metadata.items():
        info.add_text(key, text)
    # Written whole or not at all, also when the run is interrupted here.
    beside = path.with_name(path.name + ".partial")
    try:
        with Image.open(buffer) as image:
            image.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE).save(
                beside, format="PNG", pnginfo=info, optimize=True, dpi=image.info.get("dpi")
            )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def helpers_of(study: ModuleType) -> list[ModuleType]:
    """The helpers of the experiments from which a study imports something, and those from which they do.

    What it imports computes as much as its own code. The checks of its settings decide no result.
    """
    found: dict[str, ModuleType] = {}
    waiting = [study]
    while waiting:
        names = {getattr(value, "__module__", None) or "" for value in vars(waiting.pop()).values()}
        new = {name for name in names if name.startswith("experiments._")} - {check.__module__, *found}
        found |= {name: sys.modules[name] for name in new}
        waiting += [found[name] for name in new]
    return [found[name] for name in sorted(found)]


def config_hash(study: ModuleType, config: Any) -> str:
    """A hash of everything that decides a result: the whole configuration, and the code of study and library."""
    helpers = helpers_of(study)
    text = json.dumps(
        {
            "config": dataclasses.asdict(config),
            "code": "".join(computing_code(inspect.getsource(module)) for module in (study, *helpers)),
            "rnndyn": library_digest(Path(rd.__file__).parent),
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def library_digest(package: Path) -> str:
    """A hash of the library's sources, without those that only show what others computed.

    The files as they are: to leave out comments and docstrings takes seconds for each study, and a result computed once
    more costs less than a stale one that is believed.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] not in ("plotting", "portrait"):
            digest.update(f"{name.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def computing_code(source: str) -> str:
    """The code of a study without what only shows its result: `plot`, `report`, `draw_*`, caption, comments, layout.

    A figure can then be redrawn without computing again.
    """
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if not (
            (isinstance(node, ast.FunctionDef) and (node.name in ("plot", "report") or node.name.startswith("draw_")))
            or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CAPTION")
        )
    ]
    return ast.dump(tree)


def provenance(name: str, digest: str) -> dict[str, str]:
    """What a figure says of where it comes from, for the metadata of its file."""
    return {
        "Title": name,
        "Software": f"rnndyn {rd.__version__}, jax {jax.__version__}, matplotlib {matplotlib.__version__}, "
        f"Python {platform.python_version()}",
        "Source": f"python -m experiments {name}; configuration {digest}; commit {_commit()}",
        "Comment": f"Device: {jax.devices()[0].device_kind}",
    }


def _commit() -> str:
    """The commit of the checkout, "-dirty" where a tracked file differs from it; or "unknown" outside of one.

    figures/ does not count: there a run writes its own result.
    """
    try:
        commit = _git("describe", "--always")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)figures")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    # Studies run side by side: none may hold the lock of the index that another wants.
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
