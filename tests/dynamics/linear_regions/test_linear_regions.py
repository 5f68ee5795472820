"""Cycles of piecewise-linear cells: closed forms, brute force over all itineraries, and published lists of cycles."""

import itertools
import math
from fractions import Fraction
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnndyn as rd
from rnndyn.dynamics.linear_regions._feasibility import REQUIRED_RADIUS, WordTests
from rnndyn.dynamics.linear_regions._limits import WorkLimit, WorkLimitReached
from rnndyn.dynamics.linear_regions._regions import hop_regions, nonempty_regions, search_region_graph
from rnndyn.dynamics.linear_regions._relu_map import ReluMap, distinct_itineraries, solve_itineraries
from rnndyn.dynamics.linear_regions._signs import _CyclicProblem, search_signs
from rnndyn.dynamics.linear_regions.fixed_points import has_linear_regions, region_fixed_points
from rnndyn.dynamics.proofs.certificates import certify_fixed_points

enumerate_cycles = rd.enumerate_cycles

# Cycles of period 1, 2, ... of the full shift on two symbols: (1/p) sum_{d | p} mu(d) 2^(p/d).
PRIME_CYCLES_OF_TWO_SYMBOLS = {1: 2, 2: 1, 3: 2, 4: 3, 5: 6, 6: 9, 7: 18, 8: 30}


class ReluFormCell(eqx.Module):
    """Any z -> linear z + outer relu(inner z + inner_bias) + offset, as a user's own cell would offer it."""

    linear: np.ndarray
    outer: np.ndarray
    inner: np.ndarray
    inner_bias: np.ndarray
    offset: np.ndarray
    input_size: int = eqx.field(static=True, default=0)

    def __call__(self, z, u):
        return self.linear @ z + self.outer @ jax.nn.relu(self.inner @ z + self.inner_bias) + self.offset

    def relu_form(self, u):
        return self


def standard(diagonal, weight, bias, **more):
    """A standard PLRNN in float64."""
    with jax.enable_x64(True):
        more: dict[str, Any] = {name: np.asarray(value, float) for name, value in more.items()}
        return rd.PiecewiseLinearCell.from_weights(
            np.asarray(diagonal, float), np.asarray(weight, float), np.asarray(bias, float), **more
        )


def random_standard(seed, size, gain=1.5, bias_scale=1.0):
    rng = np.random.default_rng(seed)
    weight = gain * rng.standard_normal((size, size)) / np.sqrt(size)
    return standard(rng.uniform(-0.5, 0.9, size), weight, bias_scale * rng.standard_normal(size))


def random_shallow(seed, size, num_relus, gain=2.0):
    rng = np.random.default_rng(seed)
    return standard(
        rng.uniform(0.2, 0.8, size),
        gain * rng.standard_normal((size, num_relus)) / np.sqrt(num_relus),
        rng.standard_normal(size),
        hidden_weight=rng.standard_normal((num_relus, size)),
        hidden_bias=rng.standard_normal(num_relus),
    )


def relu_map(cell):
    with jax.enable_x64(True):
        return ReluMap.of(cell.relu_form(jnp.zeros(cell.input_size)))


def brute_force(cell, period):
    """The first points of all cycles of minimal period `period`, from all 2^(p L) itineraries and their products."""
    system = relu_map(cell)
    size = system.state_size
    words = np.array(list(itertools.product([False, True], repeat=period * system.num_relus)))
    words = words.reshape(len(words), period, -1)
    matrix, vector = np.tile(np.eye(size), (len(words), 1, 1)), np.zeros((len(words), size))
    for t in range(period):
        gated = system.outer * words[:, t, None, :]
        step = system.linear + gated @ system.inner
        matrix = step @ matrix
        vector = np.einsum("kij,kj->ki", step, vector) + gated @ system.inner_bias + system.offset
    orbit = [np.linalg.solve(np.eye(size) - matrix, vector[..., None])[..., 0]]
    for _ in range(period - 1):
        orbit.append(system(orbit[-1]))
    orbit = np.stack(orbit, axis=1)
    followed = np.all((system.borders(orbit) > 0) == words, axis=(1, 2))
    early = [np.all(np.isclose(orbit[:, q], orbit[:, 0], rtol=1e-9, atol=1e-9), axis=1) for q in range(1, period)]
    cycles = orbit[followed & ~np.any(early, axis=0)] if early else orbit[followed]
    found = {min(tuple(np.round(point, 6) + 0.0) for point in cycle) for cycle in cycles}
    return np.array(sorted(found)).reshape(-1, size)


