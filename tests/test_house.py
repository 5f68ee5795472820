"""The rules of the house, read off the imports: floors, private files, and one line that says what a room is for."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "rnndyn"
MODULES = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts): p for p in sorted(PACKAGE.rglob("*.py"))}
ROOMS = sorted(p.name for p in (PACKAGE / "dynamics").iterdir() if (p / "__init__.py").exists())

# What a room of the dynamics wing may import besides its own files, the landing and `numerics`.
LANDING = {"trajectory", "flows", "linearization", "candidates", "interpolation", "kinks"}
MAY_IMPORT = {
    "numerics": set(),
    "fixed_points": {"numerics"},
    "cycles": {"numerics"},
    "growth": {"numerics"},
    "linear_regions": {"numerics"},
    "attractors": {"numerics", "cycles"},
    "proofs": {"numerics", "linear_regions"},
    "destinations": {"numerics", "proofs"},
    "chaos": {"numerics", "proofs", "fixed_points", "cycles"},
    "automata": {"numerics", "proofs"},
    "bifurcations": {"numerics", "fixed_points", "cycles", "growth", "proofs"},
    "comparison": {"numerics", "fixed_points", "cycles", "growth"},
}

# One file of a room above that searches ask whether a box is kept: a proof where there is one, and no search in it.
LENT = {"fixed_points": {"rnndyn.dynamics.proofs.trapping"}, "cycles": {"rnndyn.dynamics.proofs.trapping"}}


def imported_modules(path: Path) -> set[str]:
    """The modules of the package that a file imports anywhere in it, whole names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rnndyn"):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("rnndyn")}
    return found


ARROWS = sorted((module, other) for module, path in MODULES.items() for other in imported_modules(path))


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["dynamics"] and len(parts) > 3 else None


def test_the_walk_sees_the_imports():
    assert len(ARROWS) > 200
    assert ("rnndyn.dynamics.cycles.cycles", "rnndyn.dynamics.cycles._search") in ARROWS


def test_dynamics_knows_no_networks():
    upper = ("networks", "training", "tasks", "plotting", "maps", "parameters")
    wrong = [(a, b) for a, b in ARROWS if a.startswith("rnndyn.dynamics") and b.split(".")[1] in upper]
    assert not wrong


def test_networks_know_no_dynamics_and_nothing_plots_but_plotting():
    wrong = [
        (a, b)
        for a, b in ARROWS
        if (a.startswith("rnndyn.networks") and b.split(".")[1] in ("dynamics", "training", "maps", "plotting"))
        or (b.startswith("rnndyn.plotting") and not a.startswith(("rnndyn.plotting", "rnndyn.portrait")))
    ]
    assert not wrong


def test_interop_stands_above_the_networks_and_beside_everything_else():
    wrong = [
        (a, b)
        for a, b in ARROWS
        if (
            b.startswith("rnndyn.interop")
            and not a.startswith(("rnndyn.interop", "rnndyn.portrait", "rnndyn.__init__"))
        )
        or (
            a.startswith("rnndyn.interop")
            and b.split(".")[1] in ("dynamics", "training", "tasks", "plotting", "portrait")
        )
    ]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_floors_below(room):
    reached = set()
    for module, other in ARROWS:
        if room_of(module) == room and other.startswith("rnndyn.dynamics") and other not in LENT.get(room, ()):
            reached.add(room_of(other) or f"landing:{other.split('.')[2]}")
    reached.discard(room)
    landing = {name.partition(":")[2] for name in reached if name.startswith("landing:")}
    assert landing <= (LANDING if room != "numerics" else set())
    assert {name for name in reached if not name.startswith("landing:")} <= MAY_IMPORT[room]


def test_the_landing_imports_no_room_but_the_ground():
    landing = [m for m in MODULES if m.startswith("rnndyn.dynamics.") and room_of(m) is None and m.count(".") == 2]
    wrong = [(a, b) for a, b in ARROWS if a in landing and room_of(b) not in (None, "numerics")]
    assert not wrong


def test_a_private_file_is_imported_only_inside_its_folder():
    wrong = [
        (module, other)
        for module, other in ARROWS
        if other.rpartition(".")[2].startswith("_")
        # A package's own name is its __init__: its folder is itself.
        and not (module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]).startswith(
            other.rpartition(".")[0]
        )
    ]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_in_one_line_what_it_is_for_and_exports_nothing(room):
    tree = ast.parse((PACKAGE / "dynamics" / room / "__init__.py").read_text())
    assert len(tree.body) == 1
    assert len((ast.get_docstring(tree) or "").splitlines()) == 1


def test_no_circles():
    below = {module: {b for a, b in ARROWS if a == module and b in MODULES} for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle of imports: {' -> '.join((*path, module))}"
        if module not in done:
            for other in below[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
