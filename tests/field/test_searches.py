"""What searches got wrong in real use: each input as it was met, with a value that comes from outside the library."""

import warnings

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from dynamics.maps import Henon, Logistic

import rnndyn as rd


class Tanh(eqx.Module):
    """x' = tanh(W x)."""

    weights: np.ndarray

    def __call__(self, x):
        return jnp.tanh(self.weights @ x)


class Torus(eqx.Module):
    """x' = A x + k sin(2 pi x_0) (1, 1) / (2 pi), not wrapped."""

    matrix: np.ndarray
    kick: np.ndarray

    def __call__(self, x):
        return self.matrix @ x + self.kick * jnp.sin(2 * jnp.pi * x[0]) / (2 * jnp.pi)


class Wrapped(eqx.Module):
    """The same, wrapped by the map itself, as one writes it first."""

    torus: Torus

    def __call__(self, x):
        return jnp.mod(self.torus(x), 1.0)


CAT = Torus(np.array([[2.0, 1.0], [1.0, 1.0]]), np.zeros(2))
STANDARD = Torus(np.array([[1.0, 1.0], [0.0, 1.0]]), np.full(2, 0.8))


def cat_counts(max_period):
    """Cycles of the cat map: |det(A^p - I)| fixed points of A^p, less those of shorter cycles."""
    power, fixed, counts = np.eye(2, dtype=int), {}, {}
    for p in range(1, max_period + 1):
        power = power @ np.array([[2, 1], [1, 1]])
        fixed[p] = abs(round(np.linalg.det(power - np.eye(2))))
        counts[p] = (fixed[p] - sum(d * counts[d] for d in range(1, p) if p % d == 0)) // p
    return counts


def in_order(points):
    """By coordinates; what differs by rounding only counts as equal."""
    return points[np.lexsort(np.round(points, 9).T[::-1])]


# --- one candidate far out


@pytest.mark.parametrize("far", [1e9, 1e16])
def test_a_far_candidate_changes_nothing(far):
    # Two units without coupling: every pair of the three roots of x = tanh(2 x).
    starts = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    starts[7] = far
    found = rd.find_fixed_points(Tanh(2 * np.eye(2)), starts, progress=False)
    root = 0.9575040240772687  # of x = tanh(2 x), by bisection in 50 digits
    expected = np.array([[a, b] for a in (-root, 0, root) for b in (-root, 0, root)])
    assert len(found) == 9
    np.testing.assert_allclose(in_order(found.points), expected, atol=1e-15)
    assert found.residuals.max() < 1e-15


def test_a_far_candidate_changes_no_cycles():
    # The Henon map has one cycle of period 2 and of period 4 (Biham & Wenzel 1989).
    henon = Henon()
    starts = np.random.default_rng(0).uniform(-0.3, 0.3, (32, 2))
    starts[3] = 1e9
    found = rd.find_cycles(henon, starts, (2, 4), progress=False)
    assert found.counts == {2: 1, 4: 1}
    np.testing.assert_allclose(found[2].points[0, 0, 0], -0.4758000511750563, rtol=1e-12)
    assert found[4].errors.max() < 1e-12


def test_a_far_candidate_accepts_no_wrong_root():
    # |F(x) - x| is at least 1e-6: there is no fixed point, however far out one candidate is.
    found = rd.find_fixed_points(lambda x: x + 1e-6 + x**2, np.array([[1e16], [0.1], [-0.2], [0.3]]), progress=False)
    assert len(found) == 0
    assert found.continuum is None


# --- identity of a set, and angles


@pytest.mark.slow
def test_attractors_at_the_cut_of_an_angle_are_one():
    # 0 attracts (its multiplier is 1 - 1/2), 1/2 repels; the interval [0, 1) has its ends at the attractor.
    circle = lambda x: jnp.mod(x - 0.25 / jnp.pi * jnp.sin(2 * jnp.pi * x), 1.0)
    states = np.random.default_rng(0).uniform(0, 1, (400, 1))
    found = rd.find_attractors(rd.on_torus(circle, 1.0), states, progress=False)
    assert len(found) == 1
    assert found.basin_fractions[0] == 1.0
    np.testing.assert_allclose(np.sin(np.pi * found.attractors[0].points[0, 0]), 0, atol=1e-12)
    np.testing.assert_allclose(found.attractors[0].multipliers, 0.5, rtol=1e-9)
    # Not told of the angle, the map jumps at the point itself: no set is listed, and that is said.
    untold = rd.find_attractors(circle, states, progress=False)
    assert len(untold) == 0
    assert untold.undecided_fraction == 1
    assert any("on a kink of the map: the map jumps" in reason for reason in untold.undecided.reasons)


