"""Checks of the options of tasks."""

from typing import Any


def check_probability(name: str, value: Any) -> None:
    """Raise unless `value` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a probability between 0 and 1, got {value}.")
