"""A batch of trials with its two masks: which entries exist, and which steps count in the loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnndyn.training.padding import pad_sequences


class Batch(NamedTuple):
    """Trials side by side: the batch of `over_trials` and `over_steps`. Without the leading axis B, one trial.

    Two masks, because they say two things. A step that does not exist is padding: the model never reads it, its state
    is held there, a backward cell starts after it, and it counts in no loss. A step that exists and does not count is
    read, and its answer is left out of the loss.
    """

    inputs: Any
    """(B, T, I), or tokens (B, T)."""
    targets: Any
    """(B, T, O), or class numbers (B, T)."""
    counts: Any = None
    """(B, T), which steps count in the loss: booleans or non-negative weights; `None` for all that exist."""
    exists: Any = None
    """(B, T), which steps have an entry: booleans; `None` for all."""


def pad_batch(
    inputs: Sequence[Any], targets: Sequence[Any], counts: Sequence[Any] | None = None, *, num_steps: int | None = None
) -> Batch:
    """Trials of unequal lengths as one batch, padded with zeros, with the mask of what exists.

    **Arguments:**

    - `inputs`, `targets`: lists of arrays (T_b, I) and (T_b, O), or of tokens and class numbers (T_b,).
    - `counts`: a list of which steps count, (T_b,) each; all when not given.
    - `num_steps`: the common length; that of the longest by default.

    **Returns:** a `Batch` of NumPy arrays.

    **Raises:** `ValueError` where a trial's arrays differ in length, or for what `pad_sequences` refuses.
    """
    named = {"inputs": inputs, "targets": targets, **({} if counts is None else {"counts": counts})}
    lengths = {name: [np.shape(row)[:1] for row in rows] for name, rows in named.items()}
    for name, found in lengths.items():
        if len(found) != len(lengths["inputs"]):
            raise ValueError(f"{name}: expected {len(lengths['inputs'])} sequences, as of inputs, got {len(found)}.")
        for b, (own, expected) in enumerate(zip(found, lengths["inputs"])):
            if own != expected:
                raise ValueError(f"{name}[{b}]: expected {expected[0]} steps, as inputs[{b}] has, got {own[0]}.")
    padded, exists = {}, None
    for name, rows in named.items():
        padded[name], exists = pad_sequences(rows, num_steps)
    return Batch(**padded, exists=exists)


def as_batch(batch: Any, model_reads_mask: bool) -> Batch:
    """What a loss over trials is given, with its masks by their names.

    **Raises:** `ValueError` for another number of entries, trials that are not arrays yet, or a mask without a name
    where the model could read it either way.
    """
    if isinstance(batch, Batch):
        found = batch
    elif isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a trial of rnndyn.tasks, whose mask is what counts
        fields = batch._asdict()  # pyright: ignore[reportAttributeAccessIssue]
        if not {"inputs", "targets"} <= fields.keys() <= {"inputs", "targets", "mask", "counts", "exists"}:
            raise ValueError(f"batch: expected (inputs, targets), a Trial or a Batch, got the fields {list(fields)}.")
        if "mask" in fields:
            fields["counts"] = fields.pop("mask")
        found = Batch(**fields)
    elif isinstance(batch, tuple | list) and len(batch) in (2, 3):
        if len(batch) == 3 and model_reads_mask:
            raise ValueError(
                "batch: the third entry has no name, and may say which steps exist or which count in the loss. Pass "
                "rnndyn.training.Batch(inputs, targets, exists=mask) for padding, Batch(inputs, targets, counts=mask) "
                "for steps that the model reads and the loss leaves out."
            )
        found = Batch(*batch)
    else:
        size = f"{len(batch)} entries" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
        raise ValueError(f"batch: expected (inputs, targets), (inputs, targets, counts) or a Batch, got {size}.")
    for name, part in zip(found._fields, found):
        starts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(part)}
        if isinstance(part, list) or (isinstance(part, tuple) and len(starts) > 1):
            raise ValueError(
                f"batch: {name} is a {type(part).__name__} of {len(part)} trials. Make one padded batch of trials of "
                "unequal lengths with rnndyn.training.pad_batch, or many with rnndyn.training.Buckets."
            )
    _check_masks(found)
    return found


def _check_masks(batch: Batch) -> None:
    shape = jnp.shape(jax.tree.leaves(batch.inputs)[0])
    for name, mask in (("counts", batch.counts), ("exists", batch.exists)):
        if mask is not None and (jnp.ndim(mask) != 2 or jnp.shape(mask) != shape[:2]):
            raise ValueError(
                f"batch: expected {name} of one entry per trial and step, {shape[:2]}, got {jnp.shape(mask)}."
            )
    targets = jnp.shape(jax.tree.leaves(batch.targets)[0])
    if targets[:1] != shape[:1]:
        raise ValueError(f"batch: expected targets for {shape[:1]} trials, as of inputs, got shape {targets}.")
    if batch.exists is not None and jnp.result_type(batch.exists) != jnp.bool_:
        raise ValueError(
            f"batch: expected exists to be booleans, got {jnp.result_type(batch.exists)}. Try exists.astype(bool)."
        )


def counting(counts: Any, exists: Any) -> Any:
    """Which steps count: those that exist and are meant to; `None` for all."""
    if exists is None:
        return counts
    if counts is None:
        return exists
    # Not a product: what counts holds in the padding may be NaN.
    return jnp.where(exists, counts, jnp.zeros_like(counts))
