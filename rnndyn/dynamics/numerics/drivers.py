"""What every driver (`find_*`, `enumerate_*`, ...) shares: float64, chunks that bound memory, lanes, progress."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from rnndyn._programs import Program, as_program
from rnndyn.dynamics.numerics.devices import deal, num_devices, use_devices
from rnndyn.dynamics.numerics.threads import one_blas_thread, one_program_at_a_time

MEMORY_BUDGET = 256 * 2**20
"""Bytes that one chunk of candidates may take on the device, intermediate arrays included."""


@contextlib.contextmanager
def double_precision(devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None) -> Iterator[None]:
    """Compute in float64 inside the block, whatever the global flag is, on a device that has it.

    With `devices` the batches of the block are dealt out to them (see `devices`); without, as around the block.

    A TPU emulates float64 without the accuracy that polished points need, so there the block runs on the host. On a
    host BLAS keeps to one thread, and drivers in several Python threads take turns (see `threads`).
    """
    on_host = jax.default_backend() == "tpu"
    device = jax.default_device(jax.local_devices(backend="cpu")[0]) if on_host else contextlib.nullcontext()
    with contextlib.ExitStack() as stack:
        if on_host or jax.default_backend() == "cpu":
            stack.enter_context(one_program_at_a_time())
            stack.enter_context(one_blas_thread())
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(device)
        stack.enter_context(use_devices(devices))
        yield


def to_double(tree: Any) -> Any:
    """`tree` with every real floating-point array leaf as float64 (call inside `double_precision`)."""

    def cast(leaf: Any) -> Any:
        if eqx.is_inexact_array_like(leaf) and not isinstance(leaf, float | complex):
            array = np.asarray(leaf)
            return array if np.iscomplexobj(array) else array.astype(np.float64)
        return leaf

    return jax.tree.map(cast, tree)


FACTS = ("region", "period", "dt")
"""What a map may say of itself, as attributes: the box it takes into itself, which coordinates are angles, its time."""


def let_in(f: Callable, *args: Any, name: str = "f") -> Program:
    """The map that a user gave as a float64 program, checked, with what it says of itself (`FACTS`).

    Call it inside `double_precision`, with arguments of the shapes that `f` will be called on, the state first.
    """
    program = as_program(f, *args, double=True, name=name)
    if isinstance(f, Program):
        return program
    doubled = to_double(f)
    said = {fact: getattr(doubled, fact, None) for fact in FACTS}
    facts = {fact: jax.tree.map(np.asarray, value) for fact, value in said.items() if value is not None}
    return Program(program.constants, program.code, facts)


def map_in_chunks(
    function: Callable[..., Any],
    batch: Any,
    *,
    bytes_per_item: int,
    description: str,
    progress: bool = True,
    least_size: int = 32,
    most_size: int | None = None,
    padding: float | None = None,
) -> Any:
    """Apply a batched `function` to `batch` chunk by chunk.

    **Arguments:**

    - `function`: takes a tree of arrays with a leading axis, returns a tree of arrays with that leading axis.
    - `batch`: the tree of arrays, all with the same leading axis K.
    - `bytes_per_item`: what one item needs on the device; sets the chunk size from `MEMORY_BUDGET`.
    - `description`: the label of the progress bar, which appears when the work takes longer than two seconds.
    - `progress`: whether to show one at all.
    - `least_size`: smaller batches are padded to this size where that costs little memory.
    - `most_size`: larger ones are cut into chunks of this size. Equal to `least_size`, every call shares one
        compilation, however many items it has.
    - `padding`: what padded items hold; by default they repeat the last item.

    **Returns:** the results as NumPy arrays with leading axis K.

    Chunks have one size, a power of two, the last one padded: one compilation serves every chunk and most calls. Inside
    of `double_precision(devices)` every device gets chunks of its own, and the budget is that of each.
    """
    num_items = jax.tree.leaves(batch)[0].shape[0]
    num_each = -(-num_items // num_devices())
    fitting = _floor_power_of_two(max(1, MEMORY_BUDGET // max(1, bytes_per_item)))
    # Padding must stay cheap: a sixteenth of the budget at the most.
    chunk = min(fitting, max(_ceil_power_of_two(num_each), min(_ceil_power_of_two(least_size), max(1, fitting // 16))))
    if most_size is not None:
        chunk = min(chunk, _ceil_power_of_two(most_size))
    turn = chunk * num_devices()
    results: list[Any] = []
    for first in tqdm(
        range(0, num_items, turn), desc=description, delay=2.0, leave=False, disable=None if progress else True
    ):
        sizes = [min(chunk, num_items - start) for start in range(first, min(first + turn, num_items), chunk)]
        parts = [
            jax.tree.map(lambda a, s=first + i * chunk, n=n: _pad(np.asarray(a[s : s + n]), chunk, padding), batch)
            for i, n in enumerate(sizes)
        ]
        for out, n in zip(deal(function, parts), sizes):
            results.append(jax.tree.map(lambda a, n=n: np.asarray(a)[:n], out))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def _pad(array: np.ndarray, size: int, padding: float | None) -> np.ndarray:
    missing = size - array.shape[0]
    if missing == 0:
        return array
    tail = np.repeat(array[-1:], missing, axis=0)
    return np.concatenate([array, tail if padding is None else np.full_like(tail, padding)])


def _floor_power_of_two(n: int) -> int:
    return 1 << (n.bit_length() - 1)


def _ceil_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def run_in_lanes(
    init: Callable[[Any], Any],
    step: Callable[[Any], Any],
    done: Callable[[Any], Any],
    items: Any,
    num_lanes: int,
) -> Any:
    """Run `while not done: step` from `init(item)` for every item, `num_lanes` of them at a time.

    A batched `while_loop` runs until its slowest member is done. Here a lane that is done stores its state and takes
    up the next item, so the work is the sum of the steps and not the number of items times the longest.

    **Arguments:**

    - `init`, `step`, `done`: for one item; `init(item) -> state`, `step(state) -> state`, `done(state) -> bool`.
    - `items`: a tree of arrays with a leading axis K.
    - `num_lanes`: how many to run at once.

    **Returns:** the final states, a tree with leading axis K, in the order of the items.
    """
    num_items = jax.tree.leaves(items)[0].shape[0]
    num_lanes = min(num_lanes, num_items)

    def take(index: Any) -> Any:
        return jax.tree.map(lambda a: a[index], items)

    def where(mask: Any, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old)

    def advance(carry: Any) -> Any:
        states, item, next_item, results = carry
        finished = jax.vmap(done)(states)
        # Lanes whose items ran out hold an index past the end, and scatter nothing.
        slot = jnp.where(finished, item, num_items)
        results = jax.tree.map(lambda a, s: a.at[slot].set(s, mode="drop"), results, states)
        rank = jnp.cumsum(finished) - 1
        new_item = jnp.where(finished, jnp.minimum(next_item + rank, num_items), item)
        next_item = jnp.minimum(next_item + jnp.sum(finished), num_items)
        fresh = jax.vmap(init)(take(jnp.minimum(new_item, num_items - 1)))
        states = where(finished, fresh, states)
        stepped = jax.vmap(step)(states)
        # A fresh state may be done at once; it then keeps still until the next round stores it.
        states = where(jax.vmap(done)(states), states, stepped)
        return states, new_item, next_item, results

    first = jax.vmap(init)(take(jnp.arange(num_lanes)))
    shape = jax.eval_shape(jax.vmap(init), items)
    results = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    carry = (first, jnp.arange(num_lanes), jnp.asarray(num_lanes), results)
    *_, results = jax.lax.while_loop(lambda c: jnp.any(c[1] < num_items), advance, carry)
    return results
