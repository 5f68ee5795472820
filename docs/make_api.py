"""`python docs/make_api.py` writes docs/api.md: every public name with the first sentence of its docstring."""

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parent / "api.md"
NAMESPACES = ("rnndyn", "rnndyn.training", "rnndyn.tasks", "rnndyn.tasks.dynamical_systems", "rnndyn.plotting")
HEAD = """# API reference

Every public name. `help(rnndyn.find_fixed_points)` and the like show arguments, shapes, errors, method and source;
the guides in this folder say when to use what. Written by `python docs/make_api.py`.
"""


def page() -> str:
    """The text of the page."""
    sections = [HEAD]
    for namespace in NAMESPACES:
        names = public_names(importlib.import_module(namespace))
        modules = sorted({value.__module__ for value in names.values()})
        sections.append(f"\n## `{namespace}`\n")
        for module in modules:
            members = {name: value for name, value in names.items() if value.__module__ == module}
            sections.append(f"\n### {title(module)}\n")
            sections.extend(f"- `{name}`: {first_sentence(value)}" for name, value in sorted(members.items()))
    return "\n".join(sections) + "\n"


def public_names(namespace: ModuleType) -> dict[str, Callable]:
    """The functions (compiled ones are objects) and classes that a namespace exports."""
    return {
        name: value
        for name, value in vars(namespace).items()
        if not name.startswith("_") and callable(value) and hasattr(value, "__module__")
    }


def title(module: str) -> str:
    """`rnndyn.dynamics.fixed_points` -> `dynamics: fixed points`."""
    return ": ".join(part.replace("_", " ") for part in module.split(".")[1:])


def first_sentence(value: object) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.][.?!]) (?=[A-Z`])", paragraph)[0].removesuffix(":")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.name}")
