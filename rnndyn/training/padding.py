"""Sequences of different lengths in one batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from rnndyn._validation import check_at_least


def pad_sequences(sequences: Sequence[Any], num_steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sequences one above the other, with zeros after their ends, and the mask of the entries that exist.

    ```python
    inputs, mask = rd.training.pad_sequences(texts)
    outputs = jax.vmap(lambda x, m: model.last(x, mask=m))(inputs, mask)
    ```

    `rnndyn.training.pad_batch` makes a whole batch, inputs and targets, for `over_trials`.

    **Arguments:**

    - `sequences`: arrays (T_b, ...) that agree in all but their lengths.
    - `num_steps`: the common length T; that of the longest by default.

    **Returns:** the padded array (B, T, ...), and the mask (B, T), true where a sequence has an entry.

    **Raises:** `ValueError` for no sequences, an empty one, one longer than `num_steps`, or shapes that do not agree.
    """
    arrays = []
    for b, sequence in enumerate(sequences):
        try:
            arrays.append(np.asarray(sequence))
        except ValueError as error:
            raise ValueError(
                f"sequences[{b}]: expected one array (T_b, ...), got rows of different lengths ({error})."
            ) from error
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) != 1 or any(array.ndim == 0 for array in arrays):
        raise ValueError(
            f"sequences: expected one or more arrays that differ in their lengths only, got the shapes "
            f"{[array.shape for array in arrays[:8]]}."
        )
    lengths = [len(array) for array in arrays]
    mask = length_mask(lengths, max(lengths) if num_steps is None else num_steps)
    padded = np.zeros((*mask.shape, *shapes.pop()), np.result_type(*arrays))
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return padded, mask


def length_mask(lengths: Any, num_steps: int) -> Bool[np.ndarray, "B T"]:
    """The mask of sequences that have `lengths` entries in a batch of `num_steps` steps.

    **Arguments:**

    - `lengths`: integers (B,), from 1 to `num_steps`.
    - `num_steps`: T.

    **Returns:** booleans (B, T), true in the first `lengths[b]` steps of row b.

    **Raises:** `ValueError` for a length below 1 or beyond the batch.
    """
    check_at_least("num_steps", num_steps, 1)
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise ValueError(f"lengths: expected integers of shape (B,), got {lengths.dtype} of shape {lengths.shape}.")
    wrong = np.flatnonzero((lengths < 1) | (lengths > num_steps))
    if wrong.size:
        raise ValueError(
            f"lengths: expected 1 to {num_steps}, the steps of the batch; sequence {wrong[0]} has {lengths[wrong[0]]}."
        )
    return np.arange(num_steps) < lengths[:, None]
