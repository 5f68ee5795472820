"""`compiled`: what `equinox.filter_jit` does, with a bounded memory, so that a process may live as long as it likes.

JAX keeps what it compiled for as long as the function object lives, and Equinox keeps that object for ever. Every
executable holds memory maps, 5 to 300 of them, and Linux allows a process 65 530: past that LLVM cannot allocate and
the process dies. Here every signature has a function object of its own, in one memory of the most recently used;
dropping the object is what frees its executable.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.core

from rnndyn._programs.recent import Recent

MOST_PROGRAMS = 256
"""Compiled programs that are kept: all drivers on four or five structures, about 10 000 memory maps and 1 GB."""

_MAPS_CHECKED_EVERY = 16

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """`function`, compiled once for all arguments that differ in the numbers of their arrays only.

    Arrays anywhere in the arguments are inputs; everything else is static and has to be hashable. Works under `jit`,
    `vmap` and `grad`. Waits for the result, and raises what `equinox.error_if` says, as `equinox.filter_jit` does.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        is_input = [eqx.is_array(leaf) for leaf in leaves]
        arrays = [leaf for leaf, given in zip(leaves, is_input) if given]
        statics = tuple((type(leaf), leaf) for leaf, given in zip(leaves, is_input) if not given)
        key = (function, tree, tuple(is_input), statics, tuple((a.shape, a.dtype) for a in arrays))
        jitted = _kept.get(key)
        if jitted is None:
            _make_room(arrays)
            jitted = _kept.put(key, _jitted(function, tree, is_input, [leaf for _, leaf in statics]))
        try:
            out, rest = jitted(arrays)
            if not any(isinstance(a, jax.core.Tracer) for a in out):
                jax.block_until_ready(out)
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if "_EquinoxRuntimeError: " in str(error):
                return eqx.filter_jit(function)(*args, **kwargs)  # fails the same way, and tells it better
            raise
        return rest.join(out)

    return call  # pyright: ignore[reportReturnType]


def _jitted(function: Callable, tree: Any, is_input: list[bool], statics: list[Any]) -> Callable:
    def run(arrays: list[Any]) -> tuple[list[Any], _Rest]:
        given, fixed = iter(arrays), iter(statics)
        args, kwargs = jax.tree.unflatten(tree, [next(given) if taken else next(fixed) for taken in is_input])
        leaves, out_tree = jax.tree.flatten(function(*args, **kwargs))
        kinds = tuple(eqx.is_array(leaf) for leaf in leaves)
        rest = tuple(leaf for leaf, kind in zip(leaves, kinds) if not kind)
        return [leaf for leaf, kind in zip(leaves, kinds) if kind], _Rest(out_tree, kinds, rest)

    run.__name__ = run.__qualname__ = getattr(function, "__name__", "function")
    return jax.jit(run)


@jax.tree_util.register_static
class _Rest:
    """What a result is besides its arrays; part of the tree that `jit` remembers, no array itself.

    No `eqx.Module`, whose methods are made anew each time they are looked up: a quarter of what a small call takes.
    """

    def __init__(self, tree: Any, kinds: tuple[bool, ...], statics: tuple[Any, ...]) -> None:
        self.tree, self.kinds, self.statics = tree, kinds, statics

    def __hash__(self) -> int:
        return hash((self.tree, self.kinds, self.statics))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest) and (self.tree, self.kinds, self.statics) == (
            other.tree,
            other.kinds,
            other.statics,
        )

    def join(self, arrays: list[Any]) -> Any:
        """The result with these arrays."""
        given, fixed = iter(arrays), iter(self.statics)
        return jax.tree.unflatten(self.tree, [next(given) if kind else next(fixed) for kind in self.kinds])


_kept = Recent(MOST_PROGRAMS)
_misses = 0


def _make_room(arrays: list[Any]) -> None:
    """Before a compilation: free the older programs where the process has used up much of its memory maps."""
    global _misses
    _misses += 1
    if _misses % _MAPS_CHECKED_EVERY:
        return
    limit = _most_maps()
    if limit is None or num_maps() < limit / 4:
        return
    _kept.shrink(len(_kept) // 2)
    # What is left are the programs of others: single operations on arrays of many shapes, the user's own functions.
    # Compiling those again costs less than the process. Not in the middle of a trace, which may hold on to them.
    if num_maps() > limit / 2 and not any(isinstance(a, jax.core.Tracer) for a in arrays):
        _kept.shrink(0)
        jax.clear_caches()


def num_maps() -> int:
    """How many memory maps this process has; 0 where the system does not say."""
    if not sys.platform.startswith("linux"):
        return 0
    with open("/proc/self/maps", "rb") as maps:
        return sum(1 for _ in maps)


@functools.cache
def _most_maps() -> int | None:
    try:
        with open("/proc/sys/vm/max_map_count") as file:
            return int(file.read())
    except OSError:  # another system, which has no such limit
        return None
