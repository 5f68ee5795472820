"""Similarity of representations: what networks' states look like side by side, whatever their dynamics."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from rnndyn.dynamics.comparison._series import check_values
from rnndyn.dynamics.numerics.drivers import double_precision

_LEAST_SIZE = 1e-9
"""Singular values below this fraction of the largest are rounding errors."""


def procrustes_distance(states: Sequence[ArrayLike] | ArrayLike) -> Float[np.ndarray, "M M"]:
    r"""The angles between the representations of M networks, up to rotation, shift and scale.

    $$\theta_{ij} = \arccos \frac{\|X_i^T X_j\|_*}{\|X_i\|_F \|X_j\|_F}$$

    for states $X_i$ less their mean, with the nuclear norm, the best overlap that an orthogonal map can make.

    **Arguments:**

    - `states`: of each network the same S situations (trials and times, flattened), (S, N). N may differ.

    **Returns:** (M, M) angles in radians, a metric.

    **Raises:** `ValueError` for other shapes, different S, NaN or infinity, a network whose states do not vary.

    Computes in float64, all pairs in one program.

    ??? cite "Reference"
        A. H. Williams, E. Kunz, S. Kornblith & S. W. Linderman (2021), "Generalized shape metrics on neural
        representations", NeurIPS.
    """
    bases, sizes = _principal_coordinates(states, 1.0)
    with double_precision():
        scaled = bases * (sizes / np.linalg.norm(sizes, axis=1, keepdims=True))[:, None, :]
        squares = 2 - 2 * np.asarray(_overlaps(jnp.asarray(scaled), "sum"))
    # From the distance and not its cosine: arccos loses half of the digits near 1.
    distances = 2 * np.arcsin(np.clip(np.sqrt(np.maximum(squares, 0)) / 2, 0, 1))
    np.fill_diagonal(distances, 0.0)
    return distances


def cca(states: Sequence[ArrayLike] | ArrayLike) -> Float[np.ndarray, "M M"]:
    r"""The mean canonical correlation of the representations of M networks, invariant under all linear maps.

    $$\rho_{ij} = \frac{1}{\min(r_i, r_j)} \sum_k \sigma_k(U_i^T U_j)$$

    with orthonormal bases $U_i$ of the columns of the states less their mean, $r_i$ of them.

    **Arguments:**

    - `states`: of each network the same S situations (trials and times, flattened), (S, N). N may differ.

    **Returns:** (M, M) correlations between 0 and 1, 1 for linearly equivalent representations.

    **Raises:** `ValueError` for other shapes, different S, NaN or infinity, a network whose states do not vary.

    Directions of any variance count alike; see `svcca` for one that leaves out small ones. S has to exceed N well.

    ??? cite "Reference"
        H. Hotelling (1936), "Relations between two sets of variates", Biometrika 28; M. Raghu, J. Gilmer, J. Yosinski
        & J. Sohl-Dickstein (2017), "SVCCA", NeurIPS.
    """
    return _mean_correlations(states, 1.0)


def svcca(states: Sequence[ArrayLike] | ArrayLike, *, variance: float = 0.99) -> Float[np.ndarray, "M M"]:
    r"""The mean canonical correlation of the leading principal components of the representations of M networks.

    **Arguments:**

    - `states`: of each network the same S situations (trials and times, flattened), (S, N). N may differ.
    - `variance`: each network is reduced to as many components as hold this share of its variance.

    **Returns:** (M, M) correlations between 0 and 1; see `cca`.

    **Raises:** `ValueError` as `cca`, and for a share that is not between 0 and 1.

    ??? cite "Reference"
        M. Raghu, J. Gilmer, J. Yosinski & J. Sohl-Dickstein (2017), "SVCCA: singular vector canonical correlation
        analysis for deep learning dynamics and interpretability", NeurIPS.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance: expected a share between 0 and 1, got {variance}.")
    return _mean_correlations(states, variance)


def cka(states: Sequence[ArrayLike] | ArrayLike) -> Float[np.ndarray, "M M"]:
    r"""Linear centred kernel alignment of the representations of M networks.

    $$\mathrm{CKA}_{ij} = \frac{\|X_i^T X_j\|_F^2}{\|X_i^T X_i\|_F \|X_j^T X_j\|_F}$$

    for states less their mean.

    **Arguments:**

    - `states`: of each network the same S situations (trials and times, flattened), (S, N). N may differ.

    **Returns:** (M, M) similarities between 0 and 1, 1 up to rotation, shift and scale.

    **Raises:** `ValueError` for other shapes, different S, NaN or infinity, a network whose states do not vary.

    ??? cite "Reference"
        S. Kornblith, M. Norouzi, H. Lee & G. Hinton (2019), "Similarity of neural network representations revisited",
        ICML.
    """
    bases, sizes = _principal_coordinates(states, 1.0)
    with double_precision():
        overlaps = np.asarray(_overlaps(jnp.asarray(bases * sizes[:, None, :]), "squares"))
    norms = np.sqrt(np.sum(sizes**4, axis=1))
    return overlaps / np.outer(norms, norms)


def _mean_correlations(states: Any, variance: float) -> np.ndarray:
    bases, sizes = _principal_coordinates(states, variance)
    ranks = np.sum(sizes > 0, axis=1)
    with double_precision():
        return np.asarray(_overlaps(jnp.asarray(bases), "sum")) / np.minimum(ranks[:, None], ranks)


def _principal_coordinates(states: Any, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases (M, S, r) of the states, filled up by zeros, and the singular values (M, r)."""
    networks = [np.asarray(network, np.float64) for network in states]
    if not networks:
        raise ValueError("states: expected at least one network.")
    for k, network in enumerate(networks):
        if network.ndim != 2 or 0 in network.shape:
            raise ValueError(
                f"states[{k}]: expected shape (S, N), got {network.shape}. Flatten trials and times into one axis."
            )
        if len(network) != len(networks[0]):
            raise ValueError(
                f"states[{k}]: expected the {len(networks[0])} situations of states[0], got {len(network)}. Show all "
                "networks the same trials."
            )
        check_values(f"states[{k}]", network, varies=False)
        if not np.ptp(network, axis=0).any():
            raise ValueError(f"states[{k}]: the states do not vary.")
    found = []
    for network in networks:
        u, s, _ = np.linalg.svd(network - network.mean(0), full_matrices=False)
        kept = s > _LEAST_SIZE * s[0]
        shares = np.cumsum(s**2) / np.sum(s**2)
        # The components up to the one that reaches the share.
        kept &= np.concatenate([[True], shares[:-1] < variance])
        found.append((u[:, kept], s[kept]))
    width = max(len(s) for _, s in found)
    bases = np.stack([np.pad(u, ((0, 0), (0, width - u.shape[1]))) for u, _ in found])
    return bases, np.stack([np.pad(s, (0, width - len(s))) for _, s in found])


@functools.partial(jax.jit, static_argnames="of")
def _overlaps(bases: Any, of: str) -> Any:
    """The sum of the singular values, or of their squares, of the products of all pairs, `(M, M)`."""

    def one(first: Any, second: Any) -> Any:
        product = first.T @ second
        return jnp.sum(product**2) if of == "squares" else jnp.sum(jnp.linalg.svd(product, compute_uv=False))

    return jax.lax.map(lambda first: jax.vmap(lambda second: one(first, second))(bases), bases)
