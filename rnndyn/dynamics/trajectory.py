"""Running a map."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from rnndyn._arrays import as_array
from rnndyn._programs import Program, as_program, compiled
from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.numerics.newton_in_time import newton_settings, solve_checked

_BLOCK_BYTES = 4 * 2**20
"""States or inputs of a block: enough that starting a program costs nothing beside its steps."""


def trajectory(
    f: Callable[..., Array],
    x0: ArrayLike,
    num_steps: int,
    inputs: ArrayLike | None = None,
    num_transient: int = 0,
    *,
    parallel: bool = False,
) -> Float[Array, "T N"]:
    r"""Iterate $x_{t+1} = F(x_t)$, or $x_{t+1} = F(x_t, u_t)$ when driven.

    Pure: `jit`, `vmap` and `grad` work; the dtype is that of `x0`.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`, or `(N,), (I,) -> (N,)` when `inputs` are given.
    - `x0`: the initial state, shape `(N,)`. It is not part of the result.
    - `num_steps`: how many states to return.
    - `inputs`: what drives the map, `num_transient + num_steps` rows, the transient's first.
    - `num_transient`: how many steps to take and forget before the first state that is returned.
    - `parallel`: solve for all states at once by Newton's method, as `rnndyn.parallel_trajectory` with its defaults
        does; where the orbit is chaotic, or the method does not converge, they are iterated all the same, with a
        warning outside of `jit`. Pays on a GPU, for long sequences of few units; not on a CPU.

    **Returns:** the states, shape `(num_steps, N)`: row 0 is the state one step after the transient.

    Compilation: with plain arrays on a CPU other lengths, transients and networks of one structure share a program.
    Under `jit`, `vmap` and `grad`, and on a GPU, the lengths are part of it, so that there is a reverse mode.

    **Raises:** `ValueError` for a bad state, a map that changes its shape or dtype, or inputs of another length.
    """
    check_state("x0", x0)
    x0 = as_array(x0)
    check_at_least("num_steps", num_steps, 1)
    check_at_least("num_transient", num_transient, 0)
    program, rows = let_in_with_inputs(f, x0, inputs, num_transient + num_steps)
    if parallel:
        guess = jnp.broadcast_to(x0, (num_transient + num_steps, x0.size))
        return solve_checked(program, x0, rows, guess, newton_settings(x0.dtype)).states[num_transient:]
    if _is_plain(program, x0, rows):
        return _in_blocks(program, x0, rows, num_steps, num_transient)
    return _run(program, x0, rows, num_steps, num_transient)


@compiled
def _run(f: Program, x0: Array, rows: Any, num_steps: int, num_transient: int) -> Array:
    def step(x: Array, u: Any) -> Array:
        return f(x) if rows is None else f(x, u)

    transient, kept = (None, None) if rows is None else (rows[:num_transient], rows[num_transient:])
    x, _ = jax.lax.scan(lambda x, u: (step(x, u), None), x0, transient, length=num_transient)

    def record(x: Array, u: Any) -> tuple[Array, Array]:
        x = step(x, u)
        return x, x

    return jax.lax.scan(record, x, kept, length=num_steps)[1]


def _is_plain(f: Program, x0: Array, rows: Any) -> bool:
    """Whether nothing is traced, and all lies on a CPU, whose arrays NumPy cuts and joins without copying them away.

    Keys of random numbers have no form on the host.
    """
    arrays = [leaf for leaf in jax.tree.leaves((f, x0, rows)) if isinstance(leaf, jax.Array)]
    if any(isinstance(leaf, Tracer) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in arrays):
        return False
    return all(device.platform == "cpu" for device in x0.devices())


def _in_blocks(f: Program, x: Array, rows: Any, num_steps: int, num_transient: int) -> Array:
    """The same in blocks of one length, the last of which ends early: other lengths compile nothing.

    The number of steps of a block is an argument of its program, so that it has no reverse mode.
    """
    rows = None if rows is None else np.asarray(rows)
    widths = [x.size] if rows is None else [x.size, int(np.prod(rows.shape[1:], dtype=int))]
    size = 1 << max(4, min(12, (_BLOCK_BYTES // (8 * max(*widths, 1))).bit_length() - 1))
    kept, total = [], num_transient + num_steps
    for start in range(0, total, size):
        num = min(size, total - start)
        block = None
        if rows is not None:
            block = np.zeros((size, *rows.shape[1:]), rows.dtype)
            block[:num] = rows[start : start + num]
        x, states = _block(f, x, block, jax.device_put(np.int32(num)), size)
        if start + num > num_transient:
            kept.append(np.asarray(states)[max(num_transient - start, 0) : num])
    # Not `jnp.asarray`, which compiles a program for each shape of an array without dtype.
    return jax.device_put(np.concatenate(kept) if len(kept) > 1 else kept[0].copy())


@compiled
def _block(f: Program, x: Array, rows: Any, num: Array, size: int) -> tuple[Array, Array]:
    def step(t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, states = carry
        x = f(x) if rows is None else f(x, rows[t])
        return x, states.at[t].set(x)

    return jax.lax.fori_loop(0, num, step, (x, jnp.zeros((size, *x.shape), x.dtype)))


def let_in_with_inputs(
    f: Callable[..., Array], x0: Array, inputs: ArrayLike | None, num_rows: int
) -> tuple[Program, Array | np.ndarray | None]:
    """`f` as a program of the state, or of the state and an input where it is driven; and the checked rows of input."""
    if inputs is None:
        return as_program(f, x0, double=False), None
    # NumPy's stay on the host, where they can be cut without compiling anything; a scan takes them as they are.
    rows = np.asarray(inputs, jnp.result_type(inputs)) if isinstance(inputs, np.ndarray) else jnp.asarray(inputs)
    if rows.ndim == 0 or rows.shape[0] != num_rows:
        raise ValueError(
            f"inputs: expected {num_rows} rows (num_transient + num_steps, the transient's first), "
            f"got shape {np.shape(inputs)}."
        )
    return as_program(f, x0, jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype), double=False), rows
