"""What `fit` and `fit_ensemble` were given, looked at before training begins: batches, validation, metric, carry."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnndyn.networks.precision import widest
from rnndyn.training._data import HostBatches, to_device, to_numpy
from rnndyn.training._diagnosis import find_in_data


def host_batches(batches: Any) -> HostBatches:
    """An iterable of batches, to be read as it is needed."""
    if isinstance(batches, tuple) or eqx.is_array(batches):
        raise ValueError(
            f"batches: got a {type(batches).__name__}, which looks like a data set. Pass "
            "rnndyn.training.Minibatches(data, batch_size, key=key), an iterable of batches, or a function of a key "
            "that makes a batch."
        )
    try:
        return HostBatches(batches)
    except TypeError:
        raise ValueError(
            f"batches: expected a function of a key or an iterable of batches, got a {type(batches).__name__}."
        ) from None


def example_of(batches: Any, host: HostBatches | None, key: Array) -> Any:
    """A batch, or its shapes."""
    if host is not None:
        return host.example
    try:
        return eqx.filter_eval_shape(batches, key)
    except TypeError as error:
        raise ValueError(
            f"batches: calling it with a key failed: {error}. Expected a function of one JAX key, traceable by jit; "
            "batches made on the host are passed as an iterable."
        ) from error


def check_validation(batch: Any) -> Any:
    """The batch to validate with, on the device."""
    if hasattr(batch, "__iter__") and not isinstance(batch, tuple | list | dict) and not hasattr(batch, "shape"):
        raise ValueError(
            f"validation: expected a batch, a tree of arrays, or a function of a key, got a {type(batch).__name__}. Of "
            "an iterable of batches pass one batch, such as next(iter(batches))."
        )
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else to_device(to_numpy(leaf)), batch)


def check_validation_data(metric: Callable, model: Any, batch: Any) -> None:
    """Where the first metric is NaN: say which number of the data is."""
    found = find_in_data(metric, model, batch, "validation")
    if found is not None:
        raise ValueError(
            f"{found}, so the metric is NaN. Mend the data, or mark the step as padding or as not counting."
        )


def check_scalar(name: str, function: Callable, model: Any, batch: Any) -> None:
    """A loss or metric is one floating-point number."""
    out = eqx.filter_eval_shape(function, model, batch)
    found = f"a {type(out).__name__}"
    if isinstance(out, jax.ShapeDtypeStruct):
        if out.shape == () and jnp.issubdtype(out.dtype, jnp.floating):
            return
        found = f"shape {out.shape} of {out.dtype}"
    raise ValueError(f"{name}: expected {name}(model, batch) to be one floating-point number, got {found}.")


def check_carry(loss: Callable, model: Any, batch: Any, carry: Any) -> Any:
    """The carry in the dtypes in which the loss hands it on."""
    for _ in range(2):
        after = eqx.filter_eval_shape(loss, model, batch, carry)[1]
        types = lambda tree: [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
        if jax.tree.structure(carry) == jax.tree.structure(after) and types(carry) == types(after):
            return carry
        wider = jax.tree.structure(carry) == jax.tree.structure(after) and all(
            a[0] == b[0] and jnp.issubdtype(a[1], jnp.floating) and widest(a[1], b[1]) == b[1]
            for a, b in zip(types(carry), types(after))
        )
        if not wider:
            break
        # States in half precision that meet inputs in float32 go on in that, as in a whole sequence.
        carry = jax.tree.map(lambda old, new: jnp.asarray(old, new.dtype), carry, after)
    before, now = (eqx.tree_pformat(tree, struct_as_array=True) for tree in (carry, after))
    raise ValueError(f"carry: expected the loss to keep its structure, shapes and dtypes, {before}, got {now}.")
