"""The compiled part of training: a block of optimiser steps that runs on the device without returning to Python."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


class Block(NamedTuple):
    """What a block of steps leaves behind. With an ensemble every array has a leading member axis."""

    model: Any
    opt_state: Any
    carry: Any
    num_updates: Int[Array, " *E"]
    losses: Float[Array, "*E S"]
    grad_norms: Float[Array, "*E S"]


@eqx.filter_jit
def run_block(
    model: Any,
    opt_state: Any,
    carry: Any,
    active: Bool[Array, " *E"],
    keys: Array,
    start: Int[Array, ""],
    num_steps: Int[Array, ""],
    data: Any,
    loss: Callable,
    batches: Callable | None,
    optimizer: optax.GradientTransformationExtraArgs,
    max_grad_norm: float | None,
    max_steps: int,
    ensemble: bool,
) -> Block:
    """Steps `start + 1 ... start + num_steps` of every active member.

    The number of steps is traced, so one compilation serves blocks of every length up to `max_steps`, and how a run
    is cut into blocks cannot change its numbers. A member whose loss or gradient is not finite keeps the parameters
    it had before that step; its `num_updates` falls short of `num_steps`.

    **Arguments:**

    - `carry`: what `loss(model, batch, carry) -> (value, carry)` hands from one step to the next; with `None` it is
        called as `loss(model, batch) -> value`.
    - `data`: the batches of this block, leaves `(max_steps, ...)`, or `None` where `batches(key)` makes them here.
    """

    def member(model: Any, opt_state: Any, handed_on: Any, active: Array, key: Array) -> Block:
        arrays, static = eqx.partition((model, opt_state, handed_on), eqx.is_array)
        loss_dtype = jnp.result_type(float)

        def objective(model: Any, batch: Any, handed_on: Any) -> tuple[Array, Any]:
            return (loss(model, batch), None) if handed_on is None else loss(model, batch, handed_on)

        def step(i: Array, state: tuple) -> tuple:
            arrays, active, num_updates, losses, grad_norms = state
            model, opt_state, handed_on = eqx.combine(arrays, static)
            if batches is not None:
                batch = batches(jax.random.fold_in(key, start + i))
            else:
                batch = jax.tree.map(lambda leaf: leaf[i], data)
            (value, handed_on), gradient = eqx.filter_value_and_grad(objective, has_aux=True)(model, batch, handed_on)
            norm = optax.tree.norm(gradient)
            if max_grad_norm is not None:
                shrink = jnp.where(norm > max_grad_norm, max_grad_norm / norm, 1)
                gradient = jax.tree.map(lambda g: g * shrink.astype(g.dtype), gradient)
            parameters = eqx.filter(model, eqx.is_inexact_array)
            updates, new_opt_state = optimizer.update(gradient, opt_state, parameters, value=value)
            new_arrays = eqx.filter((eqx.apply_updates(model, updates), new_opt_state, handed_on), eqx.is_array)

            losses = losses.at[i].set(jnp.where(active, value.astype(loss_dtype), jnp.nan))
            grad_norms = grad_norms.at[i].set(jnp.where(active, norm.astype(loss_dtype), jnp.nan))
            active = active & jnp.isfinite(value) & jnp.isfinite(norm)
            arrays = jax.tree.map(lambda new, old: jnp.where(active, new, old), new_arrays, arrays)
            return arrays, active, num_updates + active, losses, grad_norms

        empty = jnp.full((max_steps,), jnp.nan, loss_dtype)
        state = (arrays, active, jnp.zeros((), int), empty, empty)
        arrays, _, num_updates, losses, grad_norms = jax.lax.fori_loop(0, num_steps, step, state)
        model, opt_state, handed_on = eqx.combine(arrays, static)
        return Block(model, opt_state, handed_on, num_updates, losses, grad_norms)

    if ensemble:
        member = eqx.filter_vmap(member)
    return member(model, opt_state, carry, active, keys)


@eqx.filter_jit
def evaluate(metric: Callable, model: Any, batch: Any, ensemble: bool, batch_per_member: bool) -> Float[Array, " *E"]:
    """`metric(model, batch)`, over all members of an ensemble at once."""
    if not ensemble:
        return metric(model, batch)
    batch_axis = eqx.if_array(0) if batch_per_member else None
    return eqx.filter_vmap(metric, in_axes=(eqx.if_array(0), batch_axis))(model, batch)


@eqx.filter_jit
def draw(batches: Callable, keys: Array, ensemble: bool) -> Any:
    """`batches(key)`, for all keys of an ensemble at once."""
    return jax.vmap(batches)(keys) if ensemble else batches(keys)


@eqx.filter_jit
def initial_opt_state(optimizer: optax.GradientTransformation, model: Any, ensemble: bool) -> Any:
    """The optimiser's state for the trainable leaves of `model`, the floating-point arrays."""
    parameters = eqx.filter(model, eqx.is_inexact_array)
    init = eqx.filter_vmap(optimizer.init) if ensemble else optimizer.init
    return init(parameters)