def first_points(cycles):
    return np.array(sorted(map(tuple, np.round(cycles.points[:, 0], 6) + 0.0))).reshape(-1, cycles.points.shape[2])


def assert_sound(result):
    """What every result must satisfy, whatever the system."""
    for cycles in result:
        scale = 1 + np.max(np.abs(cycles.points), initial=0.0)
        # One step of a well-conditioned small map rounds to a few eps times the terms of its sums.
        assert np.all(cycles.residuals <= 1e-12 * scale)
        for q in range(1, cycles.period):
            if cycles.period % q == 0:
                moved = np.max(np.abs(np.roll(cycles.points, q, axis=1) - cycles.points), axis=(1, 2), initial=0.0)
                assert np.all(moved > 1e-6 * scale)
        starts = cycles.points[:, 0]
        for a, b in itertools.combinations(range(len(cycles)), 2):
            assert np.max(np.abs(starts[a] - starts[b])) > 1e-9 * scale


# --- closed forms


def test_tent_map_has_every_cycle_of_two_symbols():
    # z' = 2 z + 1 left of 0, -2 z + 1 right of it.
    result = enumerate_cycles(standard([2.0], [[-4.0]], [1.0]), None, 8)
    assert result.proved
    assert result.counts == PRIME_CYCLES_OF_TWO_SYMBOLS
    assert_sound(result)
    for cycles in result:
        num_on = cycles.patterns.sum(axis=(1, 2))
        # Accurate to a few rounding errors.
        np.testing.assert_allclose(cycles.multipliers[:, 0], (-1.0) ** num_on * 2.0**cycles.period, rtol=1e-14)
        assert np.all(np.abs(cycles.points) <= 1)
        assert not cycles.is_on_border.any()


def test_tent_map_from_two_relus_with_one_border_in_common():
    cell = standard([0.0], [[-2.0, -2.0]], [1.0], hidden_weight=[[1.0], [-1.0]], hidden_bias=[0.0, 0.0])
    result = enumerate_cycles(cell, None, 6)
    assert result.proved
    assert result.counts == {p: PRIME_CYCLES_OF_TWO_SYMBOLS[p] for p in range(1, 7)}
    assert all(cycles.patterns.shape[2] == 2 for cycles in result)


def test_uncoupled_units_have_two_fixed_points_each():
    # Each unit has slope a below 0 and b = a + w above it, with a < 1 < b and a negative bias: h/(1-a) and h/(1-b).
    a, w, h = np.array([0.5, -0.2, 0.9, 0.1, 0.0]), np.array([1.0, 2.0, 0.3, 4.0, 1.5]), -np.array([1, 2, 0.5, 3, 0.1])
    result = enumerate_cycles(standard(a, np.diag(w), h), None, 1)
    expected = np.array(list(itertools.product(*zip(h / (1 - a), h / (1 - a - w)))))
    assert result.proved
    assert len(result[1]) == 32
    np.testing.assert_allclose(first_points(result[1]), np.array(sorted(map(tuple, np.round(expected, 6) + 0.0))))
    # Every unit above 0 is an unstable direction.
    np.testing.assert_array_equal(result[1].num_unstable, result[1].patterns[:, 0].sum(axis=1))


def test_contraction_of_twenty_units_has_one_fixed_point():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((20, 20))
    # |A| + |W| < 1: by Banach's theorem there is one fixed point, and no cycle.
    cell = standard(rng.uniform(0, 0.4, 20), 0.5 * weight / np.linalg.norm(weight, 2), rng.standard_normal(20))
    result = enumerate_cycles(cell, None, 1)
    assert result.proved
    assert len(result[1]) == 1
    assert result[1].is_stable.all()


@pytest.mark.parametrize(("bias", "num", "on_border"), [(-1.0, 2, 0), (1.0, 0, 0), (0.0, 1, 1)])
def test_border_collision_of_a_scalar_map(bias, num, on_border):
    # Slopes 0.5 and 1.5: two fixed points on one side of the collision, none on the other, one at 0 at it.
    result = enumerate_cycles(standard([0.5], [[1.0]], [bias]), None, 3)
    assert result.proved
    assert result.counts == {1: num, 2: 0, 3: 0}
    assert result[1].is_on_border.sum() == on_border
    assert_sound(result)


def test_held_input_moves_the_fixed_point():
    cell = standard([0.5, 0.2], np.zeros((2, 2)), [1.0, -1.0], weight_ih=[[2.0], [1.0]])
    result = enumerate_cycles(cell, np.array([3.0]), 1)
    np.testing.assert_allclose(result[1].points[0, 0], [7 / 0.5, 2 / 0.8], rtol=1e-15)
    assert result[1].border_distances[0] == np.inf  # without a weight on the ReLUs there is no border


