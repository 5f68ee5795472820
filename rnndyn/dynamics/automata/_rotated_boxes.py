"""Rotated boxes `{x: |frame (x - center)| <= radii}`: the sets that a proof stores, made from samples of them."""

import numpy as np
from jaxtyping import Float

UNIT_ROUNDOFF = 2.0**-53


def box_around(
    points: Float[np.ndarray, "M N"], inflation: float, least: float
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N N"], Float[np.ndarray, " N"]]:
    """A box along the principal axes of some points, larger than they are: center, frame (its axes as rows), radii."""
    mean = points.mean(axis=0)
    frame = np.linalg.eigh((points - mean).T @ (points - mean))[1].T
    along = (points - mean) @ frame.T
    low, high = along.min(axis=0), along.max(axis=0)
    extents = (high - low) / 2
    # What the samples do not show at all is given a fiftieth of the largest axis.
    radii = (1 + inflation) * extents + 0.02 * max(float(extents.max()), least)
    return mean + frame.T @ ((low + high) / 2), frame, radii


def generators_of(
    frame: Float[np.ndarray, "N N"], radii: Float[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "N N"], Float[np.ndarray, " N"]]:
    """Generators and spread of a form that holds `{d: |frame d| <= radii}`, which is the box about its center.

    With `F F' = I + E`, `d = F' (I + E)^-1 y` for the y = F d, and `(I + E)^-1 y` differs from y by at most
    `|E| / (1 - |E|)` times the largest radius.
    """
    size = len(radii)
    gram = frame @ frame.T - np.eye(size)
    rounding = 4 * (size + 2) * UNIT_ROUNDOFF
    norm = (np.abs(gram) + rounding * (np.abs(frame) @ np.abs(frame.T) + 1)).sum(axis=1).max() * (1 + rounding)
    if not norm < 1e-6:
        raise ValueError(f"frame: expected orthonormal axes, they are off by {norm:.1e}.")
    larger = (radii + 2 * norm * radii.max()) * (1 + 8 * UNIT_ROUNDOFF)
    generators = larger[:, None] * frame
    return generators, 2 * UNIT_ROUNDOFF * np.abs(generators).sum(axis=0) + 1e-290
