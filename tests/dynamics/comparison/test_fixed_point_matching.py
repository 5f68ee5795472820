"""Matching of fixed points: cubes that are turned, stretched, or lack a corner; connections of a known map."""

import itertools

import numpy as np
import pytest
from dynamics.maps import polynomial

import rnndyn as rd

# The textbook portrait of three bits: corners, edges, faces and centre have 0, 1, 2 and 3 unstable directions.
CUBE = np.array(list(itertools.product([-1.0, 0.0, 1.0], repeat=3)))
KINDS = np.sum(CUBE == 0, axis=1)


def shuffled(points, rng):
    order = rng.permutation(len(points))
    return points[order], KINDS[order], order


@pytest.mark.parametrize("group", ["orthogonal", "affine"])
def test_a_turned_cube_is_the_same_cube(group):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((10, 3)))[0]
    stretch = np.diag([1.0, 2.5, 0.6]) if group == "affine" else 3.0 * np.eye(3)
    points, kinds, _ = shuffled(CUBE @ stretch @ basis.T + 5.0, rng)
    found = rd.match_fixed_points(CUBE, points, KINDS, kinds, group=group)
    assert found.complete
    assert found.residual < 1e-9
    assert np.array_equal(KINDS[found.pairs[:, 0]], kinds[found.pairs[:, 1]])
    assert "27 of 27 and 27 fixed points matched" in str(found)


def test_a_missing_corner_is_noticed():
    found = rd.match_fixed_points(CUBE, CUBE[1:], KINDS, KINDS[1:])
    assert not found.complete
    assert len(found.pairs) == 26
    assert found.residual > 1e-3


@pytest.mark.parametrize("group", ["orthogonal", "affine", "none"])
def test_a_system_without_fixed_points_matches_nothing(group):
    none, no_kinds = np.zeros((0, 3)), np.zeros(0, int)
    found = rd.match_fixed_points(CUBE, none, KINDS, no_kinds, group=group)
    assert len(found.pairs) == 0
    assert not found.complete
    assert "0 of 27 and 0 fixed points matched: none" in str(found)
    assert rd.match_fixed_points(none, none, no_kinds, no_kinds, group=group).complete


def test_another_arrangement_is_further_away():
    rng = np.random.default_rng(1)
    found = rd.match_fixed_points(CUBE, rng.standard_normal((27, 3)), KINDS, KINDS)
    assert found.residual > 0.3


def test_points_that_stay_in_place_are_matched_in_place():
    rng = np.random.default_rng(2)
    points, kinds, order = shuffled(CUBE + 0.01, rng)
    found = rd.match_fixed_points(CUBE, points, KINDS, kinds, group="none")
    assert np.array_equal(order[found.pairs[:, 1]], found.pairs[:, 0])
    np.testing.assert_allclose(found.distances, 0.01 * np.sqrt(3), rtol=1e-9)


def test_connections_decide_between_symmetric_matchings():
    # Four memories on a square, passed through in one direction: turned by a quarter the arrows fit again.
    square = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    arrows = np.roll(np.eye(4, dtype=bool), 1, axis=1)
    kinds = np.zeros(4, int)
    forward = rd.match_fixed_points(square, square, kinds, kinds, connections_x=arrows, connections_y=arrows)
    assert forward.connection_overlap == 1
    lost = arrows.copy()
    lost[0] = False
    partly = rd.match_fixed_points(square, square, kinds, kinds, connections_x=arrows, connections_y=lost)
    assert partly.connection_overlap == pytest.approx(3 / 4)


def test_a_saddle_is_connected_to_both_of_its_memories():
    # x' = 1.5 x - 0.5 x^3, y' = 0.5 y: stable at x = -1 and 1, a saddle at 0.
    system = polynomial({"x": 1.5, "xxx": -0.5}, {"y": 0.5})
    f = lambda x: system(x, np.zeros(1))
    points = rd.find_fixed_points(f, np.random.default_rng(0).uniform(-1.2, 1.2, (16, 2)), progress=False)
    found = rd.find_connections(f, points, num_map_steps=200)
    place = {round(float(x)): k for k, x in enumerate(points.points[:, 0])}
    expected = np.zeros((3, 3), bool)
    expected[place[0], [place[-1], place[1]]] = True
    assert np.array_equal(found.matrix, expected)
    assert found.num_elsewhere == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": "linear"}, "group: expected"),
        ({"num_unstable_x": KINDS[1:]}, "num_unstable_x: expected one number for each of 27"),
        ({"connections_x": np.eye(27)}, "connections_x, connections_y: expected both"),
        ({"connections_x": np.eye(27), "connections_y": np.eye(3)}, r"connections_y: expected shape \(27, 27\)"),
        ({"y": CUBE[:, :2], "group": "none"}, "y: expected the state space of x"),
        ({"x": CUBE * np.nan}, "x: 27 of 27 states hold NaN"),
    ],
)
def test_bad_input_is_named(arguments, message):
    good = {"x": CUBE, "y": CUBE, "num_unstable_x": KINDS, "num_unstable_y": KINDS}
    with pytest.raises(ValueError, match=message):
        rd.match_fixed_points(**(good | arguments))
