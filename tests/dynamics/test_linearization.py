import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

pytestmark = pytest.mark.newest


@pytest.mark.usefixtures("x64")
def test_a_rotation_has_a_pair_on_a_circle():
    angle, modulus = 0.7, 0.9
    rotation = modulus * jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lin = rd.linearize(lambda x: rotation @ x, jnp.zeros(2))
    np.testing.assert_allclose(np.sort_complex(lin.multipliers), modulus * np.exp([-1j * angle, 1j * angle]))
    np.testing.assert_allclose(lin.time_constants, -1 / np.log(modulus))
    np.testing.assert_allclose(np.abs(lin.frequencies), angle / (2 * np.pi))
    assert lin.is_stable
    assert lin.num_unstable == 0
    # A normal matrix: its departure is the square root of rounding, and no perturbation grows.
    assert lin.non_normality < 1e-7
    np.testing.assert_allclose([lin.reactivity, lin.transient_growth_bound], [modulus, 1], rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_eigenvectors_are_biorthogonal_and_ordered():
    matrix = jax.random.normal(jax.random.key(0), (8, 8))
    lin = rd.linearize(lambda x: matrix @ x, jnp.ones(8))
    np.testing.assert_allclose(lin.left @ lin.right, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(lin.left @ matrix, lin.multipliers[:, None] * lin.left, atol=1e-12)
    np.testing.assert_allclose(matrix @ lin.right, lin.right * lin.multipliers, atol=1e-12)
    assert (np.diff(np.abs(lin.multipliers)) <= 1e-12).all()


@pytest.mark.usefixtures("x64")
def test_non_normality_and_transient_growth_of_a_shear():
    shear = jnp.array([[0.5, 10.0], [0.0, 0.4]])
    lin = rd.linearize(lambda x: shear @ x, jnp.zeros(2))
    # Henrici: the Schur form is the matrix itself, its strict upper part is 10.
    np.testing.assert_allclose(lin.non_normality, 10, rtol=1e-12)
    powers = [np.linalg.norm(np.linalg.matrix_power(shear, t), 2) for t in range(30)]
    assert lin.is_stable
    assert max(powers) > 9
    assert all(p <= lin.transient_growth_bound * 0.5**t for t, p in enumerate(powers))


def test_the_input_jacobian_is_that_of_the_cell():
    cell = rd.VanillaCell(3, 5, key=jax.random.key(0))
    x, u = jnp.full(5, 0.2), jnp.array([0.1, -0.3, 0.5])
    lin = rd.linearize(rd.as_driven_map(cell), x, u)
    slope = 1 - cell(x, u) ** 2
    np.testing.assert_allclose(lin.jacobian, slope[:, None] * cell.weight_hh, rtol=1e-5)
    np.testing.assert_allclose(lin.input_jacobian, slope[:, None] * cell.weight_ih, rtol=1e-5)
    assert rd.linearize(rd.as_map(cell), x).input_jacobian is None


def test_a_defective_matrix_says_so():
    lin = rd.linearize(lambda x: jnp.array([[0.5, 1.0], [0.0, 0.5]]) @ x, jnp.zeros(2))
    assert np.isnan(np.asarray(lin.left)).all() or lin.transient_growth_bound > 1e6


def test_jit_and_vmap():
    matrix = jnp.diag(jnp.array([2.0, 0.5, -0.1]))
    lin = jax.jit(jax.vmap(lambda x: rd.linearize(lambda y: matrix @ y, x)))(jnp.zeros((4, 3)))
    np.testing.assert_allclose(lin.multipliers, np.tile([2, 0.5, -0.1], (4, 1)), rtol=1e-6)


def test_it_prints_and_saves(tmp_path):
    lin = rd.linearize(lambda x: 0.5 * x, np.zeros(3, np.float32))
    assert "stable, 0 unstable" in str(lin)
    loaded = rd.load(lin.save(tmp_path / "lin"))
    np.testing.assert_array_equal(loaded.multipliers, lin.multipliers)