def test_zero_bias_leaves_one_fixed_point_on_all_borders():
    cell = random_standard(3, 4, bias_scale=0.0)
    result = enumerate_cycles(cell, None, 2)
    assert result.proved
    assert result.counts == {1: 1, 2: 0}
    assert result[1].is_on_border.all()
    np.testing.assert_array_equal(result[1].points, 0.0)


# --- cycles that are not isolated


def test_line_attractor_is_a_family():
    # z_1 stays; z_2 follows 0.2 + 0.6 relu(z_1): one half-line of fixed points for each sign of z_1.
    result = enumerate_cycles(standard([1.0, 0.5], [[0.0, 0.0], [0.3, 0.0]], [0.0, 0.1]), None, 3)
    assert result.proved
    assert result.counts == {1: 0, 2: 0, 3: 0}
    assert [family.dimension for family in result[1].families] == [1, 1]
    for family in result[1].families:
        z = family.points[0]
        np.testing.assert_allclose(z[1], 0.2 + 0.6 * max(z[0], 0), rtol=1e-12)
    assert len(result[2].families) == len(result[3].families) == 0


def test_identity_and_translation():
    identity = enumerate_cycles(standard(np.ones(3), np.zeros((3, 3)), np.zeros(3)), None, 2)
    assert [family.dimension for family in identity[1].families] == [3]
    assert len(identity) == 0
    translation = enumerate_cycles(standard([1.0], [[0.0]], [1.0]), None, 2)
    assert translation.proved
    assert len(translation) == 0
    assert not translation[1].families
    assert translation[1].radius > 1e12


def test_reflection_has_a_family_of_two_cycles():
    result = enumerate_cycles(standard([-1.0], [[0.0]], [1.0]), None, 4)
    assert result.counts == {1: 1, 2: 0, 3: 0, 4: 0}
    assert [len(cycles.families) for cycles in result] == [0, 1, 0, 0]
    points = result[2].families[0].points
    assert abs(points[0, 0] - points[1, 0]) > 0.1
    assert result[2].families[0].residual < 1e-15


def test_quarter_turn_has_a_family_of_four_cycles():
    turn = ReluFormCell(
        np.array([[0.0, -1.0], [1.0, 0.0]]), np.ones((2, 1)), np.array([[1.0, 0.0]]), np.array([-5.0]), np.zeros(2)
    )
    result = enumerate_cycles(turn, None, 4)
    assert result[1].points.shape == (1, 1, 2)
    assert [len(cycles.families) for cycles in result] == [0, 0, 0, 1]
    family = result[4].families[0]
    assert family.dimension == 2
    assert family.residual < 1e-14
    # On a family, z_1 stays left of the border at 5.
    assert np.max(family.points[:, 0]) < 5
    assert np.ptp(family.points[:, 0]) > 0.1


def test_line_of_fixed_points_that_only_touches_its_region():
    # Slope 1 and bias 0 on the left of 0; on the right slope 3. Only the half-line z <= 0 is fixed.
    result = enumerate_cycles(standard([1.0], [[2.0]], [0.0]), None, 1)
    assert [family.dimension for family in result[1].families] == [1]
    assert result[1].families[0].points[0, 0] < 0


# --- brute force and independent methods


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_brute_force_on_standard_networks(seed):
    cell = random_standard(seed, 2, gain=3.0)
    result = enumerate_cycles(cell, None, 5, progress=False)
    assert result.proved
    assert_sound(result)
    for period in range(1, 6):
        np.testing.assert_allclose(first_points(result[period]), brute_force(cell, period), atol=2e-6)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_brute_force_on_shallow_networks(seed):
    cell = random_shallow(seed, 2, 4, gain=4.0)
    result = enumerate_cycles(cell, None, 3, progress=False)
    assert result.proved
    for period in range(1, 4):
        np.testing.assert_allclose(first_points(result[period]), brute_force(cell, period), atol=2e-6)


def test_lozi_map_agrees_with_brute_force():
    # x' = 1 - 1.7 |x| + y, y' = 0.5 x: chaotic.
    outer = np.array([[-1.7, -1.7, 1.0, -1.0], [0.5, -0.5, 0.0, 0.0]])
    inner = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    lozi = ReluFormCell(np.zeros((2, 2)), outer, inner, np.zeros(4), np.array([1.0, 0.0]))
    one_relu = ReluFormCell(
        np.array([[1.7, 1.0], [0.5, 0.0]]), np.array([[-3.4], [0.0]]), inner[:1], np.zeros(1), np.array([1.0, 0.0])
    )
    result = enumerate_cycles(lozi, None, 8)
    assert result.proved
    assert sum(result.counts.values()) > 15
    for period in range(1, 9):
        np.testing.assert_allclose(first_points(result[period]), brute_force(one_relu, period), atol=2e-6)
        # The determinant of every piece is -0.5.
        determinants = np.prod(result[period].multipliers, axis=1)
        np.testing.assert_allclose(determinants, (-0.5) ** period, rtol=1e-9)


