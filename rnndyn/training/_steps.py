"""The compiled part of training: a block of optimiser steps that runs on the device without returning to Python."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnndyn._programs import compiled
from rnndyn.networks.precision import widest
from rnndyn.training._norm import clip, scaled_norm
from rnndyn.training._optimizers import split, start, update
from rnndyn.training.precision import MixedPrecision


class Rule(eqx.Module):
    """How a step is made; all but the numbers of the optimiser is part of what is compiled."""

    optimizer: Any
    max_grad_norm: float | None = eqx.field(static=True)
    trained: tuple[bool, ...] = eqx.field(static=True)
    """Of every leaf of the model, whether it is trained."""
    precision: MixedPrecision | None = eqx.field(static=True)
    loss_takes_key: bool = eqx.field(static=True)


class Block(NamedTuple):
    """What a block of steps leaves behind. With an ensemble every array has a leading member axis."""

    model: Any
    opt_state: Any
    carry: Any
    num_updates: Int[Array, " *E"]
    losses: Float[Array, "*E S"]
    grad_norms: Float[Array, "*E S"]


@compiled
def run_block(
    model: Any,
    opt_state: Any,
    carry: Any,
    active: Bool[Array, " *E"],
    batch_keys: Array,
    loss_keys: Array,
    start: Int[Array, ""],
    num_steps: Int[Array, ""],
    data: Any,
    loss: Callable,
    batches: Callable | None,
    rule: Rule,
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

    def member(model: Any, opt_state: Any, handed_on: Any, active: Array, batch_key: Array, loss_key: Array) -> Block:
        arrays, static = eqx.partition((model, opt_state, handed_on), eqx.is_array)
        loss_dtype = jnp.result_type(float)

        def step(i: Array, state: tuple) -> tuple:
            arrays, active, num_updates, losses, grad_norms = state
            model, (opt_state, scaling), handed_on = eqx.combine(arrays, static)
            if batches is not None:
                batch = batches(jax.random.fold_in(batch_key, start + i))
            else:
                batch = jax.tree.map(lambda leaf: leaf[i], data)
            parameters, rest = split(model, rule.trained)
            key = jax.random.fold_in(loss_key, start + i) if rule.loss_takes_key else None
            scale = jnp.ones(()) if scaling is None else scaling.scale

            def objective(parameters: Any) -> tuple[Array, tuple[Array, Any]]:
                value, after = call_loss(loss, eqx.combine(parameters, rest), batch, handed_on, key, rule.precision)
                return value * scale.astype(value.dtype), (value, after)

            (_, (value, handed_on)), gradient = jax.value_and_grad(objective, has_aux=True)(parameters)
            if scaling is not None:
                gradient = jax.tree.map(lambda g: g / scale.astype(g.dtype), gradient)
            norm = scaled_norm(gradient)
            if rule.max_grad_norm is not None:
                gradient = clip(gradient, norm, rule.max_grad_norm)
            value_fn = lambda p: objective(p)[1][0]
            updates, new_opt_state = update(rule.optimizer, gradient, opt_state, parameters, value, value_fn)
            parameters = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), parameters, updates)

            is_finite = jnp.isfinite(norm.largest)
            moves = active & jnp.isfinite(value) & is_finite
            losses = losses.at[i].set(jnp.where(active, value.astype(loss_dtype), jnp.nan))
            grad_norms = grad_norms.at[i].set(jnp.where(active, norm.value.astype(loss_dtype), jnp.nan))
            goes_on = moves
            if scaling is not None and rule.precision is not None and rule.precision.growth_every is not None:
                # An overflow is the scale's doing as long as there is any scale left.
                goes_on = active & jnp.isfinite(value) & (is_finite | (scaling.scale > 1))
                scaling = scaling.after(is_finite, rule.precision.growth_every)
            new = (eqx.combine(parameters, rest), (new_opt_state, scaling), handed_on)
            new_model, (new_inner, new_scaling), new_carry = eqx.filter(new, eqx.is_array)
            old_model, (old_inner, old_scaling), old_carry = arrays
            take = lambda condition, a, b: jax.tree.map(lambda x, y: jnp.where(condition, _like(x, y), y), a, b)
            arrays = (
                take(moves, new_model, old_model),
                (take(moves, new_inner, old_inner), take(goes_on, new_scaling, old_scaling)),
                take(goes_on, new_carry, old_carry),
            )
            return arrays, goes_on, jnp.where(goes_on, num_updates + 1, num_updates), losses, grad_norms

        empty = jnp.full((max_steps,), jnp.nan, loss_dtype)
        state = (arrays, active, jnp.zeros((), int), empty, empty)
        arrays, _, num_updates, losses, grad_norms = jax.lax.fori_loop(0, num_steps, step, state)
        model, opt_state, handed_on = eqx.combine(arrays, static)
        return Block(model, opt_state, handed_on, num_updates, losses, grad_norms)

    if ensemble:
        member = eqx.filter_vmap(member)
    return member(model, opt_state, carry, active, batch_keys, loss_keys)


def _like(new: Array, old: Array) -> Array:
    """`new` in the dtype in which the loop carries it: optimisers may compute in a wider one."""
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def call_loss(
    loss: Callable, model: Any, batch: Any, carry: Any, key: Array | None, precision: MixedPrecision | None
) -> tuple[Array, Any]:
    """The loss in at least float32, and what it hands on, in the dtypes of what it was handed."""
    before = carry
    if precision is not None:
        model, batch, carry = precision.round((model, batch, carry))
    options = {} if key is None else {"key": key}
    if carry is None:
        value, after = loss(model, batch, **options), None
    else:
        out = loss(model, batch, carry, **options)
        if not isinstance(out, tuple) or len(out) != 2:
            raise ValueError(
                f"loss: with carry=, expected loss(model, batch, carry) to be the pair (value, carry), got a "
                f"{type(out).__name__}."
            )
        value, after = out
    if not isinstance(value, jax.Array) or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        found = f"shape {value.shape} of {value.dtype}" if isinstance(value, jax.Array) else f"a {type(value).__name__}"
        raise ValueError(f"loss: expected loss(model, batch) to be one floating-point number, got {found}.")
    value = value.astype(widest(value.dtype, jnp.float32))
    if precision is not None:
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, before)
    return value, after


@compiled
def evaluate(metric: Callable, model: Any, batch: Any, ensemble: bool, batch_per_member: bool) -> Float[Array, " *E"]:
    """`metric(model, batch)`, over all members of an ensemble at once."""
    if not ensemble:
        return metric(model, batch)
    batch_axis = eqx.if_array(0) if batch_per_member else None
    return eqx.filter_vmap(metric, in_axes=(eqx.if_array(0), batch_axis))(model, batch)


@compiled
def draw(batches: Callable, keys: Array, ensemble: bool) -> Any:
    """`batches(key)`, for all keys of an ensemble at once."""
    return jax.vmap(batches)(keys) if ensemble else batches(keys)


@compiled
def initial_opt_state(rule: Rule, model: Any, ensemble: bool) -> Any:
    """The state of the optimiser for the trained leaves of `model`, and of the loss scale where there is one."""

    def init(model: Any) -> Any:
        scaling = None if rule.precision is None else rule.precision.start()
        return start(rule.optimizer, split(model, rule.trained)[0]), scaling

    return eqx.filter_vmap(init)(model) if ensemble else init(model)
