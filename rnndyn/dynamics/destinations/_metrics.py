"""Metrics in which a map contracts along a stable orbit, from the discrete Lyapunov equation."""

import numpy as np

from rnndyn.dynamics.numerics.eigenvalues import orbit_product


def metrics(jacobians: np.ndarray, temper: float) -> np.ndarray:
    """Factors Q_j with Q_j⁻ᵀ Q_j⁻¹ = P_j, P_j = I + J_j' P_{j+1} J_j / rho²; NaN where no metric is found."""
    period, size = len(jacobians), jacobians.shape[1]
    nothing = np.full((period, size, size), np.nan)
    if not np.isfinite(jacobians).all():
        return nothing
    radius = np.max(np.abs(np.linalg.eigvals(orbit_product(jacobians)))) ** (1 / period)
    scaled = jacobians / (radius + temper * (1 - radius))
    total = np.eye(size)
    for jacobian in scaled[::-1]:  # one turn of the recursion from the zero matrix, and then all turns by doubling
        total = np.eye(size) + jacobian.T @ total @ jacobian
    total -= orbit_product(scaled).T @ orbit_product(scaled)
    power = orbit_product(scaled)
    for _ in range(60):
        total = total + power.T @ total @ power
        power = power @ power
        if not np.isfinite(total).all() or np.max(np.abs(power)) < 1e-30:
            break
    matrices = [total]
    for jacobian in scaled[:0:-1]:
        matrices.append(np.eye(size) + jacobian.T @ matrices[-1] @ jacobian)
    ordered = np.stack([matrices[0], *matrices[:0:-1]])
    if not np.isfinite(ordered).all():
        return nothing
    values, vectors = np.linalg.eigh(0.5 * ordered + 0.5 * np.swapaxes(ordered, 1, 2))
    if not (values > 0).all():
        return nothing
    # Scaled by one number for all points of the cycle: the shortest semi-axis has length 1.
    return vectors * (np.sqrt(values.max()) / np.sqrt(values))[:, None, :]