def test_newton_finds_the_same_fixed_points():
    # Six uncoupled bistable units, coupled weakly: many fixed points.
    rng = np.random.default_rng(7)
    coupling = np.diag(rng.uniform(1, 2, 6)) + 0.1 * rng.standard_normal((6, 6))
    cell = standard(rng.uniform(0.1, 0.5, 6), coupling, -np.ones(6))
    result = enumerate_cycles(cell, None, 1)
    assert result.proved
    candidates = rng.uniform(-10, 10, (200, 6))
    with jax.enable_x64(True):
        found = rd.find_fixed_points(rd.as_map(cell), candidates)
    listed = result[1].points[:, 0]
    assert len(listed) > 10
    for point in found.points:
        assert np.min(np.max(np.abs(listed - point), axis=1)) < 1e-9
    assert len(found) == len(listed)


def test_attractors_reached_by_iteration_are_listed():
    num_periodic = 0
    for seed in range(8):
        cell = random_standard(seed, 3)
        weights = np.asarray(cell.weight_hh), np.asarray(cell.diagonal), np.asarray(cell.bias)

        def step(z, weights=weights):
            return np.clip(z * weights[1] + np.maximum(z, 0) @ weights[0].T + weights[2], -1e6, 1e6)

        z = np.random.default_rng(5).standard_normal((20, 3))
        for _ in range(3000):
            z = step(z)
        z = z[np.max(np.abs(z), axis=1) < 1e5]
        images = z
        for period in range(1, 5):
            images = step(images)
            ends = z[np.max(np.abs(images - z), axis=1, initial=0.0) < 1e-10]
            if len(ends):
                points = np.concatenate([c.points.reshape(-1, 3) for c in enumerate_cycles(cell, None, period)])
                assert all(np.min(np.max(np.abs(points - end), axis=1)) < 1e-8 for end in ends)
                num_periodic += 1
                break
    assert num_periodic >= 3


@pytest.mark.parametrize("seed", range(5))
def test_the_two_exhaustive_methods_agree(seed):
    system, _ = relu_map(random_shallow(seed, 2, 5, gain=4.0)).simplified()
    by_graph = search_region_graph(system, 2, WorkLimit(100_000)).by_period
    for period in (1, 2):
        by_signs = distinct_itineraries(search_signs(system, period, WorkLimit(100_000))[0])
        ends = []
        for itineraries in (by_graph[period], by_signs):
            solutions = solve_itineraries(system, itineraries)
            assert not solutions.on_border.any()
            words = distinct_itineraries(itineraries[solutions.inside])
            ends.append(words)
        np.testing.assert_array_equal(*ends)


# --- certificates


def test_a_word_that_is_followed_is_never_excluded():
    rng = np.random.default_rng(1)
    num_excluded_elsewhere = 0
    for seed in range(100):
        system, _ = relu_map(random_shallow(seed, 2 + seed % 3, 5)).simplified()
        orbit = [10 ** rng.uniform(-2, 2) * rng.standard_normal(system.state_size)]
        for _ in range(4):
            orbit.append(system(orbit[-1]))
        reach = np.max(np.abs(orbit))
        followed = np.array([system.borders(point) > 0 for point in orbit])
        word = tuple(range(5))
        tests = WordTests(system, followed)
        excluded = tests.excluded_radius(word)
        assert excluded is None or excluded > reach
        # The bound holds for any multipliers at all, also absurd ones.
        for share in (0.1, 0.5, 1.0):
            y = rng.random(followed.shape) * (rng.random(followed.shape) < share)
            assert tests.radius_of(word, y) <= reach * (1 + 1e-9)
        other = followed ^ (rng.random(followed.shape) < 0.3)
        num_excluded_elsewhere += WordTests(system, other).excluded_radius(word) is not None
    # Most words made up at random are followed by no orbit.
    assert num_excluded_elsewhere > 50


