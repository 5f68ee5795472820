"""The training loop that `fit` and `fit_ensemble` share: blocks of steps, and what happens between them."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from rnndyn.networks.call import takes
from rnndyn.training import checkpoint
from rnndyn.training._checks import (
    check_carry,
    check_scalar,
    check_validation,
    check_validation_data,
    example_of,
    host_batches,
)
from rnndyn.training._data import is_typed_key
from rnndyn.training._diagnosis import find_in_data
from rnndyn.training._files import PathLock, check_writable
from rnndyn.training._interrupts import Interrupts
from rnndyn.training._optimizers import check_labels, resolve_optimizer, shared, split, trained_leaves
from rnndyn.training._run import Run, advance, choose, configure, contents, read, take_validation, write
from rnndyn.training._settings import Settings
from rnndyn.training._steps import Rule, call_loss, draw, evaluate, initial_opt_state, run_block
from rnndyn.training.callbacks import ProgressBar
from rnndyn.training.precision import as_precision
from rnndyn.training.truncated import TruncatedLoss

_MAX_BLOCK = 256
"""Most steps between two returns to Python."""

_BLOCK_SECONDS = 0.25
"""How long a block should take: short enough for a progress bar, long against the cost of starting one."""

_MAX_DIAGNOSES = 3
"""Members of an ensemble whose divergence is looked into."""


def train(
    model: Any,
    loss: Callable,
    batches: Any,
    optimizer: Any,
    *,
    keys: Array,
    learning_rate: Any,
    validation: Any,
    metric: Callable | None,
    carry: Any,
    settings: Settings,
    ensemble: bool,
) -> tuple[Run, optax.Schedule | None]:
    """Train one model, or an ensemble when `keys` has a leading axis and so has every array of `model`."""
    with contextlib.ExitStack() as stack:
        return _train(
            model,
            loss,
            batches,
            optimizer,
            keys,
            learning_rate,
            validation,
            metric,
            carry,
            settings,
            ensemble,
            stack,
        )


def _train(
    model: Any,
    loss: Callable,
    batches: Any,
    optimizer: Any,
    keys: Array,
    learning_rate: Any,
    validation: Any,
    metric: Callable | None,
    carry: Any,
    settings: Settings,
    ensemble: bool,
    stack: contextlib.ExitStack,
) -> tuple[Run, optax.Schedule | None]:
    settings.check(has_validation=validation is not None)
    model = jax.tree.map(_to_parameter, model)
    trained, labels = trained_leaves(model, settings.trainable)
    check_labels(labels, optimizer)
    optimizer, schedule = resolve_optimizer(optimizer, learning_rate, labels)
    precision = as_precision(settings.precision)
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = jax.random.wrap_key_data(keys)
    num_members = keys.shape[0] if ensemble else 1
    each = jax.vmap if ensemble else lambda function: function
    halves = each(jax.random.split)(keys)
    batch_keys, validation_keys = halves[..., 0], halves[..., 1]
    loss_keys = each(lambda key: jax.random.fold_in(key, 1))(validation_keys)
    if carry is not None:
        carry = jax.tree.map(_strongly_typed, carry)
    per_member = callable(validation) and ensemble
    host = None if callable(batches) else host_batches(batches)

    one_model, one_key = _first_member(model, ensemble), batch_keys.reshape(-1)[0]
    rule = Rule(
        shared(optimizer, split(one_model, trained)[0]),
        settings.max_grad_norm,
        trained,
        precision,
        loss_takes_key=takes(loss, "key", 2 if carry is None else 3),
    )
    loss_key = loss_keys.reshape(-1)[0] if rule.loss_takes_key else None
    example = example_of(batches, host, one_key)
    called = lambda model, batch, carry: call_loss(loss, model, batch, carry, loss_key, precision)
    if carry is None:
        eqx.filter_eval_shape(called, one_model, example, None)
    else:
        carry = check_carry(called, one_model, example, carry)
    if metric is None:
        metric = loss if carry is None else FromStart(loss, carry)
    if carry is not None and ensemble:
        carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_members, *leaf.shape)), carry)
    if validation is not None:
        validation_batch = draw(validation, validation_keys, ensemble) if callable(validation) else validation
        validation_batch = check_validation(validation_batch)
        check_scalar("metric", metric, one_model, _first_member(validation_batch, per_member))

    run = Run.new(model, initial_opt_state(rule, model, ensemble), carry, num_members)
    path = None if settings.checkpoint is None else Path(settings.checkpoint)
    configuration = {}
    if path is not None:
        stack.enter_context(PathLock(path))
        check_writable(path)
        checkpoint.check_serialisable("the run", contents(run))
        configuration = configure(loss, batches, example, rule, optimizer, metric, validation, model, keys, settings)
        if settings.resume and path.exists():
            run = read(path, run, configuration, schedule)
            if host is not None:
                host.skip(run.step)

    # The history is a callback, and so is the bar.
    callbacks = [run.record, *settings.callbacks, *([ProgressBar()] if settings.progress else [])]

    def tell(kind: Any, **what: np.ndarray) -> None:
        event = run.event(kind, settings.num_steps, **what)
        if any(callback(event) for callback in callbacks):
            run.stopped = ["callback" if reason is None else reason for reason in run.stopped]

    def between_blocks(final: bool) -> None:
        due = lambda every: every is not None and (final or run.step % every == 0)
        if validation is not None and due(settings.validate_every):
            values = evaluate(metric, run.model, validation_batch, ensemble, per_member)
            values = np.asarray(values, np.float64).reshape(num_members)
            if run.step == 0 and np.isnan(values).all():
                check_validation_data(metric, one_model, _first_member(validation_batch, per_member))
            tell("validation", validation_losses=take_validation(run, values, settings, ensemble))
        if settings.snapshots_every is not None and run.step % settings.snapshots_every == 0:
            run.snapshots.append(run.model)
            run.snapshot_steps = np.append(run.snapshot_steps, run.step)
        if due(settings.checkpoint_every) or not run.active.any():
            save()

    def save() -> None:
        # A run that diverged keeps the checkpoint from before it did.
        if path is None or not run.step or all(reason == "diverged" for reason in run.stopped):
            return
        try:
            write(path, run, configuration, schedule)
        except OSError as error:
            warnings.warn(
                f"checkpoint: {path} could not be written after step {run.step} ({error}). Training goes on; what was "
                "written before is as it was.",
                stacklevel=5,
            )

    interrupts = stack.enter_context(Interrupts())
    lengths = _block_lengths(_MAX_BLOCK)
    try:
        tell("start")
        if run.step == 0:
            between_blocks(final=False)
        while run.step < settings.num_steps and run.active.any() and not interrupts.requested:
            length = min(next(lengths), _steps_to_boundary(run.step, settings, validation is not None))
            size, data = _MAX_BLOCK, None
            if host is not None:
                try:
                    length, size, data = host.take(length, _MAX_BLOCK)
                except KeyboardInterrupt:  # raised by the iterable, between two blocks
                    interrupts.requested = True
                    break
            active = jnp.asarray(run.active)
            was_active, start = run.active, run.step
            block = run_block(
                run.model,
                run.opt_state,
                run.carry,
                active if ensemble else active[0],
                batch_keys,
                loss_keys,
                jnp.asarray(run.step),
                jnp.asarray(length),
                data,
                loss,
                batches if host is None else None,
                rule,
                size,
                ensemble,
            )
            told = advance(run, block, length)
            for member in np.flatnonzero(was_active & ~run.active)[:_MAX_DIAGNOSES].tolist():
                taken = int(run.num_steps[member]) - 1
                batch = (
                    jax.tree.map(lambda leaf, i=taken - start: leaf[i], data)
                    if host is not None
                    else draw(batches, jax.random.fold_in(batch_keys.reshape(-1)[member], taken), False)
                )
                failed, handed_on = _first_member((run.model, run.carry), ensemble, member)
                found = find_in_data(lambda model, batch, c=handed_on: called(model, batch, c)[0], failed, batch)
                if found is not None:
                    run.failures[member] = found
            tell("steps", **told)
            between_blocks(final=run.step == settings.num_steps)
        if interrupts.requested and run.step < settings.num_steps and run.active.any():
            run.was_interrupted = True
            save()
    finally:
        for callback in callbacks:
            callback(run.event("end", settings.num_steps))
    # Without a finite validation there is no best model, and the last one is the one to return.
    run.best_model = choose(np.isfinite(run.best), run.best_model, run.model, ensemble)
    return run, schedule


class FromStart(eqx.Module):
    """A loss that takes a carry, as a metric: it starts from the first one at every validation."""

    loss: Callable = eqx.field(static=True)
    carry: Any

    def __call__(self, model: Any, batch: Any) -> Any:
        carry = self.carry
        if isinstance(self.loss, TruncatedLoss):
            # The sequences to validate on may be more or fewer.
            starts = self.loss.first_carry(model, batch)
            shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
            carry = carry if shapes(carry) == shapes(starts) else starts
        return self.loss(model, batch, carry)[0]


def _steps_to_boundary(step: int, settings: Settings, has_validation: bool) -> int:
    """How many steps until something is due."""
    periods = [settings.snapshots_every] if settings.snapshots_every is not None else []
    if has_validation:
        periods.append(settings.validate_every)
    if settings.checkpoint is not None:
        periods.append(settings.checkpoint_every)
    return min([settings.num_steps - step, *(period - step % period for period in periods)])


def _block_lengths(largest: int) -> Iterator[int]:
    """Lengths that make a block take about `_BLOCK_SECONDS`; each is timed from one `next` to the following."""
    length = 1
    # The first block compiles, so its time says nothing.
    yield length
    while True:
        start = time.perf_counter()
        yield length
        growth = min(8.0, _BLOCK_SECONDS / max(time.perf_counter() - start, 1e-6))
        length = min(largest, max(1, int(length * growth)))


def _to_parameter(leaf: Any) -> Any:
    if not eqx.is_inexact_array(leaf):
        return leaf
    return _strongly_typed(leaf)


def _strongly_typed(leaf: Any) -> Array:
    """`leaf` as an array; a weakly typed one would change its type at the first update."""
    if is_typed_key(leaf):
        return leaf
    leaf = jnp.asarray(leaf)
    return jnp.asarray(leaf, leaf.dtype)


def _first_member(tree: Any, has_member_axis: bool, member: int = 0) -> Any:
    if not has_member_axis:
        return tree
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(_one_of(arrays, member), rest)


@jax.jit  # one program for all leaves
def _one_of(arrays: Any, member: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[member], arrays)
