"""Manifold attractor regularisation: units that are pulled towards keeping what they hold."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn.networks.cells.piecewise_linear import PiecewiseLinearCell


def manifold_attractor_loss(
    cell: Any, num_regularized: int, *, diagonal: float = 1.0, weight: float = 1.0, bias: float = 1.0
) -> Float[Array, ""]:
    r"""How far the first M units of a piecewise-linear network are from a manifold of fixed points.

    $$L = \tau_A \sum_{i \le M} (A_{ii} - 1)^2 + \tau_W \sum_{i \le M} \sum_{j \ne i} W_{ij}^2
    + \tau_h \sum_{i \le M} h_i^2$$

    Where it is zero these units keep their state, $z_i' = z_i + (\ldots) u$: slow time scales and long memory beside
    units that are free. Add it to the loss of a task.

    **Arguments:**

    - `cell`: a `PiecewiseLinearCell` of the standard or the almost-linear form.
    - `num_regularized`: M, at most the number of units; half of them in the paper.
    - `diagonal`, `weight`, `bias`: $\tau_A, \tau_W, \tau_h$, at least 0.

    **Returns:** the loss, a scalar.

    **Raises:** `ValueError` for a cell of another kind, the shallow form, a number of units out of range or a negative
    factor.

    The diagonal of W is pulled to zero as well: it is zero in the paper, where A holds the diagonal, and the cells here
    have a full W.

    ??? cite "Reference"
        D. Schmidt, G. Koppe, Z. Monfared, M. Beutelspacher & D. Durstewitz (2021), "Identifying nonlinear dynamical
        systems with multiple time scales and long-range dependencies", ICLR.
    """
    if not isinstance(cell, PiecewiseLinearCell) or cell.hidden_weight is not None:
        raise ValueError(
            "cell: expected a PiecewiseLinearCell of the standard or almost-linear form, whose units have "
            f"weights of their own, got a {type(cell).__name__}."
        )
    if not 1 <= num_regularized <= cell.hidden_size:
        raise ValueError(f"num_regularized: expected 1 to {cell.hidden_size}, got {num_regularized}.")
    for name, value in (("diagonal", diagonal), ("weight", weight), ("bias", bias)):
        if not value >= 0:
            raise ValueError(f"{name}: expected at least 0, got {value}.")
    rows = slice(0, num_regularized)
    return (
        diagonal * jnp.sum((cell.diagonal[rows] - 1) ** 2)
        + weight * jnp.sum(cell.weight_hh[rows] ** 2)
        + bias * jnp.sum(cell.bias[rows] ** 2)
    )
