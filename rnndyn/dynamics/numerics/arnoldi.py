"""The leading eigenvalues of a large matrix from products with it, and a bound on all the others."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float
from scipy.linalg import schur

from rnndyn.dynamics.numerics.drivers import MEMORY_BUDGET

TOLERANCE = 1e-9
"""|A z - theta z| of a unit vector z, in units of the largest modulus, at which an eigenvalue counts as found."""

MOST_VECTORS = 600
"""Of the subspace. A random matrix of N rows has its eigenvalues in a disc, and those on its edge are close: with 20
vectors eight of them took 6341 products at N = 2000, with 200 vectors 497; at N = 5000 with 600 vectors 600."""

FIRST_LOOK = 24
"""Vectors at which the eigenvalues are looked at first; then whenever there are a part more, `growth`."""

MOST_MORE = 8
"""So many more than half of the vectors may be kept, to cut where the moduli have a gap."""

MOST_POWERS = 200

NUM_PROBES, FACTOR = 3, 1e3
"""|B| <= FACTOR sqrt(2 / pi) max |B w| over random w fails with probability FACTOR ** -NUM_PROBES at most. Few probes
and a large factor are the cheapest: the factor enters by its root only."""

# What is known of SciPy's types lacks `sort`.
_schur: Any = schur

Product = Callable[[Float[np.ndarray, " N"]], Float[np.ndarray, " N"]]


class Leading(NamedTuple):
    """Eigenvalues of largest modulus, by falling modulus, with a unit vector and the residual of each."""

    values: Complex[np.ndarray, " k"]
    vectors: Complex[np.ndarray, "N k"]
    residuals: Float[np.ndarray, " k"]

    @property
    def found(self) -> Bool[np.ndarray, " k"]:
        """Which of them are eigenvalues to the tolerance; the others are as close as the budget allowed."""
        return self.residuals <= TOLERANCE * np.max(np.abs(self.values), initial=0.0)


def leading_eigenvalues(
    product: Product,
    size: int,
    number: int,
    *,
    max_products: int,
    seed: int,
    tolerance: float = TOLERANCE,
    growth: float = 0.25,
) -> Leading:
    r"""Arnoldi's method, restarted with the better half of a wide subspace, until `number` eigenvalues are found.

    $$ A V = V H + v\, e^T, \qquad H y = \theta y, \qquad |A V y - \theta V y| = |e^T y|. $$

    What is reported as residual is measured by products with the vectors themselves.

    **Arguments:**

    - `product`: v -> A v, real.
    - `size`: N.
    - `number`: at most N - 2.
    - `max_products`: after which the best so far is returned, whatever its residuals.
    - `seed`: of the first vector.
    - `tolerance`: for the residuals, in units of the largest modulus.
    - `growth`: by which part the subspace grows between two looks at its eigenvalues. Where a product costs less than
        a look, fewer looks are better.

    Reference: G. W. Stewart (2002), *A Krylov-Schur algorithm for large eigenproblems*.
    """
    rng = np.random.default_rng(seed)
    most = min(size, max(4 * number + 20, min(MOST_VECTORS, MEMORY_BUDGET // (8 * size))))
    basis = np.empty((most + 1, size))
    basis[0] = _unit(rng.standard_normal(size))
    small, last = np.zeros((most, most)), np.zeros(most)
    count, spent, look = 0, 0, min(most, max(FIRST_LOOK, 2 * number + 2))
    while True:
        v, coefficients, length = _orthogonalised(product(basis[count]), basis[: count + 1])
        spent += 1
        small[count, :count] = last[:count]
        small[: count + 1, count] = coefficients
        last[: count + 1] = 0.0
        last[count] = length
        count += 1
        # A subspace without a way out holds eigenvectors, but not all of them: a random direction leads on.
        basis[count] = v if length > 0 else _another(basis[:count], rng)
        if count < look and spent < max_products:
            continue
        values, y = np.linalg.eig(small[:count, :count])
        order = np.argsort(-np.abs(values), kind="stable")
        values, y = values[order].astype(complex), y[:, order].astype(complex)
        best = slice(0, min(number, count))
        estimates = np.abs(last[:count] @ y[:, best])
        if spent >= max_products or np.all(estimates <= 0.5 * tolerance * np.abs(values[0])):
            break
        look = min(most, count + max(FIRST_LOOK, int(growth * count)))
        if count == most:
            triangle, kept = _leading_space(small, np.abs(values), most // 2)
            width = kept.shape[1]
            small[:], small[:width, :width] = 0.0, triangle
            last[:width] = last @ kept
            basis[:width] = kept.T @ basis[:count]
            basis[width] = basis[count]
            count, look = width, (width + most) // 2
    vectors: Any = basis[:count].T @ y[:, best]
    vectors /= np.linalg.norm(vectors, axis=0)
    images = np.stack([product(z.real) + 1j * (product(z.imag) if np.any(z.imag) else 0.0) for z in vectors.T], axis=1)
    return Leading(values[best], vectors, np.linalg.norm(images - values[best] * vectors, axis=0))


def bound_on_rest(
    products: Callable[[Float[np.ndarray, "M N"]], Float[np.ndarray, "M N"]],
    vectors: Complex[np.ndarray, "N u"],
    size: int,
    largest: float,
    *,
    seed: int,
) -> float:
    r"""A number below 1 that the other eigenvalues do not exceed in modulus, or infinity where none is found.

    With P the projection orthogonal to `vectors`, an invariant subspace, the others are the eigenvalues of P A P, and

    $$ \rho(P A P) \le \|(P A P)^k\|^{1/k} \le \Bigl(c \sqrt{2/\pi}\, \max_i |(P A P)^k w_i|\Bigr)^{1/k} $$

    for random normal $w_i$, unless a draw was unlucky: over all powers together with a probability below 1e-6
    (`NUM_PROBES`, `FACTOR`, `MOST_POWERS`).

    **Arguments:**

    - `products`: A v of several rows v.
    - `vectors`: eigenvectors that are known, as far as their residuals go.
    - `size`: N.
    - `largest`: the modulus that the others have, as far as it is known; close to 1 nothing is tried.
    - `seed`: of the draws.

    Reference: J. D. Dixon (1983), *Estimating extremal eigenvalues and condition numbers of matrices*; N. Halko,
    P. G. Martinsson & J. A. Tropp (2011), *Finding structure with randomness*, lemma 4.1.
    """
    logarithm = np.log(FACTOR * np.sqrt(2 / np.pi))
    if not largest < 1 or logarithm + 0.5 * np.log(size) > -MOST_POWERS * np.log(max(largest, 1e-300)):
        return np.inf
    known = None
    if vectors.size:  # of a complex pair both vectors span the same plane
        parts = np.concatenate([np.real(vectors), np.imag(vectors)], axis=1)
        u, spread, _ = np.linalg.svd(parts, full_matrices=False)
        known = u[:, spread > 1e-8 * spread[0]]
    rows = np.random.default_rng([seed, 2]).standard_normal((NUM_PROBES, size))
    project = lambda v: v if known is None else v - (v @ known) @ known.T
    rows = project(rows)
    for power in range(1, MOST_POWERS + 1):
        rows = project(products(rows))
        length = float(np.max(np.linalg.norm(rows, axis=1)))
        if length == 0:
            return 0.0
        bound = np.exp((logarithm + np.log(length)) / power)
        if bound < 1:
            return float(bound)
    return np.inf


def _orthogonalised(w: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """A unit vector along what of `w` is orthogonal to the rows of `basis`, the coefficients, and the length."""
    whole = float(np.linalg.norm(w))
    coefficients = basis @ w
    w = w - coefficients @ basis
    more = basis @ w  # twice is enough (Kahan & Parlett)
    w = w - more @ basis
    length = float(np.linalg.norm(w))
    if length <= 1e-14 * whole:
        return w, coefficients + more, 0.0
    return w / length, coefficients + more, length


def _another(basis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random unit vector orthogonal to the rows; zero where they span everything."""
    if len(basis) == basis.shape[1]:
        return np.zeros(basis.shape[1])
    return _orthogonalised(_unit(rng.standard_normal(basis.shape[1])), basis)[0]


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _leading_space(matrix: np.ndarray, moduli: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrix in the invariant space of some `number` eigenvalues, the largest, and an orthonormal basis of it.

    By the Schur form: eigenvectors of a matrix that is nearly defective span nothing.
    """
    gaps = moduli[number - 1 : number + MOST_MORE] - moduli[number : number + MOST_MORE + 1]
    width = number + int(np.argmax(gaps))
    # Where all moduli are one, every leading part of the form is as good: it is invariant all the same.
    edge = 0.5 * (moduli[width - 1] + moduli[width]) if np.max(gaps) > 1e-6 * moduli[0] else None
    sort = None if edge is None else lambda re, im: np.hypot(re, im) >= edge
    triangle, basis = _schur(matrix, output="real", sort=sort)[:2]
    if triangle[width, width - 1] != 0:
        width += 1
    return triangle[:width, :width], basis[:, :width]
