"""Losses of one trial: outputs and targets over time, and a mask that says which steps count."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def mean_squared_error(
    outputs: Array | np.ndarray, targets: Array | np.ndarray, mask: Array | np.ndarray | None = None
) -> Float[Array, ""]:
    r"""The squared error of one trial, averaged over outputs and over the steps that count.

    $$L = \frac{\sum_t m_t \, \frac{1}{O} \sum_o (y_{to} - \hat y_{to})^2}{\sum_t m_t}$$

    **Arguments:**

    - `outputs`: what the network gave, `(T, O)`.
    - `targets`: what it should have given, `(T, O)`. Steps that do not count may hold anything, NaN included.
    - `mask`: which steps count, `(T,)`: booleans or non-negative weights; all of them by default.

    **Returns:** the loss; 0 when no step counts.

    **Raises:** `ValueError` when the shapes do not fit together.
    """
    _check_shapes(outputs, targets, mask)
    outputs, targets = _where_counted(outputs, targets, mask)
    return _mean_over_steps(jnp.mean((outputs - targets) ** 2, axis=1), mask)


def softmax_cross_entropy(
    outputs: Array | np.ndarray, targets: Array | np.ndarray, mask: Array | np.ndarray | None = None
) -> Float[Array, ""]:
    r"""The cross-entropy between target classes and the softmax of the outputs, in nats per step that counts.

    $$L = -\frac{\sum_t m_t \sum_o y_{to} \log \operatorname{softmax}(\hat y_t)_o}{\sum_t m_t}$$

    **Arguments:**

    - `outputs`: unnormalised log-probabilities of the classes (logits), `(T, O)`.
    - `targets`: probabilities of the classes, `(T, O)`, one-hot for a known class; or class numbers, integers `(T,)`.
    - `mask`: which steps count, `(T,)`: booleans or non-negative weights; all of them by default.

    **Returns:** the loss; ln O for outputs that know nothing, 0 when no step counts.

    **Raises:** `ValueError` when the shapes do not fit together, or when targets `(T,)` are not integers.
    """
    if np.ndim(targets) == 1 and np.ndim(outputs) == 2:
        if not jnp.issubdtype(jnp.result_type(targets), jnp.integer):
            raise ValueError(
                f"targets: class numbers of shape (T,) must be integers, got {jnp.result_type(targets)}. Probabilities "
                "have the shape (T, O) of the outputs."
            )
        targets = jax.nn.one_hot(targets, np.shape(outputs)[1], dtype=jnp.result_type(outputs))
    _check_shapes(outputs, targets, mask)
    outputs, targets = _where_counted(outputs, targets, mask)
    return _mean_over_steps(-jnp.sum(targets * jax.nn.log_softmax(outputs, axis=1), axis=1), mask)


def sigmoid_cross_entropy(
    outputs: Array | np.ndarray, targets: Array | np.ndarray, mask: Array | np.ndarray | None = None
) -> Float[Array, ""]:
    r"""The cross-entropy between independent binary targets and the sigmoid of the outputs, in nats.

    $$L = -\frac{\sum_t m_t \, \frac{1}{O} \sum_o \left[ y_{to} \log \sigma(\hat y_{to})
    + (1 - y_{to}) \log (1 - \sigma(\hat y_{to})) \right]}{\sum_t m_t}$$

    **Arguments:**

    - `outputs`: log-odds, `(T, O)`.
    - `targets`: probabilities in [0, 1], `(T, O)`.
    - `mask`: which steps count, `(T,)`: booleans or non-negative weights; all of them by default.

    **Returns:** the loss; ln 2 for outputs that know nothing, 0 when no step counts.

    **Raises:** `ValueError` when the shapes do not fit together.
    """
    _check_shapes(outputs, targets, mask)
    outputs, targets = _where_counted(outputs, targets, mask)
    # log sigma(x) = -softplus(-x), which does not underflow.
    nats = targets * jax.nn.softplus(-outputs) + (1 - targets) * jax.nn.softplus(outputs)
    return _mean_over_steps(jnp.mean(nats, axis=1), mask)


def over_trials(trial_loss: Callable[..., Any]) -> "OverTrials":
    """A loss for `rnndyn.fit`: the mean of a trial's loss over the trials of a batch.

    ```python
    loss = rd.training.over_trials(rd.training.mean_squared_error)
    loss(model, (inputs, targets, mask))      # (B, T, I), (B, T, O), (B, T)
    ```

    **Arguments:**

    - `trial_loss`: `trial_loss(outputs, targets, mask)` -> scalar, for one trial.

    **Returns:** a function of a model, which maps inputs `(T, I)` to outputs `(T, O)`, and a batch
    `(inputs, targets, mask)` or `(inputs, targets)` with a leading axis of trials. Every trial weighs the same,
    however many of its steps count.
    """
    return OverTrials(trial_loss)


class OverTrials(eqx.Module):
    """What `over_trials` returns."""

    # Static, so that two losses made of one function are one to jit.
    trial_loss: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, model: Callable[[Any], Any], batch: Any) -> Float[Array, ""]:
        if len(batch) not in (2, 3):
            raise ValueError(f"batch: expected (inputs, targets) or (inputs, targets, mask), got {len(batch)} entries.")
        inputs, *rest = batch
        return jnp.mean(jax.vmap(self.trial_loss)(jax.vmap(model)(inputs), *rest))


def _check_shapes(outputs: Any, targets: Any, mask: Any) -> None:
    shape = np.shape(outputs)
    if len(shape) != 2:
        raise ValueError(
            f"outputs: expected one trial of shape (T, O), got shape {shape}. For a batch, use "
            "rnndyn.training.over_trials or jax.vmap."
        )
    if 0 in shape:
        raise ValueError(f"outputs: expected at least one step and one output, got shape {shape}.")
    if np.shape(targets) != shape:
        raise ValueError(f"targets: expected the shape {shape} of the outputs, got {np.shape(targets)}.")
    if mask is not None and np.shape(mask) != shape[:1]:
        raise ValueError(f"mask: expected one entry per step, shape {shape[:1]}, got {np.shape(mask)}.")


def _where_counted(outputs: Any, targets: Any, mask: Any) -> tuple[Array, Array]:
    """Zeros where a step does not count: NaN there must reach neither the loss nor, times zero, its gradient."""
    outputs, targets = jnp.asarray(outputs), jnp.asarray(targets)
    if mask is None:
        return outputs, targets
    counts = (jnp.asarray(mask) != 0)[:, None]
    return jnp.where(counts, outputs, 0), jnp.where(counts, targets, 0)


def _mean_over_steps(losses: Float[Array, " T"], mask: Any) -> Float[Array, ""]:
    if mask is None:
        return jnp.mean(losses)
    weights = jnp.asarray(mask).astype(losses.dtype)
    total = jnp.sum(weights)
    return jnp.sum(weights * losses) / jnp.where(total > 0, total, 1)
