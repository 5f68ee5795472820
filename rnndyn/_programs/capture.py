"""The arrays that a callable holds: in its closure, its globals, its fields, its bound arguments.

A callable is opened, its arrays are exchanged and it is put together again, so that they become inputs of its trace.
JAX would otherwise see them as constants, and its canonical form of a NumPy constant is remembered under the array for
as long as any cached trace holds it, whatever the x64 flag is by then: an array that was traced as float32 is float32
in a later float64 trace (and the other way round), with the wrong numbers or a program that does not compile.
"""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

LIBRARIES = frozenset(
    "jax jaxlib numpy scipy equinox diffrax optimistix lineax optax jaxtyping beartype rnndyn "
    "functools math operator builtins typing types collections dataclasses".split()
)
"""Packages whose functions do not change while a program runs, and hold no arrays of the user in their globals."""

MOST_LEAVES = 1000
"""A longer list or dictionary is data, not weights; it is not opened."""

_JITTED = type(jax.jit(lambda: None))


def is_library(module: str | None) -> bool:
    """Whether a module, by its dotted name, belongs to a library."""
    return module is not None and module.partition(".")[0] in LIBRARIES


def is_real_array(x: Any) -> bool:
    """Whether `x` is an array, or a NumPy number, of a floating-point or complex dtype."""
    return isinstance(x, np.ndarray | np.inexact | jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)


def captured_arrays(f: Callable) -> list[Any]:
    """The floating-point arrays that a callable holds, each once, in the order in which they are met."""
    found: dict[int, Any] = {}

    def collect(array: Any) -> Any:
        if is_real_array(array):
            found.setdefault(id(array), array)
        return array

    exchange(f, collect)
    return list(found.values())


def exchange(f: Any, replace: Callable[[Any], Any]) -> Any:
    """`f` with `replace(a)` for every array `a` that it holds; `f` itself where nothing changes."""
    return _Exchange(replace)(f)


def holds_torch(f: Callable) -> bool:
    """Whether a callable holds a torch tensor, which no trace can read."""
    search = _Exchange(lambda a: a)
    search(f)
    return search.torch


class _Exchange:
    def __init__(self, replace: Callable[[Any], Any]) -> None:
        self.replace = replace
        self.torch = False
        # What was met, and what became of it. Holding the originals keeps their ids from being used again.
        self.done: dict[int, tuple[Any, Any]] = {}

    def __call__(self, x: Any) -> Any:
        if id(x) in self.done:
            return self.done[id(x)][1]
        self.done[id(x)] = (x, x)  # what refers to itself finds the original there
        new = self._open(x)
        self.done[id(x)] = (x, new)
        return new

    def _open(self, x: Any) -> Any:
        if isinstance(x, np.ndarray | np.inexact | jax.Array):
            return self.replace(x)
        if x is None or isinstance(x, type | types.ModuleType | str | bytes | int | float | complex):
            return x
        if type(x).__module__.partition(".")[0] == "torch":
            self.torch = self.torch or type(x).__name__ in ("Tensor", "Parameter")
            return x
        if isinstance(x, functools.partial) and type(x) is functools.partial:
            return self._partial(x)
        if isinstance(x, types.MethodType):
            function, owner = self(x.__func__), self(x.__self__)
            return x if function is x.__func__ and owner is x.__self__ else types.MethodType(function, owner)
        if isinstance(x, types.FunctionType):
            return self._function(x)
        if isinstance(x, _JITTED):
            wrapped = getattr(x, "__wrapped__")  # noqa: B009
            inner = self(wrapped)
            return x if inner is wrapped else inner
        if not jax.tree_util.all_leaves([x]):
            leaves, structure = jax.tree.flatten(x, is_leaf=lambda y: y is not x and isinstance(y, eqx.Module))
            if len(leaves) > MOST_LEAVES:
                return x
            new = [self(leaf) for leaf in leaves]
            unchanged = all(a is b for a, b in zip(leaves, new))
            return x if unchanged else jax.tree.unflatten(structure, new)
        return self._instance(x)

    def _partial(self, x: functools.partial) -> functools.partial:
        old = (x.func, *x.args, *x.keywords.values())
        new = [self(part) for part in old]
        if all(a is b for a, b in zip(old, new)):
            return x
        count = 1 + len(x.args)
        return functools.partial(new[0], *new[1:count], **dict(zip(x.keywords, new[count:])))

    def _function(self, f: types.FunctionType) -> types.FunctionType:
        cells = f.__closure__ or ()
        new_cells = tuple(self._cell(cell) for cell in cells)
        defaults = None if f.__defaults__ is None else tuple(self(value) for value in f.__defaults__)
        keywords = {name: self(value) for name, value in (f.__kwdefaults__ or {}).items()}
        used = {name: (value, self(value)) for name, value in used_globals(f)}
        new_globals = {name: new for name, (old, new) in used.items() if new is not old}
        same = all(a is b for a, b in zip(cells, new_cells))
        same = same and all(a is b for a, b in zip(f.__defaults__ or (), defaults or ()))
        same = same and all(keywords[name] is value for name, value in (f.__kwdefaults__ or {}).items())
        if same and not new_globals:
            return f
        scope = {**f.__globals__, **new_globals} if new_globals else f.__globals__
        new = types.FunctionType(f.__code__, scope, f.__name__, defaults, new_cells)
        new.__kwdefaults__ = keywords or None
        new.__dict__.update(f.__dict__)
        return new

    def _cell(self, cell: types.CellType) -> types.CellType:
        try:
            old = cell.cell_contents
        except ValueError:  # a name that is not bound yet
            return cell
        new = self(old)
        return cell if new is old else types.CellType(new)

    def _instance(self, x: Any) -> Any:
        """An object of a class of the user that keeps its numbers as attributes."""
        attributes = getattr(x, "__dict__", None)
        if not attributes or is_library(type(x).__module__):
            return x
        new = {name: self(value) for name, value in attributes.items()}
        if all(new[name] is value for name, value in attributes.items()):
            return x
        try:
            copy = object.__new__(type(x))
        except TypeError:  # a class with a constructor in C: left as it is
            return x
        copy.__dict__.update(new)
        return copy


def used_globals(f: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The global names that a function of the user may read, with their values."""
    if is_library(f.__globals__.get("__name__")):
        return
    for name in sorted(_names(f.__code__)):
        if name in f.__globals__:
            yield name, f.__globals__[name]


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> frozenset[str]:
    inner = [_names(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    return frozenset(code.co_names).union(*inner)
