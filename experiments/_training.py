"""Networks with a linear readout that learn a task, as most studies train them: several seeds side by side."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax

import rnndyn as rd


def train_networks(
    task: str | Callable[..., rd.tasks.Trial],
    options: dict[str, Any],
    make_cell: Callable[[Any], Any],
    num_outputs: int,
    keys: tuple[Any, Any],
    *,
    num_networks: int,
    num_updates: int,
    batch_size: int,
    learning_rate: float,
    max_grad_norm: float = 1.0,
    num_validation: int | None = 64,
    num_looks: int = 5,
    target: float | None = None,
    progress: bool = True,
) -> Any:
    """Train by Adam on the mean squared error, with a learning rate that falls to a hundredth along a cosine.

    **Arguments:**

    - `task`, `options`: the task of `rd.tasks.batches`, and what its generator is given.
    - `make_cell`: a cell from a key.
    - `keys`: of the weights, and of the trials.
    - `num_validation`: trials of a validation batch, or `None` for no validation.
    - `num_looks`: about how often the networks are validated.
    - `target`: the validation error at which the training of a network ends.

    **Returns:** the `EnsembleFitResult`; its `member(k)` is network k.
    """
    model_key, fit_key = keys

    def make_model(key: Any) -> rd.RNN:
        cell_key, readout_key = jax.random.split(key)
        cell = make_cell(cell_key)
        size = cell.output(cell.initial_state()).size
        return rd.RNN(cell, eqx.nn.Linear(size, num_outputs, key=readout_key))

    validation: dict[str, Any] = {}
    if num_validation is not None:
        validation = {
            "validation": rd.tasks.batches(task, num_validation, **options),
            "validate_every": max(num_updates // num_looks, 1),
            "target": target,
        }
    return rd.fit_ensemble(
        eqx.filter_vmap(make_model)(jax.random.split(model_key, num_networks)),
        rd.training.over_trials(rd.training.mean_squared_error),
        rd.tasks.batches(task, batch_size, **options),
        optax.adam,
        learning_rate=optax.cosine_decay_schedule(learning_rate, num_updates, alpha=0.01),
        num_steps=num_updates,
        max_grad_norm=max_grad_norm,
        key=fit_key,
        progress=progress,
        **validation,
    )
