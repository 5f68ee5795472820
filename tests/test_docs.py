"""Every block of Python in README.md and docs/ runs, page by page, from its own page; commands are real."""

import ast
import importlib.util
import re
import shlex
import textwrap
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import pytest

import rnndyn as rd
from rnndyn.portrait.command import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "examples" / "README.md"]
LANGUAGES = {"python", "sh", "text", "json", "bibtex"}
SLOW = {
    "architecture.md",
    "comparison.md",
    "cycles.md",
    "gradients.md",
    "lyapunov.md",
    "proofs_chaos.md",
    "reconstruction.md",
    "training.md",
    "tutorial_from_zero.md",
}
"""Pages that take more than 8 s of CPU, nearly all of it compilation. Their names are looked up in every run."""

SECONDS = 1.0
"""What `rd.portrait` may take here. The first stage runs whatever the budget; tests/portrait has the rest."""


class Block(NamedTuple):
    """A fenced block: its language, what stands after that, its text, and the line it begins at."""

    language: str
    info: str
    text: str
    line: int


def blocks(page):
    """The fenced blocks of a page, in order."""
    text, found = page.read_text(), []
    for match in re.finditer(r"^([ ]*)```([^\n]*)\n(.*?)^\1```[ ]*$", text, re.DOTALL | re.MULTILINE):
        language, _, info = match[2].strip().partition(" ")
        line = text[: match.start()].count("\n") + 2
        found.append(Block(language, info, textwrap.dedent(match[3]), line))
    return found


def needed(block):
    """The framework that a block asks for in its first line, or None."""
    match = re.match(r"# needs (\w+)", block.text)
    return match and match[1]


def name(page):
    return str(page.relative_to(ROOT))


def with_python(pages):
    """The pages that have something to run."""
    return [
        pytest.param(page, id=name(page), marks=[pytest.mark.slow] if page.name in SLOW else [])
        for page in pages
        if any(block.language == "python" for block in blocks(page))
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to run a page in, with docs/ in it and nothing else of the checkout."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    matplotlib.use("agg")
    yield tmp_path
    plt.close("all")


@pytest.mark.parametrize("page", with_python(PAGES))
def test_the_blocks_of_a_page_run_one_after_the_other(page, folder, monkeypatch, capsys):
    portrait = rd.portrait
    monkeypatch.setattr(rd, "portrait", lambda *args, **kwargs: portrait(*args, **{**kwargs, "budget": SECONDS}))
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and (needed(block) is None or importlib.util.find_spec(needed(block))):
            # Empty lines above: a traceback names the line of the page.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
    printed = capsys.readouterr().out
    for block in blocks(page):
        if 'title="prints"' in block.info:
            assert block.text in printed, f"{page.name}, line {block.line}: something else is printed"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_name_of_the_library_is_there(page):
    """What the slow pages would say first, for nothing: each block parses, and names only what is public."""
    for block in blocks(page):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.Attribute) and (path := dotted(node)) and path[0] in {"rd", "rnndyn"}:
                    found = rd
                    for part in path[1:]:
                        assert hasattr(found, part), f"line {block.line + node.lineno - 1}: {'.'.join(path)}"
                        found = getattr(found, part)


def dotted(node):
    """`rd.training.fit` as its parts, or None for an attribute of anything but a name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page):
    text = page.read_text()
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(blocks(page)), "a fence is not closed"
    for block in blocks(page):
        assert block.language in LANGUAGES, f"line {block.line - 1}: {block.language or 'no language'}"


def test_what_needs_a_framework_says_so():
    for page in PAGES:
        for block in blocks(page):
            imported = set(re.findall(r"^ *(?:import|from) (\w+)", block.text, re.MULTILINE))
            for framework in imported & {"torch", "keras", "flax", "haiku"}:
                if block.language == "python":
                    assert needed(block) == framework, f"{page.name}, line {block.line}"


def commands():
    """The calls of `rnndyn` in the blocks of all pages."""
    found = []
    for page in PAGES:
        for block in blocks(page):
            if block.language == "sh":
                lines = block.text.replace("\\\n", " ").splitlines()
                calls = [shlex.split(line, comments=True) for line in lines if line.lstrip("$ ").startswith("rnndyn ")]
                found += [pytest.param(call[1:], id=f"{name(page)}:{' '.join(call[1:3])}") for call in calls]
    return found


@pytest.mark.parametrize("call", commands())
def test_commands_are_real(call, folder, capsys):
    """Cheap ones run; a portrait is taken as far as its arguments are understood."""
    if call[0] == "portrait":
        assert main(["portrait", "no_such_file.npz", *call[2:]]) == 2
        assert "no_such_file.npz" in capsys.readouterr().err
    else:
        assert main(call) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    """Within the checkout, headings included."""
    outside_code = re.sub(r"```.*?```|`[^`\n]*`|\$[^$]*\$", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, heading = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if heading:
            assert heading in headings(there), target


def headings(page):
    """Anchors of the headings of a page, as GitHub and MkDocs make them."""
    lines = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}
