"""A callable as a program and its constants."""

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from rnndyn._programs.capture import captured_arrays, exchange, holds_torch
from rnndyn._programs.compiling import compiled
from rnndyn._programs.fingerprint import NoFingerprint, fingerprint
from rnndyn._programs.hoisting import ambient_context, evaluate, hoist
from rnndyn._programs.plain_forms import in_plain_form
from rnndyn._programs.precision import narrowing
from rnndyn._programs.recent import Recent
from rnndyn._programs.structure import structural_key
from rnndyn._tracing import read_by_analyses


def as_program(f: Callable, *args: Any, double: bool, name: str = "f", keeps_state: bool = True) -> "Program":
    """What the user gave, as a program (one for all callables that are alike) and its constants.

    **Arguments:**

    - `f`: a function, closure, lambda, `functools.partial`, bound method, `equinox.Module`, or an object with
        `__call__`.
    - `args`: arrays, or trees of arrays, of the shapes and dtypes that it will be called on. Only shapes are used.
    - `double`: whether to compute in float64, as drivers do; call it inside `double_precision()` then. Floating-point
        arguments count as float64 and the arrays that `f` holds are lifted to float64, exactly, before anything is
        computed from them: the program is the float64 extension of `f`. Otherwise dtypes are those that JAX gives.
    - `name`: the name of the argument in messages.
    - `keeps_state`: whether to require that the result has the shape and dtype of the first argument.

    **Returns:** a `Program`. Under `jit`, `vmap` and `grad`, arrays that `f` holds may be tracers; they are leaves of
    the program, so derivatives with respect to them flow.

    **Raises:** `ValueError` when calling `f` fails, when the result does not fit the state, when `f` uses NumPy
    functions on its argument or holds torch tensors, and, with `double`, when it computes in float32 by itself.

    The arrays that `f` holds (closure, globals, fields, bound arguments) are inputs of the trace; where the trace needs
    their numbers (`if w[0] > 0`) they are constants of it, and leaves afterwards. Other constants and floating-point
    literals become leaves as well, but for 0, 1/2, 1 and 2. A trace is saved where all that enters it can be told from
    a look at `f`; else `f` is traced at every call of this function. Nothing depends on what was traced before.
    """
    if double and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise RuntimeError("double: call as_program inside double_precision().")
    structs = jax.tree.map(lambda a: _struct(a, double), args)
    if isinstance(f, Program) and f.code.fits(structs):
        return f
    try:
        arrays = captured_arrays(f)
        key = _trace_key(f, arrays, structs, double)
        cached = None if key is None else _traces.get(key)
        if cached is None:
            code, numbers, held = _traced(f, arrays, structs, double)
            if key is not None and held and _may_be_kept(numbers):
                _traces.put(key, (code, numbers))
        else:
            (code, numbers), held = cached, True
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            f"{name}: it applies a NumPy function to its argument, which JAX cannot trace. Write it with jax.numpy "
            "in place of numpy."
        ) from error
    except (TypeError, ValueError) as error:
        if holds_torch(f):
            raise ValueError(
                f"{name}: it holds a torch tensor, which JAX cannot trace ({error}). Take tensor.detach().numpy(), or "
                "the whole network."
            ) from error
        shapes = ", ".join(str(s.shape) for s in jax.tree.leaves(structs))
        raise ValueError(
            f"{name}: calling it on a state of shape {shapes} failed: {error}. Expected a function of one state (N,)."
        ) from error
    if keeps_state:
        _check_state_kept(code, name)
    if double and code.narrower is not None:
        raise ValueError(
            f"{name}: computes in {code.narrower} by itself (it converts numbers that depend on its argument), and "
            f"this analysis needs float64. Convert to x.dtype inside {name}, or not at all."
        )
    lifts = [False] * len(numbers) + [double] * len(arrays)
    constants = [*numbers, *(arrays if held else [])]
    return Program(tuple(_leaf(constants[i], lifts[i]) for i in code.used), code)


