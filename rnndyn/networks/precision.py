"""The precision in which a network runs: one rule for every way to run it.

1. JAX's promotion of the weights, the state and the inputs decides. float32 weights with float64 inputs run in float64
   (where the x64 flag is on), bfloat16 weights with float32 inputs in float32, float16 with bfloat16 in float32.
   Integers and booleans among inputs and weights never decide: integer inputs of a float16 network run in float16.
2. The state is promoted once, before any loop, to what the cell makes of it (`check_transition`), and keeps it. A state
   of integers is refused: nobody runs a network on them on purpose.
3. What a network starts with by itself does not decide: the zero state has the dtype of the weights, the zero input is
   weakly typed (`zero_input`).
4. `as_map` and `step_jacobian` compute like one step. A map that gives a state of a wider dtype than it got is
   refused by every analysis in one line ("expected it to keep the dtype").
5. What is given stays what it is. float64 NumPy arrays and Python floats stay NumPy arrays of float64 inside cells and
   maps where JAX could not hold them (the x64 flag off): drivers (`find_*` and their kin) switch x64 on and compute
   with all of their digits. In a pure function outside of that they are float32, as JAX takes them.
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Numbers = Any
"""Whatever NumPy reads as an array of numbers: arrays, nested lists, tensors of other libraries (`__array__`)."""

_DOUBLE = np.zeros((), np.float64)


def widest(*dtypes: Any) -> Any:
    """The dtype in which all of these meet, also where the user has JAX refuse to promote without being told."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def as_leaf(name: str, value: Any, integers_as: Any = None) -> Array | np.ndarray:
    """`value` as a floating-point array to keep in a module: nothing of its precision is lost.

    Takes whatever NumPy can read: arrays, nested lists, and arrays of other libraries with `__array__`. JAX arrays come
    back as they are. Integers and booleans take the dtype `integers_as`, JAX's default float when it is not given.

    **Raises:** `ValueError` for what is no array of real numbers.
    """
    array = value if isinstance(value, jax.Array) else _as_numpy(name, value)
    if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == jnp.bool_:
        return jnp.asarray(array, jnp.result_type(float) if integers_as is None else integers_as)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name}: expected real numbers, got {array.dtype}.")
    if isinstance(array, jax.Array) or (array.dtype == np.float64 and not has_float64()):
        return array
    return jnp.asarray(array, array.dtype)  # not without it: JAX then compiles a program for every shape


def as_leaves(values: dict[str, Any]) -> dict[str, Array | np.ndarray]:
    """All of `values` as `as_leaf` gives them, in the one dtype that they promote to."""
    leaves = {name: as_leaf(name, value) for name, value in values.items()}
    if any(leaf.dtype == np.float64 for leaf in leaves.values()) and not has_float64():
        # Tracers cannot leave JAX; they are float32 here, whatever they meet.
        return {
            name: leaf if isinstance(leaf, jax.core.Tracer) else np.asarray(leaf, np.float64)
            for name, leaf in leaves.items()
        }
    dtype = jnp.result_type(*leaves.values())
    return {name: jnp.asarray(leaf, dtype) for name, leaf in leaves.items()}


def zero_input(size: int) -> Array:
    """An input of zeros that takes the dtype of whatever it meets, like the Python number 0.0."""
    return jnp.broadcast_to(0.0, (size,))


def has_float64() -> bool:
    """Whether JAX computes in float64 now."""
    return jnp.result_type(_DOUBLE) == np.float64


def _as_numpy(name: str, value: Any) -> np.ndarray:
    # Tensors of torch: one that is trained, or on a GPU, does not turn into NumPy by itself.
    for method in ("detach", "cpu"):
        value = getattr(value, method)() if callable(getattr(value, method, None)) else value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: NumPy cannot read this {type(value).__name__}: {error}. Pass a NumPy array of float32 or float64."
        ) from error
    if array.dtype == object:
        raise ValueError(f"{name}: expected an array of numbers, got a {type(value).__name__} of mixed items.")
    return array
