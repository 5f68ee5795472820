"""The structure of a tree as plain data: what a checkpoint says about what it holds."""

import dataclasses
import difflib
import functools
import json
import math
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from rnndyn.training._data import is_typed_key

_PLAIN = bool | int | float | str | None


def describe(tree: Any) -> Any:
    """A tree as nested lists and dictionaries for JSON: classes, fields, shapes and dtypes, names of functions, plain
    values, but no array's numbers."""
    if is_typed_key(tree):
        return {"array": f"key<{jax.random.key_impl(tree)}>", "shape": list(tree.shape)}
    if isinstance(tree, np.generic) or (eqx.is_array_like(tree) and hasattr(tree, "dtype")):
        return {"array": str(tree.dtype), "shape": list(np.shape(tree))}
    if isinstance(tree, jax.ShapeDtypeStruct):
        return {"array": str(tree.dtype), "shape": list(tree.shape)}
    if isinstance(tree, _PLAIN):
        return tree if not isinstance(tree, float) or math.isfinite(tree) else repr(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields = {name: describe(value) for name, value in zip(tree._fields, tree)}  # pyright: ignore
        return {"class": type(tree).__name__, "fields": fields}
    if isinstance(tree, tuple | list):
        return [describe(item) for item in tree]
    if isinstance(tree, dict):
        return {"dict": {str(key): describe(value) for key, value in tree.items()}}
    if isinstance(tree, functools.partial):
        return {"partial": describe(tree.func), "args": describe(tree.args), "keywords": describe(tree.keywords)}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {field.name: describe(getattr(tree, field.name, None)) for field in dataclasses.fields(tree)}
        return {"class": type(tree).__name__, "fields": fields}
    name = getattr(tree, "__name__", None)
    if isinstance(name, str):
        return {"function": name}
    # Addresses differ from process to process.
    return {"class": type(tree).__name__, "text": re.sub(r" at 0x[0-9a-fA-F]+", "", str(tree))[:200]}


def check_structure(path: Path, saved: Any, current: Any, name: str) -> None:
    """Raise where the saved structure is not that of the tree `current`, with the places in which they differ.

    Arrays must agree one by one, and so must every class, function and plain value that both know. A field without
    arrays that only one of them has is passed over: libraries add and drop such fields from release to release.
    """
    if isinstance(saved, str) and not isinstance(current, str):
        changes = _text_changes(saved, eqx.tree_pformat(current))  # format 1
    else:
        changes = list(differences(saved, describe(current)))
    if changes:
        raise ValueError(
            f"{name}: {path} holds another structure than what was passed (- saved, + passed):\n"
            + "\n".join(changes[:20])
        )


def differences(saved: Any, current: Any, where: str = "") -> Any:
    """The places in which two descriptions differ, as lines of text."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for part in ("fields", "dict"):
            if part in saved and part in current:
                if saved.get("class") != current.get("class"):
                    break
                yield from _field_differences(saved[part], current[part], where)
                return
    if isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        for i, (a, b) in enumerate(zip(saved, current)):
            yield from differences(a, b, f"{where}[{i}]")
        return
    if not _same(saved, current):
        yield f"- {where or 'it'}: {_show(saved)}"
        yield f"+ {where or 'it'}: {_show(current)}"


def _field_differences(saved: dict[str, Any], current: dict[str, Any], where: str) -> Any:
    for field in {**saved, **current}:
        at = f"{where}.{field}".lstrip(".")
        if field in saved and field in current:
            yield from differences(saved[field], current[field], at)
        elif _has_arrays(saved.get(field, current.get(field))):
            yield f"- {at}: {_show(saved[field])}" if field in saved else f"+ {at}: {_show(current[field])}"


def _has_arrays(description: Any) -> bool:
    if isinstance(description, dict):
        return "array" in description or any(_has_arrays(value) for value in description.values())
    return isinstance(description, list) and any(_has_arrays(item) for item in description)


def _show(description: Any) -> str:
    if isinstance(description, dict):
        if "array" in description:
            kind = re.sub(r"^(b?float|u?int|complex)", lambda m: _SHORT.get(m[0], m[0]), description["array"])
            return f"{kind}[{','.join(map(str, description['shape']))}]"
        if "function" in description:
            return f"<function {description['function']}>"
        if "fields" in description:
            inner = ", ".join(f"{key}={_show(value)}" for key, value in description["fields"].items())
            return f"{description['class']}({inner})"[:300]
    return json.dumps(description)[:300]


_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


def _same(saved: Any, current: Any) -> bool:
    if isinstance(saved, float) and isinstance(current, float):
        # Settings written as float64 and measured in float32 (the optimiser's response): rounding may differ by device.
        return math.isclose(saved, current, rel_tol=1e-5) or (math.isnan(saved) and math.isnan(current))
    return saved == current


def _text_changes(saved: str, current: str) -> list[str]:
    saved, current = (re.sub(r" at 0x[0-9a-fA-F]+", "", text) for text in (saved, current))
    return [
        line
        for line in difflib.unified_diff(saved.splitlines(), current.splitlines(), lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]


def check_settings(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise when a setting that the numbers of a run depend on is another one now than when it was saved."""
    different = [name for name in current if any(True for _ in differences(saved.get(name), current[name]))]
    if different:
        lines = [f"  {name}: saved {_show(saved.get(name))}, now {_show(current[name])}" for name in different]
        raise ValueError(
            f"resume: {path} comes from a run with another configuration:\n" + "\n".join(lines) + "\n"
            "Continue it with the configuration it had, or start a new run with another checkpoint path."
        )
