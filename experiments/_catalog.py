"""Which studies there are and what each says of itself, read without running them: importing JAX takes seconds."""

import ast
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def names(folder: Path = FOLDER) -> list[str]:
    """The names of all studies, in order."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.name.startswith("_"))


def studies(folder: Path = FOLDER) -> dict[str, str]:
    """The names of all studies, in order, and the first line of what each says of itself."""
    return {name: _title(folder / f"{name}.py") for name in names(folder)}


def check_known(name: str) -> None:
    """**Raises:** `ValueError` where no study has this name."""
    if name not in names():  # to read what they say takes half a second
        raise ValueError(f"no study is called {name!r}; `python -m experiments` lists them.")


def _title(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path.name} has no docstring; its first line is the title of the study.")
    return text.splitlines()[0]
