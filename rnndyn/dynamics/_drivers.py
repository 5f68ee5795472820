"""What every driver (`find_*`, `enumerate_*`, ...) shares: float64, chunks that bound memory, progress."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from tqdm.auto import tqdm

MEMORY_BUDGET = 256 * 2**20
"""Bytes that one chunk of candidates may take on the device, intermediate arrays included."""


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Compute in float64 inside the block, whatever the global flag is, on a device that has it.

    A TPU emulates float64 without the accuracy that polished points need, so there the block runs on the host.
    """
    on_host = jax.default_backend() == "tpu"
    device = jax.default_device(jax.local_devices(backend="cpu")[0]) if on_host else contextlib.nullcontext()
    with jax.enable_x64(True), device:
        yield


def to_double(tree: Any) -> Any:
    """`tree` with every real floating-point array leaf as float64 (call inside `double_precision`)."""

    def cast(leaf: Any) -> Any:
        if eqx.is_inexact_array_like(leaf) and not isinstance(leaf, float | complex):
            array = np.asarray(leaf)
            return array if np.iscomplexobj(array) else array.astype(np.float64)
        return leaf

    return jax.tree.map(cast, tree)


def map_in_chunks(
    function: Callable[..., Any],
    batch: Any,
    *,
    bytes_per_item: int,
    description: str,
    progress: bool = True,
    least_size: int = 32,
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
    - `padding`: what padded items hold; by default they repeat the last item.

    **Returns:** the results as NumPy arrays with leading axis K.

    Chunks have one size, a power of two, the last one padded: one compilation serves every chunk and most calls.
    """
    num_items = jax.tree.leaves(batch)[0].shape[0]
    fitting = _floor_power_of_two(max(1, MEMORY_BUDGET // max(1, bytes_per_item)))
    # Padding must stay cheap: a sixteenth of the budget at the most.
    chunk = min(fitting, max(_ceil_power_of_two(num_items), min(_ceil_power_of_two(least_size), max(1, fitting // 16))))
    starts = range(0, num_items, chunk)
    results = []
    for start in tqdm(starts, desc=description, delay=2.0, leave=False, disable=None if progress else True):
        stop = min(start + chunk, num_items)
        part = jax.tree.map(lambda a, s=start, e=stop: _pad(np.asarray(a[s:e]), chunk, padding), batch)
        out = jax.device_get(function(part))
        results.append(jax.tree.map(lambda a, n=stop - start: np.asarray(a)[:n], out))
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
