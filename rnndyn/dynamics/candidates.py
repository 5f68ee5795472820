"""Where to start looking: candidates drawn around the states that a network visits."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from rnndyn._validation import check_at_least


def sample_candidates(
    states: ArrayLike,
    num: int,
    *,
    key: PRNGKeyArray,
    noise: float = 0.1,
) -> Float[Array, "K N"]:
    """Draw starting points for a search from visited states: a third as they are, a third noisy, a third mixed.

    Attractors lie among the states visited; saddles lie between them, where mixtures (random convex combinations of
    two or three visited states) fall; noise leaves the subspace that the trajectories span.

    **Arguments:**

    - `states`: visited flat states, shape `(..., N)`; leading axes (trials, time) are merged.
    - `num`: how many candidates to draw.
    - `key`: the random key.
    - `noise`: the standard deviation of the noise, as a fraction of the spread (root mean square distance from the
        mean, per component) of the states.

    **Returns:** the candidates, shape `(num, N)`, in the dtype of `states`.

    **Raises:** `ValueError` for an empty or non-floating set, for NaN or infinity in it, or for `num` below 1.
    """
    array = np.asarray(states)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"states: expected a non-empty array (..., N) of flat states, got shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"states: expected floating-point entries, got {array.dtype}.")
    if not np.isfinite(array).all():
        raise ValueError("states: some hold NaN or infinity; drop the trajectories that diverged.")
    check_at_least("num", num, 1)
    check_at_least("noise", noise, 0)
    pool = jnp.asarray(states).reshape(-1, array.shape[-1])
    visited_key, noisy_key, noise_key, mixed_key, weight_key = jax.random.split(key, 5)
    num_mixed, num_noisy = num // 3, num // 3
    num_visited = num - num_mixed - num_noisy
    scale = noise * jnp.sqrt(jnp.mean(jnp.var(pool, axis=0)))

    visited = _draw(pool, (num_visited,), visited_key)
    noisy = _draw(pool, (num_noisy,), noisy_key)
    noisy = noisy + scale * jax.random.normal(noise_key, noisy.shape, pool.dtype)
    weights = jax.random.dirichlet(weight_key, jnp.ones(3, pool.dtype), (num_mixed,))
    mixed = jnp.einsum("km,kmn->kn", weights, _draw(pool, (num_mixed, 3), mixed_key))
    return jnp.concatenate([visited, noisy, mixed])


def _draw(pool: Array, shape: tuple[int, ...], key: PRNGKeyArray) -> Array:
    return pool[jax.random.randint(key, shape, 0, pool.shape[0])]
