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
) -> Series:
    """A series from a file of comma-separated values, one row for each sample.

    **Arguments:**

    - `path`: the file. A first row that holds anything but numbers is taken as the names of the columns.
    - `columns`: names or numbers (from 0) of the columns to read; all but `time_column` when not given.
    - `time_column`: the column of the times, equally spaced; without it samples are `dt` apart.
    - `dt`: the time between samples.
    - `delimiter`: what stands between two entries.

    **Returns:** a `Series` of one series.

    **Raises:** `ValueError` for a file without numbers, rows of unequal length, an entry that is missing or no number
    (with its line), a column that is not there, and what `as_series` refuses.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file, delimiter=delimiter), 1) if any(row)]
    if not rows:
        raise ValueError(f"path: {path} holds no rows.")
    width = len(rows[0][1])
    header = None if all(_is_number(entry) for entry in rows[0][1]) else [entry.strip() for entry in rows.pop(0)[1]]
    for number, row in rows:
        if len(row) != width:
            raise ValueError(f"path: line {number} of {path} has {len(row)} entries where the first has {width}.")
        for place, entry in enumerate(row):
            if not _is_number(entry):
                raise ValueError(
                    f"path: line {number} of {path} has {entry!r} in column {place}: a missing value, or no number."
                )
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
    )


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
