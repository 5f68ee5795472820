"""The command line of a study: flags from dataclasses, and one line for what is wrong with them."""

import contextlib
import io
import re
import sys
from typing import Any

import tyro


def parse(kind: Any, arguments: list[str], *, prog: str, description: str | None, default: Any = None) -> Any:
    """What the arguments say, as one dataclass or a tuple of them; `default` is what holds where they say nothing.

    With a wrong argument the program ends with one line and exit code 2.
    """
    errors = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                tyro.conf.OmitArgPrefixes[kind], args=arguments, prog=prog, description=description, **options
            )
    except SystemExit as end:
        if end.code == 2:
            print(f"{one_line(errors.getvalue())} ({prog} --help)", file=sys.stderr)
        raise


def one_line(boxed: str) -> str:
    """The first paragraph under the title of the box (of lines alone, on a simple terminal) that tyro draws around."""
    rule = re.compile("[─-]{4,}")
    paragraphs: list[list[str]] = [[]]
    for line in boxed.splitlines():
        if rule.search(line):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line.strip(" │|"))
    # An error that a dataclass raises is announced with its name, or its place in the tuple.
    return re.sub(r"^Error parsing (\w+: )?", "", " ".join(paragraphs[1]).strip()) if paragraphs[1:] else boxed.strip()