def test_signs_of_a_cycle_are_never_excluded():
    rng = np.random.default_rng(2)
    num_cycles = 0
    for seed in range(25):
        cell = random_shallow(seed, 2, 5, gain=4.0)
        system, scale = relu_map(cell).simplified()
        for cycles in enumerate_cycles(cell, None, 2, progress=False):
            problem = _CyclicProblem.of(system, cycles.period)
            for points in cycles.points / scale:
                num_cycles += 1
                true_signs = np.where(system.borders(points) > 0, 1, -1).ravel().astype(np.int8)
                for share in (0.0, 0.3, 0.7, 1.0):
                    signs = true_signs * (rng.random(true_signs.size) < share).astype(np.int8)
                    _, excluded = problem.relax(signs)
                    assert excluded <= np.max(np.abs(points)) * (1 + 1e-9)
    assert num_cycles > 15


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 6))
def test_number_of_regions_is_that_of_a_simple_arrangement(seed, size, num_borders):
    # L hyperplanes in general position cut R^N into sum_{i <= N} (L choose i) regions (Schläfli).
    rng = np.random.default_rng(seed)
    system = ReluMap(
        np.eye(size),
        np.ones((size, num_borders)),
        rng.standard_normal((num_borders, size)),
        rng.standard_normal(num_borders),
        np.zeros(size),
    )
    patterns, radius = nonempty_regions(system, 1000, WorkLimit(10_000))
    sampled = np.unique(system.borders(1e3 * rng.standard_normal((500, size))) > 0, axis=0)
    listed = {pattern.tobytes() for pattern in patterns}
    assert all(pattern.tobytes() in listed for pattern in sampled)
    assert len(patterns) == sum(math.comb(num_borders, i) for i in range(size + 1))
    assert radius >= REQUIRED_RADIUS


def test_errors_bound_the_distance_to_the_true_cycle():
    for seed in range(8):
        cell = random_standard(seed, 2, gain=2.0)
        system = relu_map(cell)
        for cycles in enumerate_cycles(cell, None, 3, progress=False):
            for k in range(len(cycles)):
                exact = _exact_first_point(system, cycles.patterns[k])
                distance = max(abs(Fraction(float(c)) - e) for c, e in zip(cycles.points[k, 0], exact))
                assert distance <= Fraction(float(cycles.errors[k]))
                # A useful bound, too: within a few hundred units in the last place of a well-conditioned point.
                assert cycles.errors[k] < 1e-9 * (1 + np.max(np.abs(cycles.points[k])))


def _exact_first_point(system, itinerary):
    """The solution of (I - M) z = v for a planar map in rational arithmetic, by Cramer's rule."""

    def exact(array):
        return np.vectorize(lambda value: Fraction(float(value)), otypes=[object])(array)

    matrix, vector = exact(np.eye(2)), exact(np.zeros(2))
    for pattern in itinerary:
        gated = exact(system.outer * pattern)
        step = exact(system.linear) + gated @ exact(system.inner)
        matrix, vector = step @ matrix, step @ vector + gated @ exact(system.inner_bias) + exact(system.offset)
    (a, b), (c, d) = exact(np.eye(2)) - matrix
    det = a * d - b * c
    return (d * vector[0] - b * vector[1]) / det, (a * vector[1] - c * vector[0]) / det


# --- published lists: L. Eisenmann et al. 2023, test systems of SCYFI, recomputed with all multipliers

PLANAR_BIAS = [0.37298253, -0.97931491]


def planar(a1, a2, w12, scale=1.0):
    return standard([a1, a2], [[0.0, w12], [0.52505308, 0.0]], scale * np.array(PLANAR_BIAS))


@pytest.mark.parametrize(
    ("a1", "a2", "w12", "point", "multiplier"),
    [
        (0.7, -0.7, -0.14375, [1.2432750999999997, -0.1920761702692307], 0.7),
        (-0.0222311, 0.96461297, -0.64375, [0.3648710453047261, -22.260648713947862], 0.96461297),
    ],
)
def test_planar_networks_with_one_fixed_point(a1, a2, w12, point, multiplier):
    result = enumerate_cycles(planar(a1, a2, w12), None, 1)
    assert result.proved
    assert result.counts == {1: 1}
    np.testing.assert_allclose(result[1].points[0, 0], point, rtol=1e-12)
    np.testing.assert_allclose(np.abs(result[1].multipliers[0, 0]), multiplier, rtol=1e-12)


