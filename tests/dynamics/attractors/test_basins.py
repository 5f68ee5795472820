"""Basins in a plane and their entropy."""

import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd


def test_entropy_of_one_basin_is_zero():
    result = rd.basin_entropy(np.zeros((20, 20), int))
    assert result.entropy == result.boundary_entropy == 0
    assert result.num_boundary_boxes == 0


def test_entropy_of_a_straight_boundary():
    """Two basins that meet after 22 of 40 columns: in 8 of 64 boxes of 5 cells, two columns of five are the first's."""
    labels = np.zeros((40, 40), int)
    labels[:, 22:] = 1
    result = rd.basin_entropy(labels)
    mixed = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6))
    assert result.boundary_entropy == pytest.approx(mixed, abs=1e-14)
    assert result.entropy == pytest.approx(mixed * 8 / 64, abs=1e-14)
    assert not result.is_fractal


@pytest.mark.parametrize("num", [2, 3, 5])
def test_entropy_of_a_random_picture(num):
    labels = np.random.default_rng(0).integers(num, size=(400, 400))
    result = rd.basin_entropy(labels, box_size=20)
    # Miller's bias of the entropy of 400 draws; the 400 boxes scatter by less than 1e-3.
    assert result.entropy == pytest.approx(np.log(num) - (num - 1) / 800, abs=1e-3)
    assert result.is_fractal == (num > 2)


def test_undecided_cells_count_as_no_outcome():
    labels = np.zeros((10, 10), int)
    labels[0, 0] = -1
    assert rd.basin_entropy(labels).entropy == 0
    labels[1, 1] = -2
    # In one of four boxes, one of 24 decided cells escapes.
    share = 1 / 24
    expected = -(share * np.log(share) + (1 - share) * np.log(1 - share)) / 4
    assert rd.basin_entropy(labels).entropy == pytest.approx(expected, abs=1e-14)


@pytest.fixture(scope="module")
def quadrants():
    return rd.find_basins(lambda x: jnp.tanh(1.5 * x), (-1.05, -1), (1, 1), resolution=40, progress=False)


def test_quadrants(quadrants):
    assert len(quadrants.attractors) == 4
    signs = np.sign(quadrants.first)[None, :], np.sign(quadrants.second)[:, None]
    for index, attractor in enumerate(quadrants.attractors.attractors):
        inside = (signs[0] == np.sign(attractor.points[0, 0])) & (signs[1] == np.sign(attractor.points[0, 1]))
        np.testing.assert_array_equal(quadrants.labels == index, inside)
    assert "40 x 40" in str(quadrants)
    # 8 boxes a side: the edge of 20 rows falls between boxes, that of 20.5 columns within a box or between two.
    assert quadrants.entropy().num_outcomes == 4


def test_a_section_of_a_longer_state():
    """Three units in the plane x_3 = 0.5 x_1: the basins are those of the signs of x_1 and x_2."""
    section = (np.zeros(3), np.array([[1.0, 0, 0.5], [0, 1.0, 0]]))
    found = rd.find_basins(
        lambda x: jnp.tanh(1.5 * x), (-1, -1), (1, 1), resolution=10, section=section, progress=False
    )
    assert len(found.attractors) == 4
    points = np.array([a.points[0] for a in found.attractors.attractors])
    assert np.all(points[:, 0] == points[:, 2])


def test_bad_input():
    f = lambda x: 0.5 * x
    with pytest.raises(ValueError, match="lower, upper: expected the corners"):
        rd.find_basins(f, (1, 1), (0, 0))
    with pytest.raises(ValueError, match="resolution"):
        rd.find_basins(f, (0, 0), (1, 1), resolution=1)
    with pytest.raises(ValueError, match="section: expected an origin"):
        rd.find_basins(f, (0, 0), (1, 1), section=(np.zeros(3), np.zeros((3, 2))))
    with pytest.raises(ValueError, match="labels: expected integers"):
        rd.basin_entropy(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="do not fit"):
        rd.basin_entropy(np.zeros((4, 4), int))
    with pytest.raises(ValueError, match="every cell is undecided"):
        rd.basin_entropy(np.full((5, 5), -1))
