"""The training loop that `fit` and `fit_ensemble` share: blocks of steps, and what happens between them."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from tqdm.auto import tqdm

from rnndyn.training._data import HostBatches
from rnndyn.training._run import Run, choose, configure, read, record_block, record_validation, write
from rnndyn.training._settings import Settings, resolve_optimizer
from rnndyn.training._steps import draw, evaluate, initial_opt_state, run_block

_MAX_BLOCK = 256
"""Most steps between two returns to Python."""

_BLOCK_SECONDS = 0.25
"""How long a block should take: short enough for a progress bar, long against the cost of starting one."""


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
    settings.check(has_validation=validation is not None)
    optimizer, schedule = resolve_optimizer(optimizer, learning_rate)
    model = jax.tree.map(_to_parameter, model)
    if not any(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(model)):
        raise ValueError("model: has no floating-point array, so there is nothing to train.")
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = jax.random.wrap_key_data(keys)
    num_members = keys.shape[0] if ensemble else 1
    split = jax.vmap(jax.random.split)(keys) if ensemble else jax.random.split(keys)
    batch_keys, validation_keys = split[..., 0], split[..., 1]
    carry = None if carry is None else jax.tree.map(_strongly_typed, carry)
    if metric is None:
        metric = loss if carry is None else FromStart(loss, carry)
    per_member = callable(validation) and ensemble
    host = None if callable(batches) else _host_batches(batches)

    one_model, one_key = _first_member(model, ensemble), batch_keys.reshape(-1)[0]
    example = _example(batches, host, one_key)
    if carry is None:
        _check_scalar("loss", loss, one_model, example)
    else:
        _check_carry(loss, one_model, example, carry)
        if ensemble:
            carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_members, *leaf.shape)), carry)
    if validation is not None:
        validation_batch = draw(validation, validation_keys, ensemble) if callable(validation) else validation
        validation_batch = jax.tree.map(jnp.asarray, validation_batch)
        _check_scalar("metric", metric, one_model, _first_member(validation_batch, per_member))

    run = Run.new(model, initial_opt_state(optimizer, model, ensemble), carry, num_members)
    path = None if settings.checkpoint is None else Path(settings.checkpoint)
    configuration = {}
    if path is not None:
        configuration = configure(loss, batches, example, optimizer, metric, validation, model, keys, settings)
        if settings.resume and path.exists():
            run = read(path, run, configuration, schedule)
            if host is not None:
                host.skip(run.step)

    def between_blocks(final: bool) -> None:
        due = lambda every: every is not None and (final or run.step % every == 0)
        if validation is not None and due(settings.validate_every):
            values = evaluate(metric, run.model, validation_batch, ensemble, per_member)
            record_validation(run, np.asarray(values, np.float64).reshape(num_members), settings, ensemble)
        if settings.snapshots_every is not None and run.step % settings.snapshots_every == 0:
            run.snapshots.append(run.model)
            run.snapshot_steps = np.append(run.snapshot_steps, run.step)
        # A run that diverged keeps the checkpoint from before it did.
        ended = final or not run.active.any()
        all_diverged = all(reason == "diverged" for reason in run.stopped)
        if path is not None and run.step and not all_diverged and (ended or due(settings.checkpoint_every)):
            write(path, run, configuration, schedule)

    if run.step == 0:
        between_blocks(final=False)
    max_block = _MAX_BLOCK if host is None else host.max_block(_MAX_BLOCK)
    lengths = _block_lengths(max_block)
    hidden = None if settings.progress else True
    with tqdm(total=settings.num_steps, initial=run.step, desc="fit", disable=hidden) as bar:
        while run.step < settings.num_steps and run.active.any():
            length = min(next(lengths), _steps_to_boundary(run.step, settings, validation is not None))
            active = jnp.asarray(run.active)
            block = run_block(
                run.model,
                run.opt_state,
                run.carry,
                active if ensemble else active[0],
                batch_keys,
                jnp.asarray(run.step),
                jnp.asarray(length),
                None if host is None else host.take(length, max_block),
                loss,
                batches if host is None else None,
                optimizer,
                settings.max_grad_norm,
                max_block,
                ensemble,
            )
            record_block(run, block, length)
            between_blocks(final=run.step == settings.num_steps)
            bar.set_postfix(_postfix(run), refresh=False)
            bar.update(length)
    # Without a finite validation there is no best model, and the last one is the one to return.
    run.best_model = choose(np.isfinite(run.best), run.best_model, run.model, ensemble)
    return run, schedule


class FromStart(eqx.Module):
    """A loss that takes a carry, as a metric: it starts from the first one at every validation."""

    loss: Callable = eqx.field(static=True)
    carry: Any

    def __call__(self, model: Any, batch: Any) -> Any:
        return self.loss(model, batch, self.carry)[0]


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


def _postfix(run: Run) -> dict[str, str]:
    running = run.active
    recent = run.losses[running, -1] if running.any() else run.losses[:, -1]
    shown = {"loss": f"{np.median(recent):.3g}"}
    if run.validation_losses.shape[1] and np.isfinite(run.best).any():
        shown["best validation"] = f"{np.median(run.best[np.isfinite(run.best)]):.3g}"
    if len(run.stopped) > 1:
        shown["training"] = f"{running.sum()} of {len(run.stopped)}"
    return shown


def _to_parameter(leaf: Any) -> Any:
    if not eqx.is_inexact_array(leaf):
        return leaf
    return _strongly_typed(leaf)


def _strongly_typed(leaf: Any) -> Array:
    """`leaf` as an array; a weakly typed one would change its type at the first update."""
    leaf = jnp.asarray(leaf)
    return jnp.asarray(leaf, leaf.dtype)


def _host_batches(batches: Any) -> HostBatches:
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


def _example(batches: Any, host: HostBatches | None, key: Array) -> Any:
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


def _check_scalar(name: str, function: Callable, model: Any, batch: Any) -> None:
    out = eqx.filter_eval_shape(function, model, batch)
    found = f"a {type(out).__name__}"
    if isinstance(out, jax.ShapeDtypeStruct):
        if out.shape == () and jnp.issubdtype(out.dtype, jnp.floating):
            return
        found = f"shape {out.shape} of {out.dtype}"
    raise ValueError(f"{name}: expected {name}(model, batch) to be one floating-point number, got {found}.")


def _check_carry(loss: Callable, model: Any, batch: Any, carry: Any) -> None:
    out = eqx.filter_eval_shape(loss, model, batch, carry)
    if not isinstance(out, tuple) or len(out) != 2:
        raise ValueError(
            f"loss: with carry=, expected loss(model, batch, carry) to be the pair (value, carry), got a "
            f"{type(out).__name__}."
        )
    _check_scalar("loss", lambda *_: out[0], model, batch)
    before, after = (eqx.tree_pformat(tree, struct_as_array=True) for tree in (carry, out[1]))
    if before != after:
        raise ValueError(f"carry: expected the loss to keep its structure, shapes and dtypes, {before}, got {after}.")


def _first_member(tree: Any, has_member_axis: bool) -> Any:
    if not has_member_axis:
        return tree
    return jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, tree)
