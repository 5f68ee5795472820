import jax
import numpy as np
import pytest

import rnndyn as rd

KEY = jax.random.key(0)


def test_visited_noisy_and_mixed_thirds():
    states = np.random.default_rng(0).choice([-1.0, 1.0], (5, 40, 6)).astype(np.float32)
    drawn = np.asarray(rd.sample_candidates(states, 301, key=KEY))
    assert drawn.shape == (301, 6)
    assert drawn.dtype == np.float32
    visited, noisy, mixed = drawn[:101], drawn[101:201], drawn[201:]
    assert np.isin(visited, [-1, 1]).all()
    # Noise of a tenth of the spread, which is 1 here: 100 x 6 draws fix it to a few percent.
    assert np.std(np.abs(noisy) - 1) == pytest.approx(0.1, rel=0.15)
    # Convex combinations stay in the hull, and lie inside it.
    assert (np.abs(mixed) <= 1 + 1e-6).all()
    assert np.mean(np.abs(mixed) < 0.9) > 0.3


def test_mixtures_are_uniform_on_the_triangle_of_their_corners():
    corners = np.eye(3, dtype=np.float32)
    mixed = np.asarray(rd.sample_candidates(corners, 30_000, key=KEY))[20_000:]
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-5)
    assert (mixed >= 0).all()
    # Weights of Dirichlet(1, 1, 1), E w^2 = 1/6 and E w v = 1/12, on corners drawn with repetition: E x = 1/3 and
    # E x^2 = 3/6/3 + 6/12/9 = 2/9. Four standard errors of the mean of 30 000 squares are below 1 %.
    assert np.mean(mixed) == pytest.approx(1 / 3, rel=1e-5)
    assert np.mean(mixed**2) == pytest.approx(2 / 9, rel=0.01)


def test_seeded():
    states = np.random.default_rng(0).standard_normal((50, 3))
    np.testing.assert_array_equal(rd.sample_candidates(states, 10, key=KEY), rd.sample_candidates(states, 10, key=KEY))


def test_bad_input():
    with pytest.raises(ValueError, match="states: expected a non-empty"):
        rd.sample_candidates(np.zeros((0, 3)), 5, key=KEY)
    with pytest.raises(ValueError, match="states: some hold NaN"):
        rd.sample_candidates(np.full((2, 3), np.nan), 5, key=KEY)
    with pytest.raises(ValueError, match="states: expected floating-point"):
        rd.sample_candidates(np.zeros((2, 3), int), 5, key=KEY)
    with pytest.raises(ValueError, match="num: expected at least 1"):
        rd.sample_candidates(np.zeros((2, 3)), 0, key=KEY)
