"""Verdicts: items of an `equinox.Enumeration`, alone or in batches, asked and put together on the host."""

import sys
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np


class _Sample(eqx.Enumeration):
    """Here for the class of its item, which has no public name, and for nothing else."""

    item = ""


def verdict_words(verdict: Any) -> Any:
    """The message of an item of an `equinox.Enumeration`; for a batch of them, an array of messages."""
    enumeration = verdict._enumeration
    return look_up(verdict, {name: enumeration[item] for name, item in items_of(enumeration).items()})


def is_verdict(verdict: Any, *items: Any) -> Any:
    """Whether a verdict on the host is one of these items: `True` or `False`; for a batch, a NumPy array of them."""
    if any(item._enumeration is not verdict._enumeration for item in items):
        raise ValueError(f"items: expected items of {verdict._enumeration.__qualname__} only.")
    found = np.isin(_number(verdict), [_number(item) for item in items])
    return found if found.ndim else bool(found)


def first_verdict(*cases: tuple[Any, Any], otherwise: Any) -> Any:
    """The item of the first pair (mask, item) whose mask holds: a verdict, on the host, for each entry of the masks."""
    masks, items = zip(*cases)
    if any(item._enumeration is not otherwise._enumeration for item in items):
        raise ValueError(f"cases: expected items of {otherwise._enumeration.__qualname__} only.")
    numbers = np.select([np.asarray(mask) for mask in masks], [_number(item) for item in items], _number(otherwise))
    return _as_verdict(numbers, otherwise)


def stack_verdicts(items: Sequence[Any]) -> Any:
    """Items of one enumeration as a batch `(K,)`; of batches, one with a leading axis."""
    return _as_verdict(np.stack([_number(item) for item in items]), items[0])


def join_verdicts(batches: Sequence[Any]) -> Any:
    """Batches of one enumeration, one after the other along their first axis."""
    return _as_verdict(np.concatenate([_number(batch) for batch in batches]), batches[0])


def take_verdicts(batch: Any, rows: Any) -> Any:
    """The verdicts of the given rows (a mask, or indices)."""
    return _as_verdict(_number(batch)[rows], batch)


def repeat_verdict(item: Any, shape: int | tuple[int, ...]) -> Any:
    """A batch of one item."""
    return _as_verdict(np.broadcast_to(_number(item), shape).copy(), item)


def _as_verdict(numbers: Any, like: Any) -> Any:
    return jax.tree.map(lambda _: np.asarray(numbers, np.int32), like)


def is_any_verdict(value: Any) -> bool:
    return isinstance(value, type(_Sample.item))


def items_of(enumeration: Any) -> dict[str, Any]:
    return dict(enumeration._name_to_item)


def look_up(verdict: Any, texts: dict[str, str]) -> Any:
    """One of the texts, by name, for each item of a batch; a string for a single item."""
    by_number = {int(_number(item)): texts[name] for name, item in items_of(verdict._enumeration).items()}
    numbers = _number(verdict)
    found = np.array([by_number[int(n)] for n in numbers.ravel()], dtype=str).reshape(numbers.shape)
    return found if found.ndim else str(found)


def _number(verdict: Any) -> np.ndarray:
    return np.asarray(jax.tree.leaves(verdict)[0])


def read_verdict(which: str, names: Any) -> Any:
    """Items by their names: their numbers change when a verdict is added.

    The enumeration must have been imported by somebody else: no module runs because a file names it.
    """
    module, _, name = which.partition(":")
    within = lambda key: key == module or (module == "rnndyn" and key.startswith("rnndyn."))
    places = [place for key, place in list(sys.modules.items()) if within(key)]
    found = {id(cls): cls for cls in (getattr(place, name, None) for place in places) if _is_enumeration(cls)}
    if len(found) != 1:
        raise ValueError(f"the file holds a verdict {name} of {module}, which is not known here.")
    enumeration = next(iter(found.values()))
    items, names = items_of(enumeration), np.asarray(names)
    unknown = sorted({str(n) for n in names.ravel()} - set(items))
    if unknown:
        raise ValueError(f"the file holds verdicts that this version does not know: {unknown} of {name}.")
    numbers = np.array([_number(items[str(n)]) for n in names.ravel()], np.int32).reshape(names.shape)
    return _as_verdict(numbers, next(iter(items.values())))


def _is_enumeration(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, eqx.Enumeration)
