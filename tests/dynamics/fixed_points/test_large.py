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


def _tanh_network(size, gain, seed):
    rng = np.random.default_rng(seed)
    weight, bias = gain * rng.standard_normal((size, size)) / np.sqrt(size), 0.3 * rng.standard_normal(size)
    return weight, bias, lambda x: jnp.tanh(weight @ x + bias)


def test_none_of_the_multipliers_in_a_full_disc_is_missed(monkeypatch):
    # Of such a network of 2000 units ARPACK with its usual 20 vectors missed the first pair. The last with restarts.
    for size, most in ((300, 600), (1000, 600), (300, 60)):
        monkeypatch.setattr("rnndyn.dynamics.numerics.arnoldi.MOST_VECTORS", most)
        weight, _, f = _tanh_network(size, 0.9, 0)
        found = rd.find_large_fixed_point(f, np.zeros(size))
        x = found.point
        exact = np.linalg.eigvals((1 - x**2)[:, None] * weight)
        exact = exact[np.argsort(-np.abs(exact))]
        np.testing.assert_allclose(np.abs(found.multipliers), np.abs(exact[:8]), rtol=1e-9)
        assert np.all(found.multiplier_residuals < 1e-9)
        assert np.abs(exact[0]) <= found.rest_bound < 1
        assert found.num_unstable == 0
        assert found.num_products < 700


def test_what_the_budget_did_not_find_says_so_and_the_count_holds_by_the_bound():
    size = 300
    weight, _, f = _tanh_network(size, 0.9, 1)
    found = rd.find_large_fixed_point(f, np.zeros(size), max_products=30)
    jacobian = (1 - found.point**2)[:, None] * weight
    assert not found.multipliers_converged
    assert np.max(found.multiplier_residuals) > 1e-6
    # A number with residual r is an eigenvalue of a matrix that differs by r in norm.
    for value, residual in zip(found.multipliers, found.multiplier_residuals):
        smallest = np.linalg.svd(jacobian - value * np.eye(size), compute_uv=False)[-1]
        assert smallest <= residual * (1 + 1e-9)
    assert np.max(np.abs(np.linalg.eigvals(jacobian))) <= found.rest_bound < 1
    assert found.is_stable is True


def test_unstable_directions_are_counted_by_what_bounds_the_rest():
    # Two multipliers outside, a complex pair of modulus 1.25, and -1.5; all others inside a disc of radius .4.
    size = 200
    rng = np.random.default_rng(2)
    inner = np.zeros((size, size))
    inner[:2, :2] = [[0.75, -1.0], [1.0, 0.75]]
    inner[2, 2] = -1.5
    inner[3:, 3:] = 0.4 * rng.standard_normal((size - 3, size - 3)) / np.sqrt(size)
    mix = np.eye(size) + 0.3 * rng.standard_normal((size, size)) / np.sqrt(size)
    matrix = mix @ inner @ np.linalg.inv(mix)
    found = rd.find_large_fixed_point(lambda x: jnp.sin(matrix @ x), np.zeros(size), num_multipliers=5)
    np.testing.assert_allclose(np.abs(found.multipliers[:3]), [1.5, 1.25, 1.25], rtol=1e-8)
    rest = np.sort(np.abs(np.linalg.eigvals(matrix)))[-4]
    assert rest <= found.rest_bound < 1
    assert found.num_unstable == 3
    assert found.is_stable is False


def test_a_chain_without_eigenvectors_to_speak_of():
    # x_i -> .5 x_i + .2 x_{i+1}: one Jordan block, every multiplier .5, of one eigenvector.
    size = 700
    matrix = 0.5 * np.eye(size) + 0.2 * np.eye(size, k=1)
    found = rd.find_large_fixed_point(
        lambda x: jnp.asarray(matrix) @ x, np.ones(size), num_multipliers=4, max_products=900
    )
    assert found.converged
    # Numbers far from .5 have residuals near zero here: they are eigenvalues of matrices close by.
    for value, residual in zip(found.multipliers, found.multiplier_residuals):
        assert np.linalg.svd(matrix - value * np.eye(size), compute_uv=False)[-1] <= residual + 1e-14
    assert found.rest_bound < 1
    assert found.is_stable is True


def test_a_map_without_derivative_and_one_of_a_full_circle():
    constant = rd.find_large_fixed_point(lambda x: 0 * x + 1.0, np.zeros(30), num_multipliers=2)
    np.testing.assert_array_equal(constant.multipliers, [0, 0])
    assert constant.is_stable is True
    # A turned cycle of 40 units, all multipliers of modulus 1.2: no bound, and more than were asked for.
    turn = lambda x: 1.2 * jnp.roll(x, 1)
    found = rd.find_large_fixed_point(turn, np.zeros(40), num_multipliers=4)
    np.testing.assert_allclose(np.abs(found.multipliers), 1.2, rtol=1e-9)
    assert found.rest_bound == np.inf
    assert found.num_unstable is None
    assert found.is_stable is False
