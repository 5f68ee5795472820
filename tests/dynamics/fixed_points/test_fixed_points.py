import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import count_compilations
from networks_from_data import flip_flop_gru, flip_flop_vanilla

import rnndyn as rd


class Affine(eqx.Module):
    """A map with a closed-form fixed point."""

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, x):
        return self.matrix @ x + self.offset


class Cubic(eqx.Module):
    """x + c0 + c1 x + c2 x^2 + c3 x^3 in one dimension. A module, so that all of them share one compilation."""

    coefficients: np.ndarray
    region: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, x):
        c0, c1, c2, c3 = self.coefficients
        return x + c0 + c1 * x + c2 * x**2 + c3 * x**3


def cubic(*coefficients, region=None):
    box = None if region is None else (np.array([region[0]]), np.array([region[1]]))
    return Cubic(np.array(coefficients), box)


LINE = np.linspace(-1, 1, 64)[:, None]


@pytest.fixture(scope="module")
def cube():
    """64 points of the cube [-1, 1]^3."""
    return np.random.default_rng(0).uniform(-1, 1, (64, 3))


def test_affine_map_has_the_fixed_point_of_linear_algebra(cube):
    rng = np.random.default_rng(1)
    matrix, offset = rng.standard_normal((3, 3)), rng.standard_normal(3)
    found = rd.find_fixed_points(Affine(matrix, offset), cube)
    assert len(found) == 1
    expected = np.linalg.solve(np.eye(3) - matrix, offset)
    # The error bar covers the distance to an independent solution, to which it adds its own rounding.
    assert np.max(np.abs(found.points[0] - expected)) < found.errors[0] + 1e-13
    np.testing.assert_allclose(found.jacobians[0], matrix, atol=1e-14)
    assert found.num_hits[0] == found.num_candidates
    assert len(found.unconverged) == 0


def test_hand_made_bistable_unit():
    # x = tanh(2 x): 0 and +-0.9575040240772687 (bisection in high precision).
    x = 0.9575040240772687
    found = rd.find_fixed_points(lambda x: jnp.tanh(2 * x), LINE)
    np.testing.assert_allclose(found.points[:, 0], [-x, x, 0], rtol=0, atol=4e-16)
    assert found.is_stable.tolist() == [True, True, False]
    assert found.num_unstable.tolist() == [0, 0, 1]
    # The multiplier at the origin is exactly 2, at the others 2 (1 - x^2).
    slope = 2 * (1 - x**2)
    np.testing.assert_allclose(found.multipliers[:, 0].real, [slope, slope, 2], rtol=1e-13)
    assert found.indices.tolist() == [1, 1, -1]


@pytest.mark.parametrize(("network", "unstable_counts"), [(flip_flop_gru, (8, 12, 6, 1)), (flip_flop_vanilla, None)])
def test_all_27_points_of_a_trained_flip_flop_and_nothing_else(network, unstable_counts):
    cell, data = network()
    found = rd.find_fixed_points(rd.as_map(cell), data["initial_states"])
    distance = np.max(np.abs(found.points[:, None] - data["ref_fixed_points"]), axis=-1)
    assert len(found) == 27
    # The reference was computed from float32 biases summed in another order: 3e-8 is their rounding.
    assert distance.min(axis=0).max() < 1e-6
    assert distance.min(axis=1).max() < 1e-6
    assert found.residuals.max() < 1e-14
    assert found.index_sum == 1
    assert found.may_be_complete
    np.testing.assert_array_equal(found.num_unstable, data["ref_num_unstable"][np.argmin(distance, axis=1)])
    if unstable_counts:
        assert tuple(np.bincount(found.num_unstable)) == unstable_counts
    else:
        assert not found.is_stable.any()


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_units_change_nothing(scale):
    cell, data = flip_flop_vanilla()
    weight, bias = np.asarray(cell.weight_hh, float), np.asarray(cell.bias, float)
    starts = data["initial_states"].astype(float)
    found = rd.find_fixed_points(lambda x: scale * jnp.tanh(weight @ (x / scale) + bias), scale * starts)
    assert len(found) == 27


