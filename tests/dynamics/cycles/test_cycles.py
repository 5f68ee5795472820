import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon, Logistic
from networks_from_data import flip_flop_vanilla

import rnndyn as rd
from rnndyn.dynamics.cycles._tables import group_cycles
from rnndyn.dynamics.cycles.shooting import solve_cyclic
from rnndyn.dynamics.numerics.eigenvalues import product_eigenvalues
from rnndyn.dynamics.numerics.periodic_orbits import CyclicSystem


class Tanh(eqx.Module):
    """x -> s tanh(W x / s), which takes the box [-s, s]^N into itself."""

    weights: np.ndarray
    scale: np.ndarray = eqx.field(default_factory=lambda: np.array(1.0))

    @property
    def region(self):
        box = jnp.ones(self.weights.shape[0]) * self.scale
        return -box, box

    def __call__(self, x):
        return self.scale * jnp.tanh(self.weights @ (x / self.scale))


class Linear(eqx.Module):
    """x -> A x."""

    matrix: np.ndarray

    def __call__(self, x):
        return self.matrix @ x


HENON = Henon()


def ring(num_units, weight):
    """x_i -> tanh(w x_{i-1}): F^n acts as n independent scalar maps."""
    return Tanh(weight * np.roll(np.eye(num_units), -1, axis=1))


def sequence_memory(num_units, length, gain, seed):
    """A network that runs through `length` random sign patterns: W takes each to `gain` times the next."""
    patterns = np.random.default_rng(seed).choice([-1.0, 1.0], (num_units, length))
    return Tanh(gain * np.roll(patterns, -1, axis=1) @ np.linalg.pinv(patterns)), patterns


def cube(num_units, num=48, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num, num_units))


def fixed_point_of_tanh(w):
    """The positive solution of x = tanh(w x), by bisection."""
    low, high = 1e-3, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.tanh(w * middle) > middle else (low, middle)
    return low


# --- the linear algebra


@pytest.mark.parametrize("num_links", [1, 6, 13])
def test_cyclic_systems_are_solved(num_links, x64):
    rng = np.random.default_rng(num_links)
    jacobians, rhs = rng.standard_normal((num_links, 3, 3)), rng.standard_normal((num_links, 3))
    for solution in (solve_cyclic(jnp.asarray(jacobians), jnp.asarray(rhs)), CyclicSystem(jacobians).solve(rhs)):
        s = np.asarray(solution)
        left = np.roll(s, -1, axis=0) - np.einsum("pij,pj->pi", jacobians, s)
        # Rounding, times a condition number of these random systems below 1e3.
        np.testing.assert_allclose(left, rhs, atol=1e-12 * np.max(np.abs(s)))


def test_long_unstable_cyclic_systems_are_solved(x64):
    # The product of these 60 Jacobians has eigenvalues from about 1e-40 to 1e40: condensing them to one would leave
    # no digit, while the system itself is well conditioned.
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((2, 2)))
    jacobian = rotation @ np.diag([4.6, 1 / 4.6]) @ rotation.T
    jacobians, rhs = np.tile(jacobian, (60, 1, 1)), rng.standard_normal((60, 2))
    s = np.asarray(solve_cyclic(jnp.asarray(jacobians), jnp.asarray(rhs)))
    # Six links are condensed at a time: 4.6^6 = 1e4 units of rounding.
    np.testing.assert_allclose(np.roll(s, -1, axis=0) - s @ jacobian.T, rhs, atol=1e-11)


