"""Bounds of norms, inverses and definiteness against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, ball, matmul, point

SIZES = [(1, 1), (3, 3), (6, 4), (4, 7)]
TIGHT = Fraction(2, 10**13)
"""n^1.5 u is 3e-15 for these sizes; sums are taken at twice their error bound, several times over."""


def exactly(matrix):
    """A matrix of floats as an array of fractions: the conversion is exact, and so is what follows."""
    return np.vectorize(Fraction, otypes=[object])(np.asarray(matrix, dtype=float))


def identity(n):
    return exactly(np.eye(n))


def is_definite(matrix):
    """Whether a symmetric matrix of fractions is positive definite: the pivots of Gauss's elimination."""
    matrix = matrix.copy()
    for k in range(len(matrix)):
        if matrix[k, k] <= 0:
            return False
        matrix[k + 1 :, k:] -= np.outer(matrix[k + 1 :, k], matrix[k, k:] / matrix[k, k])
    return True


def exact_inverse(matrix):
    n = len(matrix)
    work = np.concatenate([exactly(matrix), identity(n)], axis=1)
    for k in range(n):
        pivot = next(i for i in range(k, n) if work[i, k] != 0)
        work[[k, pivot]] = work[[pivot, k]]
        work[k] /= work[k, k]
        for i in range(n):
            if i != k:
                work[i] -= work[i, k] * work[k]
    return work[:, n:]


def is_above_norm(bound, matrix):
    """Whether bound² I - A'A is positive definite, that is |A| < bound."""
    return is_definite(Fraction(bound) ** 2 * identity(matrix.shape[1]) - matrix.T @ matrix)


def assert_bounds_norm(bound, matrix, slack=TIGHT):
    assert is_above_norm(float(bound), matrix)
    # 1e-290 and its like, which the bounds hold for underflow, are all there is for matrices as small as that.
    below = Fraction(float(bound)) * (1 - slack) - Fraction(1, 10**280)
    assert below < 0 or not is_above_norm(below, matrix)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_product_of_intervals_holds_the_exact_products_of_their_members(rng):
    a, b = rng.normal(size=(2, 5, 5)) * 10.0 ** rng.integers(-8, 8, (2, 5, 5))
    ra, rb = 1e-3 * np.abs(rng.normal(size=(2, 5, 5)))
    whole = matmul(Interval(a - ra, a + ra), Interval(b - rb, b + rb))
    alone = matmul(point(a), point(b))
    for t in range(20):
        x = a if t == 0 else np.clip(a + ra * rng.choice([-1, 1], a.shape), a - ra, a + ra)
        y = b if t == 0 else np.clip(b + rb * rng.choice([-1, 1], b.shape), b - rb, b + rb)
        product = exactly(x) @ exactly(y)
        assert np.all((exactly(whole.lo) <= product) & (product <= exactly(whole.hi)))
        if t == 0:
            assert np.all((exactly(alone.lo) <= product) & (product <= exactly(alone.hi)))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("spread", [0.0, 12.0])
def test_the_norm_of_a_matrix_of_numbers_is_bounded_tightly(shape, spread, rng):
    matrices = rng.normal(size=(3, *shape)) * 10.0 ** (-spread * rng.uniform(size=(3, 1, shape[1])))
    bounds = vn.spectral_norm_bound(point(matrices))
    for matrix, bound in zip(matrices, bounds):
        assert_bounds_norm(bound, exactly(matrix))
    assert vn.is_norm_below(point(matrices), bounds * (1 + 1e-12)).all()
    assert not vn.is_norm_below(point(matrices), bounds * (1 - 2e-13)).any()


def test_the_norm_of_an_interval_matrix_covers_its_members(rng):
    center, radius = rng.normal(size=(4, 5)), np.abs(rng.normal(size=(4, 5))) * 0.1
    whole = Interval(center - radius, center + radius)
    bound = float(vn.spectral_norm_bound(whole))
    for _ in range(30):
        member = np.clip(center + radius * rng.choice([-1, 1], radius.shape), whole.lo, whole.hi)
        assert is_above_norm(bound, exactly(member))
    # The triangle inequality is all that is lost.
    assert bound <= np.linalg.norm(center, 2) + np.linalg.norm(radius, 2) * (1 + 1e-6)


def test_the_norm_of_nonnegative_matrices_is_that_of_the_largest(rng):
    sizes = np.abs(rng.normal(size=(2, 6, 3))) * rng.integers(0, 2, (2, 6, 3))
    for matrix, bound in zip(sizes, vn.nonnegative_norm_bound(sizes)):
        assert_bounds_norm(bound, exactly(matrix), slack=Fraction(1, 20))
    assert vn.nonnegative_norm_bound(np.zeros((2, 2))) < 1e-100


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e-160, 1e160, 1e300])
def test_norms_hold_where_squares_overflow_or_vanish(scale, rng):
    x, matrix = rng.normal(size=5) * scale, rng.normal(size=(3, 3)) * scale
    assert_bounds_norm(vn.vector_norm_bound(point(x)), exactly(x)[:, None])
    assert_bounds_norm(vn.spectral_norm_bound(point(matrix)), exactly(matrix))


