"""A shallow piecewise-linear network that already predicts a step: random kinks on the data, the rest by regression."""

from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.cells.piecewise_linear import PiecewiseLinearCell
from rnndyn.tasks.dynamical_systems.series import values_of


def shallow_start(
    series: Any, num_hidden: int, *, ridge: float = 1e-8, spread: float = 0.3, dtype: Any = None, key: PRNGKeyArray
) -> PiecewiseLinearCell:
    r"""A shallow piecewise-linear cell to begin training with, whose outer weights are those of ridge regression.

    $$\min_{A, W_1, h_1} \frac1T \sum_t \bigl\| A z_t + W_1 \mathrm{relu}(W_2 z_t + h_2) + h_1 - z_{t+1} \bigr\|^2
    + \beta \|W_1\|^2$$

    with directions $W_2$ of length 1 drawn at random and $h_2$ such that the kink of every ReLU passes near a random
    sample. The states are the samples. Training from here on (`forced_loss`, with a small learning rate) has to mend
    the dynamics, not to find them.

    **Arguments:**

    - `series`: a `rnndyn.tasks.dynamical_systems.Series`, standardised best, or arrays that its `as_series` takes.
    - `num_hidden`: L, the number of ReLUs.
    - `ridge`: $\beta$, above 0.
    - `spread`: the standard deviation of the distance of a kink from its sample, in the units of the series.
    - `dtype`: of the weights; JAX's default float when not given. The regression is in float64 in any case.
    - `key`: fixes $W_2$ and $h_2$.

    **Returns:** a `PiecewiseLinearCell` without input.

    **Raises:** `ValueError` for a series that `as_series` refuses, or a number out of range.

    Reference: G.-B. Huang, Q.-Y. Zhu & C.-K. Siew (2006), *Extreme learning machine: theory and applications*, of
    random hidden layers with a regression behind.
    """
    values = values_of(series)
    check_at_least("num_hidden", num_hidden, 1)
    check_at_least("spread", spread, 0)
    if not ridge > 0:
        raise ValueError(f"ridge: expected a positive number, got {ridge}.")
    size = values.shape[2]
    before, after = values[:, :-1].reshape(-1, size), values[:, 1:].reshape(-1, size)
    direction_key, sample_key, spread_key = jax.random.split(key, 3)
    directions = np.asarray(jax.random.normal(direction_key, (num_hidden, size)), float)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    samples = before[np.asarray(jax.random.randint(sample_key, (num_hidden,), 0, len(before)))]
    offsets = spread * np.asarray(jax.random.normal(spread_key, (num_hidden,)), float)
    hidden_bias = offsets - (directions * samples).sum(axis=1)
    # Centred, so that the constant needs no equation and is not penalised.
    features = np.maximum(before @ directions.T + hidden_bias, 0)
    columns = np.concatenate([features, before], axis=1)
    middle, target_middle = columns.mean(axis=0), after.mean(axis=0)
    columns = columns - middle
    gram, cross = columns.T @ columns / len(columns), columns.T @ (after - target_middle) / len(columns)
    diagonal, weight_hh = np.empty(size), np.empty((size, num_hidden))
    bias = np.empty(size)
    penalty = np.diag(np.append(np.full(num_hidden, ridge), 0.0))
    for unit in range(size):
        # A is diagonal: a unit sees the features and itself.
        chosen = np.append(np.arange(num_hidden), num_hidden + unit)
        solution = np.linalg.solve(gram[np.ix_(chosen, chosen)] + penalty, cross[chosen, unit])
        weight_hh[unit], diagonal[unit] = solution[:-1], solution[-1]
        bias[unit] = target_middle[unit] - solution @ middle[chosen]
    dtype = jax.numpy.result_type(float) if dtype is None else dtype
    diagonal, weight_hh, bias = (np.asarray(value, dtype) for value in (diagonal, weight_hh, bias))
    directions, hidden_bias = np.asarray(directions, dtype), np.asarray(hidden_bias, dtype)
    return PiecewiseLinearCell.from_weights(
        diagonal, weight_hh, bias, hidden_weight=directions, hidden_bias=hidden_bias
    )
