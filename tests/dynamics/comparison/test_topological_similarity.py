"""Fixed points of many networks side by side: known graphs, brute force over matchings, p-values under the null."""

import itertools

import numpy as np
import pytest
from dynamics.maps import polynomial
from runtime_types import wrong_on_purpose

import rnndyn as rd

# The textbook portrait of two bits: corners, edges and centre have 0, 1 and 2 unstable directions.
SQUARE = np.array(list(itertools.product([-1.0, 0.0, 1.0], repeat=2)))
KINDS = np.sum(SQUARE == 0, axis=1)
# A saddle leads to the memories that agree with it where it is not undecided.
LEADS = (KINDS[:, None] > 0) & (KINDS == 0) & np.all((SQUARE[:, None] == 0) | (SQUARE[:, None] == SQUARE), axis=2)


def on_a_line(num_memories):
    """Memories with a saddle between any two neighbours: places, kinds, connections."""
    places = np.arange(2.0 * num_memories - 1)
    kinds = np.arange(len(places)) % 2
    return (places[:, None], kinds), (kinds[:, None] == 1) & (np.abs(places[:, None] - places) == 1)


def elsewhere(rng, size, places=SQUARE, kinds=KINDS, links=LEADS, stretch=(3.0, 3.0)):
    """The same points in another basis, place, scale and order."""
    order = rng.permutation(len(places))
    basis = np.linalg.qr(rng.standard_normal((size, places.shape[1])))[0]
    moved = (places * stretch)[order] @ basis.T + rng.standard_normal(size)
    return (moved, kinds[order]), links[np.ix_(order, order)]


@pytest.mark.parametrize(("group", "stretch"), [("orthogonal", (3.0, 3.0)), ("affine", (1.0, 2.5))])
def test_conjugate_networks_are_at_zero_in_any_basis_and_order(group, stretch):
    rng = np.random.default_rng(0)
    points, links = zip(((SQUARE, KINDS), LEADS), *(elsewhere(rng, n, stretch=stretch) for n in (2, 5, 12)))
    found = rd.topological_similarity(points, links, group=group, num_permutations=19)
    assert found.distances.max() == 0
    assert found.arrangement_distances.max() < 1e-7  # roots of rounding errors
    assert np.array_equal(found.num_matched, np.full((4, 4), 9))
    assert np.array_equal(found.num_common, np.full((4, 4), LEADS.sum()))
    # One of 630 deals in the square is the arrangement itself: at most a few of 19 are.
    upper = np.triu_indices(4, 1)
    assert found.p_values is not None
    assert found.p_values[upper].max() <= 0.15
    assert np.array_equal(np.diag(found.p_values), np.ones(4))
    assert "6 of 6 pairs have the same points and connections" in str(found)


def test_numbers_do_not_hang_on_basis_order_or_who_is_first():
    rng = np.random.default_rng(1)
    places, kinds = rng.standard_normal((3, 5, 2)), np.array([[0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]])
    links = rng.random((3, 5, 5)) < 0.3
    first = rd.topological_similarity(list(zip(places, kinds)), links, num_permutations=0)
    assert first.p_values is None
    moved, relinked = zip(*(elsewhere(rng, 4, *network, stretch=(1.0, 1.0)) for network in zip(places, kinds, links)))
    again = rd.topological_similarity(moved[::-1], relinked[::-1], num_permutations=0)
    for name in ("distances", "arrangement_distances", "num_matched"):
        value, other = getattr(first, name), getattr(again, name)
        np.testing.assert_array_equal(value, value.T)
        np.testing.assert_allclose(other[::-1, ::-1], value, atol=1e-9)


def test_two_memories_are_not_three():
    """3 points and 2 connections beside 5 and 4: the smaller portrait is a part of the larger."""
    points, links = zip(on_a_line(2), on_a_line(3))
    found = rd.topological_similarity(points, links, num_permutations=0)
    assert found.distances[0, 1] == pytest.approx((2 + 2) / (3 + 5 + 2 + 4))
    assert found.num_matched[0, 1] == 3
    assert found.num_common[0, 1] == 2
    alone = rd.topological_similarity(points, num_permutations=0)
    assert alone.distances[0, 1] == pytest.approx(2 / 8)


def test_equal_counts_with_other_connections_are_apart():
    """Four memories, four saddles, eight connections: in a ring, or three saddles between the same two memories."""
    angles = np.arange(8) * np.pi / 4
    places, kinds = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.arange(8) % 2
    ring, other = np.zeros((2, 8, 8), bool)
    for saddle in (1, 3, 5, 7):
        ring[saddle, [saddle - 1, (saddle + 1) % 8]] = True
        other[saddle, [0, 2] if saddle < 7 else [4, 6]] = True
    found = rd.topological_similarity([(places, kinds), (places, kinds)], [ring, other], num_permutations=0)
    memories, saddles = np.arange(0, 8, 2), np.arange(1, 8, 2)
    most = 0
    for order in itertools.permutations(memories):
        for turn in itertools.permutations(saddles):
            partner = np.empty(8, int)
            partner[memories], partner[saddles] = order, turn
            most = max(most, int(np.sum(ring & other[np.ix_(partner, partner)])))
    assert found.num_common[0, 1] == most
    assert found.distances[0, 1] == pytest.approx((16 - 2 * most) / 32)
    assert rd.topological_similarity([(places, kinds)] * 2, [ring] * 2, num_permutations=0).distances[0, 1] == 0