@pytest.mark.parametrize(
    ("a1", "w12", "period", "fixed_point", "radii", "visited"),
    [
        (
            0.8377689,
            -0.64375,
            16,
            ([1.8724198743651363, 0.10752278698234134], 1.070572588408947),
            [0.5188996433064603, 1.6102182102822422],
            [[2.159992007251732, 0.13558620297310595], [2.1374625037618538, 0.017364905988574472]],
        ),
        (
            0.9777689,
            -0.14375,
            27,
            ([2.01900154991945, 2.2824202062162495], 1.0092794176305353),
            [0.6931705713360619, 1.1319580365754147],
            [[3.9623396581685504, 0.9095046203263378], [3.7980649980148993, 0.37149520372957967]],
        ),
    ],
)
def test_planar_networks_with_two_long_cycles(a1, w12, period, fixed_point, radii, visited):
    result = enumerate_cycles(planar(a1, 0.96461297, w12), None, period)
    assert result.proved
    assert result.counts == {p: {1: 1, period: 2}.get(p, 0) for p in range(1, period + 1)}
    assert_sound(result)
    np.testing.assert_allclose(result[1].points[0, 0], fixed_point[0], rtol=1e-12)
    np.testing.assert_allclose(result[1].spectral_radii, fixed_point[1], rtol=1e-12)
    long = result[period]
    np.testing.assert_allclose(long.spectral_radii, radii, rtol=1e-10)
    assert long.is_stable.tolist() == [True, False]
    for points, point in zip(long.points, visited):
        assert np.min(np.max(np.abs(points - point), axis=1)) < 1e-10


SHALLOW = {
    "diagonal": [0.6172450705591427, 0.5261273846061184],
    "weight_hh": [
        [
            *[-1.022331291385995, -0.6068651009735164, 0.005478115970447768, -0.6765758765817282, 0.17667276783032312],
            *[-0.37241595029711383, -0.2799681077442852, 1.6336122869854053, 0.7388068389577566, 0.43655916960874785],
        ],
        [
            *[-0.23031703096807454, -0.155167269588236, 1.1743020054655264, 1.4693401983283279, -1.141192841208352],
            *[0.11938698490497139, 0.6192500266755361, 0.03950302999313116, -0.9179498107708933, -0.1216362805456489],
        ],
    ],
    "bias": [-0.5480895548836227, -0.2922735885352696],
    "hidden_weight": [
        [1.753949852408234, -0.692574927107241],
        [-0.45303568496148183, -0.5365936668032565],
        [0.07984706960954363, -0.48651643130319855],
        [-1.0455124065967838, -0.22986736948781128],
        [0.048362883726876985, 0.8959123953895494],
        [-1.0545422354241465, 0.5685368747406444],
        [-0.43826625604171476, -2.1955495493951815],
        [-0.8981129185384389, -0.6454540072455006],
        [0.6162103523913983, -0.8644618121879155],
        [-1.2236281701654421, -2.059927291272103],
    ],
    "hidden_bias": [
        *[0.5352937111114038, -1.110030373073419, -1.3146036515301616, 0.2748467715335772, -1.4155203620983157],
        *[0.7891282169615852, -0.13084812694281087, -0.40652418385647066, -0.9383323642698853, -0.9983356016811977],
    ],
}


def shallow_network(scale=1.0):
    with jax.enable_x64(True):
        weights: dict[str, Any] = {name: np.array(value) for name, value in SHALLOW.items()}
        for name in ("bias", "hidden_bias"):
            weights[name] = scale * weights[name]
        return rd.PiecewiseLinearCell.from_weights(**weights)


def test_shallow_network_has_two_2_cycles_and_one_4_cycle():
    result = enumerate_cycles(shallow_network(), None, 6)
    assert result.proved
    assert result.counts == {1: 0, 2: 2, 3: 0, 4: 1, 5: 0, 6: 0}
    assert_sound(result)
    np.testing.assert_allclose(
        result[2].points,
        [
            [[-8.765882056803505, -24.07809047800471], [30.848270438427672, 33.00103427421958]],
            [[-2.8983244536433594, -0.43374296903791576], [-1.2829721475426048, 5.818843351912339]],
        ],
        rtol=1e-11,
    )
    np.testing.assert_allclose(result[2].multipliers[0], [1.1052838919786883, -0.8586019817720776], rtol=1e-10)
    complex_pair = 1.2316982449840115 + 0.8563284787240366j
    np.testing.assert_allclose(
        sorted(result[2].multipliers[1], key=np.imag), [complex_pair.conjugate(), complex_pair], rtol=1e-10
    )
    np.testing.assert_allclose(result[4].multipliers[0], [2.064194602091493, 1.1836236514987266], rtol=1e-10)
    np.testing.assert_allclose(result[4].points[0, 0], [-10.952320583241034, -26.173558875642023], rtol=1e-11)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_scaling_every_state_changes_no_count(scale):
    for make, periods in ((planar_with_16_cycles, (1, 16)), (shallow_network, (2,))):
        plain, scaled = (enumerate_cycles(make(s), None, max(periods)) for s in (1.0, scale))
        assert scaled.proved
        assert scaled.counts == plain.counts
        for period in periods:
            one, other = plain[period], scaled[period]
            # A few rounding errors, times the condition of the cycles.
            np.testing.assert_allclose(other.points, scale * one.points, rtol=1e-9)
            np.testing.assert_allclose(other.multipliers, one.multipliers, rtol=1e-9)
            np.testing.assert_allclose(other.border_distances, scale * one.border_distances, rtol=1e-6)


