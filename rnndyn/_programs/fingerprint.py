"""A hashable description of a callable from which its trace follows, arrays apart; to save tracing it again."""

import dataclasses
import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from rnndyn._programs.capture import MOST_LEAVES, is_library, is_real_array, used_globals
from rnndyn._programs.structure import Same

_MOST_BYTES = 4096


# What dataclasses and Equinox write into a class, and what runs when an object is made, not when it is called.
_GENERATED = frozenset(
    "__init__ __post_init__ __check_init__ __eq__ __hash__ __repr__ __setattr__ __delattr__ __replace__ "
    "__init_subclass__ __class_getitem__".split()
)


class NoFingerprint(Exception):
    """The trace depends on something that may change unseen; it is traced every time."""


def fingerprint(f: Callable) -> tuple[Any, list[Any]]:
    """`(key, arrays)`: two callables with equal keys have equal traces, when `arrays` are inputs of the trace.

    Read anew at every call, so that a cell, a field or a global that was changed changes the key; the methods of a
    user's `equinox.Module` are read like functions. Modules, functions and classes of libraries are taken as fixed.

    **Raises:** `NoFingerprint` where something else may enter: a dictionary in a closure, an object of a plain class,
    a module of the user.
    """
    reader = _Reader()
    return reader.read(f), list(reader.arrays.values())


class _Reader:
    def __init__(self) -> None:
        self.arrays: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}  # the running number of each array and function: aliases stay aliases
        self.kept: list[Any] = []

    def read(self, x: Any, *, static: bool = False) -> Any:
        if is_real_array(x):
            if static:
                raise NoFingerprint
            self.arrays.setdefault(id(x), x)
            return ("array", self.number(x), np.shape(x), x.dtype, getattr(x, "weak_type", False))
        if isinstance(x, np.ndarray | np.generic):
            if x.nbytes > _MOST_BYTES or x.dtype.hasobject:
                raise NoFingerprint
            return ("numbers", type(x), x.shape, x.dtype, x.tobytes())
        if x is None or x is Ellipsis or type(x) in (bool, int, str, bytes):
            return (type(x), x)
        if type(x) in (float, complex):
            return (type(x), repr(x))  # tells 0.0 from -0.0
        if isinstance(x, types.ModuleType):
            if is_library(x.__name__):
                return x
            raise NoFingerprint
        if _is_global_of_library(x):
            return Same(x)
        if isinstance(x, type):
            return self.type(x)
        if isinstance(x, types.FunctionType):
            return self.function(x, static)
        if type(x) is functools.partial:
            named = tuple((name, self.read(value, static=static)) for name, value in x.keywords.items())
            return ("partial", self.read(x.func, static=static), self.sequence(x.args, static), named)
        if isinstance(x, types.MethodType) and isinstance(x.__self__, eqx.Module):
            return ("method", x.__func__.__qualname__, self.read(x.__self__, static=static))
        if isinstance(x, eqx.Module):
            return self.module(x, static)
        if isinstance(x, tuple | list | dict) and len(x) > MOST_LEAVES:
            raise NoFingerprint
        if type(x) in (tuple, list) or isinstance(x, tuple):
            return (type(x), self.sequence(x, static))
        if type(x) is dict:
            return ("dict", tuple((self.read(k, static=True), self.read(v, static=static)) for k, v in x.items()))
        if isinstance(x, np.dtype | jax.tree_util.PyTreeDef):
            return (type(x), x, repr(x))
        raise NoFingerprint

    def number(self, x: Any) -> int:
        self.kept.append(x)
        return self.numbers.setdefault(id(x), len(self.numbers))

    def sequence(self, items: Any, static: bool) -> tuple:
        return tuple(self.read(item, static=static) for item in items)

    def function(self, f: types.FunctionType, static: bool) -> Any:
        if id(f) in self.numbers:
            return ("function", self.numbers[id(f)])
        number = self.number(f)
        cells = []
        for cell in f.__closure__ or ():
            try:
                cells.append(self.read(cell.cell_contents, static=static))
            except ValueError as error:
                raise NoFingerprint from error
        defaults = self.sequence(f.__defaults__ or (), static)
        keywords = tuple((name, self.read(value, static=static)) for name, value in (f.__kwdefaults__ or {}).items())
        used = tuple((name, self.read(value, static=static)) for name, value in used_globals(f))
        return ("function", number, f.__code__, tuple(cells), defaults, keywords, used)

    def module(self, x: eqx.Module, static: bool) -> tuple:
        fields = []
        for field in dataclasses.fields(x):
            value = getattr(x, field.name, NoFingerprint)
            is_static = static or bool(field.metadata.get("static", False))
            missing = value is NoFingerprint
            fields.append((field.name, None if missing else self.read(value, static=is_static)))
        return ("module", self.type(type(x)), tuple(fields))

    def type(self, cls: type) -> Any:
        """A class with its methods, and what they read."""
        if cls is object or is_library(cls.__module__):
            return Same(cls)
        if not issubclass(cls, eqx.Module):
            raise NoFingerprint
        if id(cls) in self.numbers:
            return ("class", self.numbers[id(cls)])
        number = self.number(cls)
        members = []
        for name in sorted(set(vars(cls)) - _GENERATED):
            member = getattr(cls, name)
            member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if isinstance(member, types.FunctionType | bool | int | float | str | tuple | np.ndarray | jax.Array):
                members.append((name, self.read(member, static=True)))
            elif not name.startswith("__"):
                members.append((name, Same(member)))
        return ("class", number, Same(cls), tuple(members), tuple(self.type(base) for base in cls.__bases__))


def _is_global_of_library(x: Any) -> bool:
    """Whether a function, class or ufunc is what a library has under its name."""
    module = getattr(x, "__module__", None) or getattr(getattr(x, "__self__", None), "__name__", None)
    if not isinstance(module, str) or not is_library(module):
        return False
    found: Any = sys.modules.get(module)
    for part in str(getattr(x, "__qualname__", None) or getattr(x, "__name__", "")).split("."):
        found = getattr(found, part, None)
    return found is x
