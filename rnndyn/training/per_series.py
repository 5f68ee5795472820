"""Weights for each of several series: what they share is learned once, and each has a few numbers of its own."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._validation import check_at_least


def per_series(model: Any, num_series: int, num_features: int, *, key: PRNGKeyArray) -> "PerSeries":
    r"""A network whose weights differ between series along a few directions, which all of them share.

    $$\theta_k = \theta + \sum_{p=1}^{P} l_{kp}\, B_p$$

    with all weights $\theta$ of a model, the features $l_k$ of series k and directions $B_p$ of the shape of
    $\theta$. Systems of one kind, with different parameters, are then learned together, and their features say how
    they differ.

    **Arguments:**

    - `model`: any model that `forced_loss` takes.
    - `num_series`: K.
    - `num_features`: P.
    - `key`: fixes the first features, normal with deviation 1; the directions start at zero, so that all series start
        with the weights of `model`.

    **Returns:** a `PerSeries`: `.member(k)` is the model of series k. `forced_loss` trains it on
    `SeriesWindows(..., with_series=True)`.

    **Raises:** `ValueError` for counts below 1.

    ??? cite "Reference"
        M. Brenner, E. Weber, G. Koppe & D. Durstewitz (2025), "Learning interpretable hierarchical dynamical systems
        models from time series data", ICLR.
    """
    check_at_least("num_series", num_series, 1)
    check_at_least("num_features", num_features, 1)
    features = jax.random.normal(key, (num_series, num_features))
    weights = eqx.filter(model, eqx.is_inexact_array)
    directions = jax.tree.map(lambda leaf: jnp.zeros((num_features, *jnp.shape(leaf)), jnp.result_type(leaf)), weights)
    return PerSeries(model, features, directions)


class PerSeries(eqx.Module):
    """A network with weights for each of K series; made by `per_series`.

    - `model`: the network with the weights that all share.
    - `features`: the numbers of each series, (K, P).
    - `directions`: how each feature changes the weights: `model` with leaves (P, ...), `None` where there are none.
    """

    model: Any
    features: Float[Array, "K P"]
    directions: Any

    def member(self, index: Any) -> Any:
        """The network of series `index`, an integer from 0 to K - 1, also traced."""
        if isinstance(index, int) and not 0 <= index < len(self.features):
            raise ValueError(f"index: expected 0 to {len(self.features) - 1}, got {index}.")
        features = self.features[index]
        weights, rest = eqx.partition(self.model, eqx.is_inexact_array)
        own = jax.tree.map(
            lambda leaf, along: leaf + jnp.tensordot(features.astype(along.dtype), along, axes=1),
            weights,
            self.directions,
        )
        return eqx.combine(own, rest)
