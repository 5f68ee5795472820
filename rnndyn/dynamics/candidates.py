"""Where to start looking: candidates drawn around the states that a network visits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
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
    # In the dtype that JAX gives them; rows are taken on the host, so that pools of any length share the programs.
    pool = array.reshape(-1, array.shape[-1]).astype(jax.dtypes.canonicalize_dtype(array.dtype))
    scale = noise * np.sqrt(np.mean(np.var(pool, axis=0, dtype=float)))
    rows, noisy_rows, mixed_rows, noise_values, weights = jax.device_get(
        _draw(key, len(pool), num - 2 * (num // 3), num // 3, pool.shape[1], pool.dtype)
    )
    noisy = pool[noisy_rows] + scale.astype(pool.dtype) * noise_values
    mixed = np.einsum("km,kmn->kn", weights, pool[mixed_rows])
    return jnp.asarray(np.concatenate([pool[rows], noisy, mixed]))


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _draw(
    key: PRNGKeyArray, pool_size: Array, num_visited: int, num_others: int, size: int, dtype: DTypeLike
) -> tuple[Array, ...]:
    """Rows of the visited, the noisy and the mixed candidates; noise; weights of mixtures."""
    visited_key, noisy_key, noise_key, mixed_key, weight_key = jax.random.split(key, 5)
    row = lambda key, shape: jax.random.randint(key, shape, 0, pool_size)
    # Uniform on the triangle: shares of three exponential variables. A Dirichlet sampler takes a second to compile.
    waits = jax.random.exponential(weight_key, (num_others, 3), dtype)
    return (
        row(visited_key, (num_visited,)),
        row(noisy_key, (num_others,)),
        row(mixed_key, (num_others, 3)),
        jax.random.normal(noise_key, (num_others, size), dtype),
        waits / jnp.sum(waits, axis=1, keepdims=True),
    )
