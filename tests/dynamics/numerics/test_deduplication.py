import numpy as np
import pytest

from rnndyn.dynamics.numerics.deduplication import farthest_points, group_points, thin_points


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_groups_do_not_depend_on_units(scale):
    rng = np.random.default_rng(0)
    centres = rng.uniform(-1, 1, (20, 7))
    which = rng.integers(20, size=300)
    points = centres[which] + 1e-12 * rng.standard_normal((300, 7))
    labels = group_points(scale * points, np.zeros(300))
    assert len(np.unique(labels)) == len(np.unique(which))
    for label in np.unique(labels):
        assert len(np.unique(which[labels == label])) == 1


def test_points_merge_when_their_errors_explain_the_distance():
    points = np.array([[0.0], [1e-6], [1.0]])
    assert group_points(points, np.zeros(3)).tolist() == [0, 1, 2]
    assert group_points(points, np.array([1e-6, 1e-6, 0])).tolist() == [0, 0, 1]


def test_every_pair_is_compared():
    # Against all pairs at once, on clusters that share their largest coordinate.
    rng = np.random.default_rng(1)
    points = np.round(rng.uniform(0, 1, (120, 3)), 1)
    labels = group_points(points, np.full(120, 1e-3))
    _, expected = np.unique(points, axis=0, return_inverse=True)
    same = labels[:, None] == labels
    np.testing.assert_array_equal(same, expected[:, None] == expected)


def test_thinning_never_chains():
    labels = thin_points(np.linspace(0, 1, 101)[:, None], np.full(101, 0.025 + 1e-9))
    assert labels.max() + 1 == 17
    assert len(group_points(np.zeros((0, 2)), np.zeros(0))) == 0


@pytest.mark.parametrize(("size", "radius", "odd"), [(2, 0.05, np.nan), (30, 1e-9, np.inf), (3, 0.01, 1.0)])
def test_thinning_compares_every_pair(size, radius, odd):
    rng = np.random.default_rng(2)
    points = rng.normal(size=(200, size))
    points[100:] = points[rng.integers(100, size=100)] + 1e-10 * rng.normal(size=(100, size))
    radii = radius * rng.uniform(0.5, 1, 200)
    if np.isfinite(odd):
        radii[3] = np.inf
    else:
        points[[7, 90]] = odd
    expected = np.full(200, -1)
    for i in range(200):
        if expected[i] < 0:
            with np.errstate(invalid="ignore"):
                near = (np.abs(points - points[i]) <= (radii + radii[i])[:, None]).all(axis=1)
            near[i] = True
            expected[near & (expected < 0)] = expected.max() + 1
    np.testing.assert_array_equal(thin_points(points, radii), expected)


def test_farthest_points_cover_the_set():
    points = np.linspace(0, 1, 101)[:, None]
    assert sorted(points[farthest_points(points, 3), 0]) == [0.0, 0.5, 1.0]