class Program(eqx.Module):
    """A traced function: its constants are leaves, its equations a static field, equal where the equations are.

    Within `jax.shard_map`, pass `check_vma=False`: equations traced outside do not know the mesh.
    """

    constants: tuple[Any, ...]
    code: "Code" = eqx.field(static=True)
    facts: dict[str, Any] = eqx.field(default_factory=dict)
    """What the callable says of itself besides its values, as leaves: its `region`, for instance."""

    @property
    def region(self) -> Any:
        """The box `(lower, upper)` that the map takes into itself, or `None`."""
        return self.facts.get("region")

    @property
    def period(self) -> Any:
        """The periods of the coordinates that are angles, or `None`."""
        return self.facts.get("period")

    @property
    def dt(self) -> Any:
        """The time that one step takes, or `None`."""
        return self.facts.get("dt")

    def __call__(self, *args: Any) -> Any:
        return self.code(self.constants, args)


class Code:
    """The equations of a program; hashable and compared by structure."""

    def __init__(self, jaxpr: Any, num_constants: int, in_tree: Any, out_tree: Any, ambient: Any, key: Any) -> None:
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        self.jaxpr = inner
        self.in_avals = [v.aval for v in inner.invars[num_constants:]]
        # An object may hold much that its call does not read.
        read = {v for eqn in inner.eqns for v in eqn.invars if not isinstance(v, jex.Literal)}
        read |= {v for v in inner.outvars if not isinstance(v, jex.Literal)}
        self.used = [i for i, v in enumerate(inner.invars[:num_constants]) if v in read]
        self.inputs = [inner.invars[i] for i in self.used] + list(inner.invars[num_constants:])
        self.constant_avals = [inner.invars[i].aval for i in self.used]
        self.out_avals = [v.aval for v in inner.outvars]
        self.in_tree, self.out_tree = in_tree, out_tree
        self.ambient = ambient
        self.key = key
        self.narrower = narrowing(jaxpr, [False] * num_constants + [True] * len(self.in_avals))
        self._hash = hash(key)

    def fits(self, structs: tuple) -> bool:
        """Whether this is the program for arguments of these shapes and dtypes, and keeps the first."""
        leaves, tree = jax.tree.flatten(structs)
        kept = [(v.shape, v.dtype) for v in self.out_avals] == [(v.shape, v.dtype) for v in self.in_avals[:1]]
        same = [(v.shape, v.dtype) for v in self.in_avals] == [(s.shape, s.dtype) for s in leaves]
        return kept and same and tree == self.in_tree

    def __call__(self, constants: Sequence[Any], args: tuple) -> Any:
        leaves, tree = jax.tree.flatten(args)
        if tree != self.in_tree:
            raise ValueError(f"program: traced for arguments {self.in_tree}, called with {tree}.")
        leaves = [_fit(leaf, aval) for leaf, aval in zip(leaves, self.in_avals)]
        values = [_fit(leaf, aval) for leaf, aval in zip(constants, self.constant_avals)]
        operands = [*values, *leaves]
        # Evaluated outside of any trace, every equation would be compiled as a program of its own.
        is_traced = any(isinstance(x, jax.core.Tracer) for x in operands)
        out = self.run(operands) if is_traced else _run_outside(self, operands)
        return jax.tree.unflatten(self.out_tree, out)

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """The leaves of the result, of constants and leaves of arguments that fit."""
        return [jnp.asarray(x) for x in evaluate(self.jaxpr, self.inputs, operands, self.ambient)]

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Code) and self._hash == other._hash and self.key == other.key)


@compiled
def _run_outside(code: Code, operands: list[Any]) -> list[Any]:
    return code.run(operands)


def _fit(x: Any, aval: Any) -> Any:
    if not isinstance(x, jax.Array) or x.dtype != aval.dtype:
        x = jnp.asarray(x, aval.dtype)
    if x.shape != aval.shape:
        raise ValueError(f"program: traced for an argument of shape {aval.shape}, called with {x.shape}.")
    return x


def _struct(a: Any, double: bool) -> jax.ShapeDtypeStruct:
    dtype = a.dtype if hasattr(a, "dtype") else jnp.result_type(a)
    if jnp.issubdtype(dtype, jax.dtypes.extended):  # keys of random numbers
        return jax.ShapeDtypeStruct(np.shape(a), dtype)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if double and jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else jnp.float64
    weak = not double and getattr(a, "weak_type", False)
    return jax.ShapeDtypeStruct(np.shape(a), dtype, weak_type=weak)