def planar_with_16_cycles(scale):
    return planar(0.8377689, 0.96461297, -0.64375, scale)


def test_scaling_keeps_a_border_case_and_a_family():
    for scale in (1e-4, 1e4):
        border = enumerate_cycles(standard([0.5, 0.3], [[1.0, 0.4], [0.0, 0.2]], [0.0, scale]), None, 2)
        assert border.counts == enumerate_cycles(standard([0.5, 0.3], [[1, 0.4], [0, 0.2]], [0, 1]), None, 2).counts
        line = enumerate_cycles(standard([1.0, 0.5], [[0.0, 0.0], [0.3, 0.0]], [0.0, 0.1 * scale]), None, 1)
        assert [family.dimension for family in line[1].families] == [1, 1]


# --- sampled search


def test_region_hopping_finds_the_cycles_of_the_shallow_network():
    result = enumerate_cycles(shallow_network(), None, 4, max_tests=30)
    assert [cycles.proved for cycles in result] == [True, False, False, False]
    assert result.counts == {1: 0, 2: 2, 3: 0, 4: 1}
    assert not result.proved
    assert "not proved" in str(result)
    assert "sampled" in str(result[2])


def test_region_hopping_finds_only_what_is_listed():
    for seed in range(5):
        cell = random_standard(seed, 12, gain=2.0)
        everything = enumerate_cycles(cell, None, 1)
        assert everything.proved
        system, _ = relu_map(cell).simplified()
        hops = hop_regions(system, 1, num_starts=300, max_hops=50, rng=np.random.default_rng(seed))
        solutions = solve_itineraries(system, distinct_itineraries(hops))
        assert solutions.inside.sum() <= len(everything[1])
        # Newton from 300 guesses reaches at least half of the fixed points of such networks.
        assert solutions.inside.sum() >= 0.5 * len(everything[1])


def test_work_limit_stops_both_exhaustive_methods():
    system, _ = relu_map(random_standard(0, 12, gain=2.0)).simplified()
    with pytest.raises(WorkLimitReached):
        search_signs(system, 2, WorkLimit(5))
    assert search_region_graph(system, 2, WorkLimit(50)).by_period == {}


# --- the fixed points in a box, as `enumerate_fixed_points` states them


def bistable_map():
    # Fixed points of each unit: -2 and 2.
    with jax.enable_x64(True):
        return rd.as_map(standard([0.5, 0.5], np.eye(2), [-1.0, -1.0]))


def test_fixed_points_in_a_box_are_certified():
    f = bistable_map()
    assert has_linear_regions(f)
    found = region_fixed_points(f)
    np.testing.assert_allclose(found.points, [[-2, -2], [-2, 2], [2, -2], [2, 2]])
    assert found.reason == ""
    assert len(found.undecided_lower) == 0
    assert np.all(found.upper > 1e12)
    # The interval Newton test knows nothing of linear regions.
    certificates = certify_fixed_points(f, found.points, progress=False)
    assert certificates.certified.all()
    np.testing.assert_array_equal(certificates.num_unstable, [0, 1, 1, 2])
    part = region_fixed_points(f, np.array([-3.0, 0.0]), 3.0)
    np.testing.assert_allclose(part.points, [[-2, 2], [2, 2]])


def test_enumeration_of_fixed_points_takes_the_linear_regions():
    found = rd.enumerate_fixed_points(bistable_map(), progress=False)
    assert found.proved
    assert found.num_boxes == 0
    np.testing.assert_allclose(found.points, [[-2, -2], [-2, 2], [2, -2], [2, 2]])
    np.testing.assert_array_equal(found.num_unstable, [0, 1, 1, 2])
    assert np.all(found.existence_radius < 1e-12)
    # Of each fixed point's region the nearest border is the axis, two away: half of that is tested.
    np.testing.assert_allclose(found.uniqueness_radius, 1.0)
    part = rd.enumerate_fixed_points(bistable_map(), [-3, 0], 3, progress=False)
    np.testing.assert_allclose(part.points, [[-2, 2], [2, 2]])
    with pytest.raises(ValueError, match="lower < upper"):
        rd.enumerate_fixed_points(bistable_map(), 3, [-3, 0], progress=False)
    with jax.enable_x64(True):
        border = rd.enumerate_fixed_points(rd.as_map(standard([0.5], [[1.0]], [0.0])), progress=False)
    assert not border.proved
    assert "border" in border.reason