def test_dense_and_matrix_free_searches_agree():
    cell, data = flip_flop_gru()
    f = rd.as_map(cell)
    dense = rd.find_fixed_points(f, data["initial_states"], linear_solver="dense")
    krylov = rd.find_fixed_points(f, data["initial_states"], linear_solver="gmres")
    assert len(dense) == len(krylov) == 27
    # Both are at the rounding floor of the same 27 points.
    np.testing.assert_allclose(np.sort(dense.points, axis=0), np.sort(krylov.points, axis=0), atol=1e-12)


def test_a_missing_point_is_announced():
    f = rd.as_map(rd.VanillaCell.from_weights(np.zeros((1, 1)), np.array([[2.0]]), np.zeros(1)))
    with pytest.warns(UserWarning, match="sum to -1, not 1"):
        found = rd.find_fixed_points(f, np.full((1, 1), 1e-9), max_rounds=1)
    assert len(found) == 1
    assert found.may_be_complete is False
    complete = rd.find_fixed_points(f, np.full((1, 1), 1e-9), until_complete=True)
    assert len(complete) == 3
    assert complete.may_be_complete


def test_a_map_without_fixed_points_returns_none_and_says_why(cube):
    found = rd.find_fixed_points(Affine(np.eye(3), np.ones(3)), cube)
    assert len(found) == 0
    assert "No isolated fixed point" in str(found)
    assert "Best residual: 1" in str(found)
    assert len(found.unconverged) == found.num_candidates


def test_slow_points_are_not_fixed_points():
    # x + 0.001 + x^2: the ghost of a fold, with a smallest step of 0.001.
    found = rd.find_fixed_points(cubic(1e-3, 0, 1, 0), LINE)
    assert len(found) == 0
    assert found.unconverged.stalled.all()


def test_the_identity_is_one_continuum(cube):
    found = rd.find_fixed_points(Affine(np.eye(3), np.zeros(3)), cube)
    assert len(found) == 0
    assert found.continuum.dimension == 3
    assert len(found.continuum.points) <= 64
    assert "continuum of fixed points of dimension 3" in str(found)


def test_a_line_attractor_is_one_continuum_of_dimension_one(cube):
    found = rd.find_fixed_points(Affine(np.diag([1, 0.5, 0.2]), np.zeros(3)), cube)
    assert len(found) == 0
    assert found.continuum.dimension == 1
    np.testing.assert_allclose(found.continuum.points[:, 1:], 0, atol=1e-12)


def test_a_degenerate_point_is_named_and_not_counted():
    found = rd.find_fixed_points(cubic(0, 0, 0, -1), LINE)
    assert len(found) == 1
    assert found.is_degenerate.all()
    assert found.indices.tolist() == [0]
    assert "1 degenerate" in str(found)
    # Known only to the cube root of the rounding floor, and its error bar says so.
    assert abs(found.points[0, 0]) < 1e-4
    assert found.errors[0] > 1e-8


def test_close_points_stay_apart():
    # x^2 - e^2 = 0 with e = 1e-5: two fixed points 2e-5 apart.
    found = rd.find_fixed_points(cubic(-1e-10, 0, 1, 0), LINE)
    np.testing.assert_allclose(np.sort(found.points[:, 0]), [-1e-5, 1e-5], rtol=1e-6)


def test_points_out_of_reach_are_kept_apart():
    # x + x (x - 3) (x + 4) / 20 takes [-1, 1] into itself. It is fixed at 3 and -4 too, but no trajectory from inside
    # comes near them.
    f = cubic(0, -12 / 20, 1 / 20, 1 / 20, region=(-1.0, 1.0))
    found = rd.find_fixed_points(f, 5 * LINE)
    np.testing.assert_allclose(found.points, [[0.0]], atol=1e-15)
    np.testing.assert_allclose(np.sort(found.outside.points[:, 0]), [-4, 3])
    assert found.may_be_complete
    assert "outside the region" in str(found)