def _traced(f: Callable, arrays: list[Any], structs: tuple, double: bool) -> tuple["Code", list[Any], bool]:
    """`(code, numbers, held)`: the program, the values of its own constants, and whether `arrays` are its inputs."""
    held = [_struct(a, double) for a in arrays]

    def with_inputs(values: list[Any], args: tuple) -> Any:
        known = {id(a): value for a, value in zip(arrays, values)}
        return exchange(f, lambda a: known[id(a)] if id(a) in known else _copy(a, double))(*args)

    def with_constants(values: list[Any], args: tuple) -> Any:
        return exchange(f, lambda a: _copy(a, double))(*args)

    try:
        with read_by_analyses():
            closed, out = jax.make_jaxpr(with_inputs, return_shape=True)(held, structs)
    except Exception:  # it may need the numbers themselves; if not, the same error comes again
        if not arrays:
            raise
        held = []
        with read_by_analyses():
            closed, out = jax.make_jaxpr(with_constants, return_shape=True)(held, structs)
    closed, numbers = hoist(in_plain_form(closed))
    in_tree, out_tree = jax.tree.structure(structs), jax.tree.structure(out)
    key = (structural_key(closed), in_tree, out_tree, len(held), _settings())
    with _lock:
        code = _codes.get(key)
        if code is None:
            num_constants = len(numbers) + len(held)
            code = Code(closed, num_constants, in_tree, out_tree, ambient_context(), key)
            _codes[key] = code
    return code, numbers, bool(held) or not arrays


def _trace_key(f: Callable, arrays: list[Any], structs: tuple, double: bool) -> Any:
    """What the trace of `f` follows from, or `None`."""
    try:
        description, found = fingerprint(f)
    except NoFingerprint:
        return None
    if [id(a) for a in found] != [id(a) for a in arrays]:
        return None
    leaves, tree = jax.tree.flatten(structs)
    avals = tuple((s.shape, s.dtype, s.weak_type) for s in leaves)
    key = (description, avals, tree, double, _settings())
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _may_be_kept(numbers: list[Any]) -> bool:
    """Whether the constants of a trace may be kept with it: all that enters it is in its key, so they follow too."""
    return not any(isinstance(n, jax.core.Tracer) for n in numbers) and sum(n.nbytes for n in numbers) <= _MOST_BYTES


def _settings() -> tuple:
    """The settings of JAX that enter a trace."""
    names = ("enable_x64", "default_matmul_precision", "numpy_dtype_promotion", "numpy_rank_promotion")
    return tuple(getattr(jax.config, f"jax_{name}") for name in names)


def _target(a: Any, double: bool) -> Any:
    return _struct(a, double).dtype


def _leaf(a: Any, double: bool) -> Any:
    """An array of the callable as a leaf of its program."""
    dtype = _target(a, double)
    if isinstance(a, jax.core.Tracer) or (isinstance(a, jax.Array) and a.dtype == dtype):
        return a if a.dtype == dtype else a.astype(dtype)
    # A copy, so that JAX remembers nothing under the user's array; and without its dtype said again JAX compiles a
    # program for every shape.
    return jnp.asarray(np.array(a, dtype), dtype)


def _copy(a: Any, double: bool) -> Any:
    """An array as a constant of a trace, in place of the user's (see `capture`)."""
    if isinstance(a, jax.Array):
        return _leaf(a, double) if double and jnp.issubdtype(a.dtype, jnp.inexact) else a
    if isinstance(a, np.generic) or a.dtype.hasobject:
        return a
    return np.array(a, _target(a, True) if double and jnp.issubdtype(a.dtype, jnp.inexact) else a.dtype)


def _check_state_kept(code: Code, name: str) -> None:
    state = code.in_avals[0]
    if not jax.tree_util.treedef_is_leaf(code.out_tree):
        raise ValueError(
            f"{name}: expected one array of shape {state.shape}, got {code.out_tree.num_leaves} in {code.out_tree}. A "
            "cell whose state is a tuple becomes a map on a flat state with rnndyn.as_map(cell, input)."
        )
    (out,) = code.out_avals
    if out.shape != state.shape:
        raise ValueError(f"{name}: expected it to keep the shape {state.shape} of its state, got {out.shape}.")
    if out.dtype != state.dtype and code.narrower is None:
        raise ValueError(
            f"{name}: expected it to keep the dtype {state.dtype} of its state, got {out.dtype}. Cast inside {name}."
        )


_MOST_BYTES = 2**16  # of numbers that are kept with a trace
_traces = Recent(256)
_codes: "weakref.WeakValueDictionary[Any, Code]" = weakref.WeakValueDictionary()
_lock = threading.Lock()
