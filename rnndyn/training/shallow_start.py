"""A shallow piecewise-linear network that already predicts a step: random kinks on the data, the rest by regression."""

from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.cells.piecewise_linear import PiecewiseLinearCell
from rnndyn.tasks.dynamical_systems.series import values_of
from rnndyn.training._curved_directions import curved_directions


def shallow_start(
    series: Any,
    num_hidden: int,
    *,
    num_directions: int | None = None,
    directions: str = "spread",
    ridge: float = 1e-8,
    spread: float = 0.3,
    dtype: Any = None,
    key: PRNGKeyArray,
) -> PiecewiseLinearCell:
    r"""A shallow piecewise-linear cell to begin training with, whose outer weights are those of ridge regression.

    $$\min_{A, W_1, h_1} \frac1T \sum_t \bigl\| A z_t + W_1 \mathrm{relu}(W_2 z_t + h_2) + h_1 - z_{t+1} \bigr\|^2
    + \beta \|W_1\|^2$$

    with directions $W_2$ of length 1 and kinks $h_2$ where the samples are. The states are the samples. Training from
    here on (`forced_loss`, with a small learning rate) has to mend the dynamics, not to find them.

    **Arguments:**

    - `series`: a `rnndyn.tasks.dynamical_systems.Series`, standardised best, or arrays that its `as_series` takes. Of
        one with missing samples the regression is over pairs of successive samples that are whole.
    - `num_hidden`: L, the number of ReLUs.
    - `num_directions`: D, into how many directions the rows of $W_2$ point. Each is then shared by L / D ReLUs (one
        more or less) whose kinks are equally spaced over the range of the samples. When not given every ReLU has a
        random direction, and a kink near a random sample.
    - `directions`: which ones: `"spread"`, far from each other at random; or `"curvature"`, those along which the
        samples bend most: eigenvectors of the quadratic forms that fit the next sample best, filled up with spread
        ones where there are fewer. For many variables of which each depends on a few.
    - `ridge`: $\beta$, above 0.
    - `spread`: without `num_directions`: the standard deviation of the distance of a kink from its sample, in the
        units of the series.
    - `dtype`: of the weights; JAX's default float when not given. The regression is in float64 in any case.
    - `key`: fixes $W_2$ and $h_2$.

    **Returns:** a `PiecewiseLinearCell` without input.

    **Raises:** `ValueError` for a series that `as_series` refuses, one without two whole samples in a row, or a number
    out of range.

    Which kinks are better hangs on the number N of variables. A polynomial of degree d in N variables is a sum of
    polynomials of N + d - 1 over d fixed directions (for N = 3: 6, 10 and 15 for d = 2, 3, 4), and a polynomial of one
    direction is approximated by equally spaced kinks with an error of the square of their spacing. For a smooth
    low-dimensional map sampled densely in time, which is nearly quadratic, some ten directions are several times more
    exact than random kinks. In twenty dimensions it takes 210 spread ones for the quadratic forms alone; where each
    variable is moved by products of a few others, as in `Lorenz96`, two curved ones for each variable do it. The
    quadratic fit costs O(S N^4) for S samples.

    Reference: G.-B. Huang, Q.-Y. Zhu & C.-K. Siew (2006), *Extreme learning machine: theory and applications*, of
    random hidden layers with a regression behind; J. H. Friedman & W. Stuetzle (1981), *Projection pursuit regression*,
    of sums of functions of one direction each; K.-C. Li (1992), *On principal Hessian directions for data visualization
    and dimension reduction*, of the eigenvectors of a quadratic fit.
    """
    values = values_of(series, missing=True)
    check_at_least("num_hidden", num_hidden, 1)
    check_at_least("spread", spread, 0)
    if not ridge > 0:
        raise ValueError(f"ridge: expected a positive number, got {ridge}.")
    if num_directions is not None and not 1 <= num_directions <= num_hidden:
        raise ValueError(f"num_directions: expected 1 to num_hidden = {num_hidden}, got {num_directions}.")
    if directions not in ("spread", "curvature"):
        raise ValueError(f'directions: expected "spread" or "curvature", got {directions!r}.')
    if directions == "curvature" and num_directions is None:
        raise ValueError('directions: "curvature" takes the num_directions most curved ones; say how many.')
    size = values.shape[2]
    before, after = values[:, :-1].reshape(-1, size), values[:, 1:].reshape(-1, size)
    whole = ~np.isnan(before).any(axis=1) & ~np.isnan(after).any(axis=1)
    if not whole.any():
        raise ValueError("series: there are no two samples in a row without missing entries to learn a step from.")
    before, after = before[whole], after[whole]
    # NumPy draws with a seed from the key: JAX would compile each of these few draws.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    if num_directions is None:
        hidden_weight = _on_sphere(rng, num_hidden, size)
        samples = before[rng.integers(len(before), size=num_hidden)]
        hidden_bias = spread * rng.standard_normal(num_hidden) - (hidden_weight * samples).sum(axis=1)
    else:
        curved = directions == "curvature"
        rows = curved_directions(before, after, num_directions) if curved else _on_sphere(rng, 1, size)
        rows = _spread_out(rng, rows, num_directions)
        hidden_weight, hidden_bias = _equally_spaced(rng, before, rows, num_hidden)
    gram, cross, middle, target_middle = _moments(before, after, hidden_weight, hidden_bias)
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
    hidden_weight, hidden_bias = np.asarray(hidden_weight, dtype), np.asarray(hidden_bias, dtype)
    return PiecewiseLinearCell.from_weights(
        diagonal, weight_hh, bias, hidden_weight=hidden_weight, hidden_bias=hidden_bias
    )


