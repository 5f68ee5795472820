"""How a model is called: whether it takes a mask, wants a key, and in which dtype it runs. Told here only."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from rnndyn.networks.adapters import as_cell, draws_once, for_sequence, is_random, takes_key
from rnndyn.networks.precision import widest

_CELLS = ("cell", "forward", "backward")


def takes(function: Callable[..., Any], name: str, num_given: int = 0) -> bool:
    """Whether `function` can be called with the keyword `name` after `num_given` arguments by position."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False  # some builtins have no signature
    if name in list(parameters)[:num_given]:
        return False  # what is called so is another argument
    found = parameters.get(name)
    if found is not None:
        return found.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def wants_key(model: Any) -> bool:
    """Whether a call of `model` draws at random when it is given a `key`.

    The networks of rnndyn hand a key to their cells and their readout, and so want one where one of these does;
    anything else that has the keyword wants it.
    """
    if not takes(model, "key"):
        return False
    if hasattr(model, "network"):
        return wants_key(model.network)
    cells = [getattr(model, name) for name in _CELLS if hasattr(model, name)]
    return any(is_random(as_cell(cell)) for cell in cells) or draws(getattr(model, "readout", None)) if cells else True


def draws(readout: Any) -> bool:
    """Whether a readout may draw when it is called with a `key`: it takes one, and is not known to ignore it."""
    # Every layer of Equinox has the keyword.
    return readout is not None and type(readout) is not eqx.nn.Linear and takes_key(readout)


def model_for_sequence(model: Any, key: PRNGKeyArray) -> Any:
    """The model whose cell has drawn what stays the same over a sequence."""
    where = (lambda m: m.network.cell) if hasattr(model, "network") else (lambda m: m.cell)
    try:
        cell = where(model)
    except AttributeError:  # a model of somebody else
        return model
    # A cell that draws nothing once stays as it is, with the weights that it stores.
    known = as_cell(cell)
    return eqx.tree_at(where, model, for_sequence(known, key)) if draws_once(known) else model


def call_model(model: Callable[..., Any], inputs: Any, exists: Any = None, key: Any = None) -> Any:
    """`model(inputs)` of one sequence, with the mask of its entries and a key where there are any and it takes them.

    **Raises:** `ValueError` for a mask and a model that does not take one: it would read the padding.
    """
    options = {}
    if exists is not None:
        if not takes(model, "mask"):
            raise ValueError(
                f"model: {getattr(model, '__name__', type(model).__name__)} takes no mask, so it would read the "
                "padding. Write it as model(inputs, mask=None), with booleans (T,) that say which entries exist."
            )
        options["mask"] = exists
    if key is not None and wants_key(model):
        options["key"] = key
    return model(inputs, **options)


def promote_state(step: Callable[[Any], Any], state: Any) -> Any:
    """`state` in the dtypes that `step(state)`, the state after it, gives it: what a loop over steps can carry.

    Weights, inputs and states of different precision meet in the wider one (`jax.numpy.promote_types`), for every way
    a network is run. Nothing is computed: the step is only traced.

    **Raises:** `ValueError` where the dtype changes again at the next step, or the shape does.
    """
    for _ in range(3):
        after = eqx.filter_eval_shape(step, state)
        old_shapes, new_shapes = ([np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (state, after))
        if jax.tree.structure(after) != jax.tree.structure(state) or old_shapes != new_shapes:
            raise ValueError(f"model: expected a step to keep the shapes {old_shapes} of its state, got {new_shapes}.")
        old, new = ([jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)] for tree in (state, after))
        if old == new:
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)
        state = jax.tree.map(lambda a, b: jnp.asarray(a, widest(a, b.dtype)), state, after)
    raise ValueError(f"model: expected a step to keep the dtypes {old} of its state, got {new}.")