@pytest.mark.parametrize("cat", [Wrapped(CAT), pytest.param(CAT, marks=pytest.mark.slow)])
def test_cycles_of_the_cat_map(cat):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = rd.find_cycles(
            rd.on_torus(cat, 1.0), np.random.default_rng(0).uniform(0, 1, (64, 2)), range(1, 8), progress=False
        )
    assert found.counts == cat_counts(7) == {1: 1, 2: 2, 3: 5, 4: 10, 5: 24, 6: 50, 7: 120}
    for cycles in found:
        # det(I - A^p) = 2 - trace: hyperbolic with positive multipliers, every index is -1.
        golden = ((3 + np.sqrt(5)) / 2) ** cycles.period
        np.testing.assert_allclose(cycles.multipliers[:, 0], golden, rtol=1e-10)
        assert cycles.index_sum == cycles.expected_index_sum == round(2 - golden - 1 / golden)
        assert cycles.may_be_complete
        assert not cycles.near_jump.any()
        assert np.all((cycles.points >= 0) & (cycles.points < 1))


def test_counts_of_the_standard_map_do_not_hang_on_the_starts():
    f = rd.on_torus(STANDARD, 1.0)
    found = [
        rd.find_cycles(f, np.random.default_rng(k).uniform(0, 1, (64, 2)), (1, 2, 3), progress=False) for k in range(2)
    ]
    assert found[0].counts == found[1].counts
    # x = 0 and x = 1/2 with y = 0: the map is homotopic to the shear, whose Lefschetz number is 0.
    np.testing.assert_allclose(np.sort(found[0][1].points[:, 0, 0]), [0, 0.5], atol=1e-12)
    assert all(cycles.expected_index_sum == 0 for cycles in found[0])


def test_a_cycle_at_a_jump_is_marked():
    found = rd.find_cycles(Wrapped(CAT), np.random.default_rng(0).uniform(0, 1, (64, 2)), (1, 2), progress=False)
    at_cut = lambda cycles: np.any(np.minimum(cycles.points, 1 - cycles.points) < 1e-12, axis=(1, 2))
    assert at_cut(found[1]).any()
    for cycles in found:
        np.testing.assert_array_equal(cycles.near_jump, at_cut(cycles))


# --- near a bifurcation, at a maximum, at NaN


def test_a_cycle_just_born_is_listed():
    r = 3 + 1e-8
    found = rd.find_cycles(Logistic(np.array(r)), np.linspace(0.6, 0.7, 64)[:, None], (1, 2), progress=False)
    # x = (r + 1 -+ sqrt((r + 1) (r - 3))) / (2 r)
    half = np.sqrt((r + 1) * (r - 3)) / (2 * r)
    assert len(found[2]) == 1
    np.testing.assert_allclose(found[2].points[0, :, 0], (r + 1) / (2 * r) + np.array([-half, half]), atol=1e-2 * half)
    assert np.abs(found[1].points - (1 - 1 / r)).min() < 1e-9


def test_a_maximum_of_the_speed_is_no_slow_point():
    # G = 1 - x^2 / 2 + x^4 / 16: |G| has a maximum at 0 and minima at +-2, where it vanishes.
    f = lambda x: x + 1e-2 * (2 - x**2 / 2 + x**4 / 16)
    slow = rd.find_slow_points(f, np.array([[0.0], [0.0], [0.3]]), progress=False)
    np.testing.assert_allclose(np.abs(slow.points), 2.0, rtol=1e-6)
    np.testing.assert_allclose(slow.speeds, 1e-2, rtol=1e-9)


def test_starts_that_become_nan_are_no_minima():
    found = rd.find_fixed_points(lambda x: 0.5 * jnp.log(x) + 1, np.array([[-1.0], [-2.0], [0.8]]), max_rounds=1)
    assert not found.unconverged.stalled.any()
    assert "2 lost to NaN" in str(found)
    assert len(found) == 1


# --- whether anything is missing


def test_without_anything_to_count_against_the_result_says_so():
    henon = Henon()
    found = rd.find_cycles(henon, np.random.default_rng(0).uniform(-0.3, 0.3, (32, 2)), (2, 4), progress=False)
    assert found[2].expected_index_sum is None
    assert found[2].may_be_complete is None
    assert "not known" in str(found[2])


