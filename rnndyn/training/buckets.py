"""Minibatches of sequences of unequal lengths: those of like length together, so that little is padding."""

from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.training._data import to_numpy
from rnndyn.training.batch import Batch, pad_batch


class Buckets(eqx.Module):
    """The trials of a ragged data set in random order, in batches of like length, epoch after epoch without end.

    Every trial goes into the first bucket whose length holds it, and every batch is padded to the length of its bucket:
    `rnndyn.fit` compiles once for each bucket. The trials left over in a bucket, fewer than `batch_size`, go into the
    next longer one; those left over in the longest are dropped for that epoch. As with `Minibatches`, every epoch is a
    new order, fixed by `key` and the number of the epoch.

    ```python
    batches = rd.training.Buckets(inputs, targets, 32, key=key)        # lists of (T_b, I) and (T_b, O)
    rd.fit(model, rd.training.over_steps(rd.training.softmax_cross_entropy), batches, ...)
    ```
    """

    inputs: list[np.ndarray]
    targets: list[np.ndarray]
    counts: list[np.ndarray] | None
    batch_size: int
    lengths: tuple[int, ...]
    seed: tuple[int, ...]

    def __init__(
        self,
        inputs: Sequence[Any],
        targets: Sequence[Any],
        batch_size: int,
        *,
        counts: Sequence[Any] | None = None,
        lengths: Sequence[int] | int = 4,
        key: PRNGKeyArray,
    ):
        """
        **Arguments:**

        - `inputs`, `targets`: lists of arrays (T_b, I) and (T_b, O), or of tokens and class numbers (T_b,).
        - `batch_size`: trials per batch, at most their number.
        - `counts`: a list of which steps count in the loss, (T_b,) each; all when not given.
        - `lengths`: the lengths of the buckets, or how many of them to choose, each of which then gets as many trials.
        - `key`: fixes the order.

        **Raises:** `ValueError` for lists that do not fit together, a batch size beyond their number, or a longest
        bucket that does not hold the longest trial.
        """
        self.inputs = [to_numpy(row) for row in inputs]
        self.targets = [to_numpy(row) for row in targets]
        self.counts = None if counts is None else [to_numpy(row) for row in counts]
        pad_batch(self.inputs, self.targets, self.counts)  # names what does not fit
        check_at_least("batch_size", batch_size, 1)
        if batch_size > len(self.inputs):
            raise ValueError(f"batch_size: expected 1 to {len(self.inputs)}, the number of trials, got {batch_size}.")
        self.batch_size = batch_size
        own = self._own_lengths
        if isinstance(lengths, int):
            check_at_least("lengths", lengths, 1)
            shares = np.arange(1, lengths + 1) / lengths
            chosen: Sequence[int] = np.quantile(own, shares, method="higher").astype(int).tolist()
        else:
            chosen = lengths
        self.lengths = tuple(sorted({int(length) for length in chosen}))
        if not self.lengths or self.lengths[0] < 1 or self.lengths[-1] < own.max():
            raise ValueError(
                f"lengths: expected positive lengths up to at least {own.max()}, that of the longest trial, got "
                f"{self.lengths}."
            )
        self.seed = tuple(int(word) for word in np.ravel(jax.random.key_data(key)))

    def __iter__(self) -> Iterator[Batch]:
        own, epoch = self._own_lengths, 0
        while True:
            rng = np.random.default_rng([*self.seed, epoch])
            batches, left = [], np.zeros(0, int)
            for shorter, length in zip((0, *self.lengths), self.lengths):
                members = np.flatnonzero((own > shorter) & (own <= length))
                members = np.concatenate([left, rng.permutation(members)])
                num = len(members) // self.batch_size
                batches += [(rows, length) for rows in members[: num * self.batch_size].reshape(num, self.batch_size)]
                left = members[num * self.batch_size :]
            for index in rng.permutation(len(batches)):
                rows, length = batches[index]
                take = lambda arrays, rows=rows: [arrays[row] for row in rows]
                counts = None if self.counts is None else take(self.counts)
                yield pad_batch(take(self.inputs), take(self.targets), counts, num_steps=length)
            epoch += 1

    @property
    def _own_lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self.inputs])
