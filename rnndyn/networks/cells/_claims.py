"""What a cell says of itself beyond its step (bounds, a piecewise-linear form), and when that can be believed.

A subclass that changes the step inherits what its parent said of another step. Such a claim would falsify every
analysis that builds on it, so it counts only while nothing below the class that makes it has changed.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx

# Where a trajectory starts is no part of the map.
_HARMLESS = {"initial_state"}


def is_redefined(cell: Any, claim: str) -> bool:
    """Whether a subclass changed a method or attribute of the class from which `cell` has the method `claim`."""
    kinds = type(cell).__mro__
    owner = next((index for index, kind in enumerate(kinds) if claim in vars(kind)), 0)
    inherited = set(dir(kinds[owner])) - _HARMLESS
    return any(
        name in inherited and (name == "__call__" or not name.startswith(("__", "_abc")))
        for kind in kinds[:owner]
        for name in vars(kind)
    )


def known_bounds(cell: Any, input: Any) -> Any:
    """`cell.state_bounds(input)`, or `None` for a subclass with another step, of which they say nothing."""
    return None if is_redefined(cell, "state_bounds") else cell.state_bounds(input)


class claim:
    """A decorator for a method that a subclass with another step does not have: `hasattr` says so."""

    def __init__(self, method: Callable[..., Any]):
        self.method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self.method
        name = self.method.__name__
        if is_redefined(instance, name):
            raise AttributeError(
                f"{name}: {type(instance).__name__} changes what it inherits, so its parent's formula is not its own."
            )
        return eqx.Partial(self.method, instance)