def test_lstm_state_is_searched_whole():
    cell = rd.LSTMCell(1, 3, key=jax.random.key(4))
    f = rd.as_map(cell)
    lower, upper = f.region
    found = rd.find_fixed_points(f, np.random.default_rng(0).uniform(lower, upper, (100, 6)))
    assert len(found) >= 1
    assert found.points.shape[1] == 6
    for point in found.points:
        state = f.unflatten(point.astype(np.float32))
        # The unmodified float32 cell, called once: its own rounding.
        np.testing.assert_allclose(f.flatten(cell(state, jnp.zeros(1))), point, atol=1e-6)


def test_one_compilation_serves_networks_of_one_structure():
    starts = np.random.default_rng(0).uniform(-1, 1, (64, 4))
    maps = [rd.as_map(rd.GRUCell(2, 4, key=jax.random.key(i)), jnp.ones(2) * i) for i in range(4)]
    rd.find_fixed_points(maps[0], starts)
    with count_compilations() as count:
        for f in maps[1:]:
            rd.find_fixed_points(f, starts)
    assert count() == 0


def test_selection_and_round_trip(tmp_path):
    found = rd.find_fixed_points(cubic(0, 0.5, 0, -1), LINE)
    stable = found.select(found.is_stable)
    assert len(stable) == 2
    assert stable.is_stable.all()
    loaded = rd.load(found.save(tmp_path / "points.npz"))
    assert str(loaded) == str(found)
    np.testing.assert_array_equal(loaded.multipliers, found.multipliers)
    assert set(found.to_dict()) >= {"points", "residuals", "unconverged"}


def test_searches_of_one_map_are_joined():
    f = cubic(0, 0.5, 0, -1)
    right = rd.find_fixed_points(f, np.linspace(0.3, 1, 64)[:, None], max_rounds=1)
    both = rd.FixedPoints.concatenate([right, rd.find_fixed_points(f, LINE, max_rounds=1)])
    np.testing.assert_allclose(np.sort(both.points[:, 0]), [-np.sqrt(0.5), 0, np.sqrt(0.5)], atol=1e-15)
    assert both.num_hits.sum() + len(both.unconverged) == both.num_candidates == 128
    with pytest.raises(ValueError, match="parts"):
        rd.FixedPoints.concatenate([])


def test_the_global_precision_is_left_alone():
    rd.find_fixed_points(cubic(0, -0.5, 0, 0), LINE.astype(np.float32))
    assert jnp.ones(1).dtype == jnp.float32


def test_bad_input(cube):
    def f(x):
        return 0.5 * x

    with pytest.raises(ValueError, match="candidates: expected at least one"):
        rd.find_fixed_points(f, np.zeros((0, 3)))
    with pytest.raises(ValueError, match="candidates: 1 of 3 states hold NaN"):
        rd.find_fixed_points(f, np.array([[0.0], [np.nan], [1.0]]))
    with pytest.raises(ValueError, match="candidates: expected floating-point"):
        rd.find_fixed_points(f, np.zeros((3, 2), int))
    with pytest.raises(ValueError, match=r"pass candidates\[None\]"):
        rd.find_fixed_points(f, np.zeros(3))
    with pytest.raises(ValueError, match="f: expected it to keep the shape"):
        rd.find_fixed_points(lambda x: jnp.concatenate([x, x]), cube)
    with pytest.raises(ValueError, match="until_complete"):
        rd.find_fixed_points(lambda x: 1.5 * x, cube, until_complete=True)


def test_a_region_of_nan_is_survived():
    # 1 + ln(x) / 2 is NaN for x < 0. It is fixed at 1, and where 2 (x - 1) = ln x below that: 0.2031878699799799.
    found = rd.find_fixed_points(lambda x: 1 + 0.5 * jnp.log(x), LINE)
    np.testing.assert_allclose(np.sort(found.points[:, 0]), [0.2031878699799799, 1], rtol=1e-14)
    assert len(found.unconverged) >= 32
