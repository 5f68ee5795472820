"""Discs in the complex plane that hold the multipliers, and the number of unstable directions they prove."""

import numpy as np
import scipy.linalg
from jaxtyping import Complex, Float, Int

from rnndyn.dynamics.proofs._inverses import inverses
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF


def multiplier_discs(
    centers: Float[np.ndarray, "K N N"], radii: Float[np.ndarray, "K N N"]
) -> tuple[Complex[np.ndarray, "K N"], Float[np.ndarray, "K N"]]:
    """Discs, by falling modulus, that hold the eigenvalues of every matrix within `radii` (entrywise) of `centers`.

    Gershgorin's theorem for W J V, where V are the computed eigenvectors and W nearly inverts them. Where they are
    too ill-conditioned (repeated eigenvalues) the Schur basis takes their place, scaled so that its off-diagonal part
    is small against the distances to the unit circle.
    """
    usable: np.ndarray = np.all(np.isfinite(centers) & np.isfinite(radii), axis=(1, 2))
    centers = np.where(usable[:, None, None], centers, 0.0)
    _, vectors = np.linalg.eig(centers)
    mu, discs = _gershgorin(centers, radii, vectors.astype(complex), inverses(vectors.astype(complex)))
    for k in np.flatnonzero(usable & (count_outside_unit_circle(mu, discs) < 0)):
        basis, inverse = _scaled_schur_basis(centers[k])
        other_mu, other_discs = _gershgorin(centers[k][None], radii[k][None], basis[None], inverse[None])
        if count_outside_unit_circle(other_mu, other_discs)[0] >= 0:
            mu[k], discs[k] = other_mu[0], other_discs[0]
    mu[~usable], discs[~usable] = np.nan, np.inf
    order = np.argsort(-np.abs(mu), axis=1, kind="stable")
    return np.take_along_axis(mu, order, axis=1), np.take_along_axis(discs, order, axis=1)


def count_outside_unit_circle(
    multipliers: Complex[np.ndarray, "K N"], radii: Float[np.ndarray, "K N"]
) -> Int[np.ndarray, " K"]:
    """The number of discs outside the unit circle, or -1 where one of them touches it.

    If none touches the circle, no connected union of discs does, and so each side holds as many eigenvalues as discs.
    """
    size, slack = np.abs(multipliers), 1e-15  # above the rounding of |.| and of the sums below
    outside = size * (1 - slack) - radii > 1 + slack
    inside = size * (1 + slack) + radii < 1 - slack
    decided = (outside | inside).all(axis=1)
    return np.where(decided, outside.sum(axis=1), -1)


def _gershgorin(centers, radii, basis, inverse) -> tuple[np.ndarray, np.ndarray]:
    """Discs for the eigenvalues of J = centers ± radii from M = W J V, with W V = I - R.

    V⁻¹ J V = (I - R)⁻¹ M = M + R (I - R)⁻¹ M, whose second part has row sums of at most |R|_i |M| / (1 - |R|). Matrix
    products are rounded; their errors are bounded through the products of absolute values, of which only row sums
    are needed.
    """
    num_units = centers.shape[-1]
    gamma = 16 * (num_units + 4) * UNIT_ROUNDOFF  # complex sums of products, doubled for the bounds' own rounding
    identity, ones = np.eye(num_units), np.ones((len(centers), num_units, 1))
    with np.errstate(all="ignore"):
        half = centers @ basis
        product = inverse @ half
        size_w, size_v = np.abs(inverse), np.abs(basis)
        rows_v = size_v @ ones
        rounding = radii @ rows_v + gamma * (np.abs(centers) @ rows_v) + gamma * (np.abs(half) @ ones)
        blur = (size_w @ rounding)[..., 0]
        defect = np.abs(identity - inverse @ basis).sum(-1) + gamma * (size_w @ rows_v)[..., 0]
        diagonal = np.diagonal(product, axis1=-2, axis2=-1)
        off_diagonal = (np.abs(product) * (1 - identity)).sum(-1)
        total = np.max(np.abs(diagonal) + off_diagonal + blur, axis=-1, keepdims=True)
        worst = defect.max(axis=-1, keepdims=True)
        discs = (off_diagonal + blur + defect * total / (1 - worst)) * (1 + 1e-9) + 1e-290
        discs = np.where((worst < 0.5) & np.isfinite(discs), discs, np.inf)
    return diagonal.copy(), discs


def _scaled_schur_basis(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    triangle, unitary = scipy.linalg.schur(matrix, output="complex")  # pyright: ignore[reportAssignmentType]
    gaps = np.maximum(np.abs(np.abs(np.diagonal(triangle)) - 1), 1e-12)
    scale = np.ones(len(matrix))
    for i in range(len(matrix) - 2, -1, -1):
        scale[i] = max(1.0, 2 * np.abs(triangle[i, i + 1 :]) @ scale[i + 1 :] / gaps[i])
    return unitary * scale, unitary.conj().T / scale[:, None]