def test_a_trapping_box_seen_on_the_way_counts():
    # tanh(2 x) keeps every box around its three fixed points, and says so nowhere.
    starts = np.random.default_rng(0).uniform(0.5, 2, (20, 1))
    with pytest.warns(UserWarning, match="some are missing"):
        # The saddle 0 is found at once; from +-2 one step does not suffice.
        rd.find_fixed_points(
            Tanh(np.array([[2.0]])), np.array([[0.0], [2.0], [-2.0]]), max_steps=1, max_rounds=1, num_paths=0
        )
    found = rd.find_fixed_points(Tanh(np.array([[2.0]])), np.concatenate([starts, -starts]), progress=False)
    assert found.trap is None
    assert np.all(found.region[0] < -1)
    assert np.all(found.region[1] > 1)
    assert found.may_be_complete


def test_a_network_that_does_not_say_where_it_lives_is_searched_to_the_end():
    # tanh(W x), N = 20: all candidates are on one orbit that ends on a stable point. SciPy finds others from starts
    # elsewhere; the sum of all indices is 1.
    weight = 1.8 / np.sqrt(20) * np.random.default_rng(0).standard_normal((20, 20))
    orbit = [0.1 * np.ones(20)]
    for _ in range(60):
        orbit.append(np.tanh(weight @ orbit[-1]))
    found = rd.find_fixed_points(Tanh(weight), np.array(orbit[::4]), progress=False)
    assert found.index_sum == found.expected_index_sum == 1
    rng = np.random.default_rng(1)
    for start in rng.uniform(-1, 1, (60, 20)):
        root = scipy.optimize.root(lambda x: np.tanh(weight @ x) - x, start, tol=1e-13)
        if root.success:
            assert np.min(np.max(np.abs(found.points - root.x), axis=1)) < 1e-9


def test_an_odd_map_has_its_fixed_points_in_pairs():
    with pytest.warns(UserWarning, match="sum to 2, not 1"):
        found = rd.find_fixed_points(
            Tanh(np.array([[2.0]])), np.array([[2.0]]), max_rounds=1, num_paths=0, progress=False
        )
    root = scipy.optimize.brentq(lambda s: np.tanh(2 * s) - s, 0.5, 1)
    np.testing.assert_allclose(np.sort(found.points, axis=0), [[-root], [root]], atol=1e-14)


def test_a_box_that_is_kept_beside_states_worth_a_search_is_no_region():
    # x^2 / 2 takes (-.9, .9) into itself; its other fixed point, 2, lies outside and is found from there.
    found = rd.find_fixed_points(lambda x: x**2 / 2, np.linspace(-0.9, 0.9, 12)[:, None], progress=False)
    assert found.region is None
    assert found.is_trap_proved
    both = rd.find_fixed_points(lambda x: x**2 / 2, np.array([[-0.9], [0.5], [2.5]]), progress=False)
    np.testing.assert_allclose(np.sort(both.points[:, 0]), [0, 2], atol=1e-14)


def test_a_map_that_jumps_keeps_no_box():
    # The wrapped cat map keeps [0, 1)^2 and jumps in it; so does a sign: Brouwer says nothing of either.
    starts = np.random.default_rng(0).uniform(0, 1, (64, 2))
    for f in (Wrapped(CAT), lambda x: 0.5 - 0.25 * jnp.sign(x - 0.5)):
        found = rd.find_fixed_points(f, starts, progress=False)
        assert found.region is None
        assert found.trap is None
        assert found.may_be_complete is None


class Corner(eqx.Module):
    """Every unit becomes g(mean of x), g(s) = s + k (s + 1/2) (s - .95): fixed points at s = -1/2 and s = .95."""

    steepness: np.ndarray

    def __call__(self, x):
        s = jnp.mean(x)
        return (s + self.steepness * (s + 0.5) * (s - 0.95)) * jnp.ones_like(x)


def test_a_box_that_is_left_only_in_one_corner_is_no_trap():
    # The box is |x_i| < 1.05, and leads out of it where the mean is above .95: next to one of 2^20 corners. Its two
    # fixed points, one stable and one not, are all there are, and their indices sum to 0.
    f = Corner(np.array(0.5))
    starts = np.random.default_rng(0).uniform(-1, 1, (40, 20))
    starts[0], starts[1] = 0.94, -1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = rd.find_fixed_points(f, starts, progress=False)
    np.testing.assert_allclose(np.sort(found.points[:, 0]), [-0.5, 0.95], atol=1e-12)
    assert found.trap is None
    assert found.may_be_complete is None
    # In the sample alone the box is kept.
    inside = np.random.default_rng(1).uniform(-1.05, 1.05, (4096, 20)).mean(axis=1)
    assert np.all(np.abs(inside + 0.5 * (inside + 0.5) * (inside - 0.95)) < 1.05)


