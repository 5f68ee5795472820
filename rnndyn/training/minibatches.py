"""Shuffled minibatches of a data set."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from rnndyn.training._data import to_numpy


class Minibatches(eqx.Module):
    """The examples of a data set in random order, `batch_size` at a time, epoch after epoch without end.

    Every epoch is a new permutation of the data set, fixed by `key` and the number of the epoch, so that every
    iteration over one object gives the same batches: a resumed `rnndyn.fit` continues with the batch that was next.
    The examples left over at the end of an epoch, fewer than `batch_size`, are dropped for that epoch.
    """

    data: Any
    batch_size: int
    seed: tuple[int, ...]

    def __init__(self, data: Any, batch_size: int, *, key: PRNGKeyArray):
        """
        **Arguments:**

        - `data`: arrays with one leading axis of examples, in any tree, such as `(inputs, targets, mask)`.
        - `batch_size`: examples per batch, at most their number.
        - `key`: fixes the order.

        **Raises:** `ValueError` when the arrays disagree about the number of examples or `batch_size` is
        not between 1 and it.
        """
        self.data = jax.tree.map(to_numpy, data)
        lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(self.data)}
        if len(lengths) != 1 or lengths == {()}:
            raise ValueError(
                f"data: expected arrays with one common leading axis of examples, got the shapes "
                f"{[np.shape(leaf) for leaf in jax.tree.leaves(self.data)]}. Sequences of unequal lengths become "
                "batches with rnndyn.training.Buckets(inputs, targets, batch_size, key=key)."
            )
        ((num_examples,),) = lengths
        if not 1 <= batch_size <= num_examples:
            raise ValueError(f"batch_size: expected 1 to {num_examples} (the number of examples), got {batch_size}.")
        self.batch_size = batch_size
        self.seed = tuple(int(word) for word in np.ravel(jax.random.key_data(key)))

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        return self._num_examples // self.batch_size

    def __iter__(self) -> Iterator[Any]:
        epoch = 0
        while True:
            order = np.random.default_rng([*self.seed, epoch]).permutation(self._num_examples)
            for rows in order[: self.num_batches * self.batch_size].reshape(self.num_batches, self.batch_size):
                yield jax.tree.map(lambda leaf, rows=rows: leaf[rows], self.data)
            epoch += 1

    @property
    def _num_examples(self) -> int:
        return jax.tree.leaves(self.data)[0].shape[0]