def test_what_is_not_decided_is_named():
    with jax.enable_x64(True):
        border = region_fixed_points(rd.as_map(standard([0.5], [[1.0]], [0.0])))
        assert len(border.points) == 0
        assert "border" in border.reason
        assert border.undecided_lower[0, 0] <= 0 <= border.undecided_upper[0, 0]
        line = region_fixed_points(rd.as_map(standard([1.0], [[2.0]], [0.0])), -1.0, 1.0)
        assert "dimension 1" in line.reason
        np.testing.assert_array_equal([line.undecided_lower[0, 0], line.undecided_upper[0, 0]], [-1, 1])
        sample = region_fixed_points(rd.as_map(random_standard(0, 12)), -9.0, 9.0, max_tests=1)
        assert "sample" in sample.reason
        far = region_fixed_points(rd.as_map(shallow_network()), -1e300, 1e300)
        assert "larger than the proof" in far.reason
    assert not has_linear_regions(rd.as_map(rd.VanillaCell(1, 2, key=jax.random.key(0))))


# --- from states to the fixed points of their regions


# --- interface


def test_float32_cell_is_analysed_in_float64():
    cell = rd.PiecewiseLinearCell(2, 4, num_rectified=2, key=jax.random.key(0))
    assert cell.weight_hh.dtype == jnp.float32
    result = enumerate_cycles(cell, np.array([0.3, -0.2]), 2)
    assert result.proved
    assert len(result[1]) == 1
    assert result[1].points.dtype == np.float64
    assert_sound(result)


def test_idle_relus_are_ignored():
    cell = standard([0.5], [[1.0, 2.0, 0.0]], [-1.0], hidden_weight=[[1.0], [0.0], [1.0]], hidden_bias=[0.0, 0.25, 7.0])
    # z' = 0.5 z + relu(z) - 0.5: fixed points -1 and 1.
    result = enumerate_cycles(cell, None, 2)
    np.testing.assert_allclose(result[1].points.ravel(), [-1.0, 1.0])
    np.testing.assert_allclose(result[1].border_distances, [1.0, 1.0])


def test_save_and_load(tmp_path):
    result = enumerate_cycles(standard([2.0], [[-4.0]], [1.0]), None, 3)
    loaded = rd.load(result.save(tmp_path / "cycles"))
    assert isinstance(loaded, rd.EnumeratedCycles)
    assert loaded.counts == result.counts
    np.testing.assert_array_equal(loaded[3].points, result[3].points)
    assert str(loaded) == str(result)
    assert set(result.to_dict()) == {"cycles"}


def test_tables_state_the_claim():
    result = enumerate_cycles(standard([1.0, 0.5], [[0.0, 0.0], [0.3, 0.0]], [0.0, 0.1]), None, 2)
    assert "0 cycles of periods 1 to 2" in str(result)
    assert "a family of dimension 1 of cycles of period 1" in str(result[1])
    border = enumerate_cycles(standard([0.5], [[1.0]], [0.0]), None, 1)
    assert "(on it)" in str(border[1])
    assert "proved complete" in str(border[1])


def test_bad_input():
    cell = standard([0.5, 0.2], np.zeros((2, 2)), [1.0, -1.0], weight_ih=[[2.0], [1.0]])
    with pytest.raises(ValueError, match="relu_form"):
        enumerate_cycles(rd.VanillaCell(1, 2, key=jax.random.key(0)), None, 2)
    with pytest.raises(ValueError, match="input: expected shape"):
        enumerate_cycles(cell, np.zeros(3), 2)
    with pytest.raises(ValueError, match="NaN"):
        enumerate_cycles(cell, np.array([np.nan]), 2)
    for period in (0, -1):
        with pytest.raises(ValueError, match="max_period"):
            enumerate_cycles(cell, None, period)
    with pytest.raises(ValueError, match="max_tests"):
        enumerate_cycles(cell, None, 1, max_tests=0)
    with pytest.raises(ValueError, match="weights"):
        enumerate_cycles(eqx.tree_at(lambda c: c.bias, cell, np.array([np.inf, 0.0])), None, 1)
    with pytest.raises(KeyError, match="not searched"):
        enumerate_cycles(cell, None, 1)[2]


@pytest.mark.slow
def test_random_networks_of_thirty_units_are_decided():
    for seed in range(3):
        result = enumerate_cycles(random_standard(seed, 30, gain=1.0), None, 1)
        assert result.proved
        assert_sound(result)
