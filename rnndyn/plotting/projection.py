"""Principal components: the plane or space in which high-dimensional states are drawn."""

import dataclasses

import numpy as np
from jaxtyping import ArrayLike, Float


def principal_components(states: ArrayLike, num_components: int = 3) -> "Projection":
    """The directions of largest variance of a set of states.

    **Arguments:**

    - `states`: shape `(..., N)`; leading axes are merged.
    - `num_components`: how many directions, at most N.

    **Returns:** a `Projection`. The sign of each component is fixed so that its largest entry is positive.

    **Raises:** `ValueError` when there are fewer entries than components, or states that are not finite.
    """
    pool = np.asarray(states, float)
    pool = pool.reshape(-1, pool.shape[-1])
    if not 1 <= num_components <= pool.shape[1]:
        raise ValueError(f"num_components: expected 1 to {pool.shape[1]}, got {num_components}.")
    if not np.isfinite(pool).all():
        raise ValueError("states: some hold NaN or infinity.")
    mean = pool.mean(axis=0)
    _, singular, axes = np.linalg.svd(pool - mean, full_matrices=False)
    variances = singular**2
    missing = num_components - len(axes)
    if missing > 0:
        raise ValueError(f"states: {len(pool)} states span fewer than {num_components} components.")
    axes = axes[:num_components]
    signs = np.sign(axes[np.arange(num_components), np.argmax(np.abs(axes), axis=1)])
    fractions = variances / max(variances.sum(), np.finfo(float).tiny)
    return Projection(mean, axes * signs[:, None], fractions)


@dataclasses.dataclass(frozen=True)
class Projection:
    """An affine projection onto principal components.

    - `mean`: the mean of the states, `(N,)`.
    - `axes`: the orthonormal components, `(num_components, N)`.
    - `variance_fractions`: the share of the variance along every component, those not kept included.
    """

    mean: Float[np.ndarray, " N"]
    axes: Float[np.ndarray, "C N"]
    variance_fractions: Float[np.ndarray, " M"]

    def __call__(self, states: ArrayLike) -> Float[np.ndarray, "..."]:
        """Coordinates of states `(..., N)` along the components, `(..., num_components)`."""
        return (np.asarray(states, float) - self.mean) @ self.axes.T

    def direction(self, vectors: ArrayLike) -> Float[np.ndarray, "..."]:
        """Components of displacement vectors `(..., N)`, without the mean."""
        return np.asarray(vectors, float) @ self.axes.T

    def label(self, component: int) -> str:
        """An axis label with the share of the variance."""
        return f"PC {component + 1} ({100 * self.variance_fractions[component]:.0f} %)"
