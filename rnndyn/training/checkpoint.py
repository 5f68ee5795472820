"""Models and training runs on disk: a line of JSON, then the arrays. Nothing is pickled."""

import difflib
import json
import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import equinox as eqx

_FORMAT = 1
_MODEL = "model"


def save_model(path: str | Path, model: Any) -> Path:
    """Write the arrays of a model to `path`, behind a description of its structure.

    **Arguments:**

    - `path`: the file; missing folders are made, an existing file is replaced.
    - `model`: any Equinox module or tree of arrays.

    **Returns:** the path written.
    """
    return write(Path(path), _MODEL, {"structure": describe(model)}, model)


def load_model(path: str | Path, like: Any) -> Any:
    """Read a model that `save_model` wrote.

    **Arguments:**

    - `path`: the file.
    - `like`: a model of the same structure, such as a fresh one made by the same call; its numbers do not matter.

    **Returns:** `like` with the arrays of the file.

    **Raises:** `ValueError` when the file holds no model or one of another structure, and says where they differ.
    """
    path = Path(path)
    header = read_header(path, _MODEL)
    check_structure(path, header["structure"], describe(like), "like")
    return read_arrays(path, like)


def write(path: Path, kind: str, header: dict[str, Any], tree: Any) -> Path:
    """Write `header` and the array leaves of `tree`; the file appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(json.dumps({"rnndyn": kind, "format": _FORMAT, **header}).encode() + b"\n")
        eqx.tree_serialise_leaves(file, tree)
    os.replace(unfinished, path)
    return path


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """The header of a file that `write` made, or a `ValueError` when it is something else."""
    with path.open("rb") as file:
        header = _parse_header(file)
    if header is None or header.get("rnndyn") != kind:
        found = "something else" if header is None else f"a {header['rnndyn']}"
        raise ValueError(f"{path}: expected a {kind} written by rnndyn, found {found}.")
    if header["format"] > _FORMAT:
        raise ValueError(
            f"{path}: has format {header['format']}; this version of rnndyn reads up to {_FORMAT}. Upgrade rnndyn."
        )
    return header


def read_arrays(path: Path, like: Any) -> Any:
    """The tree of a file that `write` made, in the structure of `like`."""
    with path.open("rb") as file:
        file.readline()
        try:
            return eqx.tree_deserialise_leaves(file, like)
        except (EOFError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: its arrays could not be read; the file is damaged ({error}).") from error


def describe(tree: Any) -> str:
    """The structure of a tree as text: fields, shapes and dtypes, names of functions, but no array's numbers."""
    # Addresses differ from process to process.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", eqx.tree_pformat(tree))


def check_structure(path: Path, saved: str, current: str, name: str) -> None:
    """Raise where two descriptions differ, with the lines in which they do."""
    if saved == current:
        return
    changes = [
        line
        for line in difflib.unified_diff(saved.splitlines(), current.splitlines(), lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    raise ValueError(
        f"{name}: {path} holds another structure than what was passed (- saved, + passed):\n" + "\n".join(changes[:20])
    )


def check_settings(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise when a setting that the numbers of a run depend on is another one now than when it was saved."""
    different = [name for name in current if not _same(saved.get(name), current[name])]
    if different:
        lines = [f"  {name}: saved {saved.get(name)}, now {current[name]}" for name in different]
        raise ValueError(
            f"resume: {path} comes from a run with another configuration:\n" + "\n".join(lines) + "\n"
            "Continue it with the configuration it had, or start a new run with another checkpoint path."
        )


def _same(saved: Any, current: Any) -> bool:
    if isinstance(saved, float) and isinstance(current, float):
        # Settings written as float64 and measured in float32 (the optimiser's response): rounding may differ by device.
        return math.isclose(saved, current, rel_tol=1e-5) or (math.isnan(saved) and math.isnan(current))
    return saved == current


def _parse_header(file: BinaryIO) -> dict[str, Any] | None:
    # A foreign file may have no line ends at all; a header of ours is far shorter than this.
    line = file.readline(2**24)
    try:
        header = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError):
        return None
    return header if isinstance(header, dict) and "rnndyn" in header else None
