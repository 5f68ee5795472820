"""Losses of one trial: outputs and targets over time, and a mask that says which steps count."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn.networks.tokens import check_tokens, known_tokens
from rnndyn.training._norm import wide


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
    outputs: Array | np.ndarray,
    targets: Array | np.ndarray,
    mask: Array | np.ndarray | None = None,
    *,
    ignore_index: int | None = None,
) -> Float[Array, ""]:
    r"""The cross-entropy between target classes and the softmax of the outputs, in nats per step that counts.

    $$L = -\frac{\sum_t m_t \sum_o y_{to} \log \operatorname{softmax}(\hat y_t)_o}{\sum_t m_t}$$

    **Arguments:**

    - `outputs`: unnormalised log-probabilities of the classes (logits), `(T, O)`.
    - `targets`: probabilities of the classes, `(T, O)`, one-hot for a known class; or class numbers, integers `(T,)`.
    - `mask`: which steps count, `(T,)`: booleans or non-negative weights; all of them by default.
    - `ignore_index`: a class number that marks steps which do not count, such as -100.

    **Returns:** the loss; ln O for outputs that know nothing, 0 when no step counts. NaN for a class number out of
    range where targets are traced and cannot be looked at.

    **Raises:** `ValueError` when the shapes do not fit together, when targets `(T,)` are not integers, or for a class
    number out of range at a step that counts.
    """
    if np.ndim(targets) == 1 and np.ndim(outputs) == 2:
        targets, mask, is_known = _classes(outputs, targets, mask, ignore_index)
        logits = jnp.asarray(_where(_counted(mask), outputs))
        # Padding may hold infinite logits; a class out of range costs NaN, not nothing.
        picked = jnp.take_along_axis(jax.nn.log_softmax(wide(logits), axis=1), targets[:, None], axis=1)[:, 0]
        return _mean_over_steps(-jnp.where(is_known, picked, jnp.nan), mask)
    if ignore_index is not None:
        raise ValueError("ignore_index: is a class number; targets that are probabilities (T, O) have none.")
    _check_shapes(outputs, targets, mask)
    outputs, targets = _where_counted(outputs, targets, mask)
    return _mean_over_steps(-jnp.sum(targets * jax.nn.log_softmax(outputs, axis=1), axis=1), mask)


def accuracy(
    outputs: Array | np.ndarray,
    targets: Array | np.ndarray,
    mask: Array | np.ndarray | None = None,
    *,
    ignore_index: int | None = None,
) -> Float[Array, ""]:
    r"""The share of the steps that count whose largest output is that of the target class.

    **Arguments:** as of `softmax_cross_entropy`; of probabilities, the target class is the likeliest.

    **Returns:** a number from 0 to 1; 0 when no step counts. `error_rate` is 1 minus it, for a metric that is to fall.

    **Raises:** `ValueError` as `softmax_cross_entropy`.
    """
    return _mean_over_steps(*_hits(outputs, targets, mask, ignore_index))


def error_rate(
    outputs: Array | np.ndarray,
    targets: Array | np.ndarray,
    mask: Array | np.ndarray | None = None,
    *,
    ignore_index: int | None = None,
) -> Float[Array, ""]:
    """The share of the steps that count whose largest output is not that of the target class.

    **Arguments, raises:** as of `accuracy`.

    **Returns:** a number from 0 to 1; 0 when no step counts.
    """
    hits, mask = _hits(outputs, targets, mask, ignore_index)
    return _mean_over_steps(1 - hits, mask)


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


def _hits(outputs: Any, targets: Any, mask: Any, ignore_index: int | None) -> tuple[Array, Any]:
    """1 at the steps that are right, and the mask of those that count; NaN for a class out of range."""
    if np.ndim(targets) == 1 and np.ndim(outputs) == 2:
        targets, mask, is_known = _classes(outputs, targets, mask, ignore_index)
    else:
        if ignore_index is not None:
            raise ValueError("ignore_index: is a class number; targets that are probabilities (T, O) have none.")
        _check_shapes(outputs, targets, mask)
        targets, is_known = jnp.argmax(jnp.asarray(targets), axis=1), True
    right = jnp.argmax(jnp.asarray(outputs), axis=1) == targets
    # An output that is NaN is no answer: its argmax is not a class that the network chose.
    is_known &= ~jnp.any(jnp.isnan(_where(_counted(mask), outputs)), axis=1)
    return jnp.where(is_known, right.astype(wide(outputs).dtype), jnp.nan), mask


def _classes(outputs: Any, targets: Any, mask: Any, ignore_index: int | None) -> tuple[Array, Any, Array]:
    """Class numbers `(T,)` in range, which steps count, and which class numbers were in range."""
    if not jnp.issubdtype(jnp.result_type(targets), jnp.integer):
        raise ValueError(
            f"targets: class numbers of shape (T,) must be integers, got {jnp.result_type(targets)}. Probabilities "
            "have the shape (T, O) of the outputs."
        )
    _check_shapes(outputs, None, mask)
    if np.shape(targets) != np.shape(outputs)[:1]:
        raise ValueError(f"targets: expected one class per step, {np.shape(outputs)[:1]}, got {np.shape(targets)}.")
    mask = without_index(targets, mask, ignore_index)
    check_tokens("targets", targets, np.shape(outputs)[1], mask)
    targets, is_known = known_tokens(jnp.asarray(targets), np.shape(outputs)[1])
    return targets, mask, is_known if mask is None else is_known | (jnp.asarray(mask) == 0)


def without_index(targets: Any, mask: Any, ignore_index: int | None) -> Any:
    """The mask of the steps that count, without those whose class number is `ignore_index`."""
    if ignore_index is None:
        return mask
    xp = jnp if isinstance(targets, jax.Array) or isinstance(mask, jax.Array) else np
    kept = xp.asarray(targets) != ignore_index
    return kept if mask is None else xp.where(kept, mask, xp.zeros_like(mask))


def _check_shapes(outputs: Any, targets: Any, mask: Any) -> None:
    shape = np.shape(outputs)
    if len(shape) != 2:
        raise ValueError(
            f"outputs: expected one trial of shape (T, O), got shape {shape}. For a batch, use "
            "rnndyn.training.over_trials or jax.vmap."
        )
    if 0 in shape:
        raise ValueError(f"outputs: expected at least one step and one output, got shape {shape}.")
    if targets is not None and np.shape(targets) != shape:
        raise ValueError(f"targets: expected the shape {shape} of the outputs, got {np.shape(targets)}.")
    if mask is not None and np.shape(mask) != shape[:1]:
        raise ValueError(f"mask: expected one entry per step, shape {shape[:1]}, got {np.shape(mask)}.")


def _counted(mask: Any) -> Any:
    return None if mask is None else (jnp.asarray(mask) != 0)[:, None]


def _where(counted: Any, values: Any) -> Array:
    values = jnp.asarray(values)
    return values if counted is None else jnp.where(counted, values, 0)


def _where_counted(outputs: Any, targets: Any, mask: Any) -> tuple[Array, Array]:
    """Zeros where a step does not count: NaN there must reach neither the loss nor, times zero, its gradient.

    Both in at least float32: sums of squares of half-precision numbers overflow and lose what is small.
    """
    counted = _counted(mask)
    return wide(_where(counted, outputs)), wide(_where(counted, targets))


def _mean_over_steps(losses: Float[Array, " T"], mask: Any) -> Float[Array, ""]:
    if mask is None:
        return jnp.mean(losses)
    weights = jnp.asarray(mask).astype(losses.dtype)
    total = jnp.sum(weights)
    return jnp.sum(jnp.where(weights != 0, weights * losses, 0)) / jnp.where(total > 0, total, 1)