def test_a_coordinate_that_never_changes_gives_the_trap_a_width_all_the_same():
    # The first is 1e9 for ever, where numbers are 1e-7 apart; the second moves within 1e-6, but not from everywhere.
    f = lambda x: jnp.stack([x[0] * 0 + 1e9, 0.5 * x[1] + x[1] ** 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = rd.find_fixed_points(f, np.array([[1e9, 1e-6], [1e9, -1e-6], [1e9, 3e-7]]), progress=False)
    np.testing.assert_allclose(found.points, [[1e9, 0], [1e9, 0.5]], atol=1e-15)
    assert found.trap is not None
    assert np.all(found.trap[0] < found.trap[1])


def test_what_is_known_of_a_trap_is_said():
    # x^2 / 2 next to 0: proved. 3 x / (1 + x^2) has x twice: its interval is wider than its range, |F| < 3/2.
    starts = np.linspace(-2, 2, 8)[:, None]
    proved = rd.find_fixed_points(lambda x: x**2 / 2, 0.4 * starts, progress=False)
    assert proved.is_trap_proved
    assert "in a box that the map keeps" in str(proved)
    seen = rd.find_fixed_points(lambda x: 3 * x / (1 + x**2), starts, progress=False)
    np.testing.assert_allclose(np.sort(seen.points[:, 0]), [-np.sqrt(2), 0, np.sqrt(2)], atol=1e-12)
    assert not seen.is_trap_proved
    assert "is seen to keep" in str(seen)
    assert seen.may_be_complete
    with pytest.warns(UserWarning, match="unless the map leaves the box"):
        missing = rd.find_fixed_points(
            lambda x: 3 * x / (1 + x**2), np.array([[0.0], [2.0], [-2.0]]), max_steps=1, max_rounds=1
        )
    assert missing.completeness == rd.CompletenessVerdict.unbalanced
    # The sum differs, and the box is only seen: that points are missing is not known.
    assert missing.may_be_complete is None
    assert missing.is_balanced is False


@pytest.mark.parametrize("period", [np.array(2), jnp.asarray(2), np.int64(2), 2, [2]])
def test_any_whole_number_is_a_period(period):
    found = rd.find_cycles(Logistic(np.array(3.2)), np.linspace(0.1, 0.9, 8)[:, None], period, progress=False)
    # Multiplier of the 2-cycle: 4 + 2 r - r^2.
    np.testing.assert_allclose(found[2].multipliers, [[4 + 6.4 - 3.2**2]], rtol=1e-12)


# --- kinks


class Relu(eqx.Module):
    """x' = (1 - a) x + a max(W x + b, 0)."""

    weights: np.ndarray
    bias: np.ndarray
    rate: np.ndarray

    def __call__(self, x):
        return (1 - self.rate) * x + self.rate * jnp.maximum(self.weights @ x + self.bias, 0)


def rank_one(seed, slow=0.995, size=64, rate=0.1):
    """A rank-one ReLU network with a slow mode at one of its fixed points, and all of them, by plain NumPy.

    W = u v^T: with k = v . x the fixed points are x = max(u k + b, 0) for the roots of the piecewise linear
    h(k) = v . max(u k + b, 0) - k. Two linear conditions on v make k = 1 a root, with the multiplier `slow`.
    """
    u, v, b = np.random.default_rng(seed).standard_normal((3, size))
    conditions = np.stack([u * (u + b > 0), np.maximum(u + b, 0)])
    missing = np.array([1 - (1 - slow) / rate, 1.0]) - conditions @ v
    v += conditions.T @ np.linalg.solve(conditions @ conditions.T, missing)
    knots = np.sort(-b / u)
    knots = np.concatenate([[knots[0] - 1e4], knots, [knots[-1] + 1e4]])
    h = np.maximum(np.outer(knots, u) + b, 0) @ v - knots
    crossing = np.flatnonzero(h[1:] * h[:-1] < 0)
    roots = knots[crossing] - h[crossing] * np.diff(knots)[crossing] / np.diff(h)[crossing]
    return Relu(np.outer(u, v), b, np.array(rate)), np.maximum(np.outer(roots, u) + b, 0)


@pytest.mark.parametrize("seed", [1, 7])
def test_a_relu_search_gets_past_kinks(seed):
    f, points = rank_one(seed)
    starts = np.random.default_rng(5).uniform(-5, 5, (160, 64))
    found = rd.find_fixed_points(f, starts, max_rounds=1, progress=False)
    assert len(found) == len(points)
    np.testing.assert_allclose(in_order(found.points), in_order(points), rtol=1e-7, atol=1e-9)
    assert len(found.unconverged) == 0


@pytest.mark.parametrize("seed", [1, 7])
def test_a_relu_search_goes_where_its_own_orbits_go(seed):
    # States on their way to a fixed point along the slow mode: half of a monotone search from here stalls.
    f, points = rank_one(seed)
    x = np.random.default_rng(5).uniform(-1, 1, (64, 64))
    for _ in range(40):
        x = 0.9 * x + 0.1 * np.maximum(x @ f.weights.T + f.bias, 0)
    found = rd.find_fixed_points(f, x, max_rounds=1, progress=False)
    assert len(found.unconverged) == 0
    distance = np.max(np.abs(found.points[:, None] - points), axis=2)
    assert np.all(distance.min(axis=1) < 1e-7)
    with np.errstate(over="ignore", invalid="ignore"):  # some orbits are unbounded
        for _ in range(4000):
            x = 0.9 * x + 0.1 * np.maximum(x @ f.weights.T + f.bias, 0)
    bounded = x[np.max(np.abs(x), axis=1) < 1e3]
    ends = np.unique(np.argmin(np.max(np.abs(bounded[:, None] - points), axis=2), axis=1))
    assert set(ends) <= set(np.argmin(distance, axis=1))


def test_every_fixed_point_of_a_rank_one_relu_network_with_a_slow_mode():
    """x' = relu(u (v x) + b): its fixed points are the zeros of g(s) = v relu(u s + b) - s, piecewise linear in one
    number; at s = 1 the slope of the map is .995. No point may be lost on kinks, and what stalls is a slow point: a
    minimum of |g| without a zero next to it."""
    rng = np.random.default_rng(0)
    for _ in range(2):
        u, b, v = rng.standard_normal(64), 0.3 * rng.standard_normal(64), rng.standard_normal(64) / 64
        at_one = np.maximum(u + b, 0)
        wanted = np.stack([u * (at_one > 0), at_one])
        v = v + np.linalg.lstsq(wanted, np.array([0.995, 1.0]) - wanted @ v, rcond=None)[0]
        # g is linear between the kinks s = -b / u: zeros by the signs at them, and far outside.
        kinks = np.concatenate([[-1e6], np.sort(-b / u), [1e6]])
        g = np.maximum(np.outer(kinks, u) + b, 0) @ v - kinks
        left = np.flatnonzero(g[1:] * g[:-1] < 0)
        zeros = kinks[left] - g[left] * (kinks[left + 1] - kinks[left]) / (g[left + 1] - g[left])
        expected = np.maximum(np.outer(zeros, u) + b, 0)

        states = np.maximum(np.outer(rng.uniform(-3, 4, 640), u) + b, 0) + 0.1 * rng.standard_normal((640, 64))
        weight = np.outer(u, v)
        found = rd.find_fixed_points(lambda x, w=weight, b=b: jnp.maximum(w @ x + b, 0), states, progress=False)
        assert len(found) == len(expected) > 2
        # 4096 places in a box around the states stay inside; the corner of the signs of v goes out.
        low, high = states.min(axis=0), states.max(axis=0)
        corner = np.where(v > 0, high, low)
        assert np.any(np.maximum(weight @ corner + b, 0) > high + 0.1 * (high - low))
        assert found.trap is None
        inner = np.arange(1, len(kinks) - 1)
        lowest = np.abs(g[inner]) < np.minimum(np.abs(g[inner - 1]), np.abs(g[inner + 1]))
        slow = kinks[inner[lowest & (g[inner - 1] * g[inner] > 0) & (g[inner + 1] * g[inner] > 0)]]
        for end in found.unconverged.points:
            assert np.min(np.abs(slow - v @ end), initial=np.inf) < 1e-2
        for x in expected:
            # The slow modes multiply rounding by 1 / (1 - .9986).
            assert np.abs(found.points - x).max(axis=1).min() < 1e-10