def test_gap_is_the_norm_of_the_inverse():
    rng = np.random.default_rng(1)
    jacobians = rng.standard_normal((3, 4, 4))
    matrix = np.zeros((12, 12))
    for i in range(3):
        matrix[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = -jacobians[i]
        after = (4 * i + 4) % 12
        matrix[4 * i : 4 * i + 4, after : after + 4] += np.eye(4)
    exact = 1 / np.linalg.norm(np.linalg.inv(matrix), np.inf)
    # Hager's estimate is a lower bound of the norm, rarely off by more than a factor of 2.
    assert exact * (1 - 1e-9) <= CyclicSystem(jacobians).gap <= 2 * exact
    assert CyclicSystem(np.ones((1, 1, 1))).gap == 0


def in_random_bases(triangles, seed):
    """Factors Q_{i+1} T_i Q_i^T, whose product has the eigenvalues of the product of the T_i."""
    rng = np.random.default_rng(seed)
    bases = [np.linalg.qr(rng.standard_normal(triangles.shape[1:]))[0] for _ in triangles]
    return np.stack([bases[(i + 1) % len(bases)] @ t @ bases[i].T for i, t in enumerate(triangles)])


def test_small_multipliers_are_not_lost():
    # 30 factors of 10 units, each with diagonal entries between 0.01 and 1: products down to about 1e-38.
    rng = np.random.default_rng(1)
    diagonals = 10 ** -rng.uniform(0, 2, (30, 10)) * rng.choice([-1, 1], (30, 10))
    sizes = np.abs(diagonals)
    upper = 0.03 * np.triu(rng.standard_normal((30, 10, 10)), 1) * np.minimum(sizes[:, :, None], sizes[:, None, :])
    factors = in_random_bases(upper + np.einsum("pi,ij->pij", diagonals, np.eye(10)), seed=2)
    expected = np.prod(diagonals, axis=0)
    expected = expected[np.argsort(-np.abs(expected))]
    assert np.abs(expected[-1] / expected[0]) < 1e-10
    # Each factor contributes a few roundings relative to its own smallest entry, 100 times smaller than its norm.
    np.testing.assert_allclose(product_eigenvalues(factors), expected, rtol=1e-9)
    # The test can tell: in the product itself the small ones are lost.
    plain = np.linalg.eigvals(np.linalg.multi_dot(factors[::-1]))
    plain = plain[np.argsort(-np.abs(plain))]
    assert np.max(np.abs(plain / expected - 1)) > 1e-3


def test_complex_pairs_of_a_product():
    angle, sizes = 0.7, np.array([[1.0, 1e-6, 1e-12]] * 4)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    blocks = np.zeros((4, 6, 6))
    for i in range(3):
        blocks[:, 2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = sizes[:, i, None, None] * turn
    values = product_eigenvalues(in_random_bases(blocks, seed=3))
    # A factor of norm 1 has entries of 1e-12: what rounding leaves of them is 1e-4 of their size.
    for pair, size, tolerance in zip(values.reshape(3, 2), (1.0, 1e-24, 1e-48), (1e-13, 1e-8, 1e-2)):
        expected = size * np.exp([4j * angle, -4j * angle])
        np.testing.assert_allclose(sorted(pair, key=np.imag), sorted(expected, key=np.imag), rtol=tolerance)


def test_singular_products_have_zero_multipliers():
    shift = np.array([[0.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(product_eigenvalues(np.stack([shift, shift])), [0, 0])
    np.testing.assert_array_equal(product_eigenvalues(np.array([[[2.0]], [[0.0]]])), [0])


def test_cycles_are_one_up_to_a_shift():
    rng = np.random.default_rng(0)
    cycle = rng.standard_normal((5, 3))
    # The mirror image has another mean, the reversed one the same: only a comparison of points tells it apart.
    points = np.stack([cycle, np.roll(cycle, 2, axis=0) + 1e-12, cycle[::-1], -cycle, np.roll(cycle[::-1], 1, axis=0)])
    np.testing.assert_array_equal(group_cycles(points, np.full(5, 1e-10)), [0, 0, 1, 2, 1])


# --- closed forms


@pytest.fixture(scope="module")
def logistic_cycles():
    f = Logistic(np.array(4.0), (np.zeros(1), np.ones(1)))
    return rd.find_cycles(f, np.random.default_rng(0).uniform(0, 1, (32, 1)), range(1, 9), progress=False)


def test_logistic_counts(logistic_cycles):
    # OEIS A001037 (necklaces), with the fixed points 0 and 3/4.
    assert list(logistic_cycles.counts.values()) == [2, 1, 2, 3, 6, 9, 18, 30]


def test_logistic_points_and_errors(logistic_cycles):
    for cycles in logistic_cycles:
        p = cycles.period
        exact = np.sin(np.pi * np.concatenate([np.arange(2**p) / (2**p - 1), np.arange(2**p) / (2**p + 1)])) ** 2
        distance = np.min(np.abs(cycles.points[:, :, 0, None] - exact), axis=2)
        # The closed form is itself rounded: sin^2 to a few units in the last place.
        assert np.all(distance <= cycles.errors[:, None] + 1e-15)
        assert np.all(cycles.errors < 1e-12)


def test_logistic_multipliers(logistic_cycles):
    for cycles in logistic_cycles:
        sizes = np.abs(cycles.multipliers[:, 0])
        at_zero = np.abs(cycles.points[:, 0, 0]) < 1e-10
        # An error of a point of 1e-13 changes f' near its zero by up to 1e-10 of itself at these periods.
        np.testing.assert_allclose(sizes, np.where(at_zero, 4.0, 2.0) ** cycles.period, rtol=1e-9)


def test_a_cycle_starts_at_its_smallest_point_and_follows_the_map(logistic_cycles):
    for cycles in logistic_cycles:
        x = cycles.points[:, :, 0]
        np.testing.assert_array_equal(np.argmin(x, axis=1), 0)
        images = 4 * x * (1 - x)
        np.testing.assert_allclose(images, np.roll(x, -1, axis=1), atol=1e-14)
        assert np.all(cycles.residuals <= 1e-14)


def test_cycle_set_prints_and_is_saved(logistic_cycles, tmp_path):
    assert "period" in str(logistic_cycles)
    assert "30 cycles of period 8" in str(logistic_cycles[8])
    again = rd.load(logistic_cycles.save(tmp_path / "cycles"))
    np.testing.assert_array_equal(again[8].points, logistic_cycles[8].points)
    assert again.counts == logistic_cycles.counts
    chosen = logistic_cycles[8].select(logistic_cycles[8].multipliers[:, 0].real > 0)
    assert 0 < len(chosen) < 30


# Biham & Wenzel (1989), Davidchack & Lai (1999): smallest x and unstable multiplier, a = 1.4, b = 0.3.
HENON_CYCLES = {
    1: [(-1.1313544770895048, 3.259822097891452), (0.6313544770895047, -1.9237388581534067)],
    2: [(-0.4758000511750563, -3.0101006677402706)],
    3: [],
    4: [(-0.7067667772194082, -8.63944460489831)],
    5: [],
    6: [(-0.8042199009841077, -27.51470280503507), (-0.7277616264300656, 28.125003213846753)],
    7: [
        (-1.0872860458490454, -25.991849721355255),
        (-1.0466775735267917, 17.635239399113694),
        (-0.9261732772845178, -17.99071051890646),
        (-0.8805053735822396, 35.74264208690917),
    ],
}


@pytest.fixture(scope="module")
def henon_cycles():
    return rd.find_cycles(HENON, np.random.default_rng(0).uniform(-0.3, 0.3, (32, 2)), range(1, 9), progress=False)


def test_henon_cycles(henon_cycles):
    assert list(henon_cycles.counts.values()) == [2, 1, 0, 1, 0, 2, 4, 7]
    for period, rows in HENON_CYCLES.items():
        cycles = henon_cycles[period]
        found = sorted((x, mu) for x, mu in zip(cycles.points[:, 0, 0], cycles.multipliers[:, 0].real))
        # The reference values have 16 digits; a multiplier of 30 moves by 1e-12 when its cycle does by 1e-14.
        np.testing.assert_allclose(np.reshape(found, (-1, 2)), np.reshape(rows, (-1, 2)), rtol=1e-11)


def test_henon_multipliers_multiply_to_the_determinant(henon_cycles):
    for cycles in henon_cycles:
        # det DF = -b everywhere; the stable multiplier is of the order 1e-6 next to one of 90.
        np.testing.assert_allclose(np.prod(cycles.multipliers, axis=1), (-0.3) ** cycles.period, rtol=1e-12)


@pytest.mark.slow
def test_all_cycles_of_chaotic_maps_to_long_periods():
    rng = np.random.default_rng(0)
    logistic = rd.find_cycles(Logistic(np.array(4.0)), rng.uniform(0, 1, (64, 1)), range(9, 13), progress=False)
    assert list(logistic.counts.values()) == [56, 99, 186, 335]
    henon = rd.find_cycles(HENON, rng.uniform(-0.3, 0.3, (64, 2)), range(9, 14), progress=False)
    # Points of period p on the attractor: 55, 103, 155, 247, 417 (Galias); fixed points of F^p, minus those of
    # shorter cycles, over p.
    assert list(henon.counts.values()) == [6, 10, 14, 19, 32]


@pytest.fixture(scope="module", params=[(3, -1.5), (3, 1.5)], ids=str)
def ring_cycles(request):
    num_units, weight = request.param
    cycles = rd.find_cycles(ring(num_units, weight), cube(num_units), (1, 2, 3, 6), progress=False)
    return num_units, weight, cycles


def test_ring_oscillators(ring_cycles):
    num_units, weight, cycles = ring_cycles
    # F^n moves every unit on its own by x -> tanh(w tanh(...)), which has three points of period 1 or 2: 3^n in all.
    assert sum(len(c) * c.period for c in cycles) == 3**num_units
    stable = {p: int(c.is_stable.sum()) for p, c in cycles.by_period.items() if c.is_stable.any()}
    assert stable == ({2: 1, 6: 1} if weight < 0 else {1: 2, 3: 2})
    assert [c.index_sum for c in cycles] == [1, 1, 1, 1]
    assert all(c.may_be_complete for c in cycles)


def test_ring_points_and_multipliers(ring_cycles):
    _, weight, cycles = ring_cycles
    x_star = fixed_point_of_tanh(abs(weight))
    outer, inner = weight * (1 - x_star**2), weight
    for c in cycles:
        sizes = np.abs(c.points)
        np.testing.assert_allclose(np.minimum(sizes, np.abs(sizes - x_star)), 0, atol=1e-13)
        for points, multipliers in zip(c.points, c.multipliers):
            # Every step multiplies the volume by the slopes of the units, which the ring only passes on.
            slopes = np.where(np.abs(points[0]) < 0.1, inner, outer)
            assert np.prod(np.abs(multipliers)) == pytest.approx(np.abs(np.prod(slopes)) ** c.period, rel=1e-12)


@pytest.mark.slow
def test_longer_rings():
    four = rd.find_cycles(ring(4, 1.5), cube(4, 64), (1, 2, 4), progress=False)
    assert sum(len(c) * c.period for c in four) == 81
    assert {p: int(c.is_stable.sum()) for p, c in four.by_period.items()} == {1: 2, 2: 1, 4: 3}
    five = rd.find_cycles(ring(5, -1.2), cube(5, 64), (1, 2, 5, 10), progress=False)
    assert sum(len(c) * c.period for c in five) == 243
    assert {p: int(c.is_stable.sum()) for p, c in five.by_period.items()} == {1: 0, 2: 1, 5: 0, 10: 3}


def one_unit(weight):
    return rd.find_cycles(Tanh(np.array([[weight]])), cube(1), (1, 2, 4, 6), num_random=128, progress=False)


@pytest.mark.parametrize("weight", [-1.1, -1.5, -2.0, -4.0])
def test_scalar_two_cycles(weight):
    cycles = one_unit(weight)
    # x -> tanh(w x) is monotonic: no other period is possible, and a search for its multiples ends on these.
    assert cycles.counts == {1: 1, 2: 1, 4: 0, 6: 0}
    x_star = fixed_point_of_tanh(-weight)
    np.testing.assert_allclose(cycles[2].points, [[[-x_star], [x_star]]], atol=1e-13)
    np.testing.assert_allclose(cycles[2].multipliers, [[(weight * (1 - x_star**2)) ** 2]], rtol=1e-11)
    assert [c.index_sum for c in cycles] == [1, 1, 1, 1]
    # Few starts were lost on the way, most where the slope is steep (9% at w = -4): they ended on shorter cycles.
    assert cycles[4].num_unconverged <= 0.1 * cycles[4].num_candidates


def test_at_a_flip_there_is_no_two_cycle():
    # At w = -1 the multiplier is -1 and x + tanh(x) vanishes to third order: pairs of size 1e-5 pass for 2-cycles.
    cycles = one_unit(-1.0)
    assert cycles.counts == {1: 1, 2: 0, 4: 0, 6: 0}
    assert cycles[1].may_be_complete
    assert cycles[2].index_sum is None


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_unit_of_the_state_does_not_matter(scale):
    network = Tanh(ring(3, -1.5).weights, np.array(scale))
    cycles = rd.find_cycles(network, scale * cube(3), (1, 2, 3, 6), progress=False)
    assert cycles.counts == {1: 1, 2: 1, 3: 0, 6: 4}


def test_rotations_have_a_continuum_of_cycles():
    angle = 2 * np.pi / 5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cycles = rd.find_cycles(Linear(turn), cube(2, 12), 5, num_random=0, progress=False)[5]
    assert len(cycles) == 0
    assert cycles.continuum is not None
    assert cycles.continuum.period == 5
    radii = np.linalg.norm(cycles.continuum.points, axis=2)
    np.testing.assert_allclose(radii, np.tile(radii[:, :1], (1, 5)), rtol=1e-9)
    assert np.ptp(radii) > 0.1


# --- networks


@pytest.fixture(scope="module")
def flip_flop():
    cell, data = flip_flop_vanilla()
    f = rd.as_map(cell)
    return f, rd.find_cycles(f, data["initial_states"][:128], (1, 2), progress=False), data


def test_flip_flop_memories_are_two_cycles(flip_flop):
    _, cycles, data = flip_flop
    assert len(cycles[1]) == 27
    # An independent search in PyTorch found the same ones; it added the two biases in float64, here they are float32.
    distances = np.max(np.abs(cycles[1].points[:, 0] - data["ref_fixed_points"][:, None]), axis=2)
    np.testing.assert_array_less(np.min(distances, axis=1), 1e-7)
    assert not cycles[1].is_stable.any()
    assert cycles[2].is_stable.sum() == 8
    assert [c.index_sum for c in cycles] == [1, 1]
    # The memories of three bits: each stable cycle is read out as its own combination of signs, at both its points.
    outputs = cycles[2].points[cycles[2].is_stable] @ data["W_out"].T + data["b_out"]
    np.testing.assert_array_equal(np.sign(outputs[:, 0]), np.sign(outputs[:, 1]))
    assert len(np.unique(np.sign(outputs[:, 0]), axis=0)) == 8


def test_flip_flop_memories_are_certified(flip_flop):
    f, cycles, _ = flip_flop
    for points in cycles[2].points[cycles[2].is_stable]:
        certificate = rd.certify_cycle(f, points)
        assert certificate.certified
        assert certificate.num_unstable == 0
        assert certificate.existence_radius < 1e-12


@pytest.fixture(scope="module")
def five_cycle():
    f, patterns = sequence_memory(20, 5, gain=2.0, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one round from few candidates does not find the saddles
        cycles = rd.find_cycles(f, patterns.T + 0.1 * cube(20, 5), 5, max_rounds=1, progress=False)[5]
    return f, patterns, cycles


def test_a_network_that_stores_a_sequence_has_its_cycle(five_cycle):
    _, patterns, cycles = five_cycle
    stable = cycles.points[cycles.is_stable]
    assert len(stable) == 1
    start = np.flatnonzero((np.sign(stable[0, 0]) == patterns.T).all(axis=1))
    assert start.size == 1
    np.testing.assert_array_equal(np.sign(stable[0]), np.roll(patterns.T, -start[0], axis=0))


def test_certificate_of_a_cycle_of_a_network(five_cycle):
    f, _, cycles = five_cycle
    points = cycles.points[cycles.is_stable][0]
    certificate = rd.certify_cycle(f, points)
    assert certificate.certified
    assert certificate.period == 5
    assert certificate.num_unstable == 0
    assert certificate.existence_radius < certificate.uniqueness_radius
    assert "minimal period 5" in str(certificate)


def test_no_certificate_without_a_cycle(five_cycle):
    f, _, cycles = five_cycle
    points = cycles.points[cycles.is_stable][0]
    wrong_order = rd.certify_cycle(f, points[::-1])
    assert not wrong_order.certified
    assert wrong_order.reason
    # The fixed point 0, passed as a cycle of period 5: the sequence exists, its period is not minimal.
    repeated = rd.certify_cycle(f, np.zeros((5, 20)))
    assert not repeated.certified
    assert repeated.existence_radius < 1e-12
    assert "shorter period" in repeated.reason


@pytest.mark.slow
def test_long_states():
    f, patterns = sequence_memory(200, 10, gain=2.0, seed=1)
    candidates = patterns.T + 0.1 * cube(200, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one round from few candidates does not find the saddles
        cycles = rd.find_cycles(f, candidates, 10, max_rounds=1, progress=False)[10]
    assert cycles.is_stable.sum() == 1
    assert cycles.residuals.max() < 1e-14


def test_single_precision_networks_are_searched_in_double():
    network = Tanh(ring(3, -1.5).weights.astype(np.float32), np.array(1.0, np.float32))
    assert not jax.config.jax_enable_x64
    cycles = rd.find_cycles(network, cube(3).astype(np.float32), (1, 2, 3, 6), progress=False)
    assert cycles[6].points.dtype == np.float64
    assert len(cycles[6]) == 4
    assert cycles[6].residuals.max() < 1e-15


# --- completeness


def test_missing_cycles_are_noticed():
    # Candidates on the saddle 0 and one round: the two stable points are not seen.
    network, at_zero = Tanh(np.array([[2.0]])), np.zeros((2, 1))
    with pytest.warns(UserWarning, match=r"sum to -1, not 1, -1, not 1 \(period 6\): some are missing"):
        found = rd.find_cycles(network, at_zero, (1, 6), max_rounds=1, progress=False)
    assert found[1].may_be_complete is False
    complete = rd.find_cycles(network, at_zero, (1, 6), until_complete=True, progress=False)
    assert complete[1].may_be_complete
    assert len(complete[1]) == 3


def test_unstable_cycles_on_the_edge_of_the_region_leave_completeness_open(logistic_cycles):
    # x = 0 is repelling and a corner of [0, 1], where the index of the map is not sign(1 - F').
    assert all(cycles.index_sum is None and cycles.may_be_complete is None for cycles in logistic_cycles)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"period": 0}, "period"),
        ({"period": []}, "period"),
        ({"period": [2, 2]}, "period"),
        ({"period": 2.5}, "period"),
        ({"candidates": np.zeros((0, 2))}, "candidates"),
        ({"candidates": np.array([[np.nan, 0.0]])}, "candidates"),
        ({"candidates": np.zeros((3, 2), int)}, "candidates"),
        ({"until_complete": True}, "region"),
        ({"max_rounds": 0}, "max_rounds"),
        ({"f": lambda x: x[:1]}, "f: expected"),
    ],
)
def test_bad_input_is_named(arguments, message):
    defaults = {"f": HENON, "candidates": np.zeros((3, 2)), "period": 2, "progress": False}
    with pytest.raises(ValueError, match=message):
        rd.find_cycles(**{**defaults, **arguments})


def test_nothing_found_is_a_result():
    # From here all orbits leave for infinity, and one step of Newton's method brings nothing back.
    cycles = rd.find_cycles(HENON, np.array([[50.0, 50.0], [-3.0, 0.0]]), (2, 8), max_steps=1, max_rounds=1)
    assert cycles.counts == {2: 0, 8: 0}
    assert cycles[8].num_unconverged == cycles[8].num_candidates
    assert "No cycle of period 2 found" in str(cycles[2])


def test_escaping_candidates_do_no_harm():
    far = np.array([[50.0, 50.0], [-3.0, 0.0], [0.1, 0.1]])
    cycles = rd.find_cycles(HENON, far, (2, 8), progress=False)
    np.testing.assert_allclose(cycles[2].points[0, 0, 0], -0.4758000511750563, rtol=1e-12)
