"""Why a loss or a gradient was not finite: whether it was in the data, and where."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from rnndyn._programs import compiled
from rnndyn.training._norm import scaled_norm
from rnndyn.training.batch import counting


def find_in_data(loss: Callable[[Any, Any], Any], model: Any, batch: Any, name: str = "batch") -> str | None:
    """What in `batch` makes `loss(model, batch)` or its gradient not finite; `None` when it is not the batch.

    NaN that a mask hides is no cause, so it is taken out and the loss tried again. Numbers of tokens or classes that
    are out of range, which were NaN in the compiled loss, are named by it when it runs on numbers.
    """
    found = _first_not_finite(batch, name)
    if found is not None:
        repaired = jax.tree.map(_finite, batch)
        if _is_finite(loss, model, repaired):
            return found
    if any(jnp.issubdtype(jnp.result_type(leaf), jnp.integer) for leaf in jax.tree.leaves(batch)):
        try:
            loss(model, batch)  # each operation by itself, which takes its time
        except ValueError as error:
            return f"{name}: {error}"
    return None


def _is_finite(loss: Callable[[Any, Any], Any], model: Any, batch: Any) -> bool:
    value, gradient = _value_and_gradient(loss, model, batch)
    return bool(jnp.isfinite(value) & jnp.isfinite(scaled_norm(gradient).largest))


@compiled
def _value_and_gradient(loss: Callable[[Any, Any], Any], model: Any, batch: Any) -> tuple[Any, Any]:
    return eqx.filter_value_and_grad(loss)(model, batch)


def _first_not_finite(batch: Any, name: str) -> str | None:
    counts, exists = (getattr(batch, field, None) for field in ("counts", "exists"))
    counts = getattr(batch, "mask", None) if counts is None else counts
    hidden = {"inputs": exists, "targets": counting(counts, exists)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if not eqx.is_inexact_array(leaf):
            continue
        values = np.asarray(leaf)
        bad = ~np.isfinite(values.astype(np.float64) if values.dtype.kind == "V" else values)
        mask = hidden.get(getattr(path[0], "name", "")) if path else None
        if mask is not None and np.ndim(mask) == 2 and np.shape(mask) == values.shape[:2]:
            bad &= (np.asarray(mask) != 0).reshape(*np.shape(mask), *[1] * (values.ndim - 2))
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            at = f"[{', '.join(map(str, first))}]" if first else ""
            return (
                f"{name}{jax.tree_util.keystr(path)}{at} is {values[first]} ({int(bad.sum())} of {values.size} entries "
                "are not finite)"
            )
    return None


def _finite(leaf: Any) -> Any:
    return jnp.where(jnp.isfinite(leaf), leaf, 0) if eqx.is_inexact_array(leaf) else leaf
