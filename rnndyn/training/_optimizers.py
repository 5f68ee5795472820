"""Optimisers: which of them fits which arrays, what was meant, and when two are one to the compiler."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnndyn._programs import Program, as_program
from rnndyn._programs.recent import Recent

FROZEN = "frozen"
"""The label of arrays that are not trained."""

_known: Recent = Recent(64)


def resolve_optimizer(
    optimizer: Any, learning_rate: Any, labels: Any
) -> tuple[optax.GradientTransformationExtraArgs, optax.Schedule | None]:
    """The optimiser, and the schedule of its learning rate where that is known.

    **Arguments:**

    - `labels`: where `optimizer` is a dictionary, the tree of the label of every trained array.
    """
    if isinstance(optimizer, Mapping):
        if labels is None:
            raise ValueError(
                "trainable: the optimizer is a dictionary, so it needs a tree of labels, which say whose optimiser "
                "trains which array, such as trainable=jax.tree.map(lambda _: 'slow', model)."
            )
        parts = {label: resolve_optimizer(part, learning_rate, None)[0] for label, part in optimizer.items()}
        # A function, since optax would call a tree of labels that is a callable module.
        return optax.with_extra_args_support(optax.multi_transform(parts, lambda _: labels)), None
    if hasattr(optimizer, "gradient_transformation"):  # optax.MultiSteps
        optimizer = optimizer.gradient_transformation()
    made = isinstance(optimizer, optax.GradientTransformation)
    if not made and not callable(optimizer):
        raise ValueError(
            f"optimizer: expected an optax optimiser such as optax.adam(1e-3), or its constructor optax.adam together "
            f"with learning_rate=; got a {type(optimizer).__name__}."
        )
    if made and learning_rate is not None:
        raise ValueError(
            "learning_rate: the optimizer has one already. Pass the constructor, optimizer=optax.adam with "
            "learning_rate=1e-3, or the optimiser alone, optimizer=optax.adam(1e-3)."
        )
    if made:
        return optax.with_extra_args_support(optimizer), None
    if learning_rate is None:
        raise ValueError(
            "learning_rate: the optimizer is a constructor and needs one. Pass learning_rate=1e-3 or an optax "
            "schedule, or an optimiser that has been made, such as optax.adam(1e-3)."
        )
    if not callable(learning_rate) and not learning_rate > 0:
        raise ValueError(f"learning_rate: expected a positive number or a schedule, got {learning_rate}.")
    schedule: Any = learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)
    constructed: Any = optimizer(learning_rate)
    return optax.with_extra_args_support(constructed), schedule


def shared(optimizer: optax.GradientTransformationExtraArgs, parameters: Any) -> Any:
    """The optimiser for arrays like `parameters`, so that another that differs in its numbers only compiles nothing.

    To `jit` every call of `optax.adam` makes a new optimiser, so that each `fit` would compile again. Here what it does
    becomes two programs, whose rates and decays are leaves. One that asks for the loss itself (a line search), or whose
    state is more than arrays, stays as it is; two of those are one where they are one text, every number included.
    """
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parameters)
    try:
        return _as_programs(optimizer, like)
    except (_NotAProgram, ValueError, TypeError, AttributeError, KeyError):
        pass  # what is wrong with it, if anything is, comes again below
    statics: list[Any] = []

    def program(arrays: Any) -> Any:
        state = start(optimizer, arrays)
        updates, after = update(optimizer, arrays, state, arrays, jnp.ones(()), _sum_of_all)
        dynamic, static = eqx.partition((state, updates, after), eqx.is_array)
        statics.append(static)
        return dynamic

    try:
        text = jax.jit(program).lower(like).as_text()
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ValueError(
            f"optimizer: it does not fit the model's parameters ({type(error).__name__}: {_first_line(error)}). A tree "
            "of labels or masks must have the structure of eqx.filter(model, eqx.is_inexact_array) and be given as a "
            "function, optax.multi_transform(optimizers, lambda _: labels), since a model is callable; or pass "
            "optimizer={label: optimiser} with trainable=labels."
        ) from error
    try:
        key = (text, jax.tree.structure(like), jax.tree.structure(statics[-1]), tuple(jax.tree.leaves(statics[-1])))
        hash(key)
    except TypeError:
        return optimizer  # holds something that cannot be compared, so it is like no other
    if "callback" in text:  # what the host does is not in the text
        return optimizer
    return _known.put(key, optimizer)


class OptimizerProgram(eqx.Module):
    """An optimiser as two programs on arrays of fixed shapes; its numbers are leaves."""

    on_parameters: Program
    on_gradient: Program

    def init(self, parameters: Any) -> Any:
        return self.on_parameters(parameters)

    def update(self, gradient: Any, state: Any, parameters: Any, *, value: Any, grad: Any, value_fn: Any) -> Any:
        del grad, value_fn  # the gradient again, and what no optimiser that became a program asks for
        return self.on_gradient(gradient, state, parameters, value)


class _NotAProgram(Exception):
    """The optimiser calls the loss."""


def _as_programs(optimizer: optax.GradientTransformationExtraArgs, like: Any) -> OptimizerProgram:
    def no_loss(_: Any) -> Any:
        raise _NotAProgram

    def on_gradient(gradient: Any, state: Any, parameters: Any, value: Any) -> Any:
        return update(optimizer, gradient, state, parameters, value, no_loss)

    on_parameters = lambda parameters: start(optimizer, parameters)
    state = jax.eval_shape(on_parameters, like)
    value = jax.ShapeDtypeStruct((), jnp.result_type(float))
    let_in = functools.partial(as_program, double=False, name="optimizer", keeps_state=False)
    return OptimizerProgram(let_in(on_parameters, like), let_in(on_gradient, like, state, like, value))


def update(
    optimizer: Any,
    gradient: Any,
    state: Any,
    parameters: Any,
    value: Any,
    value_fn: Callable[[Any], Any],
) -> tuple[Any, Any]:
    """`optimizer.update` with all that optimisers with a line search and schedules by the loss ask for."""
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(gradient, state, parameters, value=value, grad=gradient, value_fn=value_fn)


def start(optimizer: Any, parameters: Any) -> Any:
    """The state of an optimiser before its first update."""
    # Optimisers multiply counts by rates, whatever the user asks of their own program.
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.init(parameters)


def trained_leaves(model: Any, trainable: Any) -> tuple[tuple[bool, ...], Any]:
    """Which leaves of `model` are trained, in the order of `jax.tree.leaves`, and the tree of labels, if there is one.

    **Raises:** `ValueError` where `trainable` does not fit the model, or nothing is left to train.
    """
    leaves, structure = jax.tree.flatten(model)
    can = [eqx.is_inexact_array(leaf) for leaf in leaves]
    if not any(can):
        raise ValueError("model: has no floating-point array, so there is nothing to train.")
    if trainable is None:
        return tuple(can), None
    # A tree of choices made from a model is a module, and may be callable; a function is a filter.
    is_filter = callable(trainable) and not isinstance(trainable, eqx.Module)
    spec = jax.tree.map(lambda _: trainable, 0) if is_filter else trainable
    try:
        choices = jax.tree.leaves(
            jax.tree.map(lambda part, tree: jax.tree.map(lambda leaf: _choose(part, leaf), tree), spec, model)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"trainable: expected a filter of arrays, or a tree of booleans or labels with the structure of the model "
            f"or the upper part of it ({_first_line(error)}). Make one by jax.tree.map(lambda _: True, model) and "
            "eqx.tree_at."
        ) from error
    labelled = any(isinstance(choice, str) for choice in choices)
    trained = tuple(
        able and (choice != FROZEN if isinstance(choice, str) else bool(choice))
        for able, choice in zip(can, choices, strict=True)
    )
    if not any(trained):
        raise ValueError("trainable: leaves no floating-point array of the model to train.")
    if not labelled:
        return trained, None
    labels = [choice if take else None for take, choice in zip(trained, choices)]
    if not all(isinstance(label, str) for label, take in zip(labels, trained) if take):
        raise ValueError("trainable: expected booleans or labels, got both.")
    return trained, jax.tree.unflatten(structure, labels)


def check_labels(labels: Any, optimizer: Any) -> None:
    """Raise unless every label has an optimiser."""
    if labels is None:
        return
    used = sorted(set(jax.tree.leaves(labels)))
    if not isinstance(optimizer, Mapping):
        raise ValueError(
            f"optimizer: trainable has the labels {used}; pass a dictionary with an optimiser for each, such as "
            f"{{{used[0]!r}: optax.adam(1e-3)}}."
        )
    missing = [label for label in used if label not in optimizer]
    if missing:
        raise ValueError(
            f"optimizer: has no optimiser for the labels {missing} of trainable, only for {sorted(optimizer)}; arrays "
            f"labelled {FROZEN!r} are not trained."
        )


def split(model: Any, trained: tuple[bool, ...]) -> tuple[Any, Any]:
    """The trained arrays of `model`, and the rest of it; `eqx.combine` joins them."""
    leaves, structure = jax.tree.flatten(model)
    return tuple(
        jax.tree.unflatten(structure, [leaf if take is part else None for leaf, take in zip(leaves, trained)])
        for part in (True, False)
    )  # pyright: ignore[reportReturnType]


def response(optimizer: optax.GradientTransformationExtraArgs, parameters: Any) -> float:
    """What the optimiser makes of parameters and gradients of all ones; tells learning rates and kinds apart."""
    ones = jax.tree.map(jnp.ones_like, parameters)
    updates, _ = update(optimizer, ones, start(optimizer, ones), ones, jnp.ones(()), _sum_of_all)
    return float(np.sum([np.sum(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(updates)]))


def _choose(part: Any, leaf: Any) -> Any:
    if callable(part):
        part = part(leaf)
    if isinstance(part, str | bool | np.bool_):
        return part
    raise TypeError(f"got a {type(part).__name__} in place of a boolean or a label")


def _sum_of_all(parameters: Any) -> Any:
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(parameters))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
