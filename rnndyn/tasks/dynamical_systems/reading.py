"""Series from a file of comma-separated values."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnndyn.tasks.dynamical_systems.series import Series, as_series


def read_series(
    path: str | Path,
    *,
    columns: Sequence[str | int] | None = None,
    time_column: str | int | None = None,
    dt: float = 1.0,
    delimiter: str = ",",
    missing: bool = False,
) -> Series:
    """A series from a file of comma-separated values, one row for each sample.

    **Arguments:**

    - `path`: the file. A first row that holds anything but numbers is taken as the names of the columns.
    - `columns`: names or numbers (from 0) of the columns to read; all but `time_column` when not given.
    - `time_column`: the column of the times, equally spaced; without it samples are `dt` apart.
    - `dt`: the time between samples.
    - `delimiter`: what stands between two entries.
    - `missing`: whether an entry that is empty, `NaN` or `NA` is one that was not measured, as in `as_series`; not one
        of the times.

    **Returns:** a `Series` of one series.

    **Raises:** `ValueError` for a file without numbers, rows of unequal length, an entry that is missing or no number
    (with its line), a column that is not there, and what `as_series` refuses.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        rows = _without_blank_lines(list(enumerate(csv.reader(file, delimiter=delimiter), 1)))
    if not rows:
        raise ValueError(f"path: {path} holds no rows.")
    width = len(rows[0][1])
    if missing:
        rows = [(number, ["nan" if _is_missing(entry) else entry for entry in row]) for number, row in rows]
    header = None if all(_is_number(entry) for entry in rows[0][1]) else [entry.strip() for entry in rows.pop(0)[1]]
    for number, row in rows:
        if len(row) != width:
            raise ValueError(f"path: line {number} of {path} has {len(row)} entries where the first has {width}.")
        for place, entry in enumerate(row):
            if not _is_number(entry):
                hint = "no number." if missing else "a missing value, or no number. Missing ones: missing=True."
                raise ValueError(f"path: line {number} of {path} has {entry!r} in column {place}: {hint}")
    table = np.array([[float(entry) for entry in row] for _, row in rows]).reshape(-1, width)
    names = [f"x{i}" for i in range(width)] if header is None else header
    time = None if time_column is None else _find("time_column", time_column, names)
    if columns is None:
        chosen = [i for i in range(width) if i != time]
    else:
        chosen = [_find("columns", column, names) for column in columns]
    return as_series(
        table[:, chosen],
        dt=dt,
        times=None if time is None else table[:, time],
        names=[names[i] for i in chosen],
        missing=missing,
    )


def _without_blank_lines(rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The rows that hold entries, empty ones included: dropped silently, a sample would shift all that follow.

    In a file of one column a blank line between others is such an entry.
    """
    filled = [place for place, (_, row) in enumerate(rows) if row]
    if not filled:
        return []
    one_column = len(rows[filled[0]][1]) == 1
    rows = rows[filled[0] : filled[-1] + 1]
    return [(number, row or [""]) for number, row in rows if row or one_column]


def _is_missing(entry: str) -> bool:
    return entry.strip().lower() in ("", "nan", "na")


def _is_number(entry: str) -> bool:
    try:
        float(entry)
    except ValueError:
        return False
    return True


def _find(name: str, column: str | int, names: list[str]) -> int:
    if isinstance(column, str):
        if column not in names:
            raise ValueError(f"{name}: there is no column {column!r}; the file has {', '.join(names)}.")
        return names.index(column)
    if not 0 <= column < len(names):
        raise ValueError(f"{name}: expected 0 to {len(names) - 1}, got {column}.")
    return column
