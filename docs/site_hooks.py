"""What `mkdocs build` does beside the pages: README as home, figures, formulas as MathML, docstrings in the API page.

Nothing is fetched when the site is built or read: formulas are MathML, which browsers draw by themselves.
"""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Add what lies beside docs/: the README as the home page, how to contribute, the changes, the figures."""
    home = (ROOT / "README.md").read_text().replace("](docs/", "](")
    for name, text in {
        "index.md": home,
        "CONTRIBUTING.md": _from_root("CONTRIBUTING.md"),
        "CHANGELOG.md": _from_root("CHANGELOG.md"),
    }.items():
        files.append(File.generated(config, name, content=text))
    for figure in sorted((ROOT / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to what `on_files` added; in the API page, signature and docstring of every name in place of a sentence."""
    markdown = re.sub(r"\]\(\.\./(figures/|CONTRIBUTING\.md|CHANGELOG\.md)", r"](\1", markdown)
    if page.file.src_uri == "api.md":
        markdown = _with_docstrings(markdown)
    return markdown


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML."""
    content = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', _inline, content, flags=re.DOTALL)
    return re.sub(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', _display, content, flags=re.DOTALL)


def _from_root(name: str) -> str:
    return (ROOT / name).read_text().replace("](docs/", "](")


def _with_docstrings(markdown: str) -> str:
    lines, namespace = [], ""
    for line in markdown.splitlines():
        heading = re.fullmatch(r"## `(.*)`", line)
        namespace = heading[1] if heading else namespace
        entry = re.match(r"- `(\w+)`: ", line)
        lines.append(f"\n::: {namespace}.{entry[1]}\n" if entry else line)
    return "\n".join(lines)


def _inline(match: re.Match) -> str:
    return convert(html.unescape(match[1]))


def _display(match: re.Match) -> str:
    return f"<div>{convert(html.unescape(match[1]).strip(), display='block')}</div>"