@pytest.mark.parametrize("condition", [1e0, 1e6, 1e12])
def test_the_inverse_is_enclosed_and_its_norm_gives_the_smallest_singular_value(condition, rng):
    n = 5
    u, v = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    matrix = u * np.geomspace(1, 1 / condition, n) @ v
    found = vn.inverse(point(matrix))
    exact = exact_inverse(matrix)
    assert np.all((exactly(found.lo) <= exact) & (exact <= exactly(found.hi)))
    assert np.max(found.hi - found.lo) < 1e-13 * condition**2 * n
    gram = exactly(matrix).T @ exactly(matrix)
    bound = Fraction(float(vn.smallest_singular_value_bound(point(matrix))))
    assert is_definite(gram - bound**2 * identity(n))
    assert not is_definite(gram - (bound * Fraction(101, 100)) ** 2 * identity(n))


def test_the_inverse_of_an_interval_matrix_covers_its_members_or_says_nothing(rng):
    center = np.eye(4) + 0.3 * rng.normal(size=(4, 4))
    found = vn.inverse(ball(center, 1e-3))
    for _ in range(20):
        inverse = exact_inverse(center + 0.999e-3 * rng.choice([-1, 1], (4, 4)))
        assert np.all((exactly(found.lo) <= inverse) & (inverse <= exactly(found.hi)))
    singular = np.ones((2, 2))
    assert np.isnan(vn.inverse(point(singular)).lo).all()
    assert vn.smallest_singular_value_bound(point(singular)) == 0
    # One regular matrix beside one that has no inverse.
    both = vn.inverse(point(np.stack([np.eye(2) * 2, singular])))
    np.testing.assert_allclose(both.lo[0], np.eye(2) / 2, atol=1e-14)
    assert np.isnan(both.hi[1]).all()
    # The ball of radius 0.6 about the identity holds the singular matrix of entries 0.4 + 0.6 and ones beside it.
    assert np.isnan(vn.inverse(ball(np.eye(2), 0.6)).lo).all()


def test_definiteness_is_proved_just_above_zero_and_refused_just_below(rng):
    n = 6
    basis = rng.integers(-3, 4, (n, n)).astype(float)
    gram = basis.T @ basis  # exact: small whole numbers
    lowest = float(np.linalg.eigvalsh(gram)[0])
    for share, expected in ((1 - 1e-9, True), (1 + 1e-9, False)):
        shifted = gram - lowest * share * np.eye(n)
        assert is_definite(exactly(shifted)) == expected
        assert vn.is_positive_definite(point(shifted)) == expected
    assert vn.is_positive_definite(ball(np.eye(n), 0.99 / n))
    assert not vn.is_positive_definite(ball(np.eye(n), 1.01 / n))  # I - 1.01 / n of ones is indefinite
    batch = np.stack([gram, -gram, gram * np.nan, np.diag([1.0, 1, 1, 1, 1, 0])])
    assert vn.is_positive_definite(point(batch)).tolist() == [True, False, False, False]


def test_ellipsoid_norms_are_those_of_the_weighted_matrix(rng):
    before, after = (np.linalg.cholesky(np.cov(rng.normal(size=(4, 9)))).T for _ in range(2))
    jacobian = rng.normal(size=(4, 4))
    inverse = vn.inverse(point(before))
    slack = Fraction(1, 10**11)  # the condition of `before` times rounding
    weighted = exactly(after) @ exactly(jacobian) @ exact_inverse(before)
    assert_bounds_norm(vn.ellipsoid_norm_bound(after, point(jacobian), inverse), weighted, slack)
    for reach, row in zip(vn.coordinate_reach(inverse), exact_inverse(before)):
        assert_bounds_norm(reach, row[:, None], slack)


def test_nothing_is_proved_of_what_is_not_finite():
    for bad in (np.nan, np.inf):
        matrix = np.array([[1.0, bad], [0.0, 1.0]])
        assert vn.spectral_norm_bound(point(matrix)) == np.inf
        assert vn.nonnegative_norm_bound(np.abs(matrix)) == np.inf
        assert vn.vector_norm_bound(point(matrix[0])) == np.inf
        assert vn.smallest_singular_value_bound(point(matrix)) == 0
        assert np.isnan(vn.inverse(point(matrix)).lo).all()
        assert not vn.is_norm_below(point(matrix), np.float64(1e300))
        assert not vn.is_positive_definite(point(matrix + matrix.T))


def test_one_step_out_covers_the_operations_it_is_told_of(rng):
    for _ in range(200):
        a, b, c = (float(v) for v in np.abs(rng.normal(size=3)) * 10.0 ** rng.integers(-200, 90, 3))
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        assert Fraction(float(vn.round_down(np.float64(a * b + c), 2))) <= exact
        assert exact <= Fraction(float(vn.round_up(np.float64(a * b + c), 2)))
