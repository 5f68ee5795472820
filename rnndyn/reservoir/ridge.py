"""Ridge regression of the readout, from sums over the series."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled
from rnndyn.networks.unroll import unroll
from rnndyn.reservoir.cells import ReservoirCell, features


class Sums(NamedTuple):
    """Means and second moments of features and targets over the samples that count."""

    features: Float[Array, " H"]
    targets: Float[Array, " I"]
    covariance: Float[Array, "H H"]
    cross: Float[Array, "H I"]
    target_variance: Float[Array, " I"]


@compiled
def gram(cell: ReservoirCell, values: Float[Array, "K T I"], num_washout: int, squares: bool) -> Sums:
    """The sums of all series: the features that have seen samples up to t - 1 stand beside sample t."""
    states = jax.vmap(lambda signal: unroll(cell, signal[:-1]))(values)[:, num_washout:]
    seen = features(states, squares).reshape(-1, states.shape[-1])
    targets = values[:, 1 + num_washout :].reshape(-1, values.shape[-1])
    # Centred before they are squared: a mean that is large against the spread would cost digits.
    middle, target_middle = seen.mean(axis=0), targets.mean(axis=0)
    seen, targets = seen - middle, targets - target_middle
    number = len(seen)
    covariance, cross = jnp.matmul(seen.T, seen) / number, jnp.matmul(seen.T, targets) / number
    return Sums(middle, target_middle, covariance, cross, (targets**2).mean(axis=0))


@jax.jit
def solve(sums: Sums, ridge: Any) -> tuple[Float[Array, "I H"], Float[Array, " I"], Float[Array, " I"]]:
    """Weights, bias, and the mean squared error on the series, of the readout with this ridge."""
    size = len(sums.features)
    weight = jnp.linalg.solve(sums.covariance + ridge * jnp.eye(size, dtype=sums.covariance.dtype), sums.cross)
    error = sums.target_variance - 2 * (weight * sums.cross).sum(axis=0)
    error = error + (weight * (sums.covariance @ weight)).sum(axis=0)
    # A difference of numbers of order 1: what is below rounding may come out negative.
    return weight.T, sums.targets - weight.T @ sums.features, jnp.maximum(error, 0)


def check_ridge(ridge: Any) -> None:
    """Raise unless every ridge is positive."""
    if not (np.isfinite(ridge) & (np.asarray(ridge) > 0)).all():
        raise ValueError(f"ridge: expected a positive number, got {ridge}.")
