"""What a reader of Python source has to keep in mind at every character, and lines on which that can be shown."""

import numpy as np


def source_features(source: str) -> dict[str, np.ndarray]:
    """Depth of brackets, indentation of the line, and whether a string or a comment is open, at every character."""
    depth, indent, column, quote = 0, 0, 0, ""
    leading = True
    rows = []
    i = 0
    while i < len(source):
        width = 1
        character = source[i]
        if quote:
            if character == "\\" and quote != "#":
                width = 2
            elif source.startswith(quote, i) or (quote == "#" and character == "\n"):
                width, quote = (1 if quote == "#" else len(quote)), ""
        elif character == "#":
            quote = "#"
        elif character in "'\"":
            quote = character * 3 if source.startswith(character * 3, i) else character
            width = len(quote)
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(depth - 1, 0)
        for character in source[i : i + width]:
            if character == "\n":
                column, leading = 0, True
            else:
                column += 1
                leading = leading and character == " "
                indent = column if leading else indent
            rows.append((depth, indent, bool(quote) and quote != "#", column))
        i += width
    table = np.array(rows, float)[: len(source)]
    return dict(zip(("depth of brackets", "indentation", "inside a string", "place in the line"), table.T))


def telling_passage(feature: str, source: str, num_lines: int = 9, width: int = 62) -> slice:
    """Lines of the second half of the text in which a feature varies most, and which are short enough to be shown."""
    lines = source.splitlines(keepends=True)
    starts = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
    values = source_features(source)[feature]
    best, place = -1.0, slice(len(source) // 2, len(source) // 2 + 100)
    for first in range(len(lines) - num_lines):
        block = lines[first : first + num_lines]
        if starts[first] < len(source) // 2 or max(map(len, block)) > width or min(map(len, block)) < 4:
            continue
        variation = float(np.std(values[starts[first] : starts[first + num_lines]]))
        if variation > best:
            best, place = variation, slice(int(starts[first]), int(starts[first + num_lines]))
    return place
