"""Batches that come from the host, stacked into blocks for the device."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BLOCK_BYTES = 32 * 2**20
"""Bytes of batches that are moved to the device at a time."""


class HostBatches:
    """The batches of an iterable, one after the other, starting it again where it ends."""

    def __init__(self, batches: Iterable[Any]):
        self._batches = batches
        self._iterator: Iterator[Any] = iter(batches)
        self._num_drawn = 0
        self._first: Any = None
        self._first = self._next()
        self._pending = [self._first]

    @property
    def example(self) -> Any:
        """The first batch, as JAX arrays."""
        return jax.tree.map(jnp.asarray, self._first)

    def max_block(self, largest: int) -> int:
        """How many batches fit into a block, at most `largest`."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self._first))
        return max(1, min(largest, BLOCK_BYTES // max(1, size)))

    def skip(self, num: int) -> None:
        """Draw `num` batches and drop them: a resumed run starts where the interrupted one stood."""
        for _ in range(num):
            self._pop()

    def take(self, num: int, size: int) -> Any:
        """The next `num` batches, stacked and padded to `size` along a new leading axis."""
        taken = [self._pop() for _ in range(num)]

        def stack(*leaves: np.ndarray) -> np.ndarray:
            block = np.zeros((size, *leaves[0].shape), leaves[0].dtype)
            np.stack(leaves, out=block[:num])
            return block

        return jax.tree.map(stack, *taken)

    def _pop(self) -> Any:
        return self._pending.pop() if self._pending else self._next()

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
        batch = jax.tree.map(np.asarray, batch)
        if self._first is not None and _shapes(batch) != _shapes(self._first):
            raise ValueError(
                f"batches: batch {self._num_drawn} has the shapes {_shapes(batch)[1]}, the first batch had "
                f"{_shapes(self._first)[1]}. Expected one shape throughout: drop the last, smaller batch of an epoch, "
                "and pad sequences to one length with a mask."
            )
        self._num_drawn += 1
        return batch


def _shapes(batch: Any) -> tuple[Any, list]:
    leaves, structure = jax.tree.flatten(batch)
    return structure, [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves]
