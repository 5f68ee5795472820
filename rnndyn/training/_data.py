"""Batches that come from the host, stacked into blocks for the device."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BLOCK_BYTES = 32 * 2**20
"""Bytes of batches that are moved to the device at a time."""

_MAX_SHAPES = 64
"""Different shapes of batches in one run; each is a compilation, so more of them are a mistake."""

_MIXED_BLOCK = 8
"""Steps in a block where shapes change, so that few batches in a row are alike."""


class HostBatches:
    """The batches of whatever `iter` takes, one after the other, starting it again where it ends."""

    def __init__(self, batches: Any):
        self._batches = batches
        self._iterator: Iterator[Any] = iter(batches)
        self._num_drawn = 0
        self._structure: Any = None
        self._shapes: set[tuple[str, ...]] = set()
        self._first: Any = self._next()
        self._pending = [self._first]

    @property
    def example(self) -> Any:
        """The first batch, as JAX arrays."""
        return jax.tree.map(to_device, self._first)

    def skip(self, num: int) -> None:
        """Draw `num` batches and drop them: a resumed run starts where the interrupted one stood."""
        for _ in range(num):
            self._peek()
            self._pending.pop()

    def take(self, num: int, largest: int) -> tuple[int, int, Any]:
        """The next batches of one shape, at most `num`.

        **Returns:** how many they are, the size of their block, and the batches, stacked and padded to it along a new
        leading axis. Blocks come in few sizes, since each is a compilation.
        """
        first = self._peek()
        shapes = _shapes(first)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(first))
        largest = max(1, min(largest, BLOCK_BYTES // max(1, size)))
        most = min(num, largest, _MIXED_BLOCK if len(self._shapes) > 1 else largest)
        taken = []
        while len(taken) < most and _shapes(self._peek()) == shapes:
            taken.append(self._pending.pop())
        if len(self._shapes) > 1 and len(taken) <= _MIXED_BLOCK:
            largest = 1 if len(taken) == 1 else min(largest, _MIXED_BLOCK)

        def stack(*leaves: Any) -> Any:
            if _is_keys(leaves[0]):
                return jax.random.wrap_key_data(stack(*(leaf.data for leaf in leaves)), impl=leaves[0].impl)
            block = np.zeros((largest, *leaves[0].shape), leaves[0].dtype)
            np.stack(leaves, out=block[: len(taken)])
            return block

        return len(taken), largest, jax.tree.map(stack, *taken)

    def _peek(self) -> Any:
        if not self._pending:
            self._pending.append(self._next())
        return self._pending[0]

    def _next(self) -> Any:
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._iterator = iter(self._batches)
            try:
                batch = next(self._iterator)
            except StopIteration:
                raise ValueError(
                    f"batches: the iterable gave {self._num_drawn} batches and no more when it was started again. "
                    "Expected one that is not empty and can be iterated anew: a list, a data loader or "
                    "rnndyn.training.Minibatches; a generator runs out."
                ) from None
        batch = jax.tree.map(to_numpy, batch)
        structure = jax.tree.structure(batch)
        if self._structure is None:
            self._structure = structure
        if structure != self._structure:
            raise ValueError(
                f"batches: batch {self._num_drawn} is {structure}, the first was {self._structure}. Expected "
                "one structure throughout."
            )
        self._shapes.add(_shapes(batch))
        if len(self._shapes) > _MAX_SHAPES:
            raise ValueError(
                f"batches: batch {self._num_drawn} has the shapes {list(_shapes(batch))}, the {len(self._shapes)}th "
                "different ones; each is compiled by itself. Pad sequences to few lengths with "
                "rnndyn.training.Buckets, or to one with rnndyn.training.pad_batch."
            )
        self._num_drawn += 1
        return batch


class _Keys:
    """Typed random keys on the host: NumPy cannot hold them, but their data."""

    def __init__(self, keys: jax.Array):
        self.data = np.asarray(jax.random.key_data(keys))
        self.impl = jax.random.key_impl(keys)
        self.shape, self.dtype, self.nbytes = self.data.shape, keys.dtype, self.data.nbytes


def _is_keys(leaf: Any) -> bool:
    return isinstance(leaf, _Keys)


def is_typed_key(leaf: Any) -> bool:
    """Whether `leaf` is an array of `jax.random.key`s."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_numpy(leaf: Any) -> Any:
    """An array of any library as one of NumPy, and typed keys as their data.

    **Raises:** `ValueError` for what is no array of numbers.
    """
    if is_typed_key(leaf):
        return _Keys(leaf)
    if hasattr(leaf, "detach"):  # a tensor of PyTorch, which may be on a GPU and part of a graph
        leaf = leaf.detach().cpu()
    try:
        array = np.asarray(leaf)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"batches: a {type(leaf).__name__} cannot be made a NumPy array ({error}). Convert it before; a PyTorch "
            "tensor in bfloat16 by tensor.float()."
        ) from error
    # bfloat16 and its like are of kind "V" to NumPy.
    if array.dtype.kind in "OUSMm":
        raise ValueError(f"batches: expected arrays of numbers, got a {type(leaf).__name__} of {array.dtype}.")
    return array


def to_device(leaf: Any) -> Any:
    """What `to_numpy` made, as a JAX array."""
    return jax.random.wrap_key_data(leaf.data, impl=leaf.impl) if _is_keys(leaf) else jnp.asarray(leaf)


def _shapes(batch: Any) -> tuple[str, ...]:
    return tuple(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(batch))
