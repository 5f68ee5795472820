"""Fixed points of maps too large for a Jacobian: products with the derivative only."""

import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd


def test_a_low_rank_network_of_many_units_agrees_with_its_small_core():
    # x -> tanh(U V^T x + b): the multipliers are those of the 3 x 3 matrix V^T diag(1 - x^2) U, and N - 3 zeros.
    size, rank = 20_000, 3
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((size, rank)), rng.standard_normal((size, rank)) / size + np.eye(size, rank)
    v[:, 0] += 2.5 * u[:, 0] / size
    bias = 0.1 * rng.standard_normal(size)
    f = lambda x: jnp.tanh(u @ (v.T @ x) + bias)
    found = rd.find_large_fixed_point(f, np.tanh(2 * u[:, 0]), num_multipliers=3)
    x = found.point
    assert found.converged
    assert np.max(np.abs(np.tanh(u @ (v.T @ x) + bias) - x)) < 1e-12
    exact = np.linalg.eigvals(v.T @ ((1 - x**2)[:, None] * u))
    np.testing.assert_allclose(
        np.sort_complex(found.multipliers), np.sort_complex(exact), atol=1e-8 * np.max(np.abs(exact))
    )
    assert found.is_stable == bool(np.all(np.abs(exact) < 1))
    assert found.num_products < 300


def test_it_agrees_with_the_dense_search():
    size = 40
    rng = np.random.default_rng(1)
    weight, bias = 0.8 * rng.standard_normal((size, size)) / np.sqrt(size), 0.3 * rng.standard_normal(size)
    f = lambda x: jnp.tanh(weight @ x + bias)
    found = rd.find_large_fixed_point(f, np.zeros(size), num_multipliers=6)
    x = found.point
    np.testing.assert_allclose(np.tanh(weight @ x + bias), x, atol=1e-12)
    moduli = np.sort(np.abs(np.linalg.eigvals((1 - x**2)[:, None] * weight)))[::-1]
    np.testing.assert_allclose(np.abs(found.multipliers), moduli[:6], rtol=1e-7)  # of Arnoldi's method, 1e-9
    assert found.num_unstable == 0
    assert found.is_stable is True
    assert "unstable directions: 0" in str(found)


def test_more_unstable_directions_than_multipliers_are_not_counted():
    rates = np.concatenate([np.linspace(1.5, 3, 10), np.full(10, 0.2)])
    found = rd.find_large_fixed_point(lambda x: rates * x + x**3, 1e-3 * np.ones(20), num_multipliers=4)
    assert found.converged
    assert found.num_unstable is None
    assert found.is_stable is False
    assert "at least 4" in str(found)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="num_multipliers"):
        rd.find_large_fixed_point(lambda x: 0.5 * x, np.ones(4), num_multipliers=4)
    # x + 1 has no fixed point: I - DF is singular and no step lowers the residual.
    assert not rd.find_large_fixed_point(lambda x: x + 1, np.ones(4), num_multipliers=0).converged
