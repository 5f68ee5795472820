"""The blocks of docs/import.md run one after the other; those that need a framework, where it is installed."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "import.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def needed(block):
    match = re.match(r"# needs (\w+)", block)
    return match and match[1]


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").symlink_to(DOCS)
    monkeypatch.chdir(tmp_path)
    names, ran = {}, 0
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for block in BLOCKS:
        if needed(block) is None or importlib.util.find_spec(needed(block)) is not None:
            exec(compile(block, "docs/import.md", "exec"), names)
            ran += 1
    assert ran >= 6
    shown = capsys.readouterr().out
    # What the page shows is what is printed.
    table = re.search(r"```\n(ImportedNetwork.*?)```", PAGE, re.DOTALL)
    assert table is not None
    assert table[1] in shown


def test_what_needs_a_framework_says_so():
    frameworks = ("torch", "keras", "flax", "haiku")
    for block in BLOCKS:
        for framework in frameworks:
            if f"import {framework}" in block or f"from {framework}" in block:
                assert needed(block) == framework


@pytest.mark.parametrize("page", ["import.md", "conventions.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (DOCS / page).read_text()):
        assert (DOCS / target).exists(), target
