"""Eigenvalues of a product of matrices, the small ones as accurate as the large ones."""

import functools
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from jaxtyping import Complex, Float

_RANGE = 1e-3
"""Eigenvalues within this factor of the largest are read off a computed product: its rounding error is then below 1e-12
of each of them, up to their condition number."""

_COUPLING = 1e-13
"""A block of an orthogonal matrix below this counts as zero; the eigenvalues change by that relative to themselves."""

_MAX_LAPS = 4
"""Laps of orthogonal iteration before a block counts as one cluster: they separate moduli a factor 2000 apart, and a
start from the Schur vectors of the product separates the leading ones within the first."""


def orbit_product(
    factors: Sequence[Float[np.ndarray, "N N"]] | Float[np.ndarray, "p N N"],
) -> Float[np.ndarray, "N N"]:
    r"""$A_{p-1} \cdots A_1 A_0$: of the Jacobians along a cycle, that of the whole round at its first point."""
    return functools.reduce(lambda product, factor: factor @ product, factors)


def product_eigenvalues(factors: Float[np.ndarray, "p N N"]) -> Complex[np.ndarray, " N"]:
    r"""The eigenvalues of $A_{p-1} \cdots A_1 A_0$ by falling modulus.

    In the product itself everything below $\epsilon$ times its norm is rounding error. So it only gives a first basis,
    which is carried around the factors by QR factorisations $A_i Q_i = Q_{i+1} R_i$, indices modulo p. Wherever the
    turn $W = Q_i^T Q_{i+p}$ of a lap is block triangular, the problem falls apart into the diagonal blocks of the
    $R_i$ and of $W$; neglecting a block of the orthogonal $W$ changes each eigenvalue relative to itself. It may
    fall apart at one factor and not at another: a direction that wins over the lap can lose in between. What
    falls apart nowhere is a cluster of moduli, for which the product of its blocks is accurate.

    The result is the one that a periodic Schur decomposition (A. Bojanczyk, G. Golub & P. Van Dooren 1992, *The
    periodic Schur decomposition*) would give, from dense kernels only. No method sees below $\epsilon \|A_i\|$ in
    a factor: where single factors span as many digits as the product, the small eigenvalues are lost.
    """
    values, logs = scaled_product_eigenvalues(factors)
    with np.errstate(over="ignore", under="ignore"):
        return values * np.exp(logs)


def scaled_product_eigenvalues(
    factors: Float[np.ndarray, "p N N"],
) -> tuple[Complex[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """The same as `values * exp(logs)`, where the product itself would be too large or too small for a number."""
    values, logs = _eigenvalues(np.asarray(factors, float))
    with np.errstate(divide="ignore"):
        order = np.argsort(-(np.log(np.abs(values)) + logs), kind="stable")
    return values[order], logs[order]


def _eigenvalues(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    period, size, _ = factors.shape
    product, log_scale = _product(factors)
    if log_scale == -np.inf:
        return np.zeros(size, complex), np.zeros(size)
    if size > 1:
        bases, triangles = [_ordered_basis(product)], []
        for step in range(_MAX_LAPS * period):
            q, r = np.linalg.qr(factors[step % period] @ bases[-1])
            bases.append(q)
            triangles.append(r)
            start = step + 1 - period
            if start < 0:
                continue
            turn = bases[start].T @ q
            cuts = np.flatnonzero(_couplings(turn) <= _COUPLING) + 1
            if cuts.size:
                lap = np.stack(triangles[start:])
                parts = [
                    _eigenvalues(_folded(lap[:, low:high, low:high], turn[low:high, low:high]))
                    for low, high in zip([0, *cuts], [*cuts, size])
                ]
                return np.concatenate([v for v, _ in parts]), np.concatenate([logs for _, logs in parts])
    return np.linalg.eigvals(product).astype(complex), np.full(size, log_scale)


def _product(factors: np.ndarray) -> tuple[np.ndarray, float]:
    """The product divided by its largest entry, and the logarithm of that; minus infinity where it is zero."""
    product, log_scale = np.eye(factors.shape[1]), 0.0
    for factor in factors:
        product = factor @ product
        norm = np.max(np.abs(product))
        if norm == 0:
            return product, -np.inf
        product, log_scale = product / norm, log_scale + float(np.log(norm))
    return product, log_scale


def _ordered_basis(product: np.ndarray) -> np.ndarray:
    """Schur vectors, those of the leading eigenvalues first."""
    radius = np.max(np.abs(np.linalg.eigvals(product)))
    return scipy.linalg.schur(product, sort=lambda re, im: np.hypot(re, im) > _RANGE * radius)[1]


def _couplings(turn: np.ndarray) -> np.ndarray:
    """The largest entry of the block below and left of each cut k = 1, ..., N - 1."""
    corner = np.maximum.accumulate(np.maximum.accumulate(np.abs(turn)[::-1], axis=0)[::-1], axis=1)
    return np.diagonal(corner, offset=-1)


def _folded(blocks: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return np.concatenate([blocks[:-1], (turn @ blocks[-1])[None]])
