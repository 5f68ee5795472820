"""What every study is, and how one is run: computed or taken from the cache, printed, drawn, saved with provenance."""

import ast
import dataclasses
import hashlib
import importlib
import inspect
import io
import json
import pkgutil
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
import tyro
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import rnndyn as rd
from rnndyn.plotting import paper_style

ROOT = Path(__file__).resolve().parent.parent
RESULTS, FIGURES = ROOT / "results", ROOT / "figures"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a study is run, whatever it studies."""

    smoke: bool = False
    """A run of seconds with tiny settings, to see that everything works; draws no figure into figures/."""
    force: bool = False
    """Compute again even when a result of the same settings is in the cache."""


def studies() -> dict[str, str]:
    """The names of all studies and the first line of what each says of itself."""
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_"))
    return {name: (inspect.getdoc(load_study(name)) or "").splitlines()[0] for name in names}


def load_study(name: str) -> ModuleType:
    """The module of a study: it holds `Config`, `SMOKE`, `compute`, `report` and `plot`.

    **Raises:** `ValueError` for an unknown name.
    """
    try:
        return importlib.import_module(f"experiments.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"experiments.{name}":
            raise
        raise ValueError(f"no study is called {name!r}; `python -m experiments` lists them.") from None


def main(study: ModuleType, arguments: list[str] | None = None) -> None:
    """Run one study from the command line: options, and every field of its `Config` as a flag."""
    name = study.__name__.rpartition(".")[2]
    options, config = tyro.cli(
        tyro.conf.OmitArgPrefixes[tuple[Options, study.Config]],  # pyright: ignore[reportInvalidTypeArguments]
        args=arguments,
        prog=f"python -m experiments {name}",
        description=inspect.getdoc(study),
    )
    run(study, study.SMOKE if options.smoke else config, options)


def run(study: ModuleType, config: Any, options: Options) -> Path:
    """Compute (or load), print the numbers beside the published ones, and write the figure; gives its path."""
    name = study.__name__.rpartition(".")[2]
    digest = config_hash(study, config)
    cache = RESULTS / f"{name}-{digest}.npz"
    start = time.perf_counter()
    if cache.exists() and not options.force:
        result = rd.load(cache)
        print(f"{name}: result {digest} taken from {cache.relative_to(ROOT)} (--force computes it again)")
    else:
        result = study.compute(config)
        result.save(cache)
        print(f"{name}: computed in {time.perf_counter() - start:.1f} s")
    print(study.report(result))
    path = (RESULTS if options.smoke else FIGURES) / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    with paper_style():
        figure = study.plot(result)
        save_figure(figure, path, provenance(name, digest))
        plt.close(figure)
    print(f"wrote {path.relative_to(ROOT)}")
    return path


def save_figure(figure: Figure, path: Path, metadata: dict[str, str]) -> None:
    """Write a figure as PNG with a palette of 256 colours, a third of the size of full colour at the same look."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    info = PngInfo()
    for key, text in metadata.items():
        info.add_text(key, text)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE).save(
            path, pnginfo=info, optimize=True, dpi=image.info.get("dpi")
        )


def config_hash(study: ModuleType, config: Any) -> str:
    """A hash of everything that decides a result: the whole configuration, the code that computes, the version."""
    # What a study imports from a helper of the experiments computes as much as its own code.
    names = {getattr(value, "__module__", None) or "" for value in vars(study).values()}
    helpers = [sys.modules[name] for name in sorted(names) if name.startswith("experiments._")]
    text = json.dumps(
        {
            "config": dataclasses.asdict(config),
            "code": "".join(computing_code(inspect.getsource(module)) for module in (study, *helpers)),
            "rnndyn": rd.__version__,
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def computing_code(source: str) -> str:
    """The code of a study without what only shows its result: `plot`, `report`, `draw_*`, comments and layout.

    A figure can then be redrawn without computing again.
    """
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if not (
            isinstance(node, ast.FunctionDef) and (node.name in ("plot", "report") or node.name.startswith("draw_"))
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
        "Description": f"Device: {jax.devices()[0].device_kind}",
    }


def _commit() -> str:
    """The commit of the checkout, or "unknown" outside of one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