def _on_sphere(rng: np.random.Generator, number: int, size: int) -> np.ndarray:
    rows = rng.standard_normal((number, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _spread_out(rng: np.random.Generator, directions: np.ndarray, number: int) -> np.ndarray:
    """These directions and, until there are so many, others far from all before them."""
    while len(directions) < number:
        # The best of some candidates (Mitchell 1991): nearly parallel directions would make the regression singular.
        candidates = _on_sphere(rng, 64, directions.shape[1])
        best = np.argmin(np.abs(candidates @ directions.T).max(axis=1))
        directions = np.append(directions, candidates[[best]], axis=0)
    return directions


def _equally_spaced(
    rng: np.random.Generator, samples: np.ndarray, directions: np.ndarray, num_hidden: int
) -> tuple[np.ndarray, np.ndarray]:
    """ReLUs that share few directions, with kinks at equal distances over the range of the samples along each."""
    counts = np.full(len(directions), num_hidden // len(directions))
    counts[: num_hidden % len(directions)] += 1
    along = samples @ directions.T
    hidden_bias = [
        -(low + (high - low) * (np.arange(count) + rng.random()) / count)
        for low, high, count in zip(along.min(axis=0), along.max(axis=0), counts)
    ]
    return np.repeat(directions, counts, axis=0), np.concatenate(hidden_bias)


def _moments(
    before: np.ndarray, after: np.ndarray, directions: np.ndarray, hidden_bias: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Covariances of the features and states among themselves and with the next states, and the means of both.

    Centred, so that the constant needs no equation and is not penalised; in pieces, since there may be many samples.
    """
    pieces = [slice(i, i + 8192) for i in range(0, len(before), 8192)]

    def columns(piece: slice) -> np.ndarray:
        return np.concatenate([np.maximum(before[piece] @ directions.T + hidden_bias, 0), before[piece]], axis=1)

    middle = np.sum([columns(piece).sum(axis=0) for piece in pieces], axis=0) / len(before)
    target_middle = after.mean(axis=0)
    gram, cross = np.zeros((len(middle), len(middle))), np.zeros((len(middle), after.shape[1]))
    for piece in pieces:
        centred = columns(piece) - middle
        gram += centred.T @ centred
        cross += centred.T @ (after[piece] - target_middle)
    return gram / len(before), cross / len(before), middle, target_middle
