"""docs/gallery.md shows every figure under the caption of its study."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("make_gallery", ROOT / "docs" / "make_gallery.py")
assert spec is not None
assert spec.loader is not None
make_gallery = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = make_gallery
spec.loader.exec_module(make_gallery)


def test_the_page_is_current():
    assert make_gallery.PAGE.read_text(encoding="utf-8") == make_gallery.page(), "run `make api`"


def letters(first, last):
    """All letters from one to another."""
    return " ".join(map(chr, range(ord(first), ord(last) + 1)))


@pytest.mark.parametrize("name", make_gallery.ORDER)
def test_a_caption_names_every_panel_that_the_figure_has(name):
    source = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
    title, _, text = make_gallery.caption(name).partition("\n\n")
    assert title.endswith(".")
    assert text.count("- **") >= 1
    # Markdown would take a line that begins with a dash for an item of a list in the middle of a sentence.
    items = [line for line in text.splitlines() if line.lstrip().startswith(("- ", "+ ", "* "))]
    assert all(line.startswith("- **") for line in items)
    # What a title letters, the caption explains; it may name panels in groups.
    groups = re.sub(r"\*\*(\w)\*\* to \*\*(\w)\*\*", lambda m: f"**{letters(*m.groups())}**", text)
    named = set(re.findall(r"[a-z]", " ".join(re.findall(r"\*\*(.*?)\*\*", groups))))
    assert set(re.findall(r'["\']([a-j])  \w', source)) <= named


@pytest.mark.parametrize("name", make_gallery.ORDER)
def test_a_figure_is_small_and_says_where_it_comes_from(name):
    path = ROOT / "figures" / f"{name}.png"
    assert path.stat().st_size < 300_000
    with Image.open(path) as image:
        assert name in image.info["Source"]