def squared_arrangement(x, y, kinds):
    """By brute force in the plane: all matchings, and the best turn of each from the singular values."""
    x, y = (points - points.mean(0) for points in (x, y))
    x, y = (points / np.sqrt(np.mean(np.sum(points**2, axis=1))) for points in (x, y))
    best = np.inf
    for order in itertools.permutations(range(len(y))):
        if np.array_equal(kinds[list(order)], kinds):
            overlap = np.linalg.svd(x.T @ y[list(order)], compute_uv=False).sum()
            best = min(best, (2 * len(x) - 2 * overlap) / (2 * len(x)))
    return best


def test_arrangement_and_p_value_are_those_of_brute_force():
    rng = np.random.default_rng(2)
    kinds = np.array([0, 0, 0, 1, 1])
    x = rng.standard_normal((5, 2))
    y = x @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 0.5 * rng.standard_normal((5, 2))
    found = rd.topological_similarity([(x, kinds), (y, kinds)], num_permutations=399)
    observed = squared_arrangement(x, y, kinds)
    assert found.arrangement_distances[0, 1] == pytest.approx(np.sqrt(observed), rel=1e-9)
    # Ten ways to deal five places to points of which two are saddles, all equally likely.
    deals = [
        squared_arrangement(x, y[[*(k for k in range(5) if k not in pair), *pair]], kinds)
        for pair in itertools.combinations(range(5), 2)
    ]
    exact = np.mean(np.array(deals) <= observed + 1e-12)
    assert found.p_values is not None
    # Three standard errors of a share of 399.
    assert found.p_values[0, 1] == pytest.approx(exact, abs=3 * np.sqrt(exact * (1 - exact) / 399) + 1 / 400)


def test_p_values_are_uniform_for_points_at_random():
    rng = np.random.default_rng(3)
    kinds = np.array([0, 0, 0, 0, 1, 1, 2])
    networks = [(rng.standard_normal((7, 2)), kinds) for _ in range(20)]
    # Pairs of different networks: those of a matrix share networks, and are no independent draws.
    pairs = [rd.topological_similarity(networks[k : k + 2], num_permutations=19, num_starts=8) for k in range(19)]
    more = [rd.topological_similarity(networks[k:20:10], num_permutations=19, num_starts=8) for k in range(10)]
    p = np.array([found.p_values[0, 1] for found in pairs + more if found.p_values is not None])
    assert len(p) == 29
    # The mean of 29 uniform numbers on 1/20, ..., 1 has a standard error of .053; ties make p larger.
    assert 0.525 - 3 * 0.053 < p.mean() < 0.525 + 3 * 0.053 + 0.05
    assert np.mean(p <= 0.05) < 0.18  # three standard errors above .05


def test_networks_come_as_they_are_found():
    """x' = 1.5 x - 0.5 x^3 has a saddle between two memories; beside it a network with one memory."""
    system = polynomial({"x": 1.5, "xxx": -0.5}, {"y": 0.5})
    f = lambda x: system(x, np.zeros(1))
    points = rd.find_fixed_points(f, np.random.default_rng(0).uniform(-1.2, 1.2, (16, 2)), progress=False)
    links = rd.find_connections(f, points, num_map_steps=200)
    memory = (np.zeros((1, 2)), np.zeros(1, int))
    found = rd.topological_similarity([points, memory], [links, np.zeros((1, 1), bool)])
    # The memory alone has a partner; a saddle, a memory and two connections have none.
    assert found.distances[0, 1] == pytest.approx(4 / 6)
    assert found.p_values is not None
    assert found.p_values[0, 1] == 1  # a single point lies where it lies


def test_a_network_without_fixed_points():
    nothing = (np.zeros((0, 3)), np.zeros(0, int))
    found = rd.topological_similarity([nothing, nothing, (SQUARE, KINDS)], num_permutations=2)
    np.testing.assert_array_equal(found.distances, [[0, 0, 1], [0, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(found.arrangement_distances, found.distances)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": "none"}, "group: expected"),
        ({"points": [(SQUARE, KINDS)]}, "points: expected those of at least two networks, got 1"),
        ({"points": [(SQUARE, KINDS), (SQUARE, KINDS[1:])]}, r"points\[1\]: expected the number of unstable"),
        ({"points": [(SQUARE * np.nan, KINDS)] * 2}, r"points\[0\]: 9 of 9 states hold NaN"),
        ({"connections": [LEADS]}, "connections: expected those of 2 networks, got 1"),
        ({"connections": [LEADS, LEADS[1:]]}, r"connections\[1\]: expected shape \(9, 9\)"),
        ({"num_permutations": -1}, "num_permutations"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        rd.topological_similarity(**({"points": [(SQUARE, KINDS)] * 2} | arguments))


def test_points_without_kinds_are_named():
    with wrong_on_purpose(), pytest.raises(ValueError, match=r"points\[0\]: expected FixedPoints, or points"):
        rd.topological_similarity([SQUARE, SQUARE])  # pyright: ignore[reportArgumentType]
